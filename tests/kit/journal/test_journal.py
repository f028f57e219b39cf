from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.full_disks import fill, largest_file, small_disk
from tests.support.journals import files, opened

from farthing.kit.errors import FailedPrecondition, Unavailable
from farthing.kit.journal import Entry, Journal


def _entry(number: int, size: int = 200, kind: str = "charge") -> Entry:
    return Entry(number, kind, f"id{number}", b"x" * size, number)


def _fill_up(journal: Journal, number: int, size: int) -> int:
    """Write entries until the disk refuses; returns the number of the first that it refused."""
    while True:
        try:
            journal.write([_entry(number, size)])
        except Unavailable as error:
            assert error.reason == "STORE_WRITE_FAILED" and error.retry_after_ms > 0
            return number
        number += 1


def test_a_file_is_deleted_when_all_in_it_is_acknowledged(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=500) as journal:
        for number in range(1, 10):
            journal.journal.write([_entry(number)])
        before = files(tmp_path)
        assert len(before) > 3
        journal.journal.acknowledge("charge", 5)
        assert set(files(tmp_path)) < set(before)
        journal.journal.acknowledge("charge", 9)
        assert files(tmp_path) == before[-1:]


def test_a_kind_that_is_not_delivered_keeps_its_own_files_and_no_others(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=500) as journal:
        journal.journal.write([_entry(1, kind="settle"), _entry(2)])
        for number in range(3, 20):
            journal.journal.write([_entry(number)])
            journal.journal.acknowledge("charge", number)
        assert len(files(tmp_path)) == 2
        journal.journal.write([])
    with opened(tmp_path) as again:
        assert [entry.id for entry in again.waiting("settle")] == ["id1"]
        assert again.waiting("charge") == []
        assert again.journal.next_sequence == 20


def test_what_was_acknowledged_stays_so_when_the_file_that_says_it_is_gone(
    tmp_path: Path,
) -> None:
    with opened(tmp_path, segment_bytes=500) as journal:
        journal.journal.write([_entry(1, kind="settle"), _entry(2)])
        journal.journal.acknowledge("charge", 2)
        for number in range(3, 20):
            journal.journal.write([_entry(number, kind="other")])
            journal.journal.acknowledge("other", number)
        journal.journal.write([])
    with opened(tmp_path) as again:
        assert set(again.backlogs) == {"settle"}


