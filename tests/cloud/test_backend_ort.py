"""The ONNX Runtime backend computes what the weights say, however the tokens arrive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from farthing.inference.backend import ChatMessage, Interrupted
from tests.cloud.conftest import Tiny
from tests.support.tiny_onnx import CONTEXT, HEAD, HEADS, LAYERS, save_model, write

from farthing.cloud.backend_ort import OrtBackend
from farthing.cloud.plan import LoadPlan
from farthing.cloud.runtime import load_runtime, open_session
from farthing.inference.model import Capability
from farthing.inference.store import ModelStore
from farthing.kit.errors import FailedPrecondition, InvalidArgument, Unimplemented

PROMPT = [5, 9, 200, 17, 3, 88, 120, 44, 250, 61, 7, 19, 33, 140, 76, 90, 101, 102, 103, 8]


def greedy(backend: OrtBackend, prompt: list[int], count: int) -> list[int]:
    backend.rewind(0)
    chunk = backend.prefill_chunk_token_count
    for start in range(0, len(prompt), chunk):
        logits = backend.prefill(prompt[start : start + chunk])
    out = [int(logits.argmax())]
    while len(out) < count:
        out.append(int(backend.decode(out[-1]).argmax()))
    return out


def plain_run(folder: Path, tokens: list[int]) -> Any:
    """The graph's own answer to all tokens at once, without bindings and without a cache."""
    session = load_runtime().InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    count = len(tokens)
    feeds = {
        "input_ids": np.array([tokens]),
        "attention_mask": np.ones((1, count), np.int64),
        "position_ids": np.arange(count)[None],
    }
    for layer in range(LAYERS):
        for part in ("key", "value"):
            feeds[f"past_key_values.{layer}.{part}"] = np.zeros((1, HEADS, 0, HEAD), np.float32)
    return session.run(["logits"], feeds)[0][0, -1]


def test_greedy_answers_equal_the_reference_in_numpy(tiny: Tiny, backend: OrtBackend) -> None:
    assert greedy(backend, PROMPT, 40) == tiny.decoder.greedy(PROMPT, 40)


def test_bound_steps_equal_a_plain_run_over_the_whole_sequence(
    tiny: Tiny, backend: OrtBackend
) -> None:
    backend.rewind(0)
    backend.prefill(PROMPT[:16])
    backend.prefill(PROMPT[16:])
    logits = backend.decode(42)
    np.testing.assert_allclose(
        logits, plain_run(tiny.folder, [*PROMPT, 42]), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_the_chunk_does_not_change_the_answer(tiny: Tiny, chunk: int) -> None:
    backend = OrtBackend(tiny.plan(chunk))
    assert greedy(backend, PROMPT, 20) == tiny.decoder.greedy(PROMPT, 20)
    backend.close()


def test_a_rewind_keeps_whole_chunks_and_goes_on_as_if_computed_anew(
    tiny: Tiny, backend: OrtBackend
) -> None:
    backend.rewind(0)
    backend.prefill(PROMPT[:16])
    backend.prefill(PROMPT[16:])
    backend.decode(1)
    assert backend.rewind(16) == 16
    logits = backend.prefill([11, 12])
    expected = tiny.decoder.logits([*PROMPT[:16], 11, 12])[-1]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    assert backend.rewind(15) == 0


def test_checkpoints_hold_at_most_twice_the_sequence(tiny: Tiny) -> None:
    backend = OrtBackend(tiny.plan(chunk=4))
    for _ in range(20):
        backend.prefill([7, 8, 9, 10])
    kept = [n for n in range(80, 0, -1) if backend.rewind(n) == n]
    assert kept == [80, 64, 32, 16, 8, 4]
    backend.close()


def test_an_interrupted_step_raises_until_the_next_rewind(
    tiny: Tiny, backend: OrtBackend
) -> None:
    backend.rewind(0)
    backend.prefill(PROMPT[:16])
    backend.interrupt()
    with pytest.raises(Interrupted):
        backend.decode(1)
    with pytest.raises(Interrupted):
        backend.prefill([1])
    assert backend.rewind(16) == 16
    expected = tiny.decoder.logits([*PROMPT[:16], 1])[-1]
    np.testing.assert_allclose(backend.decode(1), expected, rtol=1e-3, atol=1e-4)


def test_a_terminated_run_of_the_library_counts_as_interrupted(backend: OrtBackend) -> None:
    backend.rewind(0)
    decoder = backend._decoder
    decoder._options.terminate = True
    feeds = decoder._feeds([1, 2])
    with pytest.raises(Exception, match="terminate"):
        decoder._session.run_with_iobinding(
            decoder._bind(feeds, logits_device="cpu"), decoder._options
        )


@pytest.mark.parametrize("position_ids", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_graphs_with_and_without_position_ids_in_both_precisions(
    tmp_path: Path, dtype: type[np.floating[Any]], position_ids: bool
) -> None:
    decoder = save_model(tmp_path, dtype=dtype, position_ids=position_ids)
    backend = OrtBackend(Tiny(tmp_path, decoder).plan())
    backend.prefill(PROMPT[:16])
    logits = backend.prefill(PROMPT[16:])
    tolerance = 1e-3 if dtype is np.float32 else 0.05
    np.testing.assert_allclose(logits, decoder.logits(PROMPT)[-1], atol=tolerance)
    assert logits.dtype == np.float32
    assert backend.model.quantization == ("fp32" if dtype is np.float32 else "fp16")
    backend.close()


def test_the_extra_inputs_of_merged_and_newer_exports_are_fed(
    tiny: Tiny, tmp_path: Path
) -> None:
    import onnx

    save_model(tmp_path)
    model = onnx.load(str(tmp_path / "model.onnx"))
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("use_cache_branch", onnx.TensorProto.BOOL, [1])
    )
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("num_logits_to_keep", onnx.TensorProto.INT64, [])
    )
    onnx.save(model, str(tmp_path / "model.onnx"))
    backend = OrtBackend(Tiny(tmp_path, tiny.decoder).plan())
    assert greedy(backend, PROMPT, 10) == tiny.decoder.greedy(PROMPT, 10)
    backend.close()


