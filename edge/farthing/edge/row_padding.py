"""When a step is computed sooner with rows of no consequence added."""

from __future__ import annotations

import statistics
from collections import defaultdict

# The library's products go by fours or by other blocks, as the kernel has it; what is left over takes as long as rows
# alone do, or as a whole block.
_MOST_ADDED = 3
_TRIES = 6
_WORTH = 0.97  # of the time without


class RowPadding:
    """Learns from the steps themselves, for kernels differ by processor and by the type of weights.

    The first steps of a number of rows are computed in turns without and with added rows; then the soonest way stays. A
    row alone is left alone.
    """

    def __init__(self) -> None:
        # By the rows wanted and the rows computed.
        self._times_ns: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        # By the rows wanted and the most that could be computed.
        self._chosen: dict[tuple[int, int], int] = {}

    def rows_for(self, row_count: int, most_count: int) -> int:
        """How many rows, from `row_count` to `most_count`, to compute where `row_count` are wanted."""
        most_count = min(most_count, row_count + _MOST_ADDED)
        if row_count == 1 or most_count <= row_count:
            return row_count
        chosen = self._chosen.get((row_count, most_count))
        if chosen is not None:
            return chosen
        tried = {n: self._times_ns[row_count, n] for n in range(row_count, most_count + 1)}
        rarest = min(tried, key=lambda n: len(tried[n]))
        if len(tried[rarest]) < _TRIES:
            return rarest
        medians = {n: statistics.median(times) for n, times in tried.items()}
        soonest = min(medians, key=medians.__getitem__)
        worth_it = medians[soonest] < _WORTH * medians[row_count]
        self._chosen[row_count, most_count] = soonest if worth_it else row_count
        return self._chosen[row_count, most_count]

    def note(self, row_count: int, computed_count: int, duration_ns: int) -> None:
        """What a step took of which `row_count` rows were wanted."""
        times = self._times_ns.get((row_count, computed_count))
        if times is not None and len(times) < _TRIES:
            times.append(duration_ns)
