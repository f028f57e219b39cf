from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from farthing.clients.outbox import Entry, LaneLimits, Outbox
from farthing.kit.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from farthing.kit.testing import FakeClock, eventually

_FAST = LaneLimits(max_batch_count=4, max_memory_count=8, min_backoff_ms=1, max_backoff_ms=5)


class Receiver:
    """Keeps what it is sent; can be down, and can refuse ids."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.call_count = 0
        self.is_down = False
        self.refused: dict[str, str] = {}
        self.malformed: set[str] = set()

    async def deliver(self, entries: Sequence[Entry]) -> Mapping[str, str]:
        self.call_count += 1
        if self.is_down:
            raise Unavailable("down", reason="DOWN")
        if any(entry.id in self.malformed for entry in entries):
            raise InvalidArgument("cannot be read", field="payload")
        self.entries += [entry for entry in entries if entry.id not in self.refused]
        return {e.id: self.refused[e.id] for e in entries if e.id in self.refused}

    @property
    def ids(self) -> list[str]:
        return [entry.id for entry in self.entries]


async def _open(tmp_path: Path, *, max_entry_count: int = 1000) -> Outbox:
    outbox = Outbox(
        tmp_path / "outbox",
        clock=FakeClock(),
        limits=_FAST,
        max_entry_count=max_entry_count,
        jitter=lambda: 0.0,
    )
    await outbox.open()
    return outbox


async def _drain(outbox: Outbox) -> None:
    async with asyncio.timeout(20):
        await outbox.drained()


async def test_entries_arrive_in_order_and_leave_the_disk(tmp_path: Path) -> None:
    outbox, receiver = await _open(tmp_path), Receiver()
    outbox.attach("charge", receiver.deliver)
    for n in range(20):
        outbox.append("charge", f"id{n:02}", b"%d" % n)
    await _drain(outbox)
    assert receiver.ids == [f"id{n:02}" for n in range(20)]
    await outbox.close()
    again = await _open(tmp_path)
    assert again.stats().depth_count == 0
    await again.close()


async def test_more_than_the_window_in_memory_arrives_in_order_too(tmp_path: Path) -> None:
    outbox, receiver = await _open(tmp_path), Receiver()
    for n in range(50):
        outbox.append("charge", f"id{n:02}", b"x")
    await outbox.flush()
    outbox.attach("charge", receiver.deliver)
    for n in range(50, 80):
        outbox.append("charge", f"id{n:02}", b"x")
    await _drain(outbox)
    assert receiver.ids == [f"id{n:02}" for n in range(80)]
    await outbox.close()


async def test_a_receiver_that_is_down_gets_everything_once_it_is_back(tmp_path: Path) -> None:
    outbox, receiver = await _open(tmp_path), Receiver()
    receiver.is_down = True
    outbox.attach("charge", receiver.deliver)
    for n in range(10):
        outbox.append("charge", f"id{n}", b"x")
    await eventually(lambda: outbox.stats().retry_count >= 3)
    assert outbox.stats().depth_count == 10
    receiver.is_down = False
    await _drain(outbox)
    assert receiver.ids == [f"id{n}" for n in range(10)]
    assert outbox.stats().delivered_count == 10
    await outbox.close()


async def test_what_is_left_goes_out_after_a_restart(tmp_path: Path) -> None:
    outbox, receiver = await _open(tmp_path), Receiver()
    for n in range(30):
        outbox.append("charge", f"id{n:02}", b"x")
    await outbox.close()
    outbox = await _open(tmp_path)
    assert outbox.stats().depth_count == 30
    outbox.attach("charge", receiver.deliver)
    outbox.append("charge", "later", b"x")
    await _drain(outbox)
    assert receiver.ids == [*(f"id{n:02}" for n in range(30)), "later"]
    await outbox.close()


async def test_the_same_id_is_kept_once_and_other_content_is_an_error(tmp_path: Path) -> None:
    outbox, receiver = await _open(tmp_path), Receiver()
    await outbox.append_durable("charge", "a", b"1")
    await outbox.append_durable("charge", "a", b"1")
    with pytest.raises(AlreadyExists):
        await outbox.append_durable("charge", "a", b"2")
    await outbox.append_durable("settle", "a", b"2")
    assert outbox.stats().depth_count == 2
    outbox.attach("charge", receiver.deliver)
    outbox.attach("settle", receiver.deliver)
    await _drain(outbox)
    assert sorted((entry.kind, entry.payload) for entry in receiver.entries) == [
        ("charge", b"1"),
        ("settle", b"2"),
    ]
    await outbox.close()


async def test_a_full_outbox_refuses_and_has_room_again_after_delivery(tmp_path: Path) -> None:
    outbox, receiver = await _open(tmp_path, max_entry_count=2), Receiver()
    outbox.append("charge", "a", b"x")
    outbox.require_room(1)
    outbox.append("charge", "b", b"x")
    with pytest.raises(ResourceExhausted) as caught:
        outbox.append("charge", "c", b"x")
    assert caught.value.reason == "OUTBOX_FULL"
    outbox.attach("charge", receiver.deliver)
    await _drain(outbox)
    outbox.append("charge", "c", b"x")
    await _drain(outbox)
    assert receiver.ids == ["a", "b", "c"]
    await outbox.close()


async def test_what_is_refused_for_good_is_set_aside_and_holds_up_nobody(
    tmp_path: Path,
) -> None:
    outbox, receiver = await _open(tmp_path), Receiver()
    receiver.refused = {"b": "CONFLICT"}
    receiver.malformed = {"d"}
    for name in "abcdef":
        outbox.append("charge", name, b"x")
    await outbox.flush()
    outbox.attach("charge", receiver.deliver)
    await _drain(outbox)
    assert receiver.ids == ["a", "c", "e", "f"]
    stats = outbox.stats()
    assert (stats.refused_count, stats.delivered_count) == (2, 4)
    await outbox.close()


async def test_age_is_that_of_the_oldest_entry(tmp_path: Path) -> None:
    clock = FakeClock()
    outbox = Outbox(tmp_path / "outbox", clock=clock)
    await outbox.open()
    assert outbox.stats().oldest_age_ms == 0
    await outbox.append_durable("charge", "a", b"x")
    clock.advance(3)
    await outbox.append_durable("charge", "b", b"x")
    assert outbox.stats().oldest_age_ms == 3000
    await outbox.close()


async def test_a_second_process_on_the_same_file_is_told_so(tmp_path: Path) -> None:
    outbox = await _open(tmp_path)
    with pytest.raises(FailedPrecondition) as caught:
        await _open(tmp_path)
    assert caught.value.reason == "STORE_IN_USE"
    await outbox.close()


async def test_a_caller_that_goes_away_does_not_undo_its_entry(tmp_path: Path) -> None:
    outbox, receiver = await _open(tmp_path), Receiver()
    caller = asyncio.create_task(outbox.append_durable("charge", "a", b"x"))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    outbox.attach("charge", receiver.deliver)
    await _drain(outbox)
    assert receiver.ids == ["a"]
    await outbox.close()


_VICTIM = """
import asyncio, sys
from pathlib import Path
from farthing.clients.outbox import Outbox
from farthing.kit.clock import SystemClock

