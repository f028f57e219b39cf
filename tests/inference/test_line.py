from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.inference.core.line import LineFull, WaitingLine
from farthing.inference.engine import Priority

arrivals = st.lists(st.tuples(st.sampled_from(Priority), st.sampled_from("abc")), max_size=40)


def pop_all(line: WaitingLine[str], now_us: int = 0) -> list[str]:
    items = []
    while (item := line.pop(now_us)) is not None:
        items.append(item)
    return items


def test_classes_go_in_order_and_equals_in_order_of_arrival() -> None:
    line: WaitingLine[str] = WaitingLine(8, aging_ms=1000)
    line.push("batch", Priority.BATCH, "", 0)
    line.push("first", Priority.STANDARD, "", 1)
    line.push("second", Priority.STANDARD, "", 2)
    line.push("person", Priority.INTERACTIVE, "", 3)
    assert pop_all(line, 4) == ["person", "first", "second", "batch"]


def test_tenants_take_turns_inside_a_class() -> None:
    line: WaitingLine[str] = WaitingLine(8, aging_ms=1000)
    for name in ("a1", "a2", "a3"):
        line.push(name, Priority.STANDARD, "a", 0)
    line.push("b1", Priority.STANDARD, "b", 1)
    assert pop_all(line, 2) == ["a1", "b1", "a2", "a3"]


def test_waiting_lifts_a_request_so_that_nobody_starves() -> None:
    line: WaitingLine[str] = WaitingLine(8, aging_ms=1000)
    line.push("batch", Priority.BATCH, "", 0)
    for turn in range(1, 5):
        line.push(f"new{turn}", Priority.STANDARD, "", turn * 700_000)
        if line.pop(turn * 700_000) == "batch":
            return
    raise AssertionError("the batch request starved")


def test_a_full_line_refuses_equals_and_sheds_the_last_of_a_lower_class() -> None:
    line: WaitingLine[str] = WaitingLine(2, aging_ms=1000)
    line.push("one", Priority.BATCH, "", 0)
    line.push("two", Priority.BATCH, "", 0)
    with pytest.raises(LineFull):
        line.push("three", Priority.BATCH, "", 0)
    assert line.push("person", Priority.INTERACTIVE, "", 0) == "two"
    assert line.push("other", Priority.INTERACTIVE, "", 0) == "one"
    with pytest.raises(LineFull):
        line.push("third", Priority.INTERACTIVE, "", 0)


def test_a_lifted_request_is_not_shed_for_the_class_it_reached() -> None:
    line: WaitingLine[str] = WaitingLine(1, aging_ms=1000)
    line.push("patient", Priority.BATCH, "", 0)
    with pytest.raises(LineFull):
        line.push("new", Priority.STANDARD, "", 1_000_000)


@given(arrivals, st.integers(1, 10))
def test_nobody_is_lost_and_the_bound_holds(
    arrivals: list[tuple[Priority, str]], capacity: int
) -> None:
    line: WaitingLine[str] = WaitingLine(capacity, aging_ms=1000)
    inside: set[str] = set()
    for number, (priority, tenant) in enumerate(arrivals):
        name = f"{tenant}{number}"
        try:
            displaced = line.push(name, priority, tenant, number)
        except LineFull:
            continue
        inside.add(name)
        if displaced is not None:
            inside.remove(displaced)
        assert len(line) == len(inside) <= capacity
    assert sorted(pop_all(line, 100)) == sorted(inside)


def test_the_age_is_that_of_the_oldest() -> None:
    line: WaitingLine[str] = WaitingLine(4, aging_ms=1000)
    assert line.age_us(7) == 0
    line.push("old", Priority.BATCH, "", 10)
    line.push("new", Priority.INTERACTIVE, "", 50)
    assert line.age_us(60) == 50
    assert line.remove("old")
    assert not line.remove("old")
    assert line.age_us(60) == 10
