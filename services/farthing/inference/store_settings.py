"""What services that hold a model store can be told about it; light to import, as settings are."""

from __future__ import annotations

from dataclasses import dataclass

from farthing.kit.settings import ServiceSettings, setting


@dataclass(frozen=True, slots=True)
class StoreSettings(ServiceSettings):
    """The settings of edge and cloud begin with these."""

    model_sources: tuple[str, ...] = setting(
        (),
        env="FARTHING_MODEL_SOURCES",
        doc="Nodes to fetch models from, host:port, the first ones first; empty for those that discovery knows.",
    )
    model_store_limit_bytes: int = setting(
        0,
        env="FARTHING_MODEL_STORE_LIMIT_BYTES",
        doc="Most that stored models may take on disk; 0 for no limit.",
        unit="bytes",
    )
    model_fetch_bytes_per_s: int = setting(
        0,
        env="FARTHING_MODEL_FETCH_BYTES_PER_S",
        doc="Most of the link that fetching a model takes; 0 for no limit.",
        unit="bytes per second",
    )
    model_serve_bytes_per_s: int = setting(
        0,
        env="FARTHING_MODEL_SERVE_BYTES_PER_S",
        doc="Most of the link that other nodes get together when they fetch models here; 0 for no limit.",
        unit="bytes per second",
    )
    model_serve_caller_bytes_per_s: int = setting(
        0,
        env="FARTHING_MODEL_SERVE_CALLER_BYTES_PER_S",
        doc="The same for one node.",
        unit="bytes per second",
    )
    model_serve_reader_count: int = setting(
        16,
        env="FARTHING_MODEL_SERVE_READERS",
        doc="Files that other nodes may read here at the same time; more are asked to come back.",
    )
