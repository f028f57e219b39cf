"""Puts dynamically quantized products into a form whose rows do not depend on each other, with the very same weights.

DynamicQuantizeLinear takes one scale for the whole tensor it is given, so a row's answer would change with its
neighbours in the step; and MatMulInteger saturates on processors without VNNI. MatMulNBits scales each row by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from farthing.cloud.graph.document import Document, NotConvertible

# Lets the kernel compute in int8 with a scale for each row and block.
_INT8_ACCURACY_LEVEL = 4


def unite_integer_products(document: Document) -> int:
    """Replaces every product of dynamically quantized values with constant int8 weights; how many there were."""
    count = 0
    for node in list(document.nodes):
        if node.op_type == "MatMulInteger":
            _replace_chain(document, node)
        elif node.op_type == "MatMulIntegerToFloat":
            x = _quantized_source(document, node.input[0])
            _replace(
                document,
                node,
                x,
                node.input[1],
                node.input[3],
                _given(node, 5),
                _given(node, 6),
            )
        elif node.op_type == "DynamicQuantizeMatMul":
            x, weight, scale = node.input[:3]
            _replace(document, node, x, weight, scale, _given(node, 3), _given(node, 4))
        else:
            continue
        count += 1
        document.index()
    return count


def _given(node: onnx.NodeProto, place: int) -> str:
    return node.input[place] if place < len(node.input) else ""


def _replace_chain(document: Document, product: onnx.NodeProto) -> None:
    """MatMulInteger → Cast → Mul(scale of x × scale of the weight)."""
    x = _quantized_source(document, product.input[0])
    cast = _only_reader(document, product.output[0], "Cast")
    rescale = _only_reader(document, cast.output[0], "Mul")
    scales = next(name for name in rescale.input if name != cast.output[0])
    combined = document.maker.get(scales)
    if combined is None or combined.op_type != "Mul":
        raise NotConvertible(f"the scale of {product.name!r} is not a product of two")
    scale = next((name for name in combined.input if name in document.weights), None)
    if scale is None:
        raise NotConvertible(f"the weight's scale of {product.name!r} is not a constant")
    _replace(document, rescale, x, product.input[1], scale, _given(product, 3), "")


def _only_reader(document: Document, name: str, kind: str) -> onnx.NodeProto:
    readers = document.readers.get(name, [])
    if len(readers) != 1 or readers[0].op_type != kind:
        raise NotConvertible(f"{name!r} is not read by one {kind} alone")
    return readers[0]


def _quantized_source(document: Document, name: str) -> str:
    maker = document.maker.get(name)
    if maker is None or maker.op_type != "DynamicQuantizeLinear":
        raise NotConvertible(f"{name!r} is not quantized by DynamicQuantizeLinear")
    return maker.input[0]


def _replace(
    document: Document,
    node: onnx.NodeProto,
    x: str,
    weight: str,
    scale: str,
    zero_point: str,
    bias: str,
) -> None:
    values = document.array(weight)
    if values.ndim != 2 or values.dtype not in (np.int8, np.uint8):
        raise NotConvertible(f"the weight {weight!r} is no matrix of 8-bit integers")
    width, columns = values.shape
    block = 128 if width % 128 == 0 else 32
    blocks = -(-width // block)
    shift = 128 if values.dtype == np.int8 else 0
    zero = document.array(zero_point) if zero_point else np.zeros(1, values.dtype)
    zeros = _per_column(zero, columns, zero_point).astype(np.int16) + shift
    scales = _per_column(document.array(scale), columns, scale)
    packed = np.repeat(zeros[:, None].astype(np.uint8), blocks * block, axis=1)
    packed[:, :width] = (values.T.astype(np.int16) + shift).astype(np.uint8)
    inputs = [
        x,
        _weight(document, "int8", packed.reshape(columns, blocks, block)),
        _weight(document, "scales", np.repeat(scales, blocks)),
    ]
    if (zeros != 128).any():
        inputs.append(_weight(document, "zeros", np.repeat(zeros.astype(np.uint8), blocks)))
    document.nodes = [other for other in document.nodes if other is not node]
    result = node.output[0]
    document.add(
        "MatMulNBits",
        inputs,
        [document.fresh("product") if bias else result],
        contrib=True,
        K=width,
        N=columns,
        bits=8,
        block_size=block,
        accuracy_level=_INT8_ACCURACY_LEVEL,
    )
    if bias:
        document.add("Add", [document.nodes[-1].output[0], bias], [result])


def _per_column(values: NDArray[Any], columns: int, name: str) -> NDArray[Any]:
    flat = values.reshape(-1)
    if flat.size not in (1, columns):
        raise NotConvertible(f"{name!r} has {flat.size} values for {columns} columns")
    return np.broadcast_to(flat, (columns,)).copy()


def _weight(document: Document, stem: str, values: NDArray[Any]) -> str:
    name = document.fresh(stem)
    document.weights[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
    return name
