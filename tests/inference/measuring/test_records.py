"""Measured against a running service, kept beside the models, put side by side."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from tests.support.plain_gguf import write_gguf

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1 import inference_pb2_grpc as pb_grpc
from farthing.inference.measuring.asking import ask_all, find_served
from farthing.inference.measuring.records import (
    Circumstances,
    find_reference,
    list_variants,
    record,
)
from farthing.inference.measuring.scoring import Answer
from farthing.inference.measuring.tasks import Task, TaskFile
from farthing.inference.store import GcWishes, ModelStore
from farthing.inference.store.artefact import find_artefact
from farthing.inference.store.publish import Origin
from farthing.kit.errors import FailedPrecondition, InvalidArgument, Unavailable
from farthing.kit.testing import serve

FILE = TaskFile(
    "tasks.jsonl",
    "f" * 64,
    (
        Task("1", "sum", "easy", (("user", "1+1"),), "", "2"),
        Task("2", "sum", "easy", (("system", "add"), ("user", "1+2")), "", "3"),
        Task("3", "say", "all", (), "Say hi", "hi"),
    ),
)
CIRCUMSTANCES = Circumstances(
    "2026-05-01T00:00:00+00:00", "farthing models measure m", "edge", "lab", 0.1, 1, 5
)
_REGISTER = pb_grpc.add_InferenceServiceServicer_to_server


class Answering(pb_grpc.InferenceServiceServicer):
    """Answers from a table; None refuses, an error is raised."""

    def __init__(self, digest: str, answers: dict[str, Any]) -> None:
        self.digest, self.answers = digest, answers
        self.requests: list[pb.GenerateRequest] = []

    async def Generate(self, request: Any, context: Any) -> AsyncGenerator[pb.GenerateResponse]:
        raise AssertionError("answers are wanted whole")
        yield

    async def WatchLoad(
        self, request: Any, context: Any
    ) -> AsyncGenerator[pb.WatchLoadResponse]:
        raise AssertionError("nobody asks for the load")
        yield

    async def Relay(self, requests: Any, context: Any) -> AsyncGenerator[pb.RelayResponse]:
        raise AssertionError("nobody keeps a call")
        yield

    async def Embed(self, request: Any, context: Any) -> pb.EmbedResponse:
        raise AssertionError("nobody asks for vectors")

    async def ListModels(self, request: Any, context: Any) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[pb.ModelInfo(name="served", digest=self.digest)])

    async def Complete(self, request: pb.CompleteRequest, context: Any) -> pb.CompleteResponse:
        asked = request.request
        self.requests.append(asked)
        last = asked.input.messages[-1].content[0].text if asked.input.messages else ""
        text = self.answers[last or asked.input.prompt]
        if text is None:
            raise InvalidArgument("too long", field="input")
        if isinstance(text, Exception):
            raise text
        usage = common_pb2.Usage(
            input_token_count=12,
            cached_input_token_count=2,
            output_token_count=5,
            prefill_us=100,
            decode_us=1000,
        )
        return pb.CompleteResponse(text=text, completion=pb.Completion(usage=usage))


async def ask(servicer: Answering, concurrency: int = 1) -> dict[str, Answer]:
    heard: list[Answer] = []
    async with serve((_REGISTER, servicer)) as (channel, address):
        info = await find_served(channel, servicer.digest, address)
        answers = await ask_all(
            channel,
            info.name,
            FILE.tasks,
            max_tokens=64,
            concurrency=concurrency,
            on_answer=heard.append,
        )
    assert {one.task_id for one in heard} == answers.keys()
    return answers


async def test_every_task_is_asked_greedily_and_its_usage_kept() -> None:
    servicer = Answering("d", {"1+1": "2", "1+2": "4", "Say hi": "hi"})
    answers = await ask(servicer)
    assert {key: one.text for key, one in answers.items()} == {"1": "2", "2": "4", "3": "hi"}
    assert answers["1"] == Answer("1", "2", 10, 5, 100, 1000)
    first, second, third = servicer.requests
    assert first.model == "served" and first.input.max_tokens == 64
    assert first.input.sampling.HasField("temperature")
    assert [message.role for message in second.input.messages] == [pb.ROLE_SYSTEM, pb.ROLE_USER]
    assert third.input.prompt == "Say hi"


async def test_a_task_too_long_for_the_model_counts_as_wrong_and_others_go_on() -> None:
    answers = await ask(Answering("d", {"1+1": None, "1+2": "3", "Say hi": "hi"}), 3)
    assert answers["1"].refused and answers["1"].text == ""
    assert answers["2"].text == "3"


async def test_a_service_that_fails_ends_the_measurement_with_its_error() -> None:
    failing = {"1+1": "2", "1+2": Unavailable("going", reason="CLOSING"), "Say hi": "hi"}
    with pytest.raises(Unavailable, match="going"):
        await ask(Answering("d", failing), 2)


async def test_another_model_at_the_address_is_not_measured_by_mistake() -> None:
    async with serve((_REGISTER, Answering("d" * 64, {}))) as (channel, address):
        with pytest.raises(FailedPrecondition, match="does not serve this model but served"):
            await find_served(channel, "e" * 64, address)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """`chat` and its variant `chat-q8_0`."""
    store = ModelStore(tmp_path / "models")
    first = store.add(write_gguf(tmp_path / "a.gguf", seed=1), "chat")
    derived = {"name": "chat", "digest": first.digest, "root_digest": first.digest}
    artefact = find_artefact(write_gguf(tmp_path / "b.gguf", seed=2))
    origin = Origin("quantized:chat", artefact, card={}, provenance={"derived_from": derived})
    store.publish(origin, "chat-q8_0")
    return store


def note(store: ModelStore, name: str, *texts: str) -> None:
    model = store.resolve(name)
    answers = {
        task.id: Answer(task.id, text, 10, 5, 100, 1000)
        for task, text in zip(FILE.tasks, texts, strict=False)
    }
    file = TaskFile(FILE.name, FILE.sha256, FILE.tasks[: len(texts)])
    record(store, model, file, answers, CIRCUMSTANCES, find_reference(store, model))


def test_figures_go_into_the_card_with_time_and_command(store: ModelStore) -> None:
    note(store, "chat", "2", "4", "hi")
    model = store.resolve("chat")
    assert model.card["task_quality"]["sum"]["easy"] == {"exact_match_ratio": 0.5, "n": 2}
    assert model.card["bytes_per_token"] == pytest.approx(4 / 15, abs=0.001)
    measured = model.measured
    assert (measured["time"][:10], measured["command"]) == (
        "2026-05-01",
        "farthing models measure m",
    )
    assert measured["tasks"] == {"name": "tasks.jsonl", "sha256": "f" * 64, "count": 3}
    assert measured["prefill_tokens_per_s"] == 100_000.0
    assert measured["memory_bytes"] == 5 and measured["size_bytes"] == model.size_bytes


def test_variants_stand_side_by_side_with_their_likeness(store: ModelStore) -> None:
    note(store, "chat-q8_0", "2", "4", "ha")
    before = {row.name: row for row in list_variants(store, "chat-q8_0")}
    assert list(before) == ["chat", "chat-q8_0"]
    assert before["chat"].is_reference and before["chat"].measured is None
    assert before["chat-q8_0"].agreement is None  # the original has not answered yet
    note(store, "chat", "2", "3", "hi")
    likeness = {row.name: row.agreement for row in list_variants(store, "chat")}["chat-q8_0"]
    assert likeness is not None
    assert (likeness.same_count, likeness.answer_count) == (1, 3)
    assert likeness.mean_prefix_ratio == 0.5


def test_likeness_is_taken_over_the_tasks_that_both_answered(store: ModelStore) -> None:
    note(store, "chat", "2", "3", "hi")
    note(store, "chat-q8_0", "2")
    likeness = list_variants(store, "chat")[1].agreement
    assert likeness is not None and likeness.answer_count == 1


def test_models_of_another_origin_are_compared_when_named(
    store: ModelStore, tmp_path: Path
) -> None:
    store.add(write_gguf(tmp_path / "c.gguf", seed=3), "other")
    assert [row.name for row in list_variants(store, "other")] == ["other"]
    note(store, "chat", "2", "3", "hi")
    note(store, "other", "2", "3", "hu")
    rows = list_variants(store, "other", ("chat-q8_0",), against="chat")
    assert {row.name for row in rows} == {"chat", "chat-q8_0", "other"}
    likeness = next(row.agreement for row in rows if row.name == "other")
    assert likeness is not None and likeness.same_count == 2


def test_answers_leave_with_their_model(store: ModelStore) -> None:
    note(store, "chat", "2", "3", "hi")
    assert len(list(store.contents.answers.rglob("*.json"))) == 1
    store.remove("chat")
    assert list(store.contents.answers.rglob("*.json")) == []
    assert store.collect(GcWishes()).what == ()
