"""Routing wishes that OpenAI's API has no words for: from `x-farthing-…` headers or the body's `farthing` object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from farthing.gateway.core import fields
from farthing.kit.errors import InvalidArgument
from farthing.kit.money import parse_usd

HEADER_PREFIX = "x-farthing-"
_DAY_MS = 86_400_000
_TAG_LIMIT = 64
_USD_LIMIT = 10**9  # int64 nano-USD holds nine times that
_AMOUNT = re.compile(r"\$?[0-9]{1,9}(\.[0-9]{1,9})?")

PRIVACY = {"any": "any", "region": "region", "edge_only": "edge_only"}
CACHE = {"off": "off", "read": "read", "read_write": "read_write"}
PRIORITY = {"interactive": "interactive", "standard": "standard", "batch": "batch"}

# Wish → what it means; the names of the headers are these with dashes.
WISHES: Mapping[str, str] = {
    "task": "Task tag for quality, e.g. `math`; up to 64 characters.",
    "policy": "`cheapest`, `balanced`, `fastest`, `greenest`, `best` or one of the operator's.",
    "max_cost_usd": "Most that the request may cost, e.g. `0.0005`; a text or a number.",
    "min_quality": "Least share of acceptable answers for the task, 0 to 1.",
    "residency": "Regions where the prompt may be processed; a list, or separated by commas.",
    "privacy": "`edge_only`, `region` or `any`: how far the prompt may travel.",
    "max_latency_ms": "Longest time to the whole answer, by estimate.",
    "max_first_token_ms": "Longest time to the first token, by estimate.",
    "cache": "`off`, `read` or `read_write`; without it, deterministic requests use the cache.",
    "priority": "`interactive`, `standard` or `batch`.",
    "conversation": "Groups requests and prefers instances that hold their prefix.",
}
_HEADERS = {HEADER_PREFIX + wish.replace("_", "-"): wish for wish in WISHES}
_NUMBERS = frozenset({"min_quality", "max_latency_ms", "max_first_token_ms"})


@dataclass(frozen=True, slots=True)
class Wishes:
    """Limits and wishes, checked. Zero or empty is no limit; money in nano-USD, times in milliseconds."""

    task: str = ""
    policy: str = ""
    max_cost_nano_usd: int = 0
    min_quality_ratio: float = 0.0
    residency: tuple[str, ...] = ()
    privacy: str = ""
    max_total_ms: int = 0
    max_first_token_ms: int = 0
    cache: str = ""
    priority: str = ""
    conversation: str = ""


def read_wishes(headers: Mapping[str, str], body: Mapping[str, Any]) -> Wishes:
    """Join both sources; the body's `farthing` object wins. InvalidArgument on an unknown or a bad wish."""
    extension = fields.take_object(body, "farthing")
    for name in extension:
        if name not in WISHES:
            raise InvalidArgument(
                f"farthing.{name} is unknown; use {', '.join(WISHES)}", field=f"farthing.{name}"
            )
    given = _read_headers(headers)
    given.update({wish: (f"farthing.{wish}", value) for wish, value in extension.items()})
    return _build(given) if given else Wishes()


def _read_headers(headers: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    given: dict[str, tuple[str, Any]] = {}
    for header, text in headers.items():
        lowered = header.lower()
        if not lowered.startswith(HEADER_PREFIX):
            continue
        wish = _HEADERS.get(lowered)
        if wish is None:
            raise InvalidArgument(
                f"header {lowered} is unknown; use {', '.join(_HEADERS)}", field=lowered
            )
        given[wish] = (lowered, _parse_header(lowered, wish, text))
    return given


def _parse_header(header: str, wish: str, text: str) -> Any:
    if wish in _NUMBERS:
        try:
            return float(text) if wish == "min_quality" else int(text)
        except ValueError:
            raise fields.wrong(header, text, "a number") from None
    if wish == "residency":
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _build(given: Mapping[str, tuple[str, Any]]) -> Wishes:
    """`given` has the value of each wish and the name under which it came, for errors."""
    shown = dict(given.values())

    def path(wish: str) -> str:
        return given[wish][0] if wish in given else wish

    return Wishes(
        task=_tag(shown, path("task")),
        policy=_tag(shown, path("policy")),
        max_cost_nano_usd=_money(shown, path("max_cost_usd")),
        min_quality_ratio=fields.take_number(shown, path("min_quality"), 0.0, 1.0) or 0.0,
        residency=fields.take_texts(shown, path("residency")),
        privacy=fields.take_choice(shown, path("privacy"), PRIVACY, ""),
        max_total_ms=fields.take_count(shown, path("max_latency_ms"), 1, _DAY_MS) or 0,
        max_first_token_ms=fields.take_count(shown, path("max_first_token_ms"), 1, _DAY_MS)
        or 0,
        cache=fields.take_choice(shown, path("cache"), CACHE, ""),
        priority=fields.take_choice(shown, path("priority"), PRIORITY, ""),
        conversation=_tag(shown, path("conversation")),
    )


def _tag(shown: Mapping[str, Any], name: str) -> str:
    text = fields.take_text(shown, name)
    if len(text) > _TAG_LIMIT or not text.isprintable():
        raise fields.wrong(name, text, f"at most {_TAG_LIMIT} printable characters")
    return text


def _money(shown: Mapping[str, Any], name: str) -> int:
    value = shown.get(name)
    if value is None:
        return 0
    expected = "an amount in USD above 0, e.g. 0.0005, with at most 9 decimals"
    if isinstance(value, int | float) and not isinstance(value, bool):
        # repr gives a number's shortest exact form, so 0.1 is ten cents and not the float nearest to it.
        text = f"{Decimal(repr(value)):f}" if 0 < value < _USD_LIMIT else ""
    else:
        text = value if isinstance(value, str) else ""
    if not _AMOUNT.fullmatch(text):
        raise fields.wrong(name, value, expected)
    amount = parse_usd(text)
    if amount == 0:
        raise fields.wrong(name, value, expected)
    return amount
