"""The way of grouped attention: measured once, unless somebody chose it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from farthing.cloud import attention
from farthing.cloud.attention import VARIABLE, choose_attention, measure_ways
from farthing.cloud.runtime import load_runtime, open_session, quiet_options


@pytest.fixture
def nobody_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")  # so that the test's own choice is taken back
    monkeypatch.delenv(VARIABLE)


def _options() -> Any:
    return quiet_options(load_runtime(), 1)


@pytest.mark.usefixtures("nobody_chose")
@pytest.mark.parametrize(
    ("tiled_us", "plain_us", "value"),
    [(100, 50, "1"), (100, 95, "0"), (100, 100, "0"), (100, 300, "0")],
)
def test_tiles_unless_plain_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, tiled_us: float, plain_us: float, value: str
) -> None:
    monkeypatch.setattr(attention, "measure_ways", lambda *_: (tiled_us, plain_us))
    choose_attention(load_runtime(), _options)
    assert os.environ[VARIABLE] == value


def test_an_operators_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setattr(attention, "measure_ways", lambda *_: (1, 100))
    choose_attention(load_runtime(), _options)
    assert os.environ[VARIABLE] == "1"


@pytest.mark.usefixtures("nobody_chose")
def test_both_ways_are_measured_and_neither_is_left_set() -> None:
    tiled_us, plain_us = measure_ways(load_runtime(), _options)
    assert 0 < tiled_us < 1e6
    assert 0 < plain_us < 1e6
    assert VARIABLE not in os.environ


@pytest.mark.usefixtures("nobody_chose")
def test_the_first_session_on_a_cpu_chooses_and_both_ways_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = attention._one_attention()
    draw = np.random.default_rng(1).standard_normal
    results = {}
    for value in (None, "0", "1"):
        if value is not None:
            monkeypatch.setenv(VARIABLE, value)
        session = open_session(graph, wish="cpu", thread_count=1).session
        assert os.environ[VARIABLE] in ("0", "1")
        if value is None:
            feeds = {
                one.name: draw(one.shape, np.float32)
                for one in session.get_inputs()
                if one.type == "tensor(float)"
            }
            feeds["lengths"] = np.arange(3, 19, dtype=np.int32)
            feeds["total"] = np.array([19], np.int32)
        results[value] = session.run(["result"], feeds)[0]
    np.testing.assert_allclose(results["0"], results["1"], rtol=1e-4, atol=1e-5)
