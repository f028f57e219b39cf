"""Requests share a hash exactly when they must share an answer."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.clients.request_hash import HashedRequest, canonical_request_hash

BASE = HashedRequest(model="auto", messages=(("user", "What is 2+2?"),))
CHANGES: dict[str, Any] = {
    "model": "edge-small",
    "messages": (("user", "What is 2+3?"),),
    "prompt": "2+2",
    "max_tokens": 5,
    "temperature": 0.0,
    "top_p": 0.5,
    "top_k": 1,
    "min_p": 0.1,
    "seed": 7,
    "frequency_penalty": 1.0,
    "presence_penalty": 1.0,
    "stop": ("\n",),
    "response_format": "json",
    "json_schema": "{}",
    "logprobs": True,
    "top_logprobs": 2,
    "task": "math",
    "min_quality_ratio": 0.5,
    "policy": "best",
    "residency": ("eu",),
    "privacy_class": "edge_only",
}


def test_every_field_is_tested() -> None:
    assert set(CHANGES) == {field.name for field in fields(HashedRequest)}


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_changes_the_hash(field: str) -> None:
    changed = replace(BASE, **{field: CHANGES[field]})
    assert canonical_request_hash(changed) != canonical_request_hash(BASE)


def test_equal_wishes_written_differently_share_the_hash() -> None:
    one = replace(BASE, model="", stop=("a", "b", "a"), temperature=0, residency=("eu", "us"))
    other = replace(BASE, stop=("b", "a"), temperature=-0.0, residency=("us", "eu"))
    assert canonical_request_hash(one) == canonical_request_hash(other)


def test_large_seeds_stay_apart() -> None:
    one, other = replace(BASE, seed=2**53), replace(BASE, seed=2**53 + 1)
    assert canonical_request_hash(one) != canonical_request_hash(other)


texts = st.text(max_size=5)


@given(
    st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
)
def test_only_equal_conversations_collide(
    one: tuple[tuple[str, str], ...], other: tuple[tuple[str, str], ...]
) -> None:
    hashes = {canonical_request_hash(replace(BASE, messages=each)) for each in (one, other)}
    assert (len(hashes) == 1) == (one == other)


def test_the_hash_is_stable_over_versions() -> None:
    assert canonical_request_hash(BASE).hex() == (
        "8010400dc8571ec9754e69be3884948fed8eed35ea42cd12d6565bbf77509c6e"
    )
