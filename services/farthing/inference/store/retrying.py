"""Tries again after failures that may pass, with growing pauses, for as long as there is progress."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from farthing.inference.store.files import AddProgress, ProgressCallback
from farthing.kit.errors import FarthingError


@dataclass(frozen=True, slots=True)
class RetryRules:
    """`attempt_count` tries in a row may fail without a new byte; pauses double from `first_delay_s` on.

    The pauses of seven tries are 16 to 32 s together: a node that starts again on a busy machine is back by then.
    A connection that brings nothing for `stall_s` counts as failed.
    """

    attempt_count: int = 7
    first_delay_s: float = 0.5
    longest_delay_s: float = 30.0
    stall_s: float = 30.0

    def delay_s(self, failure_count: int, jitter_ratio: float) -> float:
        """The pause after so many failures in a row, 1 or more; `jitter_ratio` 0..1 spreads its upper half."""
        full_s: float = min(self.first_delay_s * 2 ** (failure_count - 1), self.longest_delay_s)
        return full_s * (0.5 + 0.5 * jitter_ratio)


class Interruption(Exception):
    """A transfer ended early and may go on. `error` is what to say when it does not; `wait_s` is asked for."""

    def __init__(self, error: FarthingError, wait_s: float = 0.0) -> None:
        super().__init__(error.message)
        self.error, self.wait_s = error, wait_s


class Retrying:
    """Runs tries one after the other until one succeeds."""

    def __init__(
        self,
        rules: RetryRules = RetryRules(),
        *,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.rules = rules
        self._sleep, self._jitter = sleep, jitter

    def run(
        self, attempt: Callable[[], None], position: Callable[[], int], report: ProgressCallback
    ) -> None:
        """Calls `attempt` until it raises no Interruption; then raises the last one's error.

        `position` tells how many bytes there are: while more come than ever before, nothing counts as a failure.
        """
        failures, highest = 0, position()
        while True:
            try:
                attempt()
                return
            except Interruption as interruption:
                if position() > highest:
                    failures, highest = 0, position()
                failures += 1
                if failures >= self.rules.attempt_count:
                    raise interruption.error from interruption
                wait_s = min(interruption.wait_s, self.rules.longest_delay_s)
                pause_s = max(self.rules.delay_s(failures, self._jitter()), wait_s)
                report(AddProgress("wait", interruption.error.message, position(), 0))
            self._sleep(pause_s)
