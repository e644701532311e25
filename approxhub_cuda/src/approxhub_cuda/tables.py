"""What the kernels need of a multiplier, on one device. Imports torch and numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from approxhub.factorization import FactorizationError, factorize_cached
from approxhub.factorization.digits import nonzero_planes
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat
from approxhub_cuda.native import MOST_PASSES, Pass

__all__ = ["CardTables", "Recodings", "lay_table"]

MAX_COST = 128  # byte products for one product, beyond which the lookup is taken to be quicker
_TOGETHER = 4  # planes of a pass
_SIGNED_A, _SIGNED_B = 1, 2

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Recodings:
    """The factored form of a table, as the matrix units take it.

    Parameters
    ----------
    left, right : Tensor of int32, (passes, 256)
        What a code of either operand stands for: a byte for each plane of a pass.
    passes : tuple of Pass
        Weights and planes.
    """

    left: Tensor
    right: Tensor
    passes: tuple[Pass, ...]

    @property
    def planes(self) -> int:
        """Byte products for one product of the multiplier."""
        return sum(int(p.planes) for p in self.passes)


@dataclass(frozen=True, slots=True)
class CardTables:
    """A multiplier on a card.

    Parameters
    ----------
    multiplier : Multiplier
    image : Tensor
        Its table, a line for each code of the weight operand: 16-bit entries less `bias`, or
        32-bit ones where 16 bits do not hold their span. Operands of up to 8 bits are indexed by
        bytes, so that it has 256 x 256 entries then.
    bias : int
    a_bits, b_bits : int
        Bits of a code that index it.
    recodings : Recodings or None
        Its factored form, where that can pay.
    """

    multiplier: Multiplier
    image: Tensor
    bias: int
    a_bits: int
    b_bits: int
    recodings: Recodings | None

    @property
    def by_bytes(self) -> bool:
        """Whether codes are bytes; 16-bit words otherwise."""
        return max(self.multiplier.a.bits, self.multiplier.b.bits) <= 8

    @property
    def narrow(self) -> bool:
        """Whether entries have 16 bits."""
        return self.image.element_size() == 2


def _by_byte(values: npt.NDArray[np.generic], f: OperandFormat) -> npt.NDArray[np.generic]:
    """Rows for bit patterns as rows for the low bytes of values; those that no value has are 0."""
    out = np.zeros((256, *values.shape[1:]), dtype=values.dtype)
    out[f.values() & 255] = values
    return out


def lay_table(m: Multiplier, device: torch.device) -> CardTables:
    """Bring the table of a multiplier onto a device."""
    low, high = m.extremes
    narrow = high - low < 1 << 16
    table = m.table.astype(np.int64) - (low if narrow else 0)
    bits = (m.a.bits, m.b.bits)
    if max(bits) <= 8:
        table = _by_byte(_by_byte(table, m.a).T, m.b).T
        bits = (8, 8)
    image = np.ascontiguousarray(table.T, dtype=np.uint16 if narrow else np.int32)
    return CardTables(
        m, torch.from_numpy(image).to(device), low if narrow else 0, *bits, _recodings(m, device)
    )


def _recodings(m: Multiplier, device: torch.device) -> Recodings | None:
    """The factored form of a table of bytes, or None if it is costly."""
    products = _products(m) if max(m.a.bits, m.b.bits) <= 8 else None
    if products is None:
        return None
    passes: list[Pass] = []
    words: tuple[list[Ints], list[Ints]] = [], []
    for weight in sorted({p[0] for p in products}):
        alike = [p for p in products if p[0] == weight]
        for i in range(0, len(alike), _TOGETHER):
            some = alike[i : i + _TOGETHER]
            signs = sum(_signs(x, y) << 2 * q for q, (_, x, y) in enumerate(some))
            passes.append(Pass(weight, len(some), signs))
            words[0].append(_packed([x for _, x, _ in some], m.a))
            words[1].append(_packed([y for _, _, y in some], m.b))
    if len(passes) > MOST_PASSES:
        return None
    left, right = (
        torch.from_numpy(np.ascontiguousarray(side, dtype=np.uint32).view(np.int32)).to(device)
        for side in words
    )
    return Recodings(left, right, tuple(passes))


def _packed(planes: list[Ints], f: OperandFormat) -> Ints:
    """A word for each byte, with one byte of each plane, the first one lowest."""
    word = np.zeros(256, dtype=np.int64)
    for q, plane in enumerate(planes):
        word |= (_by_byte(plane, f).astype(np.int64) & 255) << 8 * q
    return word


def _signs(x: Ints, y: Ints) -> int:
    return _SIGNED_A * bool(x.min() < 0) + _SIGNED_B * bool(y.min() < 0)


def _products(m: Multiplier) -> list[tuple[int, Ints, Ints]] | None:
    """Weighted products of two tables of bytes whose sum is the table, or None if it is costly."""
    with_exact = m.is_exact
    found: list[tuple[int, Ints, Ints]] = []
    if not with_exact:
        try:
            factors = factorize_cached(m, max_cost=MAX_COST)
        except FactorizationError:
            return None
        with_exact = factors.with_exact
        for u, v in zip(factors.u.T, factors.v, strict=True):
            found += [(i * j, x, y) for i, x in _bytes(u) for j, y in _bytes(v)]
    if with_exact:
        found.append((1, m.a.values(), m.b.values()))
    if not found:  # a table of nothing but zeros
        found.append((1, np.zeros(m.a.size, np.int64), np.zeros(m.b.size, np.int64)))
    return found


def _bytes(factor: npt.NDArray[np.generic]) -> list[tuple[int, Ints]]:
    """A factor as weighted tables of bytes: itself if it is one, signed or not, else its digits."""
    values = factor.astype(np.int64)
    if values.min() >= 0 and values.max() <= 255:
        return [(1, values)] if values.any() else []
    return [(256**k, digit.astype(np.int64)) for k, digit in nonzero_planes(values)]
