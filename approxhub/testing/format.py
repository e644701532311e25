"""The contract of a table format, clause by clause, as a pytest class to subclass.

Files are written and read as the core does it, so what the core adds (orders, signs, the move to
a file's own name) is in the test. Imports numpy, the formats and pytest; never torch.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from approxhub.errors import ApproxHubError, PluginError
from approxhub.formats import all_formats, read_table, write_table
from approxhub.formats.assembly import INDEX_ORDERS, OPERAND_ORDERS, disassemble
from approxhub.formats.reading import HEAD
from approxhub.multiplier import Multiplier, format_pair
from approxhub.plugins import TableFormat
from approxhub.testing.contract import broken, lopsided, offered, pytest

__all__ = ["FormatConformance"]

Sample = tuple[Path, Multiplier]

# Non-commutative, of both signs and mixed widths; the first is the one to look at closely.
PAIRS = (
    ("4u", "3u"), ("4s", "3s"), ("3s", "4u"), ("2u", "5s"), ("1u", "1s"),
    ("8u", "8u"), ("8s", "8s"),
)  # fmt: skip
CUTS = (0.0, 0.1, 1 / 3, 0.5, 0.75, 0.9)
FLIPS = 48

_HOLDS = "what is written is read back as the same table, in both orders of index and operands"
_SNIFF = "sniff() tells a file of its own by the first 65,536 bytes, and refuses what is another's"
_NAMED = "a file that is damaged is refused with an error of ApproxHub's that says where"
_ONLY = "write() writes the one file it is given, under just that name"


class FormatConformance:
    """All that a table format must hold, as tests.

    Subclass it in a test module, and say how the format is made. What `write` refuses to hold,
    with a TableFileError, is skipped, so read the skips. A format that can only be read has to
    give files of its own: override `make_files`.

    Examples
    --------
    >>> from approxhub.formats import all_formats
    >>> class TestNpy(FormatConformance):
    ...     def make_format(self):
    ...         return {f.name: f for f in all_formats()}["npy"]
    """

    shares: ClassVar[tuple[str, ...]] = ()
    """Names of formats whose files look like its own, and that a suffix has to tell apart."""

    def make_format(self) -> TableFormat:
        """Return the format to test."""
        raise NotImplementedError(
            f"{type(self).__name__} must say how its format is made: def make_format(self)"
        )

    def make_files(self, folder: Path) -> list[Sample]:
        """Make files of this format in `folder`, each with the multiplier that it holds.

        Their rows are to be activations, by bit patterns. The ones that it writes itself when not
        overridden.
        """
        if self.make_format().write is None:
            pytest.skip("it can only be read: override make_files to test that")
        found = []
        for a, b in PAIRS:
            with contextlib.suppress(_Refused):
                found.append((self._write(folder, lopsided(a, b)), lopsided(a, b)))
        return found

    # --- tools of the tests -----------------------------------------------------------

    @contextlib.contextmanager
    def _known(self) -> Iterator[str]:
        """The format as a plug-in of this process, under a name of its own; that name."""
        format = self.make_format()
        name = f"conformance-{format.name}"
        with offered("approxhub_formats", replace(format, name=name)):
            yield name

    def _write(
        self, folder: Path, m: Multiplier, index: str = "pattern", order: str = "ab"
    ) -> Path:
        """Write a file as the core does; `_Refused` where the format cannot hold the table."""
        format = self.make_format()
        suffix = format.suffixes[0] if format.suffixes else ".table"
        path = folder / f"{format_pair(m.a, m.b)}-{index}-{order}{suffix}"
        with self._known() as name:
            try:
                write_table(m, path, format=name, index_order=index, operand_order=order)
            except PluginError as error:
                broken("write() raises nothing but errors of ApproxHub's", str(error))
            except ApproxHubError as error:
                raise _Refused(str(error)) from error
        return path

    def _read(
        self, path: Path, m: Multiplier, index: str = "pattern", order: str = "ab"
    ) -> Multiplier:
        with self._known() as name:
            return read_table(
                path, format=name, operands=(m.a, m.b), index_order=index, operand_order=order
            )

    def _sample(self, folder: Path) -> Sample:
        files = self.make_files(folder)
        if not files:
            broken("a format holds some table", "refused to write every one")
        return files[0]

    def _refuses(self, path: Path, m: Multiplier, what: str) -> None:
        """Read a file that is damaged; a table that it cannot be, or another error, is a fault."""
        try:
            found = self._read(path, m)
        except PluginError as error:
            broken(_NAMED, f"failed on {what}: {error}")
        except ApproxHubError:
            return
        broken(_NAMED, f"read {what} as {found!r}")

    # --- what it says of itself ---------------------------------------------------------

    def test_its_record(self) -> None:
        """A format is a TableFormat with a name, small suffixes with a dot, and read or write."""
        format = self.make_format()
        clause = self.test_its_record.__doc__ or ""
        if not isinstance(format, TableFormat):
            broken(clause, f"is {format!r}")
        if not format.name or format.name.split() != [format.name]:
            broken(clause, f"is called {format.name!r}")
        for suffix in format.suffixes:
            if not suffix.startswith(".") or suffix != suffix.lower() or len(suffix) < 2:
                broken(clause, f"has the suffix {suffix!r}")
        if format.read is None and format.write is None:
            broken(clause, "has neither")

    # --- round trips --------------------------------------------------------------------

    @pytest.mark.parametrize("order", OPERAND_ORDERS)
    @pytest.mark.parametrize("index", INDEX_ORDERS)
    @pytest.mark.parametrize("pair", PAIRS, ids="x".join)
    def test_round_trip(
        self, pair: tuple[str, str], index: str, order: str, tmp_path: Path
    ) -> None:
        """What is written is read back: both signs, mixed widths, both orders of each kind."""
        format = self.make_format()
        if format.write is None or format.read is None:
            pytest.skip("it does not both read and write")
        m = lopsided(*pair)
        try:
            path = self._write(tmp_path, m, index, order)
        except _Refused as error:
            pytest.skip(f"it cannot hold {format_pair(m.a, m.b)}: {error}")
        try:
            found = self._read(path, m, index, order)
        except ApproxHubError as error:
            broken(_HOLDS, f"cannot read what it wrote: {error}")
        if found != m:
            where = np.argwhere(found.table != m.table)[0]
            transposed = m.a == m.b and (found.table == m.table.T).all()
            hint = " (rows and columns are exchanged)" if transposed else ""
            broken(
                _HOLDS,
                f"wrote {format_pair(m.a, m.b)} (index {index}, operands {order}), and read "
                f"another table: T[{where[0]}, {where[1]}] is {found.table[tuple(where)]}, not "
                f"{m.table[tuple(where)]}{hint}",
            )

    def test_it_reads_its_files(self, tmp_path: Path) -> None:
        """Every file of its own is read as the table that it holds."""
        if self.make_format().read is None:
            pytest.skip("it can only be written")
        for path, m in self.make_files(tmp_path):
            if self._read(path, m) != m:
                broken("a file is read as the table that it holds", f"read {path.name} otherwise")

    def test_it_holds_something(self, tmp_path: Path) -> None:
        """A format that refuses every table is no format."""
        self._sample(tmp_path)

    # --- telling files apart --------------------------------------------------------------

    def test_sniff_knows_its_own(self, tmp_path: Path) -> None:
        """sniff() is True for every file of its own."""
        sniff = self.make_format().sniff
        for path, _ in self.make_files(tmp_path):
            if sniff(path.read_bytes()[:HEAD]) is not True:
                broken(_SNIFF, f"does not know {path.name}, a file of its own")

    def test_sniff_refuses_others(self, tmp_path: Path) -> None:
        """sniff() is False for files of the other formats."""
        mine = self.make_format()
        for other in all_formats():
            if other.name in (mine.name, *self.shares) or other.write is None:
                continue
            for pair in PAIRS[:4]:
                path = tmp_path / f"{'x'.join(pair)}-{other.name}"
                write_table(lopsided(*pair), path, format=other.name)
                if mine.sniff(path.read_bytes()[:HEAD]):
                    broken(
                        _SNIFF,
                        f"claims a file of {other.name!r}; if only a suffix tells the two apart, "
                        f"say shares = ({other.name!r},)",
                    )

    def test_sniff_refuses_what_is_no_table(self) -> None:
        """sniff() is False for an empty file and for prose, and never raises."""
        sniff = self.make_format().sniff
        for head in (b"", b"\n\n", b"Dear reader,\n\nthis is no table.\n"):
            if sniff(head) is not False:
                broken(_SNIFF, f"claims {head!r}")

    def test_sniff_looks_at_anything(self, tmp_path: Path) -> None:
        """sniff() returns a bool for any bytes, of its own files cut anywhere too."""
        sniff = self.make_format().sniff
        path, _ = self._sample(tmp_path)
        whole, rng = path.read_bytes(), random.Random(0)
        heads = [whole[:n] for n in range(0, min(len(whole), 200))]
        heads += [rng.randbytes(n) for n in (1, 2, 3, 64, 4096)]
        for head in heads:
            try:
                answer = sniff(head)
            except Exception as error:
                broken("sniff() never raises", f"raised {error!r} for {head[:40]!r}")
            if not isinstance(answer, bool):
                broken("sniff() returns True or False", f"returned {answer!r}")

    # --- damage ---------------------------------------------------------------------------

    @pytest.mark.parametrize("part", CUTS)
    def test_cut_files_are_refused(self, part: float, tmp_path: Path) -> None:
        """A file that is cut off is refused with a named error."""
        path, m = self._sample(tmp_path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(part * len(whole))])
        self._refuses(path, m, f"the first {100 * part:.0f} % of a file")

    def test_garbage_is_refused(self, tmp_path: Path) -> None:
        """Bytes of no meaning, also behind its own beginning, are refused with a named error."""
        path, m = self._sample(tmp_path)
        head, rng = path.read_bytes()[:16], random.Random(1)
        for garbage in (bytes(977), b"\xff" * 977, rng.randbytes(977), b"no table\n" * 31):
            for start in (b"", head[:4], head):
                path.write_bytes(start + garbage)
                self._refuses(path, m, f"{len(start)} good bytes and then {garbage[:8]!r}...")

    def test_damage_anywhere(self, tmp_path: Path) -> None:
        """Whichever byte is wrong, reading ends with a table or with a named error."""
        path, m = self._sample(tmp_path)
        whole = path.read_bytes()
        for place in random.Random(2).sample(range(len(whole)), min(FLIPS, len(whole))):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xA5]) + whole[place + 1 :])
            try:
                self._read(path, m)
            except PluginError as error:
                broken(_NAMED, f"failed where byte {place} was wrong: {error}")
            except ApproxHubError:
                pass

    # --- writing --------------------------------------------------------------------------

    def test_it_writes_where_it_is_told(self, tmp_path: Path) -> None:
        """write() makes the file it is given, under any name, and no other."""
        format = self.make_format()
        if format.write is None:
            pytest.skip("it can only be read")
        _, m = self._sample(tmp_path)
        folder = tmp_path / "alone"
        folder.mkdir()
        # Such are the names that the core gives, before it moves the file to its place.
        path = folder / ".table.hidden.tmp"
        format.write(disassemble(m, index_order="pattern", operand_order="ab"), path)
        found = sorted(p.name for p in folder.iterdir())
        if found != [path.name]:
            broken(_ONLY, f"was given {path.name!r} and left {found}")

    def test_it_writes_the_same_bytes(self, tmp_path: Path) -> None:
        """The same table gives the same bytes, and is not changed by being written."""
        format = self.make_format()
        if format.write is None:
            pytest.skip("it can only be read")
        _, m = self._sample(tmp_path)
        data = disassemble(m, index_order="pattern", operand_order="ab")
        before = data.grid.copy()
        for name in ("one", "two"):
            format.write(data, tmp_path / name)
        if (data.grid != before).any():
            broken("write() leaves what it is given unchanged", "changed the entries")
        if (tmp_path / "one").read_bytes() != (tmp_path / "two").read_bytes():
            broken("the same table gives the same bytes", "wrote two different files")

    def test_a_refused_table_leaves_no_file(self, tmp_path: Path) -> None:
        """Where a table cannot be held, the folder is as it was."""
        if self.make_format().write is None:
            pytest.skip("it can only be read")
        wide = Multiplier.from_function(
            lambda a, b: a * b, name="wide", a="16u", b="16u", fingerprint="approxhub.testing 1"
        )
        try:
            self._write(tmp_path, wide)
        except _Refused:
            if list(tmp_path.iterdir()):
                broken("what cannot be written leaves no file", "left one")
        else:
            pytest.skip("it holds circuits that are too wide for a table")


class _Refused(Exception):
    """A format said that it cannot hold a table."""
