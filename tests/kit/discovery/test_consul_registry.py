"""The Consul registry through deaths of agents, services and rights: the view is kept, and becomes true again."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from farthing.kit.clock import SystemClock
from farthing.kit.discovery.agent import AgentPlan, wait_for_federation
from farthing.kit.discovery.consul import Answer, ConsulClient
from farthing.kit.discovery.consul_keeper import encode_registration
from farthing.kit.discovery.consul_registry import ConsulRegistry
from farthing.kit.discovery.registry import Registration, Registry
from farthing.kit.discovery.view import ViewRules

pytestmark = pytest.mark.consul

Until = Callable[..., Awaitable[None]]
Open = Callable[..., Registry]


def registration(service: str, number: int = 1, address: str = "127.0.0.1:9") -> Registration:
    return Registration(
        id=f"{service}-{number}",
        service=service,
        address=address,
        region="site",
        check="ttl",
    )


async def test_a_view_outlives_its_agent_and_is_fresh_again_after_its_return(
    own_consul: Any, open_consul: Open, until: Until
) -> None:
    registry = open_consul(own_consul.url)
    watch = registry.watch("edge")
    await registry.register(registration("edge"))
    await until(lambda: set(watch.instances) == {"edge-1"})
    own_consul.kill()
    heard: list[set[str]] = []
    watch.subscribe(lambda instances: heard.append(set(instances)))
    # Errors until the agent is back, and then, if asked before it is told again, that it knows of nobody: at most
    # the instance is doubted then, and stays.
    await asyncio.wait_for(own_consul.start(), 30)
    assert set(watch.instances) == {"edge-1"}
    assert all(names == {"edge-1"} for names in heard)
    await registry.register(registration("edge", 2))
    await until(lambda: set(watch.instances) == {"edge-1", "edge-2"})


async def test_an_agent_that_lost_its_state_is_told_again(
    own_consul: Any, open_consul: Open, until: Until
) -> None:
    registry = open_consul(own_consul.url)
    await registry.register(registration("edge"))
    client = ConsulClient(own_consul.url)
    await client.put("/v1/agent/service/deregister/edge-1")
    watch = registry.watch("edge")
    await until(lambda: set(watch.instances) == {"edge-1"})
    await client.close()


async def test_registering_while_the_agent_is_away_succeeds_when_it_comes(
    own_consul: Any, open_consul: Open, until: Until
) -> None:
    own_consul.kill()
    registry = open_consul(own_consul.url)
    await registry.register(registration("edge"))
    watch = registry.watch("edge")
    assert not watch.instances
    await own_consul.start()
    await until(lambda: set(watch.instances) == {"edge-1"})


async def test_a_restarted_process_has_its_view_while_consul_is_away(
    own_consul: Any, open_consul: Open, until: Until, tmp_path: Path
) -> None:
    state_file = tmp_path / "view.json"
    first = open_consul(own_consul.url, state_file=state_file)
    watch = first.watch("edge")
    keeper = open_consul(own_consul.url)
    await keeper.register(registration("edge"))
    await until(lambda: set(watch.instances) == {"edge-1"})
    await until(lambda: state_file.exists() and "edge-1" in state_file.read_text())
    await first.close()
    own_consul.kill()
    second = open_consul(own_consul.url, state_file=state_file)
    remembered = second.watch("edge")
    assert set(remembered.instances) == {"edge-1"}
    assert remembered.instances["edge-1"].address == "127.0.0.1:9"


async def test_a_damaged_memory_is_ignored(
    shared_consul: Any, open_consul: Open, tmp_path: Path
) -> None:
    state_file = tmp_path / "view.json"
    state_file.write_text('{"edge": {"site": {"instances": [{"id": 1}]}}, "x": ')
    assert not open_consul(shared_consul.url, state_file=state_file).watch("edge").instances


async def test_a_killed_grpc_service_leaves_the_view_and_returns(
    shared_consul: Any, open_consul: Open, until: Until
) -> None:
    service = f"svc-{uuid.uuid4().hex[:8]}"
    registry = open_consul(shared_consul.url)
    watch = registry.watch(service)
    server, port = await _serve_health(0)
    await registry.register(
        replace(registration(service, 1, f"127.0.0.1:{port}"), check="grpc")
    )
    await until(lambda: len(watch.instances) == 1)
    await server.stop(0)
    await until(lambda: not watch.instances)
    server, _ = await _serve_health(port)
    await until(lambda: len(watch.instances) == 1)
    await server.stop(0)


async def test_services_of_every_datacenter_are_in_one_view(
    tmp_path: Path,
    consul_program: Path,
    plan_agent: Callable[..., AgentPlan],
    run_consul: Callable[[AgentPlan], Any],
    open_consul: Open,
    until: Until,
) -> None:
    east = plan_agent(tmp_path, "east", "127.0.33.1")
    west = replace(
        plan_agent(tmp_path, "west", "127.0.34.1"),
        join_wan=(f"127.0.33.1:{east.serf_wan_port}",),
    )
    east_consul, west_consul = run_consul(east), run_consul(west)
    await asyncio.gather(east_consul.start(), west_consul.start())
    await wait_for_federation(east.url, ["east", "west"], timeout_s=30)
    in_east, in_west = open_consul(east.url), open_consul(west.url)
    watch = in_east.watch("edge")
    await in_east.register(replace(registration("edge", 1), region="east"))
    await in_west.register(replace(registration("edge", 2), region="west"))
    await until(lambda: set(watch.instances) == {"edge-1", "edge-2"})
    assert watch.instances["edge-2"].region == "west"
    west_consul.kill()
    # The near region goes on while the far one cannot be read, and the far one's instances stay.
    await in_east.register(replace(registration("edge", 3), region="east"))
    await until(lambda: "edge-3" in watch.instances)
    assert set(watch.instances) == {"edge-1", "edge-2", "edge-3"}


class ClientThatMayGoBlind(ConsulClient):
    """Answers as Consul does to a token without rights: success and an empty list, for every service."""

    blind = False
    blind_answer_count = 0

    async def get(self, path: str, **options: Any) -> Answer:
        answer = await super().get(path, **options)
        if not (self.blind and path.startswith("/v1/health/")):
            return answer
        self.blind_answer_count += 1
        return replace(answer, body=[])


async def test_a_token_without_rights_does_not_empty_the_view(
    shared_consul: Any, registries: Callable[[Registry], Registry], until: Until
) -> None:
    service = f"svc-{uuid.uuid4().hex[:8]}"
    client = ClientThatMayGoBlind(shared_consul.url)
    registry = registries(
        ConsulRegistry(client, clock=SystemClock(), rules=ViewRules(hold_s=0.1))
    )
    watch = registry.watch(service)
    await registry.register(registration(service))
    await until(lambda: len(watch.instances) == 1)
    client.blind = True
    await registry.register(registration(service, 2))  # wakes the watch
    # Many answers, far beyond the hold after which a trusted answer would be believed.
    await until(lambda: client.blind_answer_count > 20)
    assert set(watch.instances) == {f"{service}-1"}
    assert watch.instances[f"{service}-1"].suspect
    client.blind = False
    await until(lambda: len(watch.instances) == 2)
    assert not any(item.suspect for item in watch.instances.values())


def test_an_ipv6_address_is_registered_without_brackets() -> None:
    body = encode_registration(registration("edge", 1, "[::1]:50061"), failures_field=True)
    assert (body["Address"], body["Port"]) == ("::1", 50061)


def test_a_grpc_check_asks_twice_before_it_gives_up() -> None:
    wish = replace(registration("edge"), check="grpc")
    check = encode_registration(wish, failures_field=True)["Check"]
    assert check["GRPC"] == "127.0.0.1:9"
    assert check["Interval"] == "1s"
    assert check["FailuresBeforeCritical"] == 2
    assert check["Status"] == "passing"
    assert (
        "FailuresBeforeCritical" not in encode_registration(wish, failures_field=False)["Check"]
    )


async def _serve_health(port: int) -> tuple[aio.Server, int]:
    server = aio.server()
    servicer = health_aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, bound
