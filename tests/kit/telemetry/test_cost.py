"""The one mapper from a priced usage to span attributes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.kit.errors import InvalidArgument
from farthing.kit.telemetry import names
from farthing.kit.telemetry.cost import PricedUsage, describe_cost


def usage(
    lines: tuple[tuple[str, int], ...] = (("compute", 1200), ("egress", 34)),
) -> PricedUsage:
    return PricedUsage(
        input_token_count=12,
        output_token_count=7,
        cached_input_token_count=4,
        reasoning_token_count=0,
        total_nano_usd=sum(amount for _, amount in lines),
        lines=lines,
        price_version="2026-11",
        charge_id="charge_1",
    )


def test_the_exact_amount_and_the_double_agree() -> None:
    attributes = describe_cost(usage()).values
    assert attributes[names.COST_NANO_USD] == 1234
    assert attributes[names.GEN_AI_USAGE_COST_AMOUNT] == pytest.approx(1.234e-6)
    assert attributes[names.GEN_AI_USAGE_COST_CURRENCY] == "USD"
    assert attributes[names.GEN_AI_USAGE_COST_SOURCE] == "local"
    assert attributes[names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS] == 4
    assert names.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS not in attributes


@given(
    st.lists(
        st.tuples(st.sampled_from(["compute", "energy", "egress"]), st.integers(0, 10**15))
    )
)
def test_line_attributes_add_up_to_the_total(lines: list[tuple[str, int]]) -> None:
    attributes = describe_cost(usage(tuple(lines))).values
    amounts = [
        value
        for key, value in attributes.items()
        if key.startswith(names.COST_LINE_PREFIX) and isinstance(value, int)
    ]
    assert sum(amounts) == attributes[names.COST_NANO_USD]


def test_other_readers_find_the_cost_under_their_names() -> None:
    attributes = describe_cost(usage(), ("langfuse", "openinference", "mlflow")).values
    assert json.loads(str(attributes[names.LANGFUSE_COST_DETAILS])) == {"total": 1.234e-06}
    assert json.loads(str(attributes[names.MLFLOW_LLM_COST])) == {"total_cost": 1.234e-06}
    assert attributes[names.LLM_TOKEN_COUNT_PROMPT] == 12


def test_an_unknown_dialect_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="klingon"):
        describe_cost(usage(), ("klingon",))
