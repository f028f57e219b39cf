"""Views and documents remembered on disk, so that a restarted process works while Consul is away."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farthing.kit.discovery.registry import Instance


def read_json(path: Path) -> Any:
    """The file's content, or None when it is missing or damaged: a memory is a help, never a need."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_json(path: Path, content: Any) -> None:
    """Replace the file in one step; OSError when that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
    temporary.replace(path)


def encode_instance(instance: Instance) -> dict[str, Any]:
    """As JSON."""
    return {
        "id": instance.id,
        "service": instance.service,
        "address": instance.address,
        "region": instance.region,
        "zone": instance.zone,
        "meta": dict(instance.meta),
    }


def decode_instance(content: Mapping[str, Any]) -> Instance:
    """From JSON. KeyError, TypeError or ValueError when it is not an instance."""
    address = str(content["address"])
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"address {address!r} is not host:port")
    return Instance(
        id=str(content["id"]),
        service=str(content["service"]),
        address=address,
        region=str(content["region"]),
        zone=str(content.get("zone", "")),
        meta={str(key): str(value) for key, value in dict(content.get("meta", {})).items()},
    )
