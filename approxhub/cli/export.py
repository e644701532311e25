"""``approxhub export``: a multiplier's products into a file, in many formats."""

from __future__ import annotations

from pathlib import Path

import click

from approxhub.cli.arguments import id_argument
from approxhub.cli.output import examples, format_record, json_option, offline_option, print_json
from approxhub.cli.tables import table_options


@click.command(
    epilog=examples(
        "export mul8s_1KV9 table.npy",
        "export mul8s_1KV9 mul8s_1KV9.h --index-order offset",
        "export drum:8u/k=4 table.bin --operand-order ba --force",
    )
)
@id_argument()
@click.argument("file", type=click.Path(path_type=Path))
@table_options
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@offline_option
@json_option
def command(
    id: str,
    file: Path,
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
    """
    from approxhub.formats import write_table
    from approxhub.registry.client import load

    multiplier = load(id, offline=offline or None)
    write_table(
        multiplier,
        file,
        format=format,
        index_order=index_order or "pattern",
        operand_order=operand_order or "ab",
        overwrite=force,
    )
    if as_json:
        print_json(
            {
                "id": multiplier.id,
                "file": str(file),
                "bytes": file.stat().st_size,
                "table_sha256": multiplier.table_sha256,
                "a": format_record(multiplier.a),
                "b": format_record(multiplier.b),
            }
        )
    else:
        click.echo(f"{multiplier.id}  {file}")
