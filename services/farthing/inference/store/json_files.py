"""Reads JSON objects that strangers wrote: bounded in size and depth, plain numbers only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

# Tokenizers are the largest JSON files that models have; those with 260,000 tokens take about 35 MB.
MOST_BYTES = 256 << 20


def read_object(path: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object in a file. ValueError says, after the file's name, what is wrong with it."""
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"is larger than {most_bytes} bytes")
    return parse_object(data)


def parse_object(data: bytes | str) -> dict[str, Any]:
    """The JSON object in a text. ValueError says, after a name, what is wrong with it."""
    try:
        value = json.loads(data, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
