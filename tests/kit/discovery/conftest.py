"""Real Consul agents on loopback addresses of their own, and both registries as one parametrised fixture."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from farthing.kit.clock import SystemClock
from farthing.kit.discovery.agent import (
    AgentPlan,
    find_consul,
    prepare_agent,
    wait_for_leader,
)
from farthing.kit.discovery.consul import ConsulClient
from farthing.kit.discovery.consul_registry import ConsulRegistry
from farthing.kit.discovery.registry import Registry
from farthing.kit.discovery.static import StaticRegistry
from farthing.kit.discovery.view import ViewRules
from farthing.kit.errors import FailedPrecondition

QUICK_RULES = ViewRules(hold_s=0.3)


class RunningConsul:
    """One agent process that a test may kill and start again."""

    def __init__(self, plan: AgentPlan, program: Path) -> None:
        self.plan = plan
        self._command = prepare_agent(program, plan)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.plan.url

    async def start(self) -> None:
        self._launch()
        await wait_for_leader(self.url, timeout_s=30)

    def _launch(self) -> None:
        with (self.plan.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def plan_agent(directory: Path, datacenter: str, address: str) -> AgentPlan:
    """A plan with ports that are free now, so that it stands beside any other Consul."""
    sockets = [socket.socket() for _ in range(4)]
    for item in sockets:
        item.bind((address, 0))
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return AgentPlan(datacenter, address, directory / datacenter, (), *ports)


@pytest.fixture(scope="session")
def consul_program() -> Path:
    try:
        return find_consul(os.environ, Path(__file__).resolve())
    except FailedPrecondition as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def shared_consul(
    tmp_path_factory: pytest.TempPathFactory, consul_program: Path
) -> Iterator[RunningConsul]:
    """One agent for all tests that do not kill it."""
    plan = plan_agent(tmp_path_factory.mktemp("consul"), "site", "127.0.31.1")
    consul = RunningConsul(plan, consul_program)
    # In a thread: an async fixture may ask for this one while its loop runs.
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(lambda: asyncio.run(consul.start())).result()
    yield consul
    consul.kill()


@pytest.fixture
async def registries() -> AsyncIterator[Callable[[Registry], Registry]]:
    """Closes at the end what a test opened."""
    async with AsyncExitStack() as stack:

        def keep(registry: Registry) -> Registry:
            stack.push_async_callback(registry.close)
            return registry

        yield keep


@pytest.fixture(params=["static", pytest.param("consul", marks=pytest.mark.consul)])
def registry(
    request: pytest.FixtureRequest, registries: Callable[[Registry], Registry]
) -> Registry:
    """Every implementation of Registry."""
    if request.param == "static":
        return registries(StaticRegistry(clock=SystemClock()))
    consul: RunningConsul = request.getfixturevalue("shared_consul")
    return registries(open_consul(consul.url))


def open_consul(url: str, *, state_file: Path | None = None) -> ConsulRegistry:
    return ConsulRegistry(
        ConsulClient(url), clock=SystemClock(), state_file=state_file, rules=QUICK_RULES
    )


async def until(predicate: Callable[[], bool], *, timeout_s: float = 15.0) -> None:
    """Poll until the condition holds."""
    async with asyncio.timeout(timeout_s):
        while True:
            if predicate():
                return
            await asyncio.sleep(0.01)


@pytest.fixture(name="until")
def until_fixture() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    return until


@pytest.fixture(name="open_consul")
def open_consul_fixture(
    registries: Callable[[Registry], Registry],
) -> Callable[..., Registry]:
    """Opens further Consul registries, as other processes would, and closes them at the end."""

    def open_and_keep(url: str, *, state_file: Path | None = None) -> Registry:
        return registries(open_consul(url, state_file=state_file))

    return open_and_keep


@pytest.fixture
async def own_consul(tmp_path: Path, consul_program: Path) -> AsyncIterator[RunningConsul]:
    """One agent that the test may kill."""
    consul = RunningConsul(plan_agent(tmp_path, "site", "127.0.32.1"), consul_program)
    await consul.start()
    yield consul
    consul.kill()


@pytest.fixture(name="plan_agent")
def plan_agent_fixture() -> Callable[[Path, str, str], AgentPlan]:
    return plan_agent


@pytest.fixture
def run_consul(consul_program: Path) -> Iterator[Callable[[AgentPlan], RunningConsul]]:
    """Makes agents that are killed at the end of the test."""
    agents: list[RunningConsul] = []

    def make(plan: AgentPlan) -> RunningConsul:
        agents.append(RunningConsul(plan, consul_program))
        return agents[-1]

    yield make
    for agent in agents:
        agent.kill()
