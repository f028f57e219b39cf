"""From settings to what to load and how, as a value that also travels to the self-test's process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from farthing.cloud.settings import CloudSettings
from farthing.inference.store.opening import open_store
from farthing.kit.errors import FailedPrecondition
from farthing.kit.settings import SettingsError

DeviceWish = Literal["auto", "cuda", "cpu"]


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A model folder, or its graph, and how to run it.

    Zero means: the model's own context, every usable core, the device's own chunk. `card` is the model card.
    """

    path: Path
    name: str
    digest: str
    card: dict[str, Any]
    device: DeviceWish = "auto"
    context_length: int = 0
    thread_count: int = 0
    prefill_chunk_token_count: int = 0

    def to_json(self) -> str:
        """As an argument for another process; without the card, which takes no part in computing."""
        return json.dumps({**asdict(self), "path": str(self.path), "card": {}})

    @classmethod
    def from_json(cls, text: str) -> LoadPlan:
        """Back from `to_json`."""
        values = json.loads(text)
        return cls(**{**values, "path": Path(values["path"])})


def make_plan(settings: CloudSettings) -> LoadPlan:
    """Finds the model and reads its card. Raises a FarthingError that says what to do."""
    _check_numbers(settings)
    if not settings.model:
        raise SettingsError(
            "FARTHING_CLOUD_MODEL is not set; set it to an ONNX folder or to the name of a model that "
            "`farthing models add` stored",
            env="FARTHING_CLOUD_MODEL",
        )
    store = open_store(settings)
    stored = store.locate(settings.model)
    store.hold(stored)  # until this process ends
    if stored.format != "onnx":
        raise FailedPrecondition(
            f"{settings.model} is a {stored.format} model and the cloud tier serves ONNX; give it to the edge tier",
            reason="MODEL_FORMAT_UNSUPPORTED",
            metadata={"model": settings.model, "format": stored.format},
        )
    plan = LoadPlan(
        path=stored.path,
        name=settings.model_name or stored.name,
        digest=stored.digest,
        card=stored.card,
        device=_device_wish(settings),
    )
    return replace(
        plan,
        context_length=settings.context_length,
        thread_count=settings.thread_count,
        prefill_chunk_token_count=settings.prefill_chunk_token_count,
    )


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


def _check_numbers(settings: CloudSettings) -> None:
    for value, least, env in (
        (settings.context_length, 0, "FARTHING_CLOUD_CONTEXT"),
        (settings.thread_count, 0, "FARTHING_CLOUD_THREADS"),
        (settings.prefill_chunk_token_count, 0, "FARTHING_CLOUD_PREFILL_CHUNK"),
        (settings.queue_capacity, 1, "FARTHING_CLOUD_QUEUE"),
        (settings.queue_aging_ms, 1, "FARTHING_CLOUD_QUEUE_AGING_MS"),
        (settings.selftest_timeout_ms, 1, "FARTHING_CLOUD_SELFTEST_TIMEOUT_MS"),
    ):
        if value < least:
            raise SettingsError(f"{env}={value} is too small; use {least} or more", env=env)
