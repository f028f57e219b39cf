"""Runs a graph, or a part of one, on the CPU to see what it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from farthing.cloud.graph.document import Document, NotConvertible
from farthing.cloud.runtime import load_runtime, quiet_options
from farthing.inference.store.onnx_signature import DecoderSignature

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Heads:
    """How an attention is divided. `dtype` is numpy's name of the cache's precision."""

    query_count: int
    key_count: int
    dimension: int
    dtype: str

    @property
    def element_type(self) -> int:
        """ONNX's number of the precision."""
        return int(
            onnx.TensorProto.FLOAT16 if self.dtype == "float16" else onnx.TensorProto.FLOAT
        )

    @property
    def tolerance(self) -> float:
        """Largest difference, relative to the largest value, that rounding alone explains."""
        return 2e-2 if self.dtype == "float16" else 1e-3


@dataclass(frozen=True, slots=True)
class Call:
    """How far a call has come: `past_count` tokens held, `count` new ones, from position `past_count` on."""

    count: int
    past_count: int = 0
    batch: int = 1

    @property
    def total(self) -> int:
        """Tokens held after the call."""
        return self.past_count + self.count

    def feeds(
        self, names: Sequence[str], signature: DecoderSignature, tokens: Array | None = None
    ) -> dict[str, Array]:
        """Values for the plain inputs of a decoder among `names`; the cache is all zeros."""
        positions = np.arange(self.past_count, self.total, dtype=np.int64)
        known: dict[str, Array] = {
            "input_ids": np.zeros((self.batch, self.count), np.int64)
            if tokens is None
            else tokens,
            "attention_mask": np.ones((self.batch, self.total), np.int64),
            "position_ids": np.broadcast_to(positions, (self.batch, self.count)).copy(),
            "use_cache_branch": np.array([True]),
            "num_logits_to_keep": np.array(0, np.int64),
        }
        for tensor in signature.cache:
            shape = (self.batch, tensor.head_count, self.past_count, tensor.head_dimension)
            known[tensor.past_name] = np.zeros(shape, tensor.dtype)
        unknown = [name for name in names if name not in known]
        if unknown:
            raise NotConvertible(f"the graph asks for {unknown[:4]}")
        return {name: known[name] for name in names}


class Trial:
    """A session over a whole document or a part of it."""

    def __init__(self, model: onnx.ModelProto, document: Document) -> None:
        """NotConvertible with the library's words when it refuses the model."""
        runtime = load_runtime()
        try:
            self._session = runtime.InferenceSession(
                model.SerializeToString(),
                quiet_options(runtime, thread_count=1, weights_folder=document.folder),
                providers=["CPUExecutionProvider"],
            )
        except (
            Exception
        ) as error:  # the library raises its own classes, straight from Exception
            raise NotConvertible(_first_line(error)) from error
        self.input_names: list[str] = [i.name for i in self._session.get_inputs()]
        self.output_names: list[str] = [o.name for o in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Values of the outputs, in order."""
        try:
            values: list[Array] = self._session.run(None, dict(feeds))
        except Exception as error:  # as above
            raise NotConvertible(_first_line(error)) from error
        return values

    def run_in_place(
        self, feeds: Mapping[str, Array], caches: Mapping[tuple[str, str], Array]
    ) -> Array:
        """The first output, with each cache as the memory of both its input and its output."""
        binding = self._session.io_binding()
        for name in self.input_names:
            if name in feeds:
                binding.bind_cpu_input(name, feeds[name])
        for names, cache in caches.items():
            place = ("cpu", 0, cache.dtype.type, cache.shape, cache.ctypes.data)
            binding.bind_input(names[0], *place)
            binding.bind_output(names[1], *place)
        binding.bind_output(self.output_names[0], "cpu")
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # as above
            raise NotConvertible(_first_line(error)) from error
        value: Array = binding.copy_outputs_to_cpu()[-1]
        return value


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def relative_error(found: Array, expected: Array) -> float:
    """Largest difference over the largest expected value; infinite when shapes differ or a value is no number."""
    if found.shape != expected.shape:
        return float("inf")
    if found.size == 0:
        return 0.0
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max()
    scale = max(float(np.abs(expected).max()), 1e-6)
    result = float(difference) / scale
    return result if np.isfinite(result) else float("inf")
