"""Any interleaving of anything quota can do keeps its money straight."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from farthing.quota.core import transitions
from farthing.quota.core.books import Books, Changes
from farthing.quota.core.holds import (
    Denial,
    End,
    Granted,
    Hold,
    HoldState,
    Settled,
    SettleOutcome,
    Wish,
)
from farthing.quota.core.keys import KeyWish, make_key
from farthing.quota.core.nodes import NO_LIMITS, Limits, Node, Period, remaining, roll, spent
from farthing.quota.core.rates import count_window
from farthing.quota.store import expire_due

START_MS = 1_767_225_600_000
KEYS = ("key_0", "key_1", "key_2", "key_3", "key_4")

small = st.integers(0, 60)
limits_strategy = st.builds(
    Limits,
    budget_nano_usd=st.none() | st.integers(0, 150),
    period=st.sampled_from(Period),
    requests_per_minute=st.none() | st.integers(0, 5),
    tokens_per_minute=st.none() | st.integers(0, 100),
)


class QuotaMachine(RuleBasedStateMachine):
    """Keys over a random tree; the model is a plain list of what was granted and settled."""

    def __init__(self) -> None:
        super().__init__()
        self.books = Books(keep_ended=True)
        self.now_ms = START_MS
        self.hold_count = 0
        self.answers: dict[str, Granted] = {}
        self.settled: dict[str, int] = {}
        # Nodes whose limit was set below what they already used: they may stand above it until they have come down.
        self.lowered: set[str] = set()

    @initialize(places=st.lists(st.tuples(*[st.integers(0, 1)] * 3), min_size=5, max_size=5))
    def make_tree(self, places: list[tuple[int, int, int]]) -> None:
        for key_id, (organisation, centre, team) in zip(KEYS, places, strict=True):
            wish = KeyWish(
                key_id, key_id, f"o{organisation}", f"c{centre}", f"t{team}", "balanced", False
            )
            key = make_key(
                wish, secret_prefix="fk-", secret_hash=key_id.encode(), now_ms=self.now_ms
            )
            changes = Changes(self.books)
            transitions.add_key(changes, key, NO_LIMITS)
            self.books.apply(changes)

    @rule(
        key_id=st.sampled_from(KEYS),
        least=small,
        more=small,
        tokens=small,
        ttl=st.integers(1, 90),
    )
    def reserve(self, key_id: str, least: int, more: int, tokens: int, ttl: int) -> None:
        self._expire()
        self.hold_count += 1
        wish = Wish(f"h{self.hold_count}", b"", least + more, least, tokens, ttl * 1000)
        before = dict(self.books.nodes)
        answer = self._reserve(wish, key_id)
        if isinstance(answer, Denial):
            assert self.books.nodes == before
            assert answer.node in self.books.keys[key_id].chain
            return
        assert least <= answer.granted_nano_usd <= least + more
        self.answers[wish.hold_id] = answer
        for name in self.books.keys[key_id].chain:
            node = self.books.nodes[name]
            limit = node.limits
            if limit.budget_nano_usd is not None and answer.granted_nano_usd:
                assert spent(node) + node.held_nano_usd <= limit.budget_nano_usd
            if limit.requests_per_minute is not None:
                assert count_window(node.requests, self.now_ms) <= limit.requests_per_minute
            if limit.tokens_per_minute is not None:
                assert count_window(node.tokens, self.now_ms) <= limit.tokens_per_minute

    @rule(data=st.data())
    def repeat_a_reserve(self, data: st.DataObject) -> None:
        if not self.answers:
            return
        hold_id = data.draw(st.sampled_from(sorted(self.answers)))
        before = dict(self.books.nodes)
        wish = Wish(hold_id, b"", 999, 999, 999, 1000)
        assert self._reserve(wish, self.books.holds[hold_id].key_id) == self.answers[hold_id]
        assert self.books.nodes == before

    @rule(data=st.data(), part=st.integers(0, 100), tokens=small)
    def settle(self, data: st.DataObject, part: int, tokens: int) -> None:
        if not self.answers:
            return
        hold_id = data.draw(st.sampled_from(sorted(self.answers)))
        amount = self.answers[hold_id].granted_nano_usd * part // 100
        before = dict(self.books.nodes)
        was_held = self.books.holds[hold_id].state is HoldState.HELD
        result = self._settle(End(hold_id, amount, tokens))
        if hold_id in self.settled:
            same = self.settled[hold_id] == amount
            assert result.outcome == (
                SettleOutcome.DUPLICATE if same else SettleOutcome.CONFLICT
            )
            assert self.books.nodes == before
            return
        assert result.outcome is SettleOutcome.SETTLED
        assert not (was_held and result.unfunded_nano_usd)
        assert self._settle(End(hold_id, amount, tokens)).outcome is SettleOutcome.DUPLICATE
        self.settled[hold_id] = amount

    @rule(data=st.data(), excess=st.integers(1, 9))
    def settle_too_much(self, data: st.DataObject, excess: int) -> None:
        still = sorted(self.answers.keys() - self.settled.keys())
        if still:
            hold_id = data.draw(st.sampled_from(still))
            end = End(hold_id, self.answers[hold_id].granted_nano_usd + excess, 0)
            before = dict(self.books.nodes)
            assert self._settle(end).outcome is SettleOutcome.OVER_HOLD
            assert self.books.nodes == before

    @rule(ms=st.sampled_from([1, 999, 20_000, 61_000, 3_600_000, 86_400_000, 31 * 86_400_000]))
    def wait(self, ms: int) -> None:
        self.now_ms += ms

    @rule(ms=st.sampled_from([5, 70_000, 86_400_000]))
    def set_the_clock_back(self, ms: int) -> None:
        self.now_ms -= ms

    @rule()
    def sweep(self) -> None:
        self._expire()
        assert all(
            hold.expire_ms > self.now_ms
            for hold in self.books.holds.values()
            if hold.state is HoldState.HELD
        )

    @rule(data=st.data(), limits=limits_strategy)
    def set_limits(self, data: st.DataObject, limits: Limits) -> None:
        name = data.draw(st.sampled_from(sorted(self.books.nodes)))
        changes = Changes(self.books)
        node = transitions.set_limits(changes, name, limits, self.now_ms)
        self.books.apply(changes)
        self.lowered.discard(name)
        if _is_over(node):
            self.lowered.add(name)

    @invariant()
    def no_budget_is_ever_exceeded(self) -> None:
        for name, node in self.books.nodes.items():
            if _is_over(roll(node, self.now_ms)):
                assert name in self.lowered
            else:
                self.lowered.discard(name)

    @invariant()
    def parents_are_the_sum_of_their_keys(self) -> None:
        held: Counter[str] = Counter()
        booked: Counter[str] = Counter()
        unfunded: Counter[str] = Counter()
        for hold in self.books.holds.values():
            for name in self.books.keys[hold.key_id].chain:
                booked[name] += hold.settled_nano_usd
                unfunded[name] += hold.unfunded_nano_usd
                if hold.state is HoldState.HELD:
                    held[name] += hold.granted_nano_usd
        for name, node in self.books.nodes.items():
            assert node.held_nano_usd == held[name]
            assert node.total_spent_nano_usd == booked[name]
            assert node.unfunded_nano_usd == unfunded[name]
            assert node.day_spent_nano_usd <= node.month_spent_nano_usd
            assert node.month_spent_nano_usd <= node.total_spent_nano_usd

    @invariant()
    def what_was_settled_is_all_there(self) -> None:
        for hold_id, amount in self.settled.items():
            hold = self.books.holds[hold_id]
            assert hold.settled_nano_usd + hold.unfunded_nano_usd == amount

    def _reserve(self, wish: Wish, key_id: str) -> Granted | Denial:
        changes = Changes(self.books)
        answer = transitions.reserve(changes, wish, self.books.keys[key_id], self.now_ms)
        self.books.apply(changes)
        return answer

    def _settle(self, end: End) -> Settled:
        changes = Changes(self.books)
        result = transitions.settle(changes, end, self.now_ms)
        self.books.apply(changes)
        return result

    def _expire(self) -> None:
        changes = Changes(self.books)
        expire_due(self.books, changes, self.now_ms)
        self.books.apply(changes)


def _is_over(node: Node) -> bool:
    budget = node.limits.budget_nano_usd
    return budget is not None and spent(node) + node.held_nano_usd > budget


QuotaMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestQuota = QuotaMachine.TestCase


def test_a_node_without_a_budget_has_no_remainder() -> None:
    assert remaining(Node("organisation:a", START_MS)) is None
    assert Hold("h", "k", 1, 0, 0, 0).state is HoldState.HELD
