"""Gradients that compiled code calls as one operator, and does not trace.

What a gradient does may be anything: look tables up, factorise them at first use, run the circuit.
In a compiled backward pass it runs as it always does, so its bits are those of eager mode whatever
the compiler. An operator takes tensors, numbers and strings: here a layer's objects become those,
and objects again. Imports torch, the operators and the other gradients.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from approxhub.errors import InputError
from approxhub.nn.gradients.estimators import (
    Arithmetic,
    Gradient,
    Grid,
    StraightThrough,
    require_gradients,
)
from approxhub.nn.gradients.products import Product, flattened, restored
from approxhub.operands import OperandFormat
from approxhub.ops import as_operator, multiplier_of

__all__ = ["UntracedGradient", "compilable"]

_numbers = itertools.count()
_known: weakref.WeakValueDictionary[str, UntracedGradient] = weakref.WeakValueDictionary()


class UntracedGradient:
    """Another gradient behind an operator, for code that is being compiled.

    Parameters
    ----------
    gradient : Gradient
        Any.

    Attributes
    ----------
    handle : str
        Its name in this process, for as long as somebody holds this object.
    """

    def __init__(self, gradient: Gradient) -> None:
        self.gradient = gradient
        self.handle = str(next(_numbers))
        _known[self.handle] = self

    def __reduce__(self) -> tuple[Any, ...]:
        # Elsewhere, and for a copy, the handle is another one.
        return UntracedGradient, (self.gradient,)

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        w: Tensor,
        product: Product,
        arithmetic: Arithmetic,
        needs: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        """What the other gives; see :meth:`Gradient.backward`.

        The product of a plug-in cannot be handed to an operator, and its gradient is traced.
        """
        flat = flattened(product)
        if flat is None:
            return self.gradient.backward(grad, x, w, product, arithmetic, needs)
        by_x, by_w = arithmetic.x, arithmetic.w
        of_x, of_w = product_gradients(
            grad, x, w, by_x.scale, by_x.zero_point, by_w.scale, by_w.zero_point,
            [*_flat_grid(by_x), *_flat_grid(by_w)], *flat, arithmetic.multiplier.identity,
            self.handle, list(needs),
        )  # fmt: skip
        return of_x if needs[0] else None, of_w if needs[1] else None


def compilable(gradient: Gradient) -> Gradient:
    """The same gradient for code that is being compiled, in which it breaks no graph."""
    # Torch's own products, which a compiler may fuse, and no cache.
    return gradient if type(gradient) is StraightThrough else UntracedGradient(gradient)


def _flat_grid(grid: Grid) -> tuple[int, ...]:
    has_axis, f = grid.axis is not None, grid.format
    return int(has_axis), grid.axis or 0, f.bits, int(f.signed), int(grid.affine)


def _grid(scale: Tensor, zero_point: Tensor, flat: Sequence[int]) -> Grid:
    has_axis, axis, bits, signed, affine = flat
    f = OperandFormat(bits, signed=bool(signed))
    return Grid(scale, zero_point, axis if has_axis else None, f, bool(affine))


def _fake_gradients(
    grad: Tensor, x: Tensor, w: Tensor, x_scale: Tensor, x_zero: Tensor, w_scale: Tensor,
    w_zero: Tensor, grids: Sequence[int], kind: str, sizes: Sequence[int], multiplier: str,
    gradient: str, needs: Sequence[bool],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    of_x, of_w = (
        t.new_empty(t.shape if need else (0,)) for t, need in zip((x, w), needs, strict=True)
    )
    return of_x, of_w


# A gradient may draw from torch's generator: the like of it is not done once for two.
@as_operator(_fake_gradients, tags=(torch.Tag.nondeterministic_seeded,))
def product_gradients(
    grad: Tensor, x: Tensor, w: Tensor, x_scale: Tensor, x_zero: Tensor, w_scale: Tensor,
    w_zero: Tensor, grids: Sequence[int], kind: str, sizes: Sequence[int], multiplier: str,
    gradient: str, needs: Sequence[bool],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Both gradients of a product, by handles of what :meth:`Gradient.backward` takes.

    One that is not wanted is empty.
    """
    found = _known.get(gradient)
    if found is None:
        raise InputError(
            "the layer whose backward pass this is no longer exists, nor its gradient; keep the "
            "compiled model until its last backward pass"
        )
    half = len(grids) // 2
    arithmetic = Arithmetic(
        multiplier_of(multiplier),
        _grid(x_scale, x_zero, grids[:half]),
        _grid(w_scale, w_zero, grids[half:]),
    )
    taken = (grad, x, w, x_scale, x_zero, w_scale, w_zero)
    # As in a backward pass: autograd is off already where it calls this, but not in every compiler.
    with torch.no_grad():
        both = found.gradient.backward(
            grad, x, w, restored(kind, sizes), arithmetic, (needs[0], needs[1])
        )
    require_gradients(found.gradient, both, (x, w), (needs[0], needs[1]))
    of_x, of_w = (
        of.new_empty((0,)) if t is None else _own(t.to(of.dtype), taken)
        for t, of in zip(both, (x, w), strict=True)
    )
    return of_x, of_w


def _own(found: Tensor, taken: tuple[Tensor, ...]) -> Tensor:
    """A result as an operator has to give it: dense, and in no memory of its operands."""
    found = found.contiguous()
    memory = found.untyped_storage().data_ptr()
    shared = any(t.untyped_storage().data_ptr() == memory for t in taken)
    return found.clone() if shared else found
