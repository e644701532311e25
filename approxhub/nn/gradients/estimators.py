"""What a gradient of an approximate product is, the plainest one, and how autograd calls it.

Imports torch, the multiplier and the quantisers.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from approxhub.errors import PluginError
from approxhub.multiplier import Multiplier
from approxhub.nn.gradients.products import Product
from approxhub.operands import OperandFormat
from approxhub.quantization import Quantizer
from approxhub.reading import may_read

__all__ = [
    "ApproximateProduct",
    "Arithmetic",
    "Gradient",
    "Grid",
    "StraightThrough",
    "require_gradients",
    "without_autocast",
]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The real numbers that an operand's codes stand for: ``(code - zero_point) * scale``.

    A snapshot of a quantiser, which may have moved on before the backward pass.

    Parameters
    ----------
    scale : Tensor of float32
        Of shape (), or (channels,) along `axis`.
    zero_point : Tensor of int32
        As `scale`.
    axis : int or None
        Axis of the channels.
    format : OperandFormat
        The operand that the codes enter.
    affine : bool
        Whether there may be a zero point other than 0 at all.

    Examples
    --------
    >>> grid = Grid(torch.tensor(0.5), torch.tensor(3), None, OperandFormat(4, signed=True))
    >>> grid.codes(torch.tensor([0.0, -2.0])).tolist()
    [3, -1]
    >>> grid.patterns(torch.tensor([0.0, -2.0])).tolist()
    [3, 15]
    """

    scale: Tensor
    zero_point: Tensor
    axis: int | None
    format: OperandFormat
    affine: bool = True

    @classmethod
    def of(cls, quantizer: Quantizer, subtracted: bool = False) -> Grid:
        """Take a snapshot of a quantiser; its zero point may be `subtracted` from codes already."""
        zero = quantizer.zero_point
        return cls(
            quantizer.scale.clone(),
            torch.zeros_like(zero) if subtracted else zero.clone(),
            quantizer.axis,
            quantizer.code_range.format,
            quantizer.code_range.affine and not subtracted,
        )

    def along(self, t: Tensor, dims: int) -> Tensor:
        """A scale or zero point shaped to broadcast along the channel axis."""
        if self.axis is None:
            return t
        shape = [1] * dims
        shape[self.axis] = -1
        return t.reshape(shape)

    def codes(self, real: Tensor) -> Tensor:
        """Codes of numbers on the grid, int64; exactly those that gave them."""
        steps = torch.round(real / self.along(self.scale, real.dim()))
        return steps.to(torch.int64) + self.along(self.zero_point, real.dim())

    def patterns(self, real: Tensor) -> Tensor:
        """Bit patterns of those codes, 0 to ``2**bits - 1``: indices into a table."""
        return self.codes(real) & (self.format.size - 1)

    def carries_zero(self) -> bool:
        """Whether a zero point has to be corrected; where nobody may look, it might."""
        if not (self.affine and may_read(self.zero_point)):
            return self.affine
        return bool(self.zero_point.any())

    def zero_pattern(self) -> Tensor:
        """Bit pattern of the code of real zero, which is what padding holds."""
        return self.zero_point.to(torch.int64) & (self.format.size - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Arithmetic:
    """How codes were multiplied: the circuit, and what its operands' codes stand for.

    Parameters
    ----------
    multiplier : Multiplier
        The circuit with the wrapper of its mapping; the exact one in mode ``exact``.
    x, w : Grid
        Activations and weights.
    """

    multiplier: Multiplier
    x: Grid
    w: Grid


class Gradient(Protocol):
    """How the gradient of an approximate product is estimated."""

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        w: Tensor,
        product: Product,
        arithmetic: Arithmetic,
        needs: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients with respect to activations and weights.

        Parameters
        ----------
        grad : Tensor of float32
            Gradient with respect to the layer's product, before the bias.
        x, w : Tensor of float32
            Real values of the activation and weight codes.
        product : Product
            Which of them met.
        arithmetic : Arithmetic
            How each pair was multiplied.
        needs : (bool, bool)
            Which of the two gradients is wanted; None stands for the other.
        """


class StraightThrough:
    """The gradient of the exact product, as if the circuit made no error.

    Y. Bengio, N. Leonard, A. Courville, "Estimating or Propagating Gradients Through Stochastic
    Neurons for Conditional Computation", arXiv 1308.3432, 2013.
    """

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        w: Tensor,
        product: Product,
        arithmetic: Arithmetic,
        needs: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of the exact product; see :meth:`Gradient.backward`."""
        return (
            product.grad_input(grad, w, x) if needs[0] else None,
            product.grad_weight(grad, x, w) if needs[1] else None,
        )


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """A context in which a type of device computes in the dtypes it is given."""
    # Only where there is one to leave: an exported program that has such a context in it cannot be
    # loaded (torch 2.13).
    if device == "meta" or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def require_gradients(
    gradient: Gradient, found: Any, operands: tuple[Tensor, Tensor], needs: tuple[bool, bool]
) -> None:
    """Refuse what is not a pair of gradients, so that the fault is not looked for elsewhere.

    Raises
    ------
    PluginError
    """
    name = type(gradient).__name__
    if not isinstance(found, tuple) or len(found) != 2:
        raise PluginError(f"gradient {name} has to give two gradients, gave {found!r}")
    for which, t, of, needed in zip("xw", found, operands, needs, strict=True):
        if needed and (not isinstance(t, Tensor) or t.shape != of.shape):
            got = tuple(t.shape) if isinstance(t, Tensor) else repr(t)
            raise PluginError(
                f"gradient {name} has to give one of shape {tuple(of.shape)} for {which}, "
                f"gave {got}"
            )


class ApproximateProduct(torch.autograd.Function):
    """Hands the result of the integer path on, with an estimated gradient behind it."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        result: Tensor,
        gradient: Gradient,
        product: Product,
        arithmetic: Arithmetic,
    ) -> Tensor:
        """`result`, as it is."""
        ctx.save_for_backward(x, w)
        ctx.gradient, ctx.product, ctx.arithmetic = gradient, product, arithmetic
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """What the gradient gives for `x` and `w`."""
        x, w = ctx.saved_tensors
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        with without_autocast(x.device.type):  # backward may be called inside autocast
            found = ctx.gradient.backward(grads[0], x, w, ctx.product, ctx.arithmetic, needs)
        require_gradients(ctx.gradient, found, (x, w), needs)
        return (*found, None, None, None, None)
