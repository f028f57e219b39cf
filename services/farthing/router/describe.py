"""What spans say of a request and its decision. Prompts and answers are never on them."""

from __future__ import annotations

import json

from farthing.clients.quota import Principal
from farthing.kit.telemetry import names
from farthing.kit.telemetry.spans import AttributeValue
from farthing.router.core.candidate import Candidate
from farthing.router.core.decide import Decision
from farthing.router.validation import CheckedRequest


def describe_attempt(
    checked: CheckedRequest, chosen: Candidate, *, stream: bool
) -> dict[str, AttributeValue]:
    """Attributes of the leaf inference span that are known before the call."""
    attributes: dict[str, AttributeValue] = {
        names.GEN_AI_OPERATION_NAME: names.GEN_AI_OPERATION_CHAT
        if checked.input.messages
        else names.GEN_AI_OPERATION_TEXT_COMPLETION,
        names.GEN_AI_PROVIDER_NAME: names.PROVIDER_FARTHING,
        names.GEN_AI_REQUEST_MODEL: chosen.model.name,
        names.GEN_AI_RESPONSE_MODEL: chosen.model.name,
        names.GEN_AI_REQUEST_MAX_TOKENS: checked.features.max_tokens,
        names.GEN_AI_REQUEST_STREAM: stream,
        names.TIER: chosen.instance.tier,
        names.REGION: chosen.instance.region,
        names.INSTANCE_ID: chosen.instance.instance_id,
        names.SERVER_ADDRESS: chosen.instance.address,
    }
    if checked.conversation_id:
        attributes[names.GEN_AI_CONVERSATION_ID] = checked.conversation_id
    return attributes


def describe_decision(
    checked: CheckedRequest,
    decision: Decision,
    decision_id: str,
    principal: Principal,
    hold_nano_usd: int,
) -> dict[str, AttributeValue]:
    """Attributes of the router's server span: who asked, what was decided and why."""
    chosen = decision.chosen
    rejected = [
        {
            "model": loser.model.name,
            "tier": loser.instance.tier,
            "region": loser.instance.region,
            "estimated_nano_usd": loser.estimated_nano_usd,
            "reason": loser.rejection.value if loser.rejection else "",
            "detail": loser.detail,
        }
        for loser in decision.rejected
    ]
    return {
        names.REQUEST_ID: checked.request_id,
        names.TASK: checked.features.task,
        names.ORGANISATION_ID: principal.organisation_id,
        names.COST_CENTRE_ID: principal.cost_centre_id,
        names.TEAM_ID: principal.team_id,
        names.KEY_ID: principal.key_id,
        names.HOLD_NANO_USD: hold_nano_usd,
        names.DECISION_ID: decision_id,
        names.DECISION_POLICY: decision.policy,
        names.DECISION_REASON: decision.reason,
        names.DECISION_MODEL: chosen.model.name if chosen else "",
        names.DECISION_ESTIMATED_NANO_USD: chosen.estimated_nano_usd if chosen else 0,
        names.DECISION_REJECTED: json.dumps(rejected, separators=(",", ":")),
    }
