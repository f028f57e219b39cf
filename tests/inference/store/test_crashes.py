"""Killed anywhere, on a full disk, two at once: the store is as before or as wanted, and the next call works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.file_server import FileServer
from tests.support.plain_gguf import write_gguf

from farthing.inference.store import GcWishes, ModelStore

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if not k.startswith("FARTHING_")},
    "PYTHONPATH": os.pathsep.join([str(ROOT), *(p for p in sys.path if p)]),
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


@pytest.fixture(scope="module")
def crashes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """By kind of work: what was found after a kill before each of its file operations, the last time before none."""
    folder = tmp_path_factory.mktemp("crashes")
    write_gguf(folder / "old.gguf", seed=1)
    write_gguf(folder / "new.gguf", seed=2)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.crash_points", str(folder)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for line in map(json.loads, done.stdout.splitlines()):
        found.setdefault(line["work"], []).append(line)
    return found


@pytest.mark.parametrize("work", ["replace", "repair", "remove", "measure", "collect"])
def test_after_any_crash_the_next_call_works_and_nothing_stays_behind(
    crashes: dict[str, list[dict[str, Any]]], work: str
) -> None:
    seen = crashes[work]
    assert len(seen) > 5 and seen[-1]["finished"]
    assert all(line["leftover"] == [] for line in seen)


def states_of(seen: list[dict[str, Any]]) -> list[str]:
    """What the name stood for after each crash, repetitions left out."""
    states = [line["names"].get("m", "gone") for line in seen]
    return [
        state for state, before in zip(states, ["", *states], strict=False) if state != before
    ]


def test_a_killed_replacement_leaves_the_old_model_or_the_new_one(
    crashes: dict[str, list[dict[str, Any]]],
) -> None:
    assert states_of(crashes["replace"]) == ["old", "new"]
    assert all(line["damage"] == [] for line in crashes["replace"])


@pytest.mark.parametrize("work", ["remove", "collect"])
def test_a_killed_removal_leaves_the_model_or_none(
    crashes: dict[str, list[dict[str, Any]]], work: str
) -> None:
    assert states_of(crashes[work]) == ["old", "gone"]
    assert all(line["damage"] == [] for line in crashes[work])


def test_a_killed_note_of_a_measurement_leaves_the_card_whole(
    crashes: dict[str, list[dict[str, Any]]],
) -> None:
    assert states_of(crashes["measure"]) == ["old"]
    assert all(line["damage"] == [] for line in crashes["measure"])
    assert crashes["measure"][-1]["measured"] == ["m"]


def test_a_killed_repair_leaves_the_model_damaged_or_whole(
    crashes: dict[str, list[dict[str, Any]]],
) -> None:
    assert states_of(crashes["repair"]) == ["damaged", "old"]


def start_adding(
    root: Path, source: str, name: str, *, limit_bytes: int = 0, rate: int = 0
) -> subprocess.Popen[str]:
    """A process that adds a model; its files may grow to the limit only."""
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from farthing.inference.store import ModelStore, StoreLimits\n"
        "from farthing.kit.errors import FarthingError\n"
        "root, source, name, limit, rate = sys.argv[1:]\n"
        "if int(limit): resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))\n"
        "show = lambda p: print(p.stage, p.done_bytes, flush=True)\n"
        "store = ModelStore(Path(root), limits=StoreLimits(0, int(rate)))\n"
        "try: store.add(source, name, progress=show)\n"
        "except FarthingError as error: raise SystemExit(f'{error.reason} {error.message}')\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, str(root), source, name, str(limit_bytes), str(rate)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def large_gguf(tmp_path: Path) -> bytes:
    """A model of half a megabyte."""
    tokens = tuple(f"token-{number:032}" for number in range(12_000))
    return write_gguf(tmp_path / "large.gguf", tokens=tokens).read_bytes()


def wait_for_bytes(process: subprocess.Popen[str], wanted_bytes: int) -> int:
    """Follows a download until so many bytes have come; how many there are then."""
    assert process.stdout is not None
    for line in process.stdout:
        stage, _, done = line.partition(" ")
        if stage == "download" and int(done) >= wanted_bytes:
            return int(done)
    raise AssertionError("the process ended early")


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_killed_download_goes_on_and_never_starts_over(
    server: FileServer, tmp_path: Path
) -> None:
    content = large_gguf(tmp_path)
    server.serve("m.gguf", content, bytes_per_write=8192)
    root = tmp_path / "models"
    kept = [0]
    for _ in range(2):
        process = start_adding(root, server.url("m.gguf"), "m", rate=400_000)
        kept.append(wait_for_bytes(process, kept[-1] + 40_000))
        kill(process)
    process = start_adding(root, server.url("m.gguf"), "m")
    assert process.communicate(timeout=60) and process.returncode == 0
    assert ModelStore(root).resolve("m").path.read_bytes() == content
    assert all(offset >= had for offset, had in zip(server.offsets, kept, strict=True))


def have(root: Path) -> int:
    """Bytes of a download that have come."""
    return sum(part.stat().st_size for part in root.glob("incoming/*/part"))


def test_a_disk_that_fills_up_is_said_and_the_download_goes_on_when_there_is_room(
    server: FileServer, tmp_path: Path
) -> None:
    content = large_gguf(tmp_path)
    server.serve("m.gguf", content)
    root = tmp_path / "models"
    process = start_adding(root, server.url("m.gguf"), "m", limit_bytes=200_000)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors[:27]) == (1, "DISK_FULL the disk is full ")
    assert have(root) == 200_000
    assert ModelStore(root).list() == ()
    process = start_adding(root, server.url("m.gguf"), "m")
    assert process.communicate(timeout=60) and process.returncode == 0
    assert server.offsets == [0, 200_000]


def test_a_disk_that_fills_up_while_copying_leaves_nothing_behind(tmp_path: Path) -> None:
    large_gguf(tmp_path)
    root = tmp_path / "models"
    process = start_adding(root, str(tmp_path / "large.gguf"), "m", limit_bytes=200_000)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.split()[0]) == (1, "DISK_FULL")
    assert list(root.glob("incoming/*")) == [] and ModelStore(root).list() == ()


def test_several_processes_at_once_store_everything_once(
    server: FileServer, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "local.gguf", seed=3)
    content = large_gguf(tmp_path)
    server.serve("m.gguf", content)
    root = tmp_path / "models"
    processes = [
        start_adding(root, source, f"{kind}-{number}")
        for number in range(2)
        for kind, source in (
            ("local", str(tmp_path / "local.gguf")),
            ("far", server.url("m.gguf")),
        )
    ]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    store = ModelStore(root)
    assert len(store.list()) == 4
    assert len({model.digest for model in store.list()}) == 2
    assert all(not verdict.damage for verdict in store.verify())
    assert store.collect(GcWishes(unfinished_age_s=0)).freed_bytes == 0


def test_what_a_killed_process_left_is_collected_when_nobody_works_on_it(
    server: FileServer, tmp_path: Path
) -> None:
    content = large_gguf(tmp_path)
    server.serve("m.gguf", content, bytes_per_write=4096)
    root = tmp_path / "models"
    process = start_adding(root, server.url("m.gguf"), "m", rate=100_000)
    wait_for_bytes(process, 20_000)
    store = ModelStore(root)
    assert store.collect(GcWishes(unfinished_age_s=0)).what == ()  # it is being worked on
    kill(process)
    assert store.collect(GcWishes()).what == ()  # it may go on
    assert store.collect(GcWishes(unfinished_age_s=0, dry_run=True)).freed_bytes >= 20_000
    assert store.collect(GcWishes(unfinished_age_s=0)).freed_bytes >= 20_000
    assert list(root.glob("incoming/*")) == []
