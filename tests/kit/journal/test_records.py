from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from farthing.kit.journal.records import (
    MAX_NAME_LENGTH,
    MAX_PAYLOAD_BYTES,
    MAX_RECORD_BYTES,
    Done,
    Entry,
    decode,
    encode_write,
    is_cut_off,
    scan,
)

ENTRIES = st.builds(
    Entry,
    st.integers(1, 2**64 - 1),
    st.sampled_from(["charge", "quota.settle", "ß"]),
    st.text(st.characters(), max_size=40),  # halves of surrogate pairs too
    st.binary(max_size=200),
    st.integers(-(2**63), 2**63 - 1),
)
WRITES = st.lists(
    st.tuples(
        st.lists(ENTRIES, max_size=4),
        st.dictionaries(st.sampled_from(["charge", "ß"]), st.integers(0, 2**64 - 1)),
    ),
    max_size=4,
)
_Write = tuple[list[Entry], dict[str, int]]


def _read(data: bytes) -> list[Entry | Done]:
    return [decode(data, found) for found in scan(data)]


def _records(writes: list[_Write]) -> list[Entry | Done]:
    records: list[Entry | Done] = []
    for entries, done in writes:
        records += [Done(*item) for item in done.items()]
        records += entries
    return records


@given(WRITES)
def test_what_is_written_is_read_in_the_same_order(writes: list[_Write]) -> None:
    data = b"".join(encode_write(entries, done) for entries, done in writes)
    assert _read(data) == _records(writes)


@given(WRITES)
def test_each_write_says_where_it_ends(writes: list[_Write]) -> None:
    encoded = [encode_write(entries, done) for entries, done in writes]
    ends = [sum(map(len, encoded[: n + 1])) for n, write in enumerate(encoded) if write]
    data = b"".join(encoded)
    assert [found.end for found in scan(data) if found.is_last] == ends


@given(WRITES, st.data())
def test_a_cut_write_is_read_up_to_the_last_whole_record_and_known_as_cut(
    writes: list[_Write], data: st.DataObject
) -> None:
    whole = b"".join(encode_write(entries, done) for entries, done in writes)
    part = whole[: data.draw(st.integers(0, len(whole)))]
    read = _read(part)
    assert read == _records(writes)[: len(read)]
    end = max((found.end for found in scan(part)), default=0)
    assert end == len(part) or is_cut_off(part, end)


@given(st.binary(max_size=300), ENTRIES, st.binary(max_size=300), ENTRIES)
def test_records_between_rubbish_are_found(
    before: bytes, first: Entry, between: bytes, second: Entry
) -> None:
    data = before + encode_write([first], {}) + between + encode_write([second], {})
    assert _read(data) == [first, second]


@given(st.lists(ENTRIES, min_size=1, max_size=4), st.data())
def test_a_changed_byte_costs_the_record_it_is_in_and_no_other(
    entries: list[Entry], data: st.DataObject
) -> None:
    whole = bytearray(encode_write(entries, {}))
    at = data.draw(st.integers(0, len(whole) - 1))
    hit = next(n for n, found in enumerate(scan(bytes(whole))) if at < found.end)
    whole[at] ^= data.draw(st.integers(1, 255))
    assert _read(bytes(whole)) == entries[:hit] + entries[hit + 1 :]


def test_zeros_are_no_records() -> None:
    assert _read(bytes(10_000)) == []


def test_the_largest_entry_fits_a_record() -> None:
    entry = Entry(1, "\U0001f600" * MAX_NAME_LENGTH, "", bytes(MAX_PAYLOAD_BYTES), 0)
    data = encode_write([entry], {})
    assert len(data) == MAX_RECORD_BYTES
    assert _read(data) == [entry]
