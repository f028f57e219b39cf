"""Landed cost: every line exact, rounded once, never negative, never cheaper for more."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from farthing.kit.money import NanoUsd
from farthing.pricing import (
    CostKind,
    CostLine,
    CostUnit,
    Deployment,
    PriceBook,
    Usage,
    cap_lines,
    price_cache_hit,
    price_total,
    price_usage,
    sum_lines,
)
from farthing.pricing.book import TokenPrice
from farthing.pricing.landed import carbon_of, energy_of
from farthing.pricing.lines import merge_lines
from farthing.pricing.wire import decode_line, decode_usage, encode_line, encode_usage

_HOUR_US = 3_600_000_000
_KWH_UJ = 3_600_000_000_000

amounts = st.integers(0, 10**12)
token_prices = st.builds(
    lambda full, out, share: TokenPrice(full, out, full * share // 100),
    amounts,
    amounts,
    st.integers(0, 100),
)
deployments = st.builds(
    Deployment,
    tier=st.just("edge"),
    region=st.just("*"),
    model=st.just("*"),
    compute_nano_usd_per_hour=amounts,
    utilisation_percent=st.integers(1, 100),
    power_mw=st.integers(0, 10**7),
    energy_nano_usd_per_kwh=st.integers(0, 10**10),
    carbon_mg_per_kwh=st.integers(0, 10**6),
    tokens=st.none() | token_prices,
)
counts = st.integers(0, 10**7)
usages = st.builds(
    lambda cached, **values: Usage(
        cached_input_token_count=min(cached, values["input_token_count"]), **values
    ),
    cached=counts,
    input_token_count=counts,
    output_token_count=counts,
    compute_us=st.integers(0, 10**11),
    request_bytes=counts,
    response_bytes=counts,
    energy_uj=st.just(0) | st.integers(1, 10**14),
    energy_estimated=st.booleans(),
)
links = st.just(0) | st.integers(1, 10**10)


def price(
    deployment: Deployment, usage: Usage, up: int = 0, down: int = 0
) -> tuple[CostLine, ...]:
    return price_usage(
        deployment, usage, uplink_nano_usd_per_gb=up, downlink_nano_usd_per_gb=down
    )


def exact_lines(
    deployment: Deployment, usage: Usage, up: int, down: int
) -> dict[CostKind, Fraction]:
    """The same prices as fractions, written out from what the price book promises."""
    exact: dict[CostKind, Fraction] = {}
    if deployment.tokens is not None:
        fresh = usage.input_token_count - usage.cached_input_token_count
        exact[CostKind.TOKENS] = Fraction(
            fresh * deployment.tokens.input_nano_usd_per_million
            + usage.cached_input_token_count
            * deployment.tokens.cached_input_nano_usd_per_million
            + usage.output_token_count * deployment.tokens.output_nano_usd_per_million,
            10**6,
        )
    if deployment.compute_nano_usd_per_hour:
        hourly = Fraction(
            deployment.compute_nano_usd_per_hour * 100, deployment.utilisation_percent
        )
        exact[CostKind.COMPUTE] = hourly * usage.compute_us / _HOUR_US
    energy_uj, _ = energy_of(deployment, usage)
    if energy_uj and deployment.energy_nano_usd_per_kwh:
        exact[CostKind.ENERGY] = Fraction(
            energy_uj * deployment.energy_nano_usd_per_kwh, _KWH_UJ
        )
    if up or down:
        exact[CostKind.EGRESS] = Fraction(
            usage.request_bytes * up + usage.response_bytes * down, 10**9
        )
    return exact


@given(deployments, usages, links, links)
@example(
    Deployment("edge", "*", "*", compute_nano_usd_per_hour=10**6, utilisation_percent=3),
    Usage(compute_us=100 * _HOUR_US),
    0,
    0,
)
def test_each_line_is_its_exact_price_rounded_up_once(
    deployment: Deployment, usage: Usage, up: int, down: int
) -> None:
    lines = price(deployment, usage, up, down)
    exact = exact_lines(deployment, usage, up, down)
    assert {line.kind for line in lines} == exact.keys()
    assert len(lines) == len(exact)
    for line in lines:
        assert line.amount_nano_usd - 1 < exact[line.kind] <= line.amount_nano_usd
        assert line.amount_nano_usd >= 0
        assert line.quantity >= 0
    assert sum_lines(lines) == sum(line.amount_nano_usd for line in lines)


@given(deployments, usages, links, links)
def test_a_total_is_the_sum_of_its_lines(
    deployment: Deployment, usage: Usage, up: int, down: int
) -> None:
    total = price_total(
        deployment, usage, uplink_nano_usd_per_gb=up, downlink_nano_usd_per_gb=down
    )
    assert total == sum_lines(price(deployment, usage, up, down))


_MORE = [
    name
    for name in Usage._fields
    if name not in ("energy_uj", "energy_estimated", "cached_input_token_count")
]


@given(deployments, usages, links, links, st.sampled_from(_MORE), st.integers(1, 10**6))
def test_using_more_never_costs_less(
    deployment: Deployment, usage: Usage, up: int, down: int, name: str, more: int
) -> None:
    greater = usage._replace(**{name: getattr(usage, name) + more})
    assert sum_lines(price(deployment, usage, up, down)) <= sum_lines(
        price(deployment, greater, up, down)
    )


@given(deployments, usages, st.integers(1, 10**6))
def test_a_greater_energy_reading_never_costs_less(
    deployment: Deployment, usage: Usage, more: int
) -> None:
    assume(usage.energy_uj)
    greater = usage._replace(energy_uj=usage.energy_uj + more)
    assert sum_lines(price(deployment, usage)) <= sum_lines(price(deployment, greater))


@given(deployments, usages)
def test_a_cached_token_never_costs_more_than_a_fresh_one(
    deployment: Deployment, usage: Usage
) -> None:
    cold = usage._replace(cached_input_token_count=0)
    assert sum_lines(price(deployment, usage)) <= sum_lines(price(deployment, cold))


@given(deployments, usages, usages, links, links)
def test_two_attempts_cost_at_most_a_nano_a_line_more_than_one_of_both(
    deployment: Deployment, one: Usage, other: Usage, up: int, down: int
) -> None:
    assume(bool(one.energy_uj) == bool(other.energy_uj))
    apart = sum_lines(price(deployment, one, up, down)) + sum_lines(
        price(deployment, other, up, down)
    )
    together = price(deployment, one.plus(other), up, down)
    # Estimated energy is rounded up to a whole µJ in each attempt, besides its price.
    uj_nano_usd = -(-deployment.energy_nano_usd_per_kwh // _KWH_UJ)
    assert (
        sum_lines(together) - uj_nano_usd
        <= apart
        <= (sum_lines(together) + len(together) + uj_nano_usd)
    )


def test_nothing_used_costs_nothing() -> None:
    everything = Deployment(
        "edge", "*", "*", 10**9, 50, 10**5, 10**9, 10**5, TokenPrice(10**9, 10**9, 10**9)
    )
    assert sum_lines(price(everything, Usage(), 10**9, 10**9)) == 0


def test_idle_time_is_paid_by_the_work() -> None:
    busy = Deployment("edge", "*", "*", compute_nano_usd_per_hour=30, utilisation_percent=100)
    (line,) = price(busy, Usage(compute_us=_HOUR_US))
    assert (line.amount_nano_usd, line.quantity, line.unit) == (30, _HOUR_US, CostUnit.US)
    (line,) = price(replace(busy, utilisation_percent=30), Usage(compute_us=_HOUR_US))
    assert line.amount_nano_usd == 100


def test_a_known_invoice() -> None:
    """gpt-4o-mini's list price of 2026: 0.15 and 0.60 USD per million tokens, cached input at half."""
    listed = Deployment(
        "cloud", "*", "*", tokens=TokenPrice(150_000_000, 600_000_000, 75_000_000)
    )
    usage = Usage(
        input_token_count=1000,
        cached_input_token_count=400,
        output_token_count=200,
        response_bytes=1_000_000,
    )
    tokens, egress = price(listed, usage, down=90_000_000)
    assert tokens == CostLine(CostKind.TOKENS, NanoUsd(240_000), 1200, CostUnit.TOKENS)
    assert egress == CostLine(CostKind.EGRESS, NanoUsd(90_000), 1_000_000, CostUnit.BYTES)


