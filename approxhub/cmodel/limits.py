"""Caps on what a C model may cost to read and to evaluate.

A model comes from a download, so its size, its loops and its memory are bounded here and
nowhere else. The largest circuit of EvoApproxLib needs an eighth of each or less.
This module imports nothing of the package.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LIMITS", "Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The caps; each one's excess is a :class:`~approxhub.errors.CModelError`.

    Parameters
    ----------
    source_bytes : int
        Length of the C text.
    nodes : int
        Nodes of the parsed tree.
    operations : int
        Operators, assignments, calls and reads evaluated for one block of operand pairs.
    iterations : int
        Loop iterations for one block of operand pairs.
    array_elements : int
        Elements of one array or one ``malloc``.
    array_bytes : int
        Bytes of all arrays that one evaluation creates.
    live_bytes : int
        Aimed-at memory of the intermediate values of one block; sets the size of a block.
    seconds : float
        Processor time for every 2**20 operand pairs that are evaluated, and for fewer.

    Examples
    --------
    >>> Limits(nodes=10).nodes
    10
    """

    source_bytes: int = 1 << 20
    nodes: int = 400_000
    operations: int = 4_000_000
    iterations: int = 4_000_000
    array_elements: int = 1 << 22
    array_bytes: int = 1 << 27
    live_bytes: int = 1 << 28
    seconds: float = 60.0


LIMITS = Limits()