async def main() -> None:
    outbox = Outbox(Path(sys.argv[1]), clock=SystemClock())
    await outbox.open()
    async def one(n: int) -> None:
        await outbox.append_durable("charge", f"id{n:06}", b"x" * 200)
        sys.stdout.write(f"id{n:06}\\n")
    n = 0
    while True:
        await asyncio.gather(*(one(n + i) for i in range(7)))
        sys.stdout.flush()
        n += 7

asyncio.run(main())
"""


def _told_before_the_kill(path: Path) -> set[str]:
    victim = subprocess.Popen(
        [sys.executable, "-c", _VICTIM, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert victim.stdout is not None
    with victim.stdout as lines:
        told = [next(lines).strip() for _ in range(500)]
        victim.send_signal(signal.SIGKILL)
        told += [line.strip() for line in lines if line.endswith("\n")]
    victim.wait()
    return set(told)


async def test_nothing_reported_durable_is_lost_when_the_process_is_killed(
    tmp_path: Path,
) -> None:
    told = await asyncio.to_thread(_told_before_the_kill, tmp_path / "outbox")
    outbox, receiver = await _open(tmp_path, max_entry_count=10**6), Receiver()
    outbox.attach("charge", receiver.deliver)
    await _drain(outbox)
    assert len(receiver.ids) == len(set(receiver.ids))
    assert told <= set(receiver.ids)
    await outbox.close()
