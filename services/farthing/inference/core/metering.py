"""What a request used, what it may still use, and how fast the engine has been."""

from __future__ import annotations

from dataclasses import dataclass, replace

from farthing.inference.engine import EngineUsage

# Weight of the newest sample in the means that routers see: about the last ten requests count.
_NEWEST_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class Speed:
    """Device time per token, microseconds: exponentially weighted means and the least ever seen.

    0 is not measured.
    """

    prefill_us_per_token: float = 0.0
    decode_us_per_token: float = 0.0
    least_prefill_us_per_token: float = 0.0
    least_decode_us_per_token: float = 0.0

    @property
    def prefill_tokens_per_second(self) -> float:
        return 1e6 / self.prefill_us_per_token if self.prefill_us_per_token else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        return 1e6 / self.decode_us_per_token if self.decode_us_per_token else 0.0

    def after(
        self, *, prefill_us: int, prefill_count: int, decode_us: int, decode_count: int
    ) -> Speed:
        """The speed with one more request in it; counts of 0 tell nothing."""
        return Speed(
            _mean(self.prefill_us_per_token, prefill_us, prefill_count),
            _mean(self.decode_us_per_token, decode_us, decode_count),
            _least(self.least_prefill_us_per_token, prefill_us, prefill_count),
            _least(self.least_decode_us_per_token, decode_us, decode_count),
        )


def _mean(mean: float, total_us: int, count: int) -> float:
    if count <= 0 or total_us <= 0:
        return mean
    newest = total_us / count
    return newest if mean == 0 else mean + _NEWEST_WEIGHT * (newest - mean)


def _least(least: float, total_us: int, count: int) -> float:
    if count <= 0 or total_us <= 0:
        return least
    newest = total_us / count
    return newest if least == 0 else min(least, newest)


class Meter:
    """Counts one request's use. `compute_limit_us` 0 is no limit.

    Whether a step fits the limit is judged by the request's own steps so far, and the first one
    by the fastest ever seen: a slow minute of the machine must not refuse requests for good.
    """

    def __init__(self, usage: EngineUsage, compute_limit_us: int, speed: Speed) -> None:
        self._usage = usage
        self._limit_us = compute_limit_us
        self._speed = speed
        self._last_decode_us = 0
        self.prefill_count = 0
        self.decode_count = 0

    def may_prefill(self, token_count: int) -> bool:
        """Whether so many prompt tokens will probably end within the limit."""
        per_token_us = self._speed.least_prefill_us_per_token
        if self.prefill_count:
            per_token_us = self._usage.prefill_us / self.prefill_count
        return self._fits(round(per_token_us * token_count))

    def may_decode(self) -> bool:
        """Whether another token will probably end within the limit."""
        if not self.decode_count:
            return self._fits(round(self._speed.least_decode_us_per_token))
        mean_us = self._usage.decode_us // self.decode_count
        return self._fits(max(mean_us, self._last_decode_us))

    def reuse_prefill(self, token_count: int) -> None:
        self._usage = replace(self._usage, cached_input_token_count=token_count)

    def add_prefill(self, token_count: int, duration_us: int) -> None:
        self.prefill_count += token_count
        self._usage = replace(self._usage, prefill_us=self._usage.prefill_us + duration_us)

    def add_decode(self, duration_us: int) -> None:
        self.decode_count += 1
        self._last_decode_us = duration_us
        self._usage = replace(self._usage, decode_us=self._usage.decode_us + duration_us)

    def add_output(self, token_count: int, text: str) -> None:
        self._usage = replace(
            self._usage,
            output_token_count=self._usage.output_token_count + token_count,
            response_bytes=self._usage.response_bytes + len(text.encode()),
        )

    def speed(self) -> Speed:
        """The engine's speed with this request in it."""
        return self._speed.after(
            prefill_us=self._usage.prefill_us,
            prefill_count=self.prefill_count,
            decode_us=self._usage.decode_us,
            decode_count=self.decode_count,
        )

    def usage(self) -> EngineUsage:
        """What the request is to pay for.

        A step that took longer than foreseen can pass the limit; the rest is the instance's
        own loss, so that a budget can never be overdrawn.
        """
        usage = self._usage
        if self._limit_us == 0 or usage.compute_us <= self._limit_us:
            return usage
        prefill_us = min(usage.prefill_us, self._limit_us)
        return replace(usage, prefill_us=prefill_us, decode_us=self._limit_us - prefill_us)

    def _fits(self, next_us: int) -> bool:
        return self._limit_us == 0 or self._usage.compute_us + next_us < self._limit_us
