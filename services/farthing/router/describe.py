"""What spans say of a request and its decision. Prompts and answers are never on them.

What comes back in request after request is encoded once: see SharedAttributes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quote

from farthing.clients.quota import Principal
from farthing.kit.telemetry import names
from farthing.kit.telemetry.attributes import AttributeValue, Description, SharedAttributes
from farthing.router.core.candidate import Candidate
from farthing.router.core.decide import Decision
from farthing.router.validation import CheckedRequest

_MOST_KEPT = 1024


def describe_attempt(
    checked: CheckedRequest, chosen: Candidate, *, stream: bool
) -> Description:
    """Attributes of the leaf inference span that are known before the call."""
    instance = chosen.instance
    own: dict[str, AttributeValue] = {
        names.GEN_AI_REQUEST_MAX_TOKENS: checked.features.max_tokens
    }
    if checked.conversation_id:
        own[names.GEN_AI_CONVERSATION_ID] = checked.conversation_id
    shared = _share_attempt(
        bool(checked.input.messages), stream, chosen.model.name,
        instance.tier, instance.region, instance.instance_id, instance.address,
    )  # fmt: skip
    return Description((shared,), own)


def describe_decision(
    checked: CheckedRequest,
    decision: Decision,
    decision_id: str,
    principal: Principal,
    hold_nano_usd: int,
) -> Description:
    """Attributes of the router's server span: who asked, what was decided and why."""
    chosen = decision.chosen
    who = _share_principal(
        principal.organisation_id, principal.cost_centre_id, principal.team_id, principal.key_id
    )
    what = _share_choice(decision.policy, chosen.model.name if chosen else "")
    own: dict[str, AttributeValue] = {
        names.REQUEST_ID: checked.request_id,
        names.TASK: checked.features.task,
        names.HOLD_NANO_USD: hold_nano_usd,
        names.DECISION_ID: decision_id,
        names.DECISION_REASON: decision.reason,
        names.DECISION_ESTIMATED_NANO_USD: chosen.estimated_nano_usd if chosen else 0,
        names.DECISION_REJECTED: describe_rejected(decision.rejected),
    }
    return Description((who, what), own)


def describe_rejected(rejected: Iterable[Candidate]) -> str:
    """The losers as a JSON list. Written out: json.dumps takes three times as long for objects all alike."""
    losers = [
        f'{{"model":{quote(loser.model.name)},"tier":{quote(loser.instance.tier)},'
        f'"region":{quote(loser.instance.region)},"estimated_nano_usd":{loser.estimated_nano_usd:d},'
        f'"reason":{quote(loser.rejection.value if loser.rejection else "")},'
        f'"detail":{quote(loser.detail)}}}'
        for loser in rejected
    ]
    return f"[{','.join(losers)}]"


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
