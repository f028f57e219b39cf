from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from farthing.inference.core.metering import Meter, Speed
from farthing.inference.engine import EngineUsage

durations = st.lists(st.integers(0, 50_000), max_size=30)


@given(durations, st.integers(1, 200_000), st.integers(0, 20_000))
def test_a_request_never_pays_for_more_than_its_limit(
    durations: list[int], limit_us: int, per_token_us: int
) -> None:
    meter = Meter(EngineUsage(), limit_us, Speed(per_token_us, per_token_us))
    for duration_us in durations:
        if not meter.may_decode():
            break
        meter.add_decode(duration_us)
    assert meter.usage().compute_us <= limit_us


@given(durations, durations)
def test_without_a_limit_every_microsecond_counts(
    prefills: list[int], decodes: list[int]
) -> None:
    meter = Meter(EngineUsage(), 0, Speed())
    for duration_us in prefills:
        assert meter.may_prefill(10)
        meter.add_prefill(10, duration_us)
    for duration_us in decodes:
        assert meter.may_decode()
        meter.add_decode(duration_us)
    usage = meter.usage()
    assert (usage.prefill_us, usage.decode_us) == (sum(prefills), sum(decodes))


def test_a_step_that_would_probably_pass_the_limit_is_not_begun() -> None:
    meter = Meter(EngineUsage(), 1_000, Speed(50.0, 900.0, 10.0, 100.0))
    assert meter.may_prefill(99)
    assert not meter.may_prefill(100)
    meter.add_prefill(40, 400)
    assert meter.may_decode()
    meter.add_decode(350)
    # 750 of 1000 used; the last token took 350.
    assert not meter.may_decode()


def test_speed_moves_a_fifth_of_the_way_to_the_newest() -> None:
    speed = Speed(prefill_us_per_token=10.0, decode_us_per_token=0.0)
    after = speed.after(prefill_us=400, prefill_count=20, decode_us=500, decode_count=10)
    assert after == Speed(12.0, 50.0, 20.0, 50.0)
    assert after.decode_tokens_per_second == 20_000
    assert after.after(prefill_us=0, prefill_count=0, decode_us=0, decode_count=0) == after


def test_output_counts_tokens_and_bytes() -> None:
    meter = Meter(EngineUsage(input_token_count=3), 0, Speed())
    meter.add_output(2, "€")
    meter.add_output(1, "x")
    usage = meter.usage()
    assert (usage.output_token_count, usage.response_bytes) == (3, 4)
