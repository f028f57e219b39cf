from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.support.tiny_gguf import write_tiny_gguf, write_tiny_lora

from farthing.edge.batch_backend import LlamaBatchBackend
from farthing.edge.plan import Adapter
from farthing.inference.batch_backend import Logits, SlotWork
from farthing.kit.errors import FailedPrecondition, Internal

OpenBackend = Callable[..., LlamaBatchBackend]
PROMPT = [*range(10, 40)]


def read_logits(backend: LlamaBatchBackend, adapter: str = "", slot: int = 0) -> Logits:
    output = backend.step([SlotWork(slot, 0, PROMPT, len(PROMPT))], adapter)
    return np.stack([output.row(index) for index in range(len(PROMPT))])


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_an_adapter_answers_as_its_matrices_merged_into_the_weights(
    open_backend: OpenBackend, tmp_path: Path, scale: float
) -> None:
    added = write_tiny_lora(tmp_path / "lora.gguf")
    scaled = {name: matrix * np.float32(scale) for name, matrix in added.items()}
    merged = write_tiny_gguf(tmp_path / "merged.gguf", precise=True, added=scaled)
    adapter = Adapter("polite", tmp_path / "lora.gguf", scale)
    adapted = open_backend("F32", adapters=(adapter,))
    plain = read_logits(adapted)
    answer = read_logits(adapted, "polite")
    assert np.abs(answer - plain).max() > 1
    np.testing.assert_allclose(
        answer, read_logits(open_backend("F32", path=merged)), atol=0.005
    )


def test_going_back_to_no_adapter_gives_the_same_logits_again(
    open_backend: OpenBackend, tmp_path: Path
) -> None:
    write_tiny_lora(tmp_path / "one.gguf")
    write_tiny_lora(tmp_path / "two.gguf", seed=12)
    backend = open_backend(
        "Q8_0",
        adapters=(Adapter("one", tmp_path / "one.gguf"), Adapter("two", tmp_path / "two.gguf")),
    )
    first = {name: read_logits(backend, name) for name in ("", "one", "two")}
    for name in ("two", "", "one"):
        assert np.array_equal(read_logits(backend, name, slot=1), first[name])


def test_a_slot_goes_on_with_its_own_adapter_only(
    open_backend: OpenBackend, tmp_path: Path
) -> None:
    write_tiny_lora(tmp_path / "one.gguf")
    backend = open_backend("F16", adapters=(Adapter("one", tmp_path / "one.gguf"),))
    backend.step([SlotWork(0, 0, PROMPT)], "one")
    backend.copy(0, 1, 20)
    backend.restore(2, backend.save(0, 10))
    for slot, held_count in ((0, len(PROMPT)), (1, 20), (2, 10)):
        with pytest.raises(Internal, match="adapter 'one'"):
            backend.step([SlotWork(slot, held_count, PROMPT[:1])])
        backend.step([SlotWork(slot, held_count, PROMPT[:1])], "one")
        backend.step([SlotWork(slot, 0, PROMPT)])


def test_a_window_that_is_computed_again_keeps_its_adapter(
    open_backend: OpenBackend, tmp_path: Path
) -> None:
    write_tiny_lora(tmp_path / "one.gguf", architecture="olmo2")
    backend = open_backend("window", adapters=(Adapter("one", tmp_path / "one.gguf"),))
    (expected,) = backend.step([SlotWork(0, 0, PROMPT[:5])], "one").best()
    backend.step([SlotWork(1, 0, PROMPT)], "one")
    backend.restore(1, backend.save(1, len(PROMPT)))
    backend.copy(1, 2, 4)
    (again,) = backend.step([SlotWork(2, 4, PROMPT[4:5])], "one").best()
    assert again == expected


def test_an_adapter_that_is_not_loaded_is_refused(open_backend: OpenBackend) -> None:
    backend = open_backend("F16")
    with pytest.raises(Internal, match="not loaded") as caught:
        backend.step([SlotWork(0, 0, PROMPT)], "other")
    assert caught.value.metadata["adapter"] == "other"


def test_an_adapter_of_another_model_is_refused_in_llama_cpps_words(
    open_backend: OpenBackend, tmp_path: Path
) -> None:
    write_tiny_lora(tmp_path / "other.gguf", architecture="qwen2")
    with pytest.raises(FailedPrecondition, match="arch mismatch") as caught:
        open_backend("F16", adapters=(Adapter("other", tmp_path / "other.gguf"),))
    assert caught.value.reason == "ADAPTER_UNREADABLE"
    assert "other.gguf" in caught.value.message
