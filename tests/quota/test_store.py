"""What every QuotaStore does, whatever it keeps its books in."""

from __future__ import annotations

import asyncio

import pytest

from farthing.kit.errors import NotFound
from farthing.quota.core.holds import (
    Denial,
    DenialReason,
    End,
    Granted,
    Settled,
    SettleOutcome,
    Wish,
)
from farthing.quota.core.keys import ApiKey, KeyWish, digest_secret
from farthing.quota.core.nodes import NO_LIMITS, Limits, Node, Period, remaining, spent
from farthing.quota.store import QuotaStore

START_MS = 1_767_225_600_000
DAY_MS = 86_400_000
SECRET = "fk-" + "a" * 32
DIGEST = digest_secret(SECRET)
TEAM, CENTRE, ORGANISATION = "team:acme/rd/search", "cost_centre:acme/rd", "organisation:acme"


def _key_wish(
    key_id: str = "key_1", *, team: str = "search", expire_ms: int | None = None
) -> KeyWish:
    return KeyWish(key_id, "laptop", "acme", "rd", team, "balanced", False, expire_ms)


async def _add_key(
    store: QuotaStore,
    wish: KeyWish | None = None,
    digest: bytes = DIGEST,
    limits: Limits = NO_LIMITS,
) -> ApiKey:
    return await store.add_key(wish or _key_wish(), digest, "fk-aaaaa", limits, START_MS)


def _wish(
    hold_id: str,
    amount: int = 10,
    *,
    least: int | None = None,
    tokens: int = 0,
    ttl_ms: int = 60_000,
    digest: bytes = DIGEST,
) -> Wish:
    return Wish(hold_id, digest, amount, amount if least is None else least, tokens, ttl_ms)


async def _reserve(store: QuotaStore, wish: Wish, now_ms: int = START_MS) -> Granted | Denial:
    (answer,) = await store.reserve([wish], now_ms)
    return answer


async def _grant(store: QuotaStore, wish: Wish, now_ms: int = START_MS) -> int:
    answer = await _reserve(store, wish, now_ms)
    assert isinstance(answer, Granted), answer
    return answer.granted_nano_usd


async def _deny(store: QuotaStore, wish: Wish, now_ms: int = START_MS) -> Denial:
    answer = await _reserve(store, wish, now_ms)
    assert isinstance(answer, Denial), answer
    return answer


async def _settle(
    store: QuotaStore, hold_id: str, amount: int, tokens: int = 0, now_ms: int = START_MS
) -> Settled:
    (result,) = await store.settle([End(hold_id, amount, tokens)], now_ms)
    return result


async def _node(store: QuotaStore, name: str, now_ms: int = START_MS) -> Node:
    (node,) = await store.list_nodes([name], now_ms)
    return node


async def test_a_hold_binds_every_node_of_the_chain_and_a_settlement_frees_the_rest(
    store: QuotaStore,
) -> None:
    await _add_key(store)
    assert await _grant(store, _wish("h", 100)) == 100
    for name in ("key:key_1", TEAM, CENTRE, ORGANISATION):
        assert (await _node(store, name)).held_nano_usd == 100
    assert await _settle(store, "h", 30) == Settled(SettleOutcome.SETTLED)
    for name in ("key:key_1", TEAM, CENTRE, ORGANISATION):
        node = await _node(store, name)
        assert (node.held_nano_usd, spent(node)) == (0, 30)


async def test_a_grant_is_the_least_that_any_node_has_left(store: QuotaStore) -> None:
    await _add_key(store, limits=Limits(budget_nano_usd=90))
    await store.set_limits(CENTRE, Limits(budget_nano_usd=70), START_MS)
    await store.set_limits(ORGANISATION, Limits(budget_nano_usd=80), START_MS)
    assert await _grant(store, _wish("h", 100, least=1)) == 70


