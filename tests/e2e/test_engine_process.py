"""The process that computes dies or hangs under load, and its service does not: nobody's request is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import psutil
import pytest
from tests.support.books import agreed
from tests.support.running_suite import RunningSuite
from tests.support.tenant import Tenant, ask

from farthing.kit.testing import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

EDGE, CLOUD = "edge-site-edge", "cloud-a-cloud"


def engines_of(suite: RunningSuite, name: str) -> list[int]:
    """The process ids of a service's engines: none between one's end and the next one's start."""
    service = suite.child(name).pid
    assert service is not None
    found = []
    for child in psutil.Process(service).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(part.endswith(".engine") for part in child.cmdline()):
                found.append(child.pid)
    return found


def engine_of(suite: RunningSuite, name: str) -> int:
    """The process id of a service's one engine."""
    (engine,) = engines_of(suite, name)
    return engine


@pytest.mark.parametrize("name", [EDGE, CLOUD])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
async def test_an_engine_that_dies_or_hangs_under_load_loses_no_request(
    suite: RunningSuite, tenant: Tenant, name: str, how: signal.Signals
) -> None:
    await tenant.ready(EDGE, CLOUD)
    model = "edge-small" if name == EDGE else "cloud-large"
    await tenant.complete(ask("Is it there?", model=model))
    service, engine = suite.child(name).pid, engine_of(suite, name)
    answered = 0
    stop = asyncio.Event()

    async def keep_asking(number: int) -> None:
        nonlocal answered
        while not stop.is_set():
            told = await tenant.complete(ask(f"Under way {number}"))
            # A machine with other work may stretch steps until what was held for them is spent: that is an answer too.
            assert told.finish_reason in ("stop", "length", "budget")
            answered += 1

    askers = [asyncio.create_task(keep_asking(number)) for number in range(6)]
    try:
        await eventually(lambda: answered >= 6, what="a load")
        os.kill(engine, how)
        await eventually(
            lambda: not psutil.pid_exists(engine), timeout_s=40, what="the engine's end"
        )
        await eventually(
            lambda: engines_of(suite, name) not in ([], [engine]),
            timeout_s=40,
            what="another engine",
        )
        await tenant.ready(EDGE, CLOUD)
        before = answered
        await eventually(lambda: answered >= before + 6, timeout_s=40, what="serving again")
    finally:
        stop.set()
        await asyncio.gather(*askers)
    assert suite.child(name).pid == service
    assert engine_of(suite, name) != engine
    await tenant.ready(EDGE, CLOUD)
    told = await tenant.complete(ask("And again?", model=model))
    assert told.model == model and told.text
    await agreed(tenant)


async def test_an_engine_does_not_outlive_its_service(
    suite: RunningSuite, tenant: Tenant
) -> None:
    engine = engine_of(suite, EDGE)
    await suite.kill(EDGE)
    await eventually(lambda: not psutil.pid_exists(engine), what="the engine's end")
    await suite.well(EDGE)
    await tenant.ready(EDGE)
    await agreed(tenant)
