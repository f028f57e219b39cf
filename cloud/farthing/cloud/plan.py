"""From settings to what to load and how, as a value that also travels to the self-test's process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, cast

from farthing.cloud.settings import CloudSettings
from farthing.inference.core.card import ModelCard, parse_card
from farthing.inference.store.contents import StoredModel
from farthing.inference.store.onnx_folder import find_graph, folder_of
from farthing.inference.store.opening import locate_model
from farthing.kit.errors import FailedPrecondition
from farthing.kit.settings import SettingsError

DeviceWish = Literal["auto", "cuda", "cpu"]
CacheType = Literal["auto", "fp16"]


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A model folder, or its graph, and how to run it.

    Zero means: the model's own context, every usable core, the device's own step and slots, no memory limit.
    `conversion_dir` keeps graphs in slot form; None converts anew for each process.
    """

    path: Path
    name: str
    digest: str
    card: ModelCard
    device: DeviceWish = "auto"
    context_length: int = 0
    thread_count: int = 0
    step_token_capacity: int = 0
    slot_count: int = 0
    memory_limit_bytes: int = 0
    kv_type: CacheType = "auto"
    cuda_graphs: bool = False
    conversion_dir: Path | None = None

    def to_json(self) -> str:
        """As an argument for another process."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> LoadPlan:
        """Back from `to_json`."""
        values = json.loads(text)
        folder = values["conversion_dir"]
        values["conversion_dir"] = None if folder is None else Path(folder)
        values["card"] = ModelCard.from_dict(values["card"])
        return cls(**{**values, "path": Path(values["path"])})


def find_model(settings: CloudSettings) -> StoredModel:
    """The model that the settings name. SettingsError, and what ModelStore.locate raises."""
    return locate_model(settings, settings.model, env="FARTHING_CLOUD_MODEL")


def make_plan(settings: CloudSettings, stored: StoredModel | None = None) -> LoadPlan:
    """Reads the card of a model, that of the settings unless given. Raises a FarthingError that says what to do."""
    _check_numbers(settings)
    stored = stored or find_model(settings)
    if stored.format != "onnx":
        raise FailedPrecondition(
            f"{stored.name} is a {stored.format} model and the cloud tier serves ONNX; give it to the edge tier",
            reason="MODEL_FORMAT_UNSUPPORTED",
            metadata={"model": stored.name, "format": stored.format},
        )
    graph = find_graph(stored.path)
    plan = LoadPlan(
        path=stored.path,
        name=settings.model_name or stored.name,
        digest=stored.digest,
        card=parse_card(stored.card, graph.relative_to(folder_of(graph)).as_posix()),
        device=_device_wish(settings),
    )
    return replace(
        plan,
        context_length=settings.context_length,
        thread_count=settings.thread_count,
        step_token_capacity=settings.step_token_capacity,
        slot_count=settings.slot_count,
        memory_limit_bytes=settings.memory_limit_bytes,
        kv_type=_cache_type(settings),
        cuda_graphs=settings.cuda_graphs,
        conversion_dir=settings.data_dir.expanduser() / "models" / "converted",
    )


def estimate_need_bytes(plan: LoadPlan) -> int:
    """What the model will take in memory, by estimate: its files. Slots are as many as then fit."""
    folder = plan.path if plan.path.is_dir() else plan.path.parent
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _device_wish(settings: CloudSettings) -> DeviceWish:
    if settings.device not in ("auto", "cuda", "cpu"):
        raise SettingsError(
            f"FARTHING_CLOUD_DEVICE={settings.device!r} is not a device; use auto, cuda or cpu",
            env="FARTHING_CLOUD_DEVICE",
        )
    if settings.require_gpu and settings.device == "cpu":
        raise SettingsError(
            "FARTHING_CLOUD_REQUIRE_GPU and FARTHING_CLOUD_DEVICE=cpu contradict each other; unset one",
            env="FARTHING_CLOUD_REQUIRE_GPU",
        )
    return "cuda" if settings.require_gpu else cast(DeviceWish, settings.device)


def _cache_type(settings: CloudSettings) -> CacheType:
    if settings.kv_type not in ("auto", "fp16"):
        raise SettingsError(
            f"FARTHING_CLOUD_KV_TYPE={settings.kv_type!r} is not a precision; use auto or fp16",
            env="FARTHING_CLOUD_KV_TYPE",
        )
    return cast(CacheType, settings.kv_type)


def _check_numbers(settings: CloudSettings) -> None:
    settings.check_engine()
    for value, least, env in (
        (settings.context_length, 0, "FARTHING_CLOUD_CONTEXT"),
        (settings.thread_count, 0, "FARTHING_CLOUD_THREADS"),
        (settings.step_token_capacity, 0, "FARTHING_CLOUD_STEP_TOKENS"),
        (settings.slot_count, 0, "FARTHING_CLOUD_SLOTS"),
        (settings.memory_limit_bytes, 0, "FARTHING_CLOUD_MEMORY_LIMIT_BYTES"),
        (settings.selftest_timeout_ms, 1, "FARTHING_CLOUD_SELFTEST_TIMEOUT_MS"),
    ):
        if value < least:
            raise SettingsError(f"{env}={value} is too small; use {least} or more", env=env)
