"""What every ledger store keeps to."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from farthing.kit.errors import FailedPrecondition
from farthing.ledger.core.charges import Charge, RecordOutcome, Waste
from farthing.ledger.core.spans import Span, SpanEvent
from farthing.ledger.core.spend import HOUR_NS, Dimension, SpendFilter, SpendQuery
from farthing.ledger.store import ChargeQuery, LedgerStore
from farthing.ledger.store_sqlite import SqliteLedgerStore

MakeCharge = Callable[..., Charge]
MakeSpan = Callable[..., Span]
EVER = 2**62


async def total(store: LedgerStore) -> int:
    (result,) = await store.query_spend([SpendQuery(0, EVER)])
    return result.total_nano_usd


async def test_a_charge_comes_back_as_it_was_recorded(
    store: LedgerStore, make_charge: MakeCharge
) -> None:
    charge = make_charge(waste=Waste.HEDGED, decision_id="decision_1", task="math")
    assert await store.record_charges([charge]) == [RecordOutcome.RECORDED]
    assert await store.trace_charges(charge.trace_id) == [charge]
    assert await store.list_charges(ChargeQuery(0, EVER)) == [charge]


async def test_redelivery_changes_nothing_and_other_content_is_a_conflict(
    store: LedgerStore, make_charge: MakeCharge
) -> None:
    charge = make_charge()
    other = replace(charge, task="other")
    outcomes = await store.record_charges([charge, charge, other])
    assert outcomes == [
        RecordOutcome.RECORDED, RecordOutcome.DUPLICATE, RecordOutcome.CONFLICT
    ]  # fmt: skip
    assert await store.record_charges([other, charge]) == [
        RecordOutcome.CONFLICT, RecordOutcome.DUPLICATE
    ]  # fmt: skip
    books = await store.books()
    assert books.balanced
    assert (books.charge_count, books.charge_nano_usd) == (1, charge.total_nano_usd)
    assert await store.list_charges(ChargeQuery(0, EVER)) == [charge]


async def test_spend_is_grouped_dearest_first_with_lines_and_waste(
    store: LedgerStore, make_charge: MakeCharge
) -> None:
    await store.record_charges(
        [
            make_charge("a", 100, region="edge-site"),
            make_charge("b", 700, region="cloud-a", waste=Waste.ESCALATED),
            make_charge("c", 50, region="edge-site", price_version=""),
        ]
    )
    (result,) = await store.query_spend([SpendQuery(0, EVER, (Dimension.REGION,))])
    assert [row.values for row in result.rows] == [("cloud-a",), ("edge-site",)]
    dear, cheap = result.rows
    assert (dear.total_nano_usd, dear.waste_nano_usd, dear.charge_count) == (700, 700, 1)
    assert (cheap.total_nano_usd, cheap.waste_nano_usd, cheap.unpriced_count) == (150, 0, 1)
    assert (cheap.input_token_count, cheap.output_token_count) == (24, 68)
    assert [(line.kind, line.amount_nano_usd, line.estimated) for line in cheap.cost_lines] == [
        ("compute", 113, False),
        ("energy", 37, True),
    ]
    assert result.total_nano_usd == 850
    assert not result.truncated


async def test_a_row_limit_cuts_rows_but_not_the_total(
    store: LedgerStore, make_charge: MakeCharge
) -> None:
    charges = [make_charge(f"c{n}", 100 + n, model=f"model-{n}") for n in range(5)]
    await store.record_charges(charges)
    (result,) = await store.query_spend(
        [SpendQuery(0, EVER, (Dimension.MODEL, Dimension.TIER), row_limit=2)]
    )
    assert [row.values for row in result.rows] == [("model-4", "edge"), ("model-3", "edge")]
    assert [sum(line.amount_nano_usd for line in row.cost_lines) for row in result.rows] == [
        104,
        103,
    ]
    assert result.truncated
    assert result.total_nano_usd == 510


async def test_no_spend_is_one_row_of_zero_without_groups_and_none_with(
    store: LedgerStore,
) -> None:
    plain, grouped, backwards = await store.query_spend(
        [
            SpendQuery(0, EVER),
            SpendQuery(0, EVER, (Dimension.TEAM,)),
            SpendQuery(10, 5),
        ]
    )
    assert [row.total_nano_usd for row in plain.rows] == [0]
    assert grouped.rows == ()
    assert [row.charge_count for row in backwards.rows] == [0]


@pytest.mark.parametrize(
    ("start_offset_ns", "end_offset_ns", "expected"),
    [
        (0, 3 * HOUR_NS, 0b111),
        (1, 3 * HOUR_NS, 0b110),
        (0, 2 * HOUR_NS, 0b011),
        (0, 2 * HOUR_NS + 1, 0b111),
        (HOUR_NS // 2, HOUR_NS // 2 + 1, 0),
        (HOUR_NS, HOUR_NS + 1, 0b010),
    ],
)
async def test_a_window_that_cuts_hours_counts_exactly_what_is_inside(
    store: LedgerStore,
    make_charge: MakeCharge,
    start_offset_ns: int,
    end_offset_ns: int,
    expected: int,
) -> None:
    noon = make_charge().charge_time_ns
    await store.record_charges(
        [make_charge(f"c{n}", 1 << n, charge_time_ns=noon + n * HOUR_NS) for n in range(3)]
    )
    query = SpendQuery(noon + start_offset_ns, noon + end_offset_ns)
    (result,) = await store.query_spend([query])
    assert result.total_nano_usd == expected


async def test_filters_hold_together_and_hours_and_days_are_dimensions(
    store: LedgerStore, make_charge: MakeCharge
) -> None:
    noon = make_charge().charge_time_ns
    await store.record_charges(
        [
            make_charge("a", 1, organisation_id="acme"),
            make_charge("b", 2, organisation_id="acme", charge_time_ns=noon + HOUR_NS),
            make_charge("c", 4, organisation_id="rival"),
            make_charge("d", 8, organisation_id="acme", charge_time_ns=noon + 24 * HOUR_NS),
        ]
    )
    acme = SpendFilter(Dimension.ORGANISATION, ("acme",))
    hour = SpendFilter(Dimension.HOUR, ("2026-01-01T12:00:00Z", "2026-01-01T13:00:00Z"))
    by_hour, by_day, by_request = await store.query_spend(
        [
            SpendQuery(0, EVER, (Dimension.HOUR,), (acme, hour)),
            SpendQuery(0, EVER, (Dimension.DAY,), (acme,)),
            SpendQuery(
                0,
                EVER,
                (Dimension.REQUEST, Dimension.DAY),
                (acme, SpendFilter(Dimension.DAY, ("2026-01-02",))),
            ),
        ]
    )
    assert [(row.values, row.total_nano_usd) for row in by_hour.rows] == [
        (("2026-01-01T13:00:00Z",), 2),
        (("2026-01-01T12:00:00Z",), 1),
    ]
    assert [(row.values, row.total_nano_usd) for row in by_day.rows] == [
        (("2026-01-02",), 8),
        (("2026-01-01",), 3),
    ]
    assert [(row.values, row.total_nano_usd) for row in by_request.rows] == [
        (("request_of_d", "2026-01-02"), 8)
    ]


async def test_charges_are_paged_newest_first_without_gap_or_repeat(
    store: LedgerStore, make_charge: MakeCharge
) -> None:
    noon = make_charge().charge_time_ns
    charges = [make_charge(f"c{n:02}", charge_time_ns=noon + n // 3) for n in range(10)]
    await store.record_charges(charges)
    listed: list[Charge] = []
    after: tuple[int, str] | None = None
    while page := await store.list_charges(ChargeQuery(0, EVER, limit=4, after=after)):
        listed.extend(page)
        after = (page[-1].charge_time_ns, page[-1].charge_id)
    assert listed == charges[::-1]
    only = ChargeQuery(0, EVER, (SpendFilter(Dimension.REQUEST, ("request_of_c03",)),))
    assert await store.list_charges(only) == [charges[3]]


async def test_recent_requests_sum_all_attempts_and_never_mix_tenants(
    store: LedgerStore, make_charge: MakeCharge
) -> None:
    noon = make_charge().charge_time_ns
    await store.record_charges(
        [
            make_charge("a1", 10, request_id="r", waste=Waste.FAILED, model="lab-small"),
            make_charge("a2", 20, request_id="r", charge_time_ns=noon + 5, model="lab-large"),
            make_charge("b1", 40, request_id="r", organisation_id="rival"),
            make_charge("old", 80, charge_time_ns=noon - 5),
        ]
    )
    newest, other = await store.recent_requests(noon, EVER, 10)
    assert (newest.organisation_id, newest.total_nano_usd, newest.attempt_count) == (
        "acme", 30, 2
    )  # fmt: skip
    assert (newest.model, newest.waste_nano_usd) == ("lab-large", 10)
    assert (other.organisation_id, other.total_nano_usd) == ("rival", 40)
    assert len(await store.recent_requests(0, EVER, 1)) == 1


async def test_spans_are_kept_once_and_come_back_in_order_of_start(
    store: LedgerStore, make_span: MakeSpan
) -> None:
    event = SpanEvent("farthing.decision", 7, {"farthing.decision.reason": "cheapest"})
    late = make_span("1" * 16, start_ns=20, end_ns=30, attributes={"a": "ü"}, events=(event,))
    early = make_span("2" * 16, start_ns=10, end_ns=40, cost_nano_usd=3, status="ok")
    assert await store.record_spans([late, early]) == 2
    assert await store.record_spans([replace(late, name="other"), early]) == 0
    assert await store.trace_spans(late.trace_id) == [early, late]
    assert await store.trace_spans("f" * 32) == []


async def test_old_spans_are_swept_and_charges_stay(
    store: LedgerStore, make_charge: MakeCharge, make_span: MakeSpan
) -> None:
    await store.record_charges([make_charge()])
    await store.record_spans(
        [make_span(f"{n:016x}", start_ns=1, end_ns=10 + n) for n in range(1, 6)]
    )
    assert await store.sweep_spans(13) == 2
    books = await store.books()
    assert (books.span_count, books.charge_count) == (3, 1)


async def test_span_costs_are_compared_with_charges_per_trace(
    store: LedgerStore, make_charge: MakeCharge, make_span: MakeSpan
) -> None:
    noon = make_charge().charge_time_ns
    good, bad = "a" * 32, "b" * 32
    await store.record_charges(
        [
            make_charge("1", 10, trace_id=good),
            make_charge("2", 5, trace_id=good),
            make_charge("3", 7, trace_id=bad, charge_time_ns=noon + 1),
            make_charge("4", 9, trace_id=""),
        ]
    )
    await store.record_spans(
        [
            make_span("1" * 16, trace_id=good, cost_nano_usd=10),
            make_span("2" * 16, trace_id=good, cost_nano_usd=5),
            make_span("3" * 16, trace_id=bad, cost_nano_usd=8),
            make_span("4" * 16, trace_id=bad),
        ]
    )
    first, second = await store.compare_traces(0, EVER, 10)
    assert (first.trace_id, first.span_nano_usd, first.charge_nano_usd) == (bad, 8, 7)
    assert (first.span_count, first.agrees) == (2, False)
    assert (second.trace_id, second.agrees) == (good, True)


async def test_tokens_without_price_or_charge_count_as_unpriced(
    store: LedgerStore, make_charge: MakeCharge, make_span: MakeSpan
) -> None:
    charge = make_charge()
    await store.record_charges([charge])
    await store.record_spans(
        [
            make_span(charge.span_id, token_count=5),
            make_span("2" * 16, token_count=5),
            make_span("3" * 16, token_count=5, cost_nano_usd=0),
            make_span("4" * 16),
        ]
    )
    assert await store.count_unpriced_spans(0, EVER) == 1
    assert await store.count_unpriced_spans(0, charge.charge_time_ns) == 0


async def test_the_books_survive_a_restart_and_refuse_to_be_edited(
    tmp_path: Path, make_charge: MakeCharge, make_span: MakeSpan
) -> None:
    first = SqliteLedgerStore(tmp_path)
    await first.open()
    await first.record_charges([make_charge()])
    await first.record_spans([make_span()])
    await first.close()
    second = SqliteLedgerStore(tmp_path)
    await second.open()
    assert await second.record_charges([make_charge()]) == [RecordOutcome.DUPLICATE]
    assert await total(second) == 1_000
    assert (await second.books()).balanced
    await second.close()
    base = sqlite3.connect(tmp_path / "ledger.db")
    for statement in (
        "UPDATE charges SET total_nano_usd = 0",
        "DELETE FROM postings",
        "DELETE FROM charges",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="immutable"):
            base.execute(statement)
    base.close()


async def test_a_file_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    base = sqlite3.connect(tmp_path / "ledger.db")
    base.execute("PRAGMA user_version = 99")
    base.close()
    with pytest.raises(FailedPrecondition, match="newer release"):
        await SqliteLedgerStore(tmp_path).open()
