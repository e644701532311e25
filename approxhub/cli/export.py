"""``approxhub export``: a multiplier's products into a file, in many formats."""

from __future__ import annotations

from pathlib import Path

import click

from approxhub.cli.arguments import id_argument
from approxhub.cli.output import examples, format_record, json_option, offline_option, print_json
from approxhub.cli.tables import table_options

_STDOUT = "-"


@click.command(
    epilog=examples(
        "export mul8s_1KV9 table.npy",
        "export mul8s_1KV9 mul8s_1KV9.h --index-order offset",
        "export drum:8u/k=4 table.bin --operand-order ba --force",
        "export drum:8u/k=4 - --format csv",
    )
)
@id_argument()
@click.argument("file", type=click.Path(allow_dash=True))
@table_options
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@offline_option
@json_option
def command(
    id: str,
    file: str,
    format: str | None,
    index_order: str | None,
    operand_order: str | None,
    force: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Write a multiplier's products into a file.

    ID may be any id, with modifiers too. The format is told by the suffix: .npy, .npz, .h5, .bin,
    .txt, .triples, .csv or .h. Orders are pattern and ab when not given. The file appears whole
    or not at all; of a symbolic link the target is written, and devices and pipes are refused.

    A FILE of - is standard output, in the format that --format names; HDF5 needs a file.
    """
    from approxhub.formats import table_bytes, write_table
    from approxhub.registry.client import load

    if file == _STDOUT and format is None:
        raise click.UsageError("say with --format what standard output is to hold, e.g. csv or npy")
    if file == _STDOUT and as_json:
        raise click.UsageError("--json prints on standard output too; name a file")
    multiplier = load(id, offline=offline or None)
    orders = {"index_order": index_order or "pattern", "operand_order": operand_order or "ab"}
    if file == _STDOUT:
        click.echo(table_bytes(multiplier, format or "", **orders), nl=False)
        return
    write_table(multiplier, file, format=format, overwrite=force, **orders)
    if as_json:
        print_json(
            {
                "id": multiplier.id,
                "file": file,
                "bytes": Path(file).stat().st_size,
                "table_sha256": multiplier.table_sha256,
                "a": format_record(multiplier.a),
                "b": format_record(multiplier.b),
            }
        )
    else:
        click.echo(f"{multiplier.id}  {file}")
