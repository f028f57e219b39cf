"""From settings to a store, and to what of it others may have."""

from __future__ import annotations

from farthing.inference.store.contents import StoredModel
from farthing.inference.store.holds import Hold
from farthing.inference.store.servicer import ServingLimits
from farthing.inference.store.store import ModelStore, StoreLimits
from farthing.inference.store_settings import StoreSettings
from farthing.kit.rpc.tls import TlsFiles
from farthing.kit.settings import SettingsError


def open_store(settings: StoreSettings, tls: TlsFiles | None = None) -> ModelStore:
    """The model store below the data directory. SettingsError for a limit that is none."""
    limits = StoreLimits(
        _least(settings.model_store_limit_bytes, 0, "FARTHING_MODEL_STORE_LIMIT_BYTES"),
        _least(settings.model_fetch_bytes_per_s, 0, "FARTHING_MODEL_FETCH_BYTES_PER_S"),
    )
    return ModelStore(settings.data_dir.expanduser() / "models", limits=limits, tls=tls)


def locate_model(settings: StoreSettings, reference: str, *, env: str) -> StoredModel:
    """The model that a setting names, read through; errors as ModelStore.locate. SettingsError when it is not set."""
    if not reference:
        raise SettingsError(
            f"{env} is not set; set it to a model on disk, or to the name of one that `farthing models add` stored.",
            env=env,
        )
    return open_store(settings).locate(reference)


def hold_model(settings: StoreSettings, digest: str) -> Hold:
    """Keeps a stored model from being removed until it is released, or this process ends; else nothing."""
    return Hold(open_store(settings).contents, digest)


def serving_limits(settings: StoreSettings) -> ServingLimits:
    """How much of the link other nodes may have. SettingsError for a limit that is none."""
    return ServingLimits(
        _least(settings.model_serve_bytes_per_s, 0, "FARTHING_MODEL_SERVE_BYTES_PER_S"),
        _least(
            settings.model_serve_caller_bytes_per_s,
            0,
            "FARTHING_MODEL_SERVE_CALLER_BYTES_PER_S",
        ),
        _least(settings.model_serve_reader_count, 1, "FARTHING_MODEL_SERVE_READERS"),
    )


def _least(value: int, least: int, env: str) -> int:
    if value < least:
        raise SettingsError(f"{env}={value} is too small; use {least} or more.", env=env)
    return value
