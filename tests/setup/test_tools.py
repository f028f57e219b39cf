"""The Makefile explains itself, and the tool scripts choose and refuse as they say."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import buf_tool
import generate_protos
import pytest

ROOT = Path(__file__).resolve().parents[2]
GET_CONSUL = ROOT / "deploy" / "setup" / "get_consul.sh"


def run_get_consul(tools: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the script with the given settings added to a PATH that holds no Consul of the machine's."""
    base = {"PATH": "/usr/bin:/bin", "HOME": str(tools)}
    return subprocess.run(
        ["sh", GET_CONSUL, tools],
        env={**base, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def write_program(path: Path) -> Path:
    """An executable that succeeds whatever it is asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    return path


def test_a_named_consul_is_used_and_nothing_is_fetched(tmp_path: Path) -> None:
    program = write_program(tmp_path / "mine" / "consul")
    result = run_get_consul(tmp_path / "tools", CONSUL_BIN=str(program))
    assert (result.returncode, result.stdout) == (0, f"consul: {program}\n")
    assert not (tmp_path / "tools").exists()


def test_a_named_consul_that_does_not_run_is_refused_with_a_remedy(tmp_path: Path) -> None:
    result = run_get_consul(tmp_path / "tools", CONSUL_BIN=str(tmp_path / "nothing"))
    assert result.returncode == 1
    assert "does not run" in result.stderr
    assert "correct or unset it" in result.stderr


def test_a_consul_on_the_path_is_used(tmp_path: Path) -> None:
    program = write_program(tmp_path / "bin" / "consul")
    result = run_get_consul(tmp_path / "tools", PATH=f"{program.parent}:{os.defpath}")
    assert (result.returncode, result.stdout) == (0, f"consul: {program}\n")


def test_consul_is_fetched_from_the_machines_own_mirror_before_any_list_of_it_was(
    tmp_path: Path,
) -> None:
    state, config = tmp_path / "state", tmp_path / "apt.conf"
    (state / "lists" / "partial").mkdir(parents=True)
    sources = tmp_path / "sources.list"
    sources.write_text("deb [trusted=yes] file:///no-mirror/debian bookworm main\n")
    config.write_text(
        f'Dir::State "{state}"; Dir::Etc::SourceList "{sources}"; Dir::Etc::SourceParts "/dev/null";'
    )
    result = run_get_consul(tmp_path / "tools", APT_CONFIG=str(config))
    assert result.returncode == 1
    assert "no package list of Debian bullseye from file:/no-mirror/debian" in result.stderr


def test_an_unpacked_consul_is_kept(tmp_path: Path) -> None:
    program = write_program(tmp_path / "tools" / "consul" / "usr" / "bin" / "consul")
    result = run_get_consul(tmp_path / "tools")
    assert (result.returncode, result.stdout) == (0, f"consul: {program}\n")


def test_every_target_that_can_be_called_is_explained() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    phony = {
        name for line in re.findall(r"^\.PHONY: (.+)$", text, re.M) for name in line.split()
    }
    explained = set(re.findall(r"^([a-z-]+):.*## \S", text, re.M))
    assert phony == explained


def test_the_pipeline_runs_the_readers_own_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text("utf-8").splitlines()[-1] == "make test"


def test_a_damaged_buf_package_is_not_taken(tmp_path: Path) -> None:
    archive = tmp_path / "buf.tgz"
    assert not buf_tool.is_intact(archive, "x64")
    archive.write_bytes(b"something else")
    assert not buf_tool.is_intact(archive, "x64")


@pytest.mark.parametrize("name", ["a_pb2.py", "a_pb2.pyi", "a_pb2_grpc.py", "a_pb2_grpc.pyi"])
def test_generated_modules_are_told_from_written_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / name).touch()
    (tmp_path / "v1" / "a.proto").touch()
    (tmp_path / "v1" / "py.typed").touch()
    assert list(generate_protos.list_generated(tmp_path)) == [f"v1/{name}"]
