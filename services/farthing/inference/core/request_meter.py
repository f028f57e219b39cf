"""What one request used: its shares of the steps it was in, and whether the next one still fits its limit."""

from __future__ import annotations

from farthing.inference.core.cost_model import StepSize, Weights
from farthing.inference.core.request import EngineUsage


class RequestMeter:
    """Counts one request's use. `compute_limit_us` 0 is no limit."""

    def __init__(self, *, input_count: int, request_bytes: int, compute_limit_us: int) -> None:
        self._input_count, self._request_bytes = input_count, request_bytes
        self._limit_us = compute_limit_us
        self._cached_count = self._output_count = self._response_bytes = 0
        self._queue_us = self._prefill_us = self._decode_us = 0
        self._last_decode_us = 0
        self._peak_kv_bytes = self._energy_uj = 0

    @property
    def compute_us(self) -> int:
        """Device time so far."""
        return self._prefill_us + self._decode_us

    def begin(self, *, queue_us: int, cached_count: int) -> None:
        """The request got its slot; `cached_count` prompt tokens need not be computed."""
        self._queue_us, self._cached_count = queue_us, cached_count

    def may(self, size: StepSize, weights: Weights, row_count: int) -> bool:
        """Whether its part of a step with `row_count` requests will probably end within the limit.

        What the last token took counts where that is more: a busy device takes longer than it was fitted to.
        """
        if not self._limit_us:
            return True
        expected_us = weights.weigh(size) + weights.step_us / max(1, row_count)
        if size.decode_count:
            expected_us = max(expected_us, self._last_decode_us)
        return self.compute_us + expected_us < self._limit_us

    def add_step(
        self, size: StepSize, share_us: int, kv_bytes: int, *, energy_uj: int = 0
    ) -> None:
        """Its share of a step and of the energy that the step drew, and the memory that it holds after it."""
        self._energy_uj += energy_uj
        if size.decode_count:
            self._decode_us += share_us
            self._last_decode_us = share_us
        else:
            self._prefill_us += share_us
        self._peak_kv_bytes = max(self._peak_kv_bytes, kv_bytes)

    def add_output(self, token_count: int, text: str) -> None:
        """More of the answer has gone out."""
        self._output_count += token_count
        self._response_bytes += len(text.encode())

    def usage(self, *, reasoning_count: int = 0) -> EngineUsage:
        """What the request is to pay for; `reasoning_count` of its output tokens were reasoning.

        A step that took longer than foreseen can pass the limit; the rest is the instance's own loss, so that a budget
        can never be overdrawn.
        """
        prefill_us, decode_us = self._prefill_us, self._decode_us
        if self._limit_us and prefill_us + decode_us > self._limit_us:
            prefill_us = min(prefill_us, self._limit_us)
            decode_us = self._limit_us - prefill_us
        return EngineUsage(
            input_token_count=self._input_count,
            output_token_count=self._output_count,
            cached_input_token_count=self._cached_count,
            reasoning_token_count=min(reasoning_count, self._output_count),
            queue_us=self._queue_us,
            prefill_us=prefill_us,
            decode_us=decode_us,
            request_bytes=self._request_bytes,
            response_bytes=self._response_bytes,
            peak_kv_bytes=self._peak_kv_bytes,
            energy_uj=self._energy_uj,
        )
