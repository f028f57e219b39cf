"""`farthing models`: its subcommands."""

from __future__ import annotations

import click

from farthing.cli.models.adding import add, fetch
from farthing.cli.models.listing import list_models, show
from farthing.cli.models.measuring import compare, measure
from farthing.cli.models.quantizing import quantize
from farthing.cli.models.serving import load, unload
from farthing.cli.models.tidying import gc, remove, verify


@click.group()
def models() -> None:
    """List models; fill the model store of this machine and keep it in order."""


for _command in (
    *(add, fetch, list_models, show, verify, quantize),
    *(measure, compare, load, unload, remove, gc),
):
    models.add_command(_command)
