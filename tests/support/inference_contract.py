"""What every engine must do, over a real socket and with its engine in a process of its own: one suite for both tiers.

A test module subclasses `InferenceContract` and gives two fixtures of module scope: `spawn` starts
the engine's process, with 4 slots, and `host` is what `hosting` makes of it. The model has a chat
template and seldom ends an answer by itself.
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
from farthing.inference.batch_backend import ChatMessage, SlotWork
from farthing.inference.host import ModelHost
from farthing.inference.process.child import Child
from farthing.inference.process.remote import Patience, RemoteEngine
from farthing.inference.process.server import LoadedEngine
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
    """An engine served over a socket, and its model for comparison."""

    stub: Any
    engine: RemoteEngine
    reference: LoadedEngine

    @property
    def model(self) -> pb.ModelInfo:
        """What the engine says of its model."""
        return self.engine.info

    def request(self, **values: Any) -> pb.GenerateRequest:
        """A greedy request of 24 tokens; names of GenerationInput go into the input."""
        outer = {"priority", "compute_limit_us", "model", "tenant_id", "adapter"}
        inner = {key: value for key, value in values.items() if key not in outer}
        rest = {key: value for key, value in values.items() if key in outer}
        if "messages" not in inner:
            inner.setdefault("prompt", PROMPT)
        inner.setdefault("max_tokens", 24)
        given = pb.GenerationInput(**inner)
        rest.setdefault("model", self.model.name)
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

        def is_idle() -> bool:
            load = self.engine.load()[1]
            return not load.running_request_count and not load.queued_request_count

        await eventually(is_idle, what="idle")


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


def greedy_reference(reference: LoadedEngine, tokens: list[int], count: int) -> list[int]:
    """The likeliest continuation, a token a step, alone in the backend."""
    backend = reference.backend
    backend.reset()
    size = backend.layout.step_token_capacity
    answer: list[int] = []
    place = 0
    while True:
        piece = tokens[place : place + size]
        token = int(backend.step([SlotWork(0, place, piece)]).best()[0])
        place += len(piece)
        if place < len(tokens):
            continue
        if token in backend.model.eos_ids:
            return answer
        answer.append(token)
        if len(answer) == count:
            return answer
        tokens = [*tokens, token]


@asynccontextmanager
async def hosting(spawn: Callable[[], Child], reference: LoadedEngine) -> AsyncIterator[Host]:
    """Serves the engine; `reference` is the same model, loaded here."""
    engine, host = RemoteEngine(spawn, Patience()), ModelHost()
    await host.add(engine)
    register: Callable[[Any, Any], None] = pb_grpc.add_InferenceServiceServicer_to_server
    try:
        async with serve((register, InferenceServicer(host))) as (channel, _):
            yield Host(pb_grpc.InferenceServiceStub(channel), engine, reference)
    finally:
        await host.close(0)


class InferenceContract:
    """Subclass it; pytest collects the subclass. One engine serves all its tests."""

    pytestmark = pytest.mark.asyncio(loop_scope="module")

    async def test_greedy_answers_are_the_likeliest_tokens(self, host: Host) -> None:
        model, codec = host.reference.backend.model, host.reference.codec
        tokens = [*model.bos_ids, *codec.tokenize(PROMPT, special=False)]
        expected = greedy_reference(host.reference, tokens, 24)
        text = b"".join(map(codec.token_bytes, expected)).decode("utf-8", "replace")
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
        assert completion.model_digest == host.model.digest
        usage = completion.usage
        assert usage.compute_us == usage.prefill_us + usage.decode_us > 0

    async def test_repeated_prompts_reuse_state_and_answer_the_same(self, host: Host) -> None:
        prompt = "Once more: " + PROMPT * 4
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
        codec = host.reference.codec
        rendered = codec.render_chat([ChatMessage("user", "hello")])
        tokens = codec.tokenize(rendered, special=True)
        answer = await host.complete(messages=[user("hello")])
        count = len(tokens) + len(host.reference.backend.model.bos_ids)
        assert answer.completion.usage.input_token_count == count

    async def test_content_that_spells_control_tokens_stays_text(self, host: Host) -> None:
        special = max(host.reference.codec.special_texts, key=len)
        plain = await host.complete(messages=[user("x")])
        tricky = await host.complete(messages=[user(f"x{special}")])
        longer = (
            tricky.completion.usage.input_token_count - plain.completion.usage.input_token_count
        )
        assert longer > 1

    async def test_what_does_not_fit_the_context_is_refused(self, host: Host) -> None:
        length = host.model.context_length
        error = await error_of(host.complete(max_tokens=length))
        assert isinstance(error, InvalidArgument)
        assert error.field == "input.max_tokens"
        assert error.metadata["context_length"] == str(length)
        assert error.metadata["max_tokens"] == str(length)
        error = await error_of(host.complete(prompt="xyz " * length))
        assert isinstance(error, InvalidArgument)
        assert error.reason == "CONTEXT_EXCEEDED"

    async def test_the_answer_ends_with_the_context(self, host: Host) -> None:
        length = host.model.context_length
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
        room = host.model.context_length // 2
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

    async def test_json_schema_answers_follow_it(self, host: Host) -> None:
        wanted = pb.ResponseFormat(kind=JSON_SCHEMA, json_schema=json.dumps(SCHEMA))
        document = json.loads(
            (await host.complete(response_format=wanted, max_tokens=200)).text
        )
        assert set(document) == {"found", "colour"}
        assert isinstance(document["found"], bool)
        assert document["colour"] in ("red", "green")

    async def test_models_are_listed_as_they_are(self, host: Host) -> None:
        listed = await host.stub.ListModels(pb.ListModelsRequest())
        model = host.reference.backend.model
        assert [one.name for one in listed.models] == [model.name]
        assert listed.models[0].digest == model.digest
        assert listed.models[0].context_length == model.context_length
        assert pb.CAPABILITY_CHAT in listed.models[0].capabilities

    async def test_load_is_reported_at_once_and_again_when_it_changes(self, host: Host) -> None:
        watch = host.stub.WatchLoad(pb.WatchLoadRequest())
        first = (await watch.read()).load
        assert first.state == pb.ENGINE_STATE_READY
        assert first.capacity_request_count == 4
        assert first.kv_token_capacity > 0
        assert first.speeds[0].decode_tokens_per_second > 0
        await host.idle()
        again = (await watch.read()).load  # comes although nothing changed
        assert again.speeds[0].token_interval_us > 0
        watch.cancel()

    async def test_many_at_once_all_get_the_right_answer(self, host: Host) -> None:
        prompts = [f"{number} {PROMPT}" for number in range(8)]
        alone = [(await host.complete(prompt=prompt)).text for prompt in prompts]
        together = await asyncio.gather(*(host.complete(prompt=prompt) for prompt in prompts))
        assert [answer.text for answer in together] == alone

    async def test_several_answers_to_one_prompt_pay_for_it_once(self, host: Host) -> None:
        sampling = pb.SamplingParams(temperature=1.5, seed=7)
        prompt = "Several: " + PROMPT * 4
        answer = await host.complete(candidate_count=3, sampling=sampling, prompt=prompt)
        assert len({candidate.text for candidate in answer.candidates}) == 3
        assert answer.text == answer.candidates[0].text
        usage = answer.completion.usage
        assert usage.output_token_count == 3 * 24
        again = await host.complete(candidate_count=3, sampling=sampling, prompt=prompt)
        assert [one.text for one in again.candidates] == [one.text for one in answer.candidates]
        alone = await host.complete(sampling=sampling, prompt=prompt)
        assert alone.text == answer.candidates[0].text
        assert usage.input_token_count == alone.completion.usage.input_token_count

    async def test_biased_tokens_come_and_banned_ones_do_not(self, host: Host) -> None:
        free = await host.complete(logprobs=True, max_tokens=1)
        codec = host.reference.codec
        model = host.reference.backend.model
        tokens = [*model.bos_ids, *codec.tokenize(PROMPT, special=False)]
        first = greedy_reference(host.reference, tokens, 1)[0]
        banned = await host.complete(
            sampling=pb.SamplingParams(logit_bias={first: -100.0}), logprobs=True, max_tokens=1
        )
        # Two tokens may have one text, but hardly one probability.
        assert banned.logprobs[0] != free.logprobs[0]
        letter = codec.tokenize("a", special=False)[0]
        forced = await host.complete(
            sampling=pb.SamplingParams(temperature=2.0, logit_bias={letter: 100.0}),
            max_tokens=4,
        )
        assert forced.text == 4 * codec.token_bytes(letter).decode()

    async def test_unknown_adapters_are_refused(self, host: Host) -> None:
        error = await error_of(host.complete(adapter="nobody"))
        assert isinstance(error, NotFound) and error.reason == "ADAPTER_NOT_FOUND"

    async def test_embeddings_are_vectors_of_length_one_or_refused(self, host: Host) -> None:
        call = host.stub.Embed(pb.EmbedRequest(model=host.model.name, texts=["green", "red"]))
        if pb.CAPABILITY_EMBEDDINGS not in host.model.capabilities:
            assert isinstance(await error_of(call), Unimplemented)
            return
        answer = await call
        for one in answer.embeddings:
            assert len(one.values) == host.model.embedding_dimension
            assert math.isclose(math.hypot(*one.values), 1.0, rel_tol=1e-5)
        assert answer.usage.input_token_count > 0 and answer.usage.compute_us > 0

    async def test_all_metered_time_is_the_time_the_engine_was_busy(
        self, spawn: Callable[[], Child]
    ) -> None:
        told: list[pb.Completion] = []

        class Told:
            def request_done(self, completion: pb.Completion) -> None:
                told.append(completion)

        engine = RemoteEngine(spawn, Patience(), Told())
        await engine.start()
        try:
            await asyncio.gather(
                *(_drain(engine, f"{number} {PROMPT}") for number in range(12))
            )
            await eventually(
                lambda: sum(end.usage.compute_us for end in told) == engine.report.busy_us > 0,
                what="the engine's last report",
            )
        finally:
            await engine.close(0)


async def _drain(engine: RemoteEngine, prompt: str) -> None:
    given = pb.GenerationInput(prompt=prompt, max_tokens=16)
    async for _ in engine.generate(pb.GenerateRequest(model=engine.info.name, input=given)):
        pass
