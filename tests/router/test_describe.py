"""What spans say of decisions: JSON whatever the texts, shared where it repeats, right where it does not."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.support.routing_worlds import property_test

from farthing.api.inference.v1 import inference_pb2
from farthing.api.router.v1 import router_pb2
from farthing.clients.instances.view import InstanceView, ModelView
from farthing.clients.quota import Principal
from farthing.kit.telemetry import names
from farthing.ledger.console.trace_view import make_trace_view
from farthing.ledger.core.spans import Span
from farthing.router.core.candidate import Candidate, Rejection
from farthing.router.core.decide import Decision
from farthing.router.describe import describe_attempt, describe_decision, describe_rejected
from farthing.router.validation import CheckedRequest, check_request

TEXTS = st.text(max_size=30)
CANDIDATES = st.builds(
    Candidate,
    st.builds(InstanceView, TEXTS, st.sampled_from(["edge", "cloud"]), TEXTS, TEXTS),
    st.builds(ModelView, TEXTS),
    estimated_nano_usd=st.integers(0, 2**62),
    rejection=st.none() | st.sampled_from(Rejection),
    detail=TEXTS,
)
PRINCIPAL = Principal("key_1", "acme", "lab", "team-1", "balanced", False)
CHOSEN = Candidate(
    InstanceView("edge-1", "edge", "edge-site", "127.0.0.1:1"),
    ModelView("small"),
    estimated_nano_usd=12_000,
)


def checked(*, chat: bool = True, conversation_id: str = "") -> CheckedRequest:
    part = inference_pb2.ContentPart(text="hello")
    message = inference_pb2.Message(role=inference_pb2.ROLE_USER, content=[part])
    given_input = (
        inference_pb2.GenerationInput(messages=[message], max_tokens=7)
        if chat
        else inference_pb2.GenerationInput(prompt="hello", max_tokens=7)
    )
    return check_request(
        router_pb2.GenerateRequest(
            input=given_input,
            request_id="req_1",
            conversation_id=conversation_id,
            constraints=router_pb2.Constraints(task="math"),
        )
    )


def decided(*rejected: Candidate, chosen: Candidate | None = CHOSEN) -> Decision:
    return Decision(chosen, rejected, "balanced", "2026-11", "the cheapest")


@property_test
@given(st.lists(CANDIDATES, max_size=4))
def test_losers_are_written_as_json_writes_them(losers: list[Candidate]) -> None:
    expected = [
        {
            "model": loser.model.name,
            "tier": loser.instance.tier,
            "region": loser.instance.region,
            "estimated_nano_usd": loser.estimated_nano_usd,
            "reason": loser.rejection.value if loser.rejection else "",
            "detail": loser.detail,
        }
        for loser in losers
    ]
    assert describe_rejected(losers) == json.dumps(expected, separators=(",", ":"))


def test_the_console_reads_a_decision_as_the_router_describes_it() -> None:
    loser = replace(CHOSEN, model=ModelView('la"rge'), estimated_nano_usd=99_000)
    loser.reject(Rejection.COST, "objective $2 against $1")
    told = describe_decision(checked(), decided(loser), "dec_1", PRINCIPAL, 50_000).values
    attributes = {key: str(value) for key, value in told.items()}
    span = Span("1" * 32, "2" * 16, "", "call", "server", "router", "edge-site", 1, 2)
    view = make_trace_view(span.trace_id, [replace(span, attributes=attributes)], [])
    (decision,) = view.decisions
    assert (decision.decision_id, decision.policy) == ("dec_1", "balanced")
    assert (decision.reason, decision.model) == ("the cheapest", "small")
    assert decision.estimated_nano_usd == 12_000
    (candidate,) = decision.rejected
    assert (candidate.model, candidate.tier, candidate.region) == (
        'la"rge',
        "edge",
        "edge-site",
    )
    assert candidate.estimated_nano_usd == 99_000
    assert candidate.reason == "cost: objective $2 against $1"


def test_a_decision_says_who_asked_and_what_was_held() -> None:
    told = describe_decision(checked(), decided(), "dec_1", PRINCIPAL, 50_000).values
    assert told[names.ORGANISATION_ID] == "acme"
    assert told[names.COST_CENTRE_ID] == "lab"
    assert told[names.TEAM_ID] == "team-1"
    assert told[names.KEY_ID] == "key_1"
    assert told[names.TASK] == "math"
    assert told[names.REQUEST_ID] == "req_1"
    assert told[names.HOLD_NANO_USD] == 50_000
    assert told[names.DECISION_REJECTED] == "[]"


def test_a_decision_for_nobody_is_described_too() -> None:
    told = describe_decision(checked(), decided(chosen=None), "dec_1", PRINCIPAL, 0).values
    assert (told[names.DECISION_MODEL], told[names.DECISION_ESTIMATED_NANO_USD]) == ("", 0)


def test_attempts_on_one_instance_share_what_they_say_of_it() -> None:
    first = describe_attempt(checked(), CHOSEN, stream=True)
    again = describe_attempt(checked(conversation_id="c-1"), CHOSEN, stream=True)
    assert first.shared == again.shared
    assert names.GEN_AI_CONVERSATION_ID not in first.values
    assert again.values[names.GEN_AI_CONVERSATION_ID] == "c-1"
    assert first.values[names.GEN_AI_REQUEST_MAX_TOKENS] == 7
    assert first.values[names.SERVER_ADDRESS] == "127.0.0.1:1"


def test_attempts_that_differ_share_nothing() -> None:
    moved = replace(CHOSEN, instance=replace(CHOSEN.instance, address="127.0.0.1:2"))
    described = [
        describe_attempt(checked(), CHOSEN, stream=True),
        describe_attempt(checked(), CHOSEN, stream=False),
        describe_attempt(checked(chat=False), CHOSEN, stream=True),
        describe_attempt(checked(), moved, stream=True),
        describe_attempt(checked(), replace(CHOSEN, model=ModelView("large")), stream=True),
    ]
    assert len({item.shared for item in described}) == len(described)
    streams = [item.values[names.GEN_AI_REQUEST_STREAM] for item in described]
    assert streams == [True, False, True, True, True]
    operations = [item.values[names.GEN_AI_OPERATION_NAME] for item in described]
    assert operations == ["chat", "chat", "text_completion", "chat", "chat"]