@pytest.mark.parametrize("node", ["key:key_1", TEAM, CENTRE, ORGANISATION])
async def test_a_denial_names_the_node_that_has_too_little(
    store: QuotaStore, node: str
) -> None:
    await _add_key(store)
    await store.set_limits(node, Limits(budget_nano_usd=9), START_MS)
    denial = await _deny(store, _wish("h", 20, least=10))
    assert (denial.reason, denial.node) == (DenialReason.BUDGET, node)
    assert denial.principal is not None and denial.principal.organisation_id == "acme"
    for name in (TEAM, ORGANISATION):
        assert (await _node(store, name)).held_nano_usd == 0


async def test_waiting_is_advised_only_where_it_helps(store: QuotaStore) -> None:
    await _add_key(store)
    await store.set_limits(TEAM, Limits(budget_nano_usd=9), START_MS)
    assert (await _deny(store, _wish("never", 10))).retry_after_ms == 0
    await store.set_limits(TEAM, Limits(budget_nano_usd=10), START_MS)
    await _grant(store, _wish("a", 10))
    assert 0 < (await _deny(store, _wish("held", 10))).retry_after_ms <= 1000
    await _settle(store, "a", 10)
    assert (await _deny(store, _wish("spent", 10))).retry_after_ms == 0
    await store.set_limits(TEAM, Limits(budget_nano_usd=10, period=Period.DAY), START_MS)
    assert (await _deny(store, _wish("today", 10))).retry_after_ms == DAY_MS


async def test_a_repeated_reserve_gets_the_first_answer_and_holds_nothing_more(
    store: QuotaStore,
) -> None:
    await _add_key(store, limits=Limits(budget_nano_usd=15))
    first = await _reserve(store, _wish("h", 10))
    assert await _reserve(store, _wish("h", 10), START_MS + 5) == first
    assert (await _node(store, "key:key_1")).held_nano_usd == 10
    denial = await _deny(store, _wish("other", 10))
    await _settle(store, "h", 0)
    assert await _reserve(store, _wish("other", 10)) == denial
    assert await _reserve(store, _wish("h", 10)) == first
    assert (await _node(store, "key:key_1")).held_nano_usd == 0


async def test_the_same_hold_twice_in_a_batch_is_one_hold(store: QuotaStore) -> None:
    await _add_key(store)
    first, second = await store.reserve([_wish("h"), _wish("h")], START_MS)
    assert first == second
    assert (await _node(store, TEAM)).held_nano_usd == 10


async def test_another_keys_hold_id_is_of_no_use(store: QuotaStore) -> None:
    await _add_key(store)
    other = digest_secret("fk-" + "b" * 32)
    await _add_key(store, _key_wish("key_2"), other)
    await _grant(store, _wish("h"))
    assert (await _deny(store, _wish("h", digest=other))).reason is DenialReason.KEY_UNKNOWN


async def test_a_settlement_is_idempotent_and_another_amount_is_a_conflict(
    store: QuotaStore,
) -> None:
    await _add_key(store)
    await _grant(store, _wish("h", 10))
    assert (await _settle(store, "h", 11)).outcome is SettleOutcome.OVER_HOLD
    assert (await _settle(store, "h", 4)).outcome is SettleOutcome.SETTLED
    assert (await _settle(store, "h", 4)).outcome is SettleOutcome.DUPLICATE
    assert (await _settle(store, "h", 5)).outcome is SettleOutcome.CONFLICT
    assert (await _settle(store, "nobody", 5)).outcome is SettleOutcome.UNKNOWN
    assert spent(await _node(store, TEAM)) == 4


async def test_zero_gives_everything_back(store: QuotaStore) -> None:
    await _add_key(store, limits=Limits(budget_nano_usd=10))
    await _grant(store, _wish("h", 10))
    assert (await _settle(store, "h", 0)).outcome is SettleOutcome.SETTLED
    assert await _grant(store, _wish("next", 10)) == 10


