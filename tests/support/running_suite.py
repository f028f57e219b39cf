"""The whole suite as its users run it, on addresses of its own, with handles to hurt and mend its processes."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console

from farthing.cli.up import plan
from farthing.cli.up.child import Child
from farthing.cli.up.layout import Layout
from farthing.cli.up.probes import Probes
from farthing.cli.up.run import start_suite, wait_for_route
from farthing.cli.up.seeding import Keys
from farthing.cli.up.supervisor import Supervisor, check_ports
from farthing.kit.discovery.agent import find_consul
from farthing.kit.errors import FarthingError
from farthing.kit.testing import eventually

ROOT = Path(__file__).parents[2]
# Below the ports that the kernel hands out to clients: a restarted service must find its port free.
PORTS: Mapping[str, int] = {
    "gateway": 18080,
    "console": 18090,
    "router": 18051,
    "cache": 18052,
    "quota": 18053,
    "ledger": 18054,
    "otlp-grpc": 18017,
    "otlp-http": 18018,
    "edge": 18061,
    "cloud": 18062,
    "consul": 18500,
    "consul-rpc": 18300,
    "consul-lan": 18301,
    "consul-wan": 18302,
}
WELL_S = 60.0


class RunningSuite:
    """`farthing up` without its screen. Use on one event loop, from the main thread."""

    def __init__(self, layout: Layout, environ: Mapping[str, str]) -> None:
        self.layout, self._environ = layout, environ
        self.keys = Keys("", "")
        self.said: list[str] = []
        self._probes = Probes()
        self._supervisor = Supervisor(layout.logs, probe=self._probes.ask, say=self.said.append)

    async def start(self) -> None:
        """Start everything; returns when both tiers can be reached."""
        console = Console(file=io.StringIO())
        self.keys = await start_suite(self.layout, self._supervisor, console, self._environ)
        await wait_for_route(self.layout, self.keys.tenant)

    async def mend(self) -> None:
        """Return when everything runs and is well, whatever the test before has done or left undone."""
        for child in self._supervisor.children:
            self._signal(child, signal.SIGCONT)
            if child.stopped:
                self.start_process(child.plan.name)
        names = [child.plan.name for child in self._supervisor.children]
        await asyncio.gather(*(self.well(name) for name in names))
        await wait_for_route(self.layout, self.keys.tenant)

    async def close(self) -> None:
        """Stop everything."""
        for child in self._supervisor.children:
            self._signal(child, signal.SIGCONT)
        await self._supervisor.stop()
        await self._probes.close()
        await asyncio.sleep(0)  # closed connections end on the next turn of the loop

    def child(self, name: str) -> Child:
        """A process by its name, e.g. edge-site-quota."""
        return next(one for one in self._supervisor.children if one.plan.name == name)

    async def kill(self, name: str) -> None:
        """SIGKILL, as a crash or the kernel would; returns when it is dead. The supervisor starts it again."""
        child = self.child(name)
        pid = child.pid
        assert pid is not None, f"{name} does not run"
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: child.pid != pid, what=f"the end of {name}")

    async def well(self, name: str) -> None:
        """Return when the process is well, after a restart too."""
        child = self.child(name)
        await eventually(
            # The supervisor's own view too: what it has not seen well it does not start again.
            lambda: child.healthy.is_set() and self._probes.ask(child.plan),
            timeout_s=WELL_S,
            what=f"{name} well",
        )

    async def is_well(self, name: str) -> bool:
        """Whether it says that it serves."""
        return await self._probes.ask(self.child(name).plan)

    def pause(self, name: str) -> None:
        """SIGSTOP: it hangs. The supervisor kills what hangs for 20 s."""
        self._signal(self.child(name), signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self._signal(self.child(name), signal.SIGCONT)

    async def stop_process(self, name: str) -> int:
        """SIGTERM, as an operator would; returns the exit status, negative for a signal."""
        child = self.child(name)
        await child.stop(grace_s=30)
        assert child.exit_status is not None
        return child.exit_status

    def start_process(self, name: str) -> None:
        """Start again what was stopped."""
        self._supervisor.start([self.child(name).plan])

    @asynccontextmanager
    async def without(self, *names: str) -> AsyncIterator[None]:
        """A time without these processes; they are well again afterwards."""
        await asyncio.gather(*(self.stop_process(name) for name in names))
        try:
            yield
        finally:
            for name in names:
                self.start_process(name)
            await asyncio.gather(*(self.well(name) for name in names))

    def log_of(self, name: str) -> str:
        """What a process wrote, its last life first started included."""
        text = ""
        for suffix in (".log.1", ".log"):
            path = self.layout.logs / f"{name}{suffix}"
            if path.exists():
                text += path.read_text(encoding="utf-8", errors="replace")
        return text

    def logs(self) -> Mapping[str, str]:
        """What every process wrote, by name."""
        return {
            child.plan.name: self.log_of(child.plan.name) for child in self._supervisor.children
        }

    @staticmethod
    def _signal(child: Child, number: signal.Signals) -> None:
        if child.pid is not None:
            os.kill(child.pid, number)


def choose_layout(assets: Path, state: Path) -> Layout:
    """A loopback network on which all ports are free: beside `farthing up`, and beside other runs of the tests."""
    first = os.getpid() % 200
    problem: FarthingError | None = None
    for number in range(first, first + 20):
        layout = Layout(assets, state, network=f"127.{20 + number % 200}", ports=PORTS)
        services = plan.plan_services(layout, admin_key="fk-unused", environ={})
        agents = plan.list_agent_listeners(plan.plan_agents(layout))
        try:
            check_ports([*plan.list_listeners(services), *agents])
        except FarthingError as error:
            problem = error
        else:
            return layout
    assert problem is not None
    raise problem


def find_environ() -> dict[str, str]:
    """This process's environment without our settings, and with the Consul program, fetched if it must be."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FARTHING_")}
    try:
        program = find_consul(environ, ROOT)
    except FarthingError:
        subprocess.run([ROOT / "deploy" / "setup" / "get_consul.sh"], check=True, cwd=ROOT)
        program = find_consul(environ, ROOT)
    return environ | {"CONSUL_BIN": str(program)}
