"""Reading a table file: find its format, read it, apply what the caller says.

Asks the plug-in host for formats; what a plug-in's does wrong names the plug-in's format.
Imports the multiplier and the assembly.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from approxhub.errors import (
    ApproxHubError,
    InputError,
    MultiplierIdError,
    NotFoundError,
    TableFileError,
)
from approxhub.formats.about import about
from approxhub.formats.assembly import (
    INDEX_ORDERS,
    OPERAND_ORDERS,
    assemble,
    check_orders,
    file_side,
)
from approxhub.formats.data import MAX_FILE_BYTES, Operands, TableData
from approxhub.ids import MultiplierId
from approxhub.multiplier import Multiplier, parse_format_pair
from approxhub.operands import OperandFormat
from approxhub.plugins.descriptors import TableFormat

__all__ = ["all_formats", "format_named", "format_of", "read_data", "read_table", "table_of"]

HEAD = 1 << 16
_HOOK = "approxhub_formats"

Pathlike = str | os.PathLike[str]


def read_table(
    path: Pathlike,
    *,
    format: str | None = None,
    operands: str | Operands | None = None,
    index_order: str | None = None,
    operand_order: str | None = None,
    name: str | None = None,
) -> Multiplier:
    r"""Read a product table from a file.

    Parameters
    ----------
    path : path
        The file.
    format : str, optional
        Name of its format; found by its suffix and its first bytes when not given.
    operands : str or pair of OperandFormat, optional
        Formats of activation and weight, e.g. ``'8s'`` or ``'8ux4s'``. Needed unless the file
        says it: whether operands are signed is never guessed.
    index_order : {'pattern', 'offset'}, optional
        Order of the rows and columns of a signed operand: by bit pattern (0..127, -128..-1) or by
        value (-128..127). Needed for signed operands unless the file says it.
    operand_order : {'ab', 'ba'}, optional
        Whether the activation (a) counts the rows, or the weight (b). ``'ab'`` unless the file
        says otherwise.
    name : str, optional
        Its name; the file's name without its suffix when not given.

    Returns
    -------
    Multiplier
        With the id ``local:<name>``, and the file's name and hash as provenance.

    Raises
    ------
    NotFoundError
        If there is no such file.
    InputError
        If something has to be said, or no or more than one format matches.
    TableFileError, CModelError, VerificationError
        If the file does not hold what it should; the message names the line or place.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "tiny.txt")
    >>> with open(path, "w") as file:
    ...     _ = file.write("4 -2\n-1 0\n")
    >>> m = read_table(path, operands="1s", index_order="offset")
    >>> m.id, m(-1, 0), m(0, -1)
    ('local:tiny', -2, -1)
    """
    data = read_data(path, format=format, operands=operands, operand_order=operand_order)
    return table_of(
        data,
        path,
        operands=operands,
        index_order=index_order,
        operand_order=operand_order,
        name=name,
    )


def read_data(
    path: Pathlike,
    *,
    format: str | None = None,
    operands: str | Operands | None = None,
    operand_order: str | None = None,
) -> TableData:
    """Read what a file says, and nothing more.

    Parameters
    ----------
    path, format, operands, operand_order
        As for :func:`read_table`; some formats cannot be read without `operands`.

    Raises
    ------
    ApproxHubError
        As :func:`read_table` does.
    """
    path = Path(path)
    check_orders(None, operand_order)
    _check_file(path)
    chosen = format_named(format) if format is not None else format_of(path)
    if chosen.read is None:
        raise InputError(f"{path}: the format {chosen.name!r} can only be written")
    given = file_side(_pair(operands), operand_order or "ab")
    from approxhub.plugins.guard import guarded

    with guarded(f"{path}: table format {chosen.name!r}"), about(path, "read"):
        data = chosen.read(path, given)
        _check_types(data)
    return replace(data, format=chosen.name)


def _check_types(data: Any) -> None:
    """Refuse what a plug-in's reader may give, before it fails where nobody knows whose it is."""
    if not isinstance(data, TableData):
        raise TypeError(f"read() must return TableData, got {type(data).__name__}")
    for name in ("entries", "rows", "columns"):
        value = getattr(data, name)
        if value is not None and not isinstance(value, np.ndarray):
            raise TypeError(
                f"read() must return numpy arrays, and {name!r} is of type {type(value).__name__}"
            )
    sides = data.operands
    if sides is not None and not (
        isinstance(sides, tuple)
        and len(sides) == 2
        and all(isinstance(side, OperandFormat) for side in sides)
    ):
        raise TypeError(f"read() must return two OperandFormats as 'operands', got {sides!r}")
    for name, known in (("index_order", INDEX_ORDERS), ("operand_order", OPERAND_ORDERS)):
        if getattr(data, name) not in (None, *known):
            raise ValueError(f"read() returned {getattr(data, name)!r} as {name!r}")