async def test_an_expired_hold_frees_its_money_at_the_next_reserve(store: QuotaStore) -> None:
    await _add_key(store, limits=Limits(budget_nano_usd=10))
    await _grant(store, _wish("h", 10, ttl_ms=1000))
    await _deny(store, _wish("early", 10), START_MS + 999)
    assert await _grant(store, _wish("next", 10), START_MS + 1000) == 10


async def test_the_sweep_frees_expired_holds_once(store: QuotaStore) -> None:
    await _add_key(store)
    await _grant(store, _wish("h", 10, ttl_ms=1000))
    assert await store.expire(START_MS + 999) == 0
    assert await store.expire(START_MS + 1000) == 1
    assert await store.expire(START_MS + 2000) == 0
    assert (await _node(store, ORGANISATION)).held_nano_usd == 0


async def test_a_late_settlement_takes_the_money_again_if_it_is_there(
    store: QuotaStore,
) -> None:
    await _add_key(store, limits=Limits(budget_nano_usd=10))
    await _grant(store, _wish("h", 10, ttl_ms=1000))
    await store.expire(START_MS + 1000)
    assert await _settle(store, "h", 7, now_ms=START_MS + 5000) == Settled(
        SettleOutcome.SETTLED
    )
    assert (await _settle(store, "h", 7)).outcome is SettleOutcome.DUPLICATE
    node = await _node(store, "key:key_1")
    assert (spent(node), remaining(node)) == (7, 3)


async def test_a_late_settlement_never_overshoots_and_hides_nothing(store: QuotaStore) -> None:
    await _add_key(store)
    await store.set_limits(CENTRE, Limits(budget_nano_usd=10), START_MS)
    await _grant(store, _wish("late", 10, ttl_ms=1000))
    await _grant(store, _wish("next", 6), START_MS + 1000)
    assert await _settle(store, "late", 9, now_ms=START_MS + 2000) == Settled(
        SettleOutcome.SETTLED, unfunded_nano_usd=5
    )
    for name in ("key:key_1", TEAM, CENTRE, ORGANISATION):
        node = await _node(store, name)
        assert (spent(node), node.held_nano_usd, node.unfunded_nano_usd) == (4, 6, 5)
    assert (await _settle(store, "late", 9)).outcome is SettleOutcome.DUPLICATE
    assert (await _settle(store, "late", 4)).outcome is SettleOutcome.CONFLICT


async def test_a_settlement_before_the_sweep_is_in_time(store: QuotaStore) -> None:
    await _add_key(store, limits=Limits(budget_nano_usd=10))
    await _grant(store, _wish("h", 10, ttl_ms=1000))
    assert await _settle(store, "h", 10, now_ms=START_MS + 9000) == Settled(
        SettleOutcome.SETTLED
    )


@pytest.mark.parametrize(
    ("period", "turn_ms"), [(Period.DAY, DAY_MS), (Period.MONTH, 31 * DAY_MS)]
)
async def test_a_new_period_has_its_whole_budget_less_what_is_still_held(
    store: QuotaStore, period: Period, turn_ms: int
) -> None:
    await _add_key(store, limits=Limits(budget_nano_usd=10, period=period))
    await _grant(store, _wish("spent", 6))
    await _settle(store, "spent", 6)
    last_ms = START_MS + turn_ms - 1
    await _grant(store, _wish("over midnight", 4), last_ms)
    await _deny(store, _wish("poor", 1), last_ms)
    assert await _grant(store, _wish("new", 9, least=1), last_ms + 1) == 6
    await _settle(store, "over midnight", 4, now_ms=last_ms + 2)
    node = await _node(store, "key:key_1", last_ms + 2)
    assert (spent(node), node.held_nano_usd, node.total_spent_nano_usd) == (4, 6, 10)