def test_no_entry_gets_the_number_of_one_that_was_acknowledged_in_an_earlier_life(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as journal:
        journal.journal.write([_entry(1), _entry(2), _entry(3)])
        journal.journal.acknowledge("charge", 3)
        journal.journal.write([])
    for _ in range(2):
        with opened(tmp_path) as again:
            assert again.waiting("charge") == []
            assert again.journal.next_sequence == 4
    with opened(tmp_path) as again:
        again.journal.write([_entry(again.journal.next_sequence)])
    with opened(tmp_path) as again:
        assert [entry.sequence for entry in again.waiting("charge")] == [4]


def test_a_directory_belongs_to_one_process(tmp_path: Path) -> None:
    with opened(tmp_path):
        with pytest.raises(FailedPrecondition) as caught, opened(tmp_path):
            pass
        assert caught.value.reason == "STORE_IN_USE"
        assert str(tmp_path) in caught.value.message
    with opened(tmp_path):
        pass


_HOLDER = """
import asyncio, sys, time
from pathlib import Path
from farthing.kit.journal import Journal
asyncio.run(Journal(Path(sys.argv[1])).open())
print("open", flush=True)
time.sleep(600)
"""


def test_a_killed_process_lets_go_of_its_directory(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert holder.stdout is not None
    with holder.stdout as lines:
        assert next(lines) == "open\n"
        with pytest.raises(FailedPrecondition), opened(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        with opened(tmp_path):  # waits for the dying process, if need be
            pass
    holder.wait()


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable) as caught, opened(tmp_path / "file"):
        pass
    assert caught.value.reason == "STORE_WRITE_FAILED"
    assert str(tmp_path / "file") in caught.value.message


def test_writing_after_the_end_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        pass
    with pytest.raises(Unavailable) as caught:
        journal.journal.write([_entry(1)])
    assert caught.value.reason == "STORE_CLOSED"


def test_a_full_disk_refuses_whole_writes_and_takes_them_again_when_there_is_room(
    tmp_path: Path,
) -> None:
    with (
        small_disk(tmp_path / "disk", 128 * 1024) as disk,
        opened(disk / "journal") as journal,
    ):
        filler = fill(disk, left_bytes=20_000)
        refused = _fill_up(journal.journal, 1, 3_000)
        assert refused > 3
        for _ in range(3):
            with pytest.raises(Unavailable):
                journal.journal.write([_entry(refused, 9_000), _entry(refused + 1, 9_000)])
        filler.unlink()
        journal.journal.write([_entry(refused + 2, 9_000)])
        journal.journal.close()
        with opened(disk / "journal") as again:
            expected = [*range(1, refused), refused + 2]
            assert [entry.sequence for entry in again.waiting("charge")] == expected
        assert not files(disk / "journal", ".damaged")


def test_a_full_disk_at_a_change_of_files_is_no_other_case(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", 128 * 1024) as disk,
        opened(disk / "journal", segment_bytes=8_000) as journal,
    ):
        filler = fill(disk, left_bytes=20_000)
        refused = _fill_up(journal.journal, 1, 3_000)
        filler.unlink()
        for number in range(refused, refused + 10):
            journal.journal.write([_entry(number, 3_000)])
        assert len(files(disk / "journal")) > 3
        journal.journal.close()
        with opened(disk / "journal") as again:
            waiting = [entry.sequence for entry in again.waiting("charge")]
            assert waiting == [*range(1, refused + 10)]


def test_a_short_write_leaves_nothing_of_itself(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.journal.write([_entry(1)])
        (file,) = files(tmp_path)
        size = file.stat().st_size
        with largest_file(size + 100):
            with pytest.raises(Unavailable) as caught:
                journal.journal.write([_entry(2)])
            assert caught.value.reason == "STORE_WRITE_FAILED"
            assert file.stat().st_size == size
            journal.journal.write([_entry(3, 10)])
        journal.journal.write([_entry(4)])
    with opened(tmp_path) as again:
        assert [entry.sequence for entry in again.waiting("charge")] == [1, 3, 4]


def test_an_acknowledgement_that_could_not_be_written_goes_with_the_next_write(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as journal:
        journal.journal.write([_entry(1)])
        journal.journal.acknowledge("charge", 1)
        with largest_file(files(tmp_path)[0].stat().st_size), pytest.raises(Unavailable):
            journal.journal.write([])
        assert journal.journal.has_unwritten
        journal.journal.write([_entry(2)])
        assert not journal.journal.has_unwritten
    with opened(tmp_path) as again:
        assert [entry.sequence for entry in again.waiting("charge")] == [2]


def test_what_is_staged_is_not_read_before_it_is_committed(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        position = journal.journal.write([_entry(1)])
        journal.journal.stage([_entry(2)])
        assert [e.sequence for e in journal.journal.read("charge", 0, position, 9)[0]] == [1]
        journal.journal.sync()
        journal.journal.commit()
        assert [e.sequence for e in journal.journal.read("charge", 0, position, 9)[0]] == [1, 2]


def test_what_is_taken_back_was_never_there(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.journal.write([_entry(1), _entry(2, kind="settle")])
        journal.journal.acknowledge("charge", 1)
        journal.journal.stage([_entry(3, 2_000)])
        journal.journal.acknowledge("settle", 2)
        journal.journal.take_back()
        journal.journal.write([_entry(4)])
    with opened(tmp_path) as again:
        assert [entry.sequence for entry in again.waiting("charge")] == [4]
        assert again.waiting("settle") == []


def test_a_long_damaged_stretch_is_read_across(tmp_path: Path) -> None:
    size = 200_000
    with opened(tmp_path, segment_bytes=8 << 20) as journal:
        position = journal.journal.write([_entry(1, size)])
        for number in range(2, 12):
            journal.journal.write([_entry(number, size)])
        (file,) = files(tmp_path)
        with file.open("r+b") as raw:
            raw.seek(size)
            raw.write(bytes(9 * size))
        entries, rest = journal.journal.read("charge", 0, position, 100)
        assert [entry.sequence for entry in entries] == [11] and rest is None


def test_opening_waits_off_the_loop_for_a_process_that_is_ending(tmp_path: Path) -> None:
    async def take_over() -> None:
        first, second = Journal(tmp_path), Journal(tmp_path)
        await first.open()
        waiting = asyncio.create_task(second.open())
        await asyncio.sleep(0)
        first.close()
        await waiting
        second.close()

    asyncio.run(take_over())
