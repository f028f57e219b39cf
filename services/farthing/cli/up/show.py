"""How the demo looks: one block per prompt, a sum at the end, readable at 100 columns."""

from __future__ import annotations

from collections import defaultdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from farthing.cli.output import printable
from farthing.cli.up.layout import Layout
from farthing.cli.up.records import DemoPrompt, PromptRecord
from farthing.kit.errors import FarthingError
from farthing.kit.money import format_usd

_WIDTH = 100


def make_console() -> Console:
    """A console of 100 columns; narrower terminals fold."""
    console = Console(highlight=False)
    if console.width > _WIDTH or not console.is_terminal:
        console.width = _WIDTH
    return console


def show_record(console: Console, number: int, count: int, record: PromptRecord) -> None:
    """One answered prompt."""
    way = "OpenAI HTTP" if record.interface == "http" else "gRPC stream"
    console.rule(Text(f"{number}/{count}  {record.task} · {record.level} · {way}", "bold"))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True, width=10)
    grid.add_column(overflow="fold")
    grid.add_row("prompt", Text(printable(record.prompt)))
    if record.wishes:
        wishes = ", ".join(f"{name} {value}" for name, value in record.wishes.items())
        grid.add_row("asks for", Text(wishes, "cyan"))
    grid.add_row("answer", Text(printable(record.answer), "bold"))
    verdict = (
        Text("as expected", "green")
        if record.correct
        else Text(f"expected: {record.expected}", "yellow")
    )
    grid.add_row("", verdict)
    usage = record.usage
    grid.add_row(
        "ran on",
        Text(
            f"{record.model} · {record.tier} · {record.region} · {record.latency_ms} ms · "
            f"{usage['input_token_count']} + {usage['output_token_count']} tokens"
        ),
    )
    lines = " + ".join(f"{line.kind} {format_usd(line.nano_usd)}" for line in record.cost_lines)
    grid.add_row("cost", Text(f"{format_usd(record.total_nano_usd)} = {lines or 'nothing'}"))
    grid.add_row("because", Text(record.decision_reason))
    for other in record.rejected:
        grid.add_row(
            "instead of",
            Text(
                f"{other.model} · {other.tier} · {other.region} at "
                f"{format_usd(other.estimated_nano_usd)}: {other.reason}",
                "dim",
            ),
        )
    grid.add_row("trace", Text(record.trace_id, "dim"))
    console.print(grid)


def show_failure(
    console: Console, number: int, count: int, prompt: DemoPrompt, error: FarthingError
) -> None:
    """One prompt that got no answer."""
    console.rule(Text(f"{number}/{count}  {prompt.task} · {prompt.level}", "bold"))
    console.print(Text(prompt.text))
    console.print(Text(f"failed: {error.message}", "bold red"))


def show_sum(console: Console, records: list[PromptRecord]) -> None:
    """Where the prompts went and what they cost."""
    console.rule()
    by_place: dict[tuple[str, str, str], list[PromptRecord]] = defaultdict(list)
    for record in records:
        by_place[record.model, record.tier, record.region].append(record)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("model", "tier", "region"):
        table.add_column(column)
    for column in ("prompts", "as expected", "tokens out", "cost"):
        table.add_column(column, justify="right")
    for place, group in [*sorted(by_place.items()), (("all", "", ""), records)]:
        table.add_row(
            *place,
            str(len(group)),
            str(sum(record.correct for record in group)),
            str(sum(record.usage["output_token_count"] for record in group)),
            format_usd(sum(record.total_nano_usd for record in group)),
        )
    console.print(table)


def show_ready(console: Console, layout: Layout, *, elapsed_s: float) -> None:
    """What to do with a running suite."""
    console.print(Text(f"\nfarthing is up after {elapsed_s:.1f} s", "bold green"))
    grid = Table.grid(padding=(0, 2))
    for name, value in (
        ("OpenAI-compatible API", f"http://{layout.address('gateway')}/v1"),
        ("gRPC router", layout.address("router")),
        (
            "web console",
            f"http://{layout.address('console')}  (log in with FARTHING_ADMIN_KEY)",
        ),
        ("addresses and keys", f"set -a; . {layout.env_file}; set +a"),
        ("logs", str(layout.logs)),
    ):
        grid.add_row(Text(f"  {name}", "dim"), Text(value))
    console.print(grid)
