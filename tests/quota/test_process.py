"""The real quota process: starts, is killed in the middle of work, and comes back with its money straight."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from farthing.api.quota.v1 import quota_pb2 as pb
from farthing.api.quota.v1 import quota_pb2_grpc
from farthing.kit.rpc.channel import open_channel, outgoing_metadata
from farthing.kit.testing import eventually, free_port
from farthing.quota.core.keys import digest_secret

ADMIN = "fk-" + "z" * 32
AS_ADMIN = outgoing_metadata(None, ADMIN)
BUDGET = 40


@contextmanager
def _process(data_dir: Path, port: int, **more: str) -> Iterator[subprocess.Popen[str]]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("FARTHING_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "farthing.quota"],
        env={
            **inherited,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "FARTHING_PORT": str(port),
            "FARTHING_METRICS_PORT": "-1",
            "FARTHING_DATA_DIR": str(data_dir),
            "FARTHING_QUOTA_BOOTSTRAP_ADMIN_KEY": ADMIN,
            "FARTHING_QUOTA_SWEEP_MS": "50",
            **more,
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@asynccontextmanager
async def _stub(port: int) -> AsyncIterator[Any]:
    async with open_channel(f"127.0.0.1:{port}") as channel:
        stub = quota_pb2_grpc.QuotaServiceStub(channel)
        await stub.ListKeys(
            pb.ListKeysRequest(), metadata=AS_ADMIN, wait_for_ready=True, timeout=60
        )
        yield stub


def _batch(digest: bytes, hold_ids: list[str], ttl_ms: int) -> pb.BatchReserveRequest:
    return pb.BatchReserveRequest(
        reservations=[
            pb.Reservation(
                hold_id=hold_id,
                key_digest=digest,
                amount_nano_usd=1,
                min_amount_nano_usd=1,
                ttl_ms=ttl_ms,
            )
            for hold_id in hold_ids
        ]
    )


async def _spender(
    stub: Any, digest: bytes, name: str, granted: set[str], settled: set[str]
) -> None:
    """Reserves and settles until the service dies; remembers what it was told."""
    for round_number in range(10**6):
        hold_ids = [f"{name}-{round_number}-{n}" for n in range(3)]
        try:
            answers = await stub.BatchReserve(_batch(digest, hold_ids, 1000), timeout=10)
            won = [
                hold_id
                for hold_id, answer in zip(hold_ids, answers.results, strict=True)
                if not answer.HasField("denial")
            ]
            granted.update(won)
            # Every other grant is abandoned, every other settled.
            ends = [pb.Settlement(hold_id=h, amount_nano_usd=1) for h in won[::2]]
            if ends:
                await stub.BatchSettle(pb.BatchSettleRequest(settlements=ends), timeout=10)
                settled.update(end.hold_id for end in ends)
        except grpc.aio.AioRpcError:
            return


async def _budget(stub: Any) -> pb.Budget:
    request = pb.ListBudgetsRequest(node="organisation:acme")
    response = await stub.ListBudgets(request, metadata=AS_ADMIN, timeout=10)
    budget: pb.Budget = response.budgets[0]
    return budget


@pytest.mark.e2e
async def test_a_kill_in_the_middle_of_work_overspends_nothing_and_blocks_nothing(
    tmp_path: Path,
) -> None:
    port = free_port()
    granted: set[str] = set()
    settled: set[str] = set()
    with _process(tmp_path, port) as process:
        async with _stub(port) as stub:
            made = await stub.CreateKey(
                pb.CreateKeyRequest(name="k", organisation_id="acme"), metadata=AS_ADMIN
            )
            digest = digest_secret(made.secret)
            await stub.SetBudget(
                pb.SetBudgetRequest(
                    node="organisation:acme", limits=pb.Limits(budget_nano_usd=BUDGET)
                ),
                metadata=AS_ADMIN,
            )
            spenders = [
                asyncio.create_task(_spender(stub, digest, f"s{n}", granted, settled))
                for n in range(8)
            ]
            await eventually(lambda: len(settled) >= 10, timeout_s=60)
            process.send_signal(signal.SIGKILL)
            await asyncio.gather(*spenders)

    with _process(tmp_path, port) as process:
        async with _stub(port) as stub:
            budget = await _budget(stub)
            assert budget.spent_nano_usd + budget.held_nano_usd <= BUDGET
            assert budget.spent_nano_usd >= len(settled)

            # What was settled is still settled, and repeating it changes nothing.
            again = await stub.BatchSettle(
                pb.BatchSettleRequest(
                    settlements=[
                        pb.Settlement(hold_id=hold_id, amount_nano_usd=1)
                        for hold_id in sorted(settled)
                    ]
                )
            )
            assert {r.outcome for r in again.results} == {pb.SETTLE_OUTCOME_DUPLICATE}
            # So is a repeated reserve, whether its hold lives or not.
            repeated = await stub.BatchReserve(_batch(digest, sorted(granted), 1000))
            assert all(r.granted_nano_usd == 1 for r in repeated.results)

            async def nothing_is_held() -> bool:
                return (await _budget(stub)).held_nano_usd == 0

            await eventually(nothing_is_held, timeout_s=30)
            budget = await _budget(stub)
            left = budget.remaining_nano_usd
            assert left == BUDGET - budget.spent_nano_usd
            fresh = [f"after-{n}" for n in range(left + 5)]
            answers = (await stub.BatchReserve(_batch(digest, fresh, 60_000))).results
            assert sum(answer.granted_nano_usd for answer in answers) == left
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FARTHING_QUOTA_SYNCHRONOUS", "sometimes"),
        ("FARTHING_QUOTA_BOOTSTRAP_ADMIN_KEY", "short"),
        ("FARTHING_QUOTA_SWEEPS", "1"),
    ],
)
def test_a_wrong_setting_is_named_and_its_secret_is_not_shown(
    tmp_path: Path, variable: str, value: str
) -> None:
    with _process(tmp_path, free_port(), **{variable: value}) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert variable in errors and "Traceback" not in errors
    assert "short'" not in errors
