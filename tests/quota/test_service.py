"""The quota service over a real socket, as quota.proto promises it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from farthing.api.quota.v1 import quota_pb2 as pb
from farthing.api.quota.v1 import quota_pb2_grpc
from farthing.kit.errors import (
    FarthingError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from farthing.kit.ids import new_id
from farthing.kit.rpc.channel import decode_error, outgoing_metadata
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.testing import FakeClock, serve
from farthing.quota.core.keys import digest_secret
from farthing.quota.metrics import QuotaMetrics
from farthing.quota.service import QuotaServicer
from farthing.quota.store_sqlite import SqliteQuotaStore
from farthing.quota.upkeep import add_bootstrap_key

ADMIN = "fk-" + "z" * 32
AS_ADMIN = outgoing_metadata(None, ADMIN)


class Service:
    """The service on a socket, and its clock."""

    def __init__(self, stub: Any, clock: FakeClock, metrics: Metrics) -> None:
        self.stub, self.clock, self.metrics = stub, clock, metrics

    async def make_key(self, **fields: Any) -> tuple[str, str]:
        """Returns the key's id and secret."""
        request = pb.CreateKeyRequest(**{"name": "k", "organisation_id": "acme", **fields})
        made = await self.stub.CreateKey(request, metadata=AS_ADMIN)
        return made.key.key_id, made.secret

    async def set_budget(self, node: str, **limits: Any) -> pb.Budget:
        request = pb.SetBudgetRequest(node=node, limits=pb.Limits(**limits))
        budget: pb.Budget = (await self.stub.SetBudget(request, metadata=AS_ADMIN)).budget
        return budget

    async def budget(self, node: str) -> pb.Budget:
        request = pb.ListBudgetsRequest(node=node)
        response = await self.stub.ListBudgets(request, metadata=AS_ADMIN)
        budget: pb.Budget = response.budgets[0]
        return budget

    async def reserve(self, *reservations: pb.Reservation) -> list[pb.ReserveResult]:
        request = pb.BatchReserveRequest(reservations=reservations)
        return list((await self.stub.BatchReserve(request)).results)

    async def settle(self, *settlements: pb.Settlement) -> list[int]:
        request = pb.BatchSettleRequest(settlements=settlements)
        response = await self.stub.BatchSettle(request)
        return [result.outcome for result in response.results]


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Service]:
    clock, metrics = FakeClock(), Metrics("quota")
    now_ms = clock.time_ns() // 1_000_000
    store = SqliteQuotaStore(path / "quota.db", now_ms=now_ms)
    await store.open()
    await add_bootstrap_key(store, ADMIN, key_id=new_id("key"), now_ms=now_ms)
    servicer = QuotaServicer(
        store,
        clock=clock,
        metrics=QuotaMetrics(metrics),
        make_id=new_id,
        make_entropy=os.urandom,
    )
    register = quota_pb2_grpc.add_QuotaServiceServicer_to_server
    async with serve((register, servicer)) as (channel, _):
        yield Service(quota_pb2_grpc.QuotaServiceStub(channel), clock, metrics)
    await store.close()


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running(tmp_path) as made:
        yield made


def _reservation(secret: str, hold_id: str, amount: int = 10, **fields: Any) -> pb.Reservation:
    values = {"min_amount_nano_usd": amount, "ttl_ms": 60_000, **fields}
    return pb.Reservation(
        hold_id=hold_id, key_digest=digest_secret(secret), amount_nano_usd=amount, **values
    )


async def _refusal(call: Any) -> FarthingError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return decode_error(caught.value)


async def test_a_key_is_made_used_and_revoked(service: Service) -> None:
    made = await service.stub.CreateKey(
        pb.CreateKeyRequest(name="laptop", organisation_id="acme", team_id="search"),
        metadata=AS_ADMIN,
    )
    assert made.secret.startswith("fk-") and len(made.secret) == 35
    assert made.secret.startswith(made.key.secret_prefix) and len(made.key.secret_prefix) < 10
    owner = made.key.principal
    assert (owner.organisation_id, owner.cost_centre_id) == ("acme", "default")
    assert (owner.team_id, owner.default_policy, owner.admin) == ("search", "balanced", False)

    request = pb.AuthenticateRequest(key_digest=digest_secret(made.secret))
    assert (await service.stub.Authenticate(request)).principal == owner
    (granted,) = await service.reserve(_reservation(made.secret, "h"))
    assert (granted.granted_nano_usd, granted.principal) == (10, owner)
    assert granted.expire_time.ToMilliseconds() == service.clock.time_ns() // 10**6 + 60_000

    revoke = pb.RevokeKeyRequest(key_id=made.key.key_id)
    revoked = (await service.stub.RevokeKey(revoke, metadata=AS_ADMIN)).key
    assert revoked.HasField("revoke_time")
    assert not (await service.stub.Authenticate(request)).HasField("principal")
    (denied,) = await service.reserve(_reservation(made.secret, "h2"))
    assert denied.denial.reason == pb.DENIAL_REASON_KEY_INACTIVE

    listed = await service.stub.ListKeys(
        pb.ListKeysRequest(organisation_id="acme"), metadata=AS_ADMIN
    )
    assert list(listed.keys) == [revoked]


