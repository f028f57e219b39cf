"""From the router's messages to OpenAI's JSON: whole answers, chunks, and the `farthing` object with the bill."""

from __future__ import annotations

import json
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii
from typing import Any

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2
from farthing.api.router.v1 import router_pb2
from farthing.kit.money import format_usd

# OpenAI knows no other ends; the exact one is in `farthing.finish_reason`.
_FINISH: dict[int, str] = {common_pb2.FINISH_REASON_STOP: "stop"}
DONE = b"data: [DONE]\n\n"


def dump(body: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def describe_finish(reason: common_pb2.FinishReason) -> str:
    """OpenAI's word for the end of an answer: a cut of any kind is "length"."""
    return _FINISH.get(reason, "length")


def describe_usage(usage: common_pb2.Usage) -> dict[str, Any]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": usage.input_token_count,
        "completion_tokens": usage.output_token_count,
        "total_tokens": usage.input_token_count + usage.output_token_count,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_token_count},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_token_count},
    }


def describe_bill(decision: router_pb2.Decision, result: router_pb2.Result) -> dict[str, Any]:
    """The `farthing` object: what it cost, line by line, where it ran, why, and what else was weighed."""
    chosen = decision.chosen
    return {
        "request_id": result.request_id,
        "trace_id": result.trace_id,
        "model": chosen.model,
        "tier": _word(common_pb2.Tier.Name(chosen.tier), "TIER_"),
        "region": chosen.region,
        "instance_id": chosen.instance_id,
        "finish_reason": _word(
            common_pb2.FinishReason.Name(result.finish_reason), "FINISH_REASON_"
        ),
        "cache": _word(router_pb2.CacheOutcome.Name(result.cache_outcome), "CACHE_OUTCOME_"),
        "attempt_count": result.attempt_count,
        "latency_ms": result.latency_ms,
        "first_token_ms": result.first_token_ms,
        "cost_lines": _describe_lines(result.cost_lines),
        "total_nano_usd": result.total_nano_usd,
        "total_usd": format_usd(result.total_nano_usd),
        "decision": {
            "decision_id": decision.decision_id,
            "policy": decision.policy,
            "price_version": decision.price_version,
            "reason": decision.reason,
            "hold_nano_usd": decision.hold_nano_usd,
            "chosen": _describe_candidate(chosen),
            "rejected": [_describe_candidate(loser) for loser in decision.rejected],
        },
    }


def describe_model(model: router_pb2.RoutableModel) -> dict[str, Any]:
    """One entry of the list of models."""
    info = model.info
    return {
        "id": info.name,
        "object": "model",
        "created": 0,
        "owned_by": "farthing",
        "farthing": {
            "context_length": info.context_length,
            "parameter_count": info.parameter_count,
            "format": info.format,
            "quantization": info.quantization,
            "regions": list(model.regions),
            "instance_count": model.instance_count,
        },
    }


class ChatReplies:
    """Replies to one chat request."""

    def __init__(self, request_id: str, created: int) -> None:
        self._id, self._created = f"chatcmpl-{request_id}", created
        self._head = b""

    def whole(self, response: router_pb2.CompleteResponse, *, logprobs: bool) -> dict[str, Any]:
        """The answer in one body."""
        content = _describe_logprobs(response.logprobs) if logprobs else None
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": response.decision.chosen.model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": response.text, "refusal": None},
                    "logprobs": None if content is None else {"content": content},
                    "finish_reason": describe_finish(response.result.finish_reason),
                }
            ],
            "usage": describe_usage(response.result.usage),
            "farthing": describe_bill(response.decision, response.result),
        }

    def first(self, model: str) -> bytes:
        """The opening chunk, which names the speaker. Call it before the others."""
        self._head = (
            f'data: {{"id":{json.dumps(self._id)},"object":"chat.completion.chunk",'
            f'"created":{self._created},"model":{json.dumps(model)},"choices":['
        ).encode()
        return self._chunk(
            {
                "index": 0,
                "delta": {"role": "assistant", "content": "", "refusal": None},
                "logprobs": None,
                "finish_reason": None,
            }
        )

    def delta(self, delta: inference_pb2.Delta) -> bytes:
        """More of the answer."""
        if delta.logprobs:
            return self._chunk(
                {
                    "index": 0,
                    "delta": {"content": delta.text},
                    "logprobs": {"content": _describe_logprobs(delta.logprobs)},
                    "finish_reason": None,
                }
            )
        # The hot path, once a token: only the text differs, so only the text is encoded.
        text = encode_basestring_ascii(delta.text).encode()
        return (
            self._head
            + b'{"index":0,"delta":{"content":'
            + text
            + b'},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
        )

    def last(
        self, decision: router_pb2.Decision, result: router_pb2.Result, *, include_usage: bool
    ) -> bytes:
        """The end: reason, bill, and usage if it was asked for. DONE or an error follows."""
        choice = {
            "index": 0,
            "delta": {},
            "logprobs": None,
            "finish_reason": describe_finish(result.finish_reason),
        }
        return _end(self._head, choice, decision, result, include_usage=include_usage)

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return self._head + dump(choice) + b'],"usage":null}\n\n'


