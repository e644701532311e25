"""``approxhub info``: all that is known of a multiplier, without using the network."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import click

from approxhub.cli.arguments import id_argument
from approxhub.cli.output import (
    aligned,
    examples,
    format_record,
    json_option,
    number,
    print_json,
)

if TYPE_CHECKING:
    from approxhub.metrics import Metrics
    from approxhub.multiplier import Multiplier
    from approxhub.registry.entries import Entry

_QUICK_BITS = 8  # operands up to which a table's factors are found in seconds


@click.command(
    epilog=examples("info mul8u_12N4", "info drum:8s/k=4 --json", "info mul8s_1KV9+swap")
)
@id_argument()
@json_option
def command(id: str, as_json: bool) -> None:
    """Show all that is known of a multiplier.

    The network is not used: of one that is not in the cache, only what the index says is shown.
    So it is where the cache has another table than the index says now.
    Computed error metrics stand beside those that the source prints.
    """
    record = _record(id)
    if as_json:
        print_json(record)
        return
    for key, value in _lines(record):
        click.echo(f"{key:<14}{value}".rstrip())


def _record(text: str) -> dict[str, Any]:
    from approxhub.errors import NotFoundError
    from approxhub.ids import MultiplierId
    from approxhub.registry.catalogue import entry_of, not_found, resolve_id
    from approxhub.registry.client import peek

    id = resolve_id(MultiplierId.parse(text))
    entry, found = entry_of(id), peek(id)
    if found is not None:
        return _known(found, entry)
    if entry is None:
        raise not_found(id)
    if id.modifiers:
        # A modifier changes table and metrics, and sometimes formats: nothing printed holds.
        raise NotFoundError(
            f"{id} is not in the cache; `approxhub fetch {id.base}` brings it there"
        )
    return _listed(entry)


def _known(found: Multiplier, entry: Entry | None) -> dict[str, Any]:
    """What is known of a multiplier that is at hand."""
    from approxhub.ids import MultiplierId
    from approxhub.registry.store import Store

    provenance, metrics = found.provenance, found.metrics
    return {
        "id": found.id,
        "table_sha256": found.table_sha256,
        "identity": found.identity,
        "a": format_record(found.a),
        "b": format_record(found.b),
        "metrics": metrics.to_json(),
        "metrics_method": metrics.method,
        "metrics_samples": metrics.samples,
        "metrics_interval": _interval(metrics),
        "printed": dict(found.printed),
        "hardware": dataclasses.asdict(found.hardware),
        **_factors(found),
        "exact": found.is_exact if found.has_table or found.is_exact else None,
        "commutative": found.is_commutative,
        **_zeros(found),
        "licence": provenance.licence or (entry.licence if entry else None),
        "citation": provenance.citation or (entry.citation if entry else None),
        "doi": provenance.doi or (entry.doi if entry else None),
        "provenance": dataclasses.asdict(provenance),
        "cached": Store().has(MultiplierId.parse(found.id).base),
        "outdated": False,
    }


def _listed(entry: Entry) -> dict[str, Any]:
    """What the index says of a multiplier that is not in the cache, or there as it was before."""
    from approxhub.ids import MultiplierId
    from approxhub.registry.store import Store

    return {
        "id": entry.id,
        "table_sha256": entry.table_sha256,
        "identity": None,
        "a": format_record(entry.a),
        "b": format_record(entry.b),
        "metrics": None,
        "metrics_method": None,
        "metrics_samples": None,
        "metrics_interval": {},
        "printed": dict(entry.printed),
        "hardware": dataclasses.asdict(entry.hardware),
        **_factors(None),
        "exact": entry.exact,
        "commutative": None,
        "preserves_zero": None,
        "zero_row": None,
        "zero_column": None,
        "licence": entry.licence,
        "citation": entry.citation,
        "doi": entry.doi,
        "provenance": None,
        "cached": False,
        "outdated": Store().has(MultiplierId.parse(entry.id)),
    }


def _interval(metrics: Metrics) -> dict[str, list[float]]:
    """95 % intervals of sampled means, that of `mae_pct` too."""
    found = {k: list(v) for k, v in metrics.interval.items()}
    if "mae" in found:
        found["mae_pct"] = [100.0 * v / (1 << metrics.range_bits) for v in found["mae"]]
    return found


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


def _zeros(m: Multiplier) -> dict[str, bool]:
    """Whether a zero activation (the table's row 0), and a zero weight (its column), give zero.

    Every product is looked at, of circuits without a table too: there are 2**16 at most in a row.
    """
    import numpy as np

    zero = np.zeros(1, dtype=np.int64)
    row = not m.evaluate(zero, m.b.values()).any()
    column = not m.evaluate(m.a.values(), zero).any()
    return {"preserves_zero": row and column, "zero_row": row, "zero_column": column}


# --- for a person -------------------------------------------------------------------


def _lines(record: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("id", record["id"]),
        ("a", f"{_operand(record['a'])} (activation)"),
        ("b", f"{_operand(record['b'])} (weight)"),
        ("table", record["table_sha256"] or "unknown, or too wide for one"),
        *_metric_lines(record),
        *_property_lines(record),
    ]
    hardware = record["hardware"]
    for key, unit in (("power_mw", "mW"), ("area_um2", "um2"), ("delay_ns", "ns"), ("luts", "")):
        if hardware.get(key) is not None:
            rows.append((key.partition("_")[0], f"{hardware[key]:g} {unit}"))
    if hardware["technology"]:
        rows.append(("technology", hardware["technology"]))
    rows += [(k, record[k]) for k in ("licence", "citation", "doi") if record[k]]
    provenance = record["provenance"] or {}
    rows += [(k, provenance[k]) for k in ("commit", "path") if provenance.get(k)]
    rows += [("note", n) for n in provenance.get("notes", ())]
    cached = "yes" if record["cached"] else "no"
    if record["outdated"]:
        cached = f"another table, of before; `approxhub fetch {record['id']}` brings this one"
    rows.append(("cached", cached))
    return rows


def _operand(f: dict[str, Any]) -> str:
    return f"{f['bits']} bits, {'signed' if f['signed'] else 'unsigned'}"


def _metric_lines(record: dict[str, Any]) -> list[tuple[str, str]]:
    """How the metrics were obtained, and a table of the computed beside the printed ones."""
    metrics, printed, interval = record["metrics"], record["printed"], record["metrics_interval"]
    if metrics is None:
        said = f"not computed; `approxhub fetch {record['id']}` does that"
    elif record["metrics_method"] == "exhaustive":
        said = f"exhaustive: over all {record['metrics_samples']:,} operand pairs"
    else:
        said = (
            f"{record['metrics_method']}: over {record['metrics_samples']:,} random operand pairs; "
            "worst cases are lower bounds"
        )
    header = ["", "computed", "printed", "95 % interval"]
    table = [
        [
            key,
            "-" if metrics is None else number(metrics.get(key)),
            printed.get(key, "-"),
            " to ".join(number(v) for v in interval.get(key, ())),
        ]
        for key in dict.fromkeys([*(metrics or {}), *printed])
    ]
    if not interval:
        header, table = header[:3], [row[:3] for row in table]
    if not printed:
        header, table = [header[0], header[1], *header[3:]], [[*r[:2], *r[3:]] for r in table]
    lines = aligned([header, *table]) if table else []
    return [("metrics", said), *(("", line) for line in lines)]


def _property_lines(record: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (name, "yes" if record[key] else "no")
        for key, name in (("exact", "exact"), ("commutative", "commutative"))
        if record[key] is not None
    ]
    if record["preserves_zero"] is not None:
        broken = [
            operand
            for operand, key in (("activation", "zero_row"), ("weight", "zero_column"))
            if not record[key]
        ]
        what = f"no: not for a zero {' nor a zero '.join(broken)}" if broken else "yes"
        rows.append(("keeps zero", what))
    if record["rank"] is not None:
        rows.append(("rank", f"{record['rank']}, of the error {record['error_rank']}"))
        rows.append(("factors", f"{record['factor_cost']} int8 products per product"))
    return rows
