from __future__ import annotations

from tests.support.stepped_backend import SteppedBackend

from farthing.inference.calibration import calibrate
from farthing.inference.serial import EngineLimits, SerialEngine


async def test_speeds_are_known_before_the_first_request() -> None:
    engine = SerialEngine(SteppedBackend(endless=True), EngineLimits(), None)
    await engine.start()
    try:
        assert engine.load().decode_tokens_per_second == 0
        await calibrate(engine)
        assert engine.load().decode_tokens_per_second > 0
        assert engine.load().prefill_tokens_per_second > 0
    finally:
        await engine.close(0)


async def test_a_model_too_small_to_be_measured_still_serves() -> None:
    engine = SerialEngine(SteppedBackend(context=32), EngineLimits(), None)
    await engine.start()
    try:
        await calibrate(engine)
        assert engine.load().decode_tokens_per_second == 0
    finally:
        await engine.close(0)
