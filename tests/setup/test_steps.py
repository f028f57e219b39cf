"""A set-up step that fails says what happened and what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import steps
import system_packages


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The set-up log, in a folder of the test's own."""
    path = tmp_path / "build" / "setup.log"
    monkeypatch.setattr(steps, "ROOT", tmp_path)
    monkeypatch.setattr(steps, "LOG_PATH", path)
    return path


def test_a_failing_command_prints_the_logs_tail_and_the_remedy(
    capsys: pytest.CaptureFixture[str], log: Path
) -> None:
    script = "for n in range(100): print('line', n)\nraise SystemExit(3)"
    with pytest.raises(SystemExit, match="ended with status 3\n  what to do: plug it in"):
        steps.run_logged([sys.executable, "-c", script], "plug it in", cwd=log.parents[1])
    shown = capsys.readouterr().out
    assert "line 99" in shown
    assert "line 10\n" not in shown
    assert "line 10\n" in log.read_text("utf-8")


def test_a_missing_program_names_itself_and_the_remedy(log: Path) -> None:
    with pytest.raises(SystemExit, match="no-such-program is not installed\n  what to do: get"):
        steps.run_logged(["no-such-program"], "get it", cwd=log.parents[1])


def test_a_step_reports_its_title_when_it_starts_and_its_time_when_it_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with steps.step("compile"):
        assert capsys.readouterr().out == "  compile …\n"
    assert capsys.readouterr().out.startswith("  compile: ")


def test_the_shared_cache_follows_the_desktop_convention(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert steps.shared_cache() == tmp_path / "farthing"


def test_without_a_compiler_it_asks_for_one_only_when_it_must_compile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(system_packages, "has_openmp", lambda: True)
    assert system_packages.list_missing(will_compile=True) == ["g++"]
    assert system_packages.list_missing(will_compile=False) == []


def test_a_ready_wheel_still_needs_the_openmp_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_packages, "has_openmp", lambda: False)
    assert system_packages.list_missing(will_compile=False) == ["libgomp1"]


def test_a_compiler_for_another_machine_is_a_package_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = system_packages.list_missing(will_compile=True, machine="aarch64")
    assert missing == ["g++-aarch64-linux-gnu"]
    missing = system_packages.list_missing(will_compile=True, machine="x86_64")
    assert missing == ["g++-x86-64-linux-gnu"]
    assert system_packages.list_missing(will_compile=False, machine="aarch64") == []


def test_a_user_who_may_not_install_packages_is_told_the_exact_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(system_packages, "choose_privilege", lambda: None)
    expected = (
        r"as root, run: apt-get update && apt-get install -y --no-install-recommends g\+\+$"
    )
    with pytest.raises(SystemExit, match=expected):
        system_packages.install(["g++"])
