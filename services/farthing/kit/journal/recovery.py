"""What an earlier process left in a journal's directory: read, checked, and cut where its last write broke off."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from farthing.kit.errors import FailedPrecondition
from farthing.kit.journal.records import Done, Entry, Found, decode, is_cut_off, scan
from farthing.kit.journal.segment import (
    HEADER,
    HEADER_OF_ANY_VERSION,
    SUFFIX,
    Position,
    Segment,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits of one kind: entries after `after_sequence`, the first of them at or behind `position`."""

    kind: str
    count: int
    after_sequence: int
    position: Position
    oldest_time_ns: int


@dataclass(slots=True)
class Recovered:
    """The state of a journal."""

    segments: list[Segment] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    backlogs: list[Backlog] = field(default_factory=list)
    next_sequence: int = 1
    next_number: int = 1


@dataclass(slots=True)
class _Span:
    """The entries of one kind in one segment."""

    count: int
    lowest: int
    highest: int
    offset: int
    time_ns: int

    def add(self, sequence: int) -> None:
        self.count += 1
        self.highest = max(self.highest, sequence)


@dataclass(slots=True)
class _Contents:
    """What is readable in one segment."""

    spans: dict[str, _Span] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    whole_bytes: int = 0  # up to here lie whole writes
    holes: list[tuple[int, int]] = field(default_factory=list)

    def take(self, data: bytes, records: list[Found]) -> None:
        for found in records:
            record = decode(data, found)
            if isinstance(record, Done):
                self.done[record.kind] = max(record.sequence, self.done.get(record.kind, 0))
            elif (span := self.spans.get(record.kind)) is not None:
                span.add(record.sequence)
            else:
                self.spans[record.kind] = _Span(
                    1, record.sequence, record.sequence, found.start, record.append_time_ns
                )


def recover(directory: Path) -> Recovered:
    """Read the journal in `directory`.

    FailedPrecondition (STORE_VERSION) when another release wrote it, OSError when it cannot be read.
    """
    recovered = Recovered()
    contents: list[_Contents] = []
    paths = sorted(
        path for path in directory.iterdir() if path.suffix == SUFFIX and path.stem.isdigit()
    )
    for path in paths:
        found = _read(path, is_last=path == paths[-1])
        size = path.stat().st_size
        highest = {kind: span.highest for kind, span in found.spans.items()}
        recovered.segments.append(Segment(path, size, highest, is_damaged=bool(found.holes)))
        contents.append(found)
        for kind, sequence in found.done.items():
            recovered.done[kind] = max(sequence, recovered.done.get(kind, 0))
        known = [*highest.values(), *found.done.values()]
        recovered.next_sequence = max([recovered.next_sequence, *(n + 1 for n in known)])
        recovered.next_number = recovered.segments[-1].number + 1
    for kind in {kind for found in contents for kind in found.spans}:
        after = recovered.done.get(kind, 0)
        backlog = _sum_up(kind, after, zip(recovered.segments, contents, strict=True))
        if backlog is not None:
            recovered.backlogs.append(backlog)
    return recovered


def _read(path: Path, *, is_last: bool) -> _Contents:
    data = path.read_bytes()
    contents = _Contents()
    if data.startswith(HEADER):
        expected = len(HEADER)
    elif data.startswith(HEADER_OF_ANY_VERSION) and len(data) >= len(HEADER):
        raise FailedPrecondition(
            f"{path} was written by another release; start that one until it is delivered",
            reason="STORE_VERSION",
            metadata={"file": path.name},
        )
    else:
        expected = 0
    contents.whole_bytes = expected
    write: list[Found] = []
    for found in scan(data, expected):
        if found.start != expected:
            # What lies around the hole is worth having, when a whole write follows: then this is no broken end.
            contents.holes.append((expected, found.start))
        write.append(found)
        expected = found.end
        if found.is_last:
            contents.take(data, write)
            contents.whole_bytes, write = expected, []
    if contents.whole_bytes < len(data):
        if is_last:
            _cut(path, data, contents, broken_at=expected)
        else:
            contents.take(data, write)
            if expected < len(data):
                contents.holes.append((expected, len(data)))
    for start, end in contents.holes:
        _log.error(
            "%s is damaged from byte %d to %d: what was recorded there is lost, the rest is not;"
            " the file is kept as *.damaged",
            path, start, end,
        )  # fmt: skip
    return contents


def _cut(path: Path, data: bytes, contents: _Contents, *, broken_at: int) -> None:
    """Take away a write that has no end: nobody was told that it is safe."""
    size = contents.whole_bytes
    holes = [hole for hole in contents.holes if hole[0] < size]
    is_killed_write = (
        holes == contents.holes and (broken_at == len(data) or is_cut_off(data, broken_at))
    ) or HEADER.startswith(data)
    if is_killed_write:
        _log.warning("%s: the last write broke off; %d bytes cut", path, len(data) - size)
    else:
        kept = path.with_suffix(".tail.damaged")
        shutil.copyfile(path, kept)
        _log.error(
            "%s: its last %d bytes cannot be read and are cut; a copy is kept as %s",
            path, len(data) - size, kept.name,
        )  # fmt: skip
    contents.holes = holes
    os.truncate(path, size)


def _sum_up(
    kind: str, after: int, segments: Iterable[tuple[Segment, _Contents]]
) -> Backlog | None:
    """What of `kind` waits behind sequence `after`."""
    count, first = 0, None
    for segment, contents in segments:
        span = contents.spans.get(kind)
        if span is None or span.highest <= after:
            continue
        if span.lowest <= after:
            span = _rest_of(segment, kind, after)
        count += span.count
        first = first or ((segment.number, span.offset), span.time_ns)
    return None if first is None else Backlog(kind, count, after, *first)


def _rest_of(segment: Segment, kind: str, after: int) -> _Span:
    data = segment.path.read_bytes()
    rest: _Span | None = None
    for found in scan(data):
        record = decode(data, found)
        if isinstance(record, Entry) and record.kind == kind and record.sequence > after:
            if rest is None:
                rest = _Span(
                    1, record.sequence, record.sequence, found.start, record.append_time_ns
                )
            else:
                rest.add(record.sequence)
    assert rest is not None
    return rest
