"""Slot forms are made once, kept, and made again when the model or what is kept has changed."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from tests.support.tiny_onnx import CONTEXT, Shape, save_model

from farthing.cloud.conversions import Conversions, Refusal
from farthing.cloud.graph.convert import SlotGraph
from farthing.cloud.graph.facts import graph_signature
from farthing.inference.store.onnx_folder import read_config


def slot_form(root: Path, folder: Path, digest: str = "d") -> SlotGraph | Refusal:
    graph = folder / "model.onnx"
    signature = graph_signature(graph, read_config(folder))
    return Conversions(root).slot_form(graph, digest, signature, CONTEXT)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", shape=Shape(head=16))
    return tmp_path / "model"


def stamp(form: SlotGraph | Refusal) -> int:
    assert isinstance(form, SlotGraph)
    return (form.folder / "graph.onnx").stat().st_ino


def test_the_second_time_the_kept_form_is_taken(tmp_path: Path, model: Path) -> None:
    first = slot_form(tmp_path / "kept", model)
    again = slot_form(tmp_path / "kept", model)
    assert first == again
    assert stamp(first) == stamp(again)


def test_a_damaged_form_is_made_again(tmp_path: Path, model: Path) -> None:
    first = slot_form(tmp_path / "kept", model)
    assert isinstance(first, SlotGraph)
    weights = first.folder / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    again = slot_form(tmp_path / "kept", model)
    assert isinstance(again, SlotGraph)
    assert weights.stat().st_size > 0
    (first.folder / "conversion.json").write_text("[]")
    assert slot_form(tmp_path / "kept", model) == again


def test_another_model_at_the_same_place_takes_the_place_of_the_old_form(
    tmp_path: Path, model: Path
) -> None:
    first = slot_form(tmp_path / "kept", model)
    save_model(model, shape=Shape(head=16), seed=8)
    again = slot_form(tmp_path / "kept", model, digest="other")
    assert isinstance(first, SlotGraph) and isinstance(again, SlotGraph)
    assert first.folder != again.folder
    assert not first.folder.exists()


def test_forms_of_models_that_are_gone_go_when_the_next_is_made(
    tmp_path: Path, model: Path
) -> None:
    first = slot_form(tmp_path / "kept", model)
    assert isinstance(first, SlotGraph)
    save_model(tmp_path / "second", shape=Shape(head=16))
    model.rename(tmp_path / "elsewhere")
    slot_form(tmp_path / "kept", tmp_path / "second", digest="second")
    assert not first.folder.exists()


def test_a_refusal_is_remembered_with_its_reason(tmp_path: Path) -> None:
    save_model(tmp_path / "model", shape=Shape(score_cap=0.5))
    first = slot_form(tmp_path / "kept", tmp_path / "model")
    assert isinstance(first, Refusal)
    assert "something else than causal attention" in first.finding
    assert slot_form(tmp_path / "kept", tmp_path / "model") == first
    (folder,) = (tmp_path / "kept").iterdir()
    assert [p.name for p in folder.iterdir()] == ["conversion.json"]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_makes_is_not(
    tmp_path: Path, model: Path
) -> None:
    root = tmp_path / "kept"
    for name in ("making-dead", "making-alive"):
        (root / name).mkdir(parents=True)
        (root / f"{name}.lock").touch()
    with (root / "making-alive.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        slot_form(root, model)
    assert not (root / "making-dead").exists()
    assert (root / "making-alive").exists()
