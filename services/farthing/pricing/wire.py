"""Between pricing's values and the common proto messages."""

from __future__ import annotations

from farthing.api.common.v1 import common_pb2
from farthing.kit.money import NanoUsd
from farthing.pricing.lines import CostKind, CostLine, CostUnit, Usage

_KIND = {
    CostKind.COMPUTE: common_pb2.COST_KIND_COMPUTE,
    CostKind.ENERGY: common_pb2.COST_KIND_ENERGY,
    CostKind.EGRESS: common_pb2.COST_KIND_EGRESS,
    CostKind.TOKENS: common_pb2.COST_KIND_TOKENS,
    CostKind.CACHE: common_pb2.COST_KIND_CACHE,
}
_UNIT = {
    CostUnit.US: common_pb2.COST_UNIT_US,
    CostUnit.UJ: common_pb2.COST_UNIT_UJ,
    CostUnit.BYTES: common_pb2.COST_UNIT_BYTES,
    CostUnit.TOKENS: common_pb2.COST_UNIT_TOKENS,
    CostUnit.COUNT: common_pb2.COST_UNIT_COUNT,
}
_KIND_BACK = {number: kind for kind, number in _KIND.items()}
_UNIT_BACK = {number: unit for unit, number in _UNIT.items()}


def encode_line(line: CostLine) -> common_pb2.CostLine:
    """To the wire."""
    return common_pb2.CostLine(
        kind=_KIND[line.kind],
        amount_nano_usd=line.amount_nano_usd,
        quantity=line.quantity,
        unit=_UNIT[line.unit],
        estimated=line.estimated,
    )


def decode_line(line: common_pb2.CostLine) -> CostLine:
    """From the wire. KeyError for a kind or unit this version does not know."""
    return CostLine(
        _KIND_BACK[line.kind],
        NanoUsd(line.amount_nano_usd),
        line.quantity,
        _UNIT_BACK[line.unit],
        line.estimated,
    )


def encode_usage(usage: Usage) -> common_pb2.Usage:
    """To the wire."""
    return common_pb2.Usage(
        input_token_count=usage.input_token_count,
        output_token_count=usage.output_token_count,
        cached_input_token_count=usage.cached_input_token_count,
        reasoning_token_count=usage.reasoning_token_count,
        queue_us=usage.queue_us,
        prefill_us=usage.prefill_us,
        decode_us=usage.decode_us,
        compute_us=usage.compute_us,
        request_bytes=usage.request_bytes,
        response_bytes=usage.response_bytes,
        energy_uj=usage.energy_uj,
        energy_estimated=usage.energy_estimated,
    )


def decode_usage(usage: common_pb2.Usage) -> Usage:
    """From the wire."""
    return Usage(
        usage.input_token_count,
        usage.output_token_count,
        usage.cached_input_token_count,
        usage.reasoning_token_count,
        usage.queue_us,
        usage.prefill_us,
        usage.decode_us,
        usage.compute_us,
        usage.request_bytes,
        usage.response_bytes,
        usage.energy_uj,
        usage.energy_estimated,
    )