async def test_a_denial_is_an_answer_with_the_node_and_the_numbers(service: Service) -> None:
    _, secret = await service.make_key(cost_centre_id="rd", team_id="search")
    await service.set_budget("cost_centre:acme/rd", budget_nano_usd=1_500_000_000)
    (granted, denied) = await service.reserve(
        _reservation(secret, "a", 1_000_000_000), _reservation(secret, "b", 1_000_000_000)
    )
    assert granted.granted_nano_usd == 1_000_000_000 and not granted.HasField("denial")
    assert denied.granted_nano_usd == 0 and denied.principal.team_id == "search"
    assert denied.denial.reason == pb.DENIAL_REASON_BUDGET
    assert denied.denial.node == "cost_centre:acme/rd"
    assert "$0.5" in denied.denial.message and "$1.50" in denied.denial.message
    assert denied.denial.retry_after_ms > 0


async def test_settlements_report_what_they_did(service: Service) -> None:
    _, secret = await service.make_key()
    await service.reserve(_reservation(secret, "h"), _reservation(secret, "g"))
    assert await service.settle(
        pb.Settlement(hold_id="h", amount_nano_usd=11),
        pb.Settlement(hold_id="h", amount_nano_usd=7),
        pb.Settlement(hold_id="h", amount_nano_usd=7),
        pb.Settlement(hold_id="h", amount_nano_usd=8),
        pb.Settlement(hold_id="x", amount_nano_usd=1),
    ) == [
        pb.SETTLE_OUTCOME_OVER_HOLD,
        pb.SETTLE_OUTCOME_SETTLED,
        pb.SETTLE_OUTCOME_DUPLICATE,
        pb.SETTLE_OUTCOME_CONFLICT,
        pb.SETTLE_OUTCOME_UNKNOWN,
    ]
    budget = await service.budget("organisation:acme")
    assert (budget.spent_nano_usd, budget.held_nano_usd) == (7, 10)
    assert not budget.HasField("remaining_nano_usd")


async def test_a_budget_shows_limits_use_and_period(service: Service) -> None:
    _, secret = await service.make_key()
    await service.set_budget(
        "team:acme/default/default",
        budget_nano_usd=100,
        period=pb.BUDGET_PERIOD_MONTH,
        requests_per_minute=5,
        tokens_per_minute=0,
    )
    (denied,) = await service.reserve(_reservation(secret, "tokens", token_count=1))
    assert denied.denial.reason == pb.DENIAL_REASON_TOKEN_RATE
    await service.reserve(_reservation(secret, "h", 60))
    budget = await service.budget("team:acme/default/default")
    assert budget.limits == pb.Limits(
        budget_nano_usd=100,
        period=pb.BUDGET_PERIOD_MONTH,
        requests_per_minute=5,
        tokens_per_minute=0,
    )
    assert (budget.held_nano_usd, budget.remaining_nano_usd) == (60, 40)
    assert budget.period_start_time.ToJsonString() == "2026-01-01T00:00:00Z"


async def test_everyone_sees_their_own_budgets_and_only_administrators_all(
    service: Service,
) -> None:
    key_id, secret = await service.make_key()
    await service.make_key(organisation_id="other")
    as_key = outgoing_metadata(None, secret)
    own = await service.stub.ListBudgets(pb.ListBudgetsRequest(), metadata=as_key)
    assert {budget.node for budget in own.budgets} == {
        f"key:{key_id}",
        "team:acme/default/default",
        "cost_centre:acme/default",
        "organisation:acme",
    }
    everything = await service.stub.ListBudgets(pb.ListBudgetsRequest(), metadata=AS_ADMIN)
    assert "organisation:other" in {budget.node for budget in everything.budgets}
    foreign = pb.ListBudgetsRequest(node="organisation:other")
    error = await _refusal(service.stub.ListBudgets(foreign, metadata=as_key))
    assert isinstance(error, PermissionDenied) and error.reason == "NODE_FORBIDDEN"
    missing = pb.ListBudgetsRequest(node="organisation:missing")
    error = await _refusal(service.stub.ListBudgets(missing, metadata=AS_ADMIN))
    assert isinstance(error, NotFound) and error.metadata == {"node": "organisation:missing"}


