"""The cache of all rows, and the buffers that a run reads and fills: what differs between host and device memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from farthing.cloud.graph.names import beside
from farthing.cloud.slots.likeliest import find_likeliest
from farthing.inference.batch_backend import Logits

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Rows of keys and values, for each layer [rows, heads, tokens, head]."""

    layers: int
    rows: int
    heads: int
    tokens: int
    dimension: int
    dtype: str

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        width = np.dtype(self.dtype).itemsize
        return 2 * self.layers * self.heads * self.dimension * width

    def names(self, *, second: bool = False) -> list[tuple[str, str]]:
        """Input and output of each tensor: keys, then values, layer by layer; or those of a second group of rows."""
        names = [
            (f"past_key_values.{layer}.{part}", f"present.{layer}.{part}")
            for layer in range(self.layers)
            for part in ("key", "value")
        ]
        return [(beside(past), beside(present)) for past, present in names] if second else names


class Feed(Protocol):
    """One input of a run: the caller fills `values`, or `view`, the same values in a row, and pushes."""

    @property
    def values(self) -> Array: ...

    @property
    def view(self) -> memoryview: ...

    def push(self) -> None:
        """Brings the values to where the run reads them."""


class LogitsArena(Protocol):
    """Room for the logits of one step, a row of the vocabulary each."""

    @property
    def capacity(self) -> int: ...

    def bind(self, binding: Any, first: int, count: int) -> None:
        """Makes a run write its logits to these rows."""

    def best(self, count: int) -> NDArray[np.int64]:
        """The likeliest token of each of the first `count` rows, the lowest on ties; NO_TOKEN where there is none."""

    def row(self, index: int) -> Logits:
        """One row, as a copy."""


class SlotMemory(Protocol):
    """The cache of all rows. A row's first tokens are what counts; the rest is undefined."""

    @property
    def shape(self) -> CacheShape: ...

    def bind(self, binding: Any, first: int, count: int, *, second: bool = False) -> None:
        """Makes a run read and write these rows in place, as its first group or its second."""

    def feed(self, binding: Any, name: str, values: Array, *, on_host: bool = False) -> Feed:
        """An input of a run, of these values' shape; `on_host`: the library reads it there on any device."""

    def arena(self, capacity: int, vocab_size: int) -> LogitsArena:
        """Room for so many rows of logits."""

    def copy(self, source: int, target: int, token_count: int) -> None:
        """Copies the first tokens of a row to another."""

    def save(self, row: int, token_count: int) -> Array:
        """The first tokens of a row in host memory, [tensors, heads, tokens, head]."""

    def restore(self, row: int, saved: Array) -> None:
        """Puts back what `save` took."""


class HostMemory:
    """Everything in numpy arrays, which the library reads and writes by pointer."""

    def __init__(self, shape: CacheShape) -> None:
        """Zeros that take no memory before they are written to."""
        self.shape = shape
        self._cache: Array = np.zeros(
            (2 * shape.layers, shape.rows, shape.heads, shape.tokens, shape.dimension),
            shape.dtype,
        )

    def bind(self, binding: Any, first: int, count: int, *, second: bool = False) -> None:
        """See SlotMemory."""
        for names, tensor in zip(self.shape.names(second=second), self._cache, strict=True):
            part = tensor[first : first + count]
            place = ("cpu", 0, part.dtype.type, part.shape, part.ctypes.data)
            binding.bind_input(names[0], *place)
            binding.bind_output(names[1], *place)

    def feed(self, binding: Any, name: str, values: Array, *, on_host: bool = False) -> Feed:
        """See SlotMemory."""
        binding.bind_input(name, "cpu", 0, values.dtype.type, values.shape, values.ctypes.data)
        return HostFeed(values, flat_view(values))

    def arena(self, capacity: int, vocab_size: int) -> LogitsArena:
        """See SlotMemory."""
        return HostArena(capacity, vocab_size)

    def copy(self, source: int, target: int, token_count: int) -> None:
        """See SlotMemory."""
        self._cache[:, target, :, :token_count] = self._cache[:, source, :, :token_count]

    def save(self, row: int, token_count: int) -> Array:
        """See SlotMemory."""
        return self._cache[:, row, :, :token_count].copy()

    def restore(self, row: int, saved: Array) -> None:
        """See SlotMemory."""
        self._cache[:, row, :, : saved.shape[2]] = saved


def flat_view(values: Array) -> memoryview:
    """The values of a contiguous array in a row, for writing."""
    return values.reshape(-1).data


@dataclass(slots=True)
class HostFeed:
    """The run reads the very array."""

    values: Array
    view: memoryview

    def push(self) -> None:
        """Nothing to bring anywhere."""


class HostArena:
    """Logits in one numpy array."""

    def __init__(self, capacity: int, vocab_size: int) -> None:
        self.capacity = capacity
        self._rows = np.empty((capacity, vocab_size), np.float32)
        self._pointer = self._rows.ctypes.data

    def bind(self, binding: Any, first: int, count: int) -> None:
        """See LogitsArena."""
        width = self._rows.shape[1]
        pointer = self._pointer + first * self._rows.strides[0]
        binding.bind_output("logits", "cpu", 0, np.float32, (count, width), pointer)

    def best(self, count: int) -> NDArray[np.int64]:
        """See LogitsArena."""
        return find_likeliest(self._rows[:count])

    def row(self, index: int) -> Logits:
        """See LogitsArena."""
        values: Logits = self._rows[index].copy()
        return values
