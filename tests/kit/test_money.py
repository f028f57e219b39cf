"""Money rounds once, up, in integers; people read and write it without losing a nano."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.kit.money import (
    NANO_PER_USD,
    ceil_div,
    format_usd,
    parse_usd,
    price_per_gb,
    price_per_hour,
    price_per_kwh,
    price_per_million,
)

Price = Callable[[int, int], int]
PRICES: list[tuple[Price, int]] = [
    (price_per_million, 10**6),
    (price_per_hour, 3_600_000_000),
    (price_per_gb, 10**9),
    (price_per_kwh, 3_600_000_000_000),
]
quantities = st.integers(0, 10**15)
rates = st.integers(0, 10**13)
priced_by = pytest.mark.parametrize(
    ("price", "per"), PRICES, ids=["million", "hour", "gb", "kwh"]
)


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**18))
def test_division_rounds_up(numerator: int, denominator: int) -> None:
    quotient = ceil_div(numerator, denominator)
    assert quotient - 1 < Fraction(numerator, denominator) <= quotient


@priced_by
@given(quantity=quantities, rate=rates)
def test_a_price_is_the_exact_amount_rounded_up_once(
    price: Price, per: int, quantity: int, rate: int
) -> None:
    amount = price(quantity, rate)
    assert type(amount) is int
    assert amount - 1 < Fraction(quantity * rate, per) <= amount


@priced_by
@given(quantity=quantities, more=quantities, rate=rates)
def test_splitting_a_quantity_never_makes_it_cheaper_nor_dearer_than_a_nano_a_part(
    price: Price, per: int, quantity: int, more: int, rate: int
) -> None:
    whole, parts = price(quantity + more, rate), price(quantity, rate) + price(more, rate)
    assert whole <= parts <= whole + 1


@priced_by
@given(quantity=quantities, rate=rates)
def test_prices_never_fall_when_more_is_used_or_the_rate_rises(
    price: Price, per: int, quantity: int, rate: int
) -> None:
    assert price(quantity, rate) <= price(quantity + 1, rate)
    assert price(quantity, rate) <= price(quantity, rate + 1)


@priced_by
def test_a_whole_unit_costs_its_rate_and_nothing_costs_nothing(price: Price, per: int) -> None:
    assert price(per, 150_000_000) == 150_000_000
    assert price(0, 150_000_000) == 0
    assert price(1, 1) == 1


@given(st.integers(0, 10**24))
def test_an_amount_written_out_exactly_is_read_back_exactly(nano_usd: int) -> None:
    text = f"{nano_usd // NANO_PER_USD}.{nano_usd % NANO_PER_USD:09d}"
    assert parse_usd(text) == nano_usd
    assert parse_usd(f" ${text} ") == nano_usd
    assert parse_usd(f"-{text}") == -nano_usd


@pytest.mark.parametrize(
    ("text", "nano_usd"),
    [
        ("1.50", 1_500_000_000),
        ("$0.000000001", 1),
        ("1_000", 1_000 * NANO_PER_USD),
        ("0", 0),
        ("1e-9", 1),
    ],
)
def test_amounts_are_read(text: str, nano_usd: int) -> None:
    assert parse_usd(text) == nano_usd


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not an amount"),
        ("ten", "not an amount"),
        ("1,50", "not an amount"),
        ("$", "not an amount"),
        ("nan", "not an amount"),
        ("inf", "not an amount"),
        ("-Infinity", "not an amount"),
        ("0.0000000001", "at most 9 decimals"),
        ("1.0000000001", "at most 9 decimals"),
        ("10000000000000000000000.0000000001", "at most 9 decimals"),
    ],
)
def test_what_is_no_exact_amount_is_refused_with_the_fix(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_usd(text)


@given(st.integers(1, 999 * NANO_PER_USD))
def test_what_people_read_can_be_typed_back_within_its_precision(nano_usd: int) -> None:
    shown = parse_usd(format_usd(nano_usd))
    precision = 5_000_000 if nano_usd >= NANO_PER_USD else max(1, nano_usd // 1000)
    assert abs(shown - nano_usd) <= precision


@given(st.integers(-(10**20), 10**20).filter(bool))
def test_something_never_looks_like_nothing(nano_usd: int) -> None:
    shown = format_usd(nano_usd)
    assert any(digit in "123456789" for digit in shown)
    assert shown.startswith("-$" if nano_usd < 0 else "$")


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_the_larger_amount_never_looks_smaller(one: int, other: int) -> None:
    low, high = sorted((one, other))
    read = [parse_usd(format_usd(amount).replace(",", "")) for amount in (low, high)]
    assert read[0] <= read[1]


@pytest.mark.parametrize(
    ("nano_usd", "shown"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (1_234, "$0.000001234"),
        (123_456, "$0.0001235"),
        (999_950_000, "$1.0000"),
        (NANO_PER_USD, "$1.00"),
        (1_234_567_890_123, "$1,234.57"),
        (-1_500_000_000, "-$1.50"),
    ],
)
def test_amounts_are_shown(nano_usd: int, shown: str) -> None:
    assert format_usd(nano_usd) == shown
