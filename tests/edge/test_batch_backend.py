from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tests.support.batch_backend_contract import (
    ANSWER_COUNT,
    BatchBackendContract,
    answer_alone,
    go_on,
)
from tests.support.tiny_gguf import CONTEXT, HEAD, HEADS, LAYERS, write_tiny_gguf
from tests.support.tiny_special import WINDOW

from farthing.edge.batch_backend import LlamaBatchBackend
from farthing.edge.plan import LoadPlan
from farthing.inference.batch_backend import SlotWork, StepOutput
from farthing.inference.model import Capability
from farthing.kit.errors import FailedPrecondition, Internal

OpenBackend = Callable[..., LlamaBatchBackend]
PROMPT = [*range(10, 60)]
WAYS: dict[str, dict[str, Any]] = {
    "F16": {},
    "F16 in one pool": {"shared_kv": True},
    "F16 with separate attention": {"flash_attention": "off"},
    "Q8_0": {},
    "Q8_0 in one pool": {"shared_kv": True},
    "demo": {},
    "demo in one pool": {"shared_kv": True},
    "demo with q8_0 keys and values": {"kv_type": "q8_0"},
    "window": {},
    "recurrent": {},
    "recurrent in one pool": {"shared_kv": True},
}


@pytest.fixture(scope="module", params=WAYS)
def backend(
    request: pytest.FixtureRequest, plan_for: Callable[..., LoadPlan]
) -> Iterator[LlamaBatchBackend]:
    model, *_ = request.param.split()
    backend = LlamaBatchBackend(plan_for(model, **WAYS[request.param]))
    yield backend
    backend.close()


class TestLlamaBatchBackend(BatchBackendContract):
    pass


def test_the_file_describes_itself(open_backend: OpenBackend) -> None:
    backend = open_backend("Q8_0", context_length=8_192)
    model = backend.model
    assert (model.format, model.quantization) == ("gguf", "Q8_0")
    assert model.context_length == CONTEXT == backend.layout.slot_token_capacity
    assert model.eos_ids == {0} and model.bos_ids == ()
    assert model.capabilities == {
        Capability.CHAT,
        Capability.JSON_SCHEMA,
        Capability.LOGPROBS,
    }
    assert backend.weights_bytes == pytest.approx(model.parameter_count * 8.5 / 8, rel=0.01)


@pytest.mark.parametrize(("kv_type", "value_bits"), [("f16", 16), ("q8_0", 8.5)])
@pytest.mark.parametrize("shared", [False, True])
def test_a_token_takes_what_its_keys_and_values_take(
    open_backend: OpenBackend, kv_type: str, value_bits: float, shared: bool
) -> None:
    backend = open_backend("F16", context_length=300, kv_type=kv_type, shared_kv=shared)
    token_bytes = 2 * LAYERS * HEADS * HEAD * value_bits / 8
    assert backend.layout.token_bytes == token_bytes
    assert backend.layout.token_capacity == 6 * 300
    # llama.cpp makes room in pieces of 256: for each slot, or for the pool.
    assert backend.kv_bytes == (2_048 if shared else 6 * 512) * token_bytes


def test_layers_with_a_window_count_too(open_backend: OpenBackend) -> None:
    assert open_backend("window").layout.token_bytes == 2 * 4 * HEADS * HEAD * 2


def test_a_recurrent_state_has_a_fixed_size(open_backend: OpenBackend) -> None:
    backend = open_backend("recurrent")
    assert backend.layout.token_bytes == 0
    assert not backend.layout.cuts_freely
    backend.step([SlotWork(0, 0, PROMPT[:10])])
    backend.step([SlotWork(1, 0, PROMPT)])
    assert backend.save(0, 10).size_bytes == backend.save(1, 50).size_bytes
    assert backend.kv_bytes == pytest.approx(6 * backend.save(0, 10).size_bytes, rel=0.02)


def test_a_pool_may_be_smaller_than_all_slots_together(open_backend: OpenBackend) -> None:
    backend = open_backend("F16", shared_kv=True, pool_token_capacity=256)
    assert backend.layout.token_capacity == 256
    for slot in range(5):
        backend.step([SlotWork(slot, 0, PROMPT, 0)])
    with pytest.raises(Internal) as caught:
        backend.step([SlotWork(5, 0, PROMPT, 0)])
    assert caught.value.reason == "ENGINE_STEP_FAILED"
    assert "more than there is room for" in caught.value.message
    backend.reset()
    assert answer_alone(backend, PROMPT)


def test_a_copied_prefix_takes_no_room_in_a_pool(open_backend: OpenBackend) -> None:
    backend = open_backend("F16", shared_kv=True, pool_token_capacity=256)
    backend.step([SlotWork(0, 0, PROMPT * 4)])
    for slot in range(1, 6):
        backend.copy(0, slot, 199)
    work = [SlotWork(slot, 199, PROMPT[-1:]) for slot in range(1, 6)]
    assert len(set(backend.step(work).best().tolist())) == 1


