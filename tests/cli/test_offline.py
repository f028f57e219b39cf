"""What the command does without any service: help, errors, completion, settings, the model store."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from farthing.cli.app import _COMMANDS
from farthing.cli.settings import read_settings
from farthing.kit.settings import SettingsError

Run = Callable[..., Result]
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", list(_COMMANDS))
def test_every_command_has_help(run: Run, name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output


def test_help_imports_no_service_and_no_grpc() -> None:
    program = (
        "import sys; from farthing.cli.app import cli\n"
        "try: cli(['--help'])\nexcept SystemExit: pass\n"
        "print([n for n in sys.modules if n in ('grpc', 'rich', 'aiohttp') or n.startswith("
        "('farthing.quota', 'farthing.router', 'farthing.edge', 'farthing.cloud'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_near_miss_names_the_command_that_was_meant(run: Run) -> None:
    result = run("spnd")
    assert result.exit_code == 2
    assert "Did you mean 'spend'?" in result.output


def test_without_a_key_the_error_says_where_keys_come_from(run: Run) -> None:
    result = run("ask", "hello")
    assert result.exit_code == 1
    assert "farthing keys create" in result.output
    assert run("keys", "list").exit_code == 1


def test_an_unreachable_router_is_one_line_that_says_what_to_do(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARTHING_API_KEY", "fk-" + "x" * 32)
    monkeypatch.setenv("FARTHING_ROUTER_ADDRESS", "127.0.0.1:1")
    result = run("ask", "hello")
    assert result.exit_code == 1
    assert "farthing up" in result.output
    assert "127.0.0.1:1" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_an_empty_prompt_is_refused(run: Run) -> None:
    assert run("ask", " ").exit_code == 2
    assert run("ask", "hi", "--max-cost", "cheap").exit_code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(run: Run, shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_FARTHING_COMPLETE" in result.output


def test_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="FARTHING_ROUTER_ADRESS"):
        read_settings({"FARTHING_ROUTER_ADRESS": "x"}, tmp_path)


def test_settings_of_services_do_not_disturb_the_command(tmp_path: Path) -> None:
    read_settings({"FARTHING_EDGE_MODEL": "x", "FARTHING_LOG_LEVEL": "debug"}, tmp_path)


def test_the_env_file_of_a_run_is_found_from_below_and_the_environment_wins(
    tmp_path: Path,
) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "build" / "run").mkdir(parents=True)
    (tmp_path / "build" / "run" / "env").write_text(
        "OPENAI_API_KEY=fk-1\nFARTHING_ROUTER_ADDRESS=10.0.0.1:1\nFARTHING_QUOTA_ADDRESS=10.0.0.1:2\n"
    )
    settings = read_settings({"FARTHING_ADMIN_KEY": "fk-2"}, below)
    assert (settings.api_key, settings.admin_key) == ("fk-1", "fk-2")
    assert settings.router_address == "10.0.0.1:1"
    assert settings.quota_address == "10.0.0.1:2"


def test_the_keys_of_a_run_are_not_sent_to_another_suite(tmp_path: Path) -> None:
    (tmp_path / "build" / "run").mkdir(parents=True)
    (tmp_path / "build" / "run" / "env").write_text(
        "OPENAI_API_KEY=fk-1\nFARTHING_ADMIN_KEY=fk-2\nFARTHING_ROUTER_ADDRESS=10.0.0.1:1\n"
    )
    settings = read_settings({"FARTHING_ROUTER_ADDRESS": "10.0.0.9:9"}, tmp_path)
    assert (settings.api_key, settings.admin_key) == ("", "")


def test_a_foreign_openai_key_is_never_sent_to_us(tmp_path: Path) -> None:
    assert read_settings({"OPENAI_API_KEY": "sk-secret"}, tmp_path).api_key == ""


def test_the_settings_reference_is_what_config_prints(run: Run) -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    assert run("config", "--markdown").output == page, (
        "write it again: farthing config --markdown > docs/reference/settings.md"
    )


def test_config_knows_every_settings_class(run: Run) -> None:
    groups = json.loads(run("config", "--json").output)
    written = {
        path.parent.name
        for folder in ("services", "edge", "cloud")
        for path in (ROOT / folder / "farthing").glob("*/settings.py")
    } - {"kit", "cli", "inference"}
    assert written <= groups.keys()
    assert "FARTHING_CONSUL_URL" in run("config").output


def test_a_model_is_added_listed_and_found_again(
    run: Run, tmp_path: Path, tiny_models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARTHING_DATA_DIR", str(tmp_path / "data"))
    added = run("models", "add", tiny_models["FARTHING_EDGE_MODEL"], "--name", "mine", "--json")
    assert added.exit_code == 0, added.output
    assert json.loads(added.stdout)["name"] == "mine"
    listed = json.loads(run("models", "list", "--stored", "--json").output)
    assert [item["name"] for item in listed] == ["mine"]
    again = run("models", "add", tiny_models["FARTHING_EDGE_MODEL"], "--name", "mine")
    assert again.exit_code == 0
    assert "mine (gguf" in again.output


def test_adding_what_is_no_model_says_so(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    result = run(
        "models", "add", str(tmp_path / "notes.txt"), "--data-dir", str(tmp_path / "d")
    )
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1


def test_serve_refuses_an_unknown_service(run: Run) -> None:
    assert run("serve", "toaster").exit_code == 2
