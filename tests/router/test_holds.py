"""What a hold pays for is what the engine may do, also where tokens and bytes cost and time does not."""

from __future__ import annotations

from typing import Any

import pytest
from tests.router.conftest import Engine, LabFactory
from tests.support.scripted_inference import Script, ScriptedInference

from farthing.api.common.v1 import common_pb2

BY_TOKEN = {
    "version": "listed",
    "deployments": [
        {
            "tier": "cloud",
            "tokens": {"input_nano_usd_per_million": 0, "output_nano_usd_per_million": 10**9},
        }
    ],
    "links": [{"nano_usd_per_gb": 0}],
}
BY_BYTE = {
    "version": "egress",
    "deployments": [{"tier": "cloud", "compute": {"nano_usd_per_hour": 0}}],
    "links": [{"nano_usd_per_gb": 10**12}],
}


def talker() -> tuple[Engine, Script]:
    script = Script(tokens=("word ",) * 400)
    return Engine(ScriptedInference("large", script), "cloud", "cloud-a"), script


@pytest.mark.parametrize("prices", [BY_TOKEN, BY_BYTE], ids=["tokens", "bytes"])
async def test_an_answer_that_is_not_paid_by_time_is_cut_at_the_ceiling_too(
    labs: LabFactory, prices: dict[str, Any]
) -> None:
    engine, script = talker()
    lab = await labs.build(engine, prices=prices)
    answer = await lab.complete("hi", max_tokens=400, max_cost_nano_usd=300_000)
    assert answer.result.finish_reason == common_pb2.FINISH_REASON_BUDGET
    assert 0 < answer.result.total_nano_usd <= 300_000
    # The engine was told, so that nothing was computed that nobody pays for.
    (request,) = script.requests
    assert 0 < request.input.max_tokens < 400
    assert answer.result.usage.output_token_count == request.input.max_tokens
    (charge,) = await lab.charges()
    assert charge.total_nano_usd == answer.result.total_nano_usd
    spans = [span.attributes for span in lab.recorder.drain(1000)]
    assert not [span for span in spans if "farthing.cost.unbilled_nano_usd" in span]


async def test_the_callers_own_length_stays_a_length(labs: LabFactory) -> None:
    engine, script = talker()
    lab = await labs.build(engine, prices=BY_TOKEN)
    answer = await lab.complete("hi", max_tokens=5)
    assert answer.result.finish_reason == common_pb2.FINISH_REASON_LENGTH
    assert answer.result.total_nano_usd == 5_000
    assert script.requests[0].input.max_tokens == 5
