"""Models come and go under traffic: real engine processes, a toy for a library."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from tests.support.toy_backend import END, toy_answer

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.inference.core.card import Canary
from farthing.inference.host import ModelHost
from farthing.inference.process.child import Child, start_child
from farthing.inference.process.remote import Patience, RemoteEngine
from farthing.inference.residents import Prepared, Residents, Wish
from farthing.inference.store import StoredModel
from farthing.kit.errors import (
    AlreadyExists,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from farthing.kit.testing import eventually

# As the toy's chat template has it.
ANSWER = toy_answer("user: hello\nassistant: ", 256)
RIGHT, WRONG = Canary("hello", ANSWER), Canary("hello", "something else")


def wish(model: str, name: str = "", **more: Any) -> Wish:
    """A stored model by its name."""
    stored = StoredModel(model, "", "gguf", Path(model), 1, None, {}, "")
    return Wish(model, lambda: stored, name, **more)


class Node:
    """A host with room for two and a half models. "broken" ends while it loads, "mistaken" has a wrong card."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.children: dict[str, list[Child]] = {}
        self.released: list[str] = []
        self.remembered: list[dict[str, str]] = []
        self.may_prepare = threading.Event()
        self.may_prepare.set()
        self.host = ModelHost(self._tick, is_stored=lambda name: name == "stored")
        self.residents = Residents(
            self.host,
            self._prepare,
            lambda prepared: RemoteEngine(prepared.spawn, Patience(start_s=60)),
            limit_bytes=250,
            drain_s=30,
            remember=lambda serving: self.remembered.append(dict(serving)),
            now_s=self._tick,
        )

    async def ask(self, model: str, prompt: str, **values: object) -> str:
        given = pb.GenerationInput(prompt=prompt, max_tokens=20, **values)  # type: ignore[arg-type]
        text = ""
        async with self.host.use(model) as engine:
            request = pb.GenerateRequest(model=model, input=given)
            async with aclosing(engine.generate(request)) as events:
                async for event in events:
                    text += event.delta.text
        return text

    def names(self) -> list[str]:
        return [model.name for model in self.host.models()]

    def _tick(self) -> float:
        self.now_s += 1
        return self.now_s

    def _prepare(self, stored: StoredModel, name: str) -> Prepared:
        self.may_prepare.wait()
        model = stored.name
        served = name or model

        def spawn() -> Child:
            child = start_child(
                "tests.support.toy_backend", ["broken" if model == "broken" else served, "0.01"]
            )
            self.children.setdefault(served, []).append(child)
            return child

        canaries = (WRONG,) if model == "mistaken" else ()
        return Prepared(served, 100, spawn, lambda: self.released.append(model), canaries)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    await node.residents.load(wish("a"), lasting=False)
    yield node
    node.may_prepare.set()
    await node.residents.close()


async def test_several_models_are_served_side_by_side(node: Node) -> None:
    await node.residents.load(wish("b"))
    answers = await asyncio.gather(node.ask("a", "hello"), node.ask("b", "hello"))
    assert set(answers) == {toy_answer("hello", 20)}
    assert node.names() == ["a", "b"]
    with pytest.raises(AlreadyExists):
        await node.residents.load(wish("b"))
    with pytest.raises(NotFound) as caught:
        await node.ask("stored", "hello")
    assert caught.value.reason == "MODEL_NOT_LOADED"


async def test_a_swap_under_traffic_fails_no_request(node: Node) -> None:
    stop = asyncio.Event()
    answers: list[str] = []

    async def keep_asking() -> None:
        while not stop.is_set():
            answers.append(await node.ask("a", "hello"))

    askers = [asyncio.create_task(keep_asking()) for _ in range(4)]
    await eventually(lambda: len(answers) >= 4)
    before = node.host.models()[0]
    await node.residents.load(wish("new", "a", swap=True))
    count = len(answers)
    await eventually(lambda: len(answers) >= count + 8)
    stop.set()
    await asyncio.gather(*askers)
    assert set(answers) == {toy_answer("hello", 20)}
    old, new = node.children["a"]
    await eventually(lambda: old.process.poll() is not None, what="the old engine's end")
    assert new.process.poll() is None
    assert node.released == ["a"]
    assert before.name == node.host.models()[0].name


