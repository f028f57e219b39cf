"""What the ledger keeps: the seam that servicer, intake and console use, and its in-memory form."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from farthing.ledger.core.charges import Charge, RecordOutcome, hash_content
from farthing.ledger.core.postings import Posting, make_postings, sum_sides
from farthing.ledger.core.requests import RequestSummary, summarise_requests
from farthing.ledger.core.spans import Span, TraceBalance
from farthing.ledger.core.spend import (
    SpendFilter,
    SpendQuery,
    SpendResult,
    Sums,
    matches,
    sum_by_hour,
    sum_spend,
)


@dataclass(frozen=True, slots=True)
class ChargeQuery:
    """Charges in [start_ns, end_ns), newest first, after the position `after` if it is given."""

    start_ns: int
    end_ns: int
    filters: tuple[SpendFilter, ...] = ()
    limit: int = 100
    # (charge_time_ns, charge_id) of the last charge seen.
    after: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Books:
    """Sums that must agree at any time, nano-USD, and how much is kept."""

    charge_count: int
    charge_nano_usd: int
    rollup_nano_usd: int
    debit_nano_usd: int
    credit_nano_usd: int
    span_count: int

    @property
    def balanced(self) -> bool:
        """True when debits, credits, charges and rollups tell the same amount."""
        return (
            self.charge_nano_usd
            == self.rollup_nano_usd
            == self.debit_nano_usd
            == self.credit_nano_usd
        )


class LedgerStore(Protocol):
    """Keeps charges, their postings and rollups, and spans. Times are Unix nanoseconds."""

    async def record_charges(self, charges: Sequence[Charge]) -> list[RecordOutcome]:
        """Records valid charges in one transaction, each once; durable on return."""
        ...

    async def query_spend(self, queries: Sequence[SpendQuery]) -> list[SpendResult]:
        """Answers all queries from one state of the books."""
        ...

    async def list_charges(self, query: ChargeQuery) -> list[Charge]:
        """At most `limit` charges, newest first."""
        ...

    async def trace_charges(self, trace_id: str) -> list[Charge]:
        """A trace's charges, oldest first."""
        ...

    async def recent_requests(
        self, start_ns: int, end_ns: int, limit: int
    ) -> tuple[RequestSummary, ...]:
        """Requests with charges in the window, newest first; sums cover all their charges."""
        ...

    async def record_spans(self, spans: Sequence[Span]) -> int:
        """Keeps spans not yet known by (trace_id, span_id); returns how many were new."""
        ...

    async def trace_spans(self, trace_id: str) -> list[Span]:
        """A trace's spans in order of start."""
        ...

    async def count_unpriced_spans(self, start_ns: int, end_ns: int) -> int:
        """Spans that used tokens but tell no cost and have no charge."""
        ...

    async def compare_traces(
        self, start_ns: int, end_ns: int, limit: int
    ) -> list[TraceBalance]:
        """Span cost against charges, per trace with a charge in the window; newest first."""
        ...

    async def sweep_spans(self, before_ns: int) -> int:
        """Deletes spans that ended before the instant; returns how many."""
        ...

    async def books(self) -> Books:
        """The sums that must agree."""
        ...

    async def close(self) -> None:
        """Finishes what was begun."""
        ...