def table_of(
    data: TableData,
    path: Pathlike,
    *,
    operands: str | Operands | None = None,
    index_order: str | None = None,
    operand_order: str | None = None,
    name: str | None = None,
) -> Multiplier:
    """Make a multiplier of what a file says and what the caller adds.

    Parameters
    ----------
    data : TableData
        What :func:`read_data` gave.
    path, operands, index_order, operand_order, name
        As for :func:`read_table`.

    Raises
    ------
    ApproxHubError
        As :func:`read_table` does.
    """
    path = Path(path)
    with about(path, "read"):
        (a, b), table, circuit = assemble(
            data, operands=_pair(operands), index_order=index_order, operand_order=operand_order
        )
        provenance = replace(data.provenance, path=path.name, source_sha256=_sha256(path))
        return Multiplier(
            _local(path.stem if name is None else name),
            a,
            b,
            table=table,
            circuit=circuit,
            hardware=data.hardware,
            provenance=provenance,
        )


def all_formats() -> list[TableFormat]:
    """Formats that ApproxHub and its plug-ins bring, sorted by name."""
    from approxhub.plugins import host

    return host().all(_HOOK, TableFormat)


def format_named(name: str) -> TableFormat:
    """Return the format called `name`.

    Raises
    ------
    NotFoundError, PluginError
        If there is none, or its plug-in has failed.
    """
    from approxhub.plugins import host

    return host().get(_HOOK, TableFormat, name)


def format_of(path: Path) -> TableFormat:
    """Return the one format that a file matches, by its suffix and its first bytes.

    Raises
    ------
    TableFileError, InputError
        If there is none, or more than one.
    """
    with about(path, "read"), path.open("rb") as file:
        head = file.read(HEAD)
        if not head:
            raise TableFileError("the file is empty")
    readable = [f for f in all_formats() if f.read is not None]
    suffix = path.suffix.lower()
    matching = [f for f in readable if _sniffs(f, head)]
    called = [f.name for f in readable if suffix in f.suffixes]
    if called:  # what is called .npy is not read as something else without being told to
        looks = matching
        matching = [f for f in looks if f.name in called]
        if not matching and looks:
            raise TableFileError(
                f"{path} is called {suffix}, but is not {_either(called)}; it looks like "
                f"{_either(f.name for f in looks)}: name its format with --format (Python: "
                "format='...') if you know better"
            )
        if not matching:
            raise TableFileError(
                f"{path} is called {suffix}, but cannot be read as "
                + " or ".join(
                    f"{f.name!r} ({_why_not(f, path)})" for f in readable if f.name in called
                )
                + "; name another format with --format (Python: format='...') if you know better"
            )
    if len(matching) == 1:
        return matching[0]
    if not matching:
        raise TableFileError(
            f"{path} is of no format that can be told from its bytes; name it with --format "
            f"(Python: format='...'): {', '.join(f.name for f in readable)}"
        )
    raise InputError(
        f"{path} may be {_either(f.name for f in matching)}: name its format with --format "
        "(Python: format='...')"
    )


def _sniffs(format: TableFormat, head: bytes) -> bool:
    """Ask a format; one that raises does not match, which is said."""
    try:
        return bool(format.sniff(head))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plug-in may even exit
        from approxhub.plugins.host import cause_of

        warnings.warn(
            f"table format {format.name!r} failed to look at a file: {cause_of(error)}",
            stacklevel=1,
        )
        return False


def _why_not(format: TableFormat, path: Path) -> str:
    """What a format's own reader says of a file that does not look like it."""
    from approxhub.plugins.guard import guarded

    assert format.read is not None
    try:
        with guarded(f"table format {format.name!r}"), about(path, "read"):
            format.read(path, None)
    except ApproxHubError as error:
        return str(error).removeprefix(f"{path}: ")
    return "its first bytes do not look like it"


def _either(names: Iterable[str]) -> str:
    return " or ".join(repr(n) for n in names)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder; read its files one by one")
    if not path.exists():
        raise NotFoundError(f"{path}: no such file")
    if not path.is_file():  # a pipe or a device would have no end
        raise InputError(f"{path} is no regular file")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise TableFileError(
            f"{path} has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read, and the largest "
            "table needs no more"
        )


def _pair(operands: str | Operands | None) -> Operands | None:
    return parse_format_pair(operands) if isinstance(operands, str) else operands


def _local(name: str) -> MultiplierId:
    try:
        parsed = MultiplierId.parse(f"local:{name}")
    except MultiplierIdError:
        parsed = None
    if parsed is None or parsed.modifiers:
        raise InputError(
            f"{name!r} cannot name a multiplier; give a name of letters, digits and . , = _ - / "
            "with --name (Python: name='...')"
        )
    return parsed


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
