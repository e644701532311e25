"""Rows of results: what was evaluated, what came out, and all that is needed to repeat it."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from approxhub.charts import Point, draw_bars, draw_heatmap, draw_pareto
from approxhub.errors import ApproxHubError, ExperimentError, InputError

__all__ = ["FLOAT", "SCHEMA_VERSION", "Result", "Results"]

SCHEMA_VERSION = 1
"""Of the files that :meth:`Results.read` reads."""

FLOAT = "float"
"""Stands for the float model where a multiplier's id is asked for."""

PLOTS = ("energy", "layers", "bars")


@dataclass(frozen=True, slots=True)
class Result:
    """One evaluation.

    Parameters
    ----------
    multiplier : str
        Id of the multiplier of all layers; ``'float'`` for the float model;
        ``'pattern=id, pattern=id'`` where layers have several.
    layer : str or None
        In a sensitivity analysis the one layer whose products were approximate.
    mapping, datapath : str
        How numbers reached the circuits, and what hardware does around them; with several, joined
        by ``'; '``. Empty for the float model; the default datapath is empty too.
    seed : int
        What torch, numpy and random were seeded with before the evaluation.
    compensated, batch_norm_reestimated : bool
        Whether the mean error was folded into the biases, and whether the statistics of batch
        normalisation were taken anew through the multiplier.
    metrics : dict of str to float
        What the evaluator gave; a number without a name is ``'score'``.
    relative_energy : float or None
        See :func:`approxhub.summary`; None where a power is unknown.
    identities : dict of str to str
        Content hash with operand formats of each multiplier, by its id: formats, and the SHA-256
        of the table.
    versions : dict of str to str
        Of approxhub, torch, numpy and Python.
    """

    multiplier: str
    layer: str | None
    mapping: str
    datapath: str
    seed: int
    compensated: bool
    batch_norm_reestimated: bool
    metrics: Mapping[str, float]
    relative_energy: float | None
    identities: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def value(self) -> float:
        """The first metric."""
        return next(iter(self.metrics.values()))

    @property
    def key(self) -> tuple[Any, ...]:
        """What was asked for: two results of one model and one key answer one question."""
        return (
            self.multiplier, self.layer, self.mapping, self.datapath, self.seed, self.compensated,
            self.batch_norm_reestimated, tuple(self.identities.items()),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, value: Any) -> Result:
        """Read what :meth:`to_json` gave.

        Raises
        ------
        ExperimentError
            If it is something else.
        """
        try:
            made = cls(**value)
            numbers = [float(v) for v in made.metrics.values()]
            if not numbers or not all(map(math.isfinite, numbers)):
                raise ValueError(f"metrics {dict(made.metrics)}")
            dict(made.identities), dict(made.versions)
        except (AttributeError, TypeError, ValueError) as error:
            raise ExperimentError(f"this is not a row of results: {error}") from error
        return made

    def flat(self) -> dict[str, Any]:
        """Return one value for each column of a CSV file."""
        row = self.to_json()
        metrics, identities, versions = (row.pop(k) for k in ("metrics", "identities", "versions"))
        row = {**row, **metrics}
        row["identities"] = "; ".join(f"{i}={h}" for i, h in identities.items())
        return {**row, **{f"version_{name}": v for name, v in versions.items()}}


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


