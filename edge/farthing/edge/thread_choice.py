"""With how many threads a small step is computed soonest."""

from __future__ import annotations

# A step of more tokens is computed with all threads: each of its products is long, and the last thread not missed.
_FEW_TOKENS = 32
_TRIES = 6
_WORTH = 0.9  # of the time with as many threads as now
# Steps from one trial to the next; twice as many after each that changed nothing.
_SOONEST, _LATEST = 64, 1024
_LEAST = 24  # also where times have changed
_CHANGED = 1.5
_RECENT_WEIGHT = 1 / 8


class ThreadChoice:
    """Learns from the steps themselves, and again and again, for what else runs on the machine comes and goes.

    Each product of a step ends when its last thread does. Beside busy neighbours that one waits for a core, and fewer
    threads are sooner, often one alone; on a quiet machine all are, or as many as memory keeps busy. A trial computes
    some steps of the same size in turns with as many threads as now, and with half or twice as many. Results do not
    depend on the count: each number of a product is computed by one thread.
    """

    def __init__(self, most_count: int) -> None:
        self.count = self._most_count = most_count
        self._interval = self._wait = _SOONEST
        self._since = 0
        self._upward = False
        self._trial: _Trial | None = None
        # By tokens of a step: its time when last tried, and of late.
        self._usual_ns: dict[int, float] = {}
        self._recent_ns: dict[int, float] = {}

    @property
    def is_trying(self) -> bool:
        """Whether a trial is under way."""
        return self._trial is not None

    def count_for(self, token_count: int) -> int:
        """Threads for the next step, of so many tokens."""
        if token_count > _FEW_TOKENS:
            return self._most_count
        trial = self._trial
        if trial is not None and trial.token_count == token_count:
            return trial.next_count
        return self.count

    def note(self, token_count: int, thread_count: int, duration_ns: int) -> None:
        """What that step took."""
        if token_count > _FEW_TOKENS or self._most_count == 1:
            return
        self._since += 1
        trial = self._trial
        if trial is None:
            self._wait -= 1
            changed = self._has_changed(token_count, duration_ns) and self._since >= _LEAST
            if changed or self._wait <= 0:
                self._begin(token_count, changed)
        elif trial.token_count == token_count and trial.next_count == thread_count:
            trial.take(duration_ns)
            if trial.is_over:
                self._decide(trial)
        elif self._since > _LATEST:  # steps of that size come no more
            self._trial, self._since, self._wait = None, 0, self._interval

    def _has_changed(self, token_count: int, duration_ns: int) -> bool:
        before_ns = self._recent_ns.get(token_count)
        if before_ns is None:
            recent_ns = float(duration_ns)
        else:
            recent_ns = before_ns + (duration_ns - before_ns) * _RECENT_WEIGHT
        self._recent_ns[token_count] = recent_ns
        usual_ns = self._usual_ns.get(token_count)
        return usual_ns is not None and not (
            usual_ns / _CHANGED <= recent_ns <= usual_ns * _CHANGED
        )

    def _begin(self, token_count: int, changed: bool) -> None:
        if changed:
            self._interval = _SOONEST
        fewer, more = self.count // 2, min(2 * self.count, self._most_count)
        is_upward = more > self.count and (self._upward or not fewer)
        self._trial = _Trial(token_count, self.count, more if is_upward else fewer)
        self._since = 0

    def _decide(self, trial: _Trial) -> None:
        now_ns, other_ns = trial.means_ns
        if other_ns < _WORTH * now_ns:
            self._upward = trial.other_count > self.count
            self.count = trial.other_count
            self._interval = _SOONEST
        else:
            self._upward = trial.other_count < self.count
            self._interval = min(2 * self._interval, _LATEST)
        self._wait, self._since, self._trial = self._interval, 0, None
        self._usual_ns = {trial.token_count: min(now_ns, other_ns)}
        self._recent_ns = {}


class _Trial:
    """Steps of one size, in turns with the count of now and with another."""

    __slots__ = ("_counts", "_taken_ns", "other_count", "token_count")

    def __init__(self, token_count: int, count: int, other_count: int) -> None:
        self.token_count, self.other_count = token_count, other_count
        self._counts = (count, other_count)
        self._taken_ns: list[int] = []

    @property
    def next_count(self) -> int:
        return self._counts[len(self._taken_ns) % 2]

    @property
    def is_over(self) -> bool:
        return len(self._taken_ns) == 2 * _TRIES

    @property
    def means_ns(self) -> tuple[float, float]:
        return sum(self._taken_ns[::2]) / _TRIES, sum(self._taken_ns[1::2]) / _TRIES

    def take(self, duration_ns: int) -> None:
        self._taken_ns.append(duration_ns)
