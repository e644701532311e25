"""``approxhub plugins``: which plug-ins were found, and why some do not work."""

from __future__ import annotations

import dataclasses

import click

from approxhub.cli.output import json_option, print_json, print_table


@click.command()
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Show the plug-ins that were found, and why some do not work.

    Exits with 0 whatever state they are in.
    """
    from approxhub.plugins import host

    # Names of all commands: so that a plug-in whose commands fail is seen here.
    root = ctx.find_root()
    if isinstance(root.command, click.Group):
        root.command.list_commands(root)
    rows = [dataclasses.asdict(s) for s in host().status()]
    if as_json:
        print_json(rows)
    elif not rows:
        click.echo("no plug-ins are installed")
    else:
        print_table(
            ("name", "version", "state", "error"),
            ((r["name"], r["version"] or "-", r["state"], r["error"] or "") for r in rows),
        )
