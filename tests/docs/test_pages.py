"""What the pages name exists: pages, settings, commands, targets, fields."""

from __future__ import annotations

import ast
import json
import re
import shlex

import click
import pytest
from tests.docs.pages import ROOT, Page, read_pages

from farthing.cli.app import cli
from farthing.cli.settings_catalogue import all_names

PAGES = read_pages()
# What a shell starts after a command of ours.
_SHELL_ENDS = re.compile(r"\s(?:[|>&;]|2>|#\s)")
_OURS = re.compile(r"^(?:[A-Z_]+=\S+ +)*(?:\$ +)?(?:\.venv/bin/)?(farthing|make)(?=\s|$)(.*)$")


@pytest.fixture(params=PAGES, ids=[str(page.path) for page in PAGES])
def page(request: pytest.FixtureRequest) -> Page:
    found: Page = request.param
    return found


def test_every_relative_link_leads_somewhere(page: Page) -> None:
    for link in page.links:
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / page.path).parent / target if target else ROOT / page.path
        assert path.exists(), f"{page.path}: {link} leads nowhere"
        if anchor:
            other = Page(path, path.read_text(encoding="utf-8"))
            assert anchor in other.anchors, f"{page.path}: {link} has no such heading"


def test_every_setting_named_is_one(page: Page) -> None:
    known = all_names()
    for name, wildcard in re.findall(r"\bFARTHING_([A-Z0-9_]*)(\*?)", page.text):
        full = f"FARTHING_{name}"
        if wildcard or name == "":
            assert any(other.startswith(full) for other in known), f"{page.path}: {full}*"
        else:
            assert full in known, f"{page.path}: {full} is no setting"


def test_every_command_named_is_one(page: Page) -> None:
    for line in page.command_lines():
        if (match := _OURS.match(line.strip())) and match[1] == "farthing":
            words = shlex.split(_SHELL_ENDS.split(match[2] + " ")[0])
            check_command(words, f"{page.path}: {line}")


def check_command(words: list[str], where: str) -> None:
    """Walk down to the command meant and look for each option at it."""
    command: click.Command = cli
    context = click.Context(cli, info_name="farthing")
    rest = list(words)
    while isinstance(command, click.Group) and rest and rest[0][0] not in "-<…":
        found = command.get_command(context, rest.pop(0))
        assert found is not None, f"{where}: there is no such command"
        command, context = found, click.Context(found, parent=context, info_name=found.name)
    known = {
        name
        for parameter in command.get_params(context)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    for word in rest:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{where}: there is no {word}"


def test_every_make_target_named_is_one(page: Page) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    for line in page.command_lines():
        if (match := _OURS.match(line.strip())) and match[1] == "make":
            words = shlex.split(_SHELL_ENDS.split(match[2] + " ")[0])
            for word in words:
                if re.fullmatch(r"[a-z][a-z-]*", word):
                    assert word in targets, f"{page.path}: {line}: no target {word}"


def test_every_program_and_document_shown_can_be_read(page: Page) -> None:
    for language, content in page.blocks:
        if language == "python":
            ast.parse(content)
        elif language == "json":
            json.loads(content)


def test_every_page_is_linked_from_another_one() -> None:
    linked = {
        ((ROOT / page.path).parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in page.links
    }
    for page in PAGES:
        if page.path.parts[0] == "docs":
            assert (ROOT / page.path).resolve() in linked, f"nothing links to {page.path}"


def test_the_readme_fits_one_screen() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 80
