"""Where quota's books are kept: the store's contract, the operations all stores share, and the store in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from farthing.quota.core import transitions
from farthing.quota.core.books import Books, Changes, View
from farthing.quota.core.holds import Denial, End, Granted, HoldState, Settled, Wish
from farthing.quota.core.keys import ApiKey, KeyWish, hash_digest, make_key
from farthing.quota.core.nodes import Limits, Node, roll

Result = TypeVar("Result")

# Denials cost nothing, so they are not written; these many are remembered for callers that ask again.
_DENIAL_COUNT = 16_384


class QuotaStore(Protocol):
    """Keeps keys, limits, holds and what is spent. Every method is one transaction; times are unix ms.

    What has been returned survives the death of the process. Unavailable when nothing can be written:
    then nothing has happened.
    """

    async def open(self) -> None:
        """Make ready."""
        ...

    async def close(self) -> None:
        """Finish what is under way."""
        ...

    async def reserve(self, wishes: Sequence[Wish], now_ms: int) -> list[Granted | Denial]:
        """Hold for each wish or deny it, in order, after freeing what has expired. Idempotent by hold id."""
        ...

    async def settle(self, ends: Sequence[End], now_ms: int) -> list[Settled]:
        """End holds, in order. Idempotent by hold id and amount."""
        ...

    async def expire(self, now_ms: int) -> int:
        """Free what has expired; returns the number of holds freed."""
        ...

    async def prune(self, settled_before_ms: int, expired_before_ms: int) -> int:
        """Forget holds that ended before; returns how many. Their ids are unknown from then on."""
        ...

    async def find_key(self, key_digest: bytes, now_ms: int) -> ApiKey | None:
        """The key if it works at `now_ms`."""
        ...

    async def add_key(
        self, wish: KeyWish, key_digest: bytes, secret_prefix: str, limits: Limits, now_ms: int
    ) -> ApiKey:
        """Add a key. Returns the first one when a key of that digest exists."""
        ...

    async def revoke_key(self, key_id: str, now_ms: int) -> ApiKey:
        """Revoke a key for ever. Idempotent. NotFound."""
        ...

    async def list_keys(self, organisation_id: str) -> list[ApiKey]:
        """Keys of an organisation, of all with "", newest first."""
        ...

    async def set_limits(self, name: str, limits: Limits, now_ms: int) -> Node:
        """Set a node's limits. NotFound for a key that does not exist."""
        ...

    async def list_nodes(self, names: Sequence[str] | None, now_ms: int) -> list[Node]:
        """The nodes of these names that exist, or all with None, by name, in their current period."""
        ...


