"""From the gateway's request value to the router's messages."""

from __future__ import annotations

from farthing.api.inference.v1 import inference_pb2
from farthing.api.router.v1 import router_pb2
from farthing.clients.wishes import CACHE_MODES, PRIORITIES, PRIVACY_CLASSES
from farthing.gateway.core.requests import TextRequest
from farthing.gateway.core.wishes import Wishes

_ROLE = {
    "system": inference_pb2.ROLE_SYSTEM,
    "user": inference_pb2.ROLE_USER,
    "assistant": inference_pb2.ROLE_ASSISTANT,
}


def encode_request(
    request: TextRequest, request_id: str, *, repeatable: bool
) -> router_pb2.GenerateRequest:
    """The router's request. `repeatable`: the client chose the id and may send it again."""
    given = inference_pb2.GenerationInput(
        messages=[
            inference_pb2.Message(
                role=_ROLE[role], content=[inference_pb2.ContentPart(text=text)]
            )
            for role, text in request.messages
        ],
        prompt=request.prompt,
        max_tokens=request.max_tokens,
        sampling=inference_pb2.SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            min_p=request.min_p,
            seed=request.seed,
            frequency_penalty=request.frequency_penalty,
            presence_penalty=request.presence_penalty,
        ),
        stop=request.stop,
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs,
    )
    if request.json_schema:
        given.response_format.kind = inference_pb2.RESPONSE_FORMAT_KIND_JSON_SCHEMA
        given.response_format.json_schema = request.json_schema
    return router_pb2.GenerateRequest(
        request_id=request_id,
        model=request.model,
        input=given,
        constraints=_encode_wishes(request.wishes),
        conversation_id=request.wishes.conversation,
        single_use=not repeatable,
    )


def _encode_wishes(wishes: Wishes) -> router_pb2.Constraints:
    return router_pb2.Constraints(
        max_cost_nano_usd=wishes.max_cost_nano_usd,
        max_first_token_ms=wishes.max_first_token_ms,
        max_total_ms=wishes.max_total_ms,
        min_quality_ratio=wishes.min_quality_ratio,
        residency=wishes.residency,
        privacy_class=PRIVACY_CLASSES.get(wishes.privacy),
        priority=PRIORITIES.get(wishes.priority),
        task=wishes.task,
        policy=wishes.policy,
        cache_mode=CACHE_MODES.get(wishes.cache),
    )
