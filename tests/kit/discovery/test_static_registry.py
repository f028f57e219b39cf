"""The registry file is read again when it changes, and the last good one is kept."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from farthing.kit.clock import SystemClock
from farthing.kit.discovery.registry import Registry
from farthing.kit.discovery.static import StaticRegistry
from farthing.kit.errors import InvalidArgument

Until = Callable[..., Awaitable[None]]
Keep = Callable[[Registry], Registry]


def write(file: Path, *ids: str) -> None:
    items = [
        {"id": key, "service": "edge", "address": "127.0.0.1:50061", "region": "site"}
        for key in ids
    ]
    file.write_text(json.dumps({"instances": items}))


async def test_a_changed_file_changes_the_view(
    tmp_path: Path, registries: Keep, until: Until
) -> None:
    file = tmp_path / "registry.json"
    write(file, "a")
    watch = registries(StaticRegistry(file, clock=SystemClock())).watch("edge")
    assert set(watch.instances) == {"a"}
    write(file, "a", "second")
    await until(lambda: set(watch.instances) == {"a", "second"})


async def test_a_broken_or_missing_file_keeps_the_last_view(
    tmp_path: Path, registries: Keep, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "registry.json"
    write(file, "a")
    watch = registries(StaticRegistry(file, clock=SystemClock())).watch("edge")
    file.write_text("{")
    await until(lambda: "keeping the last registry" in caplog.text)
    assert set(watch.instances) == {"a"}
    caplog.clear()
    file.unlink()
    await until(lambda: "cannot be read" in caplog.text)
    assert set(watch.instances) == {"a"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "not a registry"),
        ('{"instances": [{"id": "a"}]}', "address"),
        (
            '{"instances": [{"id": "a", "service": "s", "address": "nowhere", "region": "r"}]}',
            "host:port",
        ),
    ],
)
async def test_a_bad_file_is_refused_at_the_start_with_the_problem(
    tmp_path: Path, text: str, problem: str
) -> None:
    file = tmp_path / "registry.json"
    file.write_text(text)
    with pytest.raises(InvalidArgument, match=problem):
        StaticRegistry(file, clock=SystemClock())


async def test_a_missing_file_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="FARTHING_REGISTRY_FILE"):
        StaticRegistry(tmp_path / "none.json", clock=SystemClock())
