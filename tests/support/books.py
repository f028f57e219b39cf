"""Compares every place where money is written down: the client, the spans, the ledger and the budget."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support.tenant import Tenant

from farthing.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from farthing.cli.connection import call
from farthing.kit.errors import FarthingError
from farthing.kit.rpc.channel import open_channel
from farthing.kit.testing import eventually

SETTLED_S = 45.0
_TRACES_AT_ONCE = 32
_DIMENSIONS = (
    ledger_pb2.SPEND_DIMENSION_TRACE,
    ledger_pb2.SPEND_DIMENSION_ORGANISATION,
    ledger_pb2.SPEND_DIMENSION_MODEL,
    ledger_pb2.SPEND_DIMENSION_REGION,
    ledger_pb2.SPEND_DIMENSION_TIER,
)


@dataclass(slots=True)
class Books:
    """A tenant's money as each place has it, nano-USD."""

    settled: int = 0
    held: int = 0
    by_dimension: dict[int, int] = field(default_factory=dict)
    by_trace: dict[str, int] = field(default_factory=dict)
    spans_by_trace: dict[str, int] = field(default_factory=dict)
    waste: int = 0
    charge_count: int = 0

    def problem(self, told: Mapping[str, int], *, holds_left: bool) -> str:
        """What does not agree, or nothing. `told` is what clients were told, by trace."""
        charged = sum(self.by_trace.values())
        if self.held and not holds_left:
            return f"{self.held} still held"
        if any(total != charged for total in self.by_dimension.values()):
            return f"ledger's sums differ: {self.by_dimension}, by trace {charged}"
        if self.settled != charged:
            return f"quota settled {self.settled}, ledger charged {charged}"
        if self.spans_by_trace != self.by_trace:
            differ = self.spans_by_trace.items() ^ self.by_trace.items()
            return f"spans and charges differ: {sorted(differ)}"
        for trace, amount in told.items():
            if self.by_trace.get(trace, 0) != amount:
                return f"trace {trace}: told {amount}, charged {self.by_trace.get(trace, 0)}"
        return ""


async def agreed(
    tenant: Tenant, *, untold: Sequence[str] = (), holds_left: bool = False
) -> Books:
    """Return once every place has the same amounts, to the nano, and clients were told all but the `untold` traces.

    Nothing may be held any more, unless a router died with requests under way: `holds_left`.
    """
    told: Counter[str] = Counter()
    for answer in tenant.told:
        told[answer.trace_id] += answer.total_nano_usd
    last = Books()
    why = "nothing was read"

    async def agree() -> bool:
        nonlocal last, why
        try:
            last = await read_books(tenant)
        except FarthingError as error:
            why = error.message
            return False
        why = last.problem(told, holds_left=holds_left)
        return not why

    try:
        await eventually(agree, timeout_s=SETTLED_S, what="agreement of the books")
    except AssertionError:
        raise AssertionError(f"the books do not agree: {why}") from None
    charged_only = {trace for trace, total in last.by_trace.items() if total} - told.keys()
    assert charged_only <= set(untold), f"charged but told nobody: {charged_only}"
    rest = sum(last.by_trace[trace] for trace in charged_only)
    assert sum(told.values()) + rest == last.settled
    return last


async def read_books(tenant: Tenant) -> Books:
    """What quota, the ledger and the spans say of a tenant now."""
    budget = await tenant.read_budget()
    books = Books(settled=budget.spent_nano_usd, held=budget.held_nano_usd)
    async with _ledger(tenant) as stub:
        for dimension in _DIMENSIONS:
            response = await call(
                stub.QuerySpend,
                ledger_pb2.QuerySpendRequest(
                    group_by=[dimension], filters=[_of(tenant)], row_limit=10_000
                ),
                key=tenant.admin_key,
                address=tenant.layout.address("ledger"),
            )
            assert response.total_nano_usd == sum(row.total_nano_usd for row in response.rows)
            books.by_dimension[dimension] = response.total_nano_usd
            if dimension == ledger_pb2.SPEND_DIMENSION_TRACE:
                books.by_trace = {row.values[0]: row.total_nano_usd for row in response.rows}
                books.waste = sum(row.waste_nano_usd for row in response.rows)
                books.charge_count = sum(row.charge_count for row in response.rows)
        traces = await _traces(stub, tenant, list(books.by_trace))
    for trace in traces:
        cost = sum(span.cost_nano_usd for span in trace.spans)
        books.spans_by_trace[trace.charges[0].trace_id] = cost
        _check_charges(trace)
    return books


async def read_trace(tenant: Tenant, trace_id: str) -> ledger_pb2.GetTraceResponse:
    """A trace as the tenant itself may see it."""
    async with _ledger(tenant) as stub:
        return await call(
            stub.GetTrace,
            ledger_pb2.GetTraceRequest(trace_id=trace_id),
            key=tenant.key,
            address=tenant.layout.address("ledger"),
        )


async def list_charges(tenant: Tenant) -> list[ledger_pb2.Charge]:
    """All charges of a tenant."""
    async with _ledger(tenant) as stub:
        response = await call(
            stub.ListCharges,
            ledger_pb2.ListChargesRequest(filters=[_of(tenant)], page_size=1000),
            key=tenant.admin_key,
            address=tenant.layout.address("ledger"),
        )
        assert not response.next_page_token
        return list(response.charges)


def _check_charges(trace: ledger_pb2.GetTraceResponse) -> None:
    """Every charge names a span of its trace, once spans are there, and that span has its amount."""
    costs = {span.span_id: span.cost_nano_usd for span in trace.spans if span.cost_nano_usd}
    for charge in trace.charges:
        if charge.span_id in costs:
            assert costs[charge.span_id] == charge.total_nano_usd, charge
    assert len({charge.charge_id for charge in trace.charges}) == len(trace.charges)


async def _traces(
    stub: ledger_pb2_grpc.LedgerServiceAsyncStub, tenant: Tenant, trace_ids: Sequence[str]
) -> list[ledger_pb2.GetTraceResponse]:
    """A few at a time: a quick machine answers thousands in one test."""
    found: list[ledger_pb2.GetTraceResponse] = []
    for start in range(0, len(trace_ids), _TRACES_AT_ONCE):
        some = trace_ids[start : start + _TRACES_AT_ONCE]
        found += await asyncio.gather(*(_trace(stub, tenant, one) for one in some))
    return found


async def _trace(
    stub: ledger_pb2_grpc.LedgerServiceAsyncStub, tenant: Tenant, trace_id: str
) -> ledger_pb2.GetTraceResponse:
    return await call(
        stub.GetTrace,
        ledger_pb2.GetTraceRequest(trace_id=trace_id),
        key=tenant.admin_key,
        address=tenant.layout.address("ledger"),
    )


def _of(tenant: Tenant) -> ledger_pb2.SpendFilter:
    return ledger_pb2.SpendFilter(
        dimension=ledger_pb2.SPEND_DIMENSION_ORGANISATION, values=[tenant.organisation]
    )


@asynccontextmanager
async def _ledger(
    tenant: Tenant,
) -> AsyncIterator[ledger_pb2_grpc.LedgerServiceAsyncStub]:
    channel = open_channel(tenant.layout.address("ledger"))
    try:
        yield ledger_pb2_grpc.LedgerServiceStub(channel)
    finally:
        await channel.close()
