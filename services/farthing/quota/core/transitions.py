"""Every change quota can make: reserve, settle, expire, set limits, make and revoke keys."""

from __future__ import annotations

from dataclasses import replace

from farthing.kit.errors import NotFound
from farthing.kit.money import NanoUsd, format_usd
from farthing.quota.core.books import Changes, View, correct_rates
from farthing.quota.core.holds import (
    Denial,
    DenialReason,
    End,
    Granted,
    Hold,
    HoldState,
    Settled,
    SettleOutcome,
    Wish,
)
from farthing.quota.core.keys import ApiKey
from farthing.quota.core.nodes import (
    Limits,
    Node,
    period_end_ms,
    remaining,
    roll,
    spend,
    spent,
)
from farthing.quota.core.rates import add_to_window, wait_ms

# How soon to try again when the money is there but held: holds end at any moment.
_HELD_RETRY_MS = 1_000


def reserve(books: Changes, wish: Wish, key: ApiKey | None, now_ms: int) -> Granted | Denial:
    """Hold money and rate on every node of the key's chain, or on none.

    The grant is the least of the wish and what each node has left. A repeat gets the first answer.
    Expire what is due first.
    """
    if key is None:
        return Denial(
            DenialReason.KEY_UNKNOWN,
            "",
            "no such API key; `farthing keys create` makes one",
        )
    first = books.hold(wish.hold_id)
    if first is not None:
        if first.key_id != key.key_id:
            return Denial(
                DenialReason.KEY_UNKNOWN,
                "",
                "this hold id belongs to another key; make a new one",
            )
        return Granted(first.granted_nano_usd, key.principal, first.expire_ms)
    if not key.is_active(now_ms):
        what = "was revoked" if key.revoke_ms is not None else "has expired"
        return Denial(
            DenialReason.KEY_INACTIVE,
            "",
            f"API key {key.key_id} {what}; make a new one",
            principal=key.principal,
        )
    chain = [roll(_node(books, name), now_ms) for name in key.chain]
    denial = _check_rates(chain, wish, now_ms) or _check_budgets(chain, wish, now_ms)
    if denial is not None:
        return replace(denial, principal=key.principal)
    lefts = [left for node in chain if (left := remaining(node)) is not None]
    granted = min([wish.amount_nano_usd, *lefts])
    for node in chain:
        held = node._replace(held_nano_usd=node.held_nano_usd + granted)
        if node.limits.requests_per_minute is not None:
            held = held._replace(requests=add_to_window(node.requests, 1, now_ms))
        if node.limits.tokens_per_minute is not None:
            held = held._replace(tokens=add_to_window(node.tokens, wish.token_count, now_ms))
        books.put_node(held)
    expire_ms = now_ms + wish.ttl_ms
    books.put_hold(Hold(wish.hold_id, key.key_id, granted, wish.token_count, now_ms, expire_ms))
    return Granted(granted, key.principal, expire_ms)


def settle(books: Changes, end: End, now_ms: int) -> Settled:
    """End a hold at what was spent and free the rest.

    A settlement after the hold expired takes the money again as far as every node still has it; the
    rest is booked as unfunded, so that spent + held never exceeds a budget and nothing is hidden.
    """
    hold = books.hold(end.hold_id)
    if hold is None:
        return Settled(SettleOutcome.UNKNOWN)
    if hold.state is HoldState.SETTLED:
        before = hold.settled_nano_usd + hold.unfunded_nano_usd
        same = before == end.amount_nano_usd
        return Settled(SettleOutcome.DUPLICATE if same else SettleOutcome.CONFLICT)
    if end.amount_nano_usd > hold.granted_nano_usd:
        return Settled(SettleOutcome.OVER_HOLD)
    chain = [roll(_node(books, name), now_ms) for name in _key(books, hold.key_id).chain]
    funded, freed = end.amount_nano_usd, hold.granted_nano_usd
    if hold.state is HoldState.EXPIRED:
        lefts = [left for node in chain if (left := remaining(node)) is not None]
        funded, freed = min([end.amount_nano_usd, *lefts]), 0
    unfunded = end.amount_nano_usd - funded
    settled = hold._replace(
        state=HoldState.SETTLED,
        settled_nano_usd=funded,
        unfunded_nano_usd=unfunded,
        settled_token_count=end.token_count,
        finish_ms=now_ms,
    )
    books.put_hold(settled)
    for node in chain:
        after = spend(node, funded, freed_nano_usd=freed)
        if unfunded:
            after = after._replace(unfunded_nano_usd=node.unfunded_nano_usd + unfunded)
        books.put_node(correct_rates(after, settled))
    return Settled(SettleOutcome.SETTLED, unfunded)


