"""Takes typed values out of decoded JSON; what is wrong is named by its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farthing.kit.errors import InvalidArgument

_INT32_LIMIT = 2**31 - 1


def take_text(body: Mapping[str, Any], name: str, default: str = "") -> str:
    """A text; null and absent give the default."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise wrong(name, value, "a text")
    return value


def take_flag(body: Mapping[str, Any], name: str) -> bool:
    """True or false; null and absent give false."""
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise wrong(name, value, "true or false")
    return value


def take_number(
    body: Mapping[str, Any], name: str, least: float, greatest: float
) -> float | None:
    """A number in a range; None when null or absent."""
    value = body.get(name)
    if value is None:
        return None
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not least <= value <= greatest:  # NaN fails as well
        raise wrong(name, value, f"a number from {least:g} to {greatest:g}")
    return float(value)


def take_count(
    body: Mapping[str, Any], name: str, least: int, greatest: int = _INT32_LIMIT
) -> int | None:
    """A whole number in a range; None when null or absent."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= greatest:
        raise wrong(name, value, f"a whole number from {least} to {greatest}")
    return value


def take_object(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object; null and absent give an empty one."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(name, value, "an object")
    return value


def take_texts(body: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """One text or a list of texts; null and absent give none."""
    value = body.get(name)
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise wrong(name, value, "a text or a list of texts")
    return tuple(value)


def take_choice(
    body: Mapping[str, Any], name: str, choices: Mapping[str, str], default: str
) -> str:
    """The meaning of one of a few words; null and absent give the default."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, str) or value not in choices:
        raise wrong(name, value, "one of " + ", ".join(choices))
    return choices[value]


def wrong(name: str, value: Any, expected: str) -> InvalidArgument:
    """The error for a value that is not what `name` takes. Long values are cut."""
    shown = repr(value)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    return InvalidArgument(
        f"{name} is {shown}; send {expected}", field=name, metadata={"expected": expected}
    )
