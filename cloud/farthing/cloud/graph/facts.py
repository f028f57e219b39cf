"""Reads a decoder's inputs and outputs from its file, without opening a session."""

from __future__ import annotations

from pathlib import Path

import onnx

from farthing.cloud.graph.document import NotConvertible, check_names
from farthing.inference.store.onnx_folder import ModelConfig
from farthing.inference.store.onnx_signature import DecoderSignature, GraphValue, read_signature


def graph_signature(graph: Path, config: ModelConfig) -> DecoderSignature:
    """Unimplemented when it is no decoder with a cache; NotConvertible when the file cannot be parsed."""
    try:
        model = onnx.load(str(graph), load_external_data=False)
    except Exception as error:  # protobuf and onnx raise several kinds
        raise NotConvertible(f"{graph.name} cannot be parsed: {error}") from error
    check_names(model.graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    return read_signature(
        [_value(info) for info in model.graph.input if info.name not in weights],
        [_value(info) for info in model.graph.output],
        head_count=config.head_count,
        head_dimension=config.head_dimension,
    )


def _value(info: onnx.ValueInfoProto) -> GraphValue:
    tensor = info.type.tensor_type
    try:
        name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    except ValueError:
        name = "undefined"
    shape = tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None
        for d in tensor.shape.dim
    )
    return GraphValue(info.name, shape, f"tensor({name})")
