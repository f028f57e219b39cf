"""Measures an engine before it serves: a router's first estimates should not be guesses."""

from __future__ import annotations

import logging

from farthing.inference.engine import Engine, EngineRequest
from farthing.kit.errors import FarthingError

_LOGGER = logging.getLogger(__name__)
_PROMPT = "The relay is green and the pump is running. " * 4
_OUTPUT_TOKENS = 16
_RUNS = 3  # the first one also warms caches and pages; later ones outweigh it


async def calibrate(engine: Engine) -> None:
    """Answer a few short prompts nobody asked, so that the engine's speeds are measured.

    A model that refuses the prompt (a tiny context, say) stays unmeasured: that is logged and not an error.
    """
    for run in range(_RUNS):
        # Another beginning each time, or the second prefill would be answered by prefix reuse.
        request = EngineRequest(
            request_id="calibration", prompt=f"{run} {_PROMPT}", max_tokens=_OUTPUT_TOKENS
        )
        try:
            async for _ in engine.generate(request):
                pass
        except FarthingError as error:
            _LOGGER.warning("the engine could not be measured: %s", error.message)
            return
    load = engine.load()
    _LOGGER.info(
        "engine measured",
        extra={
            "model": engine.model.name,
            "prefill_tokens_per_second": round(load.prefill_tokens_per_second),
            "decode_tokens_per_second": round(load.decode_tokens_per_second),
        },
    )
