"""`farthing models add` and `fetch`: models come into a store."""

from __future__ import annotations

from pathlib import Path

import click

from farthing.api.models.v1 import models_pb2
from farthing.cli.connection import current_settings
from farthing.cli.models.progress import show_progress
from farthing.cli.models.remote import add_remote, choose_nodes
from farthing.cli.models.stores import (
    data_dir_option,
    describe,
    json_option,
    open_store,
    rate_option,
)
from farthing.cli.output import print_json, printable, to_plain
from farthing.inference.store import StoredModel


@click.command(short_help="Check a model and keep a copy.")
@click.argument("source")
@click.option(
    "--name", help="Name that services and requests use; the model's own when left out."
)
@click.option("--replace", is_flag=True, help="Let the name stand for this model from now on.")
@click.option("--sha256", default="", help="What a file from an address must have.")
@click.option(
    "--make-room", is_flag=True, help="Let the least recently used models go if need be."
)
@click.option(
    "--node",
    metavar="HOST:PORT",
    help="Have another node fetch it; needs an administrator's key.",
)
@rate_option
@data_dir_option
@json_option
def add(
    source: str,
    name: str | None,
    replace: bool,
    sha256: str,
    make_room: bool,
    node: str | None,
    rate: int | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Check SOURCE and keep a copy; what breaks off goes on when you call again.

    SOURCE is a GGUF file, an ONNX folder, a .tar or .zip of either, their http(s) address,
    owner/repository[@revision][:file] of a hub, or node://HOST:PORT/NAME.
    """
    settings = current_settings()
    if node:
        request = models_pb2.AddModelRequest(
            source=source, name=name or "", replace=replace, sha256=sha256, evict=make_room
        )
        with show_progress(as_json) as show:
            artefact = add_remote(settings, node, request, show)
        if as_json:
            print_json(to_plain(artefact))
        else:
            names = printable(", ".join(artefact.names))
            click.echo(f"{names} (sha256 {artefact.digest[:12]}…) is on {node}")
        return
    store = open_store(settings, data_dir, rate)
    with show_progress(as_json) as show:
        stored = store.add(
            source, name, replace=replace, sha256=sha256, evict=make_room, progress=show
        )
    print_stored(stored, as_json)


@click.command(short_help="Fetch a model from another node.")
@click.argument("model")
@click.option(
    "--from",
    "addresses",
    metavar="HOST:PORT",
    multiple=True,
    help="Node to fetch from; may be repeated, the first ones first.",
)
@click.option("--name", default="", help="Name to store it under; the same when left out.")
@click.option("--replace", is_flag=True, help="Let the name stand for this model from now on.")
@click.option(
    "--make-room", is_flag=True, help="Let the least recently used models go if need be."
)
@rate_option
@data_dir_option
@json_option
def fetch(
    model: str,
    addresses: tuple[str, ...],
    name: str,
    replace: bool,
    make_room: bool,
    rate: int | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Fetch MODEL from another edge or cloud node, of this region if one there has it.

    Nodes are those of --from, of FARTHING_MODEL_SOURCES, or those that discovery knows. When one fails, the next goes
    on from there.
    """
    settings = current_settings()
    store = open_store(settings, data_dir, rate)
    nodes = choose_nodes(settings, addresses)
    with show_progress(as_json) as show:
        stored = store.fetch(
            model, nodes, new_name=name, replace=replace, evict=make_room, progress=show
        )
    print_stored(stored, as_json)


def print_stored(stored: StoredModel, as_json: bool) -> None:
    """Says what is in the store now."""
    if as_json:
        print_json(describe(stored))
        return
    click.echo(
        f"{stored.name} ({stored.format}, sha256 {stored.digest[:12]}…) is in {stored.path}"
    )
