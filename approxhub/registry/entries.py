"""Entries: what a source says about a multiplier before anybody has fetched it.

Imports numpy through the operand formats; never torch, h5py or requests.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from approxhub.multiplier import MAX_TABLE_BITS, Hardware, exact
from approxhub.operands import OperandFormat

__all__ = ["Entry"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One multiplier that a source knows.

    Parameters
    ----------
    id : str
        Full id without modifiers, e.g. ``'evoapproxlib:v1.1/mul8u_1JFF'``.
    a, b : OperandFormat
        Formats of the activation and the weight operand.
    table_sha256 : str or None
        Hash of its table; None where the source does not know it.
    hardware : Hardware
        Power, area and delay; empty for most families.
    printed : mapping of str to str
        Metrics as the source prints them, keyed as :meth:`approxhub.metrics.Metrics.to_json`.
    licence, citation, doi : str or None
        SPDX identifier, and the paper to cite.
    summary : str
        One line for a person.
    source_sha256, function : str or None
        Hash of the file that it is made of, and the C function in it; None where there is none.

    Examples
    --------
    >>> f = OperandFormat.parse("8u")
    >>> e = Entry(id="drum:8u/k=4", a=f, b=f, summary="DRUM, 4 leading bits")
    >>> e.source, e.name, e.table_sha256
    ('drum', 'k=4', None)
    """

    id: str
    a: OperandFormat
    b: OperandFormat
    table_sha256: str | None = None
    hardware: Hardware = Hardware()
    printed: Mapping[str, str] = field(default_factory=dict)
    licence: str | None = None
    citation: str | None = None
    doi: str | None = None
    summary: str = ""
    source_sha256: str | None = None
    function: str | None = None

    # Cut out of the id rather than parsed: a listing asks this of every entry.

    @property
    def source(self) -> str:
        """The part of the id before the colon."""
        return self.id.partition(":")[0]

    @property
    def path(self) -> str:
        """The part of the id after the colon."""
        return self.id.partition(":")[2]

    @property
    def release(self) -> str | None:
        """The part of the path before its last ``/``, if any."""
        return self.path.rpartition("/")[0] or None

    @property
    def name(self) -> str:
        """The part of the path after its last ``/``."""
        return self.path.rpartition("/")[2]

    @property
    def exact(self) -> bool | None:
        """Whether its products are exact; None where neither table hash nor printed errors tell."""
        if self.table_sha256 is not None and self.a.bits + self.b.bits <= MAX_TABLE_BITS:
            return self.table_sha256 == _exact_sha256(self.a, self.b)
        if any(Decimal(v) for v in self.printed.values()):
            return False
        return True if "ep_pct" in self.printed or self.source == "exact" else None


@functools.lru_cache(maxsize=32)
def _exact_sha256(a: OperandFormat, b: OperandFormat) -> str | None:
    return exact(a.bits, a.signed, b_bits=b.bits, b_signed=b.signed).table_sha256
