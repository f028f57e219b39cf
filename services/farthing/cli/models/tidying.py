"""`farthing models verify`, `remove` and `gc`: order and room in the store."""

from __future__ import annotations

from pathlib import Path

import click

from farthing.cli.connection import current_settings
from farthing.cli.models.progress import show_progress
from farthing.cli.models.remote import remove_remote
from farthing.cli.models.stores import (
    SizeType,
    complete_names,
    data_dir_option,
    format_bytes,
    json_option,
    open_store,
)
from farthing.cli.output import print_json, print_table, printable
from farthing.inference.store import GcWishes


@click.command(short_help="Read stored models again and compare their hashes.")
@click.argument("models", nargs=-1, shell_complete=complete_names)
@data_dir_option
@json_option
def verify(models: tuple[str, ...], data_dir: Path | None, as_json: bool) -> None:
    """Read stored MODELS again, all when none is named, and compare their hashes; exits with 1 on damage."""
    store = open_store(current_settings(), data_dir)
    with show_progress(as_json) as show:
        verdicts = store.verify(models, show)
    if as_json:
        print_json(
            [
                {
                    "names": list(verdict.names),
                    "digest": verdict.digest,
                    "size_bytes": verdict.size_bytes,
                    "damage": list(verdict.damage),
                }
                for verdict in verdicts
            ]
        )
    else:
        print_table(
            ("model", "files", "size", "finding"),
            [
                (
                    ", ".join(verdict.names) or f"(unnamed) {verdict.digest[:12]}…",
                    str(verdict.file_count),
                    format_bytes(verdict.size_bytes),
                    printable("; ".join(verdict.damage)) or "whole",
                )
                for verdict in verdicts
            ],
            right=(1, 2),
        )
    if any(verdict.damage for verdict in verdicts):
        if not as_json:
            click.echo("add a damaged model again: that repairs it", err=True)
        raise SystemExit(1)


@click.command(short_help="Remove models and say how much room that gave.")
@click.argument("models", nargs=-1, required=True, shell_complete=complete_names)
@click.option("--force", is_flag=True, help="Also what a running service uses.")
@click.option(
    "--node", metavar="HOST:PORT", help="From another node; needs an administrator's key."
)
@data_dir_option
@json_option
def remove(
    models: tuple[str, ...], force: bool, node: str | None, data_dir: Path | None, as_json: bool
) -> None:
    """Remove MODELS, and say how much room that gave; files that other models share stay."""
    settings = current_settings()
    freed = []
    for model in models:
        if node:
            freed.append((model, remove_remote(settings, node, model, force=force)))
        else:
            removed = open_store(settings, data_dir).remove(model, force=force)
            freed.append((model, removed.freed_bytes))
    if as_json:
        print_json([{"name": name, "freed_bytes": count} for name, count in freed])
        return
    for name, count in freed:
        click.echo(f"{name} is removed; {format_bytes(count)} freed")


@click.command(short_help="Free what nobody needs.")
@click.option(
    "--to",
    "limit_bytes",
    type=SizeType(),
    help="Also remove the least recently used models until the store is no larger, e.g. 20GB.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="MODEL",
    shell_complete=complete_names,
    help="With --to: a model that stays; may be repeated.",
)
@click.option(
    "--unfinished-days",
    type=click.FloatRange(0),
    default=7.0,
    show_default=True,
    help="Age from which on an unfinished download goes; 0 for all.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@data_dir_option
@json_option
def gc(
    limit_bytes: int | None,
    keep: tuple[str, ...],
    unfinished_days: float,
    dry_run: bool,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Free what nobody needs: models without a name, old unfinished downloads, leftovers of killed processes.

    What a running service uses stays.
    """
    store = open_store(current_settings(), data_dir)
    wishes = GcWishes(unfinished_days * 86_400, limit_bytes, keep, dry_run)
    freed = store.collect(wishes)
    used = store.used_bytes()
    if as_json:
        print_json(
            {
                "removed": list(freed.what),
                "freed_bytes": freed.freed_bytes,
                "used_bytes": used,
                "dry_run": dry_run,
            }
        )
        return
    for what in freed.what:
        click.echo(printable(what))
    verb = "would be freed" if dry_run else "freed"
    click.echo(f"{format_bytes(freed.freed_bytes)} {verb}; models take {format_bytes(used)}")
