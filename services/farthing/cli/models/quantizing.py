"""`farthing models quantize`: a smaller variant of a stored model."""

from __future__ import annotations

from pathlib import Path

import click

from farthing.cli.connection import current_settings
from farthing.cli.models.adding import print_stored
from farthing.cli.models.progress import show_progress
from farthing.cli.models.stores import (
    complete_names,
    data_dir_option,
    json_option,
    open_store,
)
from farthing.inference.store.quantization import GGUF_KINDS, ONNX_KINDS
from farthing.inference.store.quantize import Quantizer


@click.command(
    short_help="Make a smaller variant of a stored model.",
    epilog=f"GGUF: {', '.join(GGUF_KINDS)}. ONNX: {', '.join(ONNX_KINDS)}.",
)
@click.argument("model", shell_complete=complete_names)
@click.option(
    "--to", required=True, metavar="TYPE", help="Quantization; those there are stand below."
)
@click.option("--name", default="", help="Name of the variant; MODEL-TYPE when left out.")
@click.option(
    "--replace", is_flag=True, help="Let the name stand for this variant from now on."
)
@click.option("--threads", type=click.IntRange(0), default=0, help="0 for one per usable core.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(1),
    default=3600.0,
    show_default=True,
    help="Seconds after which it is given up.",
)
@data_dir_option
@json_option
def quantize(
    model: str,
    to: str,
    name: str,
    replace: bool,
    threads: int,
    timeout_s: float,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Make a smaller variant of the stored, unquantized MODEL and store it beside it."""
    store = open_store(current_settings(), data_dir)
    with show_progress(as_json) as show:
        stored = Quantizer(store).quantize(
            model,
            to,
            new_name=name,
            replace=replace,
            timeout_s=timeout_s,
            thread_count=threads,
            progress=show,
        )
    print_stored(stored, as_json)
