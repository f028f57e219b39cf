"""Which slot holds which beginning of a sequence: chains of block hashes, partitioned by tenant and adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from struct import pack

BLOCK_TOKEN_COUNT = 16
_HASH_BYTES = 16


def hash_blocks(
    tokens: Sequence[int], *, tenant_id: str, adapter: str, before: Sequence[bytes] = ()
) -> list[bytes]:
    """The chain of hashes of the whole blocks of `tokens`; `before` has those of the first ones, made earlier.

    A hash stands for its block and all before it, of one tenant under one adapter: no tenant can find out by the speed
    of an answer what another one has asked, and keys computed under one adapter are never used under another.
    """
    chain = list(before)
    last = chain[-1] if chain else f"{tenant_id}\0{adapter}".encode()
    for start in range(len(chain) * BLOCK_TOKEN_COUNT, len(tokens), BLOCK_TOKEN_COUNT):
        block = tokens[start : start + BLOCK_TOKEN_COUNT]
        if len(block) < BLOCK_TOKEN_COUNT:
            break
        data = last + pack(f"<{BLOCK_TOKEN_COUNT}i", *block)
        last = hashlib.blake2b(data, digest_size=_HASH_BYTES).digest()
        chain.append(last)
    return chain


class PrefixIndex:
    """The chains that slots hold now."""

    def __init__(self, slot_count: int) -> None:
        self._chains: list[list[bytes]] = [[] for _ in range(slot_count)]
        self._holders: dict[bytes, set[int]] = {}

    def longest(self, chain: Sequence[bytes]) -> tuple[int, frozenset[int]]:
        """How many blocks of `chain` some slot holds, and which slots hold that many."""
        count, holders = 0, frozenset[int]()
        for place, block in enumerate(chain, 1):
            found = self._holders.get(block)
            if not found:
                break
            count, holders = place, frozenset(found)
        return count, holders

    def hold(self, slot: int, chain: Sequence[bytes]) -> None:
        """The slot now holds these blocks and no others."""
        held = self._chains[slot]
        shared = 0
        for old, new in zip(held, chain, strict=False):
            if old != new:
                break
            shared += 1
        for block in held[shared:]:
            holders = self._holders[block]
            holders.discard(slot)
            if not holders:
                del self._holders[block]
        del held[shared:]
        for block in chain[shared:]:
            self._holders.setdefault(block, set()).add(slot)
            held.append(block)

    def chain_of(self, slot: int) -> Sequence[bytes]:
        """The blocks that the slot holds."""
        return self._chains[slot]
