"""What spans say of a request and its decision. Prompts and answers are never on them.

What is told is put together where spans are drained (see Span.update): here the few values are picked that it takes,
as they are now. What comes back in request after request is encoded once (see SharedAttributes).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache, partial
from json.encoder import encode_basestring_ascii as quote

from farthing.clients.instances.view import InstanceView
from farthing.clients.quota import Principal
from farthing.kit.telemetry import names
from farthing.kit.telemetry.attributes import (
    AttributeValue,
    Deferred,
    Description,
    SharedAttributes,
)
from farthing.router.core.candidate import Candidate, Rejection
from farthing.router.core.decide import Decision
from farthing.router.validation import CheckedRequest

_MOST_KEPT = 1024
# Model, instance, estimate in nano-USD, why it lost, in words: a candidate itself may change in a second decision.
_Loser = tuple[str, InstanceView, int, Rejection | None, str]


def describe_attempt(checked: CheckedRequest, chosen: Candidate, *, stream: bool) -> Deferred:
    """Attributes of the leaf inference span that are known before the call."""
    return partial(
        _tell_attempt,
        chosen.instance,
        chosen.model.name,
        bool(checked.input.messages),
        stream,
        checked.features.max_tokens,
        checked.conversation_id,
    )


def describe_decision(
    checked: CheckedRequest,
    decision: Decision,
    decision_id: str,
    principal: Principal,
    hold_nano_usd: int,
) -> Deferred:
    """Attributes of the router's server span: who asked, what was decided and why."""
    chosen = decision.chosen
    return partial(
        _tell_decision,
        checked.request_id,
        checked.features.task,
        principal,
        hold_nano_usd,
        decision_id,
        decision.policy,
        decision.reason,
        chosen.model.name if chosen else "",
        chosen.estimated_nano_usd if chosen else 0,
        [
            (c.model.name, c.instance, c.estimated_nano_usd, c.rejection, c.detail)
            for c in decision.rejected
        ],
    )


def _tell_attempt(
    instance: InstanceView,
    model: str,
    chat: bool,
    stream: bool,
    max_tokens: int,
    conversation_id: str,
) -> Description:
    own: dict[str, AttributeValue] = {names.GEN_AI_REQUEST_MAX_TOKENS: max_tokens}
    if conversation_id:
        own[names.GEN_AI_CONVERSATION_ID] = conversation_id
    shared = _share_attempt(
        chat, stream, model,
        instance.tier, instance.region, instance.instance_id, instance.address,
    )  # fmt: skip
    return Description((shared,), own)


def _tell_decision(
    request_id: str,
    task: str,
    principal: Principal,
    hold_nano_usd: int,
    decision_id: str,
    policy: str,
    reason: str,
    model: str,
    estimated_nano_usd: int,
    losers: Iterable[_Loser],
) -> Description:
    who = _share_principal(
        principal.organisation_id, principal.cost_centre_id, principal.team_id, principal.key_id
    )
    own: dict[str, AttributeValue] = {
        names.REQUEST_ID: request_id,
        names.TASK: task,
        names.HOLD_NANO_USD: hold_nano_usd,
        names.DECISION_ID: decision_id,
        names.DECISION_REASON: reason,
        names.DECISION_ESTIMATED_NANO_USD: estimated_nano_usd,
        names.DECISION_REJECTED: _write_losers(losers),
    }
    return Description((who, _share_choice(policy, model)), own)


def _write_losers(losers: Iterable[_Loser]) -> str:
    """A JSON list. Written out: json.dumps takes three times as long for objects all alike."""
    items = [
        f'{{"model":{quote(model)},"tier":{quote(instance.tier)},'
        f'"region":{quote(instance.region)},"estimated_nano_usd":{estimated_nano_usd:d},'
        f'"reason":{quote(rejection.value if rejection else "")},"detail":{quote(detail)}}}'
        for model, instance, estimated_nano_usd, rejection, detail in losers
    ]
    return f"[{','.join(items)}]"


@lru_cache(_MOST_KEPT)
def _share_attempt(
    chat: bool, stream: bool, model: str, tier: str, region: str, instance_id: str, address: str
) -> SharedAttributes:
    return SharedAttributes(
        {
            names.GEN_AI_OPERATION_NAME: names.GEN_AI_OPERATION_CHAT
            if chat
            else names.GEN_AI_OPERATION_TEXT_COMPLETION,
            names.GEN_AI_PROVIDER_NAME: names.PROVIDER_FARTHING,
            names.GEN_AI_REQUEST_MODEL: model,
            names.GEN_AI_RESPONSE_MODEL: model,
            names.GEN_AI_REQUEST_STREAM: stream,
            names.TIER: tier,
            names.REGION: region,
            names.INSTANCE_ID: instance_id,
            names.SERVER_ADDRESS: address,
        }
    )


@lru_cache(_MOST_KEPT)
def _share_principal(
    organisation_id: str, cost_centre_id: str, team_id: str, key_id: str
) -> SharedAttributes:
    return SharedAttributes(
        {
            names.ORGANISATION_ID: organisation_id,
            names.COST_CENTRE_ID: cost_centre_id,
            names.TEAM_ID: team_id,
            names.KEY_ID: key_id,
        }
    )


@lru_cache(_MOST_KEPT)
def _share_choice(policy: str, model: str) -> SharedAttributes:
    return SharedAttributes({names.DECISION_POLICY: policy, names.DECISION_MODEL: model})
