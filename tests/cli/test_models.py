"""`farthing models`: the store from the command line, its progress, its errors, other nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import BashComplete
from click.testing import Result
from tests.support.engine_node import ADMIN_KEY as EDGE_ADMIN_KEY
from tests.support.engine_node import run_node, run_quota
from tests.support.file_server import FileServer
from tests.support.node_process import ADMIN_KEY, start_node
from tests.support.plain_gguf import write_gguf
from tests.support.tiny_gguf import write_tiny_gguf

from farthing.cli.app import cli
from farthing.cli.models.stores import SizeType, format_bytes

Run = Callable[..., Result]


@pytest.fixture
def models(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`farthing models …` on a store of this test's own."""
    monkeypatch.setenv("FARTHING_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return lambda *arguments, **more: run("models", *arguments, **more)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        yield running


def read(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def one_line(result: Result) -> str:
    """The error of a command that failed, which is one line."""
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.strip().splitlines()
    return line


def make(tmp_path: Path, seed: int = 1, name: str = "m.gguf") -> str:
    return str(write_gguf(tmp_path / name, seed=seed))


def test_progress_is_json_lines_beside_one_json_answer(
    models: Run, server: FileServer, tmp_path: Path
) -> None:
    content = Path(make(tmp_path)).read_bytes()
    server.serve("m.gguf", content, cut_after_bytes=[1000])
    result = models("add", server.url("m.gguf"), "--name", "far", "--json")
    assert read(result)["name"] == "far"
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    stages = [line["stage"] for line in lines]
    assert stages[0] == "download" and "wait" in stages and stages[-1] == "done"
    complete = [line for line in lines if line["stage"] == "download"][-1]
    assert complete["done_bytes"] == complete["total_bytes"] == len(content)


def test_a_pipe_hears_of_pauses_only(models: Run, server: FileServer, tmp_path: Path) -> None:
    content = Path(make(tmp_path)).read_bytes()
    server.serve("m.gguf", content, cut_after_bytes=[1000])
    result = models("add", server.url("m.gguf"), "--limit-rate", "10MB")
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("trying again:") and "1000 of" in line


def test_errors_are_one_line_that_says_what_to_do(
    models: Run, server: FileServer, tmp_path: Path
) -> None:
    assert "check the address" in one_line(models("add", server.url("absent.gguf")))
    server.serve("m.gguf", Path(make(tmp_path)).read_bytes())
    wrong = models("add", server.url("m.gguf"), "--sha256", "0" * 64)
    assert "not what was announced" in one_line(wrong)
    assert "it has: none yet" in one_line(models("show", "absent"))
    assert "none yet" in one_line(models("remove", "absent"))


def test_everything_known_of_a_model_is_shown(models: Run, tmp_path: Path) -> None:
    source = make(tmp_path)
    quality = {"sum": {"easy": {"exact_match_ratio": 0.75, "n": 4}}}
    card = {"name": "m", "license": "MIT", "task_quality": quality}
    (tmp_path / "model.json").write_text(json.dumps(card))
    models("add", source)
    shown = read(models("show", "m", "--json"))
    assert shown["provenance"]["source"] == source
    assert shown["provenance"]["licence"] == "MIT"
    assert shown["qualities"][1] == {"task": "sum", "quality_ratio": 0.75, "n": 4}
    assert shown["files"][0]["sha256"] == shown["digest"]
    text = models("show", "m").stdout
    assert "licence         MIT" in text and "sum/easy  75.0%" in text


def test_damage_is_listed_verified_and_ends_with_status_1(models: Run, tmp_path: Path) -> None:
    source = make(tmp_path)
    stored = Path(read(models("add", source, "--name", "m", "--json"))["path"])
    assert models("verify").exit_code == 0
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.chmod(0o644)
    stored.write_bytes(content)
    result = models("verify", "--json")
    assert result.exit_code == 1
    assert "has sha256" in json.loads(result.stdout)[0]["damage"][0]
    assert "repairs it" in models("verify", "m").stderr
    stored.unlink()
    (entry,) = read(models("list", "--stored", "--json"))
    assert "damage" in entry
    assert models("add", source, "--name", "m").exit_code == 0
    assert models("verify").exit_code == 0


def test_removing_and_collecting_say_how_much_they_free(models: Run, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        models("add", make(tmp_path, seed), "--name", f"m{seed}")
    size = (tmp_path / "m.gguf").stat().st_size
    (removed,) = read(models("remove", "m1", "--json"))
    assert removed["name"] == "m1" and removed["freed_bytes"] >= size
    models("add", make(tmp_path, 4), "--name", "m2", "--replace")
    told = read(models("gc", "--dry-run", "--json"))
    assert told["dry_run"] and told["removed"][0].startswith("unnamed model")
    done = read(models("gc", "--json"))
    assert done["freed_bytes"] == told["freed_bytes"] >= size
    evicted = read(models("gc", "--to", "1kB", "--keep", "m2", "--json"))
    assert evicted["removed"] == ["model m3"]
    assert "0 B freed" in models("gc").stdout
    assert models("gc", "--to", "much").exit_code == 2


def test_a_limit_of_the_store_is_kept(
    models: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARTHING_MODEL_STORE_LIMIT_BYTES", "5000")
    assert models("add", make(tmp_path, 1), "--name", "m1").exit_code == 0
    assert "--make-room" in one_line(models("add", make(tmp_path, 2), "--name", "m2"))
    assert models("add", make(tmp_path, 2), "--name", "m2", "--make-room").exit_code == 0
    assert [item["name"] for item in read(models("list", "--stored", "--json"))] == ["m2"]


def test_a_variant_is_made_and_what_does_not_fit_is_said(models: Run, tmp_path: Path) -> None:
    source = str(write_tiny_gguf(tmp_path / "tiny.gguf", quantized=False))
    models("add", source, "--name", "tiny-f16")
    assert "use Q8_0" in one_line(models("quantize", "tiny-f16", "--to", "Q4_K_M"))
    made = read(models("quantize", "tiny-f16", "--to", "q4_0", "--json"))
    assert (made["name"], made["quantization"]) == ("tiny-q4_0", "Q4_0")
    rows = read(models("compare", "tiny-q4_0", "--json"))
    assert [row["name"] for row in rows] == ["tiny-f16", "tiny-q4_0"]
    assert "not measured yet: tiny-f16, tiny-q4_0" in models("compare", "tiny-f16").stderr


@pytest.mark.e2e
def test_a_variant_is_measured_in_a_service_started_for_it(models: Run, tmp_path: Path) -> None:
    source = str(write_tiny_gguf(tmp_path / "tiny.gguf", quantized=False))
    models("add", source, "--name", "tiny")
    models("quantize", "tiny", "--to", "Q8_0")
    tasks = tmp_path / "tasks.jsonl"
    item = {"task": "t", "messages": [{"role": "user", "content": "hi"}], "answer": "no"}
    tasks.write_text("".join(json.dumps({"id": f"{n}", **item}) + "\n" for n in range(3)))
    options = ("--tasks", str(tasks), "--max-tokens", "8", "--each", "2", "--json")
    first = read(models("measure", "tiny", *options))
    assert first["task_quality"]["t"]["all"] == {"exact_match_ratio": 0.0, "n": 2}
    assert first["decode_tokens_per_s"] > 0 and first["memory_bytes"] > 10_000_000
    assert first["agreement"]["same_count"] == 2
    result = models("measure", "tiny-q8_0", *options)
    assert read(result)["reference"] == "tiny"
    assert [json.loads(line)["stage"] for line in result.stderr.splitlines()][-1] == "measure"
    rows = read(models("compare", "tiny", "--json"))
    assert rows[1]["agreement"]["answer_count"] == 2
    table = models("compare", "tiny").stdout
    assert "tiny-q8_0" in table and "of 2" in table
    assert "measured" in models("show", "tiny").stdout


@pytest.mark.e2e
def test_a_service_that_does_not_start_says_why(
    models: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models("add", make(tmp_path), "--name", "bare")  # no weights an engine could use
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"id": "1", "task": "t", "prompt": "x", "answer": "y"}\n')
    line = one_line(models("measure", "bare", "--tasks", str(tasks)))
    assert "the edge service did not start" in line


def test_without_tasks_a_measurement_says_where_they_come_from(
    models: Run, tmp_path: Path
) -> None:
    models("add", make(tmp_path), "--name", "m")
    result = models("measure", "m")
    assert result.exit_code == 2 and "--tasks" in result.stderr


def test_other_nodes_are_listed_fetched_from_and_changed(
    models: Run, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    models("add", make(tmp_path), "--name", "chat", "--data-dir", str(there))
    with start_node(there / "models") as address:
        (listed,) = read(models("list", "--node", address, "--json"))
        assert listed["names"] == ["chat"] and listed["served_as"] == []
        fetched = read(models("fetch", "chat", "--from", address, "--json"))
        assert fetched["digest"] == listed["digest"]
        monkeypatch.setenv("FARTHING_MODEL_SOURCES", f"127.0.0.1:9,{address}")
        assert "mine" in models("fetch", "chat", "--name", "mine").stdout
        server.serve("n.gguf", Path(make(tmp_path, 2, "n.gguf")).read_bytes())
        adding = ("add", server.url("n.gguf"), "--name", "n", "--node", address)
        assert "FARTHING_ADMIN_KEY" in one_line(models(*adding))
        monkeypatch.setenv("FARTHING_ADMIN_KEY", ADMIN_KEY)
        assert read(models(*adding, "--json"))["names"] == ["n"]
        assert f"is on {address}" in models(*adding).stdout
        removed = models("remove", "n", "--node", address)
        assert removed.stdout.startswith("n is removed")
        assert len(read(models("list", "--node", address, "--json"))) == 1
        line = one_line(models("fetch", "absent", "--from", address))
        assert "does not have it" in line


@pytest.mark.e2e
async def test_a_running_service_loads_swaps_and_unloads_what_it_has_stored(
    models: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    for seed, name in ((1, "one"), (2, "two")):
        file = write_tiny_gguf(tmp_path / f"{name}.gguf", seed=seed)
        models("add", str(file), "--name", name, "--data-dir", str(there))
    canaries = tmp_path / "known.jsonl"
    canaries.write_text('{"prompt": "hello", "answer": "a fish"}\n', encoding="utf-8")
    with run_quota(tmp_path) as registry:
        async with run_node("edge", there, registry, "one") as node:

            async def command(*arguments: str) -> Result:
                return await asyncio.to_thread(models, *arguments, "--node", node.address)

            async def served() -> dict[str, list[str]]:
                listed = read(await command("list", "--json"))
                return {one["names"][0]: one["served_as"] for one in listed}

            assert "FARTHING_ADMIN_KEY" in one_line(await command("load", "two"))
            monkeypatch.setenv("FARTHING_ADMIN_KEY", EDGE_ADMIN_KEY)
            assert "two is served" in (await command("load", "two")).stdout
            assert await served() == {"one": ["one"], "two": ["two"]}
            assert "swap it" in one_line(await command("load", "two"))
            swap = ("load", "two", "--as", "one", "--swap")
            line = one_line(await command(*swap, "--canaries", str(canaries)))
            assert "0% of 1 canaries" in line
            assert read(await command(*swap, "--json"))["name"] == "one"
            assert await served() == {"one": [], "two": ["one", "two"]}
            assert "no more" in (await command("unload", "two")).stdout
            assert "one" in (await command("list")).stdout
            assert await served() == {"one": [], "two": ["one"]}


def test_nodes_are_found_in_the_registry_the_own_region_first(
    models: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    models("add", make(tmp_path), "--name", "chat", "--data-dir", str(there))
    assert "--from" in one_line(models("fetch", "chat"))
    with start_node(there / "models") as address:
        registry = tmp_path / "registry.json"
        instances = [
            {"id": "a", "service": "infer-cloud", "address": "127.0.0.1:9", "region": "far"},
            {"id": "b", "service": "infer-edge", "address": address, "region": "shop"},
        ]
        registry.write_text(json.dumps({"instances": instances}))
        monkeypatch.setenv("FARTHING_REGISTRY_FILE", str(registry))
        monkeypatch.setenv("FARTHING_REGION", "shop")
        assert read(models("fetch", "chat", "--json"))["source"] == f"node://{address}/chat"


def test_the_shell_completes_names_of_stored_models(models: Run, tmp_path: Path) -> None:
    for seed, name in ((1, "small"), (2, "smaller"), (3, "large")):
        models("add", make(tmp_path, seed), "--name", name)
    complete = BashComplete(cli, {}, "farthing", "_FARTHING_COMPLETE")
    for command in (["show"], ["verify", "large"], ["remove"], ["compare", "large"]):
        found = complete.get_completions(["models", *command], "sm")
        assert [item.value for item in found] == ["small", "smaller"]
    kept = complete.get_completions(["models", "gc", "--keep"], "la")
    assert [item.value for item in kept] == ["large"]


@pytest.mark.parametrize(
    ("text", "count"), [("500", 500), ("5kB", 5_000), ("1.5GiB", 3 << 29), ("2 MB", 2_000_000)]
)
def test_sizes_are_written_with_units(text: str, count: int) -> None:
    assert SizeType().convert(text, None, None) == count


def test_bytes_are_shown_in_the_unit_that_fits() -> None:
    shown = [format_bytes(count) for count in (999, 1_000, 999_950, 2_500_000_000)]
    assert shown == ["999 B", "1.0 kB", "1.0 MB", "2.5 GB"]