def test_only_bytes_on_a_priced_link_are_counted() -> None:
    free = Deployment("cloud", "*", "*")
    usage = Usage(request_bytes=1000, response_bytes=10)
    assert price(free, usage) == ()
    assert [line.quantity for line in price(free, usage, up=1)] == [1000]
    assert [line.quantity for line in price(free, usage, down=1)] == [10]
    assert [line.quantity for line in price(free, usage, up=1, down=1)] == [1010]


def test_energy_is_the_reading_where_there_is_one_and_else_an_estimate() -> None:
    deployment = Deployment(
        "edge", "*", "*", power_mw=25_000, energy_nano_usd_per_kwh=250_000_000
    )
    assert energy_of(deployment, Usage(compute_us=1_000_000)) == (25_000_000, True)
    read = Usage(compute_us=1_000_000, energy_uj=7)
    assert energy_of(deployment, read) == (7, False)
    assert energy_of(deployment, read._replace(energy_estimated=True)) == (7, True)
    assert energy_of(deployment, Usage(compute_us=1)) == (25, True)
    assert energy_of(replace(deployment, power_mw=1), Usage(compute_us=1)) == (1, True)
    (estimate,) = price(deployment, Usage(compute_us=3_600_000_000))
    # 25 W for an hour at 0.25 USD per kWh.
    assert estimate == CostLine(
        CostKind.ENERGY, NanoUsd(6_250_000), 90_000_000_000, CostUnit.UJ, estimated=True
    )


