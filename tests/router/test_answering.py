"""Requests through a whole router: what clients get, and that every account agrees to the nano."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from tests.router.conftest import Engine, LabFactory, RouterLab, reason_of
from tests.support.scripted_inference import Script, ScriptedInference

from farthing.api.common.v1 import common_pb2
from farthing.api.router.v1 import router_pb2
from farthing.kit.errors import Internal, InvalidArgument, ResourceExhausted, Unavailable
from farthing.kit.telemetry import names
from farthing.kit.testing import eventually


def edge(script: Script | None = None, **qualities: float) -> Engine:
    servicer = ScriptedInference("edge-small", script or Script(), qualities or None)
    return Engine(servicer, "edge", "edge-site")


def cloud(script: Script | None = None, **qualities: float) -> Engine:
    servicer = ScriptedInference("cloud-large", script or Script(), qualities or None)
    return Engine(servicer, "cloud", "cloud-a")


async def check_books(lab: RouterLab, told: int) -> None:
    """Spans, ledger, quota and what clients were told agree, and nothing is held."""
    spent, held = await lab.spent()
    spans = lab.recorder.drain(10_000)
    on_spans = sum(int(str(span.attributes.get(names.COST_NANO_USD, 0))) for span in spans)
    assert (await lab.charged(), spent, on_spans, held) == (told, told, told, 0)


async def test_a_request_is_answered_by_the_cheapest_model_and_every_account_agrees(
    labs: LabFactory,
) -> None:
    lab = await labs.build(edge(), cloud())
    answer = await lab.complete()
    assert answer.text == "four and twenty"
    assert answer.decision.chosen.model == "edge-small"
    assert [loser.model for loser in answer.decision.rejected] == ["cloud-large"]
    assert answer.decision.rejected[0].reject_reason == router_pb2.REJECT_REASON_COST
    assert answer.result.total_nano_usd > 0
    assert answer.result.total_nano_usd == sum(
        line.amount_nano_usd for line in answer.result.cost_lines
    )
    await check_books(lab, answer.result.total_nano_usd)


async def test_a_stream_says_and_costs_the_same_as_one_message(labs: LabFactory) -> None:
    lab = await labs.build(edge())
    whole = await lab.complete(cache_mode=router_pb2.CACHE_MODE_OFF)
    events = await lab.stream(cache_mode=router_pb2.CACHE_MODE_OFF)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["decision", "delta", "delta", "delta", "result"]
    assert "".join(event.delta.text for event in events[1:-1]) == whole.text
    assert events[-1].result.total_nano_usd == whole.result.total_nano_usd
    await check_books(lab, 2 * whole.result.total_nano_usd)


async def test_a_harder_task_goes_to_the_better_model(labs: LabFactory) -> None:
    lab = await labs.build(edge(math=0.3, support=0.95), cloud(math=0.9, support=0.95))
    assert (await lab.complete(task="math")).decision.chosen.model == "cloud-large"
    assert (await lab.complete(task="support")).decision.chosen.model == "edge-small"


async def test_a_repeat_is_answered_from_the_cache_at_the_price_of_a_lookup(
    labs: LabFactory,
) -> None:
    lab = await labs.build(edge())
    first, second = await lab.complete(), await lab.complete()
    assert second.text == first.text
    assert second.result.cache_outcome == router_pb2.CACHE_OUTCOME_HIT_LOCAL
    assert second.decision.chosen.tier == common_pb2.TIER_CACHE
    assert second.result.total_nano_usd == 50
    await check_books(lab, first.result.total_nano_usd + 50)


async def test_a_repeated_request_id_gets_the_first_answer_and_is_not_charged(
    labs: LabFactory,
) -> None:
    lab = await labs.build(edge())
    mode = router_pb2.CACHE_MODE_OFF
    first = await lab.complete(request_id="once", cache_mode=mode)
    again = await lab.complete(request_id="once", cache_mode=mode)
    assert again == first
    await check_books(lab, first.result.total_nano_usd)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await lab.complete("another question", request_id="once", cache_mode=mode)
    assert reason_of(refused.value) == "REQUEST_ID_REUSED"


async def test_an_id_for_single_use_keeps_no_answer_and_is_the_requests_all_the_same(
    labs: LabFactory,
) -> None:
    lab = await labs.build(edge())
    mode = router_pb2.CACHE_MODE_OFF
    answers = [
        await lab.complete(text, request_id="mine", single_use=True, cache_mode=mode)
        for text in ("one question", "another question")
    ]
    assert [answer.result.request_id for answer in answers] == ["mine", "mine"]
    await check_books(lab, sum(answer.result.total_nano_usd for answer in answers))


async def test_an_instance_that_fails_before_the_first_token_is_replaced_unseen(
    labs: LabFactory,
) -> None:
    broken = edge(Script(error=Unavailable("gone", reason="GONE")))
    lab = await labs.build(broken, cloud())
    answer = await lab.complete()
    assert answer.text == "four and twenty"
    assert answer.decision.chosen.model == "cloud-large"
    reasons = {loser.model: loser.reject_reason for loser in answer.decision.rejected}
    assert reasons == {"edge-small": router_pb2.REJECT_REASON_FAILED}
    assert answer.result.attempt_count == 2
    await check_books(lab, answer.result.total_nano_usd)


async def test_a_prompt_too_long_for_one_engine_goes_to_another(labs: LabFactory) -> None:
    refusal = InvalidArgument("too long", field="input", reason="CONTEXT_EXCEEDED")
    lab = await labs.build(edge(Script(error=refusal)), cloud())
    answer = await lab.complete()
    assert answer.decision.chosen.model == "cloud-large"
    assert answer.result.attempt_count == 2


async def test_a_full_instance_sends_its_requests_elsewhere(labs: LabFactory) -> None:
    full = edge(Script(error=ResourceExhausted("full", reason="QUEUE_FULL", retry_after_ms=50)))
    lab = await labs.build(full, cloud())
    assert (await lab.complete()).decision.chosen.model == "cloud-large"
    assert all(view.state.value == "ready" for view in lab.pool.view())


async def test_an_answer_that_breaks_off_is_charged_and_says_so(
    labs: LabFactory, caplog: pytest.LogCaptureFixture
) -> None:
    broken = edge(Script(error=Internal("crash", reason="CRASH"), fail_after=2))
    lab = await labs.build(broken, cloud())
    events = await lab.stream()
    result = events[-1].result
    assert result.finish_reason == common_pb2.FINISH_REASON_ERROR
    assert result.total_nano_usd > 0
    (line,) = [one for one in caplog.records if "broke off" in one.message]
    assert vars(line)["reason"] == "CRASH" and vars(line)["trace_id"] == result.trace_id
    await check_books(lab, result.total_nano_usd)


async def test_a_client_that_goes_away_stops_the_engine_and_pays_what_was_used(
    labs: LabFactory,
) -> None:
    script = Script(gate=asyncio.Event())
    lab = await labs.build(edge(script))
    call = lab.stub.Generate(
        router_pb2.GenerateRequest(input={"prompt": "tell", "max_tokens": 8}),
        metadata=lab.metadata,
    )
    async for event in call:
        if event.HasField("delta"):
            break
    call.cancel()
    await asyncio.wait_for(script.cancelled.wait(), 5)

    async def settled() -> bool:
        spent, held = await lab.spent()
        return held == 0 and spent > 0 and spent == await lab.charged()

    await eventually(settled, what="the hold settled at the charge")
    (charge,) = await lab.charges()
    assert charge.waste.name == "CANCELLED"


async def test_an_unknown_key_is_refused(labs: LabFactory) -> None:
    lab = await labs.build(edge())
    lab.metadata = (("authorization", "Bearer fk-nobody"),)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await lab.complete()
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    lab.metadata = ()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await lab.complete()
    assert reason_of(refused.value) == "KEY_MISSING"


async def test_parallel_requests_never_pass_the_budget(labs: LabFactory) -> None:
    script = Script()
    lab = await labs.build(edge(script), budget_nano_usd=200_000)

    async def one(number: int) -> int:
        try:
            answer = await lab.complete(f"question {number}")
        except grpc.aio.AioRpcError as error:
            assert reason_of(error) == "BUDGET_EXHAUSTED"
            return 0
        return answer.result.total_nano_usd

    told = sum(await asyncio.gather(*(one(number) for number in range(300))))
    spent, held = await lab.spent()
    assert held == 0
    assert spent == told == await lab.charged()
    assert 0 < spent <= 200_000


async def test_an_answer_is_cut_at_the_callers_price_ceiling(labs: LabFactory) -> None:
    script = Script(tokens=("word ",) * 400, us_per_token=1_000)
    lab = await labs.build(edge(script))
    answer = await lab.complete(max_tokens=400, max_cost_nano_usd=3_000)
    assert answer.result.finish_reason == common_pb2.FINISH_REASON_BUDGET
    assert 0 < answer.result.total_nano_usd <= 3_000
    await check_books(lab, answer.result.total_nano_usd)


async def test_nothing_that_qualifies_is_an_error_that_says_why(labs: LabFactory) -> None:
    lab = await labs.build(cloud())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await lab.complete(privacy_class=common_pb2.PRIVACY_CLASS_EDGE_ONLY, cache_mode=1)
    assert reason_of(refused.value) == "NO_CANDIDATE"
    assert "edge_only" in (refused.value.details() or "")


async def test_bad_input_names_the_field_and_holds_nothing(labs: LabFactory) -> None:
    lab = await labs.build(edge())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await lab.complete(stop=[""])
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "input.stop[0]" in (refused.value.details() or "")
    assert await lab.spent() == (0, 0)


async def test_explain_decides_as_generate_does_and_costs_nothing(labs: LabFactory) -> None:
    lab = await labs.build(edge(), cloud())
    from tests.router.conftest import ask

    explained = await lab.stub.Explain(
        router_pb2.ExplainRequest(request=ask()), metadata=lab.metadata
    )
    answer = await lab.complete()
    assert explained.decision.chosen.instance_id == answer.decision.chosen.instance_id
    assert explained.decision.reason == answer.decision.reason
    await check_books(lab, answer.result.total_nano_usd)


async def test_models_and_instances_are_listed(labs: LabFactory) -> None:
    lab = await labs.build(edge(), cloud())
    models = await lab.stub.ListModels(router_pb2.ListModelsRequest(), metadata=lab.metadata)
    assert [entry.info.name for entry in models.models] == ["cloud-large", "edge-small"]
    listed = await lab.stub.ListInstances(
        router_pb2.ListInstancesRequest(), metadata=lab.metadata
    )
    assert [entry.instance_id for entry in listed.instances] == ["cloud-1", "edge-0"]
    assert {entry.state for entry in listed.instances} == {router_pb2.INSTANCE_STATE_READY}


async def test_an_unknown_policy_is_refused_before_money_is_held(labs: LabFactory) -> None:
    lab = await labs.build(edge())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await lab.complete(policy="chepest")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "cheapest" in (refused.value.details() or "")
    assert await lab.spent() == (0, 0)


async def test_instances_that_are_all_away_are_worth_another_try(labs: LabFactory) -> None:
    broken = edge(Script(error=Unavailable("gone", reason="GONE")))
    lab = await labs.build(broken)
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError):
            await lab.complete(cache_mode=router_pb2.CACHE_MODE_OFF)
    assert lab.pool.view()[0].state.value == "ejected"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await lab.complete(cache_mode=router_pb2.CACHE_MODE_OFF)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(refused.value) == "NO_INSTANCE_READY"
    assert await lab.spent() == (0, 0)


async def test_an_engine_that_overruns_its_limit_costs_the_operator_and_not_the_tenant(
    labs: LabFactory,
) -> None:
    lab = await labs.build(edge(Script(overrun_us=3_600_000_000)))
    answer = await lab.complete(max_cost_nano_usd=3_000)
    assert answer.result.total_nano_usd == 3_000
    (span,) = [
        s for s in lab.recorder.drain(100) if names.COST_UNBILLED_NANO_USD in s.attributes
    ]
    assert int(str(span.attributes[names.COST_UNBILLED_NANO_USD])) > 1_000_000
    assert await lab.spent() == (3_000, 0)
    assert await lab.charged() == 3_000


async def test_what_could_not_be_recorded_is_refused_before_it_begins(labs: LabFactory) -> None:
    script = Script()
    lab = await labs.build(edge(script), outbox_entries=2)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await lab.complete()
    assert reason_of(refused.value) == "OUTBOX_FULL"
    assert script.requests == []
    assert await lab.spent() == (0, 0)