def test_half_of_a_slot_is_saved_and_the_whole_stays(open_backend: OpenBackend) -> None:
    for model, shared in (("F16", False), ("F16", True), ("window", False)):
        backend = open_backend(model, shared_kv=shared)
        backend.step([SlotWork(0, 0, PROMPT * 2)])
        # The very steps that the half goes through: other batch sizes may be rounded otherwise.
        (first,) = backend.step([SlotWork(0, len(PROMPT) - 1, PROMPT[-1:])]).best()
        expected = go_on(backend, 0, PROMPT, [int(first)])
        backend.step([SlotWork(2, 0, PROMPT * 2)])
        half = backend.save(2, len(PROMPT) - 1)
        whole = backend.save(2, 2 * len(PROMPT))
        assert half.size_bytes < 0.6 * whole.size_bytes or model == "window"
        (token,) = backend.step([SlotWork(2, 2 * len(PROMPT), PROMPT[:1])]).best()
        backend.restore(4, half)
        (first,) = backend.step([SlotWork(4, len(PROMPT) - 1, PROMPT[-1:])]).best()
        assert go_on(backend, 4, PROMPT, [int(first)]) == expected
        backend.restore(5, whole)
        (again,) = backend.step([SlotWork(5, 2 * len(PROMPT), PROMPT[:1])]).best()
        assert again == token


def test_a_restored_window_is_cut_back_to_what_it_no_longer_holds(
    open_backend: OpenBackend,
) -> None:
    backend = open_backend("window")
    short = PROMPT[: len(PROMPT) - WINDOW - 10]
    expected = answer_alone(backend, short)
    backend.step([SlotWork(1, 0, PROMPT)])
    backend.restore(1, backend.save(1, len(PROMPT)))
    (token,) = backend.step([SlotWork(1, len(short) - 1, short[-1:])]).best()
    assert go_on(backend, 1, short, [int(token)]) == expected


def test_slots_with_a_window_cannot_share_a_pool(open_backend: OpenBackend) -> None:
    with pytest.raises(FailedPrecondition, match="FARTHING_EDGE_SHARED_KV"):
        open_backend("window", shared_kv=True)


@pytest.mark.parametrize(
    ("work", "finding"),
    [
        ([], "0 tokens"),
        ([SlotWork(6, 0, [5])], "slot 6"),
        ([SlotWork(-1, 0, [5])], "slot -1"),
        ([SlotWork(1, 0, [5]), SlotWork(1, 1, [5])], "slot 1 follows slot 1"),
        ([SlotWork(2, 0, [5]), SlotWork(1, 0, [5])], "slot 1 follows slot 2"),
        ([SlotWork(0, 0, [])], "0 tokens"),
        ([SlotWork(0, 0, [5], 2)], "2 rows of 1"),
        ([SlotWork(0, 0, [5], -1)], "-1 rows"),
        ([SlotWork(0, 51, [5])], "holds 50 tokens, fewer than 51"),
        ([SlotWork(0, -1, [5])], "fewer than -1"),
        ([SlotWork(0, 50, [5] * 207)], "would hold 257"),
        ([SlotWork(0, 0, [5] * 200), SlotWork(1, 0, [5] * 57)], "257 tokens"),
        ([SlotWork(0, 50, [5], 1)], "adapter 'none such'"),
    ],
)
def test_work_against_the_contract_is_refused_and_changes_nothing(
    open_backend: OpenBackend, work: list[SlotWork], finding: str
) -> None:
    backend = open_backend("F16")
    backend.step([SlotWork(0, 0, PROMPT)])
    with pytest.raises(Internal) as caught:
        backend.step(work, "none such" if "adapter" in finding else "")
    assert caught.value.reason == "ENGINE_STEP_FAILED"
    assert finding.split("'")[0] in caught.value.message
    (kept,) = backend.step([SlotWork(0, 50, [5])]).best()
    backend.reset()
    (alone,) = backend.step([SlotWork(0, 0, [*PROMPT, 5])]).best()
    assert kept == alone


def test_a_token_that_the_model_does_not_have_is_refused_in_llama_cpps_words(
    open_backend: OpenBackend,
) -> None:
    backend = open_backend("F16")
    with pytest.raises(Internal, match="invalid token") as caught:
        backend.step([SlotWork(0, 0, [5, backend.model.vocab_size])])
    assert caught.value.reason == "ENGINE_STEP_FAILED"
    backend.reset()
    assert len(answer_alone(backend, PROMPT)) == ANSWER_COUNT


def test_more_than_a_slot_holds_cannot_be_copied_or_saved(open_backend: OpenBackend) -> None:
    backend = open_backend("F16")
    backend.step([SlotWork(0, 0, PROMPT)])
    with pytest.raises(Internal, match="it holds 50"):
        backend.copy(0, 1, 51)
    with pytest.raises(Internal, match="it holds 50"):
        backend.save(0, 51)


