"""Landed cost: every line that one attempt causes, from device time to the last byte over a priced link."""

from __future__ import annotations

from farthing.kit.money import (
    NanoUsd,
    ceil_div,
    price_per_hour,
    price_per_kwh,
    price_per_million,
)
from farthing.pricing.book import Deployment, PriceBook, TokenPrice
from farthing.pricing.lines import CostKind, CostLine, CostUnit, Usage

_BYTES_PER_GB = 1_000_000_000


def price_usage(
    deployment: Deployment,
    usage: Usage,
    *,
    uplink_nano_usd_per_gb: int,
    downlink_nano_usd_per_gb: int,
) -> tuple[CostLine, ...]:
    """Price what an attempt used. Each line is rounded once, up; a deployment's free kinds give no line.

    Uplink carries the prompt to the instance, downlink the answer back. Energy is the instance's reading where there is
    one, else `power_mw` over the device time, marked as an estimate.
    """
    lines = []
    if deployment.tokens is not None:
        lines.append(
            CostLine(
                CostKind.TOKENS,
                _price_tokens(deployment.tokens, usage),
                usage.input_token_count + usage.output_token_count,
                CostUnit.TOKENS,
            )
        )
    if deployment.compute_nano_usd_per_hour:
        amount = _price_compute(deployment, usage)
        lines.append(CostLine(CostKind.COMPUTE, amount, usage.compute_us, CostUnit.US))
    energy_uj, estimated = energy_of(deployment, usage)
    if energy_uj and deployment.energy_nano_usd_per_kwh:
        amount = price_per_kwh(energy_uj, deployment.energy_nano_usd_per_kwh)
        lines.append(CostLine(CostKind.ENERGY, amount, energy_uj, CostUnit.UJ, estimated))
    if uplink_nano_usd_per_gb or downlink_nano_usd_per_gb:
        carried = (usage.request_bytes if uplink_nano_usd_per_gb else 0) + (
            usage.response_bytes if downlink_nano_usd_per_gb else 0
        )
        amount = _price_egress(usage, uplink_nano_usd_per_gb, downlink_nano_usd_per_gb)
        lines.append(CostLine(CostKind.EGRESS, amount, carried, CostUnit.BYTES))
    return tuple(lines)


def price_total(
    deployment: Deployment,
    usage: Usage,
    *,
    uplink_nano_usd_per_gb: int,
    downlink_nano_usd_per_gb: int,
) -> NanoUsd:
    """The sum of `price_usage`, without making the lines."""
    total = 0
    if deployment.tokens is not None:
        total += _price_tokens(deployment.tokens, usage)
    if deployment.compute_nano_usd_per_hour:
        total += _price_compute(deployment, usage)
    if deployment.energy_nano_usd_per_kwh:
        energy_uj, _ = energy_of(deployment, usage)
        total += price_per_kwh(energy_uj, deployment.energy_nano_usd_per_kwh)
    if uplink_nano_usd_per_gb or downlink_nano_usd_per_gb:
        total += _price_egress(usage, uplink_nano_usd_per_gb, downlink_nano_usd_per_gb)
    return NanoUsd(total)


def price_cache_hit(book: PriceBook) -> tuple[CostLine, ...]:
    """Price an answer from the cache: one lookup."""
    amount = NanoUsd(book.cache_lookup_nano_usd)
    return (CostLine(CostKind.CACHE, amount, 1, CostUnit.COUNT),)


def energy_of(deployment: Deployment, usage: Usage) -> tuple[int, bool]:
    """Energy of an attempt, microjoules, and whether it is an estimate. mW x µs = nJ; rounded up to µJ."""
    if usage.energy_uj:
        return usage.energy_uj, usage.energy_estimated
    return ceil_div(deployment.power_mw * usage.compute_us, 1000), True


def carbon_of(deployment: Deployment, energy_uj: int) -> int:
    """Operational carbon of an amount of energy, nanograms CO2e, at the deployment's grid intensity (mg per kWh)."""
    return ceil_div(energy_uj * deployment.carbon_mg_per_kwh * 1_000_000, 3_600_000_000_000)


def _price_tokens(price: TokenPrice, usage: Usage) -> NanoUsd:
    fresh = usage.input_token_count - usage.cached_input_token_count
    # One line: sum first, round once.
    millionths = (
        fresh * price.input_nano_usd_per_million
        + usage.cached_input_token_count * price.cached_input_nano_usd_per_million
        + usage.output_token_count * price.output_nano_usd_per_million
    )
    return price_per_million(millionths, 1)


def _price_compute(deployment: Deployment, usage: Usage) -> NanoUsd:
    return price_per_hour(
        usage.compute_us,
        deployment.compute_nano_usd_per_hour,
        utilisation_percent=deployment.utilisation_percent,
    )


def _price_egress(
    usage: Usage, uplink_nano_usd_per_gb: int, downlink_nano_usd_per_gb: int
) -> NanoUsd:
    priced = (
        usage.request_bytes * uplink_nano_usd_per_gb
        + usage.response_bytes * downlink_nano_usd_per_gb
    )
    return NanoUsd(ceil_div(priced, _BYTES_PER_GB))