def test_the_graph_that_is_named_is_the_graph_that_runs(tmp_path: Path) -> None:
    save_model(tmp_path, graph_path="onnx/model.onnx")
    save_model(tmp_path, graph_path="onnx/model_fp16.onnx", dtype=np.float16)
    stored = ModelStore(tmp_path / "store").locate(tmp_path / "onnx/model_fp16.onnx")
    backend = OrtBackend(LoadPlan(stored.path, "half", stored.digest, {}, device="cpu"))
    assert backend.model.quantization == "fp16"
    backend.close()


def test_the_description_comes_from_the_folder(tiny: Tiny, backend: OrtBackend) -> None:
    model = backend.model
    assert (model.format, model.context_length) == ("onnx", CONTEXT)
    assert model.vocab_size == tiny.decoder.vocab_size
    assert model.eos_ids == {0}
    assert model.capabilities == {Capability.CHAT, Capability.LOGPROBS}


def test_a_card_brings_the_qualities_of_this_graph(tiny: Tiny) -> None:
    quality = {"math": {"easy": {"exact_match_ratio": 0.5, "n": 10}}}
    card = {
        "params_count": 1234,
        "artefacts": {
            "onnx": {"path": "model.onnx", "task_quality": quality},
            "gguf": {"path": "model.gguf", "task_quality": {}},
        },
    }
    backend = OrtBackend(LoadPlan(tiny.folder, "tiny", "d" * 64, card, device="cpu"))
    assert backend.model.parameter_count == 1234
    qualities = {q.task: q.quality_ratio for q in backend.model.qualities}
    assert qualities == {"": 0.5, "math": 0.5, "math/easy": 0.5}
    backend.close()


def test_chat_messages_are_rendered_by_the_folders_template(backend: OrtBackend) -> None:
    text = backend.render_chat([ChatMessage("user", "hello")])
    assert text == "<|user|>hello<|end|><|assistant|>"
    assert backend.tokenize(text, special=True)[0] == 2


def test_a_template_in_a_file_of_its_own_wins(tiny: Tiny, tmp_path: Path) -> None:
    save_model(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    backend = OrtBackend(Tiny(tmp_path, tiny.decoder).plan())
    assert backend.render_chat([ChatMessage("user", "hello")]) == "hello!"
    backend.close()


def test_without_a_template_only_prompts_are_taken(tiny: Tiny, tmp_path: Path) -> None:
    save_model(tmp_path)
    write(tmp_path / "tokenizer_config.json", {"eos_token": "<|end|>"})
    backend = OrtBackend(Tiny(tmp_path, tiny.decoder).plan())
    assert Capability.CHAT not in backend.model.capabilities
    with pytest.raises(Unimplemented, match="prompt instead"):
        backend.render_chat([ChatMessage("user", "hello")])
    backend.close()


def test_the_end_token_is_found_by_its_text_when_no_file_numbers_it(
    tiny: Tiny, tmp_path: Path
) -> None:
    save_model(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    write(tmp_path / "config.json", {"max_position_embeddings": 64})
    backend = OrtBackend(Tiny(tmp_path, tiny.decoder).plan())
    assert backend.model.eos_ids == {0}
    backend.close()
    write(tmp_path / "tokenizer_config.json", {})
    with pytest.raises(FailedPrecondition, match="no end token"):
        OrtBackend(Tiny(tmp_path, tiny.decoder).plan())


def test_json_schemas_are_refused_as_unimplemented(backend: OrtBackend) -> None:
    with pytest.raises(Unimplemented, match="without JSON schemas"):
        backend.constrain("{}")


def test_where_cuda_does_not_come_up_the_cpu_is_taken_with_the_reason(tiny: Tiny) -> None:
    opened = open_session(tiny.folder / "model.onnx", wish="auto", thread_count=1)
    assert opened.device_name
    assert (opened.device == "cuda") == (opened.why_not_cuda == "")


def test_a_required_gpu_is_not_replaced_by_the_cpu(tiny: Tiny) -> None:
    opened = open_session(tiny.folder / "model.onnx", wish="auto", thread_count=1)
    if opened.device == "cuda":
        pytest.skip("CUDA works here")
    with pytest.raises(FailedPrecondition, match="a GPU is required"):
        open_session(tiny.folder / "model.onnx", wish="cuda", thread_count=1)


def test_a_file_that_is_no_graph_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(InvalidArgument, match="cannot be opened"):
        open_session(tmp_path / "model.onnx", wish="cpu", thread_count=1)


def test_the_library_is_loaded_with_its_uploader_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    load_runtime()
    import os

    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_closing_twice_is_fine(tiny: Tiny) -> None:
    backend = OrtBackend(tiny.plan())
    backend.close()
    backend.close()
