"""What every inference backend must do, over a real socket: one suite for edge and cloud.

A test module subclasses `InferenceContract` and gives `backend` as a fixture: a fresh backend
whose model has a chat template and seldom ends an answer by itself.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1 import inference_pb2_grpc as pb_grpc
from farthing.inference.backend import Backend, ChatMessage
from farthing.inference.model import Capability
from farthing.inference.serial import EngineLimits, SerialEngine
from farthing.inference.servicer import InferenceServicer
from farthing.kit.errors import FarthingError, InvalidArgument, NotFound, Unimplemented
from farthing.kit.rpc.status import decode_error
from farthing.kit.testing import eventually, serve

JSON_SCHEMA = pb.RESPONSE_FORMAT_KIND_JSON_SCHEMA
PROMPT = "the relay is green. what colour is the relay?"
SCHEMA = {
    "type": "object",
    "properties": {"found": {"type": "boolean"}, "colour": {"enum": ["red", "green"]}},
    "required": ["found", "colour"],
    "additionalProperties": False,
}


@dataclass
class Host:
    """A backend served over a socket."""

    stub: Any
    engine: SerialEngine
    backend: Backend

    def request(self, **values: Any) -> pb.GenerateRequest:
        """A greedy request of 24 tokens; names of GenerationInput go into the input."""
        outer = {"priority", "compute_limit_us", "model", "tenant_id"}
        inner = {key: value for key, value in values.items() if key not in outer}
        rest = {key: value for key, value in values.items() if key in outer}
        if "messages" not in inner:
            inner.setdefault("prompt", PROMPT)
        inner.setdefault("max_tokens", 24)
        given = pb.GenerationInput(**inner)
        rest.setdefault("model", self.backend.model.name)
        return pb.GenerateRequest(request_id="r1", input=given, **rest)

    async def complete(self, **values: Any) -> pb.CompleteResponse:
        """Complete's answer."""
        request = pb.CompleteRequest(request=self.request(**values))
        response: pb.CompleteResponse = await self.stub.Complete(request)
        return response

    async def stream(self, **values: Any) -> tuple[list[pb.Delta], pb.Completion]:
        """Generate's answer."""
        deltas: list[pb.Delta] = []
        completions: list[pb.Completion] = []
        async for event in self.stub.Generate(self.request(**values)):
            assert not completions
            if event.WhichOneof("event") == "delta":
                deltas.append(event.delta)
            else:
                completions.append(event.completion)
        assert len(completions) == 1
        return deltas, completions[0]

    async def idle(self) -> None:
        """Returns when the engine computes nothing."""
        await eventually(lambda: not self.engine.load().running_request_count, what="idle")


def user(text: str) -> pb.Message:
    """A message of a user."""
    return pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text=text)])


def text_of(deltas: list[pb.Delta]) -> str:
    """The answer in a stream."""
    return "".join(delta.text for delta in deltas)


async def error_of(call: Awaitable[Any]) -> FarthingError:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return decode_error(caught.value)


def greedy_reference(backend: Backend, tokens: list[int], count: int) -> list[int]:
    """The likeliest continuation, by plain steps on the backend."""
    backend.rewind(0)
    chunk = backend.prefill_chunk_token_count
    for place in range(0, len(tokens), chunk):
        logits = backend.prefill(tokens[place : place + chunk])
    answer: list[int] = []
    while len(answer) < count:
        token = int(logits.argmax())
        if token in backend.model.eos_ids:
            break
        answer.append(token)
        logits = backend.decode(token)
    return answer


