"""The filter of keys: what was added is never denied, and little else is taken for it."""

from __future__ import annotations

import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.clients.key_filter import KeyFilter, prefix_of
from farthing.kit.errors import InvalidArgument

PREFIXES = st.lists(st.binary(min_size=8, max_size=8), max_size=300)


def prefixes(count: int, name: str) -> list[bytes]:
    """Prefixes as they come: parts of hashes."""
    return [prefix_of(name, number.to_bytes(32)) for number in range(count)]


@given(one_by_one=PREFIXES, together=PREFIXES)
def test_what_was_added_is_never_denied(one_by_one: list[bytes], together: list[bytes]) -> None:
    known = KeyFilter()
    for prefix in one_by_one:
        known.add(prefix)
    known.add_all(b"".join(together))
    assert all(prefix in known for prefix in one_by_one + together)
    assert known.key_count <= len({*one_by_one, *together})


@given(other=st.binary(min_size=8, max_size=8))
def test_an_empty_filter_denies_every_key(other: bytes) -> None:
    assert other not in KeyFilter()


@pytest.mark.parametrize("count", [32_768, 65_536, 100_000])
def test_about_as_many_others_are_taken_for_held_as_theory_says(count: int) -> None:
    """At 5, 8 and 16 bits a key in the smallest filter; the bounds are five standard deviations wide."""
    known, asked_count = KeyFilter(), 40_000
    known.add_all(b"".join(prefixes(count, "held")))
    expected_ratio = (1 - math.exp(-6 * count / (known.size_bytes * 8))) ** 6
    wrong_count = sum(prefix in known for prefix in prefixes(asked_count, "other"))
    expected_count = expected_ratio * asked_count
    assert abs(wrong_count - expected_count) < 5 * math.sqrt(expected_count) + 1


@pytest.mark.parametrize(
    ("expected_count", "size_bytes"),
    [
        (-1, 64 * 1024),
        (0, 64 * 1024),
        (32_768, 64 * 1024),
        (32_769, 128 * 1024),
        (2_000_000, 4 * 1024 * 1024),
        (10**12, 4 * 1024 * 1024),
    ],
)
def test_the_size_follows_the_keys_within_bounds(expected_count: int, size_bytes: int) -> None:
    assert KeyFilter(expected_count).size_bytes == size_bytes


def test_a_filter_with_many_more_keys_than_expected_says_so() -> None:
    known = KeyFilter(1)
    known.add_all(b"".join(prefixes(60_000, "held")))
    assert not known.crowded
    known.add_all(b"".join(prefixes(75_000, "held")))
    assert known.crowded


def test_half_a_prefix_is_refused_by_field() -> None:
    with pytest.raises(InvalidArgument) as caught:
        KeyFilter().add_all(b"123456789")
    assert caught.value.field == "key_prefixes"


def test_a_prefix_is_what_the_contract_says() -> None:
    request_hash = bytes(range(32))
    digest = hashlib.sha256("Müller".encode() + b"\0" + request_hash).digest()
    assert prefix_of("Müller", request_hash) == digest[:8]
    assert prefix_of("Muller", request_hash) != digest[:8]
