"""Whether an idle engine's count of kept tokens is exact: every slot gets one request whose tokens are known."""

from __future__ import annotations

import random
import string
from collections.abc import AsyncIterator
from typing import Any

from tests.soak.lines import STUCK_S
from tests.soak.watching import read_idle_counters

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2 as pb

# Rows that end within so many steps of each other are not moved to close gaps, so nothing is held twice.
_ANSWER_COUNT = 15
_ATTEMPT_COUNT = 5


async def find_kept_faults(
    stub: Any, model: pb.ModelInfo, metrics_url: str, *, slot_count: int
) -> list[str]:
    """The kept tokens must be those that the requests computed: a token less than each had, for nobody asked on.

    The requests must run side by side; a machine that is held up between two of them gets another chance.
    """
    told = []
    for attempt in range(_ATTEMPT_COUNT):
        expected = await _fill_slots(stub, model, slot_count, random.Random(attempt))
        counters = await read_idle_counters(metrics_url, patience_s=10)
        if counters.cached_token_count == expected:
            return []
        told.append(f"{counters.cached_token_count} for {expected}")
    return [f"the engine's count of kept tokens is not exact: {', '.join(told)}"]


async def _fill_slots(
    stub: Any, model: pb.ModelInfo, slot_count: int, draw: random.Random
) -> int:
    """One message starts them all, behind one that holds the engine up until the others have come."""
    lengths = [model.context_length * 3 // 4, *[12] * slot_count]
    starts = [
        pb.RelayStart(id=place, request=_request(model, length, draw, 1 if not place else _ANSWER_COUNT))
        for place, length in enumerate(lengths)
    ]  # fmt: skip
    left, token_count = {start.id for start in starts}, 0
    call = stub.Relay(_once(pb.RelayRequest(starts=starts)), timeout=STUCK_S)
    async for response in call:
        for event in response.events:
            if event.HasField("failure"):
                raise RuntimeError(f"a request failed at the end: {event.failure.message}")
            if event.HasField("completion"):
                usage = event.completion.usage
                left.discard(event.id)
                if event.id:
                    token_count += usage.input_token_count + usage.output_token_count - 1
        if not left:
            break
    call.cancel()
    return token_count


async def _once(message: pb.RelayRequest) -> AsyncIterator[pb.RelayRequest]:
    yield message


def _request(
    model: pb.ModelInfo, length: int, draw: random.Random, answer_count: int
) -> pb.GenerateRequest:
    text = "".join(draw.choices(string.ascii_letters, k=length))
    # The tiny models end their answers with the first token of their vocabulary.
    sampling = pb.SamplingParams(temperature=0.0, logit_bias={0: -100.0})
    return pb.GenerateRequest(
        model=model.name,
        priority=common_pb2.PRIORITY_BATCH,
        input=pb.GenerationInput(prompt=text, max_tokens=answer_count, sampling=sampling),
    )