@dataclass
class Results(Sequence[Result]):
    """Results of one model, in the order in which they were asked for.

    Parameters
    ----------
    rows : list of Result
    failed : list of (str, ApproxHubError)
        What could not be evaluated, and why; only where failures were to be skipped.
    path : Path or None
        Where the rows are kept, without suffix.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 2))
    >>> x = torch.randn(64, 4)
    >>> def evaluate(model):
    ...     return {"mse": (model(x) - net(x)).square().mean()}
    >>> results = ah.sweep(net, ["exact:8s", "drum:8s/k=4"], evaluate, [x])
    >>> [row.multiplier for row in results], results[0].value < results[1].value
    (['exact:8s', 'drum:8s/k=4'], True)
    """

    rows: list[Result]
    failed: list[tuple[str, ApproxHubError]] = field(default_factory=list)
    path: Path | None = None

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> list[Result]: ...
    def __getitem__(self, index: int | slice) -> Result | list[Result]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Result]:
        return iter(self.rows)

    # --- files ----------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with a schema version."""
        return {
            "schema_version": SCHEMA_VERSION,
            "rows": [row.to_json() for row in self.rows],
            "failed": [{"multiplier": i, "error": str(e)} for i, e in self.failed],
        }

    def to_csv(self) -> str:
        """Return a CSV table: a column for each metric, None as nothing.

        Examples
        --------
        >>> Results([]).to_csv()
        ''
        """
        return csv_text(self.rows)

    @classmethod
    def read(cls, path: str | Path) -> Results:
        """Read the rows of a file that a sweep wrote.

        Parameters
        ----------
        path : path
            As it was given to :func:`sweep`.

        Raises
        ------
        ExperimentError
            If it cannot be read, or holds something else.
        """
        from approxhub.experiments.ledger import read_file, stem

        found = read_file(stem(path))
        if found is None:
            raise ExperimentError(f"{stem(path)}.json is not there")
        return cls(found[1], path=stem(path))

    # --- for people --------------------------------------------------------------------

    def baseline(self, row: Result) -> Result | None:
        """The row of exact products of the same kind of codes, if it is among these.

        It has the same formats, mapping, datapath, seed and preparation as `row`.
        """
        formats = {identity.partition("-")[0] for identity in row.identities.values()}
        if len(formats) != 1:
            return None
        for other in self.rows:
            alike = all(
                getattr(other, name) == getattr(row, name)
                for name in (
                    "mapping", "datapath", "seed", "compensated", "batch_norm_reestimated",
                )
            )  # fmt: skip
            if (
                alike
                and other.layer is None
                and other.multiplier.startswith("exact:")
                and {i.partition("-")[0] for i in other.identities.values()} == formats
            ):
                return other
        return None

    def table(self) -> list[tuple[str, ...]]:
        """Return a header and a line for each row, as texts."""
        layers = any(row.layer is not None for row in self.rows)
        metrics = _metric_names(self.rows)
        against = [self.baseline(row) for row in self.rows]
        shown = any(base is not None for base in against)
        head = (
            "multiplier",
            *(["layer"] if layers else []),
            "mapping",
            *metrics,
            *([f"{metrics[0]} lost"] if shown else []),
            "energy",
        )
        lines = [head]
        for row, base in zip(self.rows, against, strict=True):
            lost = "-" if base is None else f"{base.value - row.value:+.4f}"
            lines.append(
                (
                    row.multiplier,
                    *([row.layer or "-"] if layers else []),
                    row.mapping or "-",
                    *(f"{row.metrics[m]:.4f}" for m in metrics),
                    *([lost] if shown else []),
                    "-" if row.relative_energy is None else f"{row.relative_energy:.3f}",
                )
            )
        return lines

    def __str__(self) -> str:
        if not self.rows:
            return "no results"
        lines = self.table()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def plot(self, path: str | Path, *, kind: str | None = None, metric: str | None = None) -> None:
        """Draw the results.

        Parameters
        ----------
        path : path
            A ``.png`` or ``.svg`` file; replaced if it is there.
        kind : {'energy', 'layers', 'bars'}, optional
            The metric over relative energy, with the rows that no other beats in both (the metric
            is taken to be the better the higher it is); layer over multiplier, of a sensitivity
            analysis; or a bar for each row. When not given, the first of these that there are
            data for.
        metric : str, optional
            The first one when not given.

        Raises
        ------
        InputError
            If there is nothing to draw of this kind, or the suffix is another.
        ChartError
            If matplotlib is missing, or the file cannot be written.
        """
        path = Path(path)
        if not self.rows:
            raise InputError("there are no results to draw")
        names = _metric_names(self.rows)
        if metric is None:
            metric = names[0]
        if metric not in names:
            raise InputError(f"there is no metric {metric!r}; there are {', '.join(names)}")
        drawable = {
            "layers": any(row.layer is not None for row in self.rows),
            "energy": sum(row.relative_energy is not None for row in self.rows) > 1,
            "bars": True,
        }
        if kind is None:
            kind = next(name for name, there in drawable.items() if there)
        if kind not in drawable:
            raise InputError(f"kind must be one of {', '.join(PLOTS)}, got {kind!r}")
        if not drawable[kind]:
            why = {
                "layers": "no row is of one layer; see approxhub.sensitivity",
                "energy": "fewer than two rows have a relative energy: it needs multipliers whose "
                "power is published, and batches to count operations on",
            }[kind]
            raise InputError(f"a plot of kind {kind!r} cannot be drawn: {why}")
        {"energy": self._plot_energy, "layers": self._plot_layers, "bars": self._plot_bars}[kind](
            path, metric
        )

    def _plot_energy(self, path: Path, metric: str) -> None:
        at = [
            (row, row.relative_energy, row.metrics[metric])
            for row in self.rows
            if row.relative_energy is not None
        ]
        points = [
            Point(
                row.multiplier,
                x,
                y,
                not any(u <= x and v >= y and (u, v) != (x, y) for _, u, v in at),
            )
            for row, x, y in at
        ]
        levels = {
            row.multiplier: row.metrics[metric] for row in self.rows if row.multiplier == FLOAT
        }
        draw_pareto(
            points, "energy of the multiplications, relative to exact ones", metric, path, levels
        )

    def _plot_layers(self, path: Path, metric: str) -> None:
        found = {
            (row.layer, row.multiplier): row.metrics[metric]
            for row in self.rows
            if row.layer is not None
        }
        layers = list(dict.fromkeys(layer for layer, _ in found))
        multipliers = list(dict.fromkeys(multiplier for _, multiplier in found))
        values = [[found.get((la, m), math.nan) for m in multipliers] for la in layers]
        draw_heatmap(layers, multipliers, values, metric, path)

    def _plot_bars(self, path: Path, metric: str) -> None:
        names = [
            "\n".join(filter(None, (row.multiplier, row.layer, row.mapping))) for row in self.rows
        ]
        draw_bars(names, [row.metrics[metric] for row in self.rows], metric, path)


def _metric_names(rows: Iterable[Result]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.metrics))


def csv_text(rows: Sequence[Result]) -> str:
    """A CSV table of rows, with a header; nothing without rows."""
    flat = [{"schema_version": SCHEMA_VERSION, **row.flat()} for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    if flat:
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
    return text.getvalue()


def json_line(row: Result) -> str:
    """A row as JSON on one line."""
    return json.dumps(row.to_json(), allow_nan=False)
