"""A whole suite on loopback addresses of its own, with tiny models, for all tests of the command."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.tiny_onnx import Shape, save_model

from farthing.cli.app import cli
from farthing.kit.discovery.agent import find_consul
from farthing.kit.errors import FailedPrecondition

ROOT = Path(__file__).resolve().parents[2]
_START_S = 90.0

Run = Callable[..., Result]


class Suite:
    """A `farthing up` of a test's own."""

    def __init__(self, folder: Path, network: str, models: dict[str, str]) -> None:
        self.folder = folder
        self.network = network
        self.state = folder / "build" / "run"
        self.output = folder / "output"
        self._models = models
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *options: str) -> list[str]:
        return [
            *(sys.executable, "-m", "farthing.cli", "up"),
            *("--network", self.network, "--state", str(self.state)),
            *("--assets", str(ROOT / "deploy"), *options),
        ]

    @property
    def environ(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FARTHING_")}
        return {**inherited, **self._models}

    def start(self, *options: str) -> None:
        """Start it and return when it says that it is up."""
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                self.command(*options),
                cwd=self.folder,
                env=self.environ,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline_s = time.monotonic() + _START_S
        while "Ctrl-C stops it" not in self.read_output():
            assert self.process.poll() is None, self.read_output()
            assert time.monotonic() < deadline_s, self.read_output()
            time.sleep(0.05)

    def read_output(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def child_pids(self) -> set[int]:
        """The processes the supervisor has started."""
        assert self.process is not None
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(pid) for pid in task.read_text().split()}

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def free_network() -> str:
    """A loopback network that no other suite is on: two runs of the tests may share a machine."""
    first = os.getpid() % 34
    for number in range(first, first + 34):
        network = f"127.{220 + number % 34}"
        with socket.socket() as probe:
            try:
                probe.bind((f"{network}.0.1", 50053))
            except OSError:
                continue
        return network
    raise AssertionError("a suite is up on every network of the tests'")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings that name an edge and a cloud model of a few kilobytes."""
    folder = tmp_path_factory.mktemp("models")
    gguf = write_tiny_gguf(folder / "tiny-edge.gguf")
    (folder / "tiny-cloud").mkdir()
    save_model(
        folder / "tiny-cloud",
        shape=Shape(layers=2, heads=2, head=8, inner=32, context=1024),
    )
    return {
        "FARTHING_EDGE_MODEL": str(gguf),
        "FARTHING_CLOUD_MODEL": str(folder / "tiny-cloud"),
    }


@pytest.fixture(scope="session")
def consul_present() -> None:
    try:
        find_consul(os.environ, ROOT)
    except FailedPrecondition as error:
        pytest.skip(str(error))


@pytest.fixture
def make_suite(
    tmp_path: Path, tiny_models: dict[str, str], consul_present: None
) -> Iterator[Callable[[], Suite]]:
    """Makes suites on a network of their own that are killed at the end."""
    suites: list[Suite] = []

    def make() -> Suite:
        suites.append(Suite(tmp_path, free_network(), tiny_models))
        return suites[-1]

    yield make
    for suite in suites:
        suite.kill()


@pytest.fixture(scope="session")
def suite(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_models: dict[str, str],
    consul_present: None,
) -> Iterator[Suite]:
    """One running suite for all tests that only talk to it."""
    running = Suite(tmp_path_factory.mktemp("suite"), free_network(), tiny_models)
    running.start()
    yield running
    assert running.stop() == 0, running.read_output()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Calls the command in an empty folder, without settings of the machine's."""
    for name in os.environ:
        if name.startswith(("FARTHING_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(cli, list(arguments), input=stdin)

    return call


@pytest.fixture
def run_in_suite(suite: Suite, run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls the command in the running suite's folder."""
    monkeypatch.chdir(suite.folder)
    return run
