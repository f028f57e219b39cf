"""Finding each other: registries, last-known-good views and configuration documents, on Consul or on files."""

from __future__ import annotations

from farthing.kit.discovery.documents import Document, DocumentSource
from farthing.kit.discovery.nearby import dial_address, place_of
from farthing.kit.discovery.opening import open_documents, open_registry
from farthing.kit.discovery.registry import (
    Instance,
    Registration,
    Registry,
    ServiceWatch,
    Unsubscribe,
)
from farthing.kit.discovery.static import StaticRegistry

__all__ = [
    "Document",
    "DocumentSource",
    "Instance",
    "Registration",
    "Registry",
    "ServiceWatch",
    "StaticRegistry",
    "Unsubscribe",
    "dial_address",
    "open_documents",
    "open_registry",
    "place_of",
]
