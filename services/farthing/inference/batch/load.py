"""What an engine says of its load, for routers to choose by."""

from __future__ import annotations

from farthing.api.inference.v1 import inference_pb2
from farthing.inference.batch.loop import Totals
from farthing.inference.batch_backend import SlotLayout
from farthing.inference.core.cost_model import StepSize, Weights
from farthing.inference.core.schedule.values import Occupancy
from farthing.inference.model import ModelDescription

# The prompt that a single speed stands for: the step as such counts less in a longer one.
_TYPICAL_PROMPT_COUNT = 128


def describe_load(
    model: ModelDescription,
    layout: SlotLayout,
    occupancy: Occupancy,
    weights: Weights,
    totals: Totals,
) -> inference_pb2.LoadReport:
    """The load at this moment, and what the next request has to expect of the model's speed."""
    running_count = occupancy.running_count
    per_row = occupancy.kv_token_count / running_count if running_count else 0.0
    row_count = min(running_count + 1, layout.slot_count)
    interval_us = weights.predict_us(StepSize(0, row_count, round(per_row * row_count)))
    prompt_us = weights.predict_us(StepSize(_TYPICAL_PROMPT_COUNT, 0, 0))
    token_us = weights.predict_us(StepSize(0, 1, round(per_row)))
    return inference_pb2.LoadReport(
        running_request_count=running_count,
        queued_request_count=occupancy.waiting_count + occupancy.paused_count,
        capacity_request_count=layout.slot_count,
        queue_age_ms=occupancy.oldest_wait_us // 1000,
        paused_request_count=occupancy.paused_count,
        state=inference_pb2.ENGINE_STATE_READY,
        kv_token_count=occupancy.kv_token_count,
        kv_token_capacity=layout.token_capacity,
        cached_token_count=occupancy.cached_token_count,
        prefix_hit_ratio=(
            totals.reused_count / totals.prompt_count if totals.prompt_count else 0.0
        ),
        speeds=[
            inference_pb2.ModelSpeed(
                model=model.name,
                prefill_tokens_per_second=_per_second(prompt_us / _TYPICAL_PROMPT_COUNT),
                decode_tokens_per_second=_per_second(token_us),
                token_interval_us=interval_us,
                step_us=weights.step_us,
                prefill_us=weights.prefill_us,
                decode_us=weights.decode_us,
                kv_us=weights.kv_us,
            )
        ],
    )


def _per_second(us: float) -> float:
    return 1e6 / us if us > 0 else 0.0
