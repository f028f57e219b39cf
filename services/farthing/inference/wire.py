"""Between inference.proto's messages and the engine's values; no rule lives here."""

from __future__ import annotations

from collections.abc import Iterable

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.inference.batch_backend import ChatMessage, Speaker
from farthing.inference.core.priority import Priority
from farthing.inference.core.request import (
    DoneEvent,
    EngineRequest,
    FinishReason,
    Sampling,
    TokenLogprob,
)
from farthing.inference.model import Capability, ModelDescription
from farthing.kit.errors import InvalidArgument

_LONGEST_COALESCE_MS = 1_000
_ROLES: dict[int, Speaker] = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
}
_PRIORITIES: dict[int, Priority] = {
    common_pb2.PRIORITY_UNSPECIFIED: Priority.STANDARD,
    common_pb2.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    common_pb2.PRIORITY_STANDARD: Priority.STANDARD,
    common_pb2.PRIORITY_BATCH: Priority.BATCH,
}
_REASONS = {
    FinishReason.STOP: common_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: common_pb2.FINISH_REASON_LENGTH,
    FinishReason.BUDGET: common_pb2.FINISH_REASON_BUDGET,
    FinishReason.CANCELLED: common_pb2.FINISH_REASON_CANCELLED,
    FinishReason.ERROR: common_pb2.FINISH_REASON_ERROR,
}
_REASON_WORDS: dict[int, str] = {number: reason.value for reason, number in _REASONS.items()}
_CAPABILITIES = {
    Capability.CHAT: pb.CAPABILITY_CHAT,
    Capability.JSON_SCHEMA: pb.CAPABILITY_JSON_SCHEMA,
    Capability.LOGPROBS: pb.CAPABILITY_LOGPROBS,
}


def decode_request(request: pb.GenerateRequest) -> EngineRequest:
    """The request as a value; its ranges are not checked. InvalidArgument for what has no value."""
    given = request.input
    if request.priority not in _PRIORITIES:
        raise InvalidArgument(
            f"priority {request.priority} is unknown; use a value of Priority.",
            field="priority",
        )
    return EngineRequest(
        request_id=request.request_id,
        messages=tuple(_decode_messages(given.messages)),
        prompt=given.prompt,
        max_tokens=given.max_tokens,
        sampling=_decode_sampling(given.sampling),
        stop=tuple(given.stop),
        candidate_count=given.candidate_count,
        json_schema=_decode_schema(given.response_format),
        logprobs=given.logprobs,
        top_logprobs=given.top_logprobs,
        compute_limit_us=request.compute_limit_us,
        priority=_PRIORITIES[request.priority],
        tenant_id=request.tenant_id,
        adapter=request.adapter,
        coalesce_us=1_000 * min(max(request.coalesce_ms, 0), _LONGEST_COALESCE_MS),
    )


def encode_logprobs(logprobs: Iterable[TokenLogprob]) -> list[pb.TokenLogprob]:
    """Tokens with their logarithms and alternatives."""
    return [
        pb.TokenLogprob(token=one.token, logprob=one.logprob, top=encode_logprobs(one.top))
        for one in logprobs
    ]


def encode_completion(done: DoneEvent) -> pb.Completion:
    """The end of an answer."""
    usage = done.usage
    return pb.Completion(
        finish_reason=_REASONS[done.finish_reason],
        usage=common_pb2.Usage(
            input_token_count=usage.input_token_count,
            output_token_count=usage.output_token_count,
            cached_input_token_count=usage.cached_input_token_count,
            reasoning_token_count=usage.reasoning_token_count,
            queue_us=usage.queue_us,
            prefill_us=usage.prefill_us,
            decode_us=usage.decode_us,
            compute_us=usage.compute_us,
            request_bytes=usage.request_bytes,
            response_bytes=usage.response_bytes,
            peak_kv_bytes=usage.peak_kv_bytes,
            energy_uj=usage.energy_uj,
        ),
        model_digest=done.model_digest,
    )


def describe_reason(reason: common_pb2.FinishReason) -> str:
    """A reason as spans and metrics name it."""
    return _REASON_WORDS.get(reason, "unspecified")


def encode_model(model: ModelDescription) -> pb.ModelInfo:
    """What ListModels says of a model."""
    return pb.ModelInfo(
        name=model.name,
        digest=model.digest,
        format=model.format,
        quantization=model.quantization,
        parameter_count=model.parameter_count,
        context_length=model.context_length,
        capabilities=sorted(_CAPABILITIES[one] for one in model.capabilities),
        qualities=[
            pb.TaskQuality(
                task=one.task, quality_ratio=one.quality_ratio, sample_count=one.sample_count
            )
            for one in model.qualities
        ],
        bytes_per_token=model.bytes_per_token,
        adapters=sorted(model.adapters),
    )


def _decode_messages(messages: Iterable[pb.Message]) -> Iterable[ChatMessage]:
    for index, message in enumerate(messages):
        field = f"input.messages[{index}]"
        if message.role not in _ROLES:
            raise InvalidArgument(
                f"{field}.role is not set or unknown; use system, user or assistant.",
                field=f"{field}.role",
            )
        for part_index, part in enumerate(message.content):
            if part.WhichOneof("part") != "text":
                place = f"{field}.content[{part_index}]"
                raise InvalidArgument(f"{place} has no text; set it.", field=place)
        content = "".join(part.text for part in message.content)
        yield ChatMessage(_ROLES[message.role], content)


def _decode_sampling(given: pb.SamplingParams) -> Sampling:
    return Sampling(
        temperature=given.temperature,
        top_p=given.top_p if given.HasField("top_p") else 1.0,
        top_k=given.top_k,
        min_p=given.min_p,
        frequency_penalty=given.frequency_penalty,
        presence_penalty=given.presence_penalty,
        seed=given.seed if given.HasField("seed") else None,
        logit_bias=dict(given.logit_bias),
    )


def _decode_schema(given: pb.ResponseFormat) -> str:
    field = "input.response_format"
    if given.kind == pb.RESPONSE_FORMAT_KIND_JSON_SCHEMA:
        if not given.json_schema:
            raise InvalidArgument(
                f"{field}.json_schema is empty; JSON_SCHEMA needs one.",
                field=f"{field}.json_schema",
            )
        return given.json_schema
    if given.kind > pb.RESPONSE_FORMAT_KIND_JSON_SCHEMA:
        raise InvalidArgument(
            f"{field}.kind {given.kind} is unknown; use TEXT or JSON_SCHEMA.",
            field=f"{field}.kind",
        )
    if given.json_schema:
        raise InvalidArgument(
            f"{field}.json_schema is set; set kind to JSON_SCHEMA or leave it empty.",
            field=f"{field}.json_schema",
        )
    return ""
