from __future__ import annotations

import asyncio
import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.outboxes import FAST, Outboxes, Receiver, drain

from farthing.clients.outbox import Entry, LaneLimits, Outbox
from farthing.kit.errors import (
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from farthing.kit.journal import MAX_NAME_LENGTH, MAX_PAYLOAD_BYTES
from farthing.kit.testing import FakeClock, eventually


async def test_entries_arrive_in_order_and_leave_the_disk(outboxes: Outboxes) -> None:
    outbox, receiver = await outboxes.open(), Receiver()
    outbox.attach("charge", receiver.deliver)
    for n in range(20):
        outbox.append("charge", f"id{n:02}", b"%d" % n)
    await drain(outbox)
    assert receiver.ids == [f"id{n:02}" for n in range(20)]
    assert [entry.payload for entry in receiver.entries] == [b"%d" % n for n in range(20)]
    await outbox.close()
    again = await outboxes.open()
    assert again.stats().depth_count == 0
    await drain(again)


async def test_more_than_the_window_in_memory_arrives_in_order_too(outboxes: Outboxes) -> None:
    outbox, receiver = await outboxes.open(), Receiver()
    for n in range(50):
        outbox.append("charge", f"id{n:02}", b"x")
        outbox.append("settle", f"id{n:02}", b"y")
    await outbox.flush()
    outbox.attach("charge", receiver.deliver)
    for n in range(50, 80):
        await outbox.append_durable("charge", f"id{n:02}", b"x")
    other = Receiver()
    outbox.attach("settle", other.deliver)
    await drain(outbox)
    assert receiver.ids == [f"id{n:02}" for n in range(80)]
    assert other.ids == [f"id{n:02}" for n in range(50)]


async def test_a_receiver_that_is_down_gets_everything_once_it_is_back(
    outboxes: Outboxes,
) -> None:
    outbox, receiver = await outboxes.open(), Receiver()
    receiver.is_down = True
    outbox.attach("charge", receiver.deliver)
    for n in range(10):
        outbox.append("charge", f"id{n}", b"x")
    await eventually(lambda: outbox.stats().retry_count >= 3)
    assert outbox.stats().depth_count == 10
    receiver.is_down = False
    await drain(outbox)
    assert receiver.ids == [f"id{n}" for n in range(10)]
    assert outbox.stats().delivered_count == 10


async def test_what_is_left_goes_out_after_a_restart(outboxes: Outboxes) -> None:
    outbox, receiver = await outboxes.open(), Receiver()
    for n in range(30):
        outbox.append("charge", f"id{n:02}", b"x")
    await outbox.close()
    outbox = await outboxes.open()
    assert outbox.stats().depth_count == 30
    outbox.attach("charge", receiver.deliver)
    outbox.append("charge", "later", b"x")
    await drain(outbox)
    assert receiver.ids == [*(f"id{n:02}" for n in range(30)), "later"]


async def test_half_delivered_before_a_restart_is_half_delivered_after_it(
    outboxes: Outboxes,
) -> None:
    outbox, receiver = await outboxes.open(), Receiver()
    outbox.attach("charge", receiver.deliver)
    for n in range(10):
        outbox.append("charge", f"id{n}", b"x")
        outbox.append("settle", f"id{n}", b"x")
    await eventually(lambda: outbox.stats().delivered_count == 10)
    await outbox.close()
    outbox = await outboxes.open()
    assert outbox.stats().depth_count == 10
    outbox.attach("charge", receiver.deliver)
    outbox.attach("settle", receiver.deliver)
    await drain(outbox)
    assert [entry.kind for entry in receiver.entries] == ["charge"] * 10 + ["settle"] * 10


async def test_a_batch_that_arrived_says_nothing_of_the_next(outboxes: Outboxes) -> None:
    outbox, receiver = await outboxes.open(), Receiver()

    async def deliver_once(entries: Sequence[Entry]) -> Mapping[int, str]:
        refused = await receiver.deliver(entries)
        receiver.is_down = True
        return refused

    for n in range(3 * FAST.max_batch_count):
        outbox.append("charge", f"id{n:02}", b"x")
    outbox.attach("charge", deliver_once)
    await eventually(lambda: outbox.stats().retry_count)
    await outbox.close()
    receiver.is_down = False
    outbox = await outboxes.open()
    assert outbox.stats().depth_count == 2 * FAST.max_batch_count
    outbox.attach("charge", receiver.deliver)
    await drain(outbox)
    assert receiver.ids == [f"id{n:02}" for n in range(3 * FAST.max_batch_count)]


async def test_an_entry_that_comes_while_others_are_written_waits_for_nobody_else(
    outboxes: Outboxes,
) -> None:
    outbox = await outboxes.open()
    async with asyncio.timeout(20):
        for n in range(100):
            first = asyncio.create_task(outbox.append_durable("charge", f"a{n}", b"x"))
            for _ in range(2):  # its round, if there are rounds, is under way then
                await asyncio.sleep(0)
            await outbox.append_durable("charge", f"b{n}", b"x")
            await first
    assert outbox.stats().depth_count == 200


async def test_ids_are_the_receivers_affair(outboxes: Outboxes) -> None:
    outbox, refused = await outboxes.open(), dict[int, str]()
    known: dict[str, bytes] = {}

    async def deliver(entries: Sequence[Entry]) -> Mapping[int, str]:
        new = {
            entry.sequence: "CONFLICT"
            for entry in entries
            if known.setdefault(entry.id, entry.payload) != entry.payload
        }
        refused.update(new)
        return new

    for payload in (b"1", b"1", b"2"):
        await outbox.append_durable("charge", "a", payload)
    outbox.attach("charge", deliver)
    await drain(outbox)
    stats = outbox.stats()
    assert known == {"a": b"1"} and len(refused) == 1
    assert (stats.delivered_count, stats.refused_count) == (2, 1)


async def test_a_full_outbox_refuses_and_has_room_again_after_delivery(
    outboxes: Outboxes,
) -> None:
    outbox, receiver = await outboxes.open(max_entry_count=2), Receiver()
    outbox.append("charge", "a", b"x")
    outbox.require_room(1)
    outbox.append("charge", "b", b"x")
    for append in (outbox.append, outbox.append_durable):
        with pytest.raises(ResourceExhausted) as caught:
            await _call(append, "charge", "c", b"x")
        assert caught.value.reason == "OUTBOX_FULL"
    outbox.attach("charge", receiver.deliver)
    await drain(outbox)
    outbox.append("charge", "c", b"x")
    await drain(outbox)
    assert receiver.ids == ["a", "b", "c"]


async def _call(append: object, *arguments: object) -> None:
    assert callable(append)
    answer = append(*arguments)
    if answer is not None:
        await answer


async def test_a_full_outbox_is_still_full_after_a_restart(outboxes: Outboxes) -> None:
    outbox = await outboxes.open(max_entry_count=20)
    for n in range(20):
        outbox.append("charge", f"id{n}", b"x")
    await outbox.close()
    outbox = await outboxes.open(max_entry_count=20)
    with pytest.raises(ResourceExhausted):
        outbox.require_room()


async def test_what_is_refused_for_good_is_set_aside_and_holds_up_nobody(
    outboxes: Outboxes,
) -> None:
    outbox, receiver = await outboxes.open(), Receiver()
    receiver.refused = {"b": "CONFLICT"}
    receiver.malformed = {"d"}
    for name in "abcdef":
        outbox.append("charge", name, b"payload of " + name.encode())
    await outbox.flush()
    outbox.attach("charge", receiver.deliver)
    await drain(outbox)
    assert receiver.ids == ["a", "c", "e", "f"]
    stats = outbox.stats()
    assert (stats.refused_count, stats.delivered_count) == (2, 4)
    lines = (outboxes.directory / "refused.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    assert [(line["kind"], line["id"], line["reason"]) for line in kept] == [
        ("charge", "b", "CONFLICT"),
        ("charge", "d", "cannot be read"),
    ]
    assert [base64.b64decode(line["payload"]) for line in kept] == [
        b"payload of b",
        b"payload of d",
    ]
    assert kept[0]["append_time"] == kept[0]["refuse_time"] == "2026-01-01T00:00:00.000Z"
    await outbox.close()
    outbox = await outboxes.open()
    assert outbox.stats().depth_count == 0


async def test_refusals_follow_a_line_that_a_killed_process_left_unfinished(
    outboxes: Outboxes,
) -> None:
    outbox, receiver = await outboxes.open(), Receiver()
    (outboxes.directory / "refused.jsonl").write_bytes(b'{"kind": "cha')
    receiver.refused = {"a": "CONFLICT"}
    outbox.append("charge", "a", b"x")
    outbox.attach("charge", receiver.deliver)
    await drain(outbox)
    first, second = (outboxes.directory / "refused.jsonl").read_text().splitlines()
    assert first == '{"kind": "cha' and json.loads(second)["id"] == "a"


async def test_age_is_that_of_the_oldest_entry(outboxes: Outboxes) -> None:
    clock = FakeClock()
    outbox = await outboxes.open(clock=clock)
    assert outbox.stats().oldest_age_ms == 0
    await outbox.append_durable("charge", "a", b"x")
    clock.advance(3)
    await outbox.append_durable("charge", "b", b"x")
    assert outbox.stats().oldest_age_ms == 3000
    await outbox.close()
    outbox = await outboxes.open(clock=clock)
    assert outbox.stats().oldest_age_ms == 3000


async def test_a_second_process_on_the_same_directory_is_told_so(outboxes: Outboxes) -> None:
    await outboxes.open()
    with pytest.raises(FailedPrecondition) as caught:
        await outboxes.open()
    assert caught.value.reason == "STORE_IN_USE"


async def test_a_caller_that_goes_away_does_not_undo_its_entry(outboxes: Outboxes) -> None:
    outbox, receiver = await outboxes.open(), Receiver()
    caller = asyncio.create_task(outbox.append_durable("charge", "a", b"x"))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    outbox.attach("charge", receiver.deliver)
    await drain(outbox)
    assert receiver.ids == ["a"]


async def test_what_the_process_must_not_lose_never_leaves_the_loop(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox", clock=FakeClock())
    await outbox.open()
    outbox.append("settle", "a", b"1")
    durable = outbox.append_durable("charge", "a", b"2")
    with pytest.raises(StopIteration):  # done at the first step: nothing was awaited
        durable.send(None)
    (file,) = (path for path in (tmp_path / "outbox").iterdir() if path.suffix == ".segment")
    written = file.read_bytes()
    assert written.index(b"settlea1") < written.index(b"chargea2")
    await outbox.close()


async def test_appends_of_one_turn_are_written_without_being_asked_for(
    outboxes: Outboxes,
) -> None:
    outbox = await outboxes.open()
    outbox.append("charge", "a", b"x")

    def is_written() -> bool:
        return any(b"chargeax" in path.read_bytes() for path in outboxes.directory.iterdir())

    assert not is_written()
    await eventually(is_written)


async def test_what_no_record_can_hold_is_refused_and_costs_nobody_else(
    outboxes: Outboxes,
) -> None:
    outbox, receiver = await outboxes.open(), Receiver()
    outbox.append("charge", "before", b"x")
    with pytest.raises(InvalidArgument) as caught:
        outbox.append("charge", "large", bytes(MAX_PAYLOAD_BYTES + 1))
    assert caught.value.field == "payload"
    with pytest.raises(InvalidArgument) as caught:
        await outbox.append_durable("charge", "i" * (MAX_NAME_LENGTH + 1), b"x")
    assert caught.value.field == "entry_id"
    outbox.append("charge", "\ud800", bytes(MAX_PAYLOAD_BYTES))
    outbox.attach("charge", receiver.deliver)
    await drain(outbox)
    assert receiver.ids == ["before", "\ud800"]


async def test_a_closed_outbox_takes_nothing_and_says_so(
    outboxes: Outboxes, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = await outboxes.open()
    await outbox.close()
    await outbox.close()
    with pytest.raises(Unavailable) as caught:
        await outbox.append_durable("charge", "late", b"x")
    assert caught.value.reason == "STORE_CLOSED"
    outbox.append("charge", "later", b"x")
    await eventually(lambda: "charge later was not kept" in caplog.text)


async def test_a_file_of_an_earlier_outbox_beside_it_is_left_alone(outboxes: Outboxes) -> None:
    outboxes.directory.mkdir()
    for place in (outboxes.directory, outboxes.directory.parent):
        (place / "outbox.sqlite").write_bytes(b"SQLite format 3\0")
    outbox = await outboxes.open()
    await outbox.append_durable("charge", "a", b"x")
    assert (outboxes.directory / "outbox.sqlite").read_bytes() == b"SQLite format 3\0"


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["append", "durable"]), st.integers(1, 9)),
            st.tuples(st.sampled_from(["restart", "up", "down", "yield"]), st.just(0)),
        ),
        max_size=14,
    )
)
def test_whatever_happens_each_kind_arrives_whole_and_in_order(
    steps: list[tuple[str, int]],
) -> None:
    asyncio.run(_live_through(steps))


