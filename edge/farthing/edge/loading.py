"""From settings to a model that is proven to run here."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import cast

from farthing.edge.memory_need import check_memory
from farthing.edge.plan import (
    CHOICES,
    KV_TYPES,
    MAX_SLOT_COUNT,
    Adapter,
    Choice,
    KvType,
    LoadPlan,
)
from farthing.edge.settings import EdgeSettings
from farthing.inference.core.card import parse_card
from farthing.inference.store.contents import StoredModel
from farthing.inference.store.gguf import check_gguf, read_header
from farthing.inference.store.opening import locate_model
from farthing.kit.errors import FailedPrecondition
from farthing.kit.settings import SettingsError

_LOGGER = logging.getLogger("farthing.edge")


def find_model(settings: EdgeSettings) -> StoredModel:
    """The model that the settings name. SettingsError, and what ModelStore.locate raises."""
    return locate_model(settings, settings.model, env="FARTHING_EDGE_MODEL")


def make_plan(settings: EdgeSettings, stored: StoredModel | None = None) -> LoadPlan:
    """Checks a model's file and the memory it needs, reads its card; of the one that the settings name unless given.

    Raises a FarthingError that says what to do.
    """
    _check(settings)
    stored = stored or find_model(settings)
    if stored.format != "gguf":
        raise FailedPrecondition(
            f"{stored.name} is an {stored.format} model; the edge serves GGUF. Use a GGUF"
            " file, or serve this one with farthing cloud.",
            reason="MODEL_FORMAT_UNSUPPORTED",
            metadata={"model": stored.name, "format": stored.format},
        )
    path = Path(stored.path)
    check_gguf(path)
    plan = LoadPlan(
        path=path,
        name=settings.model_name or stored.name,
        digest=stored.digest,
        card=parse_card(stored.card, path.name),
        context_length=settings.context_length,
        thread_count=settings.thread_count or usable_core_count(),
        slot_count=settings.slot_count,
        step_token_capacity=settings.step_token_capacity,
        kv_type=cast(KvType, settings.kv_type),
        flash_attention=cast(Choice, settings.flash_attention),
        shared_kv=settings.shared_kv,
        pool_token_capacity=settings.pool_token_capacity,
        adapters=parse_adapters(settings.adapters),
        memory_limit_bytes=settings.memory_limit_bytes,
        embedding_context_length=settings.embedding_context_length,
    )
    _LOGGER.info("memory needed, estimated", extra=check_memory(plan).as_log_fields())
    return plan


def usable_core_count() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parse_adapters(texts: Sequence[str]) -> tuple[Adapter, ...]:
    """Adapters from "name=file" and "name=file@scale". Raises SettingsError naming the entry that is wrong."""
    adapters: dict[str, Adapter] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        file, _, scale_text = rest.rpartition("@")
        scale = _parse_scale(scale_text) if file else None
        path = Path(rest if scale is None else file).expanduser()
        if not (name and equals and rest):
            raise _bad_adapter(text, "write name=file or name=file@scale")
        if name in adapters:
            raise _bad_adapter(text, f"the name {name} is there twice")
        if not path.is_file():
            raise _bad_adapter(text, f"there is no file {path}")
        kind = read_header(path).metadata.get("general.type")
        if kind != "adapter":
            raise _bad_adapter(
                text, f"{path.name} is no adapter but {kind or 'something else'}"
            )
        adapters[name] = Adapter(name, path, 1.0 if scale is None else scale)
    return tuple(adapters.values())


def _parse_scale(text: str) -> float | None:
    """A finite number, or None: then the text belongs to the file's name."""
    try:
        scale = float(text)
    except ValueError:
        return None
    return scale if isfinite(scale) else None


def _bad_adapter(text: str, finding: str) -> SettingsError:
    env = "FARTHING_EDGE_ADAPTERS"
    return SettingsError(f"{env} has {text!r}: {finding}.", env=env)


def _check(settings: EdgeSettings) -> None:
    _require_range(settings)
    settings.check_engine()
    for value, known, env in (
        (settings.kv_type, KV_TYPES, "FARTHING_EDGE_KV_TYPE"),
        (settings.flash_attention, CHOICES, "FARTHING_EDGE_FLASH_ATTENTION"),
    ):
        if value not in known:
            raise SettingsError(f"{env}={value}: use {' or '.join(known)}.", env=env)
    if settings.kv_type != "f16" and settings.flash_attention == "off":
        raise SettingsError(
            "FARTHING_EDGE_FLASH_ATTENTION=off: only fused attention reads"
            f" FARTHING_EDGE_KV_TYPE={settings.kv_type}; use auto.",
            env="FARTHING_EDGE_FLASH_ATTENTION",
        )
    if settings.pool_token_capacity and not settings.shared_kv:
        raise SettingsError(
            "FARTHING_EDGE_POOL_TOKENS is the size of a shared pool; set"
            " FARTHING_EDGE_SHARED_KV=true too, or unset it.",
            env="FARTHING_EDGE_POOL_TOKENS",
        )


def _require_range(settings: EdgeSettings) -> None:
    for value, least, env in (
        (settings.context_length, 16, "FARTHING_EDGE_CONTEXT"),
        (settings.thread_count, 0, "FARTHING_EDGE_THREADS"),
        (settings.slot_count, 1, "FARTHING_EDGE_SLOTS"),
        (settings.step_token_capacity, settings.slot_count + 1, "FARTHING_EDGE_STEP_TOKENS"),
        (settings.pool_token_capacity, 0, "FARTHING_EDGE_POOL_TOKENS"),
        (settings.memory_limit_bytes, 0, "FARTHING_EDGE_MEMORY_LIMIT_BYTES"),
        (settings.embedding_context_length, 0, "FARTHING_EDGE_EMBEDDINGS_CONTEXT"),
        (settings.selftest_timeout_ms, 1, "FARTHING_EDGE_SELFTEST_TIMEOUT_MS"),
    ):
        if value < least:
            raise SettingsError(f"{env}={value} is too small; use {least} or more.", env=env)
    if settings.slot_count > MAX_SLOT_COUNT:
        raise SettingsError(
            f"FARTHING_EDGE_SLOTS={settings.slot_count} is too large; use {MAX_SLOT_COUNT} or less.",
            env="FARTHING_EDGE_SLOTS",
        )
