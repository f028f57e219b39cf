"""`farthing up` as a person meets it: start, stop, restart, accident, taken port."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.consul, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
MakeSuite = Callable[[], Any]


def is_running(pid: int) -> bool:
    """Whether the process runs; a dead one that nobody has collected yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


def test_it_starts_stops_on_ctrl_c_and_keeps_its_keys(make_suite: MakeSuite) -> None:
    suite = make_suite()
    suite.start()
    children = suite.child_pids()
    assert len(children) == 10
    env_file = suite.state / "env"
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    keys = env_file.read_text()
    suite.process.send_signal(signal.SIGINT)
    assert suite.process.wait(60) == 0
    assert not any(is_running(pid) for pid in children)
    suite.start()
    assert env_file.read_text() == keys
    assert suite.stop() == 0


def test_nothing_outlives_a_killed_supervisor_and_the_next_start_works(
    make_suite: MakeSuite,
) -> None:
    suite = make_suite()
    suite.start()
    children = suite.child_pids()
    suite.kill()
    wait_until(lambda: not any(is_running(pid) for pid in children), "the children's end")
    suite.start()
    assert suite.stop() == 0


def test_a_killed_service_comes_back(make_suite: MakeSuite) -> None:
    suite = make_suite()
    suite.start()
    router = next(
        pid
        for pid in suite.child_pids()
        if b"farthing.router" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    os.kill(router, signal.SIGKILL)
    wait_until(lambda: "router is well again" in suite.read_output(), "the router's return")
    assert suite.stop() == 0


def test_a_second_suite_on_the_same_ports_is_refused_by_name(
    suite: Any, tmp_path: Path
) -> None:
    second = subprocess.run(
        suite.command("--state", str(tmp_path)),
        env=suite.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 1
    assert "is taken" in second.stderr
    assert "--network" in second.stderr


def test_a_prompt_without_an_answer_fails_the_demo(make_suite: MakeSuite) -> None:
    # The tiny edge model's context is too short for some prompts, and its answers are noise.
    suite = make_suite()
    done = subprocess.run(
        suite.command("--demo", "--once"),
        env={**suite.environ, "FARTHING_EDGE_CONTEXT": "64", "FARTHING_CLOUD_CONTEXT": "64"},
        cwd=suite.folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "failed:" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.skipif(
    not (ROOT / "deploy/demo-models/cloud-large/model.onnx").exists(),
    reason="the demo models are not built: make models",
)
def test_the_demo_answers_every_prompt_and_accounts_for_it(make_suite: MakeSuite) -> None:
    suite = make_suite()
    environ = {k: v for k, v in suite.environ.items() if not k.startswith("FARTHING_")}
    done = subprocess.run(
        suite.command("--demo", "--once"),
        env=environ,
        cwd=suite.folder,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads((suite.folder / "build" / "run.json").read_text())
    prompts = json.loads((ROOT / "deploy/demo-models/prompts.json").read_text())
    assert len(records) == len(prompts)
    assert {record["interface"] for record in records} == {"http", "grpc"}
    wishes = json.loads((ROOT / "deploy/demo/wishes.json").read_text())
    assert wishes.keys() <= {prompt["id"] for prompt in prompts}
    for record, prompt in zip(records, prompts, strict=True):
        assert record["wishes"] == wishes.get(prompt["id"], {})
        # Whatever this machine's speed makes of the others, these have one place to go.
        match record["wishes"]:
            case {"policy": "cheapest"} | {"privacy": "edge_only"}:
                assert record["tier"] == "edge"
            case {"policy": "best"} | {"min_quality": _}:
                assert record["tier"] == "cloud"
    for record in records:
        assert record["total_nano_usd"] > 0
        assert record["total_nano_usd"] == sum(
            line["nano_usd"] for line in record["cost_lines"]
        )
        assert record["rejected"]
        assert len(record["trace_id"]) == 32
        assert record["usage"]["output_token_count"] > 0
        assert record["correct"] == (record["answer"] == record["expected"])
