"""The same memory on a device, through nothing but the library's own tensors and two tiny graphs that move rows.

Written for CUDA, and tested with the library's CPU device, which takes the same calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from farthing.cloud.graph.names import BEST
from farthing.cloud.slots.memory import Array, CacheShape, Feed, LogitsArena, flat_view
from farthing.inference.batch_backend import Logits

OpenSmall = Callable[[bytes], Any]


class DeviceMemory:
    """One tensor of the device for each layer's keys and one for its values."""

    def __init__(
        self, shape: CacheShape, runtime: Any, open_small: OpenSmall, device: str
    ) -> None:
        """`open_small` opens a graph on the device."""
        self.shape = shape
        self._runtime, self._device = runtime, device
        self._copier = open_small(mover_graph(shape, "copy"))
        self._cutter = open_small(mover_graph(shape, "cut"))
        self._grower = open_small(mover_graph(shape, "grow"))
        self._fetcher = open_small(_fetcher_graph())
        size = (shape.rows, shape.heads, shape.tokens, shape.dimension)
        zeros = np.zeros(size, shape.dtype)
        self._cache = [
            runtime.OrtValue.ortvalue_from_shape_and_type(size, zeros.dtype.type, device, 0)
            for _ in shape.names()
        ]
        for tensor in self._cache:  # memory that was never written may hold what is no number
            tensor.update_inplace(zeros)
        self._row_bytes = zeros.nbytes // shape.rows

    def bind(self, binding: Any, first: int, count: int, *, second: bool = False) -> None:
        """See SlotMemory."""
        every = zip(self.shape.names(second=second), self._places(first, count), strict=True)
        for names, place in every:
            binding.bind_input(names[0], *place)
            binding.bind_output(names[1], *place)

    def feed(self, binding: Any, name: str, values: Array, *, on_host: bool = False) -> Feed:
        """See SlotMemory."""
        device = "cpu" if on_host else self._device
        tensor = self._runtime.OrtValue.ortvalue_from_numpy(values, device, 0)
        binding.bind_ortvalue_input(name, tensor)
        return DeviceFeed(values, tensor)

    def arena(self, capacity: int, vocab_size: int) -> LogitsArena:
        """See SlotMemory."""
        return DeviceArena(self._runtime, self._device, self._fetcher, capacity, vocab_size)

    def copy(self, source: int, target: int, token_count: int) -> None:
        """See SlotMemory. The whole row goes: within the device that costs less than cutting it."""
        binding = self._copier.io_binding()
        pairs = zip(self._places(source, 1), self._places(target, 1), strict=True)
        for number, (origin, goal) in enumerate(pairs):
            binding.bind_input(f"row.{number}", *origin)
            binding.bind_output(f"moved.{number}", *goal)
        self._copier.run_with_iobinding(binding)

    def save(self, row: int, token_count: int) -> Array:
        """See SlotMemory."""
        binding = self._cutter.io_binding()
        binding.bind_cpu_input("count", np.array([token_count], np.int64))
        for number, place in enumerate(self._places(row, 1)):
            binding.bind_input(f"row.{number}", *place)
            binding.bind_output(f"moved.{number}", "cpu")
        self._cutter.run_with_iobinding(binding)
        return np.concatenate(binding.copy_outputs_to_cpu())

    def restore(self, row: int, saved: Array) -> None:
        """See SlotMemory."""
        binding = self._grower.io_binding()
        pads = np.zeros(8, np.int64)
        pads[6] = self.shape.tokens - saved.shape[2]
        binding.bind_cpu_input("pads", pads)
        parts = [np.ascontiguousarray(part[None]) for part in saved]  # held while the run reads
        for number, (part, place) in enumerate(zip(parts, self._places(row, 1), strict=True)):
            binding.bind_cpu_input(f"row.{number}", part)
            binding.bind_output(f"moved.{number}", *place)
        self._grower.run_with_iobinding(binding)

    def _places(self, first: int, count: int) -> list[tuple[Any, ...]]:
        shape = self.shape
        size = (count, shape.heads, shape.tokens, shape.dimension)
        kind = np.dtype(shape.dtype).type
        offset = first * self._row_bytes
        return [
            (self._device, 0, kind, size, tensor.data_ptr() + offset) for tensor in self._cache
        ]


