"""Order in the store: damage is found, room is freed and told, shared files are kept once, used models stay."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.support.plain_gguf import write_gguf
from tests.support.tiny_onnx import save_model, write

from farthing.inference.store import GcWishes, ModelStore, StoreLimits
from farthing.inference.store.opening import open_store, serving_limits
from farthing.inference.store.servicer import ServingLimits
from farthing.inference.store_settings import StoreSettings
from farthing.kit.errors import FailedPrecondition, NotFound, ResourceExhausted
from farthing.kit.settings import SettingsError
from farthing.kit.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 5, 1, tzinfo=UTC))


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> ModelStore:
    return ModelStore(tmp_path / "models", clock=clock)


def make(tmp_path: Path, seed: int) -> Path:
    return write_gguf(tmp_path / f"m{seed}.gguf", seed=seed)


def damage(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def test_stored_files_cannot_be_written_by_accident(store: ModelStore, tmp_path: Path) -> None:
    assert store.add(make(tmp_path, 1)).path.stat().st_mode & 0o777 == 0o444


def test_one_flipped_bit_is_found_with_its_file(store: ModelStore, tmp_path: Path) -> None:
    good, bad = store.add(make(tmp_path, 1), "good"), store.add(make(tmp_path, 2), "bad")
    assert [verdict.damage for verdict in store.verify()] == [(), ()]
    content = bytearray(bad.path.read_bytes())
    content[-1] ^= 1
    damage(bad.path, bytes(content))
    verdicts = {verdict.names[0]: verdict for verdict in store.verify()}
    assert verdicts["good"].damage == () and verdicts["good"].size_bytes == good.size_bytes
    assert "m2.gguf has sha256" in verdicts["bad"].damage[0]
    with pytest.raises(NotFound):
        store.verify(["absent"])


def test_missing_files_cards_and_names_are_told(store: ModelStore, tmp_path: Path) -> None:
    models = [store.add(make(tmp_path, seed), f"m{seed}") for seed in (1, 2, 3)]
    models[0].path.unlink()
    (models[1].path.parent / "model.json").write_text("{}")
    (store.contents.names / "m3.json").write_text('{"digest": "../x"}')
    found = {
        verdict.names[:1]: verdict.damage[0] for verdict in store.verify() if verdict.damage
    }
    assert found[("m1",)] == "m1.gguf is missing"
    assert found[("m2",)] == "model.json is missing or damaged"
    assert "m3.json is not readable" in found[("m3",)]
    assert store.list() == ()
    assert {entry.name: bool(entry.damage) for entry in store.survey()} == {
        "m1": True,
        "m2": True,
        "m3": True,
    }


def test_adding_a_damaged_model_again_repairs_it(store: ModelStore, tmp_path: Path) -> None:
    source = make(tmp_path, 1)
    stored = store.add(source, "m")
    damage(stored.path, bytes(stored.size_bytes))
    assert store.add(source, "m").digest == stored.digest
    assert store.verify()[0].damage == ()


def test_a_card_from_a_newer_release_can_be_read(store: ModelStore, tmp_path: Path) -> None:
    stored = store.add(make(tmp_path, 1), "m")
    document = store.contents.read_document(stored.digest)
    document["provenance"]["facts"]["flavour"] = "new"
    write(stored.path.parent / "model.json", document)
    assert store.resolve("m").facts == stored.facts


def test_models_share_files_and_removing_one_tells_what_it_really_freed(
    store: ModelStore, tmp_path: Path
) -> None:
    folder = tmp_path / "first"
    save_model(folder, seed=1)
    first = store.add(folder, "first")
    other = tmp_path / "second"
    shutil.copytree(folder, other)
    save_model(other, seed=2)
    second = store.add(other, "second")
    assert first.digest != second.digest
    shared = (first.path / "tokenizer.json").stat()
    assert shared.st_ino == (second.path / "tokenizer.json").stat().st_ino
    assert store.used_bytes() < first.size_bytes + second.size_bytes
    before = store.used_bytes()
    freed = store.remove("second")
    graph_bytes = (first.path / "model.onnx").stat().st_size
    assert graph_bytes <= freed.freed_bytes < second.size_bytes
    assert before - store.used_bytes() == freed.freed_bytes
    assert store.verify()[0].damage == ()


def test_a_damaged_file_is_not_shared(store: ModelStore, tmp_path: Path) -> None:
    folder = tmp_path / "first"
    save_model(folder, seed=1)
    first = store.add(folder, "first")
    path = first.path / "tokenizer.json"
    damage(path, bytes(path.stat().st_size))
    other = tmp_path / "second"
    shutil.copytree(folder, other)
    save_model(other, seed=2)
    store.add(other, "second")
    assert [v.damage for v in store.verify(["second"])] == [()]


def test_a_name_that_moved_on_leaves_a_model_for_the_collection(
    store: ModelStore, tmp_path: Path
) -> None:
    old = store.add(make(tmp_path, 1), "m")
    store.add(make(tmp_path, 2), "m", replace=True)
    wishes = GcWishes(dry_run=True)
    told = store.collect(wishes)
    assert old.path.exists()
    assert told.what == (f"unnamed model {old.digest[:12]}…",)
    assert store.collect(GcWishes()).freed_bytes == told.freed_bytes >= old.size_bytes
    assert not old.path.exists()
    assert store.collect(GcWishes()).what == ()


def test_a_held_model_is_neither_removed_nor_collected(
    store: ModelStore, tmp_path: Path
) -> None:
    stored = store.add(make(tmp_path, 1), "m")
    hold = store.hold(stored)
    with pytest.raises(FailedPrecondition, match="in use by a running service"):
        store.remove("m")
    assert store.collect(GcWishes(limit_bytes=0)).what == ()
    store.add(make(tmp_path, 2), "m", replace=True)
    assert store.collect(GcWishes()).what == ()
    hold.release()
    assert len(store.collect(GcWishes()).what) == 1
    again = store.hold(store.resolve("m"))
    assert store.remove("m", force=True).freed_bytes > 0
    again.release()


def test_marks_of_models_that_are_gone_are_swept(store: ModelStore, tmp_path: Path) -> None:
    stored = store.add(make(tmp_path, 1), "m")
    store.hold(stored).release()
    store.remove("m")
    assert len(list(store.contents.holds.iterdir())) == 1
    store.collect(GcWishes())
    assert list(store.contents.holds.iterdir()) == []
    store.hold(stored).release()
    assert list(store.contents.holds.iterdir()) == []


def test_settings_open_the_store_with_its_limits(tmp_path: Path) -> None:
    settings = StoreSettings(
        data_dir=tmp_path, model_store_limit_bytes=5, model_serve_caller_bytes_per_s=7
    )
    store = open_store(settings)
    assert store.contents.root == tmp_path / "models"
    assert store.limits == StoreLimits(5, 0)
    assert serving_limits(settings) == ServingLimits(0, 7, 16)
    with pytest.raises(SettingsError, match="FARTHING_MODEL_FETCH_BYTES_PER_S=-1 is too small"):
        open_store(StoreSettings(model_fetch_bytes_per_s=-1))
    with pytest.raises(SettingsError, match="use 1 or more"):
        serving_limits(StoreSettings(model_serve_reader_count=0))


def test_a_hold_ends_with_its_process(store: ModelStore, tmp_path: Path) -> None:
    store.add(make(tmp_path, 1), "m")
    program = (
        "import sys; from pathlib import Path; from farthing.inference.store import ModelStore\n"
        "store = ModelStore(Path(sys.argv[1])); store.hold(store.resolve('m'))\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(store.contents.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(FailedPrecondition):
        store.remove("m")
    process.kill()
    process.communicate()
    assert store.remove("m").freed_bytes > 0


def test_the_least_recently_served_model_leaves_first(
    store: ModelStore, tmp_path: Path, clock: FakeClock
) -> None:
    sizes = {}
    for seed in (1, 2, 3):
        sizes[seed] = store.add(make(tmp_path, seed), f"m{seed}").size_bytes
    for name in ("m1", "m2", "m3", "m1"):
        clock.advance(60)
        store.locate(name)
    wishes = GcWishes(limit_bytes=store.used_bytes() - 1, dry_run=True)
    assert store.collect(wishes).what == ("model m2",)
    kept = GcWishes(limit_bytes=store.used_bytes() - 1, keep=("m2",))
    assert store.collect(kept).what == ("model m3",)
    assert [model.name for model in store.list()] == ["m1", "m2"]


def test_the_limit_refuses_or_makes_room_as_asked(tmp_path: Path, clock: FakeClock) -> None:
    first = make(tmp_path, 1)
    room = first.stat().st_size * 3
    store = ModelStore(tmp_path / "models", clock=clock, limits=StoreLimits(disk_bytes=room))
    store.add(first, "m1")
    clock.advance(60)
    store.locate("m1")
    store.add(make(tmp_path, 2), "m2")
    clock.advance(60)
    store.locate("m2")
    with pytest.raises(ResourceExhausted, match="the store may take") as caught:
        store.add(make(tmp_path, 3), "m3")
    assert caught.value.reason == "STORE_LIMIT"
    assert [model.name for model in store.list()] == ["m1", "m2"]
    store.add(make(tmp_path, 3), "m3", evict=True)
    assert [model.name for model in store.list()] == ["m2", "m3"]
    assert store.used_bytes() <= room


def test_a_measurement_replaces_the_cards_claims_and_survives_a_newer_card(
    store: ModelStore, tmp_path: Path
) -> None:
    source = make(tmp_path, 1)
    claim = {"t": {"easy": {"exact_match_ratio": 0.9, "n": 10}}}
    found = {"t": {"easy": {"exact_match_ratio": 0.5, "n": 20}}}
    write(source.with_name("model.json"), {"name": "m", "task_quality": claim})
    stored = store.add(source)
    assert stored.card["task_quality"] == claim
    measured = store.record_measurement("m", {"task_quality": found, "bytes_per_token": 2.5})
    assert (measured.card["task_quality"], measured.card["bytes_per_token"]) == (found, 2.5)
    assert store.add(source).card["task_quality"] == found
    write(source.with_name("model.json"), {"name": "m", "note": "new", "task_quality": claim})
    assert store.add(source).card["note"] == "new"
    assert store.resolve("m").card["task_quality"] == found
    assert store.resolve("m").digest == stored.digest
