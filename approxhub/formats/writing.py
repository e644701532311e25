"""Writing a table file: whole under its name, or not at all.

Imports the multiplier and the assembly.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from approxhub.errors import InputError
from approxhub.files import replacing, target_of
from approxhub.formats.about import about
from approxhub.formats.assembly import disassemble
from approxhub.formats.data import TableData
from approxhub.formats.reading import Pathlike, all_formats, format_named
from approxhub.multiplier import Multiplier
from approxhub.plugins.descriptors import TableFormat

__all__ = ["table_bytes", "write_table"]

_HDF5 = ("h5", "hdf5")


def write_table(
    multiplier: Multiplier | str,
    path: Pathlike,
    *,
    format: str | None = None,
    index_order: str = "pattern",
    operand_order: str = "ab",
    overwrite: bool = False,
) -> None:
    r"""Write a multiplier's products into a file.

    The file appears whole or not at all. Of a symbolic link the target is written; devices and
    pipes are refused.

    Parameters
    ----------
    multiplier : Multiplier or str
        A multiplier or its id.
    path : path
        The file.
    format : str, optional
        Name of its format; the one whose own suffix it has when not given.
    index_order : {'pattern', 'offset'}
        Order of the rows and columns of a signed operand: by bit pattern (0..127, -128..-1) or by
        value (-128..127).
    operand_order : {'ab', 'ba'}
        Whether the activation (a) counts the rows, or the weight (b).
    overwrite : bool
        Whether a file that is there may be replaced.

    Raises
    ------
    InputError
        If the format is not known from the suffix or cannot hold this, or the file is there.
    TableFileError
        If it cannot be written.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "exact.txt")
    >>> write_table("exact:1s", path, index_order="offset")
    >>> from pathlib import Path
    >>> Path(path).read_text()
    '1 0\n0 0\n'
    """
    if isinstance(multiplier, str):
        from approxhub.registry.client import load

        multiplier = load(multiplier)
    path = Path(path)
    chosen = _chosen(path, format)
    write = _writer(chosen)
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    with about(path, "written"):
        target_of(path)
    if not overwrite and path.exists():
        raise InputError(f"{path} is there already; --force (Python: overwrite=True) replaces it")
    data = disassemble(multiplier, index_order=index_order, operand_order=operand_order)
    from approxhub.plugins.guard import guarded

    with (
        guarded(f"{path}: table format {chosen.name!r}"),
        about(path, "written"),
        replacing(path) as temporary,
    ):
        write(data, temporary)


def table_bytes(
    multiplier: Multiplier | str,
    format: str,
    *,
    index_order: str = "pattern",
    operand_order: str = "ab",
) -> bytes:
    r"""Return what a file of a multiplier's products would hold.

    Parameters
    ----------
    multiplier : Multiplier or str
        A multiplier or its id.
    format : str
        Name of the format: any that can be written, but for HDF5.
    index_order, operand_order : str
        As for :func:`write_table`.

    Raises
    ------
    InputError
        If the format cannot hold this, or is HDF5, which is read in a file only.
    TableFileError
        If the format cannot hold this table, or there is no place for a temporary file.

    Examples
    --------
    >>> table_bytes("exact:1u", "text")
    b'0 0\n0 1\n'
    """
    if isinstance(multiplier, str):
        from approxhub.registry.client import load

        multiplier = load(multiplier)
    chosen = format_named(format)
    write = _writer(chosen)
    if chosen.name in _HDF5:
        raise InputError(
            f"the format {chosen.name!r} is HDF5, which is read in a file only; name a file, or "
            "another format"
        )
    data = disassemble(multiplier, index_order=index_order, operand_order=operand_order)
    from approxhub.plugins.guard import guarded

    with (
        guarded(f"table format {chosen.name!r}"),
        about(Path("-"), "written"),
        tempfile.TemporaryDirectory(prefix="approxhub-") as folder,
    ):
        path = Path(folder, "table")
        write(data, path)
        return path.read_bytes()


def _writer(chosen: TableFormat) -> Callable[[TableData, Path], None]:
    if chosen.write is None:
        raise InputError(f"the format {chosen.name!r} can only be read; name another one")
    return chosen.write


def _chosen(path: Path, format: str | None) -> TableFormat:
    if format is not None:
        return format_named(format)
    writers = [f for f in all_formats() if f.write is not None]
    suffix = path.suffix.lower()
    own = [f for f in writers if suffix in f.suffixes[:1]]
    if len(own) == 1:
        return own[0]
    known = ", ".join(f"{f.name} ({f.suffixes[0]})" for f in writers if f.suffixes)
    what = "more than one format" if own else "no format"
    raise InputError(
        f"{path}: the suffix {suffix!r} is of {what}; name one with --format (Python: "
        f"format='...'): {known}"
    )
