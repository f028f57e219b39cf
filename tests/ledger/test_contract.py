"""LedgerService on a real socket: what callers get, and what they may see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from farthing.api.common.v1 import common_pb2
from farthing.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from farthing.kit import errors
from farthing.kit.rpc.channel import decode_error, outgoing_metadata
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.testing import FakeClock, serve
from farthing.ledger import codec
from farthing.ledger.core.charges import Charge
from farthing.ledger.core.spans import Span
from farthing.ledger.service import LedgerServicer
from farthing.ledger.store_sqlite import SqliteLedgerStore

MakeCharge = Callable[..., Charge]
MakeSpan = Callable[..., Span]
ADMIN = outgoing_metadata(None, "fk-admin")
ACME = outgoing_metadata(None, "fk-acme")
R = ledger_pb2.RecordOutcome


class Ledger:
    """A running ledger: its stub, its store and its clock."""

    def __init__(self, stub: Any, store: SqliteLedgerStore, clock: FakeClock) -> None:
        self.stub, self.store, self.clock = stub, store, clock

    async def record(self, *charges: Charge) -> list[int]:
        request = ledger_pb2.RecordChargesRequest(
            charges=[codec.encode_charge(charge) for charge in charges]
        )
        return list((await self.stub.RecordCharges(request)).outcomes)


@pytest.fixture
async def ledger(tmp_path: Path, resolve_key: Callable[[bytes], Any]) -> AsyncIterator[Ledger]:
    clock = FakeClock()
    clock.advance(13 * 3600)  # an hour after the charges that make_charge builds
    store = SqliteLedgerStore(tmp_path)
    await store.open()
    servicer = LedgerServicer(store, resolve_key, clock, Metrics("ledger"))
    async with serve((ledger_pb2_grpc.add_LedgerServiceServicer_to_server, servicer)) as (
        channel,
        _,
    ):
        yield Ledger(ledger_pb2_grpc.LedgerServiceStub(channel), store, clock)
    await store.close()


async def refusal(call: Any) -> errors.FarthingError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return decode_error(caught.value)


async def test_each_charge_gets_its_own_outcome(
    ledger: Ledger, make_charge: MakeCharge
) -> None:
    good, other = make_charge("a"), make_charge("b")
    wrong = replace(make_charge("c"), total_nano_usd=1)
    outcomes = await ledger.record(good, wrong, other)
    assert outcomes == [
        R.RECORD_OUTCOME_RECORDED, R.RECORD_OUTCOME_INVALID, R.RECORD_OUTCOME_RECORDED
    ]  # fmt: skip
    assert await ledger.record(good, replace(other, task="x")) == [
        R.RECORD_OUTCOME_DUPLICATE, R.RECORD_OUTCOME_CONFLICT
    ]  # fmt: skip


async def test_a_charge_of_a_newer_contract_is_not_recorded_as_something_else(
    ledger: Ledger, make_charge: MakeCharge
) -> None:
    message = codec.encode_charge(make_charge())
    message.ClearField("waste")
    unknown = message.SerializeToString() + bytes([17 << 3 & 0x7F | 0x80, 1, 99])
    request = ledger_pb2.RecordChargesRequest(charges=[ledger_pb2.Charge.FromString(unknown)])
    assert request.charges[0].waste == 99
    response = await ledger.stub.RecordCharges(request)
    assert list(response.outcomes) == [R.RECORD_OUTCOME_INVALID]
    assert (await ledger.store.books()).charge_count == 0


async def test_an_empty_or_oversized_batch_is_refused_by_its_field(ledger: Ledger) -> None:
    for count in (0, 513):
        request = ledger_pb2.RecordChargesRequest(charges=[ledger_pb2.Charge()] * count)
        error = await refusal(ledger.stub.RecordCharges(request))
        assert isinstance(error, errors.InvalidArgument)
        assert error.metadata["field"] == "charges"


async def test_queries_without_a_valid_key_are_refused(ledger: Ledger) -> None:
    for rpc, request in (
        (ledger.stub.QuerySpend, ledger_pb2.QuerySpendRequest()),
        (ledger.stub.ListCharges, ledger_pb2.ListChargesRequest()),
        (ledger.stub.GetTrace, ledger_pb2.GetTraceRequest(trace_id="a" * 32)),
    ):
        missing = await refusal(rpc(request))
        assert (type(missing), missing.reason) == (errors.Unauthenticated, "KEY_MISSING")
        wrong = await refusal(rpc(request, metadata=outgoing_metadata(None, "fk-guess")))
        assert (type(wrong), wrong.reason) == (errors.Unauthenticated, "KEY_INVALID")


async def test_an_admin_sees_all_spend_and_a_tenant_only_its_own(
    ledger: Ledger, make_charge: MakeCharge
) -> None:
    await ledger.record(make_charge("a", 100), make_charge("b", 900, organisation_id="rival"))
    request = ledger_pb2.QuerySpendRequest(
        group_by=[ledger_pb2.SPEND_DIMENSION_ORGANISATION, ledger_pb2.SPEND_DIMENSION_TIER]
    )
    everything = await ledger.stub.QuerySpend(request, metadata=ADMIN)
    assert [list(row.values) for row in everything.rows] == [
        ["rival", "edge"],
        ["acme", "edge"],
    ]
    assert everything.total_nano_usd == 1_000
    own = await ledger.stub.QuerySpend(request, metadata=ACME)
    assert [list(row.values) for row in own.rows] == [["acme", "edge"]]
    assert own.total_nano_usd == 100
    lines = {line.kind: line.amount_nano_usd for line in own.rows[0].cost_lines}
    assert lines == {common_pb2.COST_KIND_COMPUTE: 75, common_pb2.COST_KIND_ENERGY: 25}
    request.filters.add(dimension=ledger_pb2.SPEND_DIMENSION_ORGANISATION, values=["rival"])
    widened = await ledger.stub.QuerySpend(request, metadata=ACME)
    assert (len(widened.rows), widened.total_nano_usd) == (0, 0)


async def test_spend_ends_now_when_no_end_is_given(
    ledger: Ledger, make_charge: MakeCharge
) -> None:
    ahead = make_charge("ahead", charge_time_ns=ledger.clock.time_ns() + 5)
    await ledger.record(make_charge("a"), ahead)
    response = await ledger.stub.QuerySpend(ledger_pb2.QuerySpendRequest(), metadata=ADMIN)
    assert response.rows[0].charge_count == 1
    ledger.clock.advance(1)
    response = await ledger.stub.QuerySpend(ledger_pb2.QuerySpendRequest(), metadata=ADMIN)
    assert response.rows[0].charge_count == 2


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ledger_pb2.QuerySpendRequest(group_by=["SPEND_DIMENSION_UNSPECIFIED"]), "group_by[0]"),
        (ledger_pb2.QuerySpendRequest(group_by=["SPEND_DIMENSION_TEAM"] * 2), "group_by"),
        (ledger_pb2.QuerySpendRequest(row_limit=-1), "row_limit"),
        (ledger_pb2.QuerySpendRequest(row_limit=10_001), "row_limit"),
        (
            ledger_pb2.QuerySpendRequest(
                filters=[ledger_pb2.SpendFilter(dimension="SPEND_DIMENSION_MODEL")]
            ),
            "filters[0].values",
        ),
        (
            ledger_pb2.QuerySpendRequest(
                filters=[
                    ledger_pb2.SpendFilter(dimension="SPEND_DIMENSION_HOUR", values=["noon"])
                ]
            ),
            "filters[0].values",
        ),
        (ledger_pb2.QuerySpendRequest(end_time=Timestamp(nanos=-5)), "end_time"),
    ],
)
async def test_bad_questions_are_refused_by_their_field(
    ledger: Ledger, request_: ledger_pb2.QuerySpendRequest, field: str
) -> None:
    error = await refusal(ledger.stub.QuerySpend(request_, metadata=ADMIN))
    assert isinstance(error, errors.InvalidArgument)
    assert error.metadata["field"] == field


async def test_charges_are_listed_page_by_page_and_come_back_whole(
    ledger: Ledger, make_charge: MakeCharge
) -> None:
    noon = make_charge().charge_time_ns
    charges = [make_charge(f"c{n}", charge_time_ns=noon + n) for n in range(5)]
    foreign = make_charge("z", organisation_id="rival")
    await ledger.record(*charges, foreign)
    listed: list[Charge] = []
    request = ledger_pb2.ListChargesRequest(page_size=2)
    while True:
        page = await ledger.stub.ListCharges(request, metadata=ACME)
        listed.extend(codec.decode_charge(message) for message in page.charges)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert listed == charges[::-1]
    request.page_token = "nonsense"
    error = await refusal(ledger.stub.ListCharges(request, metadata=ACME))
    assert error.metadata["field"] == "page_token"


async def test_a_trace_has_spans_in_order_with_costs_and_its_charges(
    ledger: Ledger, make_charge: MakeCharge, make_span: MakeSpan
) -> None:
    root, leaf = "1" * 16, "2" * 16
    charge = make_charge(span_id=leaf)
    await ledger.record(charge)
    await ledger.store.record_spans(
        [
            make_span(leaf, parent_span_id=root, start_ns=20, end_ns=30, cost_nano_usd=1_000),
            make_span(root, start_ns=10, end_ns=40, attributes={"k": "v"}, status="ok"),
        ]
    )
    request = ledger_pb2.GetTraceRequest(trace_id=charge.trace_id)
    for metadata in (ADMIN, ACME):
        trace = await ledger.stub.GetTrace(request, metadata=metadata)
        costs = [(s.span_id, s.cost_nano_usd, s.subtree_cost_nano_usd) for s in trace.spans]
        assert costs == [(root, 0, 1_000), (leaf, 1_000, 1_000)]
        assert trace.spans[0].start_time.ToNanoseconds() == 10
        assert dict(trace.spans[0].attributes) == {"k": "v"}
        assert [c.charge_id for c in trace.charges] == ["charge_1"]
        assert trace.total_nano_usd == 1_000
    stranger = await refusal(
        ledger.stub.GetTrace(request, metadata=outgoing_metadata(None, "fk-rival"))
    )
    assert (type(stranger), stranger.reason) == (errors.NotFound, "TRACE_UNKNOWN")
    bad = ledger_pb2.GetTraceRequest(trace_id="XYZ")
    assert (await refusal(ledger.stub.GetTrace(bad, metadata=ADMIN))).metadata["field"] == (
        "trace_id"
    )
