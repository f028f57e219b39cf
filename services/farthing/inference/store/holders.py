"""The nodes that have one artefact, asked only as far as they are needed."""

from __future__ import annotations

from collections.abc import Sequence

from farthing.inference.store.node_client import NodeClient
from farthing.inference.store.node_wire import RemoteModel
from farthing.inference.store.nodes import Node
from farthing.kit.errors import FarthingError, NotFound, Unavailable
from farthing.kit.rpc.tls import TlsFiles


class Holders:
    """Nodes in the order to ask them; the first is in use. A context manager: it closes their connections."""

    def __init__(self, nodes: Sequence[Node], tls: TlsFiles | None, stall_s: float) -> None:
        self._nodes, self._tls, self._stall_s = list(dict.fromkeys(nodes)), tls, stall_s
        self._clients: dict[Node, NodeClient] = {}
        self._digest = ""

    def __enter__(self) -> Holders:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for client in self._clients.values():
            client.close()

    @property
    def count(self) -> int:
        """Nodes that may have it."""
        return len(self._nodes)

    @property
    def client(self) -> NodeClient:
        """The node in use."""
        return self._client(self._nodes[0])

    def find(self, name: str) -> RemoteModel:
        """The model of a name at the first node that has it. NotFound, or Unavailable when some did not answer."""
        findings: list[str] = []
        all_answered = True
        while self._nodes:
            try:
                if found := self.client.list(name=name):
                    self._digest = found[0].digest
                    return found[0]
                findings.append(f"{self.client.node.address} does not have it")
            except FarthingError as error:
                all_answered = False
                findings.append(error.message)
            self._nodes.pop(0)
        if not all_answered:
            raise Unavailable(
                f"no node gave {name}: {'; '.join(findings)}",
                reason="NODES_UNREACHABLE",
                metadata={"model": name},
            )
        raise NotFound(
            f"no node has {name} ({'; '.join(findings) or 'none is known'}); name one with --from, or set "
            "FARTHING_MODEL_SOURCES",
            reason="MODEL_NOT_FOUND",
            metadata={"model": name},
        )

    def rotate(self) -> None:
        """Turns to the next node that has the artefact; stays with this one when no other has it now."""
        for _ in range(len(self._nodes) - 1):
            self._nodes.append(self._nodes.pop(0))
            if self._has(self._nodes[0]):
                return
        self._nodes.append(self._nodes.pop(0))

    def drop(self, error: FarthingError) -> None:
        """Leaves the node in use for good. Raises the error when no other one has the artefact."""
        self._nodes.pop(0)
        while self._nodes:
            if self._has(self._nodes[0]):
                return
            self._nodes.pop(0)
        raise error

    def _has(self, node: Node) -> bool:
        try:
            return bool(self._client(node).list(digest=self._digest))
        except FarthingError:
            return False

    def _client(self, node: Node) -> NodeClient:
        if node not in self._clients:
            self._clients[node] = NodeClient(node, self._tls, stall_s=self._stall_s)
        return self._clients[node]
