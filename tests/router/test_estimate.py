"""Estimates grow with the work, and a hold covers what it buys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.support.routing_worlds import (
    HERE,
    easy_requests,
    lively_worlds,
    property_test,
)

from farthing.clients.instances.view import InstanceView, ModelView
from farthing.pricing import PriceBook, price_usage, sum_lines
from farthing.router.core.candidate import Candidate
from farthing.router.core.decide import World, assess
from farthing.router.core.estimate import limits_within, quality_of
from farthing.router.core.request import RequestFeatures


def first(request: RequestFeatures, world: World) -> Candidate:
    """The first candidate of a lively world, which is priced and open."""
    return assess(request, world)[0]


_FIGURES = (
    "input_token_count",
    "estimated_nano_usd",
    "worst_case_nano_usd",
    "first_token_ms",
    "total_ms",
    "carbon_ng",
)


@property_test
@given(easy_requests, lively_worlds, st.integers(1, 10_000))
def test_a_longer_prompt_is_never_estimated_lower(
    request: RequestFeatures, world: World, more: int
) -> None:
    short = first(request, world)
    long = first(request._replace(input_bytes=request.input_bytes + more), world)
    for name in _FIGURES:
        assert getattr(short, name) <= getattr(long, name), name


@property_test
@given(easy_requests, lively_worlds, st.integers(1, 4096))
def test_a_longer_answer_is_never_estimated_lower(
    request: RequestFeatures, world: World, more: int
) -> None:
    short = first(request, world)
    long = first(request._replace(max_tokens=request.max_tokens + more), world)
    for name in _FIGURES:
        assert getattr(short, name) <= getattr(long, name), name


@property_test
@given(easy_requests, lively_worlds, st.integers(1, 100))
def test_a_busier_instance_is_never_estimated_faster(
    request: RequestFeatures, world: World, more: int
) -> None:
    idle = first(request, world)
    queued = replace(idle.instance, queued_count=idle.instance.queued_count + more)
    busier = world._replace(
        instances=tuple(queued if view is idle.instance else view for view in world.instances),
    )
    busy = first(request, busier)
    assert idle.first_token_ms <= busy.first_token_ms
    assert idle.total_ms <= busy.total_ms
    assert idle.estimated_nano_usd == busy.estimated_nano_usd


def test_quality_is_the_tasks_then_its_parents_then_overall_then_a_guess() -> None:
    known = {"math/hard": 0.3, "math": 0.6, "": 0.8}
    assert quality_of(known, "math/hard") == 0.3
    assert quality_of(known, "math/hard/geometry") == 0.3
    assert quality_of(known, "math/easy") == 0.6
    assert quality_of(known, "poetry") == 0.8
    assert quality_of(known, "") == 0.8
    assert quality_of({"math": 0.6}, "poetry") == 0.5


# -- what a hold buys ------------------------------------------------------------------------


def worst_price(candidate: Candidate, token_count: int, compute_us: int) -> int:
    """What it costs when every byte is a token and every token 64 bytes."""
    assert candidate.deployment is not None
    usage = candidate.worst_usage._replace(
        output_token_count=token_count,
        response_bytes=64 * token_count,
        compute_us=compute_us,
    )
    lines = price_usage(
        candidate.deployment,
        usage,
        uplink_nano_usd_per_gb=candidate.uplink_nano_usd_per_gb,
        downlink_nano_usd_per_gb=candidate.downlink_nano_usd_per_gb,
    )
    return sum_lines(lines)


@property_test
@given(easy_requests, lively_worlds, st.integers(0, 1100))
def test_what_a_hold_allows_never_costs_more_than_the_hold(
    request: RequestFeatures, world: World, permille: int
) -> None:
    candidate = first(request, world)
    hold = candidate.worst_case_nano_usd * permille // 1000
    limits = limits_within(candidate, hold)
    assert 1 <= limits.compute_us <= candidate.worst_usage.compute_us
    assert 1 <= limits.max_tokens <= request.max_tokens
    if worst_price(candidate, limits.max_tokens, limits.compute_us) > hold:
        # Not even one token at the speed measured: nothing could have been kept to.
        usage = candidate.estimated_usage
        token_us = -(-usage.decode_us // usage.output_token_count)
        least_us = min(usage.prefill_us + token_us, candidate.worst_usage.compute_us)
        assert limits.max_tokens == 1
        assert worst_price(candidate, 1, least_us) > hold


@property_test
@given(easy_requests, lively_worlds, st.integers(0, 1100), st.integers(0, 1100))
def test_a_greater_hold_never_buys_a_shorter_answer(
    request: RequestFeatures, world: World, permille: int, more: int
) -> None:
    candidate = first(request, world)
    worst = candidate.worst_case_nano_usd
    small = limits_within(candidate, worst * permille // 1000)
    great = limits_within(candidate, worst * (permille + more) // 1000)
    assert small.max_tokens <= great.max_tokens


@property_test
@given(easy_requests, lively_worlds)
def test_a_full_hold_buys_the_whole_answer(request: RequestFeatures, world: World) -> None:
    candidate = first(request, world)
    limits = limits_within(candidate, candidate.worst_case_nano_usd)
    assert limits.compute_us == candidate.worst_usage.compute_us
    assert limits.max_tokens == request.max_tokens
    assert (
        worst_price(candidate, limits.max_tokens, limits.compute_us)
        <= candidate.worst_case_nano_usd
    )


DEMO = {
    "version": "demo",
    "deployments": [{"compute": {"nano_usd_per_hour": 804_800_000}}],
    "links": [{"from": "cloud-a", "nano_usd_per_gb": 90_000_000}, {"nano_usd_per_gb": 0}],
}
LISTED = {
    "version": "listed",
    "deployments": [
        {
            "tokens": {
                "input_nano_usd_per_million": 150_000_000,
                "output_nano_usd_per_million": 600_000_000,
            }
        }
    ],
    "links": [{"nano_usd_per_gb": 0}],
}


def one_cloud(book: dict[str, Any]) -> World:
    instance = InstanceView("c", "cloud", "cloud-a", models=(ModelView("large"),))
    return World(HERE, (instance,), PriceBook.parse(book))


def test_a_hold_of_the_estimate_buys_about_the_answer_that_was_estimated() -> None:
    request = RequestFeatures(input_bytes=400, message_count=1, max_tokens=2000)
    candidate = first(request, one_cloud(DEMO))
    expected = candidate.estimated_usage
    limits = limits_within(candidate, candidate.estimated_nano_usd)
    assert 0.9 * expected.output_token_count <= limits.max_tokens
    assert 0.9 * expected.compute_us <= limits.compute_us <= expected.compute_us


def test_a_model_that_is_paid_by_the_token_is_held_to_tokens() -> None:
    request = RequestFeatures(input_bytes=1000, message_count=0, max_tokens=100_000)
    candidate = first(request, one_cloud(LISTED))
    # 1000 bytes are at most 1000 tokens: 150_000 nano-USD; each token of answer costs 600 more.
    assert limits_within(candidate, 150_000 + 600 * 50).max_tokens == 50
    assert limits_within(candidate, 150_000 + 600 * 50 - 1).max_tokens == 49
    assert limits_within(candidate, 1).max_tokens == 1
