"""The backward pass through a multiplier too, as on hardware that trains.

Imports torch, the operators and the integer convolutions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from approxhub.errors import InputError
from approxhub.functional import conv_transpose_codes, padding_sums
from approxhub.multiplier import IntArray, Multiplier
from approxhub.nn.gradients.estimators import Arithmetic
from approxhub.nn.gradients.products import (
    BatchedProduct,
    ConvProduct,
    ConvTransposeProduct,
    LinearProduct,
    Product,
    exchanged,
)
from approxhub.operands import MAX_BITS, OperandFormat
from approxhub.ops import accumulator_dtype, code_dtype, lut_conv, lut_gemm, register

__all__ = ["ApproximateBackward"]

ROUNDINGS = ("stochastic", "nearest")


@dataclass(frozen=True)
class ApproximateBackward:
    """Both gradient products through the layer's own multiplier, on codes of the gradient.

    The gradient is quantised symmetrically, with one scale for the tensor,
    ``q = round(g / s)`` with ``s = max|g| / limit``. Activations and weights keep the operand that
    they have in the forward pass, and the gradient takes the other one's place:

        dL/dx = sum T[q(g), w]        the gradient is the left operand, a
        dL/dw = sum T[x, q(g)]        the gradient is the right operand, b

    Where that operand is unsigned, the magnitude of the gradient enters the circuit and its sign
    joins the product. Zero points are corrected after the products, exactly, as in the forward
    pass; weight scales per channel go into the gradient before it is quantised, for the sum over
    the channels has one scale. The padding of a convolution is a code like any other.

    Stochastic rounding, ``floor(g / s + u)`` with ``u`` uniform over [0, 1), is without bias:
    S. Gupta et al., "Deep Learning with Limited Numerical Precision", ICML 2015, arXiv 1502.02551.

    Parameters
    ----------
    rounding : {'stochastic', 'nearest'}
        How the gradient is rounded; stochastic rounding draws from torch's generator.
    bits : int
        Width of the gradient's signed codes at most, 2 or more; the operand may be narrower.

    Raises
    ------
    InputError
        If an option is none of these; in the backward pass, if the layer's product is of a kind
        that a plug-in brought.

    Examples
    --------
    >>> import approxhub as ah
    >>> layer = ah.nn.Linear(3, 2, multiplier="drum:8s/k=4")
    >>> layer.set_gradient("approximate-backward(rounding=nearest)")
    """

    rounding: str = "stochastic"
    bits: int = MAX_BITS

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            raise InputError(
                f"rounding must be one of {', '.join(ROUNDINGS)}, got {self.rounding!r}"
            )
        if self.bits < 2:
            raise InputError(f"a gradient's codes have 2 bits or more, got {self.bits}")

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        w: Tensor,
        product: Product,
        arithmetic: Arithmetic,
        needs: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        """Integer sums of products, made real; see :meth:`Gradient.backward`."""
        m, x_grid, w_grid = arithmetic.multiplier, arithmetic.x, arithmetic.w
        of_x = of_w = None
        if needs[0]:
            m_x = with_signed_operand(m, "a")
            scaled = grad if w_grid.axis is None else grad * _per_channel(w_grid.scale, grad)
            codes, scale = self._quantized(scaled, m_x.a)
            sums = grad_input_codes(product, codes, _narrow(w_grid.codes(w), m.b), x, m_x)
            zeros = w_grid.along(w_grid.zero_point, w.dim()).expand_as(w)
            if w_grid.carries_zero():
                shift = product.grad_input(codes.double(), zeros.double(), x.double())
                sums = sums - shift.round().to(torch.int64)
            of_x = sums.to(torch.float32) * scale
            of_x = of_x * w_grid.scale if w_grid.axis is None else of_x
        if needs[1]:
            m_w = with_signed_operand(m, "b")
            codes, scale = self._quantized(grad, m_w.b)
            zero = x_grid.zero_point
            sums = grad_weight_codes(product, codes, _narrow(x_grid.codes(x), m.a), w, zero, m_w)
            if x_grid.carries_zero():
                zeros = zero.double()
                shift = product.grad_weight(
                    codes.double(), zeros.expand_as(x), w.double(), pad=zeros
                )
                sums = sums - shift.round().to(torch.int64)
            of_w = sums.to(torch.float32) * (scale * x_grid.scale)
        return of_x, of_w

    def _quantized(self, grad: Tensor, f: OperandFormat) -> tuple[Tensor, Tensor]:
        """Codes of a gradient, and their scale."""
        limit = min(f.max, (1 << (self.bits - 1)) - 1)
        largest = grad.abs().amax() if grad.numel() else grad.new_zeros(())
        scale = (largest / limit).clamp(min=torch.finfo(torch.float32).tiny)
        steps = grad / scale
        if self.rounding == "nearest":
            rounded = steps.round()
        else:
            rounded = (steps + torch.rand_like(steps)).floor()
        return _narrow(rounded.clamp(-limit, limit), f), scale


def _narrow(codes: Tensor, f: OperandFormat) -> Tensor:
    return codes.to(code_dtype(f))


def _per_channel(scale: Tensor, grad: Tensor) -> Tensor:
    """Scales of output channels, which are the second dimension of a product's result."""
    return scale.reshape(-1, *[1] * (grad.dim() - 2))


