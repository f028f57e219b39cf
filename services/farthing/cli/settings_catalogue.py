"""Every settings class of the suite, for the documentation and for telling a foreign name from a mistake."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from farthing.kit.settings import ServiceSettings, SettingInfo, describe

_CLASSES = {
    "quota": "farthing.quota.settings:QuotaSettings",
    "ledger": "farthing.ledger.settings:LedgerSettings",
    "cache": "farthing.cache.settings:CacheSettings",
    "router": "farthing.router.settings:RouterSettings",
    "gateway": "farthing.gateway.settings:GatewaySettings",
    "edge": "farthing.edge.settings:EdgeSettings",
    "cloud": "farthing.cloud.settings:CloudSettings",
    "command": "farthing.cli.settings:CliSettings",
}


@dataclass(frozen=True, slots=True)
class SettingsGroup:
    """The settings of one part: its own, or those that all services share."""

    name: str
    settings: tuple[SettingInfo, ...]


def find_class(name: str) -> type[Any]:
    """The settings class of a service. KeyError if there is no such service."""
    module, _, attribute = _CLASSES[name].partition(":")
    found: type[Any] = getattr(importlib.import_module(module), attribute)
    return found


def list_groups() -> list[SettingsGroup]:
    """The shared settings first, then what each part has besides or has other defaults for."""
    shared = tuple(describe(ServiceSettings))
    groups = [SettingsGroup("all services", shared)]
    for name in _CLASSES:
        own = tuple(info for info in describe(find_class(name)) if info not in shared)
        groups.append(SettingsGroup(name, own))
    return groups


def all_names() -> set[str]:
    """Every FARTHING_ name that some part of the suite knows."""
    return {info.env for group in list_groups() for info in group.settings}
