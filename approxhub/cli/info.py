"""``approxhub info``: all that is known of a multiplier, without using the network."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import click

from approxhub.cli.output import format_record, json_option, number, print_json

if TYPE_CHECKING:
    from approxhub.multiplier import Multiplier

_QUICK_BITS = 8  # operands up to which a table's factors are found in seconds


@click.command()
@click.argument("id")
@json_option
def command(id: str, as_json: bool) -> None:
    """Show all that is known of a multiplier.

    The network is not used: of one that is not in the cache, only what the index says is shown.
    """
    record = _record(id)
    if as_json:
        print_json(record)
        return
    for key, value in _lines(record):
        click.echo(f"{key:<14}{value}")


def _record(text: str) -> dict[str, Any]:
    from approxhub.errors import NotFoundError
    from approxhub.ids import MultiplierId
    from approxhub.registry.catalogue import entry_of, not_found, resolve_id
    from approxhub.registry.client import peek
    from approxhub.registry.store import Store

    id = resolve_id(MultiplierId.parse(text))
    entry, found = entry_of(id), peek(id)
    if found is not None:
        provenance, metrics = found.provenance, found.metrics
        return {
            "id": found.id,
            "table_sha256": found.table_sha256,
            "identity": found.identity,
            "a": format_record(found.a),
            "b": format_record(found.b),
            "metrics": metrics.to_json(),
            "metrics_method": metrics.method,
            "metrics_interval": {k: list(v) for k, v in metrics.interval.items()},
            "printed": dict(found.printed),
            "hardware": dataclasses.asdict(found.hardware),
            **_factors(found),
            "commutative": found.is_commutative,
            "preserves_zero": found.preserves_zero,
            "licence": provenance.licence or (entry.licence if entry else None),
            "citation": provenance.citation or (entry.citation if entry else None),
            "doi": provenance.doi or (entry.doi if entry else None),
            "provenance": dataclasses.asdict(provenance),
            "cached": Store().has(id.base),
        }
    if entry is None:
        raise not_found(id)
    if id.modifiers:
        # A modifier changes table and metrics, and sometimes formats: nothing printed holds.
        raise NotFoundError(
            f"{id} is not in the cache; `approxhub fetch {id.base}` brings it there"
        )
    return {
        "id": entry.id,
        "table_sha256": entry.table_sha256,
        "identity": None,
        "a": format_record(entry.a),
        "b": format_record(entry.b),
        "metrics": None,
        "metrics_method": None,
        "metrics_interval": {},
        "printed": dict(entry.printed),
        "hardware": dataclasses.asdict(entry.hardware),
        **_factors(None),
        "commutative": None,
        "preserves_zero": None,
        "licence": entry.licence,
        "citation": entry.citation,
        "doi": entry.doi,
        "provenance": None,
        "cached": False,
    }


def _factors(multiplier: Multiplier | None) -> dict[str, int | None]:
    """Ranks, and the cost of the factors: computed if that is quick, else if they are known."""
    from approxhub.factorization import FactorizationError, factorize_cached, known_factors

    found = None
    if multiplier is not None:
        quick = max(multiplier.a.bits, multiplier.b.bits) <= _QUICK_BITS
        with contextlib.suppress(FactorizationError):
            found = factorize_cached(multiplier) if quick else known_factors(multiplier)
    return {
        "rank": found.rank_table if found else None,
        "error_rank": found.rank_error if found else None,
        "factor_cost": found.cost if found else None,
    }


def _lines(record: dict[str, Any]) -> list[tuple[str, str]]:
    def operand(f: dict[str, Any]) -> str:
        return f"{f['bits']} bits, {'signed' if f['signed'] else 'unsigned'}"

    hardware = record["hardware"]
    rows = [
        ("id", record["id"]),
        ("a", operand(record["a"])),
        ("b", operand(record["b"])),
        ("table", record["table_sha256"] or "unknown, or too wide for one"),
    ]
    metrics = record["metrics"]
    if metrics is None:
        rows.append(("metrics", f"not computed; `approxhub fetch {record['id']}` does that"))
    else:
        rows.append(("metrics", record["metrics_method"]))
        rows += [(f"  {k}", number(v)) for k, v in metrics.items()]
    if record["rank"] is not None:
        rows.append(("rank", f"{record['rank']}, of the error {record['error_rank']}"))
        rows.append(("factors", f"{record['factor_cost']} int8 products per product"))
    if record["printed"]:
        rows.append(("printed", ", ".join(f"{k} {v}" for k, v in record["printed"].items())))
    for key, unit in (("power_mw", "mW"), ("area_um2", "um2"), ("delay_ns", "ns")):
        if hardware[key] is not None:
            rows.append((key.partition("_")[0], f"{hardware[key]:g} {unit}"))
    rows += [(k, hardware[k]) for k in ("technology",) if hardware[k]]
    rows += [(k, record[k]) for k in ("licence", "citation", "doi") if record[k]]
    rows += [("note", n) for n in (record["provenance"] or {}).get("notes", ())]
    rows.append(("cached", "yes" if record["cached"] else "no"))
    return rows
