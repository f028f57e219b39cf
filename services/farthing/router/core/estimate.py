"""How long and how much: tokens, time and money of a candidate before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import NamedTuple

from farthing.clients.instances.view import InstanceView, ModelView
from farthing.pricing import Deployment, Usage, price_total, price_usage, sum_lines
from farthing.pricing.landed import carbon_of, energy_of
from farthing.router.core.candidate import Candidate
from farthing.router.core.request import RequestFeatures

# Before an instance has measured itself. Low on purpose: a new instance is tried for its price, not for a guess.
_DEFAULT_SPEED = {"edge": (200.0, 20.0), "cloud": (1000.0, 40.0)}  # prefill, decode: tokens/s
_DEFAULT_BYTES_PER_TOKEN = 3.5
_TEMPLATE_TOKENS_PER_MESSAGE = 4
_MOST_BYTES_PER_TOKEN = 64
# The hold covers an engine this much slower than measured (neighbours, throttling); the engine stops at that limit.
_SLOWDOWN = 4
_LEAST_LIMIT_US = 200_000
_TYPICAL_OUTPUT_TOKENS = 64
_HOUR_US = 3_600_000_000


def fill_estimates(
    candidate: Candidate,
    deployment: Deployment,
    request: RequestFeatures,
    *,
    in_flight_count: int,
    typical_output_tokens: Mapping[str, float],
) -> None:
    """Fill in cost lines, worst case, latency, quality and carbon of a candidate whose links are set."""
    instance, model = candidate.instance, candidate.model
    prefill_speed, decode_speed = _speeds(instance, model)
    per_token = model.bytes_per_token or _DEFAULT_BYTES_PER_TOKEN
    template = _TEMPLATE_TOKENS_PER_MESSAGE * request.message_count
    input_tokens = ceil(request.input_bytes / per_token) + template
    output_tokens = min(
        request.max_tokens,
        max(1, round(typical_output_tokens.get(request.task, _TYPICAL_OUTPUT_TOKENS))),
    )
    prefill_us = round(input_tokens / prefill_speed * 1e6)
    waiting = max(instance.running_count + instance.queued_count, in_flight_count)
    decode_us = round(output_tokens * _token_us(model, decode_speed, waiting + 1, instance))
    usage = Usage(
        input_token_count=input_tokens,
        output_token_count=output_tokens,
        prefill_us=prefill_us,
        decode_us=decode_us,
        compute_us=prefill_us + decode_us,
        request_bytes=request.input_bytes,
        response_bytes=ceil(output_tokens * per_token),
    )
    links = (candidate.uplink_nano_usd_per_gb, candidate.downlink_nano_usd_per_gb)
    candidate.deployment = deployment
    candidate.input_token_count = input_tokens
    candidate.lines = price_usage(
        deployment, usage, uplink_nano_usd_per_gb=links[0], downlink_nano_usd_per_gb=links[1]
    )
    candidate.estimated_nano_usd = sum_lines(candidate.lines)
    candidate.estimated_usage = usage
    candidate.carbon_ng = carbon_of(deployment, energy_of(deployment, usage)[0])

    # A token is at least one byte, so bytes bound the prompt whatever the tokenizer.
    worst_input = request.input_bytes + template
    worst_compute_us = max(
        _LEAST_LIMIT_US,
        round(
            _SLOWDOWN * 1e6 * (worst_input / prefill_speed + request.max_tokens / decode_speed)
        ),
    )
    candidate.worst_usage = Usage(
        input_token_count=worst_input,
        output_token_count=request.max_tokens,
        compute_us=worst_compute_us,
        request_bytes=request.input_bytes,
        response_bytes=request.max_tokens * _MOST_BYTES_PER_TOKEN,
    )
    candidate.worst_case_nano_usd = max(
        candidate.estimated_nano_usd, _price(candidate, candidate.worst_usage)
    )

    # An answer takes as long as the steps that its tokens are in, and costs its share of them.
    answer_us = round(output_tokens * (model.token_interval_us or 1e6 / decode_speed))
    ahead = max(0, waiting + 1 - instance.capacity_count)
    queue_us = ahead * (prefill_us + answer_us) // instance.capacity_count
    candidate.first_token_ms = ceil((instance.rtt_us + queue_us + prefill_us) / 1000)
    candidate.total_ms = candidate.first_token_ms + ceil(answer_us / 1000)
    candidate.quality_ratio = quality_of(model.qualities, request.task)


def quality_of(qualities: Mapping[str, float], task: str) -> float:
    """Probability of an acceptable answer: the task's own figure, its parent's ("math" for "math/hard"), the overall.

    A model that nobody measured gets 0.5: neither trusted nor shut out.
    """
    while task:
        if task in qualities:
            return qualities[task]
        task = task.rpartition("/")[0]
    return qualities.get("", 0.5)


class EngineLimits(NamedTuple):
    """Where an engine has to stop: device time in microseconds, tokens of answer. Both at least 1."""

    compute_us: int
    max_tokens: int


def limits_within(candidate: Candidate, hold_nano_usd: int) -> EngineLimits:
    """What the hold pays for, at most the worst case.

    As many tokens as it covers at the speed measured, their bytes at the worst; the rest buys time, energy included.
    A hold below the price of one token cannot be kept to: the answer then stops after the first step.
    """
    worst = candidate.worst_usage
    if hold_nano_usd >= candidate.worst_case_nano_usd:
        return EngineLimits(worst.compute_us, worst.output_token_count)
    known = candidate.estimated_usage
    us_per_token = known.decode_us / known.output_token_count

    def use_of(token_count: int, compute_us: int) -> Usage:
        return worst._replace(
            output_token_count=token_count,
            response_bytes=token_count * _MOST_BYTES_PER_TOKEN,
            compute_us=min(compute_us, worst.compute_us),
        )

    def expected_us(token_count: int) -> int:
        return known.prefill_us + ceil(token_count * us_per_token)

    least, most = 1, worst.output_token_count
    while least < most:
        middle = (least + most + 1) // 2
        if _price(candidate, use_of(middle, expected_us(middle))) <= hold_nano_usd:
            least = middle
        else:
            most = middle - 1
    hour_nano_usd = _price(candidate, Usage(compute_us=_HOUR_US))
    if hour_nano_usd == 0:
        return EngineLimits(worst.compute_us, least)
    left = (
        hold_nano_usd - _price(candidate, use_of(least, 0)) - 2
    )  # two lines may each round up by one
    compute_us = max(left, 0) * _HOUR_US // hour_nano_usd
    if _price(candidate, use_of(least, expected_us(least))) <= hold_nano_usd:
        compute_us = max(compute_us, expected_us(least))
    return EngineLimits(max(1, min(worst.compute_us, compute_us)), least)


def _price(candidate: Candidate, usage: Usage) -> int:
    assert candidate.deployment is not None
    return price_total(
        candidate.deployment,
        usage,
        uplink_nano_usd_per_gb=candidate.uplink_nano_usd_per_gb,
        downlink_nano_usd_per_gb=candidate.downlink_nano_usd_per_gb,
    )


def _token_us(
    model: ModelView, decode_speed: float, row_count: int, instance: InstanceView
) -> float:
    """Device time of a generated token: alone it takes the whole step, in company a share of what each step takes."""
    alone_us = 1e6 / decode_speed
    rows = min(row_count, instance.capacity_count)
    return max(0.0, alone_us - model.step_us) + min(model.step_us, alone_us) / rows


def _speeds(instance: InstanceView, model: ModelView) -> tuple[float, float]:
    prefill, decode = _DEFAULT_SPEED.get(instance.tier, _DEFAULT_SPEED["cloud"])
    return model.prefill_tokens_per_second or prefill, model.decode_tokens_per_second or decode