class InferenceContract:
    """Subclass it; pytest collects the subclass."""

    @pytest.fixture
    async def host(self, backend: Backend) -> AsyncIterator[Host]:
        async with hosting(backend) as host:
            yield host

    async def test_greedy_answers_are_the_likeliest_tokens(self, backend: Backend) -> None:
        tokens = [*backend.model.bos_ids, *backend.tokenize(PROMPT, special=False)]
        expected = greedy_reference(backend, tokens, 24)
        text = b"".join(map(backend.token_bytes, expected)).decode("utf-8", "replace")
        async with hosting(backend) as host:
            answer = await host.complete()
        # A character that the end cut in two is left out.
        assert text in (answer.text, answer.text + "\ufffd")
        assert answer.completion.usage.output_token_count == len(expected)

    async def test_a_stream_and_a_whole_answer_are_equal_and_use_the_same(
        self, host: Host
    ) -> None:
        whole = await host.complete()
        deltas, completion = await host.stream()
        assert text_of(deltas) == whole.text
        assert sum(delta.token_count for delta in deltas) == 24
        for field in ("input_token_count", "output_token_count", "request_bytes"):
            assert getattr(completion.usage, field) == getattr(whole.completion.usage, field)
        assert completion.usage.response_bytes == len(whole.text.encode())
        assert completion.model_digest == host.backend.model.digest
        usage = completion.usage
        assert usage.compute_us == usage.prefill_us + usage.decode_us > 0

    async def test_repeated_prompts_reuse_state_and_answer_the_same(self, host: Host) -> None:
        prompt = PROMPT * 4
        first = await host.complete(prompt=prompt)
        second = await host.complete(prompt=prompt)
        assert second.text == first.text
        assert first.completion.usage.cached_input_token_count == 0
        assert second.completion.usage.cached_input_token_count > 0

    async def test_equal_seeds_give_equal_answers_and_others_do_not(self, host: Host) -> None:
        def sampling(seed: int) -> pb.SamplingParams:
            return pb.SamplingParams(temperature=1.5, top_p=0.95, seed=seed)

        one, same, other = [
            (await host.complete(sampling=sampling(seed))).text for seed in (41, 41, 42)
        ]
        assert one == same != other

    async def test_stop_texts_end_the_answer_and_are_not_part_of_it(self, host: Host) -> None:
        whole = (await host.complete()).text
        stop = whole[5:8]
        cut = await host.complete(stop=[stop])
        assert cut.text == whole[: whole.index(stop)]
        assert cut.completion.finish_reason == common_pb2.FINISH_REASON_STOP

    async def test_logprobs_are_those_of_the_likeliest_tokens(self, host: Host) -> None:
        answer = await host.complete(logprobs=True, top_logprobs=3, max_tokens=5)
        assert len(answer.logprobs) == 5
        for token in answer.logprobs:
            assert len(token.top) == 3
            assert token.logprob == token.top[0].logprob <= 0
            assert token.token == token.top[0].token
            chances = [math.exp(one.logprob) for one in token.top]
            assert chances == sorted(chances, reverse=True)
            assert sum(chances) <= 1.0001

    async def test_messages_are_rendered_by_the_template(self, host: Host) -> None:
        rendered = host.backend.render_chat([ChatMessage("user", "hello")])
        tokens = host.backend.tokenize(rendered, special=True)
        answer = await host.complete(messages=[user("hello")])
        count = len(tokens) + len(host.backend.model.bos_ids)
        assert answer.completion.usage.input_token_count == count

    async def test_content_that_spells_control_tokens_stays_text(self, host: Host) -> None:
        special = max(host.backend.special_texts, key=len)
        plain = await host.complete(messages=[user("x")])
        tricky = await host.complete(messages=[user(f"x{special}")])
        longer = (
            tricky.completion.usage.input_token_count - plain.completion.usage.input_token_count
        )
        assert longer > 1

    async def test_what_does_not_fit_the_context_is_refused(self, host: Host) -> None:
        length = host.backend.model.context_length
        error = await error_of(host.complete(max_tokens=length))
        assert isinstance(error, InvalidArgument)
        assert error.field == "input.max_tokens"
        assert error.metadata["context_length"] == str(length)
        assert error.metadata["max_tokens"] == str(length)
        error = await error_of(host.complete(prompt="xyz " * length))
        assert isinstance(error, InvalidArgument)
        assert error.reason == "CONTEXT_EXCEEDED"

    async def test_the_answer_ends_with_the_context(self, host: Host) -> None:
        length = host.backend.model.context_length
        prompt_count = (await host.complete()).completion.usage.input_token_count
        room = length - prompt_count
        answer = await host.complete(
            max_tokens=room, sampling=pb.SamplingParams(temperature=2.0, seed=3)
        )
        assert answer.completion.usage.output_token_count <= room
        assert answer.completion.finish_reason in (
            common_pb2.FINISH_REASON_LENGTH,
            common_pb2.FINISH_REASON_STOP,
        )

    async def test_a_compute_limit_ends_the_answer_within_it(self, host: Host) -> None:
        free = (await host.complete()).completion.usage
        deltas, completion = await host.stream(compute_limit_us=1)
        assert (text_of(deltas), completion.usage.compute_us) == ("", 0)
        assert completion.finish_reason == common_pb2.FINISH_REASON_BUDGET
        limit_us = free.prefill_us + max(free.decode_us // 2, 1)
        _, completion = await host.stream(compute_limit_us=limit_us)
        assert completion.usage.compute_us <= limit_us

    async def test_a_caller_who_goes_away_frees_the_engine(self, host: Host) -> None:
        room = host.backend.model.context_length // 2
        call = host.stub.Generate(host.request(max_tokens=room))
        await call.read()
        call.cancel()
        await host.idle()
        assert (await host.complete()).completion.usage.output_token_count == 24

    async def test_bad_requests_name_the_field(self, host: Host) -> None:
        for field, values in (
            ("input.prompt", {"prompt": ""}),
            ("input.sampling.top_p", {"sampling": pb.SamplingParams(top_p=0.0)}),
            ("input.stop[0]", {"stop": [""]}),
            ("input.messages[0].role", {"messages": [pb.Message()]}),
            (
                "input.messages[0].content[0]",
                {"messages": [pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart()])]},
            ),
            ("model", {"model": ""}),
            (
                "input.response_format.json_schema",
                {"response_format": pb.ResponseFormat(kind=JSON_SCHEMA)},
            ),
        ):
            error = await error_of(host.complete(**values))
            assert isinstance(error, InvalidArgument), field
            assert error.field == field

    async def test_an_unknown_model_is_not_found(self, host: Host) -> None:
        assert isinstance(await error_of(host.complete(model="gpt-9")), NotFound)

    async def test_json_schema_answers_follow_it_or_are_refused(self, host: Host) -> None:
        wanted = pb.ResponseFormat(kind=JSON_SCHEMA, json_schema=json.dumps(SCHEMA))
        call = host.complete(response_format=wanted, max_tokens=200)
        if Capability.JSON_SCHEMA not in host.backend.model.capabilities:
            assert isinstance(await error_of(call), Unimplemented)
            return
        document = json.loads((await call).text)
        assert set(document) == {"found", "colour"}
        assert isinstance(document["found"], bool)
        assert document["colour"] in ("red", "green")

    async def test_models_are_listed_as_they_are(self, host: Host) -> None:
        listed = await host.stub.ListModels(pb.ListModelsRequest())
        model = host.backend.model
        assert [one.name for one in listed.models] == [model.name]
        assert listed.models[0].digest == model.digest
        assert listed.models[0].context_length == model.context_length
        assert pb.CAPABILITY_CHAT in listed.models[0].capabilities

    async def test_load_is_reported_at_once_and_again_when_it_changes(self, host: Host) -> None:
        watch = host.stub.WatchLoad(pb.WatchLoadRequest())
        first = (await watch.read()).load
        assert first.running_request_count == first.queued_request_count == 0
        assert first.capacity_request_count == 1
        assert first.speeds[0].decode_tokens_per_second > 0
        again = (await watch.read()).load  # comes although nothing changed
        assert again.running_request_count == 0
        watch.cancel()

    async def test_many_at_once_all_get_the_right_answer(self, host: Host) -> None:
        prompts = [f"{number} {PROMPT}" for number in range(8)]
        alone = [(await host.complete(prompt=prompt)).text for prompt in prompts]
        together = await asyncio.gather(*(host.complete(prompt=prompt) for prompt in prompts))
        assert [answer.text for answer in together] == alone


@asynccontextmanager
async def hosting(backend: Backend) -> AsyncIterator[Host]:
    """Serves a backend by a serial engine; closes both."""
    engine = SerialEngine(backend, EngineLimits())
    await engine.start()
    register: Callable[[Any, Any], None] = pb_grpc.add_InferenceServiceServicer_to_server
    try:
        async with serve((register, InferenceServicer(engine))) as (channel, _):
            yield Host(pb_grpc.InferenceServiceStub(channel), engine, backend)
    finally:
        await engine.close(0)
