"""Policies: documents are read or refused by name, and the built-in ones do as they are called."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from tests.support.routing_worlds import (
    decide,
    easy_requests,
    lively_worlds,
    property_test,
)

from farthing.clients.instances.view import InstanceState
from farthing.router.core.decide import World, assess
from farthing.router.core.policy import BUILT_IN, Policy, parse_policy
from farthing.router.core.request import RequestFeatures


def test_a_policy_document_sets_weights_and_leaves_the_rest_at_nothing() -> None:
    policy = parse_policy("night", {"latency_nano_usd_per_s": 5})
    assert policy == Policy("night", latency_nano_usd_per_s=5)


@pytest.mark.parametrize("bad", [-1, 1.5, "5", True, None])
def test_a_weight_that_is_no_amount_is_refused_by_name(bad: Any) -> None:
    with pytest.raises(ValueError, match="policies/night: wrong_answer_nano_usd"):
        parse_policy("night", {"wrong_answer_nano_usd": bad})


def test_an_unknown_weight_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="policies/night: unknown weight 'speed'"):
        parse_policy("night", {"speed": 1})


@property_test
@given(easy_requests, lively_worlds)
def test_the_built_in_policies_do_as_they_are_called(
    request: RequestFeatures, world: World
) -> None:
    ready = world._replace(
        instances=tuple(v for v in world.instances if v.state is InstanceState.READY)
    )
    cheapest = decide(request, ready, BUILT_IN["cheapest"]).chosen
    assume(cheapest is not None)
    assert cheapest is not None
    open_ones = [c for c in assess(request, ready) if c.rejection is None]
    assert cheapest.estimated_nano_usd == min(c.estimated_nano_usd for c in open_ones)
