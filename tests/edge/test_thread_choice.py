"""Threads of small steps: as many as are soonest at present, found at little cost, and never to be noticed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import llama_cpp as llama
import numpy as np
import pytest

from farthing.edge.batch_backend import LlamaBatchBackend
from farthing.edge.thread_choice import ThreadChoice
from farthing.inference.batch_backend import SlotWork

Times = Callable[[int], float]


def run(choice: ThreadChoice, times: Times, step_count: int, token_count: int = 4) -> list[int]:
    """Steps of one size; with how many threads each was computed."""
    taken = []
    for _ in range(step_count):
        count = choice.count_for(token_count)
        taken.append(count)
        choice.note(token_count, count, round(1e6 * times(count)))
    return taken


def quiet(count: int) -> float:
    """Milliseconds of a step whose work is shared out, and a little for each meeting."""
    return 10 / count + 0.1 * count


def crowded(count: int) -> float:
    """Each meeting waits for a core."""
    return 10 / count + 8 * (count - 1)


def memory_bound(count: int) -> float:
    """Two threads take all that memory gives."""
    return max(5.0, 10 / count) + 0.5 * count


@pytest.mark.parametrize(("times", "soonest"), [(quiet, 4), (crowded, 1), (memory_bound, 2)])
def test_the_soonest_count_is_found_and_kept(times: Times, soonest: int) -> None:
    choice = ThreadChoice(4)
    run(choice, times, 600)
    assert choice.count == soonest
    later = run(choice, times, 4000)
    spent = sum(map(times, later))
    assert spent < 1.02 * len(later) * times(soonest), "what trials cost"


def test_it_follows_when_neighbours_come_and_go() -> None:
    choice = ThreadChoice(2)
    run(choice, quiet, 5000)
    assert choice.count == 2
    run(choice, crowded, 60)
    assert choice.count == 1
    run(choice, crowded, 5000)
    run(choice, lambda count: quiet(count) / 3, 60)
    assert choice.count == 2


def test_it_finds_its_way_through_noise() -> None:
    draw = random.Random(7)
    choice = ThreadChoice(2)

    def noisy(count: int) -> float:
        """A thread alone is held up now and then; two wait for each other at some of their meetings."""
        if count == 1:
            return 10 + 12 * (draw.random() < 0.3)
        return 5 + 10 * sum(draw.random() < 0.1 for _ in range(20))

    run(choice, noisy, 500)
    taken = run(choice, noisy, 5000)
    assert taken.count(1) > 0.9 * len(taken)
    assert 2 in taken, "and goes on trying"


def test_large_steps_have_all_threads() -> None:
    choice = ThreadChoice(4)
    run(choice, crowded, 600)
    assert (choice.count_for(4), choice.count_for(200)) == (1, 4)
    run(choice, crowded, 600, token_count=200)
    assert choice.count == 1


def test_a_trial_ends_though_its_steps_come_no_more() -> None:
    choice = ThreadChoice(2)
    run(choice, quiet, 64)
    assert choice.is_trying
    run(choice, quiet, 1100, token_count=5)
    run(choice, crowded, 200, token_count=5)
    assert choice.count == 1


def test_one_thread_is_never_doubted() -> None:
    choice = ThreadChoice(1)
    assert set(run(choice, crowded, 500)) == {1}
    assert not choice.is_trying


class _Given(ThreadChoice):
    """So many threads for each step, in turns."""

    def __init__(self, *counts: int) -> None:
        super().__init__(max(counts))
        self._counts = itertools.cycle(counts)

    def count_for(self, token_count: int) -> int:
        return next(self._counts)


@pytest.mark.parametrize("attention", ["on", "off"])
def test_results_do_not_depend_on_the_count(
    open_backend: Callable[..., LlamaBatchBackend], attention: str
) -> None:
    def logits(*counts: int) -> list[np.ndarray]:
        backend = open_backend("F32", thread_count=3, flash_attention=attention)
        backend.threads = _Given(*counts)
        backend.step([SlotWork(0, 0, [*range(10, 200)], 1)])
        found = []
        for place in range(6):
            output = backend.step([SlotWork(0, 190 + place, [50 + place], 1)])
            assert llama.llama_n_threads(backend._context) == counts[(place + 1) % len(counts)]
            found.append(output.row(0).copy())
        return found

    alone = logits(1)
    for others in (logits(3), logits(2, 1, 3)):
        np.testing.assert_array_equal(others, alone)
