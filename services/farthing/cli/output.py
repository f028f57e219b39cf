"""How commands print: protobuf messages as plain values, JSON for programs, tables for people."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

_PIPE_WIDTH = 400


def to_plain(message: Message) -> dict[str, Any]:
    """A message as JSON-ready values: whole numbers stay whole, enums are lower-case words, unset ones are left out."""
    plain: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if _is_map(field):
            plain[field.name] = dict(value)
        elif field.is_repeated:
            plain[field.name] = [_plain_value(field, item) for item in value]
        else:
            plain[field.name] = _plain_value(field, value)
    return plain


def enum_word(descriptor: EnumDescriptor, number: int) -> str:
    """TIER_EDGE → "edge"; the zero value → ""."""
    entry = descriptor.values_by_number.get(number)
    if entry is None:
        return str(number)
    if number == 0:
        return ""
    # Every value repeats its enum's name as a prefix; the zero value tells how it is written.
    prefix = descriptor.values_by_number[0].name.removesuffix("UNSPECIFIED")
    word: str = entry.name.removeprefix(prefix).lower()
    return word


def printable(text: str) -> str:
    """A model's text without characters that would command the terminal; line breaks and tabs stay."""
    return "".join(
        mark
        if mark in "\n\t" or unicodedata.category(mark) != "Cc"
        else "\N{REPLACEMENT CHARACTER}"
        for mark in text
    )


def print_json(value: Any) -> None:
    """Print JSON, indented."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()
) -> None:
    """Print a table as wide as the terminal; columns in `right` hold figures."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if index in right else "left",
            overflow="fold",
            no_wrap=index in right,
        )
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH  # a line per row, for grep and awk
    console.print(table)


def format_time(timestamp: Timestamp) -> str:
    """Date and time, UTC, to the second; "" for the zero time."""
    if not timestamp.seconds:
        return ""
    moment = datetime.fromtimestamp(timestamp.seconds, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _is_map(field: Any) -> bool:
    kind = field.message_type
    return kind is not None and bool(kind.GetOptions().map_entry)


def _plain_value(field: Any, value: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Message):
        return to_plain(value)
    if field.enum_type is not None:
        return enum_word(field.enum_type, value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return round(value, 6)  # float32 on the wire: more digits would be noise
    return value
