"""A journal under any sequence of writes, acknowledgements, rotations and restarts, then a crash or a bad disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.journals import OpenJournal, files, opened

from farthing.kit.errors import FailedPrecondition
from farthing.kit.journal import Entry
from farthing.kit.journal.records import decode, encode_write, scan
from farthing.kit.journal.segment import HEADER

KINDS = ("charge", "settle")
SEGMENT_BYTES = 700


@dataclass
class Step:
    """One write; before it, some of what waits is acknowledged, and perhaps the process restarts."""

    entries: list[tuple[str, int]] = field(default_factory=list)
    done_ratios: dict[str, float] = field(default_factory=dict)
    restart: bool = False


NEW = st.tuples(st.sampled_from(KINDS), st.integers(0, 300))
DONE = st.dictionaries(st.sampled_from(KINDS), st.floats(0, 1))
STEPS = st.lists(
    st.builds(Step, st.lists(NEW, max_size=4), DONE, st.integers(0, 5).map(lambda n: n == 0)),
    max_size=10,
)
LAST_STEP = st.builds(Step, st.lists(NEW, min_size=1, max_size=4), DONE)
# They write real files, on a machine that may be busy.
on_disk = settings(deadline=None, max_examples=60)


class World:
    """A journal and a list of what waits in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.waiting: dict[str, list[Entry]] = {kind: [] for kind in KINDS}
        self.appended: list[Entry] = []
        # What waited before the last step, and when what it acknowledged was gone.
        self.before: dict[str, list[Entry]] = {}
        self.left: dict[str, list[Entry]] = {}
        self.last_write: tuple[Path, int] = (directory, 0)
        self._sequence = 0
        self._context = opened(directory, segment_bytes=SEGMENT_BYTES)
        self.open = self._context.__enter__()

    def take(self, step: Step) -> None:
        if step.restart:
            self.close()
            self._context = opened(self.directory, segment_bytes=SEGMENT_BYTES)
            self.open = self._context.__enter__()
            self.check(self.open, self.waiting)
        journal = self.open.journal
        self.before = {kind: list(entries) for kind, entries in self.waiting.items()}
        for kind, ratio in step.done_ratios.items():
            count = round(len(self.waiting[kind]) * ratio)
            if count:
                journal.acknowledge(kind, self.waiting[kind][count - 1].sequence)
                del self.waiting[kind][:count]
        self.left = {kind: list(entries) for kind, entries in self.waiting.items()}
        entries = []
        for kind, size in step.entries:
            self._sequence = max(self._sequence + 1, journal.next_sequence)
            entries.append(
                Entry(
                    self._sequence,
                    kind,
                    f"id{self._sequence}",
                    bytes([size % 255 + 1]) * size,
                    self._sequence,
                )
            )
            self.waiting[kind].append(entries[-1])
            self.appended.append(entries[-1])
        if entries or journal.has_unwritten:
            number, offset = journal.write(entries)
            self.last_write = (self.directory / f"{number:012}.segment", offset)

    def close(self) -> None:
        self._context.__exit__(None, None, None)

    def check_without_last_write(self, journal: OpenJournal) -> None:
        """Its entries are not there. Of what it acknowledged, the rest of a file that this did not end is back."""
        for kind in KINDS:
            found = journal.waiting(kind)
            assert found == [entry for entry in self.before[kind] if entry in found]
            assert set(found) >= set(self.left[kind])

    @staticmethod
    def check(journal: OpenJournal, expected: dict[str, list[Entry]]) -> None:
        for kind in KINDS:
            assert journal.waiting(kind, at_once=3) == expected[kind]


@contextmanager
def worlds(steps: Sequence[Step]) -> Iterator[World]:
    """A world after `steps`, still open as the process that is about to die has it."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "journal")
        try:
            for step in steps:
                world.take(step)
            yield world
        finally:
            world.close()


@contextmanager
def copied(world: World) -> Iterator[Path]:
    """What the disk has at this moment."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copytree(world.directory, Path(folder) / "journal"))


@on_disk
@given(STEPS)
def test_a_restart_finds_exactly_what_waits(steps: list[Step]) -> None:
    with worlds(steps) as world, copied(world) as directory:
        for _ in range(2):
            with opened(directory) as again:
                World.check(again, world.waiting)
                last = max([0, *(e.sequence for es in world.waiting.values() for e in es)])
                assert again.journal.next_sequence > last


@on_disk
@given(STEPS, LAST_STEP, st.data(), st.sampled_from(["cut", "zeros"]))
def test_a_crash_within_the_last_write_takes_back_all_of_it_and_nothing_else(
    steps: list[Step], last: Step, data: st.DataObject, end: Literal["cut", "zeros"]
) -> None:
    with worlds([*steps, last]) as world, copied(world) as directory:
        path, begin = world.last_write
        whole = path.read_bytes()
        at = data.draw(st.integers(begin, len(whole) - 1))
        rest = b"" if end == "cut" else bytes(len(whole) - at)
        (directory / path.name).write_bytes(whole[:at] + rest)
        for _ in range(2):
            with opened(directory) as again:
                world.check_without_last_write(again)


def test_every_byte_of_a_write_can_be_its_last() -> None:
    steps = [
        Step([("charge", 10), ("settle", 3)]),
        Step([("charge", 40)], {"settle": 1.0}),
        Step([("settle", 5), ("charge", 30)], {"charge": 0.5}),
    ]
    with worlds(steps) as world:
        path, begin = world.last_write
        whole = path.read_bytes()
        assert len(whole) - begin > 100
        for at in range(begin, len(whole) + 1):
            with copied(world) as directory:
                (directory / path.name).write_bytes(whole[:at])
                with opened(directory) as again:
                    if at == len(whole):
                        World.check(again, world.waiting)
                    else:
                        world.check_without_last_write(again)
                assert not files(directory, ".damaged")


