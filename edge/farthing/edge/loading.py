"""From settings to a model that is proven to run here."""

from __future__ import annotations

import os
from pathlib import Path

from farthing.edge.plan import LoadPlan
from farthing.edge.settings import EdgeSettings
from farthing.inference.core.card import parse_card
from farthing.inference.store.gguf import check_gguf
from farthing.inference.store.opening import open_store
from farthing.kit.errors import FailedPrecondition
from farthing.kit.settings import SettingsError


def make_plan(settings: EdgeSettings) -> LoadPlan:
    """Finds the model, checks its file and reads its card. Raises a FarthingError that says what to do."""
    _require_positive(settings)
    if not settings.model:
        raise SettingsError(
            "FARTHING_EDGE_MODEL is not set; set it to a GGUF file or to the name of a model"
            " that `farthing models add` stored.",
            env="FARTHING_EDGE_MODEL",
        )
    store = open_store(settings)
    stored = store.locate(settings.model)
    store.hold(stored)  # until this process ends
    if stored.format != "gguf":
        raise FailedPrecondition(
            f"{settings.model} is an {stored.format} model; the edge serves GGUF. Use a GGUF"
            " file, or serve this one with farthing cloud.",
            reason="MODEL_FORMAT_UNSUPPORTED",
            metadata={"model": settings.model, "format": stored.format},
        )
    path = Path(stored.path)
    check_gguf(path)
    return LoadPlan(
        path=path,
        name=settings.model_name or stored.name,
        digest=stored.digest,
        card=parse_card(stored.card, path.name),
        context_length=settings.context_length,
        thread_count=settings.thread_count or usable_core_count(),
        prefill_chunk_token_count=settings.prefill_chunk_token_count,
    )


def usable_core_count() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _require_positive(settings: EdgeSettings) -> None:
    for value, least, env in (
        (settings.context_length, 16, "FARTHING_EDGE_CONTEXT"),
        (settings.thread_count, 0, "FARTHING_EDGE_THREADS"),
        (settings.prefill_chunk_token_count, 1, "FARTHING_EDGE_PREFILL_CHUNK"),
        (settings.queue_capacity, 1, "FARTHING_EDGE_QUEUE"),
        (settings.queue_aging_ms, 1, "FARTHING_EDGE_QUEUE_AGING_MS"),
        (settings.selftest_timeout_ms, 1, "FARTHING_EDGE_SELFTEST_TIMEOUT_MS"),
    ):
        if value < least:
            raise SettingsError(f"{env}={value} is too small; use {least} or more.", env=env)
