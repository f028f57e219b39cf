"""The words for wishes: every value of the contract has one, and the gateway knows the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from farthing.api.common.v1 import common_pb2
from farthing.api.router.v1 import router_pb2
from farthing.clients.wishes import CACHE_MODES, PRIORITIES, PRIVACY_CLASSES
from farthing.gateway.core import wishes as gateway


@pytest.mark.parametrize(
    ("words", "values", "prefix", "gateway_words"),
    [
        (PRIVACY_CLASSES, common_pb2.PrivacyClass, "PRIVACY_CLASS_", gateway.PRIVACY),
        (PRIORITIES, common_pb2.Priority, "PRIORITY_", gateway.PRIORITY),
        (CACHE_MODES, router_pb2.CacheMode, "CACHE_MODE_", gateway.CACHE),
    ],
)
def test_each_value_has_the_word_of_its_name(
    words: Mapping[str, int], values: Any, prefix: str, gateway_words: Mapping[str, str]
) -> None:
    named = {name.removeprefix(prefix).lower(): number for name, number in values.items()}
    named.pop("unspecified")
    assert words == named
    assert set(gateway_words) == set(words)
