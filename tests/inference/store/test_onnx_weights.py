"""Weights of a graph are counted from the file, whatever they are packed in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tests.support.tiny_onnx import save_model

from farthing.inference.store.onnx_weights import read_weights
from farthing.kit.errors import InvalidArgument


@pytest.mark.parametrize(("dtype", "name"), [(np.float32, "fp32"), (np.float16, "fp16")])
def test_the_count_agrees_with_the_onnx_package(
    tmp_path: Path, dtype: type[np.floating], name: str
) -> None:
    save_model(tmp_path, dtype=dtype)
    graph = tmp_path / "model.onnx"
    weights = [
        numpy_helper.to_array(tensor)
        for tensor in onnx.load(str(graph)).graph.initializer
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
    ]
    facts = read_weights(graph)
    assert facts.parameter_count == sum(array.size for array in weights)
    assert facts.precision == name


def test_weights_in_a_file_beside_the_graph_count_too(tmp_path: Path) -> None:
    save_model(tmp_path)
    inside = read_weights(tmp_path / "model.onnx")
    model = onnx.load(str(tmp_path / "model.onnx"))
    beside = tmp_path / "beside.onnx"
    onnx.save(model, str(beside), save_as_external_data=True, location="beside.onnx_data")
    assert read_weights(beside) == inside


def test_packed_weights_count_as_what_they_stand_for(tmp_path: Path) -> None:
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=64, N=32, bits=4
    )
    tensors = [
        numpy_helper.from_array(np.zeros((32, 2, 16), np.uint8), "w"),
        numpy_helper.from_array(np.zeros(64, np.float32), "s"),
        numpy_helper.from_array(np.zeros((3, 5), np.float32), "embedding"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32])
    model = helper.make_model(helper.make_graph([node], "packed", [x], [y], tensors))
    onnx.save(model, str(tmp_path / "packed.onnx"))
    facts = read_weights(tmp_path / "packed.onnx")
    assert (facts.parameter_count, facts.precision) == (64 * 32 + 15, "int4")


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200))
def test_other_bytes_are_refused_or_hold_no_weights(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "model.onnx"
    path.write_bytes(data)
    try:
        facts = read_weights(path)
    except InvalidArgument as error:
        assert "not a readable ONNX file" in error.message
    else:
        assert facts.parameter_count >= 0
