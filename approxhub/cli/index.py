"""``approxhub index``: publish multipliers, and use what others have published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from approxhub.cli.output import json_option, offline_option, print_json, print_table

if TYPE_CHECKING:
    from approxhub.registry.pins import Change, Pin


@click.group()
def command() -> None:
    """Publish multipliers as an index, and use the indexes of others."""


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The index file; index.json in the folder when not given.",
)
@click.option("--source", metavar="NAME", help="What stands before the colon of the ids.")
@click.option("--release", metavar="NAME", help="What stands after the colon of the ids.")
@click.option("--url", metavar="ADDRESS", help="Where the folder will lie.")
@json_option
def build(
    folder: Path,
    output: Path | None,
    source: str | None,
    release: str | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Make an index of a folder of tables and C models.

    A metadata.json in FOLDER says what no table does: source, release, licence, citation, power,
    area, delay. Hashes and error metrics are computed. See 'Publish an index' in the documentation.
    """
    from approxhub.errors import InputError
    from approxhub.registry.pins import INDEX_NAME
    from approxhub.registry.publishing import build_index, write_index

    path = folder / INDEX_NAME if output is None else output
    index = build_index(folder, source=source, release=release, url=url)
    if not index["urls"] and path.parent.resolve() != folder.resolve():
        raise InputError(f"{path} is not in {folder}: say with --url where the tables will be")
    write_index(index, path)
    ids = [f"{index['source']}:{index['release']}/{m['name']}" for m in index["multipliers"]]
    if as_json:
        print_json({"file": str(path), "ids": ids})
        return
    click.echo(f"{path}: {len(ids)} multipliers", err=True)
    for id in ids:
        click.echo(id)


@command.command()
@click.argument("name")
@click.argument("place", metavar="FOLDER|FILE|URL")
@offline_option
@json_option
def add(name: str, place: str, offline: bool, as_json: bool) -> None:
    """Use an index from now on, as it is now.

    NAME is the source that the index is of. What it says is kept: should it change, nothing of it
    is taken until 'approxhub index update NAME --accept'.
    """
    from approxhub.registry.pins import add_index

    _print([add_index(name, place, offline=offline or None)], as_json)


@command.command()
@click.argument("name")
@click.option("--accept", is_flag=True, help="Take it even if what is pinned has changed.")
@offline_option
@json_option
def update(name: str, accept: bool, offline: bool, as_json: bool) -> None:
    """Look at an index again, show what is new, and take it.

    If something has changed or is gone that was there before, nothing is taken, and the exit code
    is 1.
    """
    from approxhub.registry.pins import update_index

    pin, changes = update_index(name, accept=accept, offline=offline or None)
    if as_json:
        print_json({**_record(pin), "changes": [_change(c) for c in changes]})
        return
    for change in changes:
        click.echo(str(change))
    if not changes:
        click.echo(f"{name} is as it was", err=True)


@command.command(name="list")
@click.pass_context
@json_option
def list_(ctx: click.Context, as_json: bool) -> None:
    """Show the indexes that were added."""
    from approxhub.cli.output import worst_code
    from approxhub.errors import ApproxHubError
    from approxhub.registry.pins import read_pin
    from approxhub.registry.store import Store

    store = Store()
    found, errors = [], []
    for name in store.index_names():
        try:
            pin = read_pin(store, name)
            if pin is not None:
                _record(pin)  # whether it can be read
                found.append(pin)
        except ApproxHubError as error:
            click.echo(f"error: {error}", err=True)
            errors.append(error)
    _print(found, as_json)
    ctx.exit(worst_code(errors))


@command.command()
@click.argument("name")
def remove(name: str) -> None:
    """Forget an index; what was fetched from it stays in the cache."""
    from approxhub.registry.pins import remove_index

    remove_index(name)


def _print(pins: list[Pin], as_json: bool) -> None:
    records = [_record(pin) for pin in pins]
    if as_json:
        print_json(records)
    elif not records:
        click.echo("no index was added", err=True)
    else:
        print_table(
            ("name", "release", "revision", "multipliers", "licences", "from"),
            (
                (
                    record["name"],
                    release["release"],
                    str(release["revision"]),
                    str(release["multipliers"]),
                    ", ".join(release["licences"]),
                    record["origin"],
                )
                for record in records
                for release in record["releases"]
            ),
        )


def _record(pin: Pin) -> dict[str, Any]:
    indexes = [pin.index(release) for release in pin.contents]
    return {
        "name": pin.name,
        "origin": pin.origin,
        "releases": [
            {
                "release": index.release,
                "revision": index.revision,
                "multipliers": len(index.circuits),
                "licences": sorted({c.entry.licence or "-" for c in index.circuits.values()}),
            }
            for index in indexes
        ],
    }


def _change(change: Change) -> dict[str, Any]:
    return {"id": change.id, "kind": change.kind, "details": list(change.details)}
