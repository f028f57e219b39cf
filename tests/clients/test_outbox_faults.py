"""The outbox when its process is killed and when its disk is full or damaged."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.full_disks import fill, largest_file, small_disk
from tests.support.outboxes import Outboxes, Receiver, drain

from farthing.kit.errors import Unavailable
from farthing.kit.testing import eventually

_VICTIM = """
import asyncio, itertools, os, sys
from pathlib import Path
from farthing.clients.outbox import LaneLimits, Outbox
from farthing.kit.clock import SystemClock

async def main() -> None:
    directory, life, synchronous, size = sys.argv[1:]
    outbox = Outbox(
        Path(directory), clock=SystemClock(), max_entry_count=10**6, synchronous=synchronous,
        limits=LaneLimits(max_batch_count=64, max_memory_count=256, linger_ms=1),
    )
    await outbox.open()

    async def deliver(entries):
        os.write(1, "".join(f"delivered {e.kind} {e.id}\\n" for e in entries).encode())
        return {}

    outbox.attach("charge", deliver)
    outbox.attach("settle", deliver)

    async def one(n: int) -> None:
        outbox.append("settle", f"{life}-{n:06}", b"s" * 60)
        await outbox.append_durable("charge", f"{life}-{n:06}", b"c" * int(size))
        os.write(1, f"told charge {life}-{n:06}\\n".encode())

    for n in itertools.count(0, 7):
        await asyncio.gather(*(one(n + i) for i in range(7)))
        await asyncio.sleep(0)

