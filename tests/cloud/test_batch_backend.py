"""The batch backend opens models, computes what their weights say, and says clearly what it cannot do."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.cloud.conftest import DEMO, PROMPTS, Tiny, greedy_together, slots_plan
from tests.support.tiny_gqa import save_grouped_model
from tests.support.tiny_onnx import CONTEXT, Shape, TinyDecoder, build_graph, save_model

from farthing.cloud.batch_backend import OrtBatchBackend
from farthing.cloud.graph import convert
from farthing.cloud.quantize import QuantizationKind, quantize_onnx
from farthing.inference.batch_backend import ChatMessage, SlotWork, StepOutput
from farthing.inference.model import Capability
from farthing.kit.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    Unimplemented,
)


@pytest.fixture(scope="module")
def demo() -> Iterator[OrtBatchBackend]:
    opened = OrtBatchBackend(slots_plan(DEMO, slot_count=8))
    yield opened
    opened.close()


def reference() -> list[tuple[list[int], list[int]]]:
    recorded = json.loads((DEMO / "reference_greedy.json").read_text(encoding="utf-8"))
    return [(one["prompt_ids"], one["answer_ids"]) for one in recorded["sequences"]]


def agreed_count(backend: OrtBatchBackend) -> int:
    """How many of the recorded greedy answers come out, eight requests at a time."""
    known, count = reference(), 0
    for start in range(0, len(known), 8):
        part = known[start : start + 8]
        longest = max(len(answer) for _, answer in part)
        answers = greedy_together(backend, [prompt for prompt, _ in part], longest)
        count += sum(found == answer for found, (_, answer) in zip(answers, part, strict=True))
    return count


def test_greedy_answers_of_the_demo_model_are_those_of_the_training_framework(
    demo: OrtBatchBackend,
) -> None:
    assert demo.how == "grouped attention with its rotation, over slots"
    assert agreed_count(demo) == len(reference())


@pytest.mark.parametrize(("kind", "least"), [("int8", 48), ("int8-dynamic", 47), ("int4", 46)])
def test_quantized_weights_answer_nearly_as_the_original(
    tmp_path: Path, kind: QuantizationKind, least: int
) -> None:
    quantize_onnx(DEMO, tmp_path / kind, kind)
    backend = OrtBatchBackend(slots_plan(tmp_path / kind, slot_count=8))
    assert agreed_count(backend) >= least
    assert backend.model.quantization == kind.partition("-")[0]
    backend.close()


@pytest.mark.parametrize(
    "shape", [Shape(head=16), Shape(), Shape(head=16, window=5), Shape(score_cap=0.5)]
)
def test_answers_are_those_of_the_reference_in_numpy(tmp_path: Path, shape: Shape) -> None:
    decoder = save_model(tmp_path, shape=shape)
    check_against(decoder, tmp_path)


def check_against(decoder: TinyDecoder, folder: Path) -> None:
    backend = OrtBatchBackend(slots_plan(folder))
    answers = greedy_together(backend, PROMPTS, 20)
    backend.close()
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert answer == decoder.greedy(prompt, len(answer))


@pytest.mark.parametrize("packed", [True, False])
def test_a_graph_with_grouped_attention_computes_over_slots(
    tmp_path: Path, packed: bool
) -> None:
    check_against(save_grouped_model(tmp_path, packed=packed), tmp_path)


def test_a_graph_that_cannot_be_given_slots_is_served_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_model(tmp_path, shape=Shape(score_cap=0.5))
    with caplog.at_level(logging.WARNING, "farthing.cloud"):
        backend = OrtBatchBackend(slots_plan(tmp_path))
    (record,) = caplog.records
    assert "one after the other" in record.message
    assert "something else than causal attention" in record.__dict__["finding"]
    assert "its own form" in backend.how
    backend.close()


@pytest.mark.parametrize(
    ("score_cap", "device_tensors"), [(0.0, False), (0.0, True), (0.5, False)]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("read", [lambda output: output.best(), lambda output: output.row(1)])
def test_what_is_not_a_number_is_never_an_answer_and_a_reset_leaves_nothing_of_it(
    tmp_path: Path,
    score_cap: float,
    device_tensors: bool,
    value: float,
    read: Callable[[StepOutput], object],
) -> None:
    shape, bad_token = Shape(head=16, score_cap=score_cap), 200
    decoder = save_model(tmp_path, shape=shape)
    prompt = [token for token in PROMPTS[2] if token != bad_token]
    expected = decoder.greedy(prompt, 6)
    decoder.weights["embed"][bad_token] = value
    graph = build_graph(decoder, dtype=np.float32, position_ids=True)
    onnx.save(graph, str(tmp_path / "model.onnx"))
    backend = OrtBatchBackend(slots_plan(tmp_path), device_tensors=device_tensors)
    output = backend.step([SlotWork(0, 0, prompt), SlotWork(1, 0, [*prompt, bad_token, 3])])
    with pytest.raises(Internal) as caught:
        read(output)
    assert caught.value.reason == "NO_TOKEN_POSSIBLE"
    backend.reset()
    output = backend.step([SlotWork(1, 0, [*prompt, bad_token], wanted_count=0)])
    assert len(output.best()) == 0  # nothing was asked for
    assert greedy_together(backend, [prompt, prompt], 6) == [expected, expected]
    backend.close()


def test_logits_of_a_prompts_every_token_are_those_of_the_reference(tmp_path: Path) -> None:
    decoder = save_model(tmp_path, shape=Shape(head=16))
    backend = OrtBatchBackend(slots_plan(tmp_path))
    prompt = PROMPTS[3]
    output = backend.step(
        [
            SlotWork(0, 0, PROMPTS[0], 0),
            SlotWork(1, 0, prompt, len(prompt)),
            SlotWork(2, 0, [4]),
        ]
    )
    assert output.row_count == len(prompt) + 1
    rows = np.stack([output.row(n) for n in range(output.row_count)])
    np.testing.assert_allclose(rows[:-1], decoder.logits(prompt), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(rows[-1:], decoder.logits([4]), rtol=1e-3, atol=1e-3)
    backend.close()


def test_a_slot_can_be_filled_to_its_last_token_beside_others(tmp_path: Path) -> None:
    decoder = save_model(tmp_path, shape=Shape(head=16, context=24))
    backend = OrtBatchBackend(slots_plan(tmp_path))
    full = [(7 * n) % 250 + 1 for n in range(24)]
    backend.step([SlotWork(0, 0, PROMPTS[0]), SlotWork(1, 0, full), SlotWork(2, 0, PROMPTS[1])])
    # The full slot lies between two that go on, and is idle.
    (a, b) = backend.step([SlotWork(0, 6, [5]), SlotWork(2, 3, [6])]).best()
    assert [int(a), int(b)] == [
        decoder.greedy([*PROMPTS[0], 5], 1)[0],
        decoder.greedy([*PROMPTS[1], 6], 1)[0],
    ]
    (last,) = backend.step([SlotWork(1, 23, full[23:])]).best()
    assert int(last) == decoder.greedy(full, 1)[0]
    backend.close()


def test_a_graph_that_answers_otherwise_in_mixed_runs_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = save_model(tmp_path, shape=Shape(head=16))
    monkeypatch.setattr(convert, "mixes", lambda *_: False)
    backend = OrtBatchBackend(slots_plan(tmp_path))
    assert not backend.layout.mixes_prompts
    assert backend.layout.groups_prompts
    backend.close()
    check_against(decoder, tmp_path)


@pytest.mark.parametrize(
    "work",
    [
        SlotWork(0, 1, [5]),
        SlotWork(0, 0, [5] * (CONTEXT + 1)),
        SlotWork(0, 0, [10**9]),
    ],
)
def test_work_that_fits_no_slot_is_refused_and_a_reset_makes_it_whole(
    tiny: Tiny, work: SlotWork
) -> None:
    backend = OrtBatchBackend(slots_plan(tiny.folder))
    with pytest.raises(Internal) as caught:
        backend.step([work])
    assert caught.value.reason == "ENGINE_STEP_FAILED"
    backend.reset()
    assert greedy_together(backend, PROMPTS[:1], 5)[0] == tiny.decoder.greedy(PROMPTS[0], 5)
    backend.close()


def test_adapters_are_refused_as_unimplemented(tiny: Tiny) -> None:
    backend = OrtBatchBackend(slots_plan(tiny.folder))
    with pytest.raises(Unimplemented, match="leave the adapter out"):
        backend.step([SlotWork(0, 0, [5])], adapter="polite")
    backend.close()


def test_a_closed_backend_closes_again_and_computes_no_more(tiny: Tiny) -> None:
    backend = OrtBatchBackend(slots_plan(tiny.folder))
    backend.close()
    backend.close()
    with pytest.raises(Internal, match="closed"):
        backend.step([SlotWork(0, 0, [5])])


def test_layout_and_description_come_from_the_folder_and_the_plan(tiny: Tiny) -> None:
    backend = OrtBatchBackend(
        slots_plan(tiny.folder, step_token_capacity=32, context_length=100)
    )
    layout, model, shape = backend.layout, backend.model, tiny.decoder.shape
    assert (layout.slot_count, layout.slot_token_capacity, layout.token_capacity) == (
        6,
        100,
        600,
    )
    assert layout.step_token_capacity == 32
    assert layout.token_bytes == 2 * shape.layers * shape.heads * shape.head * 4
    assert backend.step([SlotWork(0, 0, [1, 2, 3])]).row_count == 1
    assert backend.save(0, 3).size_bytes == 3 * layout.token_bytes
    assert (model.context_length, model.format) == (100, "onnx")
    assert model.vocab_size == tiny.decoder.vocab_size
    assert model.capabilities == {Capability.CHAT, Capability.JSON_SCHEMA, Capability.LOGPROBS}
    backend.close()


def test_the_codec_reads_and_writes_the_models_texts(tiny: Tiny) -> None:
    backend = OrtBatchBackend(slots_plan(tiny.folder))
    codec = backend.codec
    text = codec.render_chat([ChatMessage("user", "the order")])
    assert text == "<|user|>the order<|end|><|assistant|>"
    tokens = codec.tokenize(text, special=True)
    assert b"".join(codec.token_bytes(token) for token in tokens) == b"the order"
    assert "<|end|>" in codec.special_texts
    assert backend.model.eos_ids == {0}
    backend.close()


def test_a_halved_cache_takes_half_the_memory(tiny: Tiny) -> None:
    whole, half = (
        OrtBatchBackend(slots_plan(tiny.folder, kv_type=kind)) for kind in ("auto", "fp16")
    )
    assert half.layout.token_bytes * 2 == whole.layout.token_bytes
    whole.close()
    half.close()


def test_slots_are_as_many_as_a_memory_limit_allows(tiny: Tiny) -> None:
    backend = OrtBatchBackend(slots_plan(tiny.folder, slot_count=0, memory_limit_bytes=1 << 20))
    assert 1 <= backend.layout.slot_count < 16
    backend.close()


def test_a_memory_limit_that_is_too_small_is_refused_with_the_numbers(tiny: Tiny) -> None:
    with pytest.raises(FailedPrecondition, match="and the limit is 200000") as caught:
        OrtBatchBackend(slots_plan(tiny.folder, slot_count=12, memory_limit_bytes=200_000))
    assert caught.value.reason == "MEMORY_LIMIT_EXCEEDED"
    assert int(caught.value.metadata["needed_bytes"]) > 200_000


def test_a_wish_for_slots_is_kept_without_a_limit(tiny: Tiny) -> None:
    backend = OrtBatchBackend(slots_plan(tiny.folder, slot_count=100))
    assert backend.layout.slot_count == 100
    backend.close()


def test_a_required_gpu_is_not_replaced_by_the_cpu(tiny: Tiny) -> None:
    from dataclasses import replace

    plan = slots_plan(tiny.folder)
    auto = OrtBatchBackend(replace(plan, device="auto"))
    device = auto.opened.device
    assert (device == "cuda") == (auto.opened.why_not_cuda == "")
    auto.close()
    if device == "cuda":
        pytest.skip("CUDA works here")
    with pytest.raises(FailedPrecondition, match="a GPU is required"):
        OrtBatchBackend(replace(plan, device="cuda"))


def test_a_model_without_a_context_length_asks_for_one(tmp_path: Path) -> None:
    save_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["max_position_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FailedPrecondition, match="FARTHING_CLOUD_CONTEXT"):
        OrtBatchBackend(slots_plan(tmp_path))
    backend = OrtBatchBackend(slots_plan(tmp_path, context_length=64))
    assert backend.layout.slot_token_capacity == 64
    backend.close()


def test_a_file_that_is_no_graph_is_a_clear_error(tmp_path: Path) -> None:
    save_model(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(InvalidArgument, match="cannot be opened"):
        OrtBatchBackend(slots_plan(tmp_path))


def test_without_the_onnx_package_the_pip_line_is_told(tiny: Tiny) -> None:
    program = (
        "import sys; sys.modules['onnx'] = None\n"
        "from pathlib import Path\n"
        "from farthing.cloud.batch_backend import OrtBatchBackend\n"
        "from farthing.cloud.plan import LoadPlan\n"
        f"OrtBatchBackend(LoadPlan(Path({str(tiny.folder)!r}), 'tiny', '', {{}}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "pip install 'farthing[cloud]'" in done.stderr