def expire(books: Changes, hold: Hold, now_ms: int) -> None:
    """Free the money of a hold that nobody settled in time."""
    for name in _key(books, hold.key_id).chain:
        books.put_node(
            spend(roll(_node(books, name), now_ms), 0, freed_nano_usd=hold.granted_nano_usd)
        )
    books.put_hold(hold._replace(state=HoldState.EXPIRED, finish_ms=now_ms))


def set_limits(books: Changes, name: str, limits: Limits, now_ms: int) -> Node:
    """Give a node its limits, all of them anew. Makes the node if it is new; NotFound for a new key.

    A budget below what is spent and held takes nothing back; it only stops further holds.
    """
    node = books.node(name)
    if node is None and name.startswith("key:"):
        raise NotFound(
            f"there is no {name}; `farthing keys list` shows the keys",
            reason="NODE_UNKNOWN",
            metadata={"node": name},
        )
    changed = roll(node or Node(name, now_ms), now_ms)._replace(limits=limits)
    # A limit counts from when it is set; without one nothing is counted.
    if limits.requests_per_minute is None:
        changed = changed._replace(requests=())
    if limits.tokens_per_minute is None:
        changed = changed._replace(tokens=())
    books.put_node(changed)
    return changed


def add_key(books: Changes, key: ApiKey, limits: Limits) -> None:
    """Add a key and those nodes of its chain that are new; the key's own node gets `limits`."""
    books.put_key(key)
    own, *above = key.chain
    books.put_node(Node(own, key.create_ms, limits))
    for name in above:
        if books.node(name) is None:
            books.put_node(Node(name, key.create_ms))


def revoke_key(books: Changes, key_id: str, now_ms: int) -> ApiKey:
    """Revoke a key from now on; the time of the first revocation stays. NotFound."""
    key = books.key(key_id)
    if key is None:
        raise NotFound(
            f"there is no key {key_id}; `farthing keys list` shows the keys",
            reason="KEY_UNKNOWN",
            metadata={"key_id": key_id},
        )
    if key.revoke_ms is None:
        key = replace(key, revoke_ms=now_ms)
        books.put_key(key)
    return key


def _check_rates(chain: list[Node], wish: Wish, now_ms: int) -> Denial | None:
    worst: Denial | None = None
    for node in chain:
        for limit, window, count, reason, what in (
            (
                node.limits.requests_per_minute,
                node.requests,
                1,
                DenialReason.REQUEST_RATE,
                "requests",
            ),
            (
                node.limits.tokens_per_minute,
                node.tokens,
                wish.token_count,
                DenialReason.TOKEN_RATE,
                "tokens",
            ),
        ):
            if limit is None or not (wait := wait_ms(window, count, limit, now_ms)):
                continue
            if wait < 0:
                return Denial(
                    reason,
                    node.name,
                    f"{count} {what} are more than {node.name} may use in a minute ({limit})",
                )
            if worst is None or wait > worst.retry_after_ms:
                message = (
                    f"{node.name} is at its {limit} {what} per minute; try again in {wait} ms"
                )
                worst = Denial(reason, node.name, message, wait)
    return worst


def _check_budgets(chain: list[Node], wish: Wish, now_ms: int) -> Denial | None:
    poorest, least = None, wish.min_amount_nano_usd
    for node in chain:
        left = remaining(node)
        if left is not None and left < least:
            poorest, least = node, left
    if poorest is None:
        return None
    budget = poorest.limits.budget_nano_usd or 0
    used = spent(poorest)
    wait, advice = 0, "raise its budget"
    if budget - used >= wish.min_amount_nano_usd:
        wait, advice = _HELD_RETRY_MS, "try again when running requests have ended"
    elif budget >= wish.min_amount_nano_usd and (end_ms := period_end_ms(poorest)) is not None:
        wait, advice = end_ms - now_ms, "wait for its next period or raise its budget"
    return Denial(
        DenialReason.BUDGET,
        poorest.name,
        f"{poorest.name} has {_usd(least)} left of {_usd(budget)} ({_usd(used)} spent, "
        f"{_usd(poorest.held_nano_usd)} held) and this needs {_usd(wish.min_amount_nano_usd)}; "
        f"{advice}",
        wait,
    )


def _usd(amount_nano_usd: int) -> str:
    return format_usd(NanoUsd(amount_nano_usd))


def _node(books: View, name: str) -> Node:
    node = books.node(name)
    assert node is not None, f"{name} has a key but no node"
    return node


def _key(books: View, key_id: str) -> ApiKey:
    key = books.key(key_id)
    assert key is not None, f"{key_id} has a hold but is no key"
    return key
