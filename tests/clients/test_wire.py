"""Joining encoded messages gives what encoding the joined message would give."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from farthing.api.cache.v1 import cache_pb2
from farthing.clients.wire import nested_field, repeat_field_one

payload_sizes = st.integers(0, 3) | st.integers(120, 135) | st.integers(16_380, 16_390)


@given(st.lists(payload_sizes, max_size=4))
def test_repeated_messages_are_what_one_message_with_all_of_them_is(sizes: list[int]) -> None:
    whole = cache_pb2.BatchStoreRequest(
        stores=[cache_pb2.Store(request_hash=b"x" * size) for size in sizes]
    )
    parts = [store.SerializeToString() for store in whole.stores]
    assert repeat_field_one(parts) == whole.SerializeToString()


@given(payload_sizes)
def test_an_appended_field_is_part_of_the_message(size: int) -> None:
    answer = cache_pb2.CachedAnswer(text="x" * size)
    named = cache_pb2.Store(tenant_id="acme", ttl_ms=7)
    encoded = named.SerializeToString() + nested_field(
        cache_pb2.Store.ANSWER_FIELD_NUMBER, answer.SerializeToString()
    )
    named.answer.CopyFrom(answer)
    assert cache_pb2.Store.FromString(encoded) == named
