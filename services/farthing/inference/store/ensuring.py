"""Sees to it that a service has the model it is to serve: what its store lacks comes from the region."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from farthing.inference.store.files import AddProgress
from farthing.inference.store.nodes import Node, find_nodes, parse_nodes
from farthing.inference.store.store import ModelStore
from farthing.inference.store_settings import StoreSettings
from farthing.kit.discovery import Registry
from farthing.kit.errors import FailedPrecondition, NotFound

_log = logging.getLogger(__name__)


async def ensure_stored(
    store: ModelStore, reference: str, settings: StoreSettings, registry: Registry, own_id: str
) -> None:
    """Fetches the model of a name that the store does not have, from FARTHING_MODEL_SOURCES or the nodes of discovery.

    Does nothing for a path, for a model that is here, and where there is no node to ask: `locate` then says what is
    missing. Errors as ModelStore.fetch. `own_id` is this process in discovery, which is not asked.
    """
    if not await asyncio.to_thread(_is_lacking, store, reference):
        return
    nodes = await _choose_nodes(settings, registry, own_id)
    if not nodes:
        return
    _log.info("fetching the model", extra={"model": reference, "node_count": len(nodes)})
    stages: set[tuple[str, str]] = set()

    def report(progress: AddProgress) -> None:
        if (progress.stage, progress.detail) not in stages:
            stages.add((progress.stage, progress.detail))
            _log.info(
                "fetching the model", extra={"stage": progress.stage, "detail": progress.detail}
            )

    stored = await asyncio.to_thread(store.fetch, reference, nodes, progress=report)
    _log.info("model fetched", extra={"model": stored.name, "source": stored.source})


def _is_lacking(store: ModelStore, reference: str) -> bool:
    """Whether it is a name that the store does not have. A damaged model is not lacking: `locate` says so."""
    if Path(reference).expanduser().exists() or len(Path(reference).parts) != 1:
        return False
    try:
        store.contents.digest_of(reference)
    except NotFound:
        return True
    except FailedPrecondition:
        return False
    return False


async def _choose_nodes(settings: StoreSettings, registry: Registry, own_id: str) -> list[Node]:
    if settings.model_sources:
        return parse_nodes(settings.model_sources)
    return await find_nodes(registry, region=settings.region, own_id=own_id)
