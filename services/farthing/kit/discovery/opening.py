"""Which registry and documents a service's settings ask for."""

from __future__ import annotations

from farthing.kit.clock import Clock
from farthing.kit.discovery.consul import ConsulClient
from farthing.kit.discovery.consul_documents import ConsulDocuments
from farthing.kit.discovery.consul_registry import ConsulRegistry
from farthing.kit.discovery.documents import DocumentSource
from farthing.kit.discovery.file_documents import FileDocuments
from farthing.kit.discovery.registry import Registry
from farthing.kit.discovery.static import StaticRegistry
from farthing.kit.errors import FailedPrecondition
from farthing.kit.settings import ServiceSettings


def open_registry(settings: ServiceSettings, *, service: str, clock: Clock) -> Registry:
    """Consul when FARTHING_CONSUL_URL is set, else the file of FARTHING_REGISTRY_FILE, else this process alone."""
    if not settings.consul_url:
        return StaticRegistry(settings.registry_file, clock=clock)
    return ConsulRegistry(
        ConsulClient(settings.consul_url, token=settings.consul_token),
        clock=clock,
        state_file=settings.resolve_data_dir(service)
        / f"discovery-{settings.resolve_instance_id(service)}.json",
    )


def open_documents(settings: ServiceSettings, *, service: str) -> DocumentSource:
    """Consul when FARTHING_CONSUL_URL is set, else the directory of FARTHING_DOCUMENTS_DIR.

    FailedPrecondition with neither.
    """
    if settings.consul_url:
        return ConsulDocuments(
            ConsulClient(settings.consul_url, token=settings.consul_token),
            state_file=settings.resolve_data_dir(service)
            / f"documents-{settings.resolve_instance_id(service)}.json",
        )
    if settings.documents_dir is None:
        raise FailedPrecondition(
            "no source of configuration documents; set FARTHING_CONSUL_URL or FARTHING_DOCUMENTS_DIR",
            reason="DOCUMENTS_MISSING",
        )
    return FileDocuments(settings.documents_dir)
