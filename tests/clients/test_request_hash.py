"""Requests share a hash exactly when they must share an answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.clients import request_hash
from farthing.clients.request_hash import HashedRequest, canonical_request_hash

BASE = HashedRequest(b"input", model="auto")
CHANGES: dict[str, Any] = {
    "input": b"another",
    "model": "edge-small",
    "task": "math",
    "min_quality_ratio": 0.5,
    "policy": "best",
    "residency": frozenset({"eu"}),
    "privacy_class": "edge_only",
}
TEXTS = st.text(max_size=5)
REQUESTS = st.builds(
    HashedRequest,
    input=st.binary(max_size=8),
    model=TEXTS,
    task=TEXTS,
    min_quality_ratio=st.sampled_from([0.0, 0.5, 1.0]),
    policy=TEXTS,
    residency=st.frozensets(TEXTS, max_size=2),
    privacy_class=TEXTS,
)


def test_every_field_is_tested() -> None:
    assert set(CHANGES) == set(HashedRequest._fields)


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_changes_the_hash(field: str) -> None:
    changed = BASE._replace(**{field: CHANGES[field]})
    assert canonical_request_hash(changed) != canonical_request_hash(BASE)


def test_no_model_is_any_model() -> None:
    assert canonical_request_hash(BASE._replace(model="")) == canonical_request_hash(BASE)


def test_zero_has_one_hash_whichever_sign_a_process_sees_first() -> None:
    hashes = set()
    for ratio in (0.0, -0.0):
        request_hash._head.cache_clear()  # as another process
        hashes.add(canonical_request_hash(BASE._replace(min_quality_ratio=ratio)))
    assert len(hashes) == 1


def test_long_lists_of_regions_differ_too() -> None:
    """They are not kept, see the module."""
    regions = [frozenset({"r" * 600, name}) for name in ("eu", "us")]
    hashes = [canonical_request_hash(BASE._replace(residency=one)) for one in regions * 2]
    assert hashes[0] == hashes[2] != hashes[1] == hashes[3]


@given(REQUESTS, REQUESTS)
def test_only_equal_requests_collide(one: HashedRequest, other: HashedRequest) -> None:
    hashes = {canonical_request_hash(each) for each in (one, other)}
    same = one._replace(model=one.model or "auto") == other._replace(
        model=other.model or "auto"
    )
    assert (len(hashes) == 1) == same


def test_the_hash_is_stable_over_versions() -> None:
    assert canonical_request_hash(BASE).hex() == (
        "e632c763c021d45ba616fcf6682d8ea88a458dc740c35b9c01b84ef335fcf696"
    )
