"""The energy reference: what an exact multiplier costs in a technology.

Imports the catalogue; uses neither the network nor the cache.
"""

from __future__ import annotations

from approxhub.operands import OperandFormat
from approxhub.registry.catalogue import entries

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
        and entry.exact
    ]
    return min(powers, default=None)
