"""`farthing config`: every setting, for people, for programs and as the reference page."""

from __future__ import annotations

import dataclasses

import click

from farthing.cli.output import print_json
from farthing.cli.settings_catalogue import SettingsGroup, list_groups

_INTRODUCTION = """# Settings

Every process reads its settings once, from environment variables; an unknown `FARTHING_` name
or a wrong value ends it with one line that says what to do. This page is what `farthing config --markdown` prints.
"""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", is_flag=True, help="Print the reference page.")
def config(as_json: bool, markdown: bool) -> None:
    """List every setting of every service: name, type, default, unit and meaning."""
    groups = list_groups()
    if as_json:
        print_json(
            {
                group.name: [dataclasses.asdict(info) for info in group.settings]
                for group in groups
            }
        )
    elif markdown:
        click.echo(render_markdown(groups), nl=False)
    else:
        for group in groups:
            click.secho(group.name, bold=True)
            for info in group.settings:
                default = f" = {info.default}" if info.default else ""
                unit = f" ({info.unit})" if info.unit else ""
                click.echo(f"  {info.env}{default}{unit}\n      {info.doc}")


def render_markdown(groups: list[SettingsGroup]) -> str:
    """The whole reference page."""
    parts = [_INTRODUCTION]
    for group in groups:
        title = group.name.capitalize() if group.name != "command" else "The farthing command"
        parts.append(
            f"\n## {title}\n\n| variable | type | default | meaning |\n|---|---|---|---|\n"
        )
        for info in group.settings:
            default = f"`{info.default}`" if info.default else ""
            unit = f" Unit: {info.unit}." if info.unit else ""
            secret = " Secret." if info.secret else ""
            doc = info.doc.replace("|", "\\|")
            parts.append(
                f"| `{info.env}` | {info.type_name} | {default} | {doc}{unit}{secret} |\n"
            )
    return "".join(parts)
