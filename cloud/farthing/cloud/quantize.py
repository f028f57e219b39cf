"""Makes a smaller model out of an ONNX folder: its products' weights in 8 or 4 bits, everything else as it was.

`python -m farthing.cloud.quantize SOURCE TARGET KIND` does it in a process of its own, and says on stderr why not.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from farthing.cloud.graph.blockwise import BLOCK, Rounded, round_to_int4, round_to_int8
from farthing.cloud.graph.cores import value_dependent
from farthing.cloud.graph.document import Document, NotConvertible, attribute
from farthing.cloud.graph.normalise import normalised
from farthing.cloud.graph.weights import bytes_of, gather_into
from farthing.inference.store.onnx_folder import (
    CONFIG_FILES,
    find_graph,
    folder_of,
    read_config,
)
from farthing.kit.errors import AlreadyExists, FarthingError, InvalidArgument

QuantizationKind = Literal["int8", "int8-dynamic", "int4", "int4-rtn"]

# Lets the CPU's kernel round activations to 8 bits too, each row by itself.
_INT8_ACCURACY_LEVEL = 4
# Protobuf holds 2 GB at most; larger models keep their weights beside the graph, as exporters do.
_LARGEST_IN_GRAPH_BYTES = 1 << 30
_LOGITS = "logits"


def quantize_onnx(source_dir: Path, target_dir: Path, kind: QuantizationKind) -> None:
    """Writes a quantized copy of the model in `source_dir` to `target_dir`, which may not hold anything yet.

    `int8` and `int4` keep 8 or 4 bits of each weight, with a scale for each 32; `int4` fits scales, and keeps the last
    projection in 8 bits; `int4-rtn` rounds everything plainly. `int8-dynamic` is ONNX's own form with whole columns and
    activations of one scale; it is for other runtimes and less exact. InvalidArgument when the model cannot be
    quantized so, AlreadyExists when `target_dir` holds something.
    """
    if kind not in get_args(QuantizationKind):
        raise InvalidArgument(
            f"{kind!r} is no quantization; use one of {', '.join(get_args(QuantizationKind))}",
            field="kind",
            reason="QUANTIZATION_UNKNOWN",
            metadata={"kind": kind},
        )
    if target_dir.exists() and any(target_dir.iterdir()):
        raise AlreadyExists(
            f"{target_dir} holds something already; name an empty folder or a new one",
            reason="TARGET_NOT_EMPTY",
            metadata={"path": str(target_dir)},
        )
    graph = find_graph(source_dir)
    folder = folder_of(graph)
    read_config(folder)  # a folder without one would be refused later, by the engine
    target_dir.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f".{target_dir.name}-", dir=target_dir.parent))
    try:
        _write(graph, making, kind)
        for name in CONFIG_FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, making / name)
        making.chmod(0o755)
        if target_dir.exists():
            target_dir.rmdir()
        making.rename(target_dir)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _write(graph: Path, folder: Path, kind: QuantizationKind) -> None:
    try:
        model = onnx.load(str(graph), load_external_data=False)
    except Exception as error:  # protobuf and onnx raise several kinds
        raise _cannot(graph, f"it cannot be parsed ({error})") from error
    try:
        document = normalised(model, graph.parent)
        count = _quantize(document, kind)
        if count == 0:
            raise _cannot(graph, "no product has constant weights in fp32 or fp16")
        document.prune()
        result = document.to_model()
        total_bytes = sum(bytes_of(tensor) for tensor in result.graph.initializer)
        if total_bytes > _LARGEST_IN_GRAPH_BYTES:
            gather_into(result.graph.initializer, graph.parent, folder / "model.onnx.data")
        else:
            for tensor in result.graph.initializer:
                if tensor.data_location == TensorProto.EXTERNAL:
                    tensor.CopyFrom(
                        numpy_helper.from_array(document.array(tensor.name), tensor.name)
                    )
        onnx.save(result, str(folder / "model.onnx"))
    except NotConvertible as error:
        raise _cannot(graph, str(error)) from error


def _quantize(document: Document, kind: QuantizationKind) -> int:
    """Replaces every product with constant weights; how many."""
    dependent = value_dependent(document)
    shared: dict[str, tuple[str, str, str]] = {}
    count = 0
    for node in list(document.nodes):
        found = _constant_product(document, node, dependent)
        if found is None:
            continue
        weight, bias = found
        is_last = _LOGITS in node.output
        document.nodes = [other for other in document.nodes if other is not node]
        result = document.fresh("product") if bias else node.output[0]
        if kind == "int8-dynamic":
            _add_dynamic(document, node.input[0], weight, result, shared)
        else:
            _add_blocks(document, node.input[0], weight, result, _rounding(kind, is_last))
        if bias:
            document.add("Add", [result, bias], [node.output[0]])
        count += 1
    document.index()
    return count


def _rounding(
    kind: QuantizationKind, is_last: bool
) -> Callable[[NDArray[np.float32]], Rounded]:
    if kind == "int8" or (kind == "int4" and is_last):
        return round_to_int8
    if kind == "int4":
        return lambda weight: round_to_int4(weight, fitted=True)
    return lambda weight: round_to_int4(weight, fitted=False)


def _constant_product(
    document: Document, node: onnx.NodeProto, dependent: set[str]
) -> tuple[NDArray[np.floating], str] | None:
    """Weights [rows, columns] and the bias's name, when the node multiplies the tokens' values with constants."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain or node.input[0] not in dependent:
        return None
    bias = ""
    turned = False
    if node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
        if not plain or attribute(node, "transA", 0):
            return None
        turned = bool(attribute(node, "transB", 0))
        bias = node.input[2] if len(node.input) > 2 else ""
    name = node.input[1]
    maker = document.maker.get(name)
    if (
        maker is not None
        and maker.op_type == "Transpose"
        and attribute(maker, "perm") == [1, 0]
    ):
        name, turned = maker.input[0], not turned
    tensor = document.weights.get(name)
    if tensor is None or len(tensor.dims) != 2:
        return None
    if tensor.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        return None
    values = document.array(name)
    return (values.T if turned else values), bias


