"""The lock files pin what pyproject.toml asks for, with hashes, and no training framework."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import environments
import lock
import pytest

LOCK_PATHS = sorted(environments.LOCKS.glob("*.txt"))
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)(?: ; [^\\]+)? \\$")


def read_pinned(path: Path) -> list[str]:
    """Names pinned by a lock file, each line of which must be a pin, a hash or empty."""
    names = []
    for line in path.read_text("utf-8").splitlines():
        if match := PIN.match(line):
            names.append(match[1])
        else:
            assert re.match(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$", line), line
    return names


def test_the_locks_are_made_from_the_present_dependencies() -> None:
    lock.require_fresh()


def test_a_changed_dependency_asks_for_new_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = lock.PYPROJECT.read_text("utf-8").replace('"grpcio>=', '"grpcio>=1,>=')
    (tmp_path / "pyproject.toml").write_text(changed, "utf-8")
    monkeypatch.setattr(lock, "PYPROJECT", tmp_path / "pyproject.toml")
    with pytest.raises(SystemExit, match="run make lock"):
        lock.require_fresh()


@pytest.mark.parametrize("path", LOCK_PATHS, ids=lambda path: path.stem)
def test_every_line_of_a_lock_is_a_pin_or_a_hash(path: Path) -> None:
    assert read_pinned(path)


def test_every_direct_dependency_is_pinned() -> None:
    inputs = lock.read_inputs(tomllib.loads(lock.PYPROJECT.read_text("utf-8")))
    for name, requirements in inputs.items():
        pinned = set(read_pinned(environments.LOCKS / f"{name}.txt"))
        for requirement in requirements:
            wanted = re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower()
            if name == "suite" and wanted == lock.ENGINE:
                continue  # compiled here: its source is pinned by the engine's own lock
            assert wanted in pinned, f"{wanted} is missing in locks/{name}.txt"


def test_no_lock_pulls_in_a_training_framework() -> None:
    for path in LOCK_PATHS:
        assert not set(read_pinned(path)) & set(lock.FORBIDDEN), path.name
