"""Reads the project's pages: links, code, tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Page:
    """One page. `path` is relative to the project's root."""

    path: Path
    text: str

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """(language, content) of every fenced block."""
        return _FENCE.findall(self.text)

    @property
    def prose(self) -> str:
        """The text without fenced blocks."""
        return _FENCE.sub("", self.text)

    @property
    def spans(self) -> list[str]:
        """Every piece of inline code."""
        return _INLINE_CODE.findall(self.prose)

    @property
    def links(self) -> list[str]:
        """Targets of links, without those in code."""
        return _LINK.findall(_INLINE_CODE.sub("", self.prose))

    @property
    def anchors(self) -> set[str]:
        """Anchors of the headings, as a forge makes them."""
        return {_slug(title) for title in _HEADING.findall(self.prose)}

    def command_lines(self) -> Iterator[str]:
        """Lines of shell blocks and inline code that may hold a command."""
        for language, content in self.blocks:
            if language in ("sh", "console"):
                yield from content.replace("\\\n", " ").splitlines()
        yield from self.spans

    def table(self, heading: str) -> list[list[str]]:
        """Cells of the first table below a heading, without its head."""
        section = self.text.split(f"{heading}\n", 1)[1]
        rows: list[list[str]] = []
        for line in section.splitlines():
            if line.startswith("|"):
                rows.append([cell.strip() for cell in line.strip("|").split("|")])
            elif rows:
                break
        return rows[2:]


def read_pages() -> list[Page]:
    """Every page of the project."""
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return [
        Page(path.relative_to(ROOT), path.read_text(encoding="utf-8")) for path in sorted(paths)
    ]


def read_page(name: str) -> Page:
    """One page by its path from the project's root."""
    return Page(Path(name), (ROOT / name).read_text(encoding="utf-8"))


def _slug(title: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", title.replace("`", "").lower())
    return kept.replace(" ", "-")