@functools.lru_cache(maxsize=64)
def with_signed_operand(m: Multiplier, operand: str) -> Multiplier:
    """A circuit one of whose operands takes signed codes.

    Parameters
    ----------
    m : Multiplier
    operand : {'a', 'b'}
        Where it is unsigned, the magnitude of a code of one bit more enters the circuit, and the
        sign joins the product.

    Examples
    --------
    >>> import approxhub as ah
    >>> m = with_signed_operand(ah.load("drum:8u/k=3"), "b")
    >>> str(m.b), m(100, -200) == -ah.load("drum:8u/k=3")(100, 200)
    ('9s', True)
    """
    f = m.a if operand == "a" else m.b
    if f.signed:
        return m
    wide = OperandFormat(min(f.bits + 1, MAX_BITS), signed=True)

    def products(a: IntArray, b: IntArray) -> IntArray:
        signed = a if operand == "a" else b
        magnitude = np.minimum(np.abs(signed), f.max)
        given = (magnitude, b) if operand == "a" else (a, magnitude)
        return np.where(signed < 0, -1, 1) * m.evaluate(*given)

    return Multiplier.from_function(
        products,
        name=f"signed-{operand}",
        a=wide if operand == "a" else m.a,
        b=wide if operand == "b" else m.b,
        fingerprint=f"{m.identity} with a signed operand {operand}",
    )


# --- the two products, on codes -------------------------------------------------------


@functools.singledispatch
def grad_input_codes(product: Product, grad: Tensor, w: Tensor, x: Tensor, m: Multiplier) -> Tensor:
    """Sums ``T[grad, w]`` for each activation, exactly.

    Parameters
    ----------
    product : Product
        Which of them meet.
    grad, w : Tensor of integers
        Codes of the gradient, operand a, and of the weights, operand b.
    x : Tensor
        Gives the shape of the result.
    m : Multiplier

    Returns
    -------
    Tensor of int64
    """
    raise _unknown(product)


@functools.singledispatch
def grad_weight_codes(
    product: Product, grad: Tensor, x: Tensor, w: Tensor, pad: Tensor, m: Multiplier
) -> Tensor:
    """Sums ``T[x, grad]`` for each weight, exactly.

    Parameters
    ----------
    product : Product
        Which of them meet.
    grad, x : Tensor of integers
        Codes of the gradient, operand b, and of the activations, operand a.
    w : Tensor
        Gives the shape of the result.
    pad : Tensor of one integer
        The code that padding has.
    m : Multiplier

    Returns
    -------
    Tensor of int64
    """
    raise _unknown(product)


def _unknown(product: Product) -> InputError:
    return InputError(
        f"gradient 'approximate-backward' cannot run the backward pass of a "
        f"{type(product).__name__} on integers; choose another gradient for this layer"
    )


def _gemm(a: Tensor, b: Tensor, m: Multiplier) -> Tensor:
    sums: Tensor = lut_gemm(a, b, register(m), accumulator_dtype(m, b.shape[0]), trusted=True)
    return sums.to(torch.int64)


@grad_input_codes.register
def _(product: LinearProduct, grad: Tensor, w: Tensor, x: Tensor, m: Multiplier) -> Tensor:
    return _gemm(grad, w, m)


@grad_weight_codes.register
def _(
    product: LinearProduct, grad: Tensor, x: Tensor, w: Tensor, pad: Tensor, m: Multiplier
) -> Tensor:
    return _gemm(x.t(), grad, m).t()


def _batched_gemm(a: Tensor, b: Tensor, m: Multiplier) -> Tensor:
    lead = a.shape[:-2]
    pairs = zip(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]), strict=True)
    sums = [_gemm(p, q, m) for p, q in pairs]
    empty = a.new_zeros((0, a.shape[-2], b.shape[-1]), dtype=torch.int64)
    return (torch.stack(sums) if sums else empty).reshape(*lead, a.shape[-2], b.shape[-1])


@grad_input_codes.register
def _(product: BatchedProduct, grad: Tensor, w: Tensor, x: Tensor, m: Multiplier) -> Tensor:
    return _batched_gemm(grad, w.mT, m)


@grad_weight_codes.register
def _(
    product: BatchedProduct, grad: Tensor, x: Tensor, w: Tensor, pad: Tensor, m: Multiplier
) -> Tensor:
    return _batched_gemm(x.mT, grad, m)


