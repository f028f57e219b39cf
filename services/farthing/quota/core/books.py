"""What quota knows, as values in memory, and changes laid over it that take effect all at once or not at all."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Protocol

from farthing.quota.core.holds import Hold, HoldState
from farthing.quota.core.keys import ApiKey
from farthing.quota.core.nodes import Node
from farthing.quota.core.rates import add_to_window, correct_window

_STALE_COUNT = 4_096


class View(Protocol):
    """Reads the books."""

    def node(self, name: str) -> Node | None:
        """The node of that name."""
        ...

    def hold(self, hold_id: str) -> Hold | None:
        """The hold of that id, ended or not."""
        ...

    def key(self, key_id: str) -> ApiKey | None:
        """The key of that public id."""
        ...

    def key_by_hash(self, secret_hash: bytes) -> ApiKey | None:
        """The key whose stored hash that is."""
        ...


class Changes:
    """A view with changes of its own over another one."""

    __slots__ = ("_base", "hashes", "holds", "keys", "nodes")

    def __init__(self, base: View) -> None:
        self._base = base
        self.nodes: dict[str, Node] = {}
        self.holds: dict[str, Hold] = {}
        self.keys: dict[str, ApiKey] = {}
        self.hashes: dict[bytes, str] = {}

    def node(self, name: str) -> Node | None:
        """See View."""
        return self.nodes.get(name) or self._base.node(name)

    def hold(self, hold_id: str) -> Hold | None:
        """See View."""
        return self.holds.get(hold_id) or self._base.hold(hold_id)

    def key(self, key_id: str) -> ApiKey | None:
        """See View."""
        return self.keys.get(key_id) or self._base.key(key_id)

    def key_by_hash(self, secret_hash: bytes) -> ApiKey | None:
        """See View."""
        if key_id := self.hashes.get(secret_hash):
            return self.keys[key_id]
        return self._base.key_by_hash(secret_hash)

    def put_node(self, node: Node) -> None:
        """Set a node."""
        self.nodes[node.name] = node

    def put_hold(self, hold: Hold) -> None:
        """Set a hold."""
        self.holds[hold.hold_id] = hold

    def put_key(self, key: ApiKey) -> None:
        """Set a key."""
        self.keys[key.key_id] = key
        self.hashes[key.secret_hash] = key.key_id

    def merge(self, later: Changes) -> None:
        """Take in changes that were made over this one."""
        self.nodes.update(later.nodes)
        self.holds.update(later.holds)
        self.keys.update(later.keys)
        self.hashes.update(later.hashes)


class Books:
    """The committed state. Ended holds are kept in memory only with `keep_ended`."""

    def __init__(self, *, keep_ended: bool) -> None:
        self._keep_ended = keep_ended
        self._expiries: list[tuple[int, str]] = []
        self.nodes: dict[str, Node] = {}
        self.holds: dict[str, Hold] = {}
        self.keys: dict[str, ApiKey] = {}
        self.hashes: dict[bytes, str] = {}

    def node(self, name: str) -> Node | None:
        """See View."""
        return self.nodes.get(name)

    def hold(self, hold_id: str) -> Hold | None:
        """See View; only of those in memory."""
        return self.holds.get(hold_id)

    def key(self, key_id: str) -> ApiKey | None:
        """See View."""
        return self.keys.get(key_id)

    def key_by_hash(self, secret_hash: bytes) -> ApiKey | None:
        """See View."""
        key_id = self.hashes.get(secret_hash)
        return None if key_id is None else self.keys.get(key_id)

    def apply(self, changes: Changes) -> None:
        """Make changes part of the state."""
        # Keys before hashes and both before holds: another thread may read while this runs.
        self.keys.update(changes.keys)
        self.hashes.update(changes.hashes)
        self.nodes.update(changes.nodes)
        for hold in changes.holds.values():
            if hold.state is HoldState.HELD:
                self.holds[hold.hold_id] = hold
                heapq.heappush(self._expiries, (hold.expire_ms, hold.hold_id))
            elif self._keep_ended:
                self.holds[hold.hold_id] = hold
            else:
                self.holds.pop(hold.hold_id, None)
        # Settled holds leave their place in line behind; do not let those pile up.
        if len(self._expiries) > 2 * len(self.holds) + _STALE_COUNT:
            self.requeue()

    def due(self, now_ms: int) -> Iterator[Hold]:
        """Holds whose time is over at `now_ms`, oldest first.

        Each is seen once: after a transaction that did not commit, call `requeue`.
        """
        while self._expiries and self._expiries[0][0] <= now_ms:
            hold = self.holds.get(heapq.heappop(self._expiries)[1])
            if hold is not None and hold.state is HoldState.HELD:
                yield hold

    def requeue(self) -> None:
        """Put all open holds back in line for expiry."""
        self._expiries = [
            (hold.expire_ms, hold.hold_id)
            for hold in self.holds.values()
            if hold.state is HoldState.HELD
        ]
        heapq.heapify(self._expiries)

    def restore_hold(self, hold: Hold) -> None:
        """Take up a hold from storage: what is held and the counts per minute follow from it.

        Give holds in order of creation, after all nodes and keys.
        """
        for name in self.keys[hold.key_id].chain:
            node = self.nodes[name]
            if hold.state is HoldState.HELD:
                node = node._replace(held_nano_usd=node.held_nano_usd + hold.granted_nano_usd)
            if node.limits.requests_per_minute is not None:
                counted = 0 if is_void(hold) else 1
                node = node._replace(
                    requests=add_to_window(node.requests, counted, hold.create_ms)
                )
            if node.limits.tokens_per_minute is not None:
                used = (
                    hold.settled_token_count
                    if hold.state is HoldState.SETTLED
                    else hold.token_count
                )
                node = node._replace(tokens=add_to_window(node.tokens, used, hold.create_ms))
            self.nodes[name] = node
        if hold.state is HoldState.HELD or self._keep_ended:
            self.holds[hold.hold_id] = hold
            if hold.state is HoldState.HELD:
                heapq.heappush(self._expiries, (hold.expire_ms, hold.hold_id))


def is_void(hold: Hold) -> bool:
    """Whether the hold ended without anything being used."""
    return (
        hold.state is HoldState.SETTLED
        and hold.settled_nano_usd == 0
        and hold.unfunded_nano_usd == 0
        and hold.settled_token_count == 0
    )


def correct_rates(node: Node, hold: Hold) -> Node:
    """Correct a node's counts per minute for a hold that has just been settled."""
    if node.tokens:
        change = hold.settled_token_count - hold.token_count
        node = node._replace(tokens=correct_window(node.tokens, change, hold.create_ms))
    if node.requests and is_void(hold):
        node = node._replace(requests=correct_window(node.requests, -1, hold.create_ms))
    return node
