"""Which of ONNX Runtime's two ways of grouped attention a processor takes less time for."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np

_LOGGER = logging.getLogger("farthing.cloud")

# The library reads it when it makes an attention, as a session is opened.
VARIABLE = "ORT_GQA_DISABLE_FLASH_ATTENTION"
_TILED, _PLAIN = "0", "1"
# A step of sixteen rows behind a page of text; with fewer tokens the ways are closer, with more farther apart.
_ROWS, _HEADS, _DIMENSION, _TOKENS = 16, 8, 64, 264
_ROUNDS = 7
# Sessions opened at other times should compute alike: a near miss does not change the way.
_CLEARLY = 0.9


def choose_attention(runtime: Any, options: Callable[[], Any]) -> None:
    """Take the better way for all sessions that this process opens from now on, and its children.

    The tiled one ("flash") unless the plain one is clearly faster. An operator's own choice of the variable stays.
    `options` makes the options of a session.
    """
    if VARIABLE in os.environ:
        return
    try:
        tiled_us, plain_us = measure_ways(runtime, options)
    except ImportError:
        return  # without the onnx package no graph is given this attention
    plain_is_faster = plain_us < _CLEARLY * tiled_us
    os.environ[VARIABLE] = _PLAIN if plain_is_faster else _TILED
    _LOGGER.info(
        "attention is computed %s",
        "plainly" if plain_is_faster else "by tiles",
        extra={"tiled_us": round(tiled_us), "plain_us": round(plain_us)},
    )


def measure_ways(runtime: Any, options: Callable[[], Any]) -> tuple[float, float]:
    """Microseconds of a step's attention, tiled and plain, the best of seven turns. Takes some 50 ms."""
    graph = _one_attention()
    steps, times_us = [], [inf, inf]
    try:
        for value in (_TILED, _PLAIN):
            os.environ[VARIABLE] = value
            session = runtime.InferenceSession(
                graph, options(), providers=["CPUExecutionProvider"]
            )
            steps.append(_bind(runtime, session))
    finally:
        os.environ.pop(VARIABLE, None)
    for _ in range(_ROUNDS):
        for way, step in enumerate(steps):
            started_ns = time.perf_counter_ns()
            step()
            took_us = (time.perf_counter_ns() - started_ns) / 1000
            times_us[way] = min(times_us[way], took_us)
    return times_us[0], times_us[1]


def _one_attention() -> bytes:
    """A graph of one attention over a shared cache."""
    from onnx import TensorProto, helper

    width, kind = _HEADS * _DIMENSION, TensorProto.FLOAT
    new, held = [_ROWS, 1, width], [_ROWS, _HEADS, _TOKENS, _DIMENSION]
    info = helper.make_tensor_value_info
    node = helper.make_node(
        "GroupQueryAttention",
        ["query", "key", "value", "past_key", "past_value", "lengths", "total"],
        ["result", "present_key", "present_value"],
        domain="com.microsoft",
        num_heads=_HEADS,
        kv_num_heads=_HEADS,
    )
    graph = helper.make_graph(
        [node],
        "attention",
        [
            *(info(name, kind, new) for name in ("query", "key", "value")),
            *(info(name, kind, held) for name in ("past_key", "past_value")),
            info("lengths", TensorProto.INT32, [_ROWS]),
            info("total", TensorProto.INT32, [1]),
        ],
        [
            info("result", kind, new),
            *(info(name, kind, held) for name in ("present_key", "present_value")),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


def _bind(runtime: Any, session: Any) -> Callable[[], None]:
    """Computes it once, in place."""
    value_of = runtime.OrtValue.ortvalue_from_numpy
    new = (_ROWS, 1, _HEADS * _DIMENSION)
    held = (_ROWS, _HEADS, _TOKENS, _DIMENSION)
    feeds: dict[str, Any] = {
        name: np.full(new, 0.5, np.float32) for name in ("query", "key", "value")
    }
    feeds["lengths"] = np.full(_ROWS, _TOKENS - 1, np.int32)
    feeds["total"] = np.array([_TOKENS], np.int32)
    binding = session.io_binding()
    for name, values in feeds.items():
        binding.bind_ortvalue_input(name, value_of(values))
    for name in ("key", "value"):
        cache_of = value_of(np.full(held, 0.5, np.float32))
        binding.bind_ortvalue_input(f"past_{name}", cache_of)
        binding.bind_ortvalue_output(f"present_{name}", cache_of)
    binding.bind_ortvalue_output("result", value_of(np.empty(new, np.float32)))
    return lambda: session.run_with_iobinding(binding)
