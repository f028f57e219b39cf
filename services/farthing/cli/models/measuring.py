"""`farthing models measure` and `compare`: how good and how fast variants are, from a running service."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import grpc

from farthing.cli.connection import connect, current_settings, run
from farthing.cli.models.hosting import HostedModel, host_model
from farthing.cli.models.progress import show_progress
from farthing.cli.models.stores import (
    complete_names,
    data_dir_option,
    format_bytes,
    json_option,
    open_store,
)
from farthing.cli.output import print_json, print_table, printable
from farthing.cli.settings import CliSettings
from farthing.cli.up.layout import find_assets
from farthing.inference.measuring.asking import ask_all, find_served
from farthing.inference.measuring.records import (
    Circumstances,
    Variant,
    find_reference,
    list_variants,
    record,
)
from farthing.inference.measuring.scoring import Answer
from farthing.inference.measuring.tasks import Task, TaskFile, read_tasks
from farthing.inference.store import AddProgress, StoredModel
from farthing.kit.errors import FailedPrecondition
from farthing.kit.rpc.channel import open_channel


@click.command(short_help="Measure a stored model in a running service.")
@click.argument("model", shell_complete=complete_names)
@click.option(
    "--tasks",
    "tasks_path",
    type=click.Path(path_type=Path),
    help="Tasks with answers, a JSON object a line; the demo's when left out in a checkout.",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="Service that has the model; one is started for it when left out.",
)
@click.option(
    "--against",
    default="",
    metavar="MODEL",
    shell_complete=complete_names,
    help="Model that it is compared with; the one it was quantized from when left out.",
)
@click.option(
    "--each", type=click.IntRange(1), help="Only the first so many of each task and level."
)
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Requests at once; speeds are those of a request alone only with 1.",
)
@data_dir_option
@json_option
def measure(
    model: str,
    tasks_path: Path | None,
    address: str | None,
    against: str,
    each: int | None,
    max_tokens: int,
    concurrency: int,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Ask stored MODEL every task, greedily, through a running service, and note in its card how it did.

    Quality by task, tokens per second, memory, and how like the unquantized variant's its answers are. The router's
    policies use the qualities as soon as a service is started with the model.
    """
    settings = current_settings()
    store = open_store(settings, data_dir)
    stored = store.resolve(model)
    reference = find_reference(store, stored, against)
    file = _choose(read_tasks(tasks_path or _demo_tasks()), each)
    started = datetime.now(UTC).replace(microsecond=0)
    load_average = round(os.getloadavg()[0], 1)

    async def work() -> tuple[dict[str, Answer], HostedModel | None, int]:
        async with _service(settings, stored, address, store.contents.root.parent) as (
            channel,
            hosted,
        ):
            info = await find_served(channel, stored.digest, address or "the service")
            answers = await ask_all(
                channel,
                info.name,
                file.tasks,
                max_tokens=max_tokens,
                concurrency=concurrency,
                on_answer=_counter(len(file.tasks), show),
            )
            return answers, hosted, hosted.memory_bytes() if hosted is not None else 0

    with show_progress(as_json) as show:
        answers, hosted, memory_bytes = run(work())
    circumstances = Circumstances(
        time=started.isoformat(),
        command=_command_line(),
        address=hosted.tier if hosted is not None else str(address),
        host=_describe_machine(),
        load_average=load_average,
        concurrency=concurrency,
        memory_bytes=memory_bytes,
    )
    measured = record(store, stored, file, answers, circumstances, reference)
    if as_json:
        print_json(dict(measured.measured))
        return
    _print_quality(measured.measured)
    (variant,) = (
        one for one in list_variants(store, model, (), against) if one.digest == stored.digest
    )
    click.echo()
    _print_variants([variant])


