"""What spans say of decisions: JSON whatever the texts, shared where it repeats, right where it does not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.support.routing_worlds import property_test

from farthing.api.inference.v1 import inference_pb2
from farthing.api.router.v1 import router_pb2
from farthing.clients.instances.view import InstanceView, ModelView
from farthing.clients.quota import Principal
from farthing.kit.telemetry import names
from farthing.kit.telemetry.attributes import Attributes, Deferred, Description
from farthing.ledger.console.trace_view import make_trace_view
from farthing.ledger.core.spans import Span
from farthing.router.core.candidate import Candidate, Rejection
from farthing.router.core.decide import Decision
from farthing.router.describe import describe_attempt, describe_decision
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


def told_of(*rejected: Candidate, chosen: Candidate | None = CHOSEN) -> Attributes:
    return values(
        describe_decision(
            checked(), decided(*rejected, chosen=chosen), "dec_1", PRINCIPAL, 50_000
        )
    )


def values(deferred: Deferred) -> Attributes:
    told = deferred()
    return told.values if isinstance(told, Description) else told


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
    told = told_of(*losers)[names.DECISION_REJECTED]
    assert told == json.dumps(expected, separators=(",", ":"))


def test_the_console_reads_a_decision_as_the_router_describes_it() -> None:
    loser = replace(CHOSEN, model=ModelView('la"rge'), estimated_nano_usd=99_000)
    loser.reject(Rejection.COST, "objective $2 against $1")
    told = told_of(loser)
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
    told = told_of()
    assert told[names.ORGANISATION_ID] == "acme"
    assert told[names.COST_CENTRE_ID] == "lab"
    assert told[names.TEAM_ID] == "team-1"
    assert told[names.KEY_ID] == "key_1"
    assert told[names.TASK] == "math"
    assert told[names.REQUEST_ID] == "req_1"
    assert told[names.HOLD_NANO_USD] == 50_000
    assert told[names.DECISION_REJECTED] == "[]"


def test_a_decision_for_nobody_is_described_too() -> None:
    told = told_of(chosen=None)
    assert (told[names.DECISION_MODEL], told[names.DECISION_ESTIMATED_NANO_USD]) == ("", 0)


def test_a_later_decision_does_not_change_what_an_earlier_one_said() -> None:
    loser = replace(CHOSEN).reject(Rejection.COST, "objective $2 against $1")
    told = describe_decision(checked(), decided(loser), "dec_1", PRINCIPAL, 50_000)
    loser.rejection, loser.detail = None, ""  # as the router does before it decides again
    loser.reject(Rejection.FAILED, "the engine is gone")
    assert "objective $2 against $1" in str(values(told)[names.DECISION_REJECTED])


def attempt(chosen: Candidate = CHOSEN, *, stream: bool = True, **request: Any) -> Description:
    told = describe_attempt(checked(**request), chosen, stream=stream)()
    assert isinstance(told, Description)
    return told


def test_attempts_on_one_instance_share_what_they_say_of_it() -> None:
    first, again = attempt(), attempt(conversation_id="c-1")
    assert first.shared == again.shared
    assert names.GEN_AI_CONVERSATION_ID not in first.values
    assert again.values[names.GEN_AI_CONVERSATION_ID] == "c-1"
    assert first.values[names.GEN_AI_REQUEST_MAX_TOKENS] == 7
    assert first.values[names.SERVER_ADDRESS] == "127.0.0.1:1"


def test_attempts_that_differ_share_nothing() -> None:
    moved = replace(CHOSEN, instance=replace(CHOSEN.instance, address="127.0.0.1:2"))
    larger = replace(CHOSEN, model=ModelView("large"))
    described = [
        attempt(),
        attempt(stream=False),
        attempt(chat=False),
        attempt(moved),
        attempt(larger),
    ]
    assert len({item.shared for item in described}) == len(described)
    streams = [item.values[names.GEN_AI_REQUEST_STREAM] for item in described]
    assert streams == [True, False, True, True, True]
    operations = [item.values[names.GEN_AI_OPERATION_NAME] for item in described]
    assert operations == ["chat", "chat", "text_completion", "chat", "chat"]
