"""How numbers and instants look on the pages."""

from __future__ import annotations

from datetime import UTC, datetime

from markupsafe import Markup

from farthing.kit.money import NANO_PER_USD, format_usd

_UNITS = {"us": "µs", "uj": "µJ", "count": ""}


def show_money(nano_usd: int) -> Markup:
    """An amount for people, the exact nano-USD for machines and on hover."""
    template = '<data class="money" value="{0}" title="{1} nano-USD">{2}</data>'
    return Markup(template).format(nano_usd, f"{nano_usd:,}", format_usd(nano_usd))


def show_exact_usd(nano_usd: int) -> str:
    """An amount in USD with all nine decimals, for files."""
    sign = "-" if nano_usd < 0 else ""
    whole, rest = divmod(abs(nano_usd), NANO_PER_USD)
    return f"{sign}{whole}.{rest:09d}"


def show_count(count: int) -> str:
    """1,234,567."""
    return f"{count:,}"


def show_quantity(quantity: int, unit: str) -> str:
    """A cost line's quantity in its unit: 1,500 µs."""
    return f"{quantity:,} {_UNITS.get(unit, unit)}".rstrip()


def show_share(part: int, whole: int) -> str:
    """A percentage; never 0 % for something and never 100 % for less than all."""
    if not part or not whole:
        return "0 %"
    tenths = part * 1000 // whole
    if tenths == 0:
        return "< 0.1 %"
    return f"{tenths // 10}.{tenths % 10} %" if tenths < 1000 else "100 %"


def show_time(time_ns: int) -> Markup:
    """An instant in UTC, to the second, exact for machines."""
    moment = datetime.fromtimestamp(time_ns // 10**9, UTC)
    exact = f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9:09d}Z"
    template = '<time datetime="{0}">{1:%Y-%m-%d %H:%M:%S}</time>'
    return Markup(template).format(exact, moment)


def show_duration(duration_ns: int) -> str:
    """A duration in the unit that suits it."""
    if duration_ns < 1_000_000:
        return f"{duration_ns / 1_000:.0f} µs"
    if duration_ns < 1_000_000_000:
        return f"{duration_ns / 1_000_000:.1f} ms"
    return f"{duration_ns / 1_000_000_000:.2f} s"


def bar_width(part: int, most: int) -> int:
    """Length of a bar in thousandths; something is never invisible."""
    if part <= 0 or most <= 0:
        return 0
    return max(4, min(1000, part * 1000 // most))