class Operations:
    """The store's operations on books in memory, for stores that run them one at a time."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._denials: OrderedDict[tuple[str, bytes], Denial] = OrderedDict()

    def key_of(self, books: View, key_digest: bytes) -> ApiKey | None:
        """The key of a digest, working or not."""
        return books.key_by_hash(hash_digest(self._salt, key_digest))

    def reserve(
        self, books: Changes, wishes: Sequence[Wish], now_ms: int
    ) -> list[Granted | Denial]:
        """See QuotaStore."""
        return [self._reserve_one(books, wish, now_ms) for wish in wishes]

    def add_key(
        self,
        books: Changes,
        wish: KeyWish,
        key_digest: bytes,
        secret_prefix: str,
        limits: Limits,
        now_ms: int,
    ) -> ApiKey:
        """See QuotaStore."""
        found = self.key_of(books, key_digest)
        if found is not None:
            return found
        key = make_key(
            wish,
            secret_prefix=secret_prefix,
            secret_hash=hash_digest(self._salt, key_digest),
            now_ms=now_ms,
        )
        transitions.add_key(books, key, limits)
        return key

    def _reserve_one(self, books: Changes, wish: Wish, now_ms: int) -> Granted | Denial:
        asked = (wish.hold_id, wish.key_digest)
        before = self._denials.get(asked)
        if before is not None:
            return before
        answer = transitions.reserve(books, wish, self.key_of(books, wish.key_digest), now_ms)
        if isinstance(answer, Denial):
            self._denials[asked] = answer
            if len(self._denials) > _DENIAL_COUNT:
                self._denials.popitem(last=False)
        return answer


def expire_due(base: Books, books: Changes, now_ms: int) -> int:
    """Free what has expired in `base`, by changes in `books`; returns the number of holds freed."""
    count = 0
    for hold in base.due(now_ms):
        # Another change of the same transaction may have ended it.
        if (latest := books.hold(hold.hold_id)) is not None and latest.state is HoldState.HELD:
            transitions.expire(books, latest, now_ms)
            count += 1
    return count


def select_keys(base: Books, organisation_id: str) -> list[ApiKey]:
    """Keys of an organisation, of all with "", newest first."""
    chosen = [
        key
        for key in base.keys.values()
        if organisation_id in ("", key.principal.organisation_id)
    ]
    return sorted(chosen, key=lambda key: (key.create_ms, key.key_id), reverse=True)


def select_nodes(base: Books, names: Sequence[str] | None, now_ms: int) -> list[Node]:
    """Nodes by name, in their current period."""
    wanted = base.nodes if names is None else [name for name in names if name in base.nodes]
    return [roll(base.nodes[name], now_ms) for name in sorted(wanted)]


class MemoryQuotaStore:
    """Implements QuotaStore in memory: for tests, and for tools that need no second run."""

    def __init__(self, salt: bytes = b"memory") -> None:
        self._operations = Operations(salt)
        self._books = Books(keep_ended=True)

    async def open(self) -> None:
        """See QuotaStore."""

    async def close(self) -> None:
        """See QuotaStore."""

    async def reserve(self, wishes: Sequence[Wish], now_ms: int) -> list[Granted | Denial]:
        """See QuotaStore."""
        await self.expire(now_ms)
        return self._commit(lambda books: self._operations.reserve(books, wishes, now_ms))

    async def settle(self, ends: Sequence[End], now_ms: int) -> list[Settled]:
        """See QuotaStore."""
        return self._commit(
            lambda books: [transitions.settle(books, end, now_ms) for end in ends]
        )

    async def expire(self, now_ms: int) -> int:
        """See QuotaStore."""
        return self._commit(lambda books: expire_due(self._books, books, now_ms))

    async def prune(self, settled_before_ms: int, expired_before_ms: int) -> int:
        """See QuotaStore."""
        bounds = {
            HoldState.SETTLED: settled_before_ms,
            HoldState.EXPIRED: expired_before_ms,
        }
        old = [
            hold.hold_id
            for hold in self._books.holds.values()
            if hold.state is not HoldState.HELD and hold.finish_ms < bounds[hold.state]
        ]
        for hold_id in old:
            del self._books.holds[hold_id]
        return len(old)

    async def find_key(self, key_digest: bytes, now_ms: int) -> ApiKey | None:
        """See QuotaStore."""
        key = self._operations.key_of(self._books, key_digest)
        return key if key is not None and key.is_active(now_ms) else None

    async def add_key(
        self, wish: KeyWish, key_digest: bytes, secret_prefix: str, limits: Limits, now_ms: int
    ) -> ApiKey:
        """See QuotaStore."""
        return self._commit(
            lambda books: self._operations.add_key(
                books, wish, key_digest, secret_prefix, limits, now_ms
            )
        )

    async def revoke_key(self, key_id: str, now_ms: int) -> ApiKey:
        """See QuotaStore."""
        return self._commit(lambda books: transitions.revoke_key(books, key_id, now_ms))

    async def list_keys(self, organisation_id: str) -> list[ApiKey]:
        """See QuotaStore."""
        return select_keys(self._books, organisation_id)

    async def set_limits(self, name: str, limits: Limits, now_ms: int) -> Node:
        """See QuotaStore."""
        return self._commit(lambda books: transitions.set_limits(books, name, limits, now_ms))

    async def list_nodes(self, names: Sequence[str] | None, now_ms: int) -> list[Node]:
        """See QuotaStore."""
        return select_nodes(self._books, names, now_ms)

    def _commit(self, change: Callable[[Changes], Result]) -> Result:
        books = Changes(self._books)
        result = change(books)
        self._books.apply(books)
        return result
