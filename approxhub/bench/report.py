"""What a run of benchmarks found, and its JSON. Imports the standard library and the errors."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from approxhub.errors import BenchmarkError
from approxhub.files import replacing, target_of

__all__ = ["SCHEMA_VERSION", "Detail", "Report", "Row", "check_file"]

SCHEMA_VERSION = 1
"""Version of the JSON that reports are written as."""

Detail = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was timed or measured.

    Parameters
    ----------
    suite : str
        The suite that it belongs to.
    case : str
        What was done, e.g. a shape; rows of one case were timed in one race.
    name : str
        Who did it: a multiplier's id, or a yardstick such as ``'torch fp32'``.
    seconds : float or None
        Of one call: the median over the rounds.
    spread : (float, float) or None
        The quickest and the slowest round, in seconds.
    products : int or None
        Multiplications of one call.
    against : dict of str to float
        For each yardstick the median, over the rounds, of its time over this row's: how many
        times as fast as the yardstick this is.
    details : dict
        Instruction set, way, threads, and what else the suite says.
    """

    suite: str
    case: str
    name: str
    seconds: float | None = None
    spread: tuple[float, float] | None = None
    products: int | None = None
    against: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Detail] = field(default_factory=dict)

    @property
    def rate(self) -> float | None:
        """Products a second."""
        if self.products is None or not self.seconds:
            return None
        return self.products / self.seconds


@dataclass(frozen=True, slots=True)
class Report:
    """A run of one or more suites on one machine.

    Parameters
    ----------
    machine : dict
        ``cpu``, ``cores``, ``architecture``, ``system``, ``isas`` and the
        ``isa`` in use.
    versions : dict of str to str
        Of Python, ApproxHub, torch, numpy and the compiler.
    settings : dict
        As asked for, with ``command``, the command line that repeats the run.
    notes : tuple of str
        What could not be measured, and why.
    rows : tuple of Row

    Examples
    --------
    >>> report = Report({}, {}, {}, (), (Row("gemm", "8 x 8 x 8", "exact:8s", seconds=0.5),))
    >>> Report.from_json(report.to_json()) == report
    True
    """

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    notes: tuple[str, ...]
    rows: tuple[Row, ...]

    def of(self, suite: str) -> list[Row]:
        """Rows of one suite."""
        return [r for r in self.rows if r.suite == suite]

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "schema_version": SCHEMA_VERSION,
            **json.loads(json.dumps(dataclasses.asdict(self))),
        }

    @classmethod
    def from_json(cls, value: Any) -> Report:
        """Read what :meth:`to_json` gave.

        Raises
        ------
        BenchmarkError
            If it is something else.
        """
        try:
            version = value["schema_version"]
            if version != SCHEMA_VERSION:
                raise BenchmarkError(
                    f"this benchmark report has version {version}, this ApproxHub reads "
                    f"{SCHEMA_VERSION}; run the benchmarks again"
                )
            rows = []
            for row in value["rows"]:
                spread = row["spread"]
                rows.append(Row(**{**row, "spread": None if spread is None else tuple(spread)}))
            return cls(
                dict(value["machine"]), dict(value["versions"]), dict(value["settings"]),
                tuple(value["notes"]), tuple(rows),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise BenchmarkError(f"this is not a benchmark report: {error!r}") from error

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read a file.

        Raises
        ------
        BenchmarkError
            If it cannot be read, or is no report.
        """
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BenchmarkError(f"{path} cannot be read: {error}") from error
        return cls.from_json(value)

    def write(self, path: Path) -> None:
        """Write a file, whole or not at all.

        Raises
        ------
        BenchmarkError
            If it cannot be written.
        """
        text = json.dumps(self.to_json(), indent=1, allow_nan=False)
        # A list of two numbers on one line: half the length, and still a line for each key.
        text = re.sub(r"\[\s+([-\d.e]+),\s+([-\d.e]+)\s+\]", r"[\1, \2]", text)
        try:
            with replacing(path) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise BenchmarkError(f"{path} cannot be written: {error.strerror or error}") from error


def check_file(path: Path) -> None:
    """Refuse a file that no report can be written to, before anything is timed.

    Raises
    ------
    BenchmarkError
        If it is a device or a pipe, or nothing can be written into its folder.
    """
    try:
        tempfile.TemporaryFile(dir=target_of(path).parent).close()
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be written: {error.strerror or error}") from error
