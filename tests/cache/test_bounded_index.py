"""The accounting under any sequence of operations: bounds hold, tenants are treated fairly, nothing expired returns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from farthing.clients.bounded_index import BoundedIndex, Bounds, Key

BOUNDS = Bounds(capacity_bytes=100, tenant_bytes=60, entry_bytes=40)
TENANTS = ("acme", "globex", "initech")


def key(tenant: str, number: int) -> Key:
    return Key(tenant, bytes([number]) * 32)


class IndexMachine(RuleBasedStateMachine):
    """Compares the index with a plain dictionary that knows only what was put last under each key."""

    def __init__(self) -> None:
        super().__init__()
        self.index: BoundedIndex[str] = BoundedIndex(BOUNDS)
        self.last_put: dict[Key, tuple[str, int]] = {}
        self.now_ms = 0
        self.serial = 0

    @rule(
        tenant=st.sampled_from(TENANTS),
        number=st.integers(0, 7),
        size=st.integers(1, 50),
        life=st.integers(-1, 20),
    )
    def put(self, tenant: str, number: int, size: int, life: int) -> None:
        self.serial += 1
        place, value = key(tenant, number), f"{tenant} {self.serial}"
        put = self.index.put(
            place, value, size_bytes=size, expire_ms=self.now_ms + life, now_ms=self.now_ms
        )
        assert put.taken == (size <= BOUNDS.entry_bytes and life > 0)
        if put.taken:
            self.last_put[place] = (value, self.now_ms + life)
            entry = self.index.get(place, self.now_ms)
            assert entry is not None
            assert entry.value == value
        assert all(self.index.peek(gone) is None for gone in put.expired if gone != place)
        assert place not in put.evicted

    @rule(tenant=st.sampled_from(TENANTS), number=st.integers(0, 7))
    def get(self, tenant: str, number: int) -> None:
        entry = self.index.get(key(tenant, number), self.now_ms)
        if entry is not None:
            value, expire_ms = self.last_put[key(tenant, number)]
            assert entry.value == value
            assert entry.value.startswith(tenant)
            assert expire_ms > self.now_ms

    @rule(tenant=st.sampled_from(TENANTS), number=st.integers(0, 7))
    def remove(self, tenant: str, number: int) -> None:
        self.index.remove(key(tenant, number))
        assert self.index.get(key(tenant, number), self.now_ms) is None

    @rule(elapsed=st.integers(0, 10))
    def wait(self, elapsed: int) -> None:
        self.now_ms += elapsed

    @rule()
    def sweep(self) -> None:
        for gone in self.index.sweep(self.now_ms):
            assert self.last_put[gone][1] <= self.now_ms

    @invariant()
    def bounds_hold(self) -> None:
        held = {tenant: self.index.tenant_size_bytes(tenant) for tenant in TENANTS}
        assert self.index.size_bytes == sum(held.values()) <= BOUNDS.capacity_bytes
        assert max(held.values()) <= BOUNDS.tenant_bytes
        assert len(self.index) == sum(len(self.index.keys_of(tenant)) for tenant in TENANTS)


TestIndex = IndexMachine.TestCase


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 40)), min_size=1, max_size=60))
def test_a_tenant_below_its_fair_share_loses_nothing_to_others(
    flood: list[tuple[int, int]],
) -> None:
    index: BoundedIndex[str] = BoundedIndex(BOUNDS)
    index.put(key("quiet", 0), "kept", size_bytes=30, expire_ms=1000, now_ms=0)
    for number, size in flood:
        index.put(key("loud", number), "noise", size_bytes=size, expire_ms=1000, now_ms=0)
        index.put(key("other", number), "noise", size_bytes=size, expire_ms=1000, now_ms=0)
    assert index.get(key("quiet", 0), 0) is not None


def test_the_least_recently_used_entry_goes_first() -> None:
    index: BoundedIndex[str] = BoundedIndex(BOUNDS)
    for number in range(3):
        index.put(key("acme", number), "x", size_bytes=20, expire_ms=100, now_ms=0)
    index.get(key("acme", 0), 0)
    put = index.put(key("acme", 3), "x", size_bytes=20, expire_ms=100, now_ms=0)
    assert put.evicted == (key("acme", 1),)
