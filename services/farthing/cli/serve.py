"""`farthing serve`: one service in the foreground, settings from the environment."""

from __future__ import annotations

import runpy
import sys

import click

SERVICES = ("quota", "ledger", "cache", "router", "gateway", "edge", "cloud")


@click.command()
@click.argument("service", type=click.Choice(SERVICES))
def serve(service: str) -> None:
    """Run SERVICE until Ctrl-C; `farthing config` lists its settings."""
    sys.argv = [f"farthing serve {service}"]
    runpy.run_module(f"farthing.{service}", run_name="__main__", alter_sys=True)
