"""Asks a model that was just loaded what its answers are known to be, before it takes anybody's requests."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.inference.core.card import Canary
from farthing.inference.engine import Engine
from farthing.kit.errors import FailedPrecondition, FarthingError

Check = Callable[[Engine], Awaitable[None]]
"""Raises when a model that has just been loaded is not good enough to take another one's place."""

# A token is a byte or more of text; what is longer than the right answer is wrong however it goes on.
_SPARE_TOKENS = 8

_log = logging.getLogger(__name__)


def canary_check(canaries: Sequence[Canary], least_ratio: float) -> Check:
    """A check for ModelHost: of these prompts so large a share must be answered exactly as expected, greedily.

    It raises FailedPrecondition with the share that was reached.
    """

    async def check(engine: Engine) -> None:
        right_count = 0
        for canary in canaries:
            right_count += await _answer(engine, canary) == canary.answer.strip()
        ratio = right_count / len(canaries) if canaries else 1.0
        if ratio < least_ratio:
            name = engine.info.name
            raise FailedPrecondition(
                f"the new {name} answers {ratio:.0%} of {len(canaries)} canaries as expected, and at least"
                f" {least_ratio:.0%} are required; nothing has changed",
                reason="CANARY_FAILED",
                metadata={"model": name, "ratio": f"{ratio:.4f}"},
            )

    return check


async def _answer(engine: Engine, canary: Canary) -> str:
    asked = pb.GenerationInput(max_tokens=len(canary.answer.encode()) + _SPARE_TOKENS)
    if pb.CAPABILITY_CHAT in engine.info.capabilities:
        content = [pb.ContentPart(text=canary.prompt)]
        asked.messages.add(role=pb.ROLE_USER, content=content)
    else:
        asked.prompt = canary.prompt
    request = pb.GenerateRequest(model=engine.info.name, input=asked)
    text = ""
    try:
        async with aclosing(engine.generate(request)) as events:
            async for event in events:
                text += event.delta.text
    except FarthingError as error:
        _log.warning("a canary failed: %s", error.message)
        return ""
    return text.strip()
