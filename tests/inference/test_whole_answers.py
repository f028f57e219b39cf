"""An answer that is asked for as a whole: the engine need not tell its tokens one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.inference.candidates import complete
from farthing.inference.wire import decode_request


def test_the_engine_is_asked_to_tell_as_seldom_as_it_may() -> None:
    asked: list[pb.GenerateRequest] = []

    async def generate(request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse]:
        asked.append(request)
        yield pb.GenerateResponse(delta=pb.Delta(text="for", token_count=1))
        yield pb.GenerateResponse(delta=pb.Delta(text="ty", token_count=1))
        yield pb.GenerateResponse(completion=pb.Completion(model_digest="d"))

    answer = asyncio.run(complete(generate, pb.GenerateRequest(coalesce_ms=5)))
    assert (answer.text, answer.completion.model_digest) == ("forty", "d")
    assert [one.coalesce_ms for one in asked] == [1_000]


@pytest.mark.parametrize(
    ("asked_ms", "coalesce_us"),
    [(0, 0), (20, 20_000), (1_000, 1_000_000), (5_000, 1_000_000), (-7, 0)],
)
def test_the_time_that_tokens_may_be_held_back_has_a_bound(
    asked_ms: int, coalesce_us: int
) -> None:
    assert decode_request(pb.GenerateRequest(coalesce_ms=asked_ms)).coalesce_us == coalesce_us
