"""Stores under one name, and charges to put into them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from farthing.kit.errors import Unauthenticated, Unavailable
from farthing.ledger.core.charges import (
    Charge,
    CostKind,
    CostLine,
    CostUnit,
    Tier,
    Usage,
    Waste,
)
from farthing.ledger.core.spans import Span
from farthing.ledger.store import LedgerStore, MemoryLedgerStore
from farthing.ledger.store_sqlite import SqliteLedgerStore

NOON_NS = 1_767_268_800_000_000_000  # 2026-01-01 12:00 UTC


def build_charge(charge_id: str = "charge_1", amount: int = 1_000, **fields: Any) -> Charge:
    """A valid charge of `amount` nano-USD, in two lines when it can be split."""
    energy = amount // 4
    values: dict[str, Any] = {
        "charge_id": charge_id,
        "request_id": f"request_of_{charge_id}",
        "organisation_id": "acme",
        "cost_centre_id": "rd",
        "team_id": "search",
        "key_id": "key_1",
        "service": "edge",
        "model": "lab-small",
        "tier": Tier.EDGE,
        "region": "edge-site",
        "cost_lines": (
            CostLine(CostKind.COMPUTE, amount - energy, 1_500, CostUnit.US),
            CostLine(CostKind.ENERGY, energy, 90, CostUnit.UJ, estimated=True),
        ),
        "total_nano_usd": amount,
        "charge_time_ns": NOON_NS,
        "usage": Usage(input_token_count=12, output_token_count=34, compute_us=1_500),
        "waste": Waste.UNSPECIFIED,
        "price_version": "2026-01",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "span_id": "b7ad6b7169203331",
    }
    return Charge(**(values | fields))


def build_span(span_id: str = "b7ad6b7169203331", **fields: Any) -> Span:
    """A finished span of the trace that build_charge uses."""
    values: dict[str, Any] = {
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "span_id": span_id,
        "parent_span_id": "",
        "name": "chat lab-small",
        "kind": "client",
        "service_name": "router",
        "region": "edge-site",
        "start_ns": NOON_NS,
        "end_ns": NOON_NS + 1_000_000,
    }
    return Span(**(values | fields))


@pytest.fixture(scope="session")
def make_charge() -> Callable[..., Charge]:
    """See build_charge."""
    return build_charge


@pytest.fixture(scope="session")
def make_span() -> Callable[..., Span]:
    """See build_span."""
    return build_span


@dataclass(frozen=True)
class Owner:
    """Whose key it is."""

    organisation_id: str
    admin: bool


class Keys:
    """The keys that are known, by their secret; stands where the quota service's client stands."""

    def __init__(self) -> None:
        self.owners = {
            "fk-admin": Owner("operator", True),
            "fk-acme": Owner("acme", False),
            "fk-rival": Owner("rival", False),
        }
        self.reachable = True

    async def resolve(self, key_digest: bytes) -> Owner:
        """See farthing.ledger.access.ResolveKey."""
        if not self.reachable:
            raise Unavailable("quota cannot be reached", reason="QUOTA_UNREACHABLE")
        for secret, owner in self.owners.items():
            if hashlib.sha256(secret.encode()).digest() == key_digest:
                return owner
        raise Unauthenticated("the API key is unknown", reason="KEY_INVALID")


@pytest.fixture
def keys() -> Keys:
    """Known keys."""
    return Keys()


@pytest.fixture
def resolve_key(keys: Keys) -> Callable[[bytes], Awaitable[Owner]]:
    """Resolves known keys."""
    return keys.resolve


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LedgerStore]:
    """Every implementation of LedgerStore, one after the other."""
    if request.param == "memory":
        yield MemoryLedgerStore()
        return
    opened = SqliteLedgerStore(tmp_path)
    await opened.open()
    yield opened
    await opened.close()
