"""The cloud service as a process: it finds its model, proves it, serves it and says what is wrong."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from tests.cloud.conftest import Tiny
from tests.support.plain_gguf import write_gguf

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1 import inference_pb2_grpc as pb_grpc
from farthing.cloud.engine import spawner
from farthing.cloud.plan import LoadPlan, make_plan
from farthing.cloud.selftest import run_selftest
from farthing.cloud.settings import CloudSettings
from farthing.inference.core.card import ModelCard
from farthing.inference.process.child import Child
from farthing.inference.process.remote import Patience, RemoteEngine
from farthing.inference.process.rules import EngineRules
from farthing.inference.store import ModelStore
from farthing.kit.errors import FailedPrecondition, FarthingError, NotFound
from farthing.kit.rpc.channel import open_channel
from farthing.kit.settings import SettingsError, load
from farthing.kit.testing import eventually, free_port


def plan_of(**environ: str) -> LoadPlan:
    return make_plan(load(CloudSettings, {f"FARTHING_{k}": v for k, v in environ.items()}))


def test_a_model_is_found_by_path_or_by_its_name_in_the_store(
    tiny: Tiny, tmp_path: Path
) -> None:
    by_path = plan_of(CLOUD_MODEL=str(tiny.folder), CLOUD_MODEL_NAME="large")
    stored = ModelStore(tmp_path / "models").add(tiny.folder, "chat")
    by_name = plan_of(CLOUD_MODEL="chat", DATA_DIR=str(tmp_path))
    assert (by_path.name, by_name.name) == ("large", "chat")
    assert by_name.path == stored.path
    assert by_path.digest == by_name.digest
    assert LoadPlan.from_json(by_name.to_json()) == by_name


@pytest.mark.parametrize(
    ("environ", "kind", "finding"),
    [
        ({}, SettingsError, "FARTHING_CLOUD_MODEL is not set"),
        ({"CLOUD_MODEL": "absent"}, NotFound, "farthing models add"),
        ({"CLOUD_DEVICE": "tpu"}, SettingsError, "auto, cuda or cpu"),
        (
            {"CLOUD_DEVICE": "cpu", "CLOUD_REQUIRE_GPU": "1"},
            SettingsError,
            "contradict each other",
        ),
        ({"CLOUD_THREADS": "-1"}, SettingsError, "FARTHING_CLOUD_THREADS"),
    ],
)
def test_bad_settings_name_the_variable_and_the_fix(
    tiny: Tiny, tmp_path: Path, environ: dict[str, str], kind: type[FarthingError], finding: str
) -> None:
    given = {"DATA_DIR": str(tmp_path), **environ}
    if environ and "CLOUD_MODEL" not in environ:
        given["CLOUD_MODEL"] = str(tiny.folder)
    with pytest.raises(kind, match=finding):
        plan_of(**given)


def test_a_gguf_model_is_sent_to_the_edge(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "small.gguf")
    with pytest.raises(FailedPrecondition, match="edge tier"):
        plan_of(CLOUD_MODEL=str(path))


def test_the_self_test_passes_a_good_model(tiny: Tiny) -> None:
    run_selftest(tiny.plan(), timeout_ms=60_000)


def test_the_self_test_tells_what_is_wrong_with_a_model(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        (tmp_path / name).write_bytes((tiny.folder / name).read_bytes())
    (tmp_path / "model.onnx").write_bytes((tiny.folder / "model.onnx").read_bytes()[:2000])
    plan = LoadPlan(path=tmp_path, name="cut", digest="", card=ModelCard(), device="cpu")
    with pytest.raises(FailedPrecondition, match="cannot be opened"):
        run_selftest(plan, timeout_ms=60_000)


def test_a_required_gpu_that_is_not_there_stops_the_start(tiny: Tiny) -> None:
    plan = LoadPlan(tiny.folder, "tiny", "", ModelCard(), device="cuda")
    try:
        run_selftest(plan, timeout_ms=60_000)
    except FailedPrecondition as error:
        assert error.reason == "GPU_REQUIRED"
    else:
        pytest.skip("CUDA works here")


@asynccontextmanager
async def running(**environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("FARTHING_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "farthing.cloud",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            **plain,
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "FARTHING_METRICS_PORT": "-1",
            **{f"FARTHING_{k}": v for k, v in environ.items()},
        },
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("device", ["cpu", "auto"])
async def test_on_a_cpu_the_kernel_bounds_the_engines_memory_however_it_was_chosen(
    tiny: Tiny, device: Literal["cpu", "auto"]
) -> None:
    plan = replace(tiny.plan(memory_limit_bytes=1 << 28), device=device)
    children: list[Child] = []

    def spawn() -> Child:
        children.append(spawner(plan, EngineRules())())
        return children[-1]

    engine = RemoteEngine(spawn, Patience())
    await engine.start()
    try:
        soft, hard = resource.prlimit(children[0].process.pid, resource.RLIMIT_DATA)
    finally:
        await engine.close(0)
    on_cpu = engine.ready.facts["device"] == "cpu"
    assert soft == hard == ((1 << 28) + (1 << 30) if on_cpu else resource.RLIM_INFINITY)


async def test_the_process_serves_and_ends_in_order(tiny: Tiny, tmp_path: Path) -> None:
    port = free_port()
    async with running(
        PORT=str(port),
        CLOUD_MODEL=str(tiny.folder),
        CLOUD_DEVICE="cpu",
        DATA_DIR=str(tmp_path),
    ) as process:
        channel = open_channel(f"127.0.0.1:{port}")
        stub = pb_grpc.InferenceServiceStub(channel)

        async def listed() -> pb.ListModelsResponse | None:
            assert process.returncode is None
            try:
                response: pb.ListModelsResponse = await stub.ListModels(
                    pb.ListModelsRequest(), timeout=1
                )
            except Exception:
                return None
            return response

        response = await eventually(listed, timeout_s=60, what="the service to answer")
        model = response.models[0]
        assert (model.format, model.quantization) == ("onnx", "fp32")
        request = pb.GenerateRequest(
            model=model.name, input=pb.GenerationInput(prompt="the order", max_tokens=4)
        )
        answer = await stub.Complete(pb.CompleteRequest(request=request), timeout=20)
        assert answer.completion.usage.output_token_count == 4
        await channel.close()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_a_start_without_a_model_is_one_clear_line(tmp_path: Path) -> None:
    async with running(DATA_DIR=str(tmp_path)) as process:
        assert process.stderr is not None
        said = (await asyncio.wait_for(process.stderr.read(), 60)).decode()
        assert await process.wait() == 1
    assert "FARTHING_CLOUD_MODEL is not set" in said
    assert "Traceback" not in said