asyncio.run(main())
"""
_Line = tuple[str, str, str]


def _lived(directory: Path, life: int, synchronous: str, size: int, lines: int) -> list[_Line]:
    """What a process said that is killed in the middle of its work, after so many lines."""
    victim = subprocess.Popen(
        [sys.executable, "-c", _VICTIM, str(directory), str(life), synchronous, str(size)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert victim.stdout is not None
    with victim.stdout as said:
        heard = [next(said) for _ in range(lines)]
        victim.send_signal(signal.SIGKILL)
        heard += said
    victim.wait()
    parts = [line.split() for line in heard if line.endswith("\n")]
    return [(what, kind, name) for what, kind, name in parts]


@pytest.mark.parametrize("size", [200, 9_000])
async def test_nothing_told_is_lost_and_nothing_is_half_kept_when_processes_are_killed(
    outboxes: Outboxes, request: pytest.FixtureRequest, size: int
) -> None:
    synchronous = request.node.callspec.params["outboxes"]
    heard: list[_Line] = []
    for life in range(3):
        heard += await asyncio.to_thread(
            _lived, outboxes.directory, life, synchronous, size, 1_500
        )
    outbox, receiver = await outboxes.open(max_entry_count=10**6), Receiver()
    outbox.attach("charge", receiver.deliver)
    outbox.attach("settle", receiver.deliver)
    await drain(outbox)
    told = {name for what, _, name in heard if what == "told"}
    arrived = {(kind, name) for what, kind, name in heard if what == "delivered"}
    arrived |= {(entry.kind, entry.id) for entry in receiver.entries}
    charges = {name for kind, name in arrived if kind == "charge"}
    assert told <= charges
    # Charge and settlement were written together: whoever has the one has the other.
    assert charges == {name for kind, name in arrived if kind == "settle"}
    for kind in ("charge", "settle"):
        ids = [entry.id for entry in receiver.entries if entry.kind == kind]
        assert ids == sorted(set(ids))
    assert not [path for path in outboxes.directory.iterdir() if path.suffix == ".damaged"]


def _size_of_segment(directory: Path) -> int:
    return max(p.stat().st_size for p in directory.iterdir() if p.suffix == ".segment")


async def test_a_disk_that_is_full_refuses_a_charge_with_its_settlement_and_keeps_neither(
    outboxes: Outboxes, caplog: pytest.LogCaptureFixture
) -> None:
    outbox, receiver = await outboxes.open(), Receiver()
    await outbox.append_durable("charge", "before", b"x")
    with largest_file(_size_of_segment(outboxes.directory) + 60):
        outbox.append("settle", "refused", b"x")  # would fit, alone
        with pytest.raises(Unavailable) as caught:
            await outbox.append_durable("charge", "refused", bytes(1_000))
        assert caught.value.reason == "STORE_WRITE_FAILED" and caught.value.retry_after_ms > 0
    assert "settle refused was not kept" in caplog.text
    assert outbox.stats().depth_count == 1
    await outbox.append_durable("charge", "after", b"x")
    outbox.attach("charge", receiver.deliver)
    outbox.attach("settle", receiver.deliver)
    await drain(outbox)
    assert receiver.ids == ["before", "after"]


async def test_what_nobody_waits_for_stays_queued_until_the_disk_has_room(
    outboxes: Outboxes, caplog: pytest.LogCaptureFixture
) -> None:
    outbox, receiver = await outboxes.open(), Receiver()
    outbox.attach("charge", receiver.deliver)
    with largest_file(_size_of_segment(outboxes.directory)):
        outbox.append("charge", "a", bytes(1_000))
        with pytest.raises(Unavailable):
            await outbox.flush()
        outbox.append("charge", "b", bytes(1_000))
        await eventually(lambda: "wait in memory for the disk" in caplog.text)
        with pytest.raises(Unavailable):
            await outbox.append_durable("charge", "told", bytes(1_000))
        assert outbox.stats().depth_count in (1, 2)
        assert receiver.ids == []
    await eventually(lambda: "a" in receiver.ids)  # by itself
    await drain(outbox)
    assert "told" not in receiver.ids


async def test_what_cannot_be_written_before_the_end_is_named(
    outboxes: Outboxes, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = await outboxes.open()
    with largest_file(_size_of_segment(outboxes.directory)):
        outbox.append("charge", "last", bytes(1_000))
        await outbox.close()
    assert "charge last was not kept" in caplog.text


async def test_refusals_wait_for_a_disk_that_is_full(outboxes: Outboxes) -> None:
    outbox, receiver = await outboxes.open(), Receiver()
    receiver.refused = {"a": "CONFLICT"}
    await outbox.append_durable("charge", "a", bytes(3_000))
    with largest_file(_size_of_segment(outboxes.directory)):
        outbox.attach("charge", receiver.deliver)
        await eventually(lambda: outbox.stats().retry_count >= 2)
        assert outbox.stats().depth_count == 1 and outbox.stats().refused_count == 0
    await drain(outbox)
    assert outbox.stats().refused_count == 1
    assert len((outboxes.directory / "refused.jsonl").read_text().splitlines()) == 1


async def test_a_disk_fills_up_under_load_and_is_cleared(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 256 * 1024) as disk:
        async with contextlib.AsyncExitStack() as stack:
            outboxes = Outboxes(disk / "outbox", "normal", stack)
            outbox, receiver, told = await outboxes.open(), Receiver(), list[str]()
            outbox.attach("charge", receiver.deliver)
            filler, refused_count = fill(disk, left_bytes=30_000), 0
            for n in range(200):
                try:
                    await outbox.append_durable("charge", f"id{n:03}", bytes(500))
                    told.append(f"id{n:03}")
                except Unavailable:
                    refused_count += 1
                if n == 150:
                    filler.unlink()
                await asyncio.sleep(0)
            assert refused_count > 50 and told[-1] == "id199"
            await drain(outbox)
            assert receiver.ids == told


def _damage(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0\0\0\0\0\0\0\0")


async def test_damage_costs_the_records_in_it_and_nothing_waits_for_them(
    outboxes: Outboxes, caplog: pytest.LogCaptureFixture
) -> None:
    outbox, receiver = await outboxes.open(), Receiver()
    for n in range(40):
        await outbox.append_durable("charge", f"id{n:02}", bytes([n + 1]) * 100)
    (file,) = (path for path in outboxes.directory.iterdir() if path.suffix == ".segment")
    _damage(file, file.read_bytes().index(b"id20"))
    _damage(file, file.read_bytes().index(b"id03"))  # of those in memory still
    outbox.attach("charge", receiver.deliver)
    await drain(outbox)
    assert receiver.ids == [f"id{n:02}" for n in range(40) if n != 20]
    assert "1 records on disk cannot be read" in caplog.text
    assert outbox.stats().depth_count == 0


async def test_damage_found_at_the_start_costs_no_more(outboxes: Outboxes) -> None:
    outbox, receiver = await outboxes.open(), Receiver()
    for n in range(40):
        await outbox.append_durable("charge", f"id{n:02}", bytes([n + 1]) * 100)
    await outbox.close()
    (file,) = (path for path in outboxes.directory.iterdir() if path.suffix == ".segment")
    _damage(file, file.read_bytes().index(b"id20"))
    outbox = await outboxes.open()
    assert outbox.stats().depth_count == 39
    outbox.attach("charge", receiver.deliver)
    await drain(outbox)
    assert receiver.ids == [f"id{n:02}" for n in range(40) if n != 20]
    await outbox.close()
    assert file.with_suffix(".damaged").exists()
