"""An inference service that says what a test tells it to: the router's counterpart in tests of the router."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1.inference_pb2_grpc import InferenceServiceServicer
from farthing.inference.relay import relay
from farthing.kit.errors import FarthingError, Unimplemented
from farthing.kit.rpc.kept_calls import KeptCalls


@dataclass
class Script:
    """What the engine does. `error` comes after `fail_after` tokens; None never."""

    tokens: tuple[str, ...] = ("four", " and", " twenty")
    us_per_token: int = 1_000
    overrun_us: int = 0
    """Device time reported beyond what the tokens took, and beyond any limit."""
    error: FarthingError | None = None
    fail_after: int = 0
    gate: asyncio.Event | None = None
    """When set, nothing is sent after the first token until it opens."""
    requests: list[pb.GenerateRequest] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)


class ScriptedInference(InferenceServiceServicer):
    """One model, its quality by task, and a script."""

    def __init__(
        self, model: str, script: Script, qualities: dict[str, float] | None = None
    ) -> None:
        self.script = script
        self.report_count = 0
        self.info = pb.ModelInfo(
            name=model,
            digest=f"digest of {model}",
            context_length=1024,
            capabilities=[pb.CAPABILITY_CHAT, pb.CAPABILITY_LOGPROBS],
            qualities=[
                pb.TaskQuality(task=task, quality_ratio=ratio, sample_count=100)
                for task, ratio in (qualities or {"": 0.9}).items()
            ],
            bytes_per_token=3.0,
        )

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncGenerator[pb.GenerateResponse]:
        script = self.script
        script.requests.append(request)
        limit = request.compute_limit_us // script.us_per_token or len(script.tokens)
        limit = min(limit, request.input.max_tokens or limit)
        tokens = [(token, 1) for token in script.tokens[:limit]]
        if request.coalesce_ms and script.gate is None and script.error is None:
            # All of them are ready at once; an engine that is asked to coalesce joins those after the first.
            rest = tokens[1:]
            tokens[1:] = [("".join(text for text, _ in rest), len(rest))] if rest else []
        sent = 0
        try:
            for text, count in tokens:
                self._fail_at(sent)
                yield pb.GenerateResponse(delta=pb.Delta(text=text, token_count=count))
                sent += count
                if script.gate is not None:
                    await script.gate.wait()
            self._fail_at(sent)
        except (asyncio.CancelledError, GeneratorExit):
            script.cancelled.set()
            raise
        yield pb.GenerateResponse(completion=self._completion(sent, request.input.max_tokens))

    async def Complete(self, request: pb.CompleteRequest, context: Any) -> pb.CompleteResponse:
        response, texts = pb.CompleteResponse(), []
        async for event in self.Generate(request.request, context):
            if event.HasField("delta"):
                texts.append(event.delta.text)
            else:
                response.completion.CopyFrom(event.completion)
        response.text = "".join(texts)
        return response

    async def Relay(self, requests: object, context: Any) -> None:  # type: ignore[override]
        await relay(lambda request: self.Generate(request, context), context, KeptCalls())

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        raise Unimplemented("no embeddings here", reason="CAPABILITY_MISSING")

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Any
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[self.info])

    async def WatchLoad(
        self, request: pb.WatchLoadRequest, context: Any
    ) -> AsyncGenerator[pb.WatchLoadResponse]:
        while True:
            self.report_count += 1
            yield pb.WatchLoadResponse(
                load=pb.LoadReport(
                    capacity_request_count=8,
                    speeds=[
                        pb.ModelSpeed(
                            model=self.info.name,
                            prefill_tokens_per_second=10_000.0,
                            decode_tokens_per_second=1e6 / self.script.us_per_token,
                        )
                    ],
                )
            )
            await asyncio.sleep(0.2)

    def _fail_at(self, sent: int) -> None:
        if self.script.error is not None and sent >= self.script.fail_after:
            raise self.script.error

    def _completion(self, sent: int, max_tokens: int) -> pb.Completion:
        reason = common_pb2.FINISH_REASON_BUDGET
        if sent == len(self.script.tokens):
            reason = common_pb2.FINISH_REASON_STOP
        elif sent == max_tokens:
            reason = common_pb2.FINISH_REASON_LENGTH
        usage = common_pb2.Usage(
            input_token_count=11,
            output_token_count=sent,
            prefill_us=500,
            decode_us=sent * self.script.us_per_token + self.script.overrun_us,
            compute_us=500 + sent * self.script.us_per_token + self.script.overrun_us,
            request_bytes=40,
            response_bytes=len("".join(self.script.tokens[:sent]).encode()),
        )
        return pb.Completion(
            finish_reason=reason,
            usage=usage,
            model_digest=self.info.digest,
        )
