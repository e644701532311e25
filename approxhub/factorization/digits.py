"""Signed digits to base 256: how many int8 numbers stand for one integer, and which.

A digit lies in -128..127, so every digit is an int8; an integer has one representation with the
fewest digits. Imports numpy only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["digit_count", "digit_planes", "nonzero_planes"]

Ints = npt.NDArray[Any]


def digit_count(low: int, high: int) -> int:
    """Digits that hold every integer from `low` to `high`: 0 for nothing but 0.

    Examples
    --------
    >>> [digit_count(-x, x) for x in (0, 1, 127, 128, 32639, 32640)]
    [0, 1, 1, 2, 2, 3]
    >>> digit_count(-128, 127)
    1
    """
    digits, least, most = 0, 0, 0
    while low < least or high > most:
        least, most = least * 256 - 128, most * 256 + 127
        digits += 1
    return digits


def digit_planes(values: npt.ArrayLike) -> list[npt.NDArray[np.int8]]:
    """Digits of integers, lowest first: ``values == sum(256**k * planes[k])``.

    Examples
    --------
    >>> [p.tolist() for p in digit_planes([5, -128, 255, 32639])]
    [[5, -128, -1, 127], [0, 0, 1, 127]]
    """
    rest = np.asarray(values, dtype=np.int64)
    planes = []
    while rest.any():
        digit = rest.astype(np.uint8).view(np.int8)  # the value modulo 256, in -128..127
        planes.append(digit)
        # Not (rest - digit) >> 8, which overflows at the very ends of int64.
        rest = (rest >> 8) + (digit < 0)
    return planes


def nonzero_planes(values: npt.ArrayLike) -> list[tuple[int, npt.NDArray[np.int8]]]:
    """Digit planes that are not all 0, each with its exponent of 256.

    Examples
    --------
    >>> [(k, p.tolist()) for k, p in nonzero_planes([256, -512])]
    [(1, [1, -2])]
    """
    return [(k, p) for k, p in enumerate(digit_planes(values)) if p.any()]
