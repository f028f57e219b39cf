"""One suite of real processes for all of these tests, and a tenant of its own for each."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.running_suite import ROOT, RunningSuite, choose_layout, find_environ
from tests.support.tenant import Tenant, make_tenant

_HERE = Path(__file__).parent
_LOG_TAIL_CHARS = 4_000
_SUITE = pytest.StashKey[RunningSuite]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These run last: the suite need not stay up during others."""
    ours = [item for item in items if _HERE in item.path.parents]
    items[:] = [item for item in items if item not in ours] + ours


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the processes' last words to a failure."""
    report = yield
    suite = item.config.stash.get(_SUITE, None)
    if report.failed and suite is not None:
        for name, text in suite.logs().items():
            report.sections.append((f"log of {name}", text[-_LOG_TAIL_CHARS:]))
        report.sections.append(("the supervisor said", "\n".join(suite.said[-20:])))
    return report


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def suite(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> AsyncIterator[RunningSuite]:
    """Consul in two datacenters, and every service, as `farthing up` starts them."""
    folder = tmp_path_factory.mktemp("suite")
    layout = choose_layout(_make_assets(folder), folder / "run")
    # A lookup that is late is a miss: right for users, but not for tests on a busy machine.
    environ = find_environ() | {"FARTHING_ROUTER_CACHE_DEADLINE_MS": "5000"}
    running = pytestconfig.stash[_SUITE] = RunningSuite(layout, environ)
    try:
        await running.start()
        yield running
    finally:
        await running.close()


@pytest_asyncio.fixture(loop_scope="session")
async def tenant(suite: RunningSuite) -> AsyncIterator[Tenant]:
    """A new organisation with a thousand US dollars, on a suite that is well."""
    await suite.mend()
    async with make_tenant(suite.layout, suite.keys.admin) as made:
        yield made


def _make_assets(folder: Path) -> Path:
    """The checkout's own, but for prices that leave no doubt about which tier is cheaper, however busy the machine."""
    source, made = ROOT / "deploy", folder / "deploy"
    prices = json.loads((source / "demo" / "prices" / "current.json").read_text())
    for deployment in prices["deployments"]:
        if deployment["tier"] == "cloud":
            deployment["compute"]["nano_usd_per_hour"] *= 10
    (made / "demo" / "prices").mkdir(parents=True)
    (made / "demo" / "prices" / "current.json").write_text(json.dumps(prices))
    (made / "demo" / "policies").symlink_to(source / "demo" / "policies")
    (made / "demo-models").symlink_to(source / "demo-models")
    return made
