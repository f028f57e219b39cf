"""Maps a priced usage record to span attributes, in our dialect and in those of other readers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from farthing.kit.errors import InvalidArgument
from farthing.kit.telemetry import names
from farthing.kit.telemetry.attributes import AttributeValue, Description, SharedAttributes

_NANO_PER_USD = 1e9
_MOST_KEPT = 64


@dataclass(slots=True)
class PricedUsage:
    """What one attempt used and cost. Money in nano-USD; `lines` are (cost kind in lower case, amount)."""

    input_token_count: int
    output_token_count: int
    cached_input_token_count: int
    reasoning_token_count: int
    total_nano_usd: int
    lines: tuple[tuple[str, int], ...]
    price_version: str
    charge_id: str
    estimated: bool = False
    energy_uj: int = 0
    compute_us: int = 0
    queue_us: int = 0


def describe_cost(usage: PricedUsage, dialects: Iterable[str] = ()) -> Description:
    """Attributes for the leaf inference span: OpenTelemetry's and ours, then those of `dialects`.

    The double in `gen_ai.usage.cost.amount` is a view; `farthing.cost.nano_usd` is exact. InvalidArgument names an
    unknown dialect.
    """
    own = _describe_open_telemetry(usage)
    for dialect in dialects:
        describe = _DIALECTS.get(dialect)
        if describe is None:
            raise InvalidArgument(
                f"unknown span dialect {dialect!r}; use {', '.join(_DIALECTS)}",
                field="dialects",
                metadata={"dialect": dialect},
            )
        own.update(describe(usage))
    return Description((_share_price(usage.price_version, usage.estimated),), own)


def _describe_open_telemetry(usage: PricedUsage) -> dict[str, AttributeValue]:
    own: dict[str, AttributeValue] = {
        names.GEN_AI_USAGE_INPUT_TOKENS: usage.input_token_count,
        names.GEN_AI_USAGE_OUTPUT_TOKENS: usage.output_token_count,
        names.GEN_AI_USAGE_COST_AMOUNT: usage.total_nano_usd / _NANO_PER_USD,
        names.COST_NANO_USD: usage.total_nano_usd,
        names.COST_CHARGE_ID: usage.charge_id,
    }
    for kind, amount_nano_usd in usage.lines:
        key = _line_key(kind)
        own[key] = amount_nano_usd + own[key] if key in own else amount_nano_usd  # type: ignore[operator]
    if usage.cached_input_token_count:
        own[names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS] = usage.cached_input_token_count
    if usage.reasoning_token_count:
        own[names.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS] = usage.reasoning_token_count
    if usage.energy_uj:
        own[names.ENERGY_UJ] = usage.energy_uj
    if usage.compute_us:
        own[names.COMPUTE_US] = usage.compute_us
    if usage.queue_us:
        own[names.QUEUE_US] = usage.queue_us
    return own


@lru_cache(_MOST_KEPT)
def _line_key(kind: str) -> str:
    return f"{names.COST_LINE_PREFIX}{kind}.nano_usd"


@lru_cache(_MOST_KEPT)
def _share_price(price_version: str, estimated: bool) -> SharedAttributes:
    return SharedAttributes(
        {
            names.GEN_AI_USAGE_COST_CURRENCY: "USD",
            names.GEN_AI_USAGE_COST_SOURCE: "local",
            names.COST_PRICE_VERSION: price_version,
            names.COST_ESTIMATED: estimated,
        }
    )


def _describe_langfuse(usage: PricedUsage) -> dict[str, AttributeValue]:
    total = usage.total_nano_usd / _NANO_PER_USD
    return {names.LANGFUSE_COST_DETAILS: json.dumps({"total": total})}


def _describe_openinference(usage: PricedUsage) -> dict[str, AttributeValue]:
    return {
        names.LLM_COST_TOTAL: usage.total_nano_usd / _NANO_PER_USD,
        names.LLM_TOKEN_COUNT_PROMPT: usage.input_token_count,
        names.LLM_TOKEN_COUNT_COMPLETION: usage.output_token_count,
    }


def _describe_mlflow(usage: PricedUsage) -> dict[str, AttributeValue]:
    total = usage.total_nano_usd / _NANO_PER_USD
    return {names.MLFLOW_LLM_COST: json.dumps({"total_cost": total})}


_DIALECTS: dict[str, Callable[[PricedUsage], dict[str, AttributeValue]]] = {
    "langfuse": _describe_langfuse,
    "openinference": _describe_openinference,
    "mlflow": _describe_mlflow,
}
