"""Charges on their way to the ledger: through the outbox, in batches, until the ledger has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import grpc

from farthing.api.ledger.v1 import ledger_pb2
from farthing.clients.outbox import Entry, Outbox
from farthing.clients.wire import as_it_is, repeat_field_one
from farthing.kit.rpc.channel import decode_error

CHARGE_KIND = "charge"
_TIMEOUT_S = 10.0
_FINAL = {
    ledger_pb2.RECORD_OUTCOME_CONFLICT: "recorded before with other content",
    ledger_pb2.RECORD_OUTCOME_INVALID: "lines and total disagree, or a required field is empty",
}


class ChargeSender:
    """Delivers outbox entries of kind "charge" to the ledger behind `channel`, those of an earlier process too."""

    def __init__(self, channel: grpc.aio.Channel, outbox: Outbox) -> None:
        self._record = channel.unary_unary(
            "/farthing.api.ledger.v1.LedgerService/RecordCharges",
            request_serializer=as_it_is,
            response_deserializer=ledger_pb2.RecordChargesResponse.FromString,
        )
        outbox.attach(CHARGE_KIND, self._deliver)

    async def _deliver(self, entries: Sequence[Entry]) -> Mapping[int, str]:
        message = repeat_field_one(entry.payload for entry in entries)
        try:
            response: ledger_pb2.RecordChargesResponse = await self._record(
                message, timeout=_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            raise decode_error(error) from error
        return {
            entry.sequence: _FINAL[outcome]
            for entry, outcome in zip(entries, response.outcomes, strict=True)
            if outcome in _FINAL
        }