def test_nothing_can_be_copied_saved_and_restored(open_backend: OpenBackend) -> None:
    backend = open_backend("F16")
    expected = answer_alone(backend, PROMPT)
    backend.step([SlotWork(1, 0, PROMPT[:7])])
    backend.copy(0, 1, 0)
    backend.restore(1, backend.save(0, 0))
    (token,) = backend.step([SlotWork(1, 0, PROMPT)]).best()
    assert go_on(backend, 1, PROMPT, [int(token)]) == expected


def test_the_lowest_of_equal_tokens_is_the_best(
    open_backend: OpenBackend, tmp_path: Path
) -> None:
    path = write_tiny_gguf(tmp_path / "equal.gguf", quantized=False)
    overwrite(path, "output.weight", 0.0)
    backend = open_backend("F16", path=path)
    output = backend.step([SlotWork(0, 0, PROMPT, 3), SlotWork(1, 0, PROMPT)])
    assert output.best().tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("changes", [{}, {"flash_attention": "off"}, {"shared_kv": True}])
@pytest.mark.parametrize("read", [lambda output: output.best(), lambda output: output.row(0)])
def test_what_is_not_a_number_is_never_an_answer_and_a_reset_leaves_nothing_of_it(
    open_backend: OpenBackend,
    tmp_path: Path,
    changes: dict[str, Any],
    read: Callable[[StepOutput], object],
) -> None:
    path = write_tiny_gguf(tmp_path / "nan.gguf", quantized=False)
    bad_token = 200
    overwrite(path, "token_embd.weight", float("nan"), row=bad_token)
    backend = open_backend("F16", path=path, **changes)
    expected = answer_alone(backend, PROMPT)
    output = backend.step([SlotWork(1, 0, [*PROMPT, bad_token])])
    with pytest.raises(Internal) as caught:
        read(output)
    assert caught.value.reason == "NO_TOKEN_POSSIBLE"
    with pytest.raises(Internal, match="a reset must come first"):
        backend.step([SlotWork(0, 0, PROMPT)])
    backend.reset()
    (token,) = backend.step([SlotWork(1, 0, PROMPT)]).best()
    assert go_on(backend, 1, PROMPT, [int(token)]) == expected


def overwrite(path: Path, name: str, value: float, row: int | None = None) -> None:
    """Sets all of a tensor's numbers in the file, or those of one row."""
    for tensor in gguf.GGUFReader(path, "r+").tensors:
        if tensor.name == name:
            tensor.data[slice(None) if row is None else row] = value


def test_work_without_wanted_logits_gives_no_rows(open_backend: OpenBackend) -> None:
    output = open_backend("F16").step([SlotWork(0, 0, PROMPT, 0)])
    assert output.row_count == 0
    assert output.best().shape == (0,)


def test_rows_come_in_the_order_of_work_whatever_its_lengths(open_backend: OpenBackend) -> None:
    lengths, wanted = (9, 1, 30, 4), (2, 1, 30, 0)
    for shared in (False, True):
        backend = open_backend("F32", shared_kv=shared)
        alone = []
        for length, count in zip(lengths, wanted, strict=True):
            output = backend.step([SlotWork(0, 0, PROMPT[:length], count)])
            alone += [output.row(index) for index in range(count)]
        together = backend.step(
            [
                SlotWork(slot, 0, PROMPT[:length], count)
                for slot, (length, count) in enumerate(zip(lengths, wanted, strict=True))
            ]
        )
        rows = [together.row(index) for index in range(together.row_count)]
        np.testing.assert_allclose(rows, alone, atol=0.02)


def test_closing_twice_is_closing_once_and_texts_can_still_be_read(
    open_backend: OpenBackend,
) -> None:
    backend = open_backend("F16")
    codec = backend.codec
    backend.close()
    backend.close()
    assert codec.tokenize("abc", special=False)


def test_a_file_that_is_no_model_is_refused(open_backend: OpenBackend, tmp_path: Path) -> None:
    path = tmp_path / "no.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(FailedPrecondition) as caught:
        open_backend("F16", path=path)
    assert caught.value.reason == "MODEL_UNREADABLE"


def test_a_context_that_llama_cpp_refuses_is_refused_in_its_words(
    open_backend: OpenBackend, tmp_path: Path
) -> None:
    path = write_tiny_gguf(tmp_path / "narrow.gguf", quantized=False)
    fields = gguf.GGUFReader(path, "r+").fields
    for name, value in (
        ("attention.head_count", 4),
        ("attention.head_count_kv", 4),
        ("attention.key_length", 16),
        ("attention.value_length", 16),
        ("rope.dimension_count", 16),
    ):
        fields[f"llama.{name}"].parts[-1][0] = value
    assert answer_alone(open_backend("F16", path=path), PROMPT)
    with pytest.raises(FailedPrecondition, match="block size 32") as caught:
        open_backend("F16", path=path, kv_type="q8_0")
    assert caught.value.reason == "CONTEXT_UNAVAILABLE"
