"""The energy reference: what an exact multiplier costs in a technology.

Imports the catalogue; uses neither the network nor the cache.
"""

from __future__ import annotations

import functools
from decimal import Decimal

from approxhub.multiplier import MAX_TABLE_BITS, exact
from approxhub.operands import OperandFormat
from approxhub.registry.catalogue import entries
from approxhub.registry.entries import Entry

__all__ = ["energy_reference"]


def energy_reference(a: OperandFormat, b: OperandFormat, technology: str | None) -> float | None:
    """Power of the exact multiplier of two operand formats in a technology.

    Parameters
    ----------
    a, b : OperandFormat
        Operand formats.
    technology : str or None
        As in :class:`~approxhub.multiplier.Hardware`.

    Returns
    -------
    float or None
        Milliwatts; None where no source lists an exact circuit of this kind with its power.

    Notes
    -----
    A listed circuit counts as exact if its table is the exact one, or, where the source gives no
    hash, if it prints errors and all of them are zero. Of several the lowest power is taken:
    whoever wants exact products would choose that one, and it is the choice that flatters
    approximate circuits least.

    Examples
    --------
    >>> energy_reference(OperandFormat(8, False), OperandFormat(8, False), "no such process")
    """
    if technology is None:
        return None
    powers = [
        entry.hardware.power_mw
        for entry in entries()
        if entry.hardware.technology == technology
        and (entry.a, entry.b) == (a, b)
        and entry.hardware.power_mw is not None
        and _is_exact(entry)
    ]
    return min(powers, default=None)


def _is_exact(entry: Entry) -> bool:
    if entry.table_sha256 is not None:
        return entry.table_sha256 == _exact_sha256(entry.a, entry.b)
    return "ep_pct" in entry.printed and not any(Decimal(v) for v in entry.printed.values())


@functools.lru_cache(maxsize=32)
def _exact_sha256(a: OperandFormat, b: OperandFormat) -> str | None:
    if a.bits + b.bits > MAX_TABLE_BITS:
        return None
    return exact(a.bits, a.signed, b_bits=b.bits, b_signed=b.signed).table_sha256
