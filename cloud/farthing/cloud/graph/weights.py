"""Moves a graph's weights into a file of their own, so that the graph itself stays small."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import onnx
from onnx import TensorProto, numpy_helper

from farthing.cloud.graph.document import NotConvertible, external_data

WEIGHTS_NAME = "weights.bin"
# Smaller ones stay in the graph: shapes, scales, norms.
_LEAST_BYTES = 1024
_ALIGNMENT = 64  # a cache line; the library maps the file and computes straight from it


def move_out(weights: Iterable[TensorProto], folder: Path) -> None:
    """Appends the data of all larger weights that lie in the graph to the folder's file, and points to it instead."""
    with (folder / WEIGHTS_NAME).open("ab") as file:
        for tensor in weights:
            if tensor.data_location == TensorProto.EXTERNAL:
                continue
            if tensor.ByteSize() < _LEAST_BYTES or tensor.data_type == TensorProto.STRING:
                continue
            if not tensor.HasField("raw_data"):
                plain = numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
                tensor.CopyFrom(plain)
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            offset, data = file.tell(), tensor.raw_data
            file.write(data)
            onnx.external_data_helper.set_external_data(
                tensor, WEIGHTS_NAME, offset=offset, length=len(data)
            )
            tensor.ClearField("raw_data")


def gather_into(weights: Iterable[TensorProto], source: Path, target: Path) -> None:
    """Writes the data of all larger weights, wherever it lies, into one file, and points to it."""
    with target.open("wb") as file:
        for tensor in weights:
            is_outside = tensor.data_location == TensorProto.EXTERNAL
            if not is_outside and bytes_of(tensor) < _LEAST_BYTES:
                continue
            if is_outside:
                data = external_data(tensor, source)
            else:
                data = numpy_helper.to_array(tensor).tobytes()
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            offset = file.tell()
            file.write(data)
            for field in ("raw_data", "float_data", "int32_data", "int64_data"):
                tensor.ClearField(field)
            tensor.raw_data = b""
            onnx.external_data_helper.set_external_data(
                tensor, target.name, offset=offset, length=len(data)
            )
            tensor.ClearField("raw_data")


def link_external(weights: Iterable[TensorProto], source: Path, folder: Path) -> None:
    """Makes the files that the weights lie in appear in `folder`: one copy on disk where the file system can.

    NotConvertible when a weight points outside the model's own folder or beyond its file's end.
    """
    for tensor in weights:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        path = PurePosixPath(location)
        if (
            not location
            or path.is_absolute()
            or ".." in path.parts
            or path.name == WEIGHTS_NAME
        ):
            raise NotConvertible(f"the weight {tensor.name!r} lies in {location!r}")
        origin, target = source / location, folder / location
        try:
            size = origin.stat().st_size
            end = int(entries.get("offset", "0")) + int(entries.get("length", "0"))
        except (OSError, ValueError) as error:
            raise NotConvertible(
                f"the weight {tensor.name!r} cannot be found: {error}"
            ) from error
        if not 0 <= end <= size:
            raise NotConvertible(f"the weight {tensor.name!r} reaches beyond {location}")
        if bytes_of(tensor) < _LEAST_BYTES:  # the library wants to see shapes in the graph
            _take_in(tensor, source)
        elif not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(origin.resolve(), target)
            except OSError:
                shutil.copyfile(origin, target)


def _take_in(tensor: TensorProto, folder: Path) -> None:
    data = external_data(tensor, folder)
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.DEFAULT
    tensor.raw_data = data


def bytes_of(tensor: Any) -> int:
    """Size of a weight's data in memory, by its type and shape; 0 for types without a fixed size."""
    try:
        width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError):
        return 0
    count = 1
    for dimension in tensor.dims:
        count *= max(0, dimension)
    return int(count * width)
