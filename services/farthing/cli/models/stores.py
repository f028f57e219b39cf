"""The store that a command works on, the options for it, and how models are shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from farthing.cli.connection import current_settings
from farthing.cli.settings import CliSettings
from farthing.inference.store import ModelStore, StoredModel, StoreLimits
from farthing.kit.errors import FarthingError
from farthing.kit.rpc.tls import read_tls_files

_C = TypeVar("_C", bound=Callable[..., Any])
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


class SizeType(click.ParamType[int]):
    """Bytes, with a unit if it suits: 500000, 500MB, 2GiB."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """See click."""
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(str(value))
        if found is None or (found[3] and not found[2]):
            self.fail(f"{value!r} is no size; write 500000, 500MB or 2GiB", param, ctx)
        units = _BINARY if found[3] else _UNITS
        return round(float(found[1]) * units[found[2].lower()])


def data_dir_option(command: _C) -> _C:
    """--data-dir, the same everywhere."""
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        help="Data directory whose models/ is meant; FARTHING_DATA_DIR when left out.",
    )(command)


def json_option(command: _C) -> _C:
    """--json, the same everywhere."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print JSON; progress as JSON lines on standard error.",
    )(command)


def rate_option(command: _C) -> _C:
    """--limit-rate, the same for everything that moves bytes."""
    return click.option(
        "--limit-rate",
        "rate",
        type=SizeType(),
        help="Most bytes a second, e.g. 5MB; FARTHING_MODEL_FETCH_BYTES_PER_S when left out.",
    )(command)


def open_store(
    settings: CliSettings, data_dir: Path | None, rate: int | None = None
) -> ModelStore:
    """The model store of this machine."""
    fetch_rate = settings.model_fetch_bytes_per_s if rate is None else rate
    return ModelStore(
        store_root(settings, data_dir),
        limits=StoreLimits(settings.model_store_limit_bytes, fetch_rate),
        tls=read_tls_files(settings.as_service_settings()),
    )


def store_root(settings: CliSettings, data_dir: Path | None) -> Path:
    """Where it is."""
    return (data_dir or settings.data_dir).expanduser() / "models"


def complete_names(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names in the store, for the shell; nothing at all rather than an error."""
    try:
        root = store_root(current_settings(), ctx.params.get("data_dir"))
    except FarthingError:
        return []
    names = sorted(path.stem for path in (root / "names").glob("*.json"))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def describe(model: StoredModel) -> dict[str, Any]:
    """A model as JSON, in short."""
    return {
        "name": model.name,
        "digest": model.digest,
        "format": model.format,
        "quantization": model.facts.quantization if model.facts is not None else "",
        "path": str(model.path),
        "size_bytes": model.size_bytes,
        "source": model.source,
    }


def format_bytes(count: int) -> str:
    """1234567 → "1.2 MB"."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.95 or unit == "TB":
            break
        value /= 1000
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
