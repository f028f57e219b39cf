"""Reads files of tasks with known answers, one JSON object a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farthing.kit.errors import InvalidArgument, NotFound

_MOST_BYTES = 256 << 20
_ROLES = ("system", "user", "assistant")
_WHOLE = "all"


@dataclass(frozen=True, slots=True)
class Task:
    """One question. Exactly one of `messages`, (role, content) pairs, and `prompt` is not empty."""

    id: str
    task: str
    level: str
    messages: tuple[tuple[str, str], ...]
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class TaskFile:
    """All tasks of a file. `sha256` tells whether two measurements asked the same."""

    name: str
    sha256: str
    tasks: tuple[Task, ...]


def read_tasks(path: Path) -> TaskFile:
    """Lines of {"id", "task", "level"?, "messages" or "prompt", "answer"}; other fields are left alone.

    `messages` are {"role", "content"} objects. InvalidArgument names the line and what is wrong with it.
    """
    if not path.is_file():
        raise NotFound(
            f"there is no file of tasks {path}; check the path",
            reason="TASKS_NOT_FOUND",
            metadata={"path": str(path)},
        )
    data = path.read_bytes() if path.stat().st_size <= _MOST_BYTES else b""
    tasks: list[Task] = []
    ids: set[str] = set()
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            task = _parse(path, number, line)
            if task.id in ids:
                raise _invalid(path, number, f"the id {task.id!r} is there twice")
            ids.add(task.id)
            tasks.append(task)
    if not tasks:
        raise _invalid(path, 0, f"it has no tasks, or more than {_MOST_BYTES} bytes")
    return TaskFile(path.name, hashlib.sha256(data).hexdigest(), tuple(tasks))


def _parse(path: Path, number: int, line: bytes) -> Task:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _invalid(path, number, f"it is not JSON ({error})") from None
    if not isinstance(item, dict):
        raise _invalid(path, number, "it is not a JSON object")
    messages = tuple(
        _parse_message(path, number, one) for one in _list(path, number, item.get("messages"))
    )
    prompt = item.get("prompt", "")
    if not isinstance(prompt, str) or bool(messages) == bool(prompt):
        raise _invalid(path, number, "it needs messages or a prompt, and not both")
    return Task(
        id=_text(path, number, item, "id"),
        task=_text(path, number, item, "task"),
        level=_text(path, number, {"level": _WHOLE, **item}, "level"),
        messages=messages,
        prompt=prompt,
        answer=_text(path, number, item, "answer"),
    )


def _list(path: Path, number: int, value: object) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _invalid(path, number, "messages is not a list")
    return value


def _parse_message(path: Path, number: int, message: object) -> tuple[str, str]:
    if isinstance(message, dict) and message.get("role") in _ROLES:
        return message["role"], _text(path, number, message, "content")
    raise _invalid(path, number, f"a message's role is none of {', '.join(_ROLES)}")


def _text(path: Path, number: int, item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value:
        raise _invalid(path, number, f"{key} is missing, or no text")
    return value


def _invalid(path: Path, number: int, finding: str) -> InvalidArgument:
    place = f", line {number}" if number else ""
    return InvalidArgument(
        f"{path}{place}: {finding}; see docs/how-to/add-a-model.md for the form",
        field="tasks",
        reason="TASKS_INVALID",
        metadata={"path": str(path), "line": str(number)},
    )