def _add_blocks(
    document: Document,
    x: str,
    weight: NDArray[np.floating],
    result: str,
    rounding: Callable[[NDArray[np.float32]], Rounded],
) -> None:
    rounded = rounding(weight.astype(np.float32))
    inputs = [
        x,
        document.constant("packed", rounded.packed, np.uint8),
        document.constant("scales", rounded.scales, weight.dtype),
    ]
    if rounded.zeros is not None:
        inputs.append(document.constant("zeros", rounded.zeros, np.uint8))
    document.add(
        "MatMulNBits",
        inputs,
        [result],
        contrib=True,
        K=weight.shape[0],
        N=weight.shape[1],
        bits=8 * rounded.packed.shape[2] // BLOCK,
        block_size=BLOCK,
        accuracy_level=_INT8_ACCURACY_LEVEL,
    )


def _add_dynamic(
    document: Document,
    x: str,
    weight: NDArray[np.floating],
    result: str,
    shared: dict[str, tuple[str, str, str]],
) -> None:
    """Inputs that several products share are quantized once."""
    if weight.dtype != np.float32:
        raise NotConvertible("int8-dynamic takes fp32 weights only; use int8")
    if x not in shared:
        names = (document.fresh("x"), document.fresh("x_scale"), document.fresh("x_zero"))
        document.add("DynamicQuantizeLinear", [x], names)
        shared[x] = names
    values, x_scale, x_zero = shared[x]
    scale = np.abs(weight).max(0) / 127.0
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
    rounded = np.rint(weight / scale).astype(np.int8)
    product = document.add(
        "MatMulInteger",
        [
            values,
            document.constant("weight", rounded, np.int8),
            x_zero,
            document.constant("zeros", np.zeros(len(scale)), np.int8),
        ],
    )
    both = document.add("Mul", [x_scale, document.constant("scales", scale, np.float32)])
    as_float = document.add("Cast", [product], to=TensorProto.FLOAT)
    document.add("Mul", [as_float, both], [result])


def _cannot(graph: Path, finding: str) -> InvalidArgument:
    return InvalidArgument(
        f"{graph} cannot be quantized: {finding}; use a decoder in fp32 or fp16",
        field="source",
        reason="QUANTIZATION_UNSUPPORTED",
        metadata={"path": str(graph), "finding": finding},
    )


def main(arguments: list[str]) -> int:
    """Exit status: 0 done, 1 refused, 2 wrong usage."""
    if len(arguments) != 3:
        sys.stderr.write("usage: python -m farthing.cloud.quantize SOURCE TARGET KIND\n")
        return 2
    source, target, kind = arguments
    try:
        quantize_onnx(Path(source), Path(target), cast(QuantizationKind, kind))
    except FarthingError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