async def test_what_does_not_start_or_answers_wrongly_changes_nothing(node: Node) -> None:
    with pytest.raises(Unavailable):
        await node.residents.load(wish("broken", "a", swap=True))
    half = wish("worse", "a", swap=True, canaries=[WRONG, RIGHT], least_ratio=0.9)
    with pytest.raises(FailedPrecondition) as caught:
        await node.residents.load(half)
    assert caught.value.reason == "CANARY_FAILED"
    assert caught.value.metadata["ratio"] == "0.5000"
    with pytest.raises(FailedPrecondition):
        await node.residents.load(wish("mistaken", "a", swap=True))
    assert node.released == ["broken", "worse", "mistaken"]
    assert await node.ask("a", "hello") == toy_answer("hello", 20)
    first, *others = node.children["a"]
    assert first.process.poll() is None
    await eventually(lambda: all(one.process.poll() is not None for one in others))
    await node.residents.load(wish("better", "a", swap=True, canaries=[RIGHT]))
    await node.residents.load(wish("mistaken", "a", swap=True, canaries=[RIGHT]))


async def test_the_model_that_was_used_least_recently_makes_room(node: Node) -> None:
    await node.residents.load(wish("b"))
    await node.ask("a", "hello")
    loaded = await node.residents.load(wish("c"))
    assert loaded.unloaded == ("b",)
    assert node.names() == ["a", "c"]
    with pytest.raises(NotFound):
        await node.ask("b", "hello")


async def test_a_model_with_requests_stays_and_the_newcomer_is_refused(node: Node) -> None:
    await node.residents.load(wish("b"))
    endless = pb.SamplingParams(logit_bias={END: -100.0})
    under_way = [
        asyncio.create_task(node.ask(name, "hello", sampling=endless)) for name in ("a", "b")
    ]
    await eventually(lambda: all(use.user_count for use in node.host.uses().values()))
    with pytest.raises(ResourceExhausted) as caught:
        await node.residents.load(wish("c"))
    assert caught.value.reason == "MODELS_LIMIT"
    assert all(len(text) for text in await asyncio.gather(*under_way))
    assert node.names() == ["a", "b"]


async def test_who_made_room_for_a_model_that_fails_comes_back(node: Node) -> None:
    await node.residents.load(wish("b"))
    with pytest.raises(FailedPrecondition):
        await node.residents.load(wish("mistaken"))
    assert node.names() == ["a", "b"]
    assert node.released == ["mistaken"]
    assert await node.ask("a", "hello") == toy_answer("hello", 20)
    loaded = await node.residents.load(wish("c"))
    assert loaded.unloaded == ("b",)


async def test_a_change_goes_on_when_whoever_asked_has_gone(node: Node) -> None:
    node.may_prepare.clear()
    asking = asyncio.create_task(node.residents.load(wish("new", "a", swap=True)))
    waiting = asyncio.create_task(node.residents.load(wish("b")))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    node.may_prepare.set()
    await waiting
    old, new = node.children["a"]
    assert old.process.poll() is not None and new.process.poll() is None
    assert node.released == ["a"] and node.names() == ["a", "b"]


async def test_a_change_that_is_under_way_does_not_hold_up_the_end(node: Node) -> None:
    node.may_prepare.clear()
    asking = asyncio.create_task(node.residents.load(wish("b")))
    await asyncio.sleep(0)
    await node.residents.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert node.children["a"][0].process.poll() is not None
    node.may_prepare.set()
    assert "b" not in node.children


async def test_an_unloaded_model_lets_its_requests_end(node: Node) -> None:
    await node.ask("a", "hello")  # it has been idle since
    under_way = asyncio.create_task(node.ask("a", "hello"))
    await eventually(lambda: node.host.uses()["a"].user_count == 1)
    version = node.host.load()[1].models_version
    unloading = asyncio.create_task(node.residents.unload("a"))
    assert await under_way == toy_answer("hello", 20)
    await unloading
    assert node.children["a"][0].process.poll() is not None
    assert node.host.load()[1].models_version != version
    with pytest.raises(NotFound):
        await node.residents.unload("a")


async def test_changes_are_remembered_and_what_was_served_comes_back(node: Node) -> None:
    await node.residents.load(wish("b"))
    with pytest.raises(FailedPrecondition):
        await node.residents.load(wish("mistaken"))
    await node.residents.load(wish("new", "a", swap=True))
    await node.ask("a", "hello")
    await node.residents.load(wish("c"))
    await node.residents.unload("a")
    assert node.remembered == [
        {"a": "a", "b": "b"},
        {"a": "new"},
        {"a": "new", "c": "c"},
        {"c": "c"},
    ]
    await node.residents.unload("c")
    wishes = [wish("broken"), wish("new", "a"), wish("b")]
    engine = await node.residents.restore(wishes)
    assert engine is not None
    assert node.names() == ["a", "b"]
    assert len(node.remembered) == 5
    # What was taken with canaries of its own, or a lower share of right ones, is not lost to its card's.
    await node.residents.unload("b")
    assert await node.residents.restore([wish("mistaken")]) is not None
    assert await node.residents.restore([wish("broken")]) is None
