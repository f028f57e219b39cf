"""`farthing models`: what can be asked now, and what the model store holds."""

from __future__ import annotations

from pathlib import Path

import click

from farthing.api.router.v1 import router_pb2, router_pb2_grpc
from farthing.cli.connection import call, connect, current_settings, require_key, run
from farthing.cli.output import print_json, print_table, to_plain
from farthing.cli.settings import CliSettings


@click.group()
def models() -> None:
    """List models; add one to the model store of this machine."""


@models.command("list")
@click.option("--stored", is_flag=True, help="The model store's instead of the suite's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(stored: bool, as_json: bool) -> None:
    """List the models that the router reaches now."""
    settings = current_settings()
    if stored:
        _list_stored(settings, as_json)
        return
    key = require_key(settings, admin=False)

    async def work() -> router_pb2.ListModelsResponse:
        async with connect(settings, settings.router_address) as channel:
            return await call(
                router_pb2_grpc.RouterServiceStub(channel).ListModels,
                router_pb2.ListModelsRequest(),
                key=key,
                address=settings.router_address,
            )

    response = run(work())
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


@models.command()
@click.argument("source")
@click.option(
    "--name", help="Name that services and requests use; the model's own when left out."
)
@click.option("--replace", is_flag=True, help="Let the name stand for this model from now on.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Data directory whose models/ is meant; FARTHING_DATA_DIR when left out.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def add(
    source: str, name: str | None, replace: bool, data_dir: Path | None, as_json: bool
) -> None:
    """Check SOURCE (a GGUF file, an ONNX folder, or owner/repository[@revision][:file] of a hub) and keep a copy."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    # Imported here: of all commands only this one reads models.
    from farthing.inference.store import AddProgress, ModelStore

    store = ModelStore(_store_root(current_settings(), data_dir))
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        console=Console(stderr=True),
        disable=as_json,
        transient=True,
    ) as bars:
        bar = bars.add_task("looking")

        def show(progress: AddProgress) -> None:
            bars.update(
                bar,
                description=f"{progress.stage} {progress.detail}",
                completed=progress.done_bytes,
                total=progress.total_bytes or None,
            )

        stored = store.add(source, name, replace=replace, progress=show)
    if as_json:
        print_json(
            {
                "name": stored.name,
                "digest": stored.digest,
                "format": stored.format,
                "path": str(stored.path),
                "size_bytes": stored.size_bytes,
            }
        )
    else:
        click.echo(
            f"{stored.name} ({stored.format}, sha256 {stored.digest[:12]}…) is in {stored.path}"
        )


def _store_root(settings: CliSettings, data_dir: Path | None) -> Path:
    return (data_dir or settings.data_dir).expanduser() / "models"


def _list_stored(settings: CliSettings, as_json: bool) -> None:
    from farthing.inference.store import ModelStore

    stored = ModelStore(_store_root(settings, None)).list()
    if as_json:
        print_json(
            [
                {
                    "name": item.name,
                    "digest": item.digest,
                    "format": item.format,
                    "path": str(item.path),
                    "size_bytes": item.size_bytes,
                    "source": item.source,
                }
                for item in stored
            ]
        )
        return
    print_table(
        ("name", "format", "size", "sha256", "source"),
        [
            (
                item.name,
                item.format,
                f"{item.size_bytes / 1e6:.1f} MB",
                item.digest[:12],
                item.source,
            )
            for item in stored
        ],
        right=(2,),
    )
