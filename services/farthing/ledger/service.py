"""LedgerService over gRPC: decode, ask the core or the store, encode."""

from __future__ import annotations

import logging
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from farthing.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from farthing.kit.clock import Clock
from farthing.kit.errors import InvalidArgument, NotFound
from farthing.kit.rpc import context as call_context
from farthing.kit.telemetry import names
from farthing.kit.telemetry.metrics import Metrics
from farthing.ledger import codec
from farthing.ledger.access import ResolveKey, Viewer, identify
from farthing.ledger.core.charges import Charge, RecordOutcome, find_fault
from farthing.ledger.core.spans import build_tree, visible_spans
from farthing.ledger.core.spend import DEFAULT_ROW_LIMIT, MAX_ROW_LIMIT, SpendFilter, SpendQuery
from farthing.ledger.store import ChargeQuery, LedgerStore

_MAX_BATCH_COUNT = 512
_MAX_PAGE_COUNT = 1_000
_DEFAULT_PAGE_COUNT = 100
_MAX_FILTER_COUNT = 32

_log = logging.getLogger(__name__)
_Context = grpc.aio.ServicerContext[Any, Any]


class LedgerServicer(ledger_pb2_grpc.LedgerServiceServicer):
    """RecordCharges takes no key: it is for our own services, on loopback or behind mutual TLS."""

    def __init__(
        self, store: LedgerStore, resolve_key: ResolveKey, clock: Clock, metrics: Metrics
    ) -> None:
        self._store, self._resolve_key, self._clock = store, resolve_key, clock
        self._charges = metrics.counter(
            names.METRIC_LEDGER_CHARGES, "Charges received.", ("outcome",)
        )

    async def RecordCharges(
        self, request: ledger_pb2.RecordChargesRequest, context: _Context
    ) -> ledger_pb2.RecordChargesResponse:
        """See the contract."""
        if not 1 <= len(request.charges) <= _MAX_BATCH_COUNT:
            raise InvalidArgument(
                f"charges has {len(request.charges)} entries; send 1..{_MAX_BATCH_COUNT}",
                field="charges",
            )
        outcomes: list[RecordOutcome] = [RecordOutcome.INVALID] * len(request.charges)
        valid: list[tuple[int, Charge]] = []
        for index, message in enumerate(request.charges):
            charge = _decode_valid(message)
            if charge is not None:
                valid.append((index, charge))
        if valid:
            recorded = await self._store.record_charges([charge for _, charge in valid])
            for (index, charge), outcome in zip(valid, recorded, strict=True):
                outcomes[index] = outcome
                if outcome is RecordOutcome.CONFLICT:
                    _log.error(
                        "charge came again with other content; the first one stands",
                        extra={"charge_id": charge.charge_id, "trace_id": charge.trace_id},
                    )
        for outcome in outcomes:
            self._charges.labels(outcome).inc()
        return ledger_pb2.RecordChargesResponse(
            outcomes=[codec.encode_outcome(outcome) for outcome in outcomes]
        )

    async def QuerySpend(
        self, request: ledger_pb2.QuerySpendRequest, context: _Context
    ) -> ledger_pb2.QuerySpendResponse:
        """See the contract."""
        viewer = await self._viewer()
        start_ns, end_ns = self._window(request)
        if len(set(request.group_by)) != len(request.group_by):
            raise InvalidArgument(
                "group_by names a dimension twice; name each once", field="group_by"
            )
        query = SpendQuery(
            start_ns,
            end_ns,
            tuple(
                codec.decode_dimension(number, f"group_by[{index}]")
                for index, number in enumerate(request.group_by)
            ),
            viewer.restrict(_filters(request)),
            _limit(request.row_limit, "row_limit", DEFAULT_ROW_LIMIT, MAX_ROW_LIMIT),
        )
        (result,) = await self._store.query_spend([query])
        return ledger_pb2.QuerySpendResponse(
            rows=[codec.encode_row(row) for row in result.rows],
            total_nano_usd=result.total_nano_usd,
            truncated=result.truncated,
        )

    async def ListCharges(
        self, request: ledger_pb2.ListChargesRequest, context: _Context
    ) -> ledger_pb2.ListChargesResponse:
        """See the contract."""
        viewer = await self._viewer()
        start_ns, end_ns = self._window(request)
        limit = _limit(request.page_size, "page_size", _DEFAULT_PAGE_COUNT, _MAX_PAGE_COUNT)
        found = await self._store.list_charges(
            ChargeQuery(
                start_ns,
                end_ns,
                viewer.restrict(_filters(request)),
                limit + 1,
                codec.decode_page_token(request.page_token),
            )
        )
        page = found[:limit]
        more = len(found) > limit
        return ledger_pb2.ListChargesResponse(
            charges=[codec.encode_charge(charge) for charge in page],
            next_page_token=codec.encode_page_token(
                (page[-1].charge_time_ns, page[-1].charge_id)
            )
            if more
            else "",
        )

    async def GetTrace(
        self, request: ledger_pb2.GetTraceRequest, context: _Context
    ) -> ledger_pb2.GetTraceResponse:
        """See the contract."""
        viewer = await self._viewer()
        trace_id = request.trace_id
        if len(trace_id) != 32 or not set(trace_id) <= set("0123456789abcdef"):
            raise InvalidArgument(
                "trace_id is not 32 lower-case hex digits; copy it from a result or a span",
                field="trace_id",
            )
        spans = await self._store.trace_spans(trace_id)
        charges = await self._store.trace_charges(trace_id)
        if not viewer.admin:
            spans = list(visible_spans(spans, charges, viewer.organisation_id))
            charges = [c for c in charges if c.organisation_id == viewer.organisation_id]
        if not spans and not charges:
            raise NotFound(
                f"no span and no charge of trace {trace_id} is known; spans expire, charges do not",
                reason="TRACE_UNKNOWN",
                metadata={"trace_id": trace_id},
            )
        nodes = sorted(build_tree(spans), key=lambda n: (n.span.start_ns, n.span.span_id))
        return ledger_pb2.GetTraceResponse(
            spans=[codec.encode_span(node) for node in nodes],
            charges=[codec.encode_charge(charge) for charge in charges],
            total_nano_usd=sum(charge.total_nano_usd for charge in charges),
        )

    async def _viewer(self) -> Viewer:
        digest = call_context.current().require_key_digest()
        return await identify(self._resolve_key, digest)

    def _window(
        self, request: ledger_pb2.QuerySpendRequest | ledger_pb2.ListChargesRequest
    ) -> tuple[int, int]:
        start_ns = (
            _read_time(request.start_time, "start_time")
            if request.HasField("start_time")
            else 0
        )
        if not request.HasField("end_time"):
            return start_ns, self._clock.time_ns()
        return start_ns, _read_time(request.end_time, "end_time")


