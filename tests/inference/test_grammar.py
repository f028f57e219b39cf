"""Answers inside a schema: whatever a model would rather say, what it may say is JSON that the schema accepts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.toy_backend import END, VOCAB_SIZE, ToyBackend, ToyCodec

from farthing.inference.grammar import SchemaCompiler
from farthing.kit.errors import InvalidArgument

compiler = SchemaCompiler(ToyBackend().model, ToyCodec())


def say(schema: object, seed: int, most: int = 3_000) -> str:
    """What a model without any sense says inside the schema; it ends as soon as it may."""
    constraint = compiler.constrain(json.dumps(schema))
    drawn, said = np.random.default_rng(seed), bytearray()
    for _ in range(most):
        logits = drawn.normal(size=VOCAB_SIZE).astype(np.float32)
        logits[END] += 3
        constraint.mask(logits)
        token = int(logits.argmax())
        assert np.isfinite(logits[token])
        if token == END:
            constraint.close()
            return said.decode()
        said.append(token)
        constraint.accept(token)
    raise AssertionError(f"no end: {said[-100:]!r}")


leaves: list[tuple[dict[str, Any], type | tuple[type, ...]]] = [
    ({"type": "integer", "minimum": 0, "maximum": 99}, int),
    ({"type": "boolean"}, bool),
    ({"type": "string", "maxLength": 5}, str),
    ({"type": "null"}, type(None)),
    ({"enum": ["red", "green"]}, str),
]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(range(len(leaves))), min_size=1, max_size=4), st.integers(0, 99)
)
def test_an_object_has_its_fields_and_no_others(chosen: list[int], seed: int) -> None:
    names = [f"f{place}" for place in range(len(chosen))]
    schema = {
        "type": "object",
        "properties": {n: leaves[kind][0] for n, kind in zip(names, chosen, strict=True)},
        "required": names,
        "additionalProperties": False,
    }
    answer = json.loads(say(schema, seed))
    assert list(answer) == names
    for name, kind in zip(names, chosen, strict=True):
        schema_of, types = leaves[kind]
        assert isinstance(answer[name], types)
        if "enum" in schema_of:
            assert answer[name] in schema_of["enum"]
        if "maxLength" in schema_of:
            assert len(answer[name]) <= schema_of["maxLength"]


@pytest.mark.parametrize("seed", range(5))
def test_lists_choices_and_references_are_followed(seed: int) -> None:
    schema = {
        "$defs": {"point": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}},
        "anyOf": [{"$ref": "#/$defs/point"}, {"const": 7}],
    }
    answer = json.loads(say(schema, seed))
    assert answer == 7 or (len(answer) <= 3 and all(isinstance(one, bool) for one in answer))


@pytest.mark.parametrize(
    "schema",
    ["", "no", "[]", '{"type": "strong"}', '{"$ref": "http://127.0.0.1:1/x"}', "{" * 5_000],
)
def test_what_is_no_schema_is_refused_by_name(schema: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        compiler.constrain(schema)
    assert refused.value.reason == "SCHEMA_INVALID"
    assert refused.value.field == "input.response_format.json_schema"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "(a?){3000}b"},
        {"type": "string", "minLength": 20_000},
        {"type": "string", "pattern": "(a|b?)*" * 200},
        {"type": "array", "items": {"type": "array", "minItems": 5_000}, "minItems": 5_000},
        {"anyOf": [{"const": "x" * number} for number in range(1, 400)]},
    ],
)
def test_a_hostile_schema_is_followed_or_refused_and_nothing_else(schema: object) -> None:
    logits = np.zeros(VOCAB_SIZE, np.float32)
    try:
        compiler.constrain(json.dumps(schema)).mask(logits)
    except InvalidArgument as refused:
        assert refused.reason == "SCHEMA_INVALID"
    else:
        assert np.isfinite(logits).any()


def test_nothing_but_the_end_may_follow_a_whole_answer() -> None:
    constraint = compiler.constrain('{"const": true}')
    for letter in b"true":
        logits = np.zeros(VOCAB_SIZE, np.float32)
        constraint.mask(logits)
        assert np.isfinite(logits[letter])
        constraint.accept(letter)
    logits = np.zeros(VOCAB_SIZE, np.float32)
    constraint.mask(logits)
    assert np.isfinite(logits[END])
