"""Files of tasks: what they need is read, what is wrong is told by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from farthing.inference.measuring.tasks import Task, read_tasks
from farthing.kit.errors import InvalidArgument, NotFound

ROOT = Path(__file__).resolve().parents[3]
GOOD = {"id": "a", "task": "t", "messages": [{"role": "user", "content": "1+1"}], "answer": "2"}


def write(path: Path, *items: Any) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def test_messages_and_prompts_are_tasks(tmp_path: Path) -> None:
    prompt = {"id": "b", "task": "t", "level": "hard", "prompt": "1+", "answer": "2", "more": 1}
    file = read_tasks(write(tmp_path / "tasks.jsonl", GOOD, prompt))
    assert file.tasks == (
        Task("a", "t", "all", (("user", "1+1"),), "", "2"),
        Task("b", "t", "hard", (), "1+", "2"),
    )
    assert file.name == "tasks.jsonl" and len(file.sha256) == 64


def test_the_demos_held_out_items_can_be_read() -> None:
    file = read_tasks(ROOT / "deploy" / "demo-models" / "heldout.jsonl")
    assert len(file.tasks) == 600
    assert {task.level for task in file.tasks} == {"easy", "hard"}


@pytest.mark.parametrize(
    ("item", "finding"),
    [
        ({**GOOD, "answer": ""}, "answer is missing"),
        ({**GOOD, "id": 3}, "id is missing"),
        ({**GOOD, "prompt": "x"}, "messages or a prompt, and not both"),
        ({**GOOD, "messages": []}, "messages or a prompt, and not both"),
        ({**GOOD, "messages": "x"}, "not a list"),
        ({**GOOD, "messages": [{"role": "robot", "content": "x"}]}, "role is none of"),
        ({**GOOD, "messages": [{"role": "user"}]}, "content is missing"),
        ([1], "not a JSON object"),
    ],
)
def test_a_task_that_is_none_is_told_by_its_line(
    tmp_path: Path, item: Any, finding: str
) -> None:
    path = write(tmp_path / "tasks.jsonl", {**GOOD, "id": "first"}, item)
    with pytest.raises(InvalidArgument, match=f"line 2: .*{finding}"):
        read_tasks(path)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_tasks(tmp_path / "absent.jsonl")
    with pytest.raises(InvalidArgument, match="no tasks"):
        read_tasks(write(tmp_path / "empty.jsonl"))
    with pytest.raises(InvalidArgument, match="twice"):
        read_tasks(write(tmp_path / "twice.jsonl", GOOD, GOOD))
    (tmp_path / "text.jsonl").write_text("hello\n")
    with pytest.raises(InvalidArgument, match=r"line 1: it is not JSON"):
        read_tasks(tmp_path / "text.jsonl")
