"""Other nodes that may have a model, and in which order to ask them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from farthing.inference.store.contents import require_name
from farthing.kit.discovery import Instance, Registry, dial_address
from farthing.kit.errors import InvalidArgument

SERVICES = ("infer-edge", "infer-cloud")
_SCHEME = "node://"
_ADDRESS = re.compile(r"(?:[^\s/@:\[\]]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}")


@dataclass(frozen=True, slots=True)
class Node:
    """An edge or cloud process, at host:port or a socket of this machine; the region is empty where nobody said."""

    address: str
    region: str = ""


def rank_nodes(instances: Iterable[Instance], *, region: str, own_id: str = "") -> list[Node]:
    """Instances as nodes to ask: those of the own region first, suspect ones last, this process never."""
    ranked = sorted(
        (one for one in instances if one.id != own_id),
        key=lambda one: (one.suspect, one.region != region, one.id),
    )
    return [Node(dial_address(one), one.region) for one in ranked]


async def find_nodes(
    registry: Registry, *, region: str, own_id: str = "", timeout_s: float = 3.0
) -> list[Node]:
    """The nodes that discovery knows, in the order to ask them; [] when it says nothing in time."""
    watches = [registry.watch(service) for service in SERVICES]
    waits = [asyncio.ensure_future(watch.ready()) for watch in watches]
    _, late = await asyncio.wait(waits, timeout=timeout_s)
    for wait in late:
        wait.cancel()
    instances = [one for watch in watches for one in watch.instances.values()]
    return rank_nodes(instances, region=region, own_id=own_id)


def parse_nodes(addresses: Sequence[str]) -> list[Node]:
    """Nodes by address, in the order given. InvalidArgument for what is no host:port."""
    for address in addresses:
        if not _ADDRESS.fullmatch(address):
            raise InvalidArgument(
                f"{address!r} is no address of a node; write host:port", field="address"
            )
    return [Node(address) for address in addresses]


def parse_node_source(text: str) -> tuple[Node, str] | None:
    """The node and the model's name of `node://host:port/name`; None when the text is something else."""
    if not text.startswith(_SCHEME):
        return None
    address, _, name = text.removeprefix(_SCHEME).partition("/")
    (node,) = parse_nodes([address])
    require_name(name)
    return node, name


def node_source(node: Node, name: str) -> str:
    """How a source on another node is written."""
    return f"{_SCHEME}{node.address}/{name}"
