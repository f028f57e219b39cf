"""Journals in a test: opened by whoever has no event loop, and read to the end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from farthing.kit.journal import Backlog, Entry, Journal


class OpenJournal:
    """A journal, and what waited in it when it was opened."""

    def __init__(self, journal: Journal, backlogs: list[Backlog]) -> None:
        self.journal = journal
        self.backlogs = {backlog.kind: backlog for backlog in backlogs}

    def waiting(self, kind: str, *, at_once: int = 1000) -> list[Entry]:
        """All that waited of `kind`, read `at_once` at a time."""
        backlog = self.backlogs.get(kind)
        if backlog is None:
            return []
        entries: list[Entry] = []
        after, position = backlog.after_sequence, backlog.position
        while True:
            some, rest = self.journal.read(kind, after, position, at_once)
            entries += some
            if rest is None:
                break
            after, position = entries[-1].sequence, rest
        assert len(entries) == backlog.count
        assert entries[0].append_time_ns == backlog.oldest_time_ns
        return entries


@contextmanager
def opened(directory: Path, *, segment_bytes: int = 1 << 20) -> Iterator[OpenJournal]:
    """The journal in `directory`, closed afterwards."""
    journal = Journal(directory, segment_bytes=segment_bytes)
    backlogs = asyncio.run(journal.open())
    try:
        yield OpenJournal(journal, backlogs)
    finally:
        journal.close()


def files(directory: Path, suffix: str = ".segment") -> list[Path]:
    """The journal's files, oldest first."""
    return sorted(path for path in directory.iterdir() if path.name.endswith(suffix))
