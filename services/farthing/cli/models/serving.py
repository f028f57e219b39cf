"""`farthing models load` and `unload`: what a running service serves, changed under traffic."""

from __future__ import annotations

import json
from pathlib import Path

import click

from farthing.api.models.v1 import models_pb2
from farthing.cli.connection import current_settings
from farthing.cli.models.remote import load_remote, unload_remote
from farthing.cli.models.stores import format_bytes, json_option
from farthing.cli.output import print_json
from farthing.kit.errors import InvalidArgument

_node_option = click.option(
    "--node",
    metavar="HOST:PORT",
    required=True,
    help="The edge or cloud service; needs an administrator's key.",
)


@click.command(short_help="Have a running service serve one of its stored models.")
@click.argument("model")
@_node_option
@click.option("--as", "name", default="", metavar="NAME", help="Serve it under this name.")
@click.option("--swap", is_flag=True, help="In the place of the model that has the name now.")
@click.option(
    "--canaries",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help='Questions that it must answer first, a line each: {"prompt": …, "answer": …}.',
)
@click.option(
    "--least",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Share of the canaries that must be right.",
)
@json_option
def load(
    model: str,
    node: str,
    name: str,
    swap: bool,
    canaries: Path | None,
    least: float,
    as_json: bool,
) -> None:
    """Have a running service serve MODEL of its store, beside what it serves or in its place.

    The model is tested in a process of its own first, then asked the canaries, those of its card unless you name a
    file. When it fails, nothing changes.
    """
    request = models_pb2.LoadModelRequest(
        model=model,
        name=name,
        swap=swap,
        canaries=read_canaries(canaries) if canaries else (),
        least_canary_ratio=least,
    )
    loaded = load_remote(current_settings(), node, request)
    if as_json:
        print_json(
            {
                "name": loaded.name,
                "digest": loaded.digest,
                "unloaded": list(loaded.unloaded),
                "memory_bytes": loaded.memory_bytes,
            }
        )
        return
    click.echo(f"{loaded.name} is served; it takes {format_bytes(loaded.memory_bytes)}")
    for other in loaded.unloaded:
        click.echo(f"{other} was unloaded to make room")


@click.command(short_help="Have a running service serve a model no more.")
@click.argument("name")
@_node_option
@json_option
def unload(name: str, node: str, as_json: bool) -> None:
    """Have a running service serve NAME no more; requests under way may end, and what is stored stays."""
    unload_remote(current_settings(), node, name)
    if as_json:
        print_json({"name": name})
    else:
        click.echo(f"{name} is served no more")


def read_canaries(path: Path) -> list[models_pb2.Canary]:
    """Questions with their answers. InvalidArgument naming the line that is none."""
    canaries = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            asked = json.loads(line)
            canaries.append(models_pb2.Canary(prompt=asked["prompt"], answer=asked["answer"]))
        except (ValueError, KeyError, TypeError):
            raise InvalidArgument(
                f'{path.name}, line {number}: write {{"prompt": "…", "answer": "…"}}',
                field="canaries",
            ) from None
    return canaries
