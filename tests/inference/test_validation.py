from __future__ import annotations

import math
from typing import Any

import pytest

from farthing.inference.batch_backend import ChatMessage
from farthing.inference.core.request import EngineRequest, Sampling
from farthing.inference.core.validation import check_request
from farthing.kit.errors import InvalidArgument

BAD: list[tuple[str, dict[str, Any]]] = [
    ("input.prompt", {"prompt": ""}),
    ("input.prompt", {"messages": (ChatMessage("user", "x"),)}),
    ("input.max_tokens", {"max_tokens": -1}),
    ("compute_limit_us", {"compute_limit_us": -1}),
    ("input.sampling.temperature", {"sampling": Sampling(temperature=2.1)}),
    ("input.sampling.temperature", {"sampling": Sampling(temperature=math.nan)}),
    ("input.sampling.top_p", {"sampling": Sampling(top_p=0.0)}),
    ("input.sampling.top_k", {"sampling": Sampling(top_k=-1)}),
    ("input.sampling.min_p", {"sampling": Sampling(min_p=1.5)}),
    ("input.sampling.frequency_penalty", {"sampling": Sampling(frequency_penalty=2.5)}),
    ("input.sampling.presence_penalty", {"sampling": Sampling(presence_penalty=math.inf)}),
    ("input.stop", {"stop": ("x",) * 9}),
    ("input.stop[1]", {"stop": ("x", "")}),
    ("input.stop[0]", {"stop": ("€" * 86,)}),
    ("input.top_logprobs", {"top_logprobs": 21, "logprobs": True}),
    ("input.top_logprobs", {"top_logprobs": 1}),
    ("input.response_format.json_schema", {"json_schema": " " * 65_537}),
]


@pytest.mark.parametrize(("field", "values"), BAD)
def test_a_bad_field_is_named(field: str, values: dict[str, Any]) -> None:
    request = EngineRequest(**{"request_id": "r", "prompt": "hello", **values})
    with pytest.raises(InvalidArgument) as caught:
        check_request(request)
    assert caught.value.field == field
    assert field in caught.value.message


def test_the_ends_of_all_ranges_are_fine() -> None:
    check_request(
        EngineRequest(
            request_id="r",
            prompt="hello",
            sampling=Sampling(2.0, 1.0, 1_000, 1.0, -2.0, 2.0, seed=-1),
            stop=("x" * 256,) * 8,
            logprobs=True,
            top_logprobs=20,
        )
    )