async def _live_through(steps: list[tuple[str, int]]) -> None:
    receivers, appended = {"charge": Receiver(), "settle": Receiver()}, list[str]()
    limits = LaneLimits(3, 4, min_backoff_ms=1, max_backoff_ms=1, linger_ms=0)
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            outboxes = Outboxes(Path(folder) / "outbox", "normal", stack)
            outbox = await outboxes.open(limits=limits)

            def attach() -> None:
                for kind, receiver in receivers.items():
                    outbox.attach(kind, receiver.deliver)

            attach()
            for step, count in steps:
                for _ in range(count):
                    name = f"id{len(appended)}"
                    appended.append(name)
                    outbox.append("settle", name, b"s")
                    if step == "append":
                        outbox.append("charge", name, b"c")
                    else:
                        await outbox.append_durable("charge", name, b"c")
                if step == "restart":
                    await outbox.close()
                    outbox = await outboxes.open(limits=limits)
                    attach()
                elif step == "yield":
                    await asyncio.sleep(0.001)
                elif step in ("up", "down"):
                    receivers["charge"].is_down = step == "down"
            receivers["charge"].is_down = False
            await drain(outbox)
            assert outbox.stats().depth_count == 0
    for receiver in receivers.values():
        # A close in the middle of a delivery repeats it.
        assert list(dict.fromkeys(receiver.ids)) == appended


def test_the_default_limits_leave_room_for_a_batch(tmp_path: Path) -> None:
    assert FAST.max_batch_count <= FAST.max_memory_count
    assert LaneLimits().max_batch_count <= LaneLimits().max_memory_count
