"""A folder that was cut, bent or lies about itself gets a clear error, or is served; nothing else.

The graphs are examined in a process of their own: what crashes a library there would fail the test, not the suite.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.tiny_onnx import Shape, save_model

# Reads folders from stdin, one a line; answers each with how it ended, as JSON.
_WORKER = """
import json, os, sys
from pathlib import Path
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what the library may print is no answer
from farthing.cloud.batch_backend import OrtBatchBackend
from farthing.cloud.plan import LoadPlan
from farthing.inference.core.card import ModelCard
from farthing.cloud.quantize import quantize_onnx
from farthing.inference.batch_backend import SlotWork
from farthing.kit.errors import FarthingError
import logging
logging.disable(logging.CRITICAL)
for line in sys.stdin:
    folder = Path(line.strip())
    plan = LoadPlan(folder, "m", "d", ModelCard(), device="cpu", thread_count=1, slot_count=2,
                    context_length=64, memory_limit_bytes=1 << 30)
    end = {"end": "served", "message": ""}
    try:
        backend = OrtBatchBackend(plan)
        try:
            backend.step([SlotWork(0, 0, [5, 6, 7]), SlotWork(1, 0, [8])])
            backend.step([SlotWork(0, 3, [5]), SlotWork(1, 1, [8])]).best()
        finally:
            backend.close()
        quantize_onnx(folder, folder / "small", "int8")
    except FarthingError as error:
        end = {"end": "refused", "message": error.message, "reason": error.reason}
    except BaseException as error:
        end = {"end": "broken", "message": f"{type(error).__name__}: {error}"}
    print(json.dumps(end), file=answers, flush=True)
"""


class Worker:
    """The process that examines folders; it is started again when one of them ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def examine(self, folder: Path) -> dict[str, str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{folder}\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if line:
            answer: dict[str, str] = json.loads(line)
            return answer
        self.close()
        return {"end": "crashed", "message": f"status {process.returncode}"}

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.close()
            self._process.stdout.close()
            self._process.wait(30)
            self._process = None


class Files(dict[str, bytes]):
    """The files of a good model, told in a word when a test fails."""

    def __repr__(self) -> str:
        return "whole"


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("whole")
    save_model(folder, shape=Shape(head=16, context=64))
    return Files({path.name: path.read_bytes() for path in folder.iterdir()})


def write(folder: Path, files: dict[str, bytes], **changed: bytes) -> Path:
    folder.mkdir()
    for name, content in {**files, **changed}.items():
        (folder / name).write_bytes(content)
    return folder


_EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
_COUNTER = iter(range(10**9))


def check(answer: dict[str, str]) -> None:
    assert answer["end"] in ("served", "refused"), answer
    if answer["end"] == "refused":
        assert answer["message"] and answer["reason"].isupper()


@_EXAMPLES
@given(share=st.floats(0, 1))
def test_a_cut_graph(share: float, worker: Worker, whole: Files, tmp_path: Path) -> None:
    graph = whole["model.onnx"]
    cut = graph[: int(share * len(graph))]
    check(worker.examine(write(tmp_path / str(next(_COUNTER)), whole, **{"model.onnx": cut})))


@_EXAMPLES
@given(
    places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 7)), min_size=1, max_size=8)
)
def test_turned_bits_in_the_graph(
    places: list[tuple[float, int]], worker: Worker, whole: Files, tmp_path: Path
) -> None:
    graph = bytearray(_structure_first(whole["model.onnx"]))
    for share, bit in places:
        graph[int(share * len(graph))] ^= 1 << bit
    bent = {"model.onnx": bytes(graph)}
    check(worker.examine(write(tmp_path / str(next(_COUNTER)), whole, **bent)))


def _structure_first(graph: bytes) -> bytes:
    """The same model with its weights reduced to nearly nothing, so that turned bits hit what is interesting."""
    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 4096:
            tensor.raw_data = bytes(len(tensor.raw_data) % 4) or b"\0\0\0\0"
    return bytes(model.SerializeToString())


def _mutations() -> st.SearchStrategy[tuple[str, int, int]]:
    kinds = (
        "dims",
        "type",
        "drop weight",
        "drop node",
        "op",
        "rewire",
        "attribute",
        "location",
    )
    return st.tuples(st.sampled_from(kinds), st.integers(0, 10_000), st.integers(-5, 1 << 40))


@_EXAMPLES
@given(mutations=st.lists(_mutations(), min_size=1, max_size=3))
def test_a_graph_that_is_well_formed_and_wrong(
    mutations: list[tuple[str, int, int]],
    worker: Worker,
    whole: Files,
    tmp_path: Path,
) -> None:
    model = onnx.load_from_string(whole["model.onnx"])
    for kind, place, value in mutations:
        _mutate(model, kind, place, value)
    bent = {"model.onnx": bytes(model.SerializeToString())}
    check(worker.examine(write(tmp_path / str(next(_COUNTER)), whole, **bent)))


def _mutate(model: onnx.ModelProto, kind: str, place: int, value: int) -> None:
    graph = model.graph
    if not graph.node or not graph.initializer:
        return
    node = graph.node[place % len(graph.node)]
    weight = graph.initializer[place % len(graph.initializer)]
    if kind == "dims" and weight.dims:
        weight.dims[place % len(weight.dims)] = value
    elif kind == "type":
        weight.data_type = abs(value) % 24
    elif kind == "drop weight":
        graph.initializer.remove(weight)
    elif kind == "drop node":
        graph.node.remove(node)
    elif kind == "op":
        node.op_type = graph.node[value % len(graph.node)].op_type
    elif kind == "rewire" and node.input:
        other = graph.node[value % len(graph.node)]
        node.input[place % len(node.input)] = other.output[0]
    elif kind == "attribute" and node.attribute:
        entry = node.attribute[place % len(node.attribute)]
        entry.i = value
    elif kind == "location":
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=("../" * (place % 3)) + "config.json")
        weight.external_data.add(key="offset", value=str(value))


_CONFIG_NUMBERS = (
    "max_position_embeddings",
    "vocab_size",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_size",
    "head_dim",
    "eos_token_id",
)
_ABSURD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-5, 1 << 40), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@_EXAMPLES
@given(changes=st.dictionaries(st.sampled_from(_CONFIG_NUMBERS), _ABSURD, min_size=1))
def test_absurd_values_in_the_configuration(
    changes: dict[str, Any], worker: Worker, whole: Files, tmp_path: Path
) -> None:
    config = {**json.loads(whole["config.json"]), **changes}
    bent = {"config.json": json.dumps(config).encode()}
    check(worker.examine(write(tmp_path / str(next(_COUNTER)), whole, **bent)))


@_EXAMPLES
@given(
    name=st.sampled_from(["config.json", "tokenizer.json", "tokenizer_config.json"]),
    content=st.one_of(st.binary(max_size=40), st.just(b"[]"), st.just(b"null"), st.just(b"{}")),
)
def test_files_that_are_something_else(
    name: str, content: bytes, worker: Worker, whole: Files, tmp_path: Path
) -> None:
    folder = write(tmp_path / str(next(_COUNTER)), whole, **{name: content})
    check(worker.examine(folder))
