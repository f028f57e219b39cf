from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import grpc
import pytest
from tests.support.selftest_children import SelftestChildren
from tests.support.tiny_gguf import write_tiny_gguf, write_tiny_lora

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1 import inference_pb2_grpc as pb_grpc
from farthing.edge import selftest
from farthing.edge.loading import make_plan
from farthing.edge.plan import Adapter, LoadPlan
from farthing.edge.settings import EdgeSettings
from farthing.kit.errors import FailedPrecondition, FarthingError
from farthing.kit.settings import SettingsError
from farthing.kit.testing import free_port


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


def settings_for(model: Path | str, tmp_path: Path) -> EdgeSettings:
    return EdgeSettings(model=str(model), data_dir=tmp_path, thread_count=1)


def test_the_plan_names_model_and_digest(model_path: Path, tmp_path: Path) -> None:
    plan = make_plan(settings_for(model_path, tmp_path))
    assert plan.name == "tiny"
    assert len(plan.digest) == 64
    named = make_plan(replace(settings_for(model_path, tmp_path), model_name="other"))
    assert named.name == "other"


def test_a_missing_setting_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        make_plan(settings_for("", tmp_path))
    assert "FARTHING_EDGE_MODEL" in caught.value.message
    with pytest.raises(SettingsError) as caught:
        make_plan(replace(settings_for("x", tmp_path), queue_capacity=0))
    assert "FARTHING_ENGINE_QUEUE" in caught.value.message


def test_a_truncated_file_is_refused_with_its_name(model_path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(model_path.read_bytes()[:60_000])
    with pytest.raises(FarthingError) as caught:
        make_plan(settings_for(broken, tmp_path))
    assert "broken.gguf" in caught.value.message


def test_the_selftest_passes_for_a_sound_model(model_path: Path, tmp_path: Path) -> None:
    selftest.run_selftest(make_plan(settings_for(model_path, tmp_path)), 60_000)


def test_a_file_llama_cannot_load_fails_in_the_child_with_its_words(
    model_path: Path, tmp_path: Path
) -> None:
    plan = make_plan(settings_for(model_path, tmp_path))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(model_path.read_bytes()[:60_000])
    with pytest.raises(FailedPrecondition) as caught:
        selftest.run_selftest(replace(plan, path=broken), 60_000)
    assert "llama.cpp cannot load broken.gguf" in caught.value.message
    assert "no reason given" not in caught.value.message


def test_an_assertion_of_the_library_is_told_without_its_build_folder(
    model_path: Path, tmp_path: Path
) -> None:
    plan = make_plan(settings_for(model_path, tmp_path))
    hopeless = tmp_path / "hopeless.gguf"
    hopeless.write_bytes(model_path.read_bytes())
    gguf.GGUFReader(hopeless, "r+").fields["llama.block_count"].parts[-1][0] = 0
    with pytest.raises(FailedPrecondition) as caught:
        selftest.run_selftest(replace(plan, path=hopeless), 60_000)
    assert "gave up with SIGABRT (llama-model.cpp:" in caught.value.message
    assert "download or convert it again" in caught.value.message


def test_the_selftest_computes_what_the_plan_will(
    plan_for: Callable[..., LoadPlan], tmp_path: Path
) -> None:
    write_tiny_lora(tmp_path / "good.gguf")
    write_tiny_lora(tmp_path / "other.gguf", architecture="qwen2")
    good, other = (Adapter(name, tmp_path / f"{name}.gguf") for name in ("good", "other"))
    with SelftestChildren() as children:
        for model in ("F16", "Q8_0", "window", "recurrent", "demo"):
            children.run(plan_for(model))
            children.run(plan_for(model, flash_attention="off", slot_count=1))
        children.run(plan_for("F16", kv_type="q8_0", shared_kv=True, adapters=(good,)))
        with pytest.raises(FailedPrecondition, match=r"adapter other from other\.gguf"):
            children.run(plan_for("F16", adapters=(good, other)))
        with pytest.raises(FailedPrecondition, match="sliding window"):
            children.run(plan_for("window", shared_kv=True))


def test_a_crash_of_the_child_becomes_advice(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "crash"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(FailedPrecondition) as caught:
        selftest.run_selftest(make_plan(settings_for(model_path, tmp_path)), 60_000)
    assert "SIGSEGV" in caught.value.message
    assert "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" in caught.value.message


def environment(model: Path, tmp_path: Path, port: int) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FARTHING_")}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "FARTHING_EDGE_MODEL": str(model),
        "FARTHING_EDGE_THREADS": "1",
        "FARTHING_DATA_DIR": str(tmp_path),
        "FARTHING_PORT": str(port),
        "FARTHING_METRICS_PORT": "-1",
    }


@pytest.mark.e2e
async def test_the_process_answers_and_stops_on_a_signal(
    model_path: Path, tmp_path: Path
) -> None:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "farthing.edge"),
        env=environment(model_path, tmp_path, port),
        stderr=subprocess.DEVNULL,
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = pb_grpc.InferenceServiceStub(channel)
            request = pb.GenerateRequest(
                model="tiny", input=pb.GenerationInput(prompt="hello", max_tokens=4)
            )
            answer = await stub.Complete(
                pb.CompleteRequest(request=request), wait_for_ready=True, timeout=60
            )
            assert answer.completion.usage.output_token_count == 4
            watch = stub.WatchLoad(pb.WatchLoadRequest())
            await watch.read()
            # An open watch must not hold the drain up.
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 8) == 0
            watch.cancel()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.e2e
def test_the_process_refuses_a_broken_model_in_one_line(
    model_path: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(model_path.read_bytes()[:60_000])
    done = subprocess.run(
        [sys.executable, "-m", "farthing.edge"],
        env=environment(broken, tmp_path, free_port()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "broken.gguf" in done.stderr