class CompletionReplies:
    """Replies to one request of the older form."""

    def __init__(self, request_id: str, created: int) -> None:
        self._id, self._created = f"cmpl-{request_id}", created
        self._head = b""
        self._offset = 0

    def whole(self, response: router_pb2.CompleteResponse, *, logprobs: bool) -> dict[str, Any]:
        """The answer in one body."""
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": response.decision.chosen.model,
            "choices": [
                {
                    "index": 0,
                    "text": response.text,
                    "logprobs": self._logprobs(response.logprobs) if logprobs else None,
                    "finish_reason": describe_finish(response.result.finish_reason),
                }
            ],
            "usage": describe_usage(response.result.usage),
            "farthing": describe_bill(response.decision, response.result),
        }

    def first(self, model: str) -> bytes:
        """Nothing goes before the text in this form. Call it before the others."""
        self._head = (
            f'data: {{"id":{json.dumps(self._id)},"object":"text_completion",'
            f'"created":{self._created},"model":{json.dumps(model)},"choices":['
        ).encode()
        return b""

    def delta(self, delta: inference_pb2.Delta) -> bytes:
        """More of the answer."""
        choice = {
            "index": 0,
            "text": delta.text,
            "logprobs": self._logprobs(delta.logprobs) if delta.logprobs else None,
            "finish_reason": None,
        }
        return self._head + dump(choice) + b'],"usage":null}\n\n'

    def last(
        self, decision: router_pb2.Decision, result: router_pb2.Result, *, include_usage: bool
    ) -> bytes:
        """The end: reason, bill, and usage if it was asked for. DONE or an error follows."""
        choice = {
            "index": 0,
            "text": "",
            "logprobs": None,
            "finish_reason": describe_finish(result.finish_reason),
        }
        return _end(self._head, choice, decision, result, include_usage=include_usage)

    def _logprobs(self, tokens: Sequence[inference_pb2.TokenLogprob]) -> dict[str, Any]:
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token.token)
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                {other.token: other.logprob for other in token.top} for token in tokens
            ],
            "text_offset": offsets,
        }


Replies = ChatReplies | CompletionReplies


def _end(
    head: bytes,
    choice: dict[str, Any],
    decision: router_pb2.Decision,
    result: router_pb2.Result,
    *,
    include_usage: bool,
) -> bytes:
    bill = b',"farthing":' + dump(describe_bill(decision, result)) + b"}\n\n"
    if not include_usage:
        return head + dump(choice) + b'],"usage":null' + bill
    return (
        head
        + dump(choice)
        + b'],"usage":null}\n\n'
        + head
        + b'],"usage":'
        + dump(describe_usage(result.usage))
        + bill
    )


def _describe_logprobs(tokens: Sequence[inference_pb2.TokenLogprob]) -> list[dict[str, Any]]:
    return [
        {
            **_describe_token(token),
            "top_logprobs": [_describe_token(other) for other in token.top],
        }
        for token in tokens
    ]


def _describe_token(token: inference_pb2.TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.token,
        "logprob": token.logprob,
        "bytes": list(token.token.encode()),
    }


def _describe_candidate(candidate: router_pb2.Candidate) -> dict[str, Any]:
    return {
        "model": candidate.model,
        "tier": _word(common_pb2.Tier.Name(candidate.tier), "TIER_"),
        "region": candidate.region,
        "instance_id": candidate.instance_id,
        "estimated_nano_usd": candidate.estimated_nano_usd,
        "worst_case_nano_usd": candidate.worst_case_nano_usd,
        "objective_nano_usd": candidate.objective_nano_usd,
        "first_token_ms": candidate.first_token_ms,
        "total_ms": candidate.total_ms,
        "quality_ratio": round(candidate.quality_ratio, 4),
        "reject_reason": _word(
            router_pb2.RejectReason.Name(candidate.reject_reason), "REJECT_REASON_"
        ),
        "reason": candidate.reason,
        "cost_lines": _describe_lines(candidate.cost_lines),
    }


def _describe_lines(lines: Sequence[common_pb2.CostLine]) -> list[dict[str, Any]]:
    return [
        {
            "kind": _word(common_pb2.CostKind.Name(line.kind), "COST_KIND_"),
            "nano_usd": line.amount_nano_usd,
            "quantity": line.quantity,
            "unit": _word(common_pb2.CostUnit.Name(line.unit), "COST_UNIT_"),
            "estimated": line.estimated,
        }
        for line in lines
    ]


def _word(name: str, prefix: str) -> str:
    """An enum's name as a lower-case word; empty for "not set"."""
    word = name.removeprefix(prefix).lower()
    return "" if word == "unspecified" else word
