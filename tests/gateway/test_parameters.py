"""Every parameter of OpenAI's SDK has a treatment, and the documentation says the same as the code."""

from __future__ import annotations

from pathlib import Path

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from farthing.gateway.core import parameters, wishes
from farthing.gateway.core.parameters import Parameter

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "openai-compatibility.md"
OURS = {"farthing", "top_k", "min_p"}
TABLES = {"Chat completions": parameters.CHAT, "Completions": parameters.COMPLETION}


def read_section(title: str) -> dict[str, list[str]]:
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:3] == "| `"]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_every_chat_parameter_of_the_sdk_has_a_treatment() -> None:
    typed = set(chat_create_params.CompletionCreateParamsBase.__annotations__) | {"stream"}
    assert set(parameters.CHAT) - OURS == typed


def test_every_completion_parameter_of_the_sdk_has_a_treatment() -> None:
    typed = set(completion_create_params.CompletionCreateParamsBase.__annotations__) | {
        "stream"
    }
    assert set(parameters.COMPLETION) - OURS == typed


@pytest.mark.parametrize("title", TABLES)
def test_the_documentation_lists_each_parameter_as_it_is_treated(title: str) -> None:
    table: dict[str, Parameter] = dict(TABLES[title])
    documented = {name: (row[0], row[1]) for name, row in read_section(title).items()}
    assert documented == {name: (entry.treatment, entry.note) for name, entry in table.items()}


def test_the_documentation_lists_each_wish() -> None:
    documented = read_section("Routing wishes")
    assert {name: row[1] for name, row in documented.items()} == dict(wishes.WISHES)
    assert [row[0].strip("`") for row in documented.values()] == [
        wishes.HEADER_PREFIX + name.replace("_", "-") for name in wishes.WISHES
    ]
