"""The model store: what goes in is checked, what is in stays whole, what is named is found."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.support.plain_gguf import write_gguf
from tests.support.tiny_onnx import save_model, write

from farthing.inference.store import AddProgress, ModelStore, add_model
from farthing.inference.store.files import hash_file
from farthing.kit.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unimplemented,
)
from farthing.kit.testing import FakeClock


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", clock=FakeClock(datetime(2026, 5, 1, tzinfo=UTC)))


@pytest.fixture
def gguf_path(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "My Model.gguf")


@pytest.fixture(scope="module")
def onnx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "tiny-large"
    save_model(folder)
    return folder


def leftovers(store_root: Path) -> list[str]:
    return [p.name for p in (store_root / "incoming").glob("*")]


def test_a_gguf_file_is_found_by_its_name_and_hash(
    store: ModelStore, gguf_path: Path, tmp_path: Path
) -> None:
    stored = store.add(gguf_path)
    assert stored.name == "small"
    assert stored.digest == hash_file(gguf_path) == hash_file(stored.path)
    assert stored.path.parent == tmp_path / "models/sha256" / stored.digest
    assert store.resolve("small") == stored
    assert store.list() == (stored,)
    assert leftovers(tmp_path / "models") == []


def test_the_sidecar_tells_where_a_model_came_from(store: ModelStore, gguf_path: Path) -> None:
    stored = store.add(gguf_path, "mine")
    card = json.loads((stored.path.parent / "model.json").read_text())
    assert card["provenance"]["source"] == str(gguf_path)
    assert card["provenance"]["add_time"] == "2026-05-01T00:00:00+00:00"
    assert card["provenance"]["files"] == [
        {
            "path": "My Model.gguf",
            "size_bytes": gguf_path.stat().st_size,
            "sha256": stored.digest,
        }
    ]


def test_adding_the_same_model_again_changes_nothing(
    store: ModelStore, gguf_path: Path
) -> None:
    first = store.add(gguf_path)
    copy = gguf_path.with_name("copy.gguf")
    shutil.copy(gguf_path, copy)
    before = {p: p.stat().st_mtime_ns for p in first.path.parent.iterdir()}
    assert store.add(copy) == first
    assert {p: p.stat().st_mtime_ns for p in first.path.parent.iterdir()} == before


def test_a_taken_name_is_refused_unless_it_is_to_be_replaced(
    store: ModelStore, gguf_path: Path, tmp_path: Path
) -> None:
    first = store.add(gguf_path, "chat")
    other = write_gguf(tmp_path / "other.gguf", seed=2)
    with pytest.raises(AlreadyExists, match="chat"):
        store.add(other, "chat")
    assert store.resolve("chat") == first
    assert store.add(other, "chat", replace=True).digest != first.digest


def test_removing_a_name_keeps_what_another_name_needs(
    store: ModelStore, gguf_path: Path
) -> None:
    stored = store.add(gguf_path, "a")
    store.add(gguf_path, "b")
    store.remove("a")
    assert store.resolve("b").path.is_file()
    store.remove("b")
    assert not stored.path.exists()
    with pytest.raises(NotFound):
        store.remove("b")


def test_a_corrupt_file_is_refused_and_nothing_stays(
    store: ModelStore, gguf_path: Path, tmp_path: Path
) -> None:
    gguf_path.write_bytes(gguf_path.read_bytes()[:-10])
    with pytest.raises(InvalidArgument, match="truncated"):
        store.add(gguf_path)
    assert store.list() == ()
    assert leftovers(tmp_path / "models") == []


def test_a_damaged_stored_model_is_noticed_and_can_be_removed(
    store: ModelStore, gguf_path: Path
) -> None:
    stored = store.add(gguf_path)
    stored.path.write_bytes(b"GGUF")
    with pytest.raises(FailedPrecondition, match="damaged"):
        store.resolve("small")
    store.remove("small")
    assert store.add(gguf_path).digest == stored.digest


def test_an_onnx_folder_is_stored_whole_with_its_card(
    store: ModelStore, onnx_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "carded"
    shutil.copytree(onnx_folder, folder)
    graph_hash = hash_file(folder / "model.onnx")
    files = {"model.onnx": {"sha256": graph_hash}}
    write(folder / "model.json", {"name": "Tiny Large", "files": files, "params_count": 9})
    (folder / "notes.txt").write_text("not part of the model")
    stored = store.add(folder)
    assert (stored.name, stored.format) == ("tiny-large", "onnx")
    assert stored.card["params_count"] == 9
    assert stored.facts is not None and stored.facts.context_length == 256
    assert sorted(p.name for p in stored.path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.json",
        "model.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert store.locate(folder).digest == stored.digest


def test_a_file_that_its_card_hashes_otherwise_is_refused(
    store: ModelStore, onnx_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "carded"
    shutil.copytree(onnx_folder, folder)
    write(folder / "model.json", {"files": {"model.onnx": {"sha256": "0" * 64}}})
    with pytest.raises(InvalidArgument, match="model card says"):
        store.add(folder)


def test_a_newer_card_for_the_same_weights_is_taken_over(
    store: ModelStore, gguf_path: Path
) -> None:
    store.add(gguf_path)
    write(gguf_path.with_name("model.json"), {"name": "small", "bytes_per_token": 3.5})
    assert store.add(gguf_path).card["bytes_per_token"] == 3.5
    assert store.resolve("small").source == str(gguf_path)


@pytest.mark.parametrize("graph_path", ["onnx/model.onnx", "decoder_model_merged.onnx"])
def test_the_usual_places_of_a_graph_are_known(
    store: ModelStore, tmp_path: Path, graph_path: str
) -> None:
    folder = tmp_path / "export"
    save_model(folder, graph_path=graph_path)
    stored = store.add(folder)
    assert (stored.path / graph_path).is_file()


def test_a_truncated_graph_is_refused(
    store: ModelStore, onnx_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(onnx_folder, folder)
    graph = folder / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-500])
    with pytest.raises(InvalidArgument, match="not a readable ONNX file"):
        store.add(folder)
    assert store.list() == ()


def test_a_graph_that_only_the_library_can_fault_is_refused_by_a_process_of_its_own(
    store: ModelStore, onnx_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(onnx_folder, folder)
    graph = folder / "model.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"MatMul", b"MatMal"))
    with pytest.raises(InvalidArgument, match="cannot be opened"):
        store.add(folder)
    assert leftovers(tmp_path / "models") == []


def test_a_graph_that_is_no_decoder_is_refused(
    store: ModelStore, onnx_folder: Path, tmp_path: Path
) -> None:
    import onnx

    folder = tmp_path / "other"
    shutil.copytree(onnx_folder, folder)
    x = onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, [1])
    y = onnx.helper.make_tensor_value_info("label", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["pixels"], ["label"])
    graph = onnx.helper.make_graph([node], "other", [x], [y])
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.save(model, str(folder / "model.onnx"))
    with pytest.raises(Unimplemented, match="input_ids"):
        store.add(folder)


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("tokenizer.json", "tokenizer.json is missing"),
        ("config.json", "config.json is missing"),
    ],
)
def test_an_incomplete_folder_names_the_missing_file(
    store: ModelStore, onnx_folder: Path, tmp_path: Path, name: str, finding: str
) -> None:
    folder = tmp_path / "partial"
    shutil.copytree(onnx_folder, folder)
    (folder / name).unlink()
    with pytest.raises(InvalidArgument, match=finding):
        store.add(folder)


def test_a_folder_with_several_models_asks_for_one(store: ModelStore, gguf_path: Path) -> None:
    shutil.copy(gguf_path, gguf_path.with_name("second.gguf"))
    with pytest.raises(InvalidArgument, match="name one file"):
        store.add(gguf_path.parent)


def test_unknown_names_list_what_there_is(store: ModelStore, gguf_path: Path) -> None:
    store.add(gguf_path)
    with pytest.raises(NotFound, match="it has: small"):
        store.resolve("../small")


def test_a_service_finds_its_model_by_name_or_by_path(
    store: ModelStore, gguf_path: Path
) -> None:
    stored = store.add(gguf_path, "chat")
    assert store.locate("chat") == stored
    by_path = store.locate(str(gguf_path))
    assert (by_path.digest, by_path.path) == (stored.digest, gguf_path)
    with pytest.raises(NotFound, match="check the path"):
        store.locate(gguf_path.with_name("absent.gguf"))


def test_progress_counts_every_byte_up_to_the_end(tmp_path: Path, gguf_path: Path) -> None:
    heard: list[AddProgress] = []
    stored = add_model(tmp_path / "models", gguf_path, progress=heard.append)
    copied = [p.done_bytes for p in heard if p.stage == "copy"]
    assert copied == sorted(copied) and copied[-1] == stored.size_bytes
    assert heard[-1].stage == "done"


def test_a_disk_without_room_is_said_before_anything_is_copied(
    store: ModelStore, gguf_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(gguf_path.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(ResourceExhausted, match="10 free"):
        store.add(gguf_path)


def test_a_name_that_is_no_name_is_refused(store: ModelStore, gguf_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no model name"):
        store.add(gguf_path, "../escape")
