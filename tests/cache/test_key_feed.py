"""Watchers of stored keys: told of each, in company, and cut off rather than told half."""

from __future__ import annotations

import asyncio

import pytest
from tests.cache.conftest import key

from farthing.cache.key_feed import MESSAGE_BYTES, FeedOptions, KeyFeed, join_prefixes
from farthing.kit.errors import ResourceExhausted, Unavailable

SLOW = FeedOptions(linger_s=0.0, keep_alive_s=60.0)
KEYS = [key("acme", number) for number in range(3)]


async def test_keys_stored_together_come_together() -> None:
    feed = KeyFeed(SLOW)
    async with feed.watch() as additions:
        feed.publish(KEYS[:2])
        feed.publish(KEYS[2:])
        assert await anext(additions) == join_prefixes(KEYS)
        feed.publish(KEYS[:1])
        assert await anext(additions) == join_prefixes(KEYS[:1])


async def test_every_watcher_is_told_from_its_beginning_on() -> None:
    feed = KeyFeed(SLOW)
    feed.publish(KEYS[:1])
    async with feed.watch() as early:
        feed.publish(KEYS[1:2])
        async with feed.watch() as late:
            feed.publish(KEYS[2:])
            assert await anext(early) == join_prefixes(KEYS[1:])
            assert await anext(late) == join_prefixes(KEYS[2:])


async def test_with_nothing_to_tell_there_is_a_sign_of_life() -> None:
    async with KeyFeed(FeedOptions(keep_alive_s=0.01)).watch() as additions:
        assert await anext(additions) == b""
        assert await anext(additions) == b""


async def test_many_keys_come_in_messages_of_bounded_size() -> None:
    feed = KeyFeed(SLOW)
    keys = [key("acme", number) for number in range(MESSAGE_BYTES // 8 + 1)]
    async with feed.watch() as additions:
        feed.publish(keys)
        first, second = await anext(additions), await anext(additions)
    assert (len(first), len(second)) == (MESSAGE_BYTES, 8)
    assert first + second == join_prefixes(keys)


async def test_a_watcher_that_is_too_slow_is_cut_off_and_the_others_are_not() -> None:
    feed = KeyFeed(FeedOptions(linger_s=0.0, keep_alive_s=60.0, waiting_limit_bytes=16))
    async with feed.watch() as slow, feed.watch() as quick:
        feed.publish(KEYS[:2])
        assert await anext(quick) == join_prefixes(KEYS[:2])
        feed.publish(KEYS[2:])
        assert await anext(quick) == join_prefixes(KEYS[2:])
        with pytest.raises(ResourceExhausted) as caught:
            await anext(slow)
    assert caught.value.reason == "WATCHER_TOO_SLOW"


async def test_watchers_beyond_the_limit_are_refused_until_one_leaves() -> None:
    feed = KeyFeed(FeedOptions(watcher_limit_count=1))
    async with feed.watch():
        with pytest.raises(ResourceExhausted) as caught:
            async with feed.watch():
                pass
    assert caught.value.reason == "TOO_MANY_WATCHERS"
    async with feed.watch():
        pass


async def test_closing_ends_watches_and_refuses_new_ones() -> None:
    feed = KeyFeed(SLOW)
    async with feed.watch() as additions:
        waiting = asyncio.ensure_future(anext(additions, None))
        await asyncio.sleep(0)
        feed.close()
        assert await asyncio.wait_for(waiting, 10) is None
    with pytest.raises(Unavailable):
        async with feed.watch():
            pass
