"""The kit for table formats: right ones pass, and each way to be wrong is caught."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from approxhub.errors import TableFileError
from approxhub.formats import TableData, all_formats
from approxhub.plugins import TableFormat
from approxhub.testing import FormatConformance
from approxhub.testing.contract import lopsided

MAGIC = b"mine table "


def sniff(head: bytes) -> bool:
    """Whether it is one of these."""
    return head.startswith(MAGIC)


def read(path: Path, operands: Any) -> TableData:
    """Rows and columns, then entries."""
    first, _, body = path.read_bytes().partition(b"\n")
    try:
        rows, columns = (int(n) for n in first.removeprefix(MAGIC).split())
        entries = np.array([int(n) for n in body.split()], dtype=np.int64)
        return TableData(entries.reshape(rows, columns))
    except (ValueError, OverflowError) as error:
        raise TableFileError(f"it is no table: {error}") from None


def write(data: TableData, path: Path) -> None:
    """Entries in the orders that were asked for."""
    rows, columns = data.grid.shape
    body = " ".join(map(str, data.grid.reshape(-1).tolist()))
    path.write_bytes(MAGIC + f"{rows} {columns}\n{body}\n".encode())


RIGHT = TableFormat("mine", (".mine",), sniff, read, write)


def kit_of(format: Any) -> type[FormatConformance]:
    """The kit on a format."""

    class Kit(FormatConformance):
        def make_format(self) -> TableFormat:
            return format

    return Kit


def _reads(change: Callable[[np.ndarray], np.ndarray]) -> TableFormat:
    def changed(path: Path, operands: Any) -> TableData:
        return replace(read(path, operands), entries=change(read(path, operands).grid))

    return replace(RIGHT, read=changed)


def _sorted_rows(data: TableData, path: Path) -> None:
    order = np.argsort(data.rows) if data.rows is not None else slice(None)
    write(replace(data, entries=data.grid[order]), path)


def _lenient(path: Path, operands: Any) -> TableData:
    """Fills up what is missing."""
    first, _, body = path.read_bytes().partition(b"\n")
    try:
        rows, columns = (int(n) for n in first.removeprefix(MAGIC).split())
    except ValueError as error:
        raise TableFileError(f"it is no table: {error}") from None
    found = [int(n) for n in body.split()]
    return TableData(np.resize(found or [0], (rows, columns)))


def _unguarded(path: Path, operands: Any) -> TableData:
    first, _, body = path.read_bytes().partition(b"\n")
    rows, columns = (int(n) for n in first.removeprefix(MAGIC).split())
    return TableData(np.array([int(n) for n in body.split()]).reshape(rows, columns))


def _beside(data: TableData, path: Path) -> None:
    write(data, path)
    path.with_suffix(".bak").write_bytes(b"")


def _renames(data: TableData, path: Path) -> None:
    write(data, path.with_name(path.name + ".mine"))
    path.write_bytes(path.with_name(path.name + ".mine").read_bytes())


_times = itertools.count()


def _dated(data: TableData, path: Path) -> None:
    write(data, path)
    path.write_bytes(path.read_bytes() + b" " * next(_times) + b"\n")


def _mutates(data: TableData, path: Path) -> None:
    write(data, path)
    data.grid[0, 0] += 1


def _refuses(data: TableData, path: Path) -> None:
    raise TableFileError("never")


def _crashes(data: TableData, path: Path) -> None:
    raise KeyError("boom")


def _wide(data: TableData, path: Path) -> None:
    """Leaves a file behind for what it cannot hold."""
    if data.entries is None:
        (path.parent / "half").write_bytes(b"")
        raise TableFileError("too wide")
    write(data, path)


def _curious(head: bytes) -> bool:
    return head[len(MAGIC)] is not None and sniff(head)


WRONG: dict[str, tuple[Any, str, str]] = {
    "no record": (object(), "test_its_record", "TableFormat"),
    "no dot": (replace(RIGHT, suffixes=("mine",)), "test_its_record", "suffix 'mine'"),
    "capital": (replace(RIGHT, suffixes=(".Mine",)), "test_its_record", "suffix '.Mine'"),
    "nothing": (replace(RIGHT, read=None, write=None), "test_its_record", "neither"),
    "nameless": (replace(RIGHT, name=""), "test_its_record", "called ''"),
    "transposed": (_reads(lambda t: t.T), "test_round_trip", "wrote"),
    "transposes squares": (
        _reads(lambda t: t.T if t.shape[0] == t.shape[1] else t),
        "test_round_trip", "wrote 1ux1s",
    ),
    "off by one": (_reads(lambda t: t + 1), "test_it_reads_its_files", "otherwise"),
    "own order": (replace(RIGHT, write=_sorted_rows), "test_round_trip", "index pattern"),
    "unsigned": (_reads(abs), "test_round_trip", "wrote"),
    "holds nothing": (replace(RIGHT, write=_refuses), "test_it_holds_something", "every one"),
    "crashes": (replace(RIGHT, write=_crashes), "test_round_trip", "KeyError"),
    "blind": (replace(RIGHT, sniff=lambda head: False), "test_sniff_knows_its_own", "not know"),
    "greedy": (replace(RIGHT, sniff=bool), "test_sniff_refuses_others", "claims a file of"),
    "reads letters": (
        replace(RIGHT, sniff=lambda head: sniff(head) or b"," in head),
        "test_sniff_refuses_what_is_no_table", "claims b'Dear",
    ),
    "raises": (
        replace(RIGHT, sniff=lambda head: sniff(head) and head[len(MAGIC)] > 0),
        "test_sniff_looks_at_anything", "IndexError",
    ),
    "lenient": (replace(RIGHT, read=_lenient), "test_cut_files_are_refused", "of a file as"),
    "unguarded": (replace(RIGHT, read=_unguarded), "test_garbage_is_refused", "ValueError"),
    "unguarded too": (replace(RIGHT, read=_unguarded), "test_damage_anywhere", "ValueError"),
    "two files": (replace(RIGHT, write=_beside), "test_it_writes_where_it_is_told", "left"),
    "adds a suffix": (replace(RIGHT, write=_renames), "test_it_writes_where_it_is_told", "left"),
    "dated": (replace(RIGHT, write=_dated), "test_it_writes_the_same_bytes", "different files"),
    "mutates": (replace(RIGHT, write=_mutates), "test_it_writes_the_same_bytes", "unchanged"),
    "half": (replace(RIGHT, write=_wide), "test_a_refused_table_leaves_no_file", "left one"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_format_is_caught(name, run_kit):
    """Each fault breaks its clause, and the message says what the contract is."""
    format, clause, words = WRONG[name]
    failed = run_kit(kit_of(format), clause)
    assert words in failed[clause]
    assert "The contract says: " in failed[clause]


def test_a_right_format_passes(run_kit):
    """Nothing fails of a format that does all that is asked."""
    assert run_kit(kit_of(RIGHT)) == {}


OURS = {f.name: f for f in all_formats()}
SLOW = ("h5", "triples", "c-array", "text", "csv", "npz")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in OURS]
)
def test_our_own_pass(name, run_kit):
    """The built-in formats hold the contract."""
    assert run_kit(kit_of(OURS[name])) == {}


def test_a_format_that_only_reads(run_kit):
    """With files of its own, reading and telling apart are tested."""
    m = lopsided("4s", "3s")

    class Kit(FormatConformance):
        def make_format(self):
            return replace(RIGHT, write=None)

        def make_files(self, folder):
            path = folder / "one.mine"
            write(TableData(m.table), path)
            return [(path, m)]

    assert run_kit(Kit) == {}

    class Wrong(Kit):
        def make_format(self):
            return replace(_reads(lambda t: t[::-1]), write=None)

    assert "test_it_reads_its_files" in run_kit(Wrong)
