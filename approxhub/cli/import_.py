"""``approxhub import``: a table from a file into the cache, and what it turns out to be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from approxhub.cli.output import (
    error_record,
    examples,
    format_record,
    json_option,
    number,
    offline_option,
    print_json,
    worst_code,
)
from approxhub.cli.tables import table_options

if TYPE_CHECKING:
    from approxhub.errors import ApproxHubError
    from approxhub.registry.arrival import Arrival


@click.command(
    epilog=examples(
        "import mul8s_1L2H.h --operands 8s --index-order offset",
        "import table.bin --operands 8u --name mine --dry-run",
        "import my_circuits/ --operands 8u",
    )
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", help="Its name; the id becomes local:NAME. The file's name otherwise.")
@click.option(
    "--operands", metavar="FORMAT", help="Operands, activation first, e.g. 8u, 12s or 8ux4s."
)
@table_options
@click.option("--force", is_flag=True, help="Import it whatever was found, and replace.")
@click.option("--dry-run", is_flag=True, help="Only report.")
@offline_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    path: Path,
    name: str | None,
    operands: str | None,
    format: str | None,
    index_order: str | None,
    operand_order: str | None,
    force: bool,
    dry_run: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Import a table, and say what it is.

    PATH is a file, or a folder of them. What a file does not say has to be given: whether its
    operands are signed, and the order of a signed one. The table is compared with all that is
    known; one that carries the name of a known multiplier and differs from it is refused.
    """
    if path.is_dir() and name is not None:
        raise click.UsageError("a folder has more than one name: leave --name")
    records, errors = [], []
    for file in _files(path) if path.is_dir() else [path]:
        arrival, read_as, error = _arrive(
            file, format, name, operands, index_order, operand_order, offline or None
        )
        if arrival is not None:
            for claim in arrival.contradicted:
                click.echo(f"warning: {arrival.multiplier.id} {claim.why}", err=True)
            if any(claim.unreachable for claim in arrival.claims):
                click.echo("note: differences not counted: no network", err=True)
            if arrival.hint is not None:
                click.echo(f"warning: {arrival.multiplier.id}: {arrival.hint}", err=True)
            error = None if force else _refusal(arrival)
            if error is None and not dry_run:
                error = _keep(arrival)
        if error is not None:
            click.echo(f"error: {error}", err=True)
        state = "failed" if error is not None else "seen" if dry_run else "imported"
        record = {"path": str(file), "state": state, "error": error_record(error)}
        if arrival is not None:
            record |= {"format": read_as, **_record(arrival)}
        errors.append(error)
        records.append(record)
        if not as_json:
            for line in _lines(record):
                click.echo(line)
    if as_json:
        print_json(records if path.is_dir() else records[0])
    ctx.exit(worst_code(errors))


def _files(folder: Path) -> list[Path]:
    """Files of a folder that a format may read, by their suffixes."""
    from approxhub.errors import NotFoundError
    from approxhub.formats import all_formats

    suffixes = {s for f in all_formats() if f.read is not None for s in f.suffixes}
    found = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in suffixes)
    if not found:
        known = ", ".join(sorted(suffixes))
        raise NotFoundError(f"{folder} has no file of a known suffix: {known}")
    return found


def _arrive(
    path: Path,
    format: str | None,
    name: str | None,
    operands: str | None,
    index_order: str | None,
    operand_order: str | None,
    offline: bool | None,
) -> tuple[Arrival | None, str | None, ApproxHubError | None]:
    """Read and recognise a file: what it is and the format it was read in, or why not."""
    from approxhub.errors import ApproxHubError
    from approxhub.formats import read_data, table_of
    from approxhub.registry.arrival import other_readings, recognise

    try:
        data = read_data(path, format=format, operands=operands, operand_order=operand_order)
        multiplier = table_of(
            data,
            path,
            operands=operands,
            index_order=index_order,
            operand_order=operand_order,
            name=name,
        )
        names = {n for n in (path.stem, data.name, name) if n}
        readings = other_readings(
            data,
            operands=(multiplier.a, multiplier.b),
            index_order=index_order,
            operand_order=operand_order,
        )
        arrival = recognise(multiplier, sorted(names), offline=offline, readings=readings)
        return arrival, data.format, None
    except ApproxHubError as error:
        return None, None, error


def _refusal(arrival: Arrival) -> ApproxHubError | None:
    """Why a table is not imported without --force, if there is a reason."""
    from approxhub.errors import StoreError, VerificationError
    from approxhub.registry.store import Store

    id = arrival.multiplier.id
    if arrival.contradicted:
        known = " or ".join(c.id for c in arrival.contradicted)
        return VerificationError(
            f"{id} is not imported: it is not {known}, whose name it carries; call "
            "it otherwise, or import it all the same with --force"
        )
    there = Store().read_ref(id)
    if there is not None and there.object != arrival.multiplier.identity:
        return StoreError(f"{id} is there already with another table; --name another, or --force")
    return None


def _keep(arrival: Arrival) -> ApproxHubError | None:
    """Put the table into the cache, with what was found as notes; why not, if it cannot."""
    import dataclasses

    from approxhub.errors import ApproxHubError
    from approxhub.registry.store import Store

    m = arrival.multiplier
    notes = (*m.provenance.notes, *(c.why for c in arrival.contradicted))
    noted = m.described(provenance=dataclasses.replace(m.provenance, notes=notes))
    try:
        Store().put(noted)
    except ApproxHubError as error:
        return error
    return None


def _record(arrival: Arrival) -> dict[str, Any]:
    m = arrival.multiplier
    return {
        "id": m.id,
        "a": format_record(m.a),
        "b": format_record(m.b),
        "table_sha256": m.table_sha256,
        "identity": m.identity,
        "metrics": m.metrics.to_json(),
        "metrics_method": m.metrics.method,
        "equal": list(arrival.equal),
        "claims": [
            {
                "id": c.id,
                "holds": c.holds,
                "why": c.why,
                "unreachable": c.unreachable,
                "comparison": None if c.comparison is None else c.comparison.to_json(),
            }
            for c in arrival.claims
        ],
        "closest": None if arrival.closest is None else arrival.closest.to_json(),
        "hint": arrival.hint,
    }


def _lines(record: dict[str, Any]) -> list[str]:
    """What is said of one file to a person."""
    if "id" not in record:
        return [f"{record['state']:<9} {record['path']}"]
    operands = " x ".join(
        f"{record[k]['bits']}{'s' if record[k]['signed'] else 'u'}" for k in ("a", "b")
    )
    metrics = record["metrics"]
    lines = [
        f"{record['state']:<9} {record['id']}  {operands}, read as {record['format']}",
        f"  table    {record['table_sha256'] or 'too wide for one'}",
        f"  errors   MAE {number(metrics['mae'])}, WCE {number(metrics['wce'])}, "
        f"EP {number(metrics['ep_pct'])} % ({record['metrics_method']})",
    ]
    lines += [f"  claim    {c['why']}" for c in record["claims"]]
    for id in record["equal"]:
        base = id.removesuffix("+swap")
        exchanged = " with its operands exchanged" if base != id else ""
        lines.append(f"  equals   {base}{exchanged}")
    closest = record["closest"]
    if closest is not None and closest["second"] not in [c["id"] for c in record["claims"]]:
        lines.append(f"  closest  {closest['second']}: {closest['description']}")
    return lines
