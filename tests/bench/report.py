"""What every benchmark writes: a table for people, {"results": [{name, value, unit, target, holds}]} for machines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Result:
    """One figure. `target` is a bound such as "<= 5.5", empty for context; `holds` is None without one."""

    name: str
    value: float
    unit: str
    target: str = ""
    holds: bool | None = None


def judge(name: str, value: float, unit: str, target: str) -> Result:
    """A figure against a bound written "<= x" or ">= x"."""
    relation, bound = target.split()
    holds = value <= float(bound) if relation == "<=" else value >= float(bound)
    return Result(name, round(value, 3), unit, target, holds)


def write_report(results: list[Result], path: Path) -> None:
    """Print the table and write the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"results": [asdict(result) for result in results]}, indent=1))
    table = Table("figure", "value", "unit", "target", "holds")
    for result in results:
        holds = {None: "", True: "yes", False: "NO"}[result.holds]
        table.add_row(result.name, f"{result.value:,.3f}", result.unit, result.target, holds)
    console = Console(width=110)
    console.print(table)
    console.print(f"written to {path}")