def test_carbon_follows_energy_at_the_grids_intensity() -> None:
    deployment = Deployment("edge", "*", "*", carbon_mg_per_kwh=366_972)
    assert carbon_of(deployment, _KWH_UJ) == 366_972 * 10**6  # milligrams to nanograms
    assert carbon_of(deployment, 0) == 0
    assert carbon_of(replace(deployment, carbon_mg_per_kwh=0), _KWH_UJ) == 0


@given(deployments, st.integers(0, 10**14))
def test_carbon_is_rounded_up_once(deployment: Deployment, energy_uj: int) -> None:
    exact = Fraction(energy_uj * deployment.carbon_mg_per_kwh * 10**6, _KWH_UJ)
    carbon_ng = carbon_of(deployment, energy_uj)
    assert carbon_ng - 1 < exact <= carbon_ng


def test_a_cache_hit_costs_one_lookup() -> None:
    book = PriceBook.parse({"version": "1", "cache": {"lookup_nano_usd": 50}})
    assert price_cache_hit(book) == (CostLine(CostKind.CACHE, NanoUsd(50), 1, CostUnit.COUNT),)


# -- lines -----------------------------------------------------------------------------------

lines_lists = st.lists(
    st.builds(
        CostLine,
        st.sampled_from(CostKind),
        st.integers(0, 10**12).map(NanoUsd),
        counts,
        st.sampled_from(CostUnit),
        st.booleans(),
    ),
    max_size=8,
)


@given(lines_lists, st.integers(-(10**12), 10**13))
def test_a_cap_keeps_every_nano_either_kept_or_cut(
    lines: list[CostLine], limit_nano_usd: int
) -> None:
    kept, cut = cap_lines(lines, limit_nano_usd)
    assert sum_lines(kept) + cut == sum_lines(lines)
    assert sum_lines(kept) <= max(0, limit_nano_usd)
    assert cut >= 0
    assert len(kept) == len(lines)
    for line, before in zip(kept, lines, strict=True):
        assert 0 <= line.amount_nano_usd <= before.amount_nano_usd
        assert line._replace(amount_nano_usd=before.amount_nano_usd) == before
    if cut:
        assert sum_lines(kept) == max(0, limit_nano_usd)
    else:
        assert list(kept) == lines


@given(lines_lists)
def test_merging_changes_neither_the_sum_nor_the_order(lines: list[CostLine]) -> None:
    merged = merge_lines(lines)
    assert sum_lines(merged) == sum_lines(lines)
    assert sum(line.quantity for line in merged) == sum(line.quantity for line in lines)
    assert [line.kind for line in merged] == list(dict.fromkeys(line.kind for line in lines))


@given(lines_lists)
def test_lines_cross_the_wire_unchanged(lines: list[CostLine]) -> None:
    assert [decode_line(encode_line(line)) for line in lines] == lines


@given(usages)
def test_usage_crosses_the_wire_unchanged(usage: Usage) -> None:
    assert decode_usage(encode_usage(usage)) == usage


def test_every_count_crosses_the_wire_by_its_own_name() -> None:
    *counts, _ = Usage._fields
    usage = Usage._make((*range(1, len(counts) + 1), True))
    message = encode_usage(usage)
    for name in Usage._fields:
        assert getattr(message, name) == getattr(usage, name)
    assert decode_usage(message) == usage


@pytest.mark.parametrize("flag", [True, False])
def test_a_sum_of_usage_is_an_estimate_if_a_part_is(flag: bool) -> None:
    total = Usage(input_token_count=1, energy_estimated=flag).plus(Usage(input_token_count=2))
    assert total == Usage(input_token_count=3, energy_estimated=flag)
