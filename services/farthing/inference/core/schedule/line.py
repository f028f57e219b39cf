"""Who is next: class first, then the tenant that was served least, then who came first; waiting lifts by a class."""

from __future__ import annotations

from collections.abc import Iterator

from farthing.inference.core.priority import Priority
from farthing.inference.core.schedule.fairness import ServiceCounters
from farthing.inference.core.schedule.row import Row


class Line:
    """Rows that wait for a slot, new ones and paused ones. At most `capacity` new ones."""

    def __init__(self, capacity: int, aging_us: int, counters: ServiceCounters) -> None:
        self._capacity, self._aging_us, self._counters = capacity, aging_us, counters
        self._rows: dict[int, Row] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    @property
    def is_full(self) -> bool:
        """Whether a new row can come in only in another's place."""
        return sum(not row.paused for row in self._rows.values()) >= self._capacity

    def add(self, row: Row) -> None:
        """Let a row wait."""
        self._rows[row.row_id] = row

    def remove(self, row: Row) -> None:
        """Let it go, if it is there."""
        self._rows.pop(row.row_id, None)

    def displaceable(self, newcomer: Row, now_us: int) -> Row | None:
        """The last of the new rows of the lowest class, if that is below the newcomer's; waiting protects nobody."""
        candidates = [row for row in self._rows.values() if not row.paused]
        last = max(
            candidates, key=lambda row: self.order(row, now_us, lifts=False), default=None
        )
        return last if last is not None and last.priority > newcomer.priority else None

    def in_order(self, now_us: int, *, lifts: bool = True) -> list[Row]:
        """All rows, next one first; unless it `lifts`, by their own classes however long they have waited."""
        return sorted(self._rows.values(), key=lambda row: self.order(row, now_us, lifts=lifts))

    def expired(self, now_us: int) -> list[Row]:
        """New rows whose time to begin is over."""
        return [
            row
            for row in self._rows.values()
            if row.deadline_us and row.deadline_us <= now_us and not row.paused
        ]

    def oldest_wait_us(self, now_us: int) -> int:
        """How long the one that waits longest has waited."""
        return max((now_us - row.waiting_since_us for row in self._rows.values()), default=0)

    def rank(self, row: Row, now_us: int, *, lifts: bool = True) -> int:
        """The row's class, lifted by one for each `aging_us` that it has waited if it `lifts`."""
        if not lifts:
            return int(row.priority)
        lifted = int(row.priority) - (now_us - row.waiting_since_us) // self._aging_us
        return max(lifted, int(Priority.INTERACTIVE))

    def order(
        self, row: Row, now_us: int, *, lifts: bool = True
    ) -> tuple[int, bool, int, int, int]:
        """Sort key. Of a class, paused rows go first: they have been paid for in part."""
        return (
            self.rank(row, now_us, lifts=lifts),
            not row.paused,
            self._counters.of(row.tenant_id),
            row.arrival_us,
            row.row_id,
        )
