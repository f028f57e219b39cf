"""Weights beside an ONNX graph: all of them are found, none from elsewhere is touched."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.tiny_onnx import save_model

from farthing.inference.store import ModelStore
from farthing.inference.store.artefact import find_artefact
from farthing.inference.store.onnx_external import external_files
from farthing.kit.errors import FarthingError, InvalidArgument


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose weights lie in a file with a name of its own."""
    folder = tmp_path_factory.mktemp("beside")
    save_model(folder)
    return move_weights(folder, "weights.bin")


def move_weights(folder: Path, location: str) -> Path:
    graph = folder / "model.onnx"
    model = onnx.load(str(graph))
    onnx.save(
        model, str(graph), save_as_external_data=True, location="moved", size_threshold=512
    )
    (folder / "moved").rename(folder / "weights.bin")
    rename_location(graph, location)
    return graph


def rename_location(graph: Path, location: str) -> None:
    model = onnx.load(str(graph), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    graph.write_bytes(model.SerializeToString())


def copy(graph: Path, target: Path) -> Path:
    shutil.copytree(graph.parent, target)
    return target / graph.name


def test_weights_of_any_name_belong_to_the_model(beside: Path) -> None:
    assert external_files(beside) == [beside.parent / "weights.bin"]
    names = {path.name for path in find_artefact(beside.parent).files}
    assert {"model.onnx", "weights.bin", "config.json"} <= names


def test_a_model_with_weights_beside_it_is_stored_whole(beside: Path, tmp_path: Path) -> None:
    stored = ModelStore(tmp_path / "models").add(beside.parent, "beside")
    assert (stored.path / "weights.bin").read_bytes() == (
        beside.parent / "weights.bin"
    ).read_bytes()
    assert stored.facts is not None and stored.facts.parameter_count > 0


@pytest.mark.parametrize(
    "location",
    [
        "/etc/hostname",
        "../weights.bin",
        "a/../../weights.bin",
        "",
        ".",
        "x\\weights.bin",
        "a\nb",
    ],
)
def test_a_graph_that_points_elsewhere_is_refused(
    beside: Path, tmp_path: Path, location: str
) -> None:
    graph = copy(beside, tmp_path / "model")
    (tmp_path / "weights.bin").write_bytes((beside.parent / "weights.bin").read_bytes())
    rename_location(graph, location)
    with pytest.raises(InvalidArgument, match="not beside it"):
        external_files(graph)


def test_missing_and_truncated_weights_are_told_apart(beside: Path, tmp_path: Path) -> None:
    graph = copy(beside, tmp_path / "model")
    weights = graph.parent / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InvalidArgument, match="truncated"):
        find_artefact(graph.parent)
    weights.unlink()
    with pytest.raises(InvalidArgument, match=r"'weights\.bin', which is missing"):
        find_artefact(graph.parent)


def test_weights_may_not_take_the_cards_name(beside: Path, tmp_path: Path) -> None:
    graph = copy(beside, tmp_path / "model")
    (graph.parent / "weights.bin").rename(graph.parent / "model.json")
    rename_location(graph, "model.json")
    with pytest.raises(InvalidArgument, match="model card's name"):
        find_artefact(graph.parent)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 20_000), value=st.binary(min_size=1, max_size=9))
def test_a_damaged_graph_never_raises_anything_but_our_errors(
    place: int, value: bytes, beside: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    graph = copy(beside, tmp_path_factory.mktemp("damaged") / "model")
    data = bytearray(graph.read_bytes())
    place %= len(data)
    data[place : place + len(value)] = value
    graph.write_bytes(data)
    try:
        files = external_files(graph)
    except FarthingError as error:
        assert error.message
    else:
        assert all(path.is_relative_to(graph.parent) for path in files)


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"hidden_size": NaN}', "NaN is no number"),
        ("[1]", "not a JSON object"),
        ('{"a": ' + "9" * 5_000 + "}", "not JSON"),
    ],
)
def test_configuration_that_python_chokes_on_is_refused(
    beside: Path, tmp_path: Path, content: str, finding: str
) -> None:
    graph = copy(beside, tmp_path / "model")
    (graph.parent / "config.json").write_text(content)
    with pytest.raises(InvalidArgument, match=finding):
        ModelStore(tmp_path / "models").add(graph.parent)
