"""The life of a suite: ports checked, processes started, keys and prices put in place, demo, stop."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Mapping

from rich.console import Console

from farthing.api.router.v1 import router_pb2, router_pb2_grpc
from farthing.cli.connection import call
from farthing.cli.up import plan, seeding, show
from farthing.cli.up.demo import run_prompts
from farthing.cli.up.layout import Layout
from farthing.cli.up.probes import Probes
from farthing.cli.up.records import DemoPrompt, PromptRecord, read_prompts, write_records
from farthing.cli.up.supervisor import Supervisor, check_ports
from farthing.kit.discovery.agent import find_consul
from farthing.kit.errors import FarthingError, Unavailable
from farthing.kit.rpc.channel import open_channel

_START_TIMEOUT_S = 120.0
_CONSUL_TIMEOUT_S = 30.0
_ROUTE_TIMEOUT_S = 60.0


async def run_suite(layout: Layout, *, demo: bool, once: bool) -> int:
    """Run until a signal, or with `once` until the demo is over. Returns the exit status.

    FarthingError if it cannot start.
    """
    console = show.make_console()
    probes = Probes()
    supervisor = Supervisor(
        layout.logs,
        probe=probes.ask,
        say=lambda text: console.print(text, style="yellow", markup=False),
    )
    told_to_stop = _listen_for_signals()
    work = asyncio.create_task(_work(layout, supervisor, console, demo=demo, once=once))
    stop = asyncio.create_task(told_to_stop.wait())
    try:
        await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        console.print("\nstopping …", style="dim")
        return 0
    finally:
        for task in (work, stop):
            task.cancel()
        await asyncio.gather(work, stop, return_exceptions=True)
        await supervisor.stop()
        await probes.close()


async def _work(
    layout: Layout, supervisor: Supervisor, console: Console, *, demo: bool, once: bool
) -> int:
    """Start everything, run the demo if it is wanted, and stay. Returns the exit status."""

    started_s = time.monotonic()
    prompts = read_prompts(layout.assets) if demo else []
    keys = await start_suite(layout, supervisor, console, os.environ)
    await wait_for_route(layout, keys.tenant)
    show.show_ready(console, layout, elapsed_s=time.monotonic() - started_s)
    status = await _demonstrate(layout, keys.tenant, console, prompts) if demo else 0
    if not once:
        console.print("\nCtrl-C stops it.", style="dim")
        await asyncio.Event().wait()
    return status


async def start_suite(
    layout: Layout, supervisor: Supervisor, console: Console, environ: Mapping[str, str]
) -> seeding.Keys:
    """Start every process, put prices and policies in place, and return keys that work.

    FailedPrecondition on a taken port or a missing model, Unavailable when a process takes too long.
    """
    keys = seeding.remember_keys(layout)
    agents = plan.plan_agents(layout)
    services = plan.plan_services(layout, admin_key=keys.admin, environ=environ)
    program = find_consul(environ, layout.assets)
    # Before anything on disk changes: another suite may be running from the same folder.
    check_ports([*plan.list_listeners(services), *plan.list_agent_listeners(agents)])
    for agent in agents:
        # Prices and policies come from files here, registrations from the services: an old state only delays.
        shutil.rmtree(agent.directory, ignore_errors=True)
    consuls = [plan.plan_consul(program, agent, environ) for agent in agents]
    with console.status("starting Consul in two datacenters …"):
        children = supervisor.start(consuls)
        supervised = supervisor.start(services)
        await supervisor.wait_until_well(children, timeout_s=_CONSUL_TIMEOUT_S)
        for agent in agents:
            await seeding.seed_documents(layout.assets, agent.url)
    with console.status("starting the services …"):
        await supervisor.wait_until_well(supervised, timeout_s=_START_TIMEOUT_S)
        keys = await seeding.ensure_tenant(layout, keys)
        seeding.write_env_file(layout, keys)
    return keys


async def wait_for_route(layout: Layout, key: str) -> None:
    """Return when the edge site's router is ready to use an instance of each tier; Unavailable after a minute."""
    address = layout.address("router")
    channel = open_channel(address)
    stub = router_pb2_grpc.RouterServiceStub(channel)
    problem = ""
    try:
        async with asyncio.timeout(_ROUTE_TIMEOUT_S):
            while True:
                try:
                    view = await call(
                        stub.ListInstances,
                        router_pb2.ListInstancesRequest(),
                        key=key,
                        address=address,
                    )
                    ready = {
                        item.tier
                        for item in view.instances
                        if item.state == router_pb2.INSTANCE_STATE_READY
                    }
                    if len(ready) == 2:
                        return
                    problem = f"{len(ready)} of 2 tiers ready"
                except FarthingError as error:
                    problem = error.message
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise Unavailable(
            f"the router reaches no instance of each tier after {_ROUTE_TIMEOUT_S:g} s ({problem}); "
            f"logs are in {layout.logs}",
            reason="START_TIMEOUT",
        ) from None
    finally:
        await channel.close()


async def _demonstrate(
    layout: Layout, key: str, console: Console, prompts: list[DemoPrompt]
) -> int:

    records: list[PromptRecord] = []
    failed = 0
    number = 0
    async for prompt, outcome in run_prompts(layout, key, prompts):
        number += 1
        if isinstance(outcome, FarthingError):
            failed += 1
            show.show_failure(console, number, len(prompts), prompt, outcome)
        else:
            records.append(outcome)
            show.show_record(console, number, len(prompts), outcome)
        write_records(layout.report_file, records)
    show.show_sum(console, records)
    console.print(f"written to {layout.report_file}", style="dim", markup=False)
    return 1 if failed else 0


def _listen_for_signals() -> asyncio.Event:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, told.set)
    return told
