"""What a charge is, when it is valid, and how its content is told apart from another's."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from enum import StrEnum

MAX_TEXT_LENGTH = 256
MAX_COST_LINES = 64
# One attempt above a million dollars, a petabyte or a gigajoule is a fault of its producer; the
# bound keeps thousands of such faults from reaching the end of int64 in a sum.
MAX_AMOUNT = 10**15
MAX_TIME_NS = 2**62

_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_SPAN_ID = re.compile(r"[0-9a-f]{16}")
# Changing the order or set of the hashed fields is a new version: old rows keep their hash.
_HASH_VERSION = "farthing.charge.1"


class CostKind(StrEnum):
    """What a cost line pays for."""

    UNSPECIFIED = ""
    COMPUTE = "compute"
    ENERGY = "energy"
    EGRESS = "egress"
    TOKENS = "tokens"
    CACHE = "cache"


class CostUnit(StrEnum):
    """The unit of a cost line's quantity."""

    UNSPECIFIED = ""
    US = "us"
    UJ = "uj"
    BYTES = "bytes"
    TOKENS = "tokens"
    COUNT = "count"


class Tier(StrEnum):
    """Where in the hierarchy of machines the work was done."""

    UNSPECIFIED = ""
    EDGE = "edge"
    CLOUD = "cloud"
    CACHE = "cache"


class FinishReason(StrEnum):
    """Why the attempt ended."""

    UNSPECIFIED = ""
    STOP = "stop"
    LENGTH = "length"
    BUDGET = "budget"
    CANCELLED = "cancelled"
    ERROR = "error"


class Waste(StrEnum):
    """Why paid work was of no use to the caller; UNSPECIFIED when it was of use."""

    UNSPECIFIED = ""
    CANCELLED = "cancelled"
    FAILED = "failed"
    HEDGED = "hedged"
    ESCALATED = "escalated"
    SHADOW = "shadow"


class RecordOutcome(StrEnum):
    """What recording one charge did."""

    RECORDED = "recorded"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class CostLine:
    """One priced line: amount in nano-USD, quantity in `unit`."""

    kind: CostKind
    amount_nano_usd: int
    quantity: int
    unit: CostUnit
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What an attempt used up; counts include their sub-counts."""

    input_token_count: int = 0
    output_token_count: int = 0
    cached_input_token_count: int = 0
    reasoning_token_count: int = 0
    queue_us: int = 0
    prefill_us: int = 0
    decode_us: int = 0
    compute_us: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    energy_uj: int = 0
    energy_estimated: bool = False

    def values(self) -> tuple[int, ...]:
        """The fields in order of declaration."""
        return (
            self.input_token_count, self.output_token_count, self.cached_input_token_count,
            self.reasoning_token_count, self.queue_us, self.prefill_us, self.decode_us,
            self.compute_us, self.request_bytes, self.response_bytes, self.energy_uj,
            self.energy_estimated,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Charge:
    """One attempt's cost, immutable once recorded. `charge_time_ns` is Unix time in nanoseconds."""

    charge_id: str
    request_id: str
    organisation_id: str
    cost_centre_id: str
    team_id: str
    key_id: str
    service: str
    model: str
    tier: Tier
    region: str
    cost_lines: tuple[CostLine, ...]
    total_nano_usd: int
    charge_time_ns: int
    decision_id: str = ""
    hold_id: str = ""
    instance_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    usage: Usage = Usage()
    finish_reason: FinishReason = FinishReason.UNSPECIFIED
    waste: Waste = Waste.UNSPECIFIED
    price_version: str = ""
    task: str = ""

    @property
    def waste_nano_usd(self) -> int:
        """The part of the total that was of no use to the caller, nano-USD."""
        return self.total_nano_usd if self.waste else 0

    @property
    def unpriced(self) -> bool:
        """True when no price book stood behind the amounts: a zero here is not a price."""
        return not self.price_version


_REQUIRED = ("charge_id", "request_id", "organisation_id", "key_id", "service", "region")
_TEXTS = (
    *_REQUIRED, "cost_centre_id", "team_id", "model", "decision_id", "hold_id", "instance_id",
    "price_version", "task",
)  # fmt: skip


def find_fault(charge: Charge) -> str | None:
    """One sentence naming the field that makes a charge unfit to be recorded, or None."""
    for name in _REQUIRED:
        if not getattr(charge, name):
            return f"{name} is empty; set it."
    for name in _TEXTS:
        if len(getattr(charge, name)) > MAX_TEXT_LENGTH:
            return f"{name} is longer than {MAX_TEXT_LENGTH} characters; shorten it."
    if not charge.tier:
        return "tier is not set; use edge, cloud or cache."
    if not charge.model and charge.tier is not Tier.CACHE:
        return "model is empty; name the model that did the work."
    if charge.trace_id and not _TRACE_ID.fullmatch(charge.trace_id):
        return "trace_id is not 32 lower-case hex digits; send a W3C trace id or none."
    if charge.span_id and not _SPAN_ID.fullmatch(charge.span_id):
        return "span_id is not 16 lower-case hex digits; send a W3C span id or none."
    if not 0 < charge.charge_time_ns < MAX_TIME_NS:
        return "charge_time is not set or out of range; send when the work ended."
    if any(not 0 <= value <= MAX_AMOUNT for value in charge.usage.values()):
        return "usage has a negative or out-of-range count; counts start at zero."
    return _find_line_fault(charge)


def _find_line_fault(charge: Charge) -> str | None:
    if not 1 <= len(charge.cost_lines) <= MAX_COST_LINES:
        return f"cost_lines has {len(charge.cost_lines)} lines; send 1..{MAX_COST_LINES}."
    for index, line in enumerate(charge.cost_lines):
        if not line.kind or not line.unit:
            return f"cost_lines[{index}] has no kind or no unit; set both."
        if not (0 <= line.amount_nano_usd <= MAX_AMOUNT and 0 <= line.quantity <= MAX_AMOUNT):
            return f"cost_lines[{index}] has a negative or out-of-range number."
    line_sum = sum(line.amount_nano_usd for line in charge.cost_lines)
    if line_sum != charge.total_nano_usd:
        return (
            f"total_nano_usd is {charge.total_nano_usd} but cost_lines sum to {line_sum}; "
            "send the sum."
        )
    if charge.total_nano_usd > MAX_AMOUNT:
        return "total_nano_usd is out of range."
    return None


def hash_content(charge: Charge) -> bytes:
    """SHA-256 over everything a charge says: equal exactly when two charges say the same."""
    lines = [
        [line.kind, line.amount_nano_usd, line.quantity, line.unit, int(line.estimated)]
        for line in charge.cost_lines
    ]
    content = [
        _HASH_VERSION, charge.charge_id, charge.request_id, charge.decision_id, charge.hold_id,
        charge.organisation_id, charge.cost_centre_id, charge.team_id, charge.key_id,
        charge.service, charge.model, charge.tier, charge.region, charge.instance_id,
        charge.trace_id, charge.span_id, lines, charge.total_nano_usd, charge.usage.values(),
        charge.finish_reason, charge.waste, charge.price_version, charge.charge_time_ns,
        charge.task,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).digest()
