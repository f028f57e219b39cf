"""`farthing up`: starts the suite, optionally serves the demo's prompts, and ends cleanly."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click


@click.command()
@click.option(
    "--demo", is_flag=True, help="Send the demo's prompts and show what each cost and why."
)
@click.option(
    "--once", is_flag=True, help="Stop when that is done; fails if a prompt got no answer."
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/run"),
    show_default=True,
    help="Folder for logs, data and keys.",
)
@click.option(
    "--assets",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with demo/ and demo-models/; the checkout's deploy/ when left out.",
)
@click.option(
    "--port",
    "ports",
    multiple=True,
    metavar="PURPOSE=PORT",
    help="Another port, e.g. gateway=8081.",
)
@click.option(
    "--network",
    default="127.0",
    show_default=True,
    help="First two parts of the loopback addresses, to run beside another suite.",
)
def up(
    demo: bool,
    once: bool,
    state: Path,
    assets: Path | None,
    ports: tuple[str, ...],
    network: str,
) -> None:
    """Start the whole suite on this machine: an edge site and a cloud region, found through Consul.

    Ctrl-C stops everything. Data, keys and what was learned stay in the state folder.
    """
    # The supervisor forks while gRPC's threads run; its fork handlers have nothing to do for programs that exec.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from farthing.cli.up.layout import Layout, find_assets, parse_ports
    from farthing.cli.up.run import run_suite

    layout = Layout(
        assets=(assets or find_assets(Path.cwd())).resolve(),
        state=state.resolve(),
        network=_check_network(network),
        ports=parse_ports(ports),
    )
    status = asyncio.run(run_suite(layout, demo=demo or once, once=once))
    raise click.exceptions.Exit(status)


def _check_network(text: str) -> str:
    first, _, second = text.partition(".")
    if first != "127" or not second.isdigit() or not 0 <= int(second) <= 255:
        raise click.BadParameter(
            f"{text!r}: write 127.N, N from 0 to 255", param_hint="--network"
        )
    return text
