"""A server that behaves badly on request, and a store that does not wait between its tries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.file_server import FileServer
from tests.support.plain_gguf import write_gguf

from farthing.inference.store import ModelStore, Retrying, RetryRules


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    with FileServer() as running:
        yield running


@pytest.fixture
def pauses() -> list[float]:
    """Seconds that the store would have waited, one entry a pause."""
    return []


@pytest.fixture
def store(tmp_path: Path, pauses: list[float]) -> ModelStore:
    rules = RetryRules(attempt_count=4, stall_s=0.3)
    retrying = Retrying(rules, sleep=pauses.append, jitter=lambda: 1.0)
    return ModelStore(tmp_path / "models", retrying=retrying)


@pytest.fixture(scope="session")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("made") / "made.gguf").read_bytes()


@pytest.fixture
def there(tmp_path: Path) -> ModelStore:
    """Another node's."""
    return ModelStore(tmp_path / "there")


@pytest.fixture
def here(tmp_path: Path, pauses: list[float]) -> ModelStore:
    """The one that fetches from it."""
    rules = RetryRules(attempt_count=4, stall_s=0.6)
    return ModelStore(tmp_path / "here", retrying=Retrying(rules, sleep=pauses.append))
