"""Smaller variants: made by the libraries in processes of their own, stored with what they were made of."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.tiny_onnx import save_model, write

from farthing.inference.store import AddProgress, ModelStore
from farthing.inference.store.child import run_module
from farthing.inference.store.quantization import (
    FILE_TYPE_NUMBERS,
    GGUF_KINDS,
    variant_name,
)
from farthing.inference.store.quantize import Quantizer
from farthing.kit.errors import FailedPrecondition, InvalidArgument
from farthing.kit.testing import FakeClock


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows fill blocks of 256."""
    return write_tiny_gguf(
        tmp_path_factory.mktemp("wide") / "wide.gguf", quantized=False, width=256
    )


@pytest.fixture
def quantizer(store: ModelStore) -> Quantizer:
    clock = FakeClock(datetime(2026, 5, 1, tzinfo=UTC))
    return Quantizer(store, clock=clock, onnx_quantizer="tests.support.onnx_quantizer")


def test_every_quantization_is_the_one_llama_cpp_means() -> None:
    import llama_cpp

    for kind in GGUF_KINDS:
        assert FILE_TYPE_NUMBERS[kind] == getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")


@pytest.mark.parametrize("kind", ["q4_k_m"])
def test_a_gguf_variant_is_a_model_with_its_origin(
    store: ModelStore, quantizer: Quantizer, wide: Path, kind: str
) -> None:
    source = store.add(wide, "wide-f16")
    heard: list[AddProgress] = []
    made = quantizer.quantize("wide-f16", kind, progress=heard.append, thread_count=1)
    assert made.name == f"wide-{kind.lower()}"
    assert made.facts is not None and made.facts.quantization == kind.upper()
    assert made.size_bytes < source.size_bytes
    assert made.source == "quantized:wide-f16"
    derived = made.derived_from
    assert (derived["name"], derived["digest"]) == ("wide-f16", source.digest)
    assert made.root_digest == source.digest == store.resolve("wide-f16").root_digest
    assert derived["tool"].startswith("llama.cpp")
    assert derived["make_time"] == "2026-05-01T00:00:00+00:00"
    tensors = [p for p in heard if p.stage == "quantize"]
    assert tensors[-1].done_bytes == tensors[-1].total_bytes == len(tensors)
    assert list(store.contents.incoming.glob("*")) == []


def test_rows_that_do_not_fill_the_blocks_are_said_before_anything_starts(
    store: ModelStore, quantizer: Quantizer, tmp_path: Path
) -> None:
    store.add(write_tiny_gguf(tmp_path / "narrow.gguf", quantized=False), "narrow")
    with pytest.raises(
        InvalidArgument, match=r"packs 256 .*: 64\); use Q8_0, .*Q4_0"
    ) as caught:
        quantizer.quantize("narrow", "Q4_K_M")
    assert caught.value.field == "to"
    assert quantizer.quantize("narrow", "Q4_0").facts is not None


def test_a_model_that_is_quantized_already_is_refused_with_what_to_take(
    store: ModelStore, quantizer: Quantizer, wide: Path
) -> None:
    store.add(wide, "wide")
    quantizer.quantize("wide", "Q8_0", new_name="small")
    with pytest.raises(
        InvalidArgument, match=r"quantized already \(Q8_0\).*quantize wide inst"
    ):
        quantizer.quantize("small", "Q4_0")
    store.remove("wide")
    with pytest.raises(InvalidArgument, match="add the unquantized one"):
        quantizer.quantize("small", "Q4_0")
    assert store.resolve("small").root_digest != store.resolve("small").digest


def test_an_unknown_quantization_lists_those_there_are(
    store: ModelStore, quantizer: Quantizer, wide: Path
) -> None:
    store.add(wide, "wide")
    with pytest.raises(InvalidArgument, match="use one of Q8_0, Q6_K"):
        quantizer.quantize("wide", "int8")


def test_too_little_time_ends_the_process_and_leaves_nothing(
    store: ModelStore, quantizer: Quantizer, wide: Path
) -> None:
    store.add(wide, "wide")
    with pytest.raises(FailedPrecondition, match=r"took longer than 0\.01 s"):
        quantizer.quantize("wide", "Q8_0", timeout_s=0.01)
    assert list(store.contents.incoming.glob("*")) == []
    assert [model.name for model in store.list()] == ["wide"]


def test_whoever_stops_listening_ends_the_process(
    store: ModelStore, quantizer: Quantizer, wide: Path
) -> None:
    store.add(wide, "wide")

    def stop(progress: AddProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantizer.quantize("wide", "Q8_0", progress=stop)
    assert list(store.contents.incoming.glob("*")) == []


def test_the_card_speaks_of_the_new_variant(
    store: ModelStore, quantizer: Quantizer, tmp_path: Path
) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", quantized=False)
    quality = {"t": {"easy": {"exact_match_ratio": 0.9, "n": 10}}}
    write(
        tmp_path / "model.json",
        {"name": "m", "license": "MIT", "bytes_per_token": 3.0, "task_quality": quality},
    )
    store.add(path)
    made = quantizer.quantize("m", "Q8_0")
    assert made.card == {
        "name": "m",
        "license": "MIT",
        "bytes_per_token": 3.0,
        "quantization": "Q8_0",
    }
    assert made.provenance["licence"] == "MIT"


def test_an_onnx_variant_is_made_by_the_cloud_tiers_quantizer(
    store: ModelStore, quantizer: Quantizer, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    save_model(folder)
    source = store.add(folder, "tiny")
    made = quantizer.quantize("tiny", "int8")
    assert (made.name, made.format) == ("tiny-int8", "onnx")
    assert made.facts is not None and made.facts.quantization == "int8"
    assert made.root_digest == source.digest
    assert (made.path / "tokenizer.json").stat().st_ino == (
        source.path / "tokenizer.json"
    ).stat().st_ino
    with pytest.raises(FailedPrecondition, match="int4 is not for me"):
        quantizer.quantize("tiny", "int4")
    with pytest.raises(FailedPrecondition, match=r"pip install 'farthing\[cloud\]'"):
        Quantizer(store, onnx_quantizer="farthing.nowhere.quantize").quantize("tiny", "int8")


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("chat-f16", "Q4_0", "chat-q4_0"),
        ("chat.F16", "Q4_K_M", "chat-q4_k_m"),
        ("chat", "int8", "chat-int8"),
        ("f16", "Q8_0", "f16-q8_0"),
        ("a" * 64, "Q8_0", "a" * 59 + "-q8_0"),
    ],
)
def test_the_variants_name_has_the_quantization_in_it(
    name: str, kind: str, expected: str
) -> None:
    assert variant_name(name, kind) == expected


def test_a_process_is_heard_line_by_line_and_its_last_words_are_kept() -> None:
    heard: list[str] = []
    end = run_module("this", [], timeout_s=30, on_line=heard.append)
    assert end.status == 0 and "Zen" in heard[0]
    end = run_module("no_such_module", [], timeout_s=30, on_line=heard.append)
    assert end.status == 1 and "No module named no_such_module" in end.last_words
