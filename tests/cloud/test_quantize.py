"""Quantized copies are smaller, compute nearly the same, and are made whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import cast, get_args

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from tests.cloud.conftest import DEMO
from tests.support.tiny_onnx import Shape, save_model

from farthing.cloud.graph.blockwise import BLOCK, Rounded, round_to_int4, round_to_int8
from farthing.cloud.quantize import QuantizationKind, quantize_onnx
from farthing.cloud.runtime import load_runtime
from farthing.inference.store.onnx_weights import read_weights
from farthing.kit.errors import AlreadyExists, InvalidArgument

KINDS = get_args(QuantizationKind)


def restored(rounded: Rounded, rows: int) -> np.ndarray:
    """The weights that the kernel computes with, by the layout that the operator documents."""
    columns, blocks, size = rounded.packed.shape
    if size == BLOCK:
        values = rounded.packed.astype(np.float32)
        zeros = np.full((columns, blocks), 128.0, np.float32)
    else:
        values = np.empty((columns, blocks, BLOCK), np.float32)
        values[..., 0::2], values[..., 1::2] = rounded.packed & 15, rounded.packed >> 4
        assert rounded.zeros is not None
        pairs = rounded.zeros.reshape(columns, -1)
        zeros = np.empty((columns, 2 * pairs.shape[1]), np.float32)
        zeros[:, 0::2], zeros[:, 1::2] = pairs & 15, pairs >> 4
        zeros = zeros[:, :blocks]
    scales = rounded.scales.reshape(columns, blocks)
    weight = (values - zeros[..., None]) * scales[..., None]
    result: np.ndarray = weight.reshape(columns, -1)[:, :rows].T
    return result


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 100), st.integers(1, 20), st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_no_weight_moves_by_more_than_its_block_allows(
    rows: int, columns: int, seed: int, size: float
) -> None:
    weight = np.random.default_rng(seed).standard_normal((rows, columns), np.float32)
    weight *= np.float32(size)
    largest = np.abs(weight).max()
    assert np.abs(restored(round_to_int8(weight), rows) - weight).max() <= largest / 127 * 0.51
    plain = restored(round_to_int4(weight, fitted=False), rows)
    # Zero stays exact, so the range may be off by half a step at each end.
    assert np.abs(plain - weight).max() <= 2 * largest / 15 * 1.01
    fitted = restored(round_to_int4(weight, fitted=True), rows)
    assert np.square(fitted - weight).sum() <= np.square(plain - weight).sum() * 1.0001


def test_fitting_beats_plain_rounding() -> None:
    weight = np.random.default_rng(1).standard_normal((512, 64), np.float32)
    errors = [
        float(np.square(restored(round_to_int4(weight, fitted=f), 512) - weight).mean())
        for f in (False, True)
    ]
    assert errors[1] < 0.94 * errors[0]


@pytest.mark.parametrize("kind", [round_to_int8, lambda w: round_to_int4(w, fitted=True)])
def test_the_library_computes_with_the_rounded_weights(kind: object) -> None:
    draw = np.random.default_rng(2)
    weight = draw.standard_normal((96, 40), np.float32)
    rounded = kind(weight)  # type: ignore[operator]
    inputs = {"packed": rounded.packed, "scales": rounded.scales}
    if rounded.zeros is not None:
        inputs["zeros"] = rounded.zeros
    node = helper.make_node(
        "MatMulNBits", ["x", *inputs], ["y"], domain="com.microsoft",
        K=96, N=40, bits=8 if rounded.zeros is None else 4, block_size=32,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", 1, ["n", 96])],
        [helper.make_tensor_value_info("y", 1, ["n", 40])],
        [onnx.numpy_helper.from_array(values, name) for name, values in inputs.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = load_runtime().InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = draw.standard_normal((3, 96), np.float32)
    np.testing.assert_allclose(
        session.run(None, {"x": x})[0], x @ restored(rounded, 96), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_smaller_whole_and_leaves_the_original_alone(
    tmp_path: Path, kind: QuantizationKind
) -> None:
    before = {p.name: p.read_bytes() for p in DEMO.iterdir()}
    quantize_onnx(DEMO, tmp_path / "copy", kind)
    assert {p.name: p.read_bytes() for p in DEMO.iterdir()} == before
    made = {p.name for p in (tmp_path / "copy").iterdir()}
    assert made == {
        "model.onnx",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    graph = tmp_path / "copy/model.onnx"
    assert graph.stat().st_size < 0.4 * (DEMO / "model.onnx").stat().st_size
    assert read_weights(graph).precision == kind[:4].removesuffix("-")
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_the_last_projection_keeps_8_bits_in_the_better_int4(tmp_path: Path) -> None:
    quantize_onnx(DEMO, tmp_path / "copy", "int4")
    model = onnx.load(str(tmp_path / "copy/model.onnx"))
    bits = {
        node.output[0]: helper.get_attribute_value(entry)
        for node in model.graph.node
        for entry in node.attribute
        if entry.name == "bits"
    }
    assert bits.pop("logits") == 8
    assert set(bits.values()) == {4}


def test_fp16_weights_are_quantized_where_the_kind_allows(tmp_path: Path) -> None:
    save_model(tmp_path / "half", dtype=np.float16, shape=Shape(head=16))
    quantize_onnx(tmp_path / "half", tmp_path / "int8", "int8")
    with pytest.raises(InvalidArgument, match="int8-dynamic takes fp32 weights only"):
        quantize_onnx(tmp_path / "half", tmp_path / "dynamic", "int8-dynamic")
    assert not (tmp_path / "dynamic").exists()


def test_bad_wishes_name_the_fix(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="use one of int8"):
        quantize_onnx(DEMO, tmp_path / "copy", cast(QuantizationKind, "int3"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thing").touch()
    with pytest.raises(AlreadyExists, match="an empty folder"):
        quantize_onnx(DEMO, tmp_path / "full", "int8")
    quantize_onnx(DEMO, tmp_path / "copy", "int4-rtn")
    with pytest.raises(InvalidArgument, match="no product has constant weights"):
        quantize_onnx(tmp_path / "copy", tmp_path / "again", "int4")


def test_as_a_process_it_says_what_is_wrong_on_its_last_line(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "farthing.cloud.quantize", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run(str(DEMO), str(tmp_path / "copy"), "int8").returncode == 0
    refused = run(str(DEMO), str(tmp_path / "copy"), "int8")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith(str(tmp_path / "copy"))
    assert run("alone").returncode == 2
