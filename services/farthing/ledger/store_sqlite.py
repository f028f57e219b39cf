"""The embedded ledger: two SQLite files in WAL mode, one writer thread each, readers beside them."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from farthing.kit.sqlite_writer import SqliteWriter
from farthing.ledger import store_sqlite_rows as rows
from farthing.ledger.core.charges import Charge, RecordOutcome, hash_content
from farthing.ledger.core.postings import Posting, make_postings
from farthing.ledger.core.requests import RequestSummary, summarise_requests
from farthing.ledger.core.spans import Span, TraceBalance
from farthing.ledger.core.spend import (
    FIELDS,
    ROLLUP_DIMENSIONS,
    SpendQuery,
    SpendResult,
    sum_by_hour,
)
from farthing.ledger.store import Books, ChargeQuery
from farthing.ledger.store_sqlite_schema import (
    LEDGER_SCHEMA,
    SPANS_SCHEMA,
    check_version,
    open_reader,
)
from farthing.ledger.store_sqlite_spend import filter_sql, run_query

_T = TypeVar("_T")
_READER_COUNT = 2
_SWEEP_BATCH_COUNT = 2_000

_DIMENSION_COLUMNS = ", ".join(FIELDS[dimension] for dimension in ROLLUP_DIMENSIONS)
_UPSERT_ROLLUP = f"""
INSERT INTO spend_rollups (hour, {_DIMENSION_COLUMNS}, total_nano_usd, charge_count,
    input_token_count, output_token_count, waste_nano_usd, unpriced_count)
VALUES ({", ".join("?" * (len(ROLLUP_DIMENSIONS) + 7))})
ON CONFLICT (hour, organisation_id, cost_centre_id, team_id, key_id, model, region, service, tier,
    task) DO UPDATE SET
    total_nano_usd = total_nano_usd + excluded.total_nano_usd,
    charge_count = charge_count + excluded.charge_count,
    input_token_count = input_token_count + excluded.input_token_count,
    output_token_count = output_token_count + excluded.output_token_count,
    waste_nano_usd = waste_nano_usd + excluded.waste_nano_usd,
    unpriced_count = unpriced_count + excluded.unpriced_count
RETURNING rollup_row
"""
_UPSERT_ROLLUP_LINE = """
INSERT INTO spend_rollup_lines (rollup_row, kind, unit, amount_nano_usd, quantity, estimated)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (rollup_row, kind, unit) DO UPDATE SET
    amount_nano_usd = amount_nano_usd + excluded.amount_nano_usd,
    quantity = quantity + excluded.quantity,
    estimated = max(estimated, excluded.estimated)
