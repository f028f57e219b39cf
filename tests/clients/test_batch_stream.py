"""Natural batches over one kept call, over a real socket: order, company, loss, deadlines, and answers nobody wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import pytest

from farthing.clients.batch_stream import BatchStream, Waiting
from farthing.kit.errors import FarthingError, Internal, ResourceExhausted, Unavailable
from farthing.kit.rpc.channel import open_channel
from farthing.kit.testing import eventually

_METHOD = "Shout"


class Peer:
    """A server that answers each message of comma-separated words with the same words, shouted."""

    def __init__(self) -> None:
        self.messages: list[list[str]] = []
        self.call_count = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.breaks = False
        self.short = False

    async def shout(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self.call_count += 1
        async for request in requests:
            words = request.decode().split(",")
            self.messages.append(words)
            await self.gate.wait()
            if self.breaks:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "broken")
            yield ",".join(words[1:] if self.short else words).upper().encode()


class Lab:
    """A stream to the peer, and what became of what it lost."""

    def __init__(
        self,
        peer: Peer,
        channel: grpc.aio.Channel,
        *,
        deadline_s: float = 20.0,
        open_call: Callable[[], Any] | None = None,
    ) -> None:
        self.peer = peer
        self.lost: list[tuple[list[str], FarthingError]] = []
        self.abandoned: list[tuple[str, str]] = []
        method: Any = channel.stream_stream(f"/test/{_METHOD}")
        self.stream: BatchStream[str, str] = BatchStream(
            open_call or method,
            encode=lambda words: ",".join(words).encode(),
            decode=lambda words, message: [
                word for word in message.decode().split(",") if word
            ],
            deadline_s=deadline_s,
            on_lost=self._on_lost,
            on_abandoned=lambda word, answer: self.abandoned.append((word, answer)),
            max_batch_count=8,
            max_waiting_count=16,
        )

    def _on_lost(self, waiting: Sequence[Waiting[str, str]], error: FarthingError) -> None:
        self.lost.append(([one.item for one in waiting], error))
        for one in waiting:
            if not one.waiter.done():
                one.waiter.set_exception(error)

    async def hold(self, word: str) -> asyncio.Future[str]:
        """Submit a word whose answer the peer keeps back."""
        self.peer.gate.clear()
        held = self.stream.submit(word)
        await eventually(lambda: self.peer.messages[-1:] == [[word]])
        return held


@pytest.fixture
async def peer_channel() -> AsyncIterator[tuple[Peer, grpc.aio.Channel]]:
    peer, server = Peer(), grpc.aio.server()
    handler: Any = grpc.stream_stream_rpc_method_handler(peer.shout)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test", {_METHOD: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = open_channel(f"127.0.0.1:{port}")
    yield peer, channel
    peer.gate.set()
    await channel.close()
    await server.stop(0)


@pytest.fixture
async def lab(peer_channel: tuple[Peer, grpc.aio.Channel]) -> AsyncIterator[Lab]:
    lab = Lab(*peer_channel)
    yield lab
    await lab.stream.close()


async def test_each_gets_its_own_answer_over_one_call(lab: Lab) -> None:
    for _ in range(3):
        words = [f"w{number}" for number in range(12)]
        answers = await asyncio.gather(*map(lab.stream.submit, words))
        assert answers == [word.upper() for word in words]
    assert lab.peer.call_count == 1


async def test_items_of_one_turn_leave_together_in_batches_of_bounded_size(lab: Lab) -> None:
    words = [f"w{number}" for number in range(12)]
    await asyncio.gather(*map(lab.stream.submit, words))
    assert lab.peer.messages == [words[:8], words[8:]]


async def test_items_that_come_during_a_message_leave_together_after_its_answer(
    lab: Lab,
) -> None:
    held = await lab.hold("first")
    later = [lab.stream.submit("a"), lab.stream.submit("b")]
    lab.peer.gate.set()
    assert [await answer for answer in (held, *later)] == ["FIRST", "A", "B"]
    assert lab.peer.messages == [["first"], ["a", "b"]]


async def test_an_item_that_is_cancelled_before_it_leaves_is_not_sent(lab: Lab) -> None:
    held = await lab.hold("first")
    lab.stream.submit("gone").cancel()
    kept = lab.stream.submit("kept")
    lab.peer.gate.set()
    assert (await held, await kept) == ("FIRST", "KEPT")
    assert lab.peer.messages == [["first"], ["kept"]]
    assert lab.abandoned == []


async def test_an_answer_that_nobody_waits_for_is_handed_over(lab: Lab) -> None:
    (await lab.hold("first")).cancel()
    lab.peer.gate.set()
    await eventually(lambda: lab.abandoned == [("first", "FIRST")])


async def test_a_lost_call_gives_up_all_that_wait_and_the_next_item_begins_another(
    lab: Lab,
) -> None:
    sent, queued = await lab.hold("sent"), lab.stream.submit("queued")
    lab.peer.breaks = True
    lab.peer.gate.set()
    results = await asyncio.gather(sent, queued, return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    assert [words for words, _ in lab.lost] == [["sent", "queued"]]
    lab.peer.breaks = False
    assert await lab.stream.submit("again") == "AGAIN"
    assert lab.peer.call_count == 2


async def test_what_was_sent_is_given_up_too_when_its_caller_has_gone(lab: Lab) -> None:
    (await lab.hold("sent")).cancel()
    lab.peer.breaks = True
    lab.peer.gate.set()
    await eventually(lambda: [words for words, _ in lab.lost] == [["sent"]])


async def test_no_answer_in_time_ends_the_call(
    peer_channel: tuple[Peer, grpc.aio.Channel],
) -> None:
    lab = Lab(*peer_channel, deadline_s=0.2)
    held = await lab.hold("slow")
    with pytest.raises(Unavailable) as caught:
        await held
    assert caught.value.reason == "DEADLINE"
    lab.peer.gate.set()

    async def answered() -> bool:
        try:
            return await lab.stream.submit("next") == "NEXT"
        except Unavailable:
            return False

    await eventually(answered)
    await lab.stream.close()


async def test_an_answer_of_the_wrong_size_is_the_peers_error(lab: Lab) -> None:
    lab.peer.short = True
    results = await asyncio.gather(
        lab.stream.submit("a"), lab.stream.submit("b"), return_exceptions=True
    )
    assert all(isinstance(result, Internal) for result in results)


async def test_nobody_there_is_said_to_all(peer_channel: tuple[Peer, grpc.aio.Channel]) -> None:
    def nobody() -> Any:
        raise Unavailable("no such service is known", reason="SERVICE_UNKNOWN")

    peer, channel = peer_channel
    lab = Lab(peer, channel, open_call=nobody)
    with pytest.raises(Unavailable) as caught:
        await lab.stream.submit("a")
    assert caught.value.reason == "SERVICE_UNKNOWN"


async def test_too_many_waiting_are_refused(lab: Lab) -> None:
    held = await lab.hold("first")
    waiting = [lab.stream.submit(f"w{number}") for number in range(16)]
    with pytest.raises(ResourceExhausted):
        lab.stream.submit("one more")
    lab.peer.gate.set()
    await asyncio.gather(held, *waiting)


async def test_closing_fails_what_waits_and_refuses_the_rest(lab: Lab) -> None:
    held = await lab.hold("first")
    await lab.stream.close()
    with pytest.raises(Unavailable) as caught:
        await held
    assert caught.value.reason == "CLIENT_CLOSED"
    with pytest.raises(Unavailable):
        lab.stream.submit("late")