@on_disk
@given(STEPS, LAST_STEP, st.data())
def test_a_damaged_place_costs_what_is_recorded_there_alone(
    steps: list[Step], last: Step, data: st.DataObject
) -> None:
    with worlds([*steps, last]) as world, copied(world) as directory:
        paths = files(directory)
        file = data.draw(st.sampled_from([p for p in paths if p.stat().st_size > len(HEADER)]))
        whole = bytearray(file.read_bytes())
        begin = data.draw(st.integers(len(HEADER), len(whole) - 1))
        end = data.draw(st.integers(begin + 1, min(len(whole), begin + 400)))
        hurt = [f for f in scan(bytes(whole)) if f.start < end and f.end > begin]
        intact = [f for f in scan(bytes(whole)) if f not in hurt]
        if file == paths[-1]:
            # At the end of the newest file, what is not a whole write was told to nobody.
            whole_bytes = max((f.end for f in intact if f.is_last), default=0)
            hurt += [f for f in intact if f.end > whole_bytes]
        lost = {record for f in hurt if isinstance(record := decode(bytes(whole), f), Entry)}
        whole[begin:end] = data.draw(st.binary(min_size=end - begin, max_size=end - begin))
        file.write_bytes(whole)
        with opened(directory) as again:
            for kind in KINDS:
                found = again.waiting(kind)
                # A lost acknowledgement may bring back what was delivered; nothing else is there, and in order.
                assert set(world.waiting[kind]) - lost <= set(found) <= set(world.appended)
                assert found == sorted(set(found))


def _two_files(directory: Path) -> list[Entry]:
    entries = [Entry(n, "charge", f"id{n}", b"x" * 200, n) for n in range(1, 7)]
    with opened(directory, segment_bytes=500) as journal:
        for entry in entries:
            journal.journal.write([entry])
    return entries


def test_a_damaged_file_is_read_around_and_kept_for_people(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = _two_files(tmp_path)
    first = files(tmp_path)[0]
    whole = bytearray(first.read_bytes())
    whole[100] ^= 1
    first.write_bytes(whole)
    for _ in range(2):
        caplog.clear()
        with opened(tmp_path) as again:
            assert again.waiting("charge") == entries[1:]
        assert f"{first} is damaged from byte {len(HEADER)}" in caplog.text
    with opened(tmp_path) as again:
        again.journal.acknowledge("charge", entries[-1].sequence)
    assert [path.read_bytes() for path in files(tmp_path, ".damaged")] == [whole]
    assert len(files(tmp_path)) == 1
    with opened(tmp_path) as again:
        assert again.waiting("charge") == []


def test_damage_done_while_it_is_open_is_read_around_too(tmp_path: Path) -> None:
    entries = _two_files(tmp_path)
    with opened(tmp_path) as again:
        backlog, first = again.backlogs["charge"], files(tmp_path)[0]
        whole = bytearray(first.read_bytes())
        whole[100] ^= 1
        first.write_bytes(whole)
        read, rest = again.journal.read("charge", 0, backlog.position, 100)
        assert read == entries[1:] and rest is None
        again.journal.acknowledge("charge", entries[-1].sequence)
        assert [path.name for path in files(tmp_path, ".damaged")] == [f"{first.stem}.damaged"]


def test_a_header_that_is_damaged_costs_nothing(tmp_path: Path) -> None:
    entries = _two_files(tmp_path)
    first = files(tmp_path)[0]
    first.write_bytes(b"?" * len(HEADER) + first.read_bytes()[len(HEADER) :])
    with opened(tmp_path) as again:
        assert again.waiting("charge") == entries


def test_a_file_that_was_begun_and_no_more_is_forgotten(tmp_path: Path) -> None:
    entries = _two_files(tmp_path)
    for number, content in ((98, b""), (998, HEADER[:5])):
        begun = tmp_path / f"{number:012}.segment"
        begun.write_bytes(content)
        with opened(tmp_path) as again:
            assert again.waiting("charge") == entries
        assert not begun.exists()
        assert not files(tmp_path, ".damaged")


def test_an_end_that_no_killed_write_leaves_is_kept_for_people(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = _two_files(tmp_path)
    last = files(tmp_path)[-1]
    with last.open("ab") as file:
        file.write(b"this is no record at all")
    before = last.read_bytes()
    with opened(tmp_path) as again:
        assert again.waiting("charge") == entries
    assert [path.read_bytes() for path in files(tmp_path, ".damaged")] == [before]
    assert "cannot be read and are cut" in caplog.text


def test_a_broken_end_with_a_hole_in_it_is_cut_as_a_whole(tmp_path: Path) -> None:
    entries = _two_files(tmp_path)
    last = files(tmp_path)[-1]
    more = [Entry(n, "charge", f"id{n}", b"y" * 50, n) for n in range(7, 11)]
    write = encode_write(more, {})
    records = list(scan(write))
    # The first is whole, the second is not, the third is, and the last is missing.
    part = bytearray(write[: records[2].end])
    part[records[1].start + 20] ^= 1
    with last.open("ab") as file:
        file.write(part)
    for _ in range(2):
        with opened(tmp_path) as again:
            assert again.waiting("charge") == entries
    assert len(files(tmp_path, ".damaged")) == 1


def test_a_file_of_another_release_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "000000000001.segment").write_bytes(b"farthing journal 2\nwhatever follows")
    with pytest.raises(FailedPrecondition) as caught, opened(tmp_path):
        pass
    assert caught.value.reason == "STORE_VERSION"
    assert "whatever follows" in (tmp_path / "000000000001.segment").read_text()
