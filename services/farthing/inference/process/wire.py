"""Between engine.v1's messages and the values on both sides."""

from __future__ import annotations

from collections.abc import Iterable

from farthing.api.engine.v1 import engine_pb2
from farthing.api.inference.v1 import inference_pb2
from farthing.inference import wire
from farthing.inference.batch.loop import Totals
from farthing.inference.batch.telling import Emission
from farthing.inference.core.request import DoneEvent, TokenEvent
from farthing.kit.rpc.failure import encode_failure


def encode_events(emissions: Iterable[Emission]) -> engine_pb2.FromEngine:
    """What a step brought."""
    message = engine_pb2.FromEngine()
    for job_id, outcome in emissions:
        if isinstance(outcome, TokenEvent):
            event = message.events.add(id=job_id)
            event.delta.text = outcome.text
            event.delta.token_count = outcome.token_count
            if outcome.logprobs:
                event.delta.logprobs.extend(wire.encode_logprobs(outcome.logprobs))
        elif isinstance(outcome, DoneEvent):
            message.events.add(id=job_id, completion=wire.encode_completion(outcome))
        else:
            message.events.add(id=job_id, failure=encode_failure(outcome))
    return message


def encode_report(
    load: inference_pb2.LoadReport, totals: Totals, step_age_us: int
) -> engine_pb2.Report:
    """How an engine stands."""
    return engine_pb2.Report(
        load=load,
        step_age_us=step_age_us,
        busy_us=totals.busy_us,
        step_count=totals.step_count,
        guessed_token_count=totals.guessed_count,
        right_token_count=totals.right_count,
        pause_count=totals.pause_count,
        lost_step_count=totals.lost_step_count,
    )
