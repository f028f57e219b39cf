"""Which rows share a run of the library, where they lie, and that nobody beside them changes an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cloud.conftest import PROMPTS, slots_plan
from tests.support.tiny_onnx import Shape, save_model

from farthing.cloud.batch_backend import OrtBatchBackend
from farthing.cloud.slots.engine import SlotEngine
from farthing.inference.batch_backend import SlotWork


class Runs:
    """Counts a session's runs."""

    def __init__(self, session: Any) -> None:
        self._session, self.count = session, 0

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, *arguments: Any) -> None:
        self.count += 1
        self._session.run_with_iobinding(*arguments)


@pytest.mark.parametrize("device_tensors", [False, True])
@pytest.mark.parametrize("shape", [Shape(head=16), Shape()], ids=["rotation inside", "own"])
def test_single_tokens_and_a_prompt_beside_them_are_one_run_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: Shape, device_tensors: bool
) -> None:
    decoder = save_model(tmp_path, shape=shape)
    backend = OrtBatchBackend(slots_plan(tmp_path), device_tensors=device_tensors)
    assert backend.layout.mixes_prompts is not device_tensors
    backend.step([SlotWork(0, 0, PROMPTS[0]), SlotWork(1, 0, PROMPTS[1]), SlotWork(2, 0, [9])])
    runs = Runs(backend.opened.session)
    engine = backend._engine
    assert isinstance(engine, SlotEngine)
    engine._runs.clear()
    monkeypatch.setattr(engine._runs, "_session", runs)
    long = PROMPTS[3]
    # The prompt's row lies between those that go on, and so does the chunk's after it.
    output = backend.step(
        [SlotWork(0, 6, [5]), SlotWork(1, 0, long[:6], 2), SlotWork(2, 1, [7])]
    )
    assert runs.count == (2 if device_tensors else 1)
    rows = np.stack([output.row(n) for n in range(4)])
    expected = [
        decoder.logits([*PROMPTS[0], 5])[-1:],
        decoder.logits(long[:6])[-2:],
        decoder.logits([9, 7])[-1:],
    ]
    np.testing.assert_allclose(rows, np.concatenate(expected), rtol=1e-3, atol=1e-3)
    output = backend.step(
        [
            SlotWork(0, 7, [6]),
            SlotWork(1, 6, long[6:]),
            SlotWork(2, 2, [8]),
            SlotWork(3, 0, [4]),
        ]
    )
    assert runs.count == (4 if device_tensors else 2)
    expected = [
        decoder.logits([*PROMPTS[0], 5, 6])[-1:],
        decoder.logits(long)[-1:],
        decoder.logits([9, 7, 8])[-1:],
        decoder.logits([4])[-1:],
    ]
    rows = np.stack([output.row(n) for n in range(4)])
    np.testing.assert_allclose(rows, np.concatenate(expected), rtol=1e-3, atol=1e-3)
    # What the rows hold is right too: all go on.
    texts = [[*PROMPTS[0], 5, 6], long, [9, 7, 8], [4]]
    output = backend.step([SlotWork(n, len(text), [11]) for n, text in enumerate(texts)])
    for n, text in enumerate(texts):
        wanted = decoder.logits([*text, 11])[-1]
        np.testing.assert_allclose(output.row(n), wanted, rtol=1e-3, atol=1e-3)
    backend.close()


def test_who_makes_room_for_prompts_goes_on_as_before(tmp_path: Path) -> None:
    decoder = save_model(tmp_path, shape=Shape(head=16))
    backend = OrtBatchBackend(slots_plan(tmp_path, slot_count=4))
    texts = [prompt[:3] for prompt in PROMPTS]
    backend.step([SlotWork(slot, 0, text) for slot, text in enumerate(texts)])
    texts[0], texts[2] = [9, 8, 7, 6], [1, 2, 3, 4]
    # Their rows and the spare one lie apart, and slot 1 between them.
    backend.step([SlotWork(0, 0, texts[0]), SlotWork(2, 0, texts[2])])
    engine = backend._engine
    assert isinstance(engine, SlotEngine)
    assert [engine._rows.row_of(slot) for slot in range(4)] == [0, 4, 1, 3]
    output = backend.step([SlotWork(slot, len(text), [5]) for slot, text in enumerate(texts)])
    for slot, text in enumerate(texts):
        wanted = decoder.logits([*text, 5])[-1]
        np.testing.assert_allclose(output.row(slot), wanted, rtol=1e-3, atol=1e-3)
    backend.close()
