"""The command's tree: each subcommand's module is imported when it is called, and known errors end in one line."""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import Any

import click

from farthing.kit.errors import FarthingError
from farthing.kit.version import __version__

# Name → (module:attribute, summary). The summary stands here so that --help imports nothing.
_COMMANDS = {
    "up": ("farthing.cli.up.command:up", "Start the whole suite on this machine."),
    "ask": ("farthing.cli.ask:ask", "Answer a prompt and show what it cost."),
    "explain": ("farthing.cli.ask:explain", "Show what would be decided, and why."),
    "status": ("farthing.cli.status:status", "Show instances, health and load."),
    "spend": ("farthing.cli.spend:spend", "Sum what was spent, by any dimension."),
    "keys": ("farthing.cli.keys:keys", "Make, list and revoke API keys."),
    "budget": ("farthing.cli.budget:budget", "Show and set budgets and rate limits."),
    "models": ("farthing.cli.models.command:models", "List models; keep the model store."),
    "serve": ("farthing.cli.serve:serve", "Run one service in the foreground."),
    "config": ("farthing.cli.config:config", "List every setting of every service."),
    "completion": ("farthing.cli.completion:completion", "Print a shell completion script."),
}


class LazyGroup(click.Group):
    """Knows its commands by name and imports one when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See click."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See click."""
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry[0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See click; a near miss names the command that was perhaps meant."""
        name = args[0]
        if name not in _COMMANDS and (near := difflib.get_close_matches(name, _COMMANDS, n=1)):
            ctx.fail(f"No such command {name!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """See click; a known error becomes one line and exit code 1."""
        try:
            return super().invoke(ctx)
        except FarthingError as error:
            raise click.ClickException(error.message) from error


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="farthing")
def cli() -> None:
    """Serve language models on edge and cloud, at the least cost, accounted to the nano-dollar."""


def main() -> None:
    """Entry point of the `farthing` program."""
    try:
        cli(prog_name="farthing")
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        sys.stderr.close()
        raise SystemExit(141) from None