@grad_input_codes.register
def _(product: ConvProduct, grad: Tensor, w: Tensor, x: Tensor, m: Multiplier) -> Tensor:
    """A transposed convolution over the padded image, from which the image is cut."""
    dims = x.dim() - 2
    before, behind = _sides(product)
    padded = [n + p + q for n, p, q in zip(x.shape[2:], before, behind, strict=True)]
    extra = [
        n - (g - 1) * s - d * (k - 1) - 1
        for n, g, s, d, k in zip(
            padded, grad.shape[2:], product.stride, product.dilation, w.shape[2:], strict=True
        )
    ]
    terms = w.shape[0] // product.groups * w.shape[2:].numel()
    sums = conv_transpose_codes(
        grad, w, register(m), accumulator_dtype(m, terms), stride=product.stride,
        padding=[0] * dims, output_padding=extra, groups=product.groups, dilation=product.dilation,
    )  # fmt: skip
    inside = [slice(p, p + n) for p, n in zip(before, x.shape[2:], strict=True)]
    everything = [slice(None)] * 2
    return sums[tuple(everything + inside)].to(torch.int64)


def _sides(product: ConvProduct) -> tuple[list[int], list[int]]:
    """Padding before and behind each dimension, the first one first."""
    return list(reversed(product.padding[::2])), list(reversed(product.padding[1::2]))


@grad_weight_codes.register
def _(
    product: ConvProduct, grad: Tensor, x: Tensor, w: Tensor, pad: Tensor, m: Multiplier
) -> Tensor:
    """A convolution of images with gradients, in which the batch is the channels' dimension."""
    sides = [s for pair in zip(*_sides(product), strict=True) for s in pair]
    code = None if product.skip else pad
    found = [
        _correlated(images, kernels, code, m, product.dilation, sides, product.stride)
        for images, kernels in zip(
            x.chunk(product.groups, 1), grad.chunk(product.groups, 1), strict=True
        )
    ]
    return _cut(torch.cat([part.transpose(0, 1) for part in found]), w)


@grad_input_codes.register
def _(product: ConvTransposeProduct, grad: Tensor, w: Tensor, x: Tensor, m: Multiplier) -> Tensor:
    """A convolution; what it would read around the gradient is left out."""
    weight = exchanged(w, product.groups)
    handle, dtype = register(m), accumulator_dtype(m, weight[0].numel())
    sides = [p for p in product.padding for _ in range(2)]
    pad = torch.zeros((), dtype=torch.int64, device=grad.device)
    sums: Tensor = lut_conv(
        grad, weight, pad, handle, product.stride, sides, product.dilation, product.groups, dtype,
        True,
    )  # fmt: skip
    sums = sums - padding_sums(
        tuple(grad.shape[2:]), weight, pad, handle, dtype, product.stride, sides, product.dilation
    )
    return _cut(sums.to(torch.int64), x)


@grad_weight_codes.register
def _(
    product: ConvTransposeProduct, grad: Tensor, x: Tensor, w: Tensor, pad: Tensor, m: Multiplier
) -> Tensor:
    """A convolution of gradients with images, so the circuit's operands are exchanged."""
    sides = [p for p in product.padding for _ in range(2)]
    found = [
        _correlated(kernels, images, None, _swapped(m), product.dilation, sides, product.stride)
        for images, kernels in zip(
            x.chunk(product.groups, 1), grad.chunk(product.groups, 1), strict=True
        )
    ]
    return _cut(torch.cat(found), w)


@functools.lru_cache(maxsize=64)
def _swapped(m: Multiplier) -> Multiplier:
    """A circuit with its operands exchanged; by hand, for one behind a wrapper has no ``+swap``."""
    return Multiplier.from_function(
        lambda a, b: m.evaluate(b, a),
        name="exchanged",
        a=m.b,
        b=m.a,
        fingerprint=f"{m.identity} with its operands exchanged",
    )


def _correlated(
    images: Tensor,
    kernels: Tensor,
    pad: Tensor | None,
    m: Multiplier,
    stride: Sequence[int],
    sides: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Sums over batch and positions, (channels of images, channels of kernels, ...).

    Without `pad`, products with padding are left out.
    """
    images, kernels = images.transpose(0, 1), kernels.transpose(0, 1)
    handle, dtype = register(m), accumulator_dtype(m, kernels[0].numel())
    code = torch.zeros((), dtype=torch.int64, device=images.device) if pad is None else pad
    sums: Tensor = lut_conv(
        images, kernels, code, handle, stride, sides, dilation, 1, dtype, trusted=True
    )
    if pad is None and any(sides):
        size = tuple(images.shape[2:])
        sums = sums - padding_sums(size, kernels, code, handle, dtype, stride, sides, dilation)
    return sums.to(torch.int64)


def _cut(sums: Tensor, like: Tensor) -> Tensor:
    """Cut off what lies behind the size of a tensor."""
    return sums[tuple(slice(0, n) for n in like.shape)]
