from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.edge.schema_limits import MAX_PATTERN_WEIGHT, check_schema, pattern_weight
from farthing.kit.errors import InvalidArgument


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "boolean"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def text(**values: object) -> dict[str, Any]:
    return {"type": "string", **values}


@pytest.mark.parametrize(
    "schema",
    [
        text(maxLength=20_000),
        text(minLength=1e9),
        {"type": "array", "items": text(), "maxItems": 1_001},
        {"properties": {"a": text(maxLength=2_000)}},
        {"properties": {f"p{number}": text() for number in range(301)}},
        nested(70),
        text(pattern="^" + "(a|b)?" * 800 + "$"),
        text(pattern="^((a?){60}){60}$"),
        text(pattern="^((a|b)?){0,900}$"),
        text(pattern="^(a?b?c?){100}$"),
        text(pattern="^a{5000}$"),
    ],
)
def test_schemas_that_would_hurt_others_are_refused(schema: object) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_schema(schema)
    assert caught.value.field == "input.response_format.json_schema"


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"maxLength": text(), "pattern": text()}},
        text(maxLength=1_000, minLength=3),
        text(pattern=r"^\d{4}-\d{2}-\d{2}$"),
        text(pattern=r"^[a-z0-9._%+-]{1,64}@[a-z0-9.-]{1,255}\.[a-z]{2,63}$"),
        text(pattern=r"^(\([0-9]{3}\))?[0-9]{3}-[0-9]{4}$"),
        text(pattern=r"^[?*|]{900}\?{900}$"),
        nested(20),
    ],
)
def test_usual_schemas_pass(schema: object) -> None:
    check_schema(schema)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30))
def test_weight_counts_parts_that_may_be_absent(parts: int, inner: int, outer: int) -> None:
    pattern = f"(({'a?' * parts}){{{inner}}}){{{outer}}}"
    assert pattern_weight(pattern) == parts * inner * outer
    refused = pattern_weight(pattern) > MAX_PATTERN_WEIGHT
    if refused:
        with pytest.raises(InvalidArgument):
            check_schema(text(pattern=pattern))
    else:
        check_schema(text(pattern=pattern))