async def test_a_changed_period_counts_what_that_period_really_spent(store: QuotaStore) -> None:
    await _add_key(store, limits=Limits(budget_nano_usd=100, period=Period.DAY))
    for day in range(3):
        now_ms = START_MS + day * DAY_MS
        await _grant(store, _wish(f"h{day}", 5), now_ms)
        await _settle(store, f"h{day}", 5, now_ms=now_ms)
    now_ms = START_MS + 2 * DAY_MS
    assert spent(await _node(store, "key:key_1", now_ms)) == 5
    month = Limits(budget_nano_usd=100, period=Period.MONTH)
    assert spent(await store.set_limits("key:key_1", month, now_ms)) == 15


async def test_a_clock_that_goes_back_gives_no_new_budget(store: QuotaStore) -> None:
    await _add_key(store, limits=Limits(budget_nano_usd=10, period=Period.DAY))
    await _grant(store, _wish("h", 10))
    await _settle(store, "h", 10)
    await _deny(store, _wish("yesterday", 1), START_MS - DAY_MS)


async def test_a_budget_lowered_below_what_is_used_stops_further_holds_only(
    store: QuotaStore,
) -> None:
    await _add_key(store, limits=Limits(budget_nano_usd=10))
    await _grant(store, _wish("h", 8))
    node = await store.set_limits("key:key_1", Limits(budget_nano_usd=5), START_MS)
    assert remaining(node) == 0
    await _deny(store, _wish("more", 1))
    assert (await _settle(store, "h", 8)).outcome is SettleOutcome.SETTLED
    assert await _grant(store, _wish("free of charge", 0)) == 0


async def test_requests_per_minute_hold_in_every_window_and_say_when_to_return(
    store: QuotaStore,
) -> None:
    await _add_key(store)
    await store.set_limits(TEAM, Limits(requests_per_minute=2), START_MS)
    await _grant(store, _wish("a"), START_MS)
    await _grant(store, _wish("b"), START_MS + 30_000)
    denial = await _deny(store, _wish("c"), START_MS + 40_000)
    assert (denial.reason, denial.node) == (DenialReason.REQUEST_RATE, TEAM)
    again_ms = START_MS + 40_000 + denial.retry_after_ms
    await _deny(store, _wish("d"), again_ms - 1)
    await _grant(store, _wish("e"), again_ms)
    await _deny(store, _wish("f"), again_ms)


async def test_tokens_per_minute_are_corrected_by_what_was_used(store: QuotaStore) -> None:
    await _add_key(store, limits=Limits(tokens_per_minute=100))
    never = await _deny(store, _wish("never", tokens=101))
    assert (never.reason, never.retry_after_ms) == (DenialReason.TOKEN_RATE, 0)
    await _grant(store, _wish("a", tokens=90))
    assert (await _deny(store, _wish("b", tokens=20))).retry_after_ms > 0
    await _settle(store, "a", 10, tokens=30)
    await _grant(store, _wish("c", tokens=70))
    await _deny(store, _wish("d", tokens=1))


async def test_a_hold_given_back_unused_does_not_count_as_a_request(store: QuotaStore) -> None:
    await _add_key(store, limits=Limits(requests_per_minute=1))
    await _grant(store, _wish("a"))
    await _settle(store, "a", 0, tokens=0)
    await _grant(store, _wish("b"))
    await _settle(store, "b", 0, tokens=5)
    await _deny(store, _wish("c"))


async def test_a_denied_request_uses_up_nothing(store: QuotaStore) -> None:
    await _add_key(store, limits=Limits(requests_per_minute=1, tokens_per_minute=10))
    await store.set_limits(ORGANISATION, Limits(budget_nano_usd=5), START_MS)
    await _deny(store, _wish("dear", 6, tokens=10))
    await _grant(store, _wish("cheap", 5, tokens=10))


