"""What every benchmark writes: a table for people, {"results": [{name, value, unit, target, holds}]} for machines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Result:
    """One figure. `target` is a bound such as "<= 5.5", empty for context; `holds` is None without one.

    `value` is None for what could not be measured.
    """

    name: str
    value: float | None
    unit: str
    target: str = ""
    holds: bool | None = None


def judge(name: str, value: float, unit: str, target: str) -> Result:
    """A figure against a bound written "<= x" or ">= x"."""
    relation, bound = target.split()
    holds = value <= float(bound) if relation == "<=" else value >= float(bound)
    return Result(name, value, unit, target, holds)


def skip(name: str, target: str, why: str) -> Result:
    """A figure that could not be measured here, and why."""
    return Result(f"{name} [SKIPPED: {why}]", None, "", target)


def write_report(results: list[Result], path: Path) -> None:
    """Print the table and write the file; beside it the same as Markdown, for docs/performance.md."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(result) for result in results]
    for row in rows:
        row["value"] = None if row["value"] is None else round(row["value"], 3)
    path.write_text(json.dumps({"results": rows}, indent=1))
    table = Table("figure", "value", "unit", "target", "holds")
    for result in results:
        holds = {None: "", True: "yes", False: "NO"}[result.holds]
        value = "SKIPPED" if result.value is None else f"{result.value:,.3f}"
        table.add_row(Text(result.name), value, result.unit, result.target, holds)
    path.with_suffix(".md").write_text(_as_markdown(results))
    console = Console(width=120)
    console.print(table)
    console.print(f"written to {path}")


def _as_markdown(results: list[Result]) -> str:
    lines = ["| figure | value | unit | target | holds |", "|---|---|---|---|---|"]
    for result in results:
        holds = {None: "", True: "yes", False: "**no**"}[result.holds]
        value = (
            "skipped" if result.value is None else f"{result.value:,.2f}".removesuffix(".00")
        )
        lines.append(f"| {result.name} | {value} | {result.unit} | {result.target} | {holds} |")
    return "\n".join(lines) + "\n"