class MemoryLedgerStore:
    """Implements LedgerStore in one process's memory: for tests and throw-away runs."""

    def __init__(self) -> None:
        self._charges: dict[str, tuple[bytes, Charge]] = {}
        self._postings: list[Posting] = []
        self._rollups: dict[tuple[int, tuple[str, ...]], Sums] = {}
        self._spans: dict[tuple[str, str], Span] = {}

    async def record_charges(self, charges: Sequence[Charge]) -> list[RecordOutcome]:
        """See LedgerStore."""
        entries = [(charge, hash_content(charge), make_postings(charge)) for charge in charges]
        outcomes: list[RecordOutcome] = []
        fresh: list[Charge] = []
        for charge, content_hash, postings in entries:
            known = self._charges.get(charge.charge_id)
            if known is not None:
                same = known[0] == content_hash
                outcomes.append(RecordOutcome.DUPLICATE if same else RecordOutcome.CONFLICT)
                continue
            self._charges[charge.charge_id] = (content_hash, charge)
            self._postings.extend(postings)
            fresh.append(charge)
            outcomes.append(RecordOutcome.RECORDED)
        for key, sums in sum_by_hour(fresh).items():
            kept = self._rollups.setdefault(key, Sums())
            kept.total_nano_usd += sums.total_nano_usd
        return outcomes

    async def query_spend(self, queries: Sequence[SpendQuery]) -> list[SpendResult]:
        """See LedgerStore."""
        charges = [charge for _, charge in self._charges.values()]
        return [sum_spend(charges, query) for query in queries]

    async def list_charges(self, query: ChargeQuery) -> list[Charge]:
        """See LedgerStore."""
        return [
            charge
            for charge in self._newest_first()
            if query.start_ns <= charge.charge_time_ns < query.end_ns
            and matches(charge, query.filters)
            and (query.after is None or (charge.charge_time_ns, charge.charge_id) < query.after)
        ][: query.limit]

    async def trace_charges(self, trace_id: str) -> list[Charge]:
        """See LedgerStore."""
        return [charge for charge in self._newest_first() if charge.trace_id == trace_id][::-1]

    async def recent_requests(
        self, start_ns: int, end_ns: int, limit: int
    ) -> tuple[RequestSummary, ...]:
        """See LedgerStore."""
        recent: dict[tuple[str, str], None] = {}
        for charge in self._newest_first():
            if start_ns <= charge.charge_time_ns < end_ns and len(recent) < limit:
                recent[charge.organisation_id, charge.request_id] = None
        return summarise_requests(
            charge
            for _, charge in self._charges.values()
            if (charge.organisation_id, charge.request_id) in recent
        )

    async def record_spans(self, spans: Sequence[Span]) -> int:
        """See LedgerStore."""
        before = len(self._spans)
        for span in spans:
            self._spans.setdefault((span.trace_id, span.span_id), span)
        return len(self._spans) - before

    async def trace_spans(self, trace_id: str) -> list[Span]:
        """See LedgerStore."""
        spans = [span for span in self._spans.values() if span.trace_id == trace_id]
        return sorted(spans, key=lambda span: (span.start_ns, span.span_id))

    async def count_unpriced_spans(self, start_ns: int, end_ns: int) -> int:
        """See LedgerStore."""
        charged = {(charge.trace_id, charge.span_id) for _, charge in self._charges.values()}
        return sum(
            span.token_count > 0
            and span.cost_nano_usd is None
            and start_ns <= span.start_ns < end_ns
            and key not in charged
            for key, span in self._spans.items()
        )

    async def compare_traces(
        self, start_ns: int, end_ns: int, limit: int
    ) -> list[TraceBalance]:
        """See LedgerStore."""
        recent: dict[str, None] = {}
        for charge in self._newest_first():
            if start_ns <= charge.charge_time_ns < end_ns and charge.trace_id:
                recent[charge.trace_id] = None
        balances = []
        for trace_id in list(recent)[:limit]:
            spans, charges = await asyncio.gather(
                self.trace_spans(trace_id), self.trace_charges(trace_id)
            )
            balances.append(
                TraceBalance(
                    trace_id,
                    len(spans),
                    sum(span.cost_nano_usd or 0 for span in spans),
                    sum(charge.total_nano_usd for charge in charges),
                )
            )
        return balances

    async def sweep_spans(self, before_ns: int) -> int:
        """See LedgerStore."""
        old = [key for key, span in self._spans.items() if span.end_ns < before_ns]
        for key in old:
            del self._spans[key]
        return len(old)

    async def books(self) -> Books:
        """See LedgerStore."""
        debits, credits = sum_sides(self._postings)
        return Books(
            charge_count=len(self._charges),
            charge_nano_usd=sum(charge.total_nano_usd for _, charge in self._charges.values()),
            rollup_nano_usd=sum(sums.total_nano_usd for sums in self._rollups.values()),
            debit_nano_usd=debits,
            credit_nano_usd=credits,
            span_count=len(self._spans),
        )

    async def close(self) -> None:
        """See LedgerStore."""

    def _newest_first(self) -> list[Charge]:
        charges = (charge for _, charge in self._charges.values())
        return sorted(charges, key=lambda c: (c.charge_time_ns, c.charge_id), reverse=True)
