"""Slots under any sequence of steps, cuts, copies, saves and restores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any
from weakref import ref

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.garbage import collecting_garbage

from farthing.edge.batch_backend import LlamaBatchBackend
from farthing.edge.plan import LoadPlan
from farthing.edge.saved_slot import LlamaSavedSlot
from farthing.inference.batch_backend import Logits, SlotWork

SLOT_COUNT = 4
WAYS: dict[str, dict[str, Any]] = {
    "F32": {},
    "F32 in one pool": {"shared_kv": True},
    "window": {},
    "recurrent": {},
    "recurrent in one pool": {"shared_kv": True},
}

slots = st.integers(0, SLOT_COUNT - 1)
ratios = st.floats(0, 1)
tokens = st.lists(st.integers(4, 250), min_size=1, max_size=20)
moves = st.one_of(
    st.tuples(st.just("step"), st.dictionaries(slots, st.tuples(ratios, tokens), min_size=1)),
    st.tuples(st.just("copy"), slots, slots, ratios),
    st.tuples(st.just("save"), slots, ratios),
    st.tuples(st.just("restore"), slots),
)


@pytest.fixture(scope="module", params=WAYS)
def backend(
    request: pytest.FixtureRequest, plan_for: Callable[..., LoadPlan]
) -> Iterator[LlamaBatchBackend]:
    model, *_ = request.param.split()
    backend = LlamaBatchBackend(plan_for(model, slot_count=SLOT_COUNT, **WAYS[request.param]))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def compute_alone(
    backend: LlamaBatchBackend, plan_for: Callable[..., LoadPlan]
) -> Iterator[Callable[[Sequence[int]], Logits]]:
    """Logits after tokens that nothing was done to, from a backend of its own."""
    model = backend.model.name
    other = LlamaBatchBackend(plan_for(model, slot_count=1))

    @lru_cache(maxsize=4_096)
    def compute(history: tuple[int, ...]) -> Logits:
        return other.step([SlotWork(0, 0, history)]).row(0)

    yield lambda history: compute(tuple(history))
    other.close()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(plays=st.lists(moves, min_size=1, max_size=12))
def test_a_slot_knows_its_tokens_and_nothing_else(
    backend: LlamaBatchBackend,
    compute_alone: Callable[[Sequence[int]], Logits],
    plays: list[tuple[object, ...]],
) -> None:
    backend.reset()
    held: list[list[int]] = [[] for _ in range(SLOT_COUNT)]
    shelf: list[tuple[list[int], LlamaSavedSlot]] = []
    for play in plays:
        match play:
            case ("step", dict(parts)):
                work = []
                for slot, (ratio, added) in sorted(parts.items()):
                    start = round(ratio * len(held[slot]))
                    added = added[: 250 - start]
                    if added:
                        held[slot][start:] = added
                        work.append(SlotWork(slot, start, added))
                if not work:
                    continue
                output = backend.step(work)
                for index, one in enumerate(work):
                    np.testing.assert_allclose(
                        output.row(index), compute_alone(held[one.slot]), atol=0.05
                    )
            case ("copy", int(source), int(target), float(ratio)):
                count = round(ratio * len(held[source]))
                backend.copy(source, target, count)
                held[target] = held[source][:count]
            case ("save", int(slot), float(ratio)):
                count = round(ratio * len(held[slot]))
                shelf.append((held[slot][:count], backend.save(slot, count)))
            case ("restore", int(slot)) if shelf:
                history, saved = shelf[-1]
                backend.restore(slot, saved)
                held[slot] = list(history)


def test_a_saved_state_is_freed_with_its_last_use(backend: LlamaBatchBackend) -> None:
    backend.reset()
    backend.step([SlotWork(0, 0, [4, 5, 6])])
    with collecting_garbage() as left:
        saved = backend.save(0, 3)
        state = ref(saved.state)
        backend.restore(1, saved)
        backend.copy(1, 2, 2)
        del saved
        assert state() is None
    assert left == []