@pytest.mark.parametrize(
    "call",
    [
        lambda stub, **m: stub.CreateKey(
            pb.CreateKeyRequest(name="k", organisation_id="acme"), **m
        ),
        lambda stub, **m: stub.ListKeys(pb.ListKeysRequest(), **m),
        lambda stub, **m: stub.RevokeKey(pb.RevokeKeyRequest(key_id="key_1"), **m),
        lambda stub, **m: stub.SetBudget(pb.SetBudgetRequest(node="organisation:a"), **m),
    ],
    ids=["CreateKey", "ListKeys", "RevokeKey", "SetBudget"],
)
async def test_administration_needs_an_administrators_key(
    service: Service, call: Callable[..., Any]
) -> None:
    _, secret = await service.make_key()
    error = await _refusal(call(service.stub))
    assert isinstance(error, Unauthenticated) and error.reason == "KEY_MISSING"
    error = await _refusal(call(service.stub, metadata=outgoing_metadata(None, "fk-wrong")))
    assert isinstance(error, Unauthenticated) and error.reason == "KEY_INVALID"
    error = await _refusal(call(service.stub, metadata=outgoing_metadata(None, secret)))
    assert isinstance(error, PermissionDenied) and error.reason == "ADMIN_REQUIRED"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"hold_id": ""}, "hold_id"),
        ({"hold_id": "x" * 129}, "hold_id"),
        ({"key_digest": b"short"}, "key_digest"),
        ({"amount_nano_usd": 1, "min_amount_nano_usd": 2}, "amount_nano_usd"),
        ({"amount_nano_usd": -1, "min_amount_nano_usd": -1}, "min_amount_nano_usd"),
        ({"token_count": -1}, "token_count"),
        ({"ttl_ms": 999}, "ttl_ms"),
        ({"ttl_ms": 3_600_001}, "ttl_ms"),
    ],
)
async def test_a_bad_reservation_names_its_field_and_holds_nothing_of_the_batch(
    service: Service, fields: dict[str, Any], field: str
) -> None:
    _, secret = await service.make_key()
    bad = _reservation(secret, "bad")
    for name, value in fields.items():
        setattr(bad, name, value)
    request = pb.BatchReserveRequest(reservations=[_reservation(secret, "good"), bad])
    error = await _refusal(service.stub.BatchReserve(request))
    assert isinstance(error, InvalidArgument) and error.field == f"reservations[1].{field}"
    assert (await service.budget("organisation:acme")).held_nano_usd == 0


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda s, **m: s.BatchReserve(pb.BatchReserveRequest(), **m), "reservations"),
        (lambda s, **m: s.BatchSettle(pb.BatchSettleRequest(), **m), "settlements"),
        (
            lambda s, **m: s.BatchSettle(
                pb.BatchSettleRequest(
                    settlements=[pb.Settlement(hold_id="h", amount_nano_usd=-1)]
                ),
                **m,
            ),
            "settlements[0].amount_nano_usd",
        ),
        (lambda s, **m: s.Authenticate(pb.AuthenticateRequest(), **m), "key_digest"),
        (lambda s, **m: s.SetBudget(pb.SetBudgetRequest(node="acme"), **m), "node"),
        (lambda s, **m: s.SetBudget(pb.SetBudgetRequest(node="team:a/b"), **m), "node"),
        (
            lambda s, **m: s.SetBudget(
                pb.SetBudgetRequest(
                    node="organisation:a", limits=pb.Limits(budget_nano_usd=-1)
                ),
                **m,
            ),
            "limits.budget_nano_usd",
        ),
        (
            lambda s, **m: s.CreateKey(pb.CreateKeyRequest(organisation_id="acme"), **m),
            "name",
        ),
        (lambda s, **m: s.CreateKey(pb.CreateKeyRequest(name="k"), **m), "organisation_id"),
        (
            lambda s, **m: s.CreateKey(
                pb.CreateKeyRequest(name="k", organisation_id="a/b"), **m
            ),
            "organisation_id",
        ),
    ],
)
async def test_bad_input_names_its_field(
    service: Service, call: Callable[..., Any], field: str
) -> None:
    error = await _refusal(call(service.stub, metadata=AS_ADMIN))
    assert isinstance(error, InvalidArgument) and error.field == field


async def test_a_key_for_the_past_is_refused_and_one_for_a_while_ends(service: Service) -> None:
    request = pb.CreateKeyRequest(name="k", organisation_id="acme")
    request.expire_time.FromMilliseconds(service.clock.time_ns() // 10**6)
    error = await _refusal(service.stub.CreateKey(request, metadata=AS_ADMIN))
    assert isinstance(error, InvalidArgument) and error.field == "expire_time"
    request.expire_time.FromMilliseconds(service.clock.time_ns() // 10**6 + 1000)
    made = await service.stub.CreateKey(request, metadata=AS_ADMIN)
    service.clock.advance(1)
    (denied,) = await service.reserve(_reservation(made.secret, "h"))
    assert denied.denial.reason == pb.DENIAL_REASON_KEY_INACTIVE


async def test_a_thousand_parallel_reserves_of_the_last_unit_overshoot_by_nothing(
    service: Service,
) -> None:
    _, secret = await service.make_key()
    await service.set_budget("organisation:acme", budget_nano_usd=1)
    answers = await asyncio.gather(
        *(service.reserve(_reservation(secret, f"h{n}", 1)) for n in range(1000))
    )
    assert sum(answer[0].granted_nano_usd for answer in answers) == 1
    budget = await service.budget("organisation:acme")
    assert (budget.held_nano_usd, budget.remaining_nano_usd) == (1, 0)
    denied = service.metrics.registry.get_sample_value(
        "farthing_quota_denied_total", {"reason": "BUDGET"}
    )
    assert denied == 999
