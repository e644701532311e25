"""Rows on disk: a JSON file that is whole at any moment, and the same rows as CSV.

The JSON file is what counts. It is replaced whole after each row, so that a process may be killed
at any moment; the CSV file follows from it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from approxhub.errors import ExperimentError
from approxhub.experiments.result import SCHEMA_VERSION, Result, csv_text, json_line
from approxhub.files import replacing, target_of

__all__ = ["Ledger", "read_file", "stem"]

Setting = dict[str, Any]
"""What the rows of one file share: the model, and the ranges of its quantisers."""


def stem(path: str | os.PathLike[str]) -> Path:
    """A path without ``.json`` or ``.csv``."""
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".json", ".csv") else path


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def read_file(path: Path) -> tuple[Setting, list[Result]] | None:
    """Read what a ledger wrote; None if there is no file.

    Raises
    ------
    ExperimentError
        If it cannot be read, or is something else.
    """
    file = _beside(path, ".json")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ExperimentError(
            f"{file} cannot be read ({error}); move it away, or name another path"
        ) from error
    if not isinstance(value, dict) or "schema_version" not in value or "setting" not in value:
        raise ExperimentError(f"{file} is not a file of results; name another path")
    if value["schema_version"] != SCHEMA_VERSION:
        raise ExperimentError(
            f"{file} has version {value['schema_version']}, this ApproxHub reads "
            f"{SCHEMA_VERSION}; name another path, or install the version that wrote it"
        )
    try:
        return dict(value["setting"]), [Result.from_json(row) for row in value["rows"]]
    except (ExperimentError, KeyError, TypeError) as error:
        raise ExperimentError(f"{file} is damaged: {error}; move it away") from error


class Ledger:
    """The rows of one calibrated model, in memory, and on disk if it has a path.

    Attributes
    ----------
    setting : dict or None
        What all rows share; None until there is something to share.
    rows : list of Result
        In the order in which they were finished.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.setting: Setting | None = None
        self.rows: list[Result] = []
        self._lines: list[str] = []
        if path is not None and (found := read_file(path)) is not None:
            self.setting, self.rows = found
            self._lines = [json_line(row) for row in self.rows]

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path | None) -> Iterator[Ledger]:
        """Open a ledger that no other process writes meanwhile.

        Raises
        ------
        ExperimentError
            If another one does, the folder cannot be made, or the file is something else.
        """
        if path is None:
            yield cls(None)
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for suffix in (".json", ".csv"):
                target_of(_beside(path, suffix))
            held = path.with_name(f".{path.name}.lock")
            held.touch()  # where no file can be made, filelock speaks of another process
            lock = FileLock(held)
            lock.acquire(timeout=0)
        except Timeout:
            raise ExperimentError(
                f"another process is writing {path}.json; wait for it, or name another path"
            ) from None
        except OSError as error:
            raise ExperimentError(
                f"results cannot be kept at {path}: {error.strerror or error}; name another path"
            ) from error
        try:
            _clear(path)
            yield cls(path)
        finally:
            lock.release()

    def start(self, setting: Setting) -> None:
        """Say what all rows share, and keep it.

        Raises
        ------
        ExperimentError
            If it cannot be written.
        """
        self.setting = setting
        self.write()

    def add(self, row: Result) -> None:
        """Keep a row.

        Raises
        ------
        ExperimentError
            If it cannot be written.
        """
        self.rows.append(row)
        self._lines.append(json_line(row))
        self.write()

    def write(self) -> None:
        """Write both files, each whole or not at all.

        Raises
        ------
        ExperimentError
            If one cannot be written.
        """
        if self.path is None:
            return
        rows = "".join(f"\n  {line}," for line in self._lines).removesuffix(",")
        text = (
            f'{{\n "schema_version": {SCHEMA_VERSION},\n'
            f' "setting": {json.dumps(self.setting, allow_nan=False)},\n'
            f' "rows": [{rows}\n ]\n}}\n'
        )
        for suffix, content in ((".json", text), (".csv", csv_text(self.rows))):
            file = _beside(self.path, suffix)
            try:
                with replacing(file) as temporary:
                    temporary.write_text(content, encoding="utf-8")
            except OSError as error:
                raise ExperimentError(
                    f"{file} cannot be written: {error.strerror or error}"
                ) from error


def _clear(path: Path) -> None:
    """Remove the temporary files of a process that was killed."""
    begins = tuple(f".{path.name}{suffix}-" for suffix in (".json", ".csv"))
    for left in path.parent.iterdir():
        if left.name.startswith(begins) and left.suffix == ".tmp":
            left.unlink(missing_ok=True)
