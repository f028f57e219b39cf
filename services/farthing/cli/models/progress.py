"""Shows how far long work on a model is: a bar on a terminal, JSON lines for programs, silence in a pipe."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import click

from farthing.cli.output import printable
from farthing.inference.store import AddProgress, ProgressCallback

_LINE_EVERY_S = 0.25
_COUNTED = {"quantize", "measure"}


@contextmanager
def show_progress(as_json: bool) -> Iterator[ProgressCallback]:
    """A callback for the work inside the block."""
    if as_json:
        yield _Lines().show
    elif sys.stderr.isatty():
        with _draw_bar() as show:
            yield show
    else:
        yield _tell_waits


class _Lines:
    """At most a few lines a second, and one whenever the work turns to something else."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._subject = ("", "")

    def show(self, progress: AddProgress) -> None:
        subject, now_s = (progress.stage, progress.detail), time.monotonic()
        complete = progress.total_bytes > 0 and progress.done_bytes >= progress.total_bytes
        if subject != self._subject or complete or now_s >= self._next_s:
            self._subject, self._next_s = subject, now_s + _LINE_EVERY_S
            click.echo(json.dumps(asdict(progress)), err=True)


@contextmanager
def _draw_bar() -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from farthing.cli.models.stores import format_bytes

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("looking", amount="")

        def show(progress: AddProgress) -> None:
            if progress.stage == "wait":
                console.print(printable(progress.detail), markup=False, highlight=False)
                return
            counted = progress.stage in _COUNTED
            texts = [
                str(count) if counted else format_bytes(count)
                for count in (progress.done_bytes, progress.total_bytes)
                if count
            ]
            bars.update(
                bar,
                description=f"{progress.stage} {printable(progress.detail)[:40]}",
                completed=progress.done_bytes,
                total=progress.total_bytes or None,
                amount=" / ".join(texts),
            )

        yield show


def _tell_waits(progress: AddProgress) -> None:
    if progress.stage == "wait":
        click.echo(f"trying again: {printable(progress.detail)}", err=True)