"""


class SqliteLedgerStore:
    """Implements LedgerStore in `directory`. Call `open` first.

    Charges are committed with synchronous=FULL: they survive a loss of power. Spans, which are a
    view, with NORMAL: they survive a crash of the process.
    """

    def __init__(self, directory: Path) -> None:
        self._ledger_path, self._spans_path = directory / "ledger.db", directory / "spans.db"
        self._ledger = SqliteWriter(
            self._ledger_path, schema=LEDGER_SCHEMA, synchronous="full", exclusive=False
        )
        self._spans = SqliteWriter(self._spans_path, schema=SPANS_SCHEMA, exclusive=False)
        self._readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._read_threads = ThreadPoolExecutor(_READER_COUNT, "ledger-reader")

    async def open(self) -> None:
        """Opens the files, making them if they are missing.

        FailedPrecondition if a newer release wrote them, Unavailable if they cannot be used.
        """
        check_version(self._ledger_path)
        check_version(self._spans_path)
        await self._ledger.open()
        await self._spans.open()
        for _ in range(_READER_COUNT):
            self._readers.put(open_reader(self._ledger_path, self._spans_path))

    async def record_charges(self, charges: Sequence[Charge]) -> list[RecordOutcome]:
        """See LedgerStore."""
        entries = [(charge, hash_content(charge), make_postings(charge)) for charge in charges]
        return await self._ledger.run(lambda base: _record(base, entries))

    async def query_spend(self, queries: Sequence[SpendQuery]) -> list[SpendResult]:
        """See LedgerStore."""
        return await self._read(lambda base: [run_query(base, query) for query in queries])

    async def list_charges(self, query: ChargeQuery) -> list[Charge]:
        """See LedgerStore."""
        condition, values = filter_sql(query.filters)
        sql = f"{rows.SELECT_CHARGES} WHERE t.charge_time_ns >= ? AND t.charge_time_ns < ?"
        bound: list[object] = [query.start_ns, query.end_ns]
        if query.after is not None:
            sql += " AND (t.charge_time_ns, t.charge_id) < (?, ?)"
            bound.extend(query.after)
        sql += f"{condition} ORDER BY t.charge_time_ns DESC, t.charge_id DESC LIMIT ?"
        return await self._read(
            lambda base: _read_charges(base.execute(sql, (*bound, *values, query.limit)))
        )

    async def trace_charges(self, trace_id: str) -> list[Charge]:
        """See LedgerStore."""
        sql = (
            f"{rows.SELECT_CHARGES} WHERE t.trace_id = ? AND t.trace_id <> ''"
            " ORDER BY t.charge_time_ns, t.charge_id"
        )
        return await self._read(lambda base: _read_charges(base.execute(sql, (trace_id,))))

    async def recent_requests(
        self, start_ns: int, end_ns: int, limit: int
    ) -> tuple[RequestSummary, ...]:
        """See LedgerStore."""

        def read(base: sqlite3.Connection) -> tuple[RequestSummary, ...]:
            newest = base.execute(
                "SELECT organisation_id, request_id FROM charges"
                " WHERE charge_time_ns >= ? AND charge_time_ns < ?"
                " ORDER BY charge_time_ns DESC, charge_id DESC",
                (start_ns, end_ns),
            )
            sql = f"{rows.SELECT_CHARGES} WHERE t.organisation_id = ? AND t.request_id = ?"
            return summarise_requests(
                charge
                for key in islice(_distinct(newest), limit)
                for charge in _read_charges(base.execute(sql, key))
            )

        return await self._read(read)

    async def record_spans(self, spans: Sequence[Span]) -> int:
        """See LedgerStore."""
        values = [rows.span_row(span) for span in spans]
        return await self._spans.run(
            lambda base: base.executemany(rows.INSERT_SPAN, values).rowcount
        )

    async def trace_spans(self, trace_id: str) -> list[Span]:
        """See LedgerStore."""
        sql = f"{rows.SELECT_SPANS} WHERE trace_id = ? ORDER BY start_ns, span_id"
        return await self._read(
            lambda base: [rows.read_span(row) for row in base.execute(sql, (trace_id,))]
        )

    async def count_unpriced_spans(self, start_ns: int, end_ns: int) -> int:
        """See LedgerStore."""
        sql = (
            "SELECT count(*) FROM traces.spans AS s WHERE token_count > 0"
            " AND cost_nano_usd IS NULL AND start_ns >= ? AND start_ns < ?"
            " AND NOT EXISTS (SELECT 1 FROM charges AS c WHERE c.trace_id = s.trace_id"
            " AND c.trace_id <> '' AND c.span_id = s.span_id)"
        )
        return await self._read(
            lambda base: int(base.execute(sql, (start_ns, end_ns)).fetchone()[0])
        )

    async def compare_traces(
        self, start_ns: int, end_ns: int, limit: int
    ) -> list[TraceBalance]:
        """See LedgerStore."""

        def read(base: sqlite3.Connection) -> list[TraceBalance]:
            newest = base.execute(
                "SELECT trace_id FROM charges WHERE charge_time_ns >= ? AND charge_time_ns < ?"
                " AND trace_id <> '' ORDER BY charge_time_ns DESC, charge_id DESC",
                (start_ns, end_ns),
            )
            sql = (
                "SELECT ?1, (SELECT count(*) FROM traces.spans WHERE trace_id = ?1),"
                " (SELECT coalesce(sum(cost_nano_usd), 0) FROM traces.spans WHERE trace_id = ?1),"
                " (SELECT sum(total_nano_usd) FROM charges WHERE trace_id = ?1"
                " AND trace_id <> '')"
            )
            return [
                TraceBalance(*base.execute(sql, key).fetchone())
                for key in islice(_distinct(newest), limit)
            ]

        return await self._read(read)

    async def sweep_spans(self, before_ns: int) -> int:
        """See LedgerStore. Works in batches so that intake goes on between them."""
        swept = 0
        while True:
            count = await self._spans.run(lambda base: _sweep(base, before_ns))
            swept += count
            if count < _SWEEP_BATCH_COUNT:
                return swept

    async def books(self) -> Books:
        """See LedgerStore."""
        sql = (
            "SELECT (SELECT count(*) FROM charges),"
            " (SELECT coalesce(sum(total_nano_usd), 0) FROM charges),"
            " (SELECT coalesce(sum(total_nano_usd), 0) FROM spend_rollups),"
            " (SELECT coalesce(sum(debit_nano_usd), 0) FROM postings),"
            " (SELECT coalesce(sum(credit_nano_usd), 0) FROM postings),"
            " (SELECT count(*) FROM traces.spans)"
        )
        return await self._read(lambda base: Books(*base.execute(sql).fetchone()))

    async def close(self) -> None:
        """See LedgerStore."""
        await self._ledger.close()
        await self._spans.close()
        await asyncio.to_thread(self._read_threads.shutdown)
        while not self._readers.empty():
            self._readers.get().close()

    async def _read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        def run() -> _T:
            base = self._readers.get()
            try:
                base.execute("BEGIN DEFERRED")
                try:
                    return work(base)
                finally:
                    base.execute("ROLLBACK")
            finally:
                self._readers.put(base)

        return await asyncio.get_running_loop().run_in_executor(self._read_threads, run)


def _record(
    base: sqlite3.Connection, entries: Sequence[tuple[Charge, bytes, tuple[Posting, ...]]]
) -> list[RecordOutcome]:
    outcomes: list[RecordOutcome] = []
    fresh: list[Charge] = []
    accounts: dict[str, int] = {}
    for charge, content_hash, postings in entries:
        cursor = base.execute(rows.INSERT_CHARGE, (*rows.charge_row(charge), content_hash))
        if not cursor.rowcount:
            outcomes.append(_compare(base, charge.charge_id, content_hash))
            continue
        key = cursor.lastrowid
        base.executemany(
            "INSERT INTO charge_lines VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (key, number, line.kind, line.unit, line.amount_nano_usd, line.quantity,
                 line.estimated)
                for number, line in enumerate(charge.cost_lines)
            ],
        )  # fmt: skip
        base.executemany(
            "INSERT INTO postings VALUES (?, ?, ?, ?, ?)",
            [
                (key, number, _account(base, posting.account, accounts),
                 posting.debit_nano_usd, posting.credit_nano_usd)
                for number, posting in enumerate(postings)
            ],
        )  # fmt: skip
        fresh.append(charge)
        outcomes.append(RecordOutcome.RECORDED)
    _add_to_rollups(base, fresh)
    return outcomes


def _sweep(base: sqlite3.Connection, before_ns: int) -> int:
    return base.execute(
        "DELETE FROM spans WHERE span_row IN"
        " (SELECT span_row FROM spans WHERE end_ns < ? LIMIT ?)",
        (before_ns, _SWEEP_BATCH_COUNT),
    ).rowcount


def _compare(base: sqlite3.Connection, charge_id: str, content_hash: bytes) -> RecordOutcome:
    sql = "SELECT content_hash FROM charges WHERE charge_id = ?"
    (known,) = base.execute(sql, (charge_id,)).fetchone()
    return RecordOutcome.DUPLICATE if known == content_hash else RecordOutcome.CONFLICT


def _account(base: sqlite3.Connection, account: str, known: dict[str, int]) -> int:
    key = known.get(account)
    if key is None:
        base.execute(
            "INSERT INTO accounts (account) VALUES (?) ON CONFLICT DO NOTHING", (account,)
        )
        sql = "SELECT account_row FROM accounts WHERE account = ?"
        key = known[account] = int(base.execute(sql, (account,)).fetchone()[0])
    return key


def _add_to_rollups(base: sqlite3.Connection, charges: Iterable[Charge]) -> None:
    for (hour, values), sums in sum_by_hour(charges).items():
        (key,) = base.execute(
            _UPSERT_ROLLUP,
            (
                hour, *values, sums.total_nano_usd, sums.charge_count, sums.input_token_count,
                sums.output_token_count, sums.waste_nano_usd, sums.unpriced_count,
            ),
        ).fetchone()  # fmt: skip
        base.executemany(
            _UPSERT_ROLLUP_LINE,
            [(key, kind, unit, *line) for (kind, unit), line in sums.lines.items()],
        )


def _distinct(cursor: sqlite3.Cursor) -> Iterator[tuple[str, ...]]:
    seen: set[tuple[str, ...]] = set()
    for row in cursor:
        if row not in seen:
            seen.add(row)
            yield row


def _read_charges(cursor: sqlite3.Cursor) -> list[Charge]:
    return [rows.read_charge(row) for row in cursor]
