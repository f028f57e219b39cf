"""`farthing models list` and `show`: what can be asked now, and what stores hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from farthing.api.models.v1 import models_pb2
from farthing.api.router.v1 import router_pb2, router_pb2_grpc
from farthing.cli.connection import call, connect, current_settings, require_key, run
from farthing.cli.models.remote import list_remote, list_served
from farthing.cli.models.stores import (
    complete_names,
    data_dir_option,
    describe,
    format_bytes,
    json_option,
    open_store,
)
from farthing.cli.output import print_json, print_table, printable, to_plain
from farthing.cli.settings import CliSettings
from farthing.inference.core.card import parse_card
from farthing.inference.store import ModelStore, StoredModel


@click.command("list", short_help="List what is served, or stored.")
@click.option("--stored", is_flag=True, help="The model store's instead of the suite's.")
@click.option(
    "--node", metavar="HOST:PORT", help="What another edge or cloud node stores and serves."
)
@data_dir_option
@json_option
def list_models(stored: bool, node: str | None, data_dir: Path | None, as_json: bool) -> None:
    """List the models that the router reaches now."""
    settings = current_settings()
    if node:
        _print_remote(list_remote(settings, node), list_served(settings, node) or [], as_json)
    elif stored:
        _print_stored(open_store(settings, data_dir), as_json)
    else:
        _print_served(_ask_router(settings), as_json)


@click.command(short_help="Show what is known of a stored model.")
@click.argument("model", shell_complete=complete_names)
@data_dir_option
@json_option
def show(model: str, data_dir: Path | None, as_json: bool) -> None:
    """Show what is known of MODEL: facts, files, where it came from, how good it was measured to be."""
    stored = open_store(current_settings(), data_dir).resolve(model)
    qualities = parse_card(stored.card, stored.path.name).qualities
    if as_json:
        print_json(
            {
                **describe(stored),
                "context_length": stored.facts.context_length if stored.facts else 0,
                "parameter_count": stored.facts.parameter_count if stored.facts else 0,
                "files": [
                    {"path": f.path, "size_bytes": f.size_bytes, "sha256": f.sha256}
                    for f in stored.files
                ],
                "provenance": {
                    key: value
                    for key, value in stored.provenance.items()
                    if key not in ("files", "facts", "main")
                },
                "qualities": [
                    {"task": q.task, "quality_ratio": q.quality_ratio, "n": q.sample_count}
                    for q in qualities
                ],
                "measured": dict(stored.measured),
            }
        )
        return
    for label, value in _lines(stored):
        if value:
            click.echo(f"{label:15} {printable(value)}")
    click.echo()
    print_table(
        ("file", "size", "sha256"),
        [(printable(f.path), format_bytes(f.size_bytes), f.sha256) for f in stored.files],
        right=(1,),
    )
    if qualities:
        click.echo()
        print_table(
            ("task", "right", "of"),
            [
                (q.task or "all", f"{q.quality_ratio:.1%}", str(q.sample_count))
                for q in qualities
            ],
            right=(1, 2),
        )


def _lines(stored: StoredModel) -> list[tuple[str, str]]:
    facts, provenance, measured = stored.facts, stored.provenance, stored.measured
    derived = stored.derived_from
    return [
        ("name", stored.name),
        ("sha256", stored.digest),
        ("format", stored.format),
        ("architecture", facts.architecture if facts else ""),
        ("quantization", facts.quantization if facts else ""),
        ("parameters", f"{facts.parameter_count:,}" if facts else ""),
        ("context", f"{facts.context_length:,} tokens" if facts else ""),
        ("size", format_bytes(stored.size_bytes)),
        ("path", str(stored.path)),
        ("source", stored.source),
        ("first source", str(provenance.get("origin", ""))),
        ("revision", str(provenance.get("revision", ""))),
        ("licence", str(provenance.get("licence", "")) or "not stated"),
        ("added", str(provenance.get("add_time", ""))),
        (
            "made of",
            f"{derived['name']} by {derived['tool']} on {derived['host']}, {derived['make_time']}"
            if derived
            else "",
        ),
        ("measured", f"{measured['time']}: {measured['command']}" if measured else ""),
    ]


def _ask_router(settings: CliSettings) -> router_pb2.ListModelsResponse:
    key = require_key(settings, admin=False)

    async def work() -> router_pb2.ListModelsResponse:
        async with connect(settings, settings.router_address) as channel:
            return await call(
                router_pb2_grpc.RouterServiceStub(channel).ListModels,
                router_pb2.ListModelsRequest(),
                key=key,
                address=settings.router_address,
            )

    return run(work())


def _print_served(response: router_pb2.ListModelsResponse, as_json: bool) -> None:
    if as_json:
        print_json(to_plain(response))
        return
    print_table(
        ("model", "format", "quantization", "parameters", "context", "regions", "instances"),
        [
            (
                item.info.name,
                item.info.format,
                item.info.quantization,
                f"{item.info.parameter_count:,}",
                f"{item.info.context_length:,}",
                ", ".join(item.regions),
                str(item.instance_count),
            )
            for item in response.models
        ],
        right=(3, 4, 6),
    )


def _print_stored(store: ModelStore, as_json: bool) -> None:
    entries = store.survey()
    if as_json:
        print_json(
            [
                describe(entry.model)
                if entry.model is not None
                else {"name": entry.name, "digest": entry.digest, "damage": entry.damage}
                for entry in entries
            ]
        )
        return
    rows = []
    for entry in entries:
        model = entry.model
        if model is None:
            rows.append((entry.name, "", "", "", entry.digest[:12], printable(entry.damage)))
            continue
        quantization = model.facts.quantization if model.facts is not None else ""
        size = format_bytes(model.size_bytes)
        source = printable(model.source)
        rows.append((model.name, model.format, quantization, size, model.digest[:12], source))
    print_table(
        ("name", "format", "quantization", "size", "sha256", "source"), rows, right=(3,)
    )


def _print_remote(
    response: models_pb2.ListArtefactsResponse, served: Sequence[tuple[str, str]], as_json: bool
) -> None:
    """What is stored, and under which names each of it is served; what is served from a path of the node last."""
    by_digest: dict[str, list[str]] = {}
    for name, digest in served:
        by_digest.setdefault(digest, []).append(name)
    stored = {artefact.digest for artefact in response.artefacts}
    if as_json:
        plain: dict[str, Any] = to_plain(response)
        artefacts = plain["artefacts"]
        for artefact in artefacts:
            artefact["served_as"] = by_digest.get(artefact["digest"], [])
        print_json(artefacts)
        return
    print_table(
        ("name", "served as", "format", "quantization", "size", "sha256", "source"),
        [
            (
                printable(name),
                printable(", ".join(by_digest.get(artefact.digest, []))),
                printable(artefact.format),
                printable(artefact.quantization),
                format_bytes(artefact.size_bytes),
                printable(artefact.digest[:12]),
                printable(artefact.provenance.source),
            )
            for artefact in response.artefacts
            for name in artefact.names
        ]
        + [
            ("", printable(name), "", "", "", printable(digest[:12]), "not of the store")
            for name, digest in served
            if digest not in stored
        ],
        right=(4,),
    )