def mover_graph(shape: CacheShape, what: Literal["copy", "cut", "grow"]) -> bytes:
    """Takes a row of every tensor: whole, its first `count` tokens, or padded with zeros by `pads`."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(shape.dtype))
    value = helper.make_tensor_value_info
    extra = {"cut": [value("count", TensorProto.INT64, [1])]}
    extra["grow"] = [value("pads", TensorProto.INT64, [8])]
    constants = {"start": [0], "axis": [2]} if what == "cut" else {}
    size: list[str | int | None] = [1, shape.heads, "tokens", shape.dimension]
    numbers = range(2 * shape.layers)
    kinds = {
        "copy": ["Identity"],
        "cut": ["Slice", "start", "count", "axis"],
        "grow": ["Pad", "pads"],
    }
    operator, *others = kinds[what]
    return _small_model(
        [helper.make_node(operator, [f"row.{n}", *others], [f"moved.{n}"]) for n in numbers],
        [*(value(f"row.{n}", kind, size) for n in numbers), *extra.get(what, [])],
        [value(f"moved.{n}", kind, [1, shape.heads, None, shape.dimension]) for n in numbers],
        [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in constants.items()],
    )


def _fetcher_graph() -> bytes:
    value = helper.make_tensor_value_info
    return _small_model(
        [helper.make_node("Identity", ["logits"], ["fetched"])],
        [value("logits", TensorProto.FLOAT, ["width"])],
        [value("fetched", TensorProto.FLOAT, ["width"])],
        [],
    )


def _small_model(
    nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any]
) -> bytes:
    graph = helper.make_graph(nodes, "mover", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


class DeviceFeed:
    """Values on the host, and the tensor that a run reads them from."""

    def __init__(self, values: Array, tensor: Any) -> None:
        self.values, self.view = values, flat_view(values)
        self._tensor = tensor

    def push(self) -> None:
        """Copies the values over; the tensor stays where it is."""
        self._tensor.update_inplace(self.values)


class DeviceArena:
    """Logits stay on the device; the graph finds the likeliest tokens there."""

    def __init__(
        self, runtime: Any, device: str, fetcher: Any, capacity: int, vocab_size: int
    ) -> None:
        self.capacity = capacity
        self._vocab_size, self._device, self._fetcher = vocab_size, device, fetcher
        self._rows = runtime.OrtValue.ortvalue_from_shape_and_type(
            (capacity, vocab_size), np.float32, device, 0
        )
        self._best = runtime.OrtValue.ortvalue_from_shape_and_type(
            (capacity,), np.int64, device, 0
        )

    def bind(self, binding: Any, first: int, count: int) -> None:
        """See LogitsArena."""
        pointer = self._rows.data_ptr() + first * self._vocab_size * 4
        size = (count, self._vocab_size)
        binding.bind_output("logits", self._device, 0, np.float32, size, pointer)
        pointer = self._best.data_ptr() + first * 8
        binding.bind_output(BEST, self._device, 0, np.int64, (count,), pointer)

    def best(self, count: int) -> NDArray[np.int64]:
        """See LogitsArena."""
        found: NDArray[np.int64] = self._best.numpy()[:count].copy()
        return found

    def row(self, index: int) -> Logits:
        """See LogitsArena."""
        pointer = self._rows.data_ptr() + index * self._vocab_size * 4
        binding = self._fetcher.io_binding()
        binding.bind_input("logits", self._device, 0, np.float32, (self._vocab_size,), pointer)
        binding.bind_output("fetched", "cpu")
        self._fetcher.run_with_iobinding(binding)
        values: Logits = binding.copy_outputs_to_cpu()[0]
        return values