@click.command(short_help="Put the variants of a model side by side.")
@click.argument("model", shell_complete=complete_names)
@click.argument("others", nargs=-1, shell_complete=complete_names)
@click.option(
    "--against",
    default="",
    metavar="MODEL",
    shell_complete=complete_names,
    help="Model whose answers count as the original's; what they were quantized from when left out.",
)
@data_dir_option
@json_option
def compare(
    model: str, others: tuple[str, ...], against: str, data_dir: Path | None, as_json: bool
) -> None:
    """Put the variants of MODEL side by side: those quantized from the same one, and OTHERS."""
    store = open_store(current_settings(), data_dir)
    variants = list_variants(store, model, others, against)
    if as_json:
        print_json([asdict(variant) for variant in variants])
        return
    _print_variants(variants)
    names = {v.name for v in variants if v.measured is None}
    if names:
        click.echo(f"not measured yet: {', '.join(sorted(names))}", err=True)


def _demo_tasks() -> Path:
    try:
        return find_assets(Path.cwd()) / "demo-models" / "heldout.jsonl"
    except FailedPrecondition:
        raise click.UsageError(
            "name a file of tasks with --tasks; docs/how-to/add-a-model.md shows the form"
        ) from None


def _choose(file: TaskFile, each: int | None) -> TaskFile:
    if each is None:
        return file
    counts: dict[tuple[str, str], int] = {}
    chosen: list[Task] = []
    for task in file.tasks:
        cell = (task.task, task.level)
        counts[cell] = counts.get(cell, 0) + 1
        if counts[cell] <= each:
            chosen.append(task)
    return TaskFile(file.name, file.sha256, tuple(chosen))


@asynccontextmanager
async def _service(
    settings: CliSettings, model: StoredModel, address: str | None, data_dir: Path
) -> AsyncIterator[tuple[grpc.aio.Channel, HostedModel | None]]:
    if address:
        async with connect(settings, address) as channel:
            yield channel, None
        return
    async with (
        host_model(model, data_dir) as hosted,
        open_channel(hosted.address) as channel,
    ):
        yield channel, hosted


def _counter(total: int, show: Any) -> Any:
    done = 0

    def count(answer: Answer) -> None:
        nonlocal done
        done += 1
        show(AddProgress("measure", answer.task_id, done, total))

    return count


def _describe_machine() -> str:
    """Name, processor and cores: speeds mean little without."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    processor = found[1].strip() if found else platform.machine()
    return f"{platform.node()}: {processor}, {len(os.sched_getaffinity(0))} cores"


def _command_line() -> str:
    return shlex.join(["farthing", *sys.argv[1:]])


def _print_quality(measured: Any) -> None:
    rows = [
        (printable(task), printable(level), f"{cell['exact_match_ratio']:.1%}", str(cell["n"]))
        for task, levels in measured["task_quality"].items()
        for level, cell in levels.items()
    ]
    print_table(("task", "level", "right", "of"), rows, right=(2, 3))
    if measured["refused_count"]:
        click.echo(f"{measured['refused_count']} were refused by the service, e.g. too long")


def _print_variants(variants: Sequence[Variant]) -> None:
    print_table(
        (
            *("model", "type", "size", "memory", "prefill/s", "decode/s", "right"),
            *("same answers", "same beginning", "measured"),
        ),
        [_row(variant) for variant in variants],
        right=(2, 3, 4, 5, 6, 7, 8),
    )


def _row(variant: Variant) -> tuple[str, ...]:
    head = (variant.name, variant.quantization, format_bytes(variant.size_bytes))
    measured, agreement = variant.measured, variant.agreement
    if measured is None:
        return (*head, *[""] * 7)
    memory = int(measured["memory_bytes"])
    return (
        *head,
        format_bytes(memory) if memory else "",
        f"{measured['prefill_tokens_per_s']:,.0f}",
        f"{measured['decode_tokens_per_s']:,.0f}",
        f"{measured['exact_match_ratio']:.1%}",
        f"{agreement.same_count} of {agreement.answer_count}" if agreement else "",
        f"{agreement.mean_prefix_ratio:.1%}" if agreement else "",
        str(measured["time"])[:10],
    )