async def test_keys_are_found_until_they_expire_or_are_revoked(store: QuotaStore) -> None:
    await _add_key(store, _key_wish(expire_ms=START_MS + 1000))
    found = await store.find_key(DIGEST, START_MS + 999)
    assert found is not None and found.key_id == "key_1"
    assert await store.find_key(DIGEST, START_MS + 1000) is None
    denial = await _deny(store, _wish("old"), START_MS + 1000)
    assert denial.reason is DenialReason.KEY_INACTIVE
    other = digest_secret("fk-" + "b" * 32)
    await _add_key(store, _key_wish("key_2"), other)
    revoked = await store.revoke_key("key_2", START_MS + 5)
    assert revoked.revoke_ms == START_MS + 5
    assert (await store.revoke_key("key_2", START_MS + 9)).revoke_ms == START_MS + 5
    assert await store.find_key(other, START_MS + 9) is None
    assert (await _deny(store, _wish("gone", digest=other))).reason is DenialReason.KEY_INACTIVE
    with pytest.raises(NotFound):
        await store.revoke_key("key_3", START_MS)


async def test_an_unknown_key_is_denied(store: QuotaStore) -> None:
    denial = await _deny(store, _wish("h", digest=b"x" * 32))
    assert (denial.reason, denial.principal) == (DenialReason.KEY_UNKNOWN, None)
    assert await store.find_key(b"x" * 32, START_MS) is None


async def test_the_same_secret_twice_is_the_first_key(store: QuotaStore) -> None:
    await _add_key(store)
    assert (await _add_key(store, _key_wish("key_9"))).key_id == "key_1"
    assert len(await store.list_keys("")) == 1


async def test_keys_are_listed_newest_first_by_organisation(store: QuotaStore) -> None:
    for n in range(3):
        wish = _key_wish(f"key_{n}")
        await store.add_key(wish, digest_secret(f"fk-{n}"), "fk-", NO_LIMITS, START_MS + n)
    assert [key.key_id for key in await store.list_keys("acme")] == ["key_2", "key_1", "key_0"]
    assert await store.list_keys("nobody") == []


async def test_nodes_are_listed_by_name_and_a_new_keys_budget_must_belong_to_a_key(
    store: QuotaStore,
) -> None:
    await _add_key(store)
    await store.set_limits("organisation:zeta", Limits(budget_nano_usd=1), START_MS)
    names = [node.name for node in await store.list_nodes(None, START_MS)]
    assert names == [CENTRE, "key:key_1", ORGANISATION, "organisation:zeta", TEAM]
    with pytest.raises(NotFound):
        await store.set_limits("key:key_7", NO_LIMITS, START_MS)
    assert await store.list_nodes(["team:no/such/team"], START_MS) == []


async def test_a_key_joins_a_budget_that_was_set_before_it(store: QuotaStore) -> None:
    await store.set_limits(ORGANISATION, Limits(budget_nano_usd=5), START_MS)
    await _add_key(store)
    await _deny(store, _wish("h", 6))


async def test_old_holds_are_forgotten_and_open_ones_are_not(store: QuotaStore) -> None:
    await _add_key(store)
    for name in ("settled", "expired", "open"):
        await _grant(store, _wish(name, ttl_ms=1000 if name == "expired" else 60_000))
    await _settle(store, "settled", 1)
    await store.expire(START_MS + 1000)
    assert await store.prune(START_MS + 1, START_MS) == 1
    assert (await _settle(store, "settled", 1)).outcome is SettleOutcome.UNKNOWN
    assert (await _settle(store, "expired", 1)).outcome is SettleOutcome.SETTLED
    assert (await _settle(store, "open", 1)).outcome is SettleOutcome.SETTLED


async def test_parallel_reserves_never_share_the_last_unit(store: QuotaStore) -> None:
    await _add_key(store)
    await store.set_limits(ORGANISATION, Limits(budget_nano_usd=7), START_MS)
    answers = await asyncio.gather(*(_reserve(store, _wish(f"h{n}", 1)) for n in range(200)))
    assert sum(isinstance(answer, Granted) for answer in answers) == 7