def _decode_valid(message: ledger_pb2.Charge) -> Charge | None:
    try:
        charge = codec.decode_charge(message)
        fault = find_fault(charge)
    except (InvalidArgument, ValueError) as error:  # ValueError: an impossible Timestamp
        fault = str(error)
    if fault is None:
        return charge
    _log.error("charge refused: %s", fault, extra={"charge_id": message.charge_id[:256]})
    return None


def _read_time(message: Timestamp, field: str) -> int:
    try:
        time_ns = message.ToNanoseconds()
    except ValueError as error:
        raise InvalidArgument(f"{field} is not a valid instant: {error}", field=field) from None
    # SQLite keeps 64 bits; instants outside them bound nothing.
    return min(max(time_ns, 0), 2**62)


def _filters(
    request: ledger_pb2.QuerySpendRequest | ledger_pb2.ListChargesRequest,
) -> tuple[SpendFilter, ...]:
    if len(request.filters) > _MAX_FILTER_COUNT:
        raise InvalidArgument(
            f"filters has {len(request.filters)} entries; send at most {_MAX_FILTER_COUNT}",
            field="filters",
        )
    return tuple(
        codec.decode_filter(item, f"filters[{index}]")
        for index, item in enumerate(request.filters)
    )


def _limit(value: int, field: str, default: int, most: int) -> int:
    if not 0 <= value <= most:
        raise InvalidArgument(
            f"{field} is {value}; send 1..{most}, or 0 for {default}", field=field
        )
    return value or default
