"""Integer nano-USD: the only money farthing knows. 1 USD = 1_000_000_000 nano-USD; every price rounds once, up."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import NewType

NanoUsd = NewType("NanoUsd", int)

NANO_PER_USD = 1_000_000_000
_US_PER_HOUR = 3_600_000_000
_BYTES_PER_GB = 1_000_000_000  # providers bill decimal gigabytes
_UJ_PER_KWH = 3_600_000_000_000
_PER_MILLION = 1_000_000
_MOST_DIGITS = 40  # before the point, of an amount that somebody types


def ceil_div(numerator: int, denominator: int) -> int:
    """Divide and round up; `denominator` > 0."""
    return -(-numerator // denominator)


def price_per_million(count: int, nano_usd_per_million: int) -> NanoUsd:
    """Price `count` units (tokens) at a price per million of them."""
    return NanoUsd(ceil_div(count * nano_usd_per_million, _PER_MILLION))


def price_per_hour(
    duration_us: int, nano_usd_per_hour: int, *, utilisation_percent: int = 100
) -> NanoUsd:
    """Price a time in microseconds at a price per hour, of which only `utilisation_percent` (1..100) is sold."""
    priced = duration_us * nano_usd_per_hour * 100
    return NanoUsd(ceil_div(priced, _US_PER_HOUR * utilisation_percent))


def price_per_gb(size_bytes: int, nano_usd_per_gb: int) -> NanoUsd:
    """Price bytes at a price per decimal gigabyte (10^9 bytes)."""
    return NanoUsd(ceil_div(size_bytes * nano_usd_per_gb, _BYTES_PER_GB))


def price_per_kwh(energy_uj: int, nano_usd_per_kwh: int) -> NanoUsd:
    """Price microjoules at a price per kilowatt-hour (3.6e12 µJ)."""
    return NanoUsd(ceil_div(energy_uj * nano_usd_per_kwh, _UJ_PER_KWH))


def parse_usd(text: str) -> NanoUsd:
    """Read "1.50" or "$1.50" exactly. ValueError if it is not a number or finer than a nano-USD."""
    try:
        amount = Decimal(text.strip().removeprefix("$").replace("_", ""))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount.adjusted() > _MOST_DIGITS:
        raise ValueError(f"{text!r} is not an amount in USD; write e.g. 1.50")
    if not amount:
        return NanoUsd(0)
    # As whole numbers, and only where they are small: Decimal's own arithmetic rounds to 28 digits without a word.
    if amount.adjusted() >= -9:
        numerator, denominator = amount.as_integer_ratio()
        if numerator * NANO_PER_USD % denominator == 0:
            return NanoUsd(numerator * NANO_PER_USD // denominator)
    raise ValueError(f"{text!r} is finer than a nano-USD; use at most 9 decimals")


def format_usd(nano_usd: int) -> str:
    """Write an amount for people: 4 significant digits below a dollar, cents above, never "$0.00" for non-zero."""
    sign, amount = ("-", -nano_usd) if nano_usd < 0 else ("", nano_usd)
    if amount == 0:
        return "$0.00"
    if amount >= NANO_PER_USD:
        cents = (amount + 5_000_000) // 10_000_000
        return f"{sign}${cents // 100:,}.{cents % 100:02d}"
    decimals = max(4, 9 - len(str(amount)) + 4)
    if decimals < 9:
        step = 10 ** (9 - decimals)
        amount = (amount + step // 2) // step * step
    return (
        f"{sign}${amount // NANO_PER_USD}.{f'{amount % NANO_PER_USD:09d}'[: min(decimals, 9)]}"
    )
