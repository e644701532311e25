"""Shapes of sums of products, and their two backward products.

Each is bilinear in both arguments: that is all that a gradient may rely on. So a gradient that
recodes operands, number by number, works for every product. Imports torch alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "BatchedProduct",
    "ConvProduct",
    "ConvTransposeProduct",
    "LinearProduct",
    "Product",
    "exchanged",
    "flattened",
    "restored",
]


class Product(Protocol):
    """The shape of a sum of products; its backward products are linear in both arguments."""

    def terms(self, w: Tensor) -> int:
        """Products in each sum; where some sums have fewer, the most."""

    def grad_input(self, grad: Tensor, w: Tensor, x: Tensor) -> Tensor:
        """Gradient of the exact product with respect to the activations, of the shape of `x`.

        Of `x`, only shape and dtype matter.
        """

    def grad_weight(self, grad: Tensor, x: Tensor, w: Tensor, pad: Tensor | None = None) -> Tensor:
        """Gradient of the exact product with respect to the weights, of the shape of `w`.

        Of `w`, only shape and dtype matter. `pad` is what padding holds in place of `x`, a
        tensor of one number; 0 when not given.
        """


@dataclass(frozen=True, slots=True)
class LinearProduct:
    """``y = x @ w.T`` with ``x (M, K)`` and ``w (N, K)``."""

    def terms(self, w: Tensor) -> int:
        """Weights of an output channel."""
        return w.shape[1:].numel()

    def grad_input(self, grad: Tensor, w: Tensor, x: Tensor) -> Tensor:
        """``grad @ w``."""
        return grad @ w

    def grad_weight(self, grad: Tensor, x: Tensor, w: Tensor, pad: Tensor | None = None) -> Tensor:
        """``grad.T @ x``."""
        return grad.t() @ x


@dataclass(frozen=True, slots=True)
class BatchedProduct:
    """``y = x @ w`` with ``x (..., M, K)`` and ``w (..., K, N)``, no dimension broadcast."""

    def terms(self, w: Tensor) -> int:
        """The inner dimension."""
        return w.shape[-2]

    def grad_input(self, grad: Tensor, w: Tensor, x: Tensor) -> Tensor:
        """``grad @ w.T``."""
        return grad @ w.mT

    def grad_weight(self, grad: Tensor, x: Tensor, w: Tensor, pad: Tensor | None = None) -> Tensor:
        """``x.T @ grad``."""
        return x.mT @ grad


@dataclass(frozen=True, slots=True)
class ConvProduct:
    """A convolution over one to three dimensions.

    Parameters
    ----------
    stride, dilation : tuple of int
        One for each dimension of the image.
    padding : tuple of int
        Before and behind each dimension, the last dimension first, as
        :func:`torch.nn.functional.pad` takes it: left, right, top, bottom for two.
    groups : int
    skip : bool
        Whether there are no products with padding.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    skip: bool = False

    def terms(self, w: Tensor) -> int:
        """Weights of an output channel."""
        return w.shape[1:].numel()

    def _backward(self, grad: Tensor, x: Tensor, w: Tensor, padded: bool, which: int) -> Tensor:
        """One output of torch's own backward pass; `padded` says that padding is in `x`."""
        before = tuple(reversed(self.padding[::2]))
        found: Tensor = torch.ops.aten.convolution_backward(
            grad, x, w, None, self.stride, (0,) * len(before) if padded else before,
            self.dilation, False, (0,) * len(before), self.groups, (which == 0, which == 1, False),
        )[which]  # fmt: skip
        return found

    def _even(self) -> bool:
        return self.padding[::2] == self.padding[1::2]

    def grad_input(self, grad: Tensor, w: Tensor, x: Tensor) -> Tensor:
        """Transposed convolution of the gradient with the weights."""
        if self._even():
            return self._backward(grad, x, w, False, 0)
        found = self._backward(grad, F.pad(x, self.padding), w, True, 0)
        for d, (before, size) in enumerate(
            zip(reversed(self.padding[::2]), x.shape[2:], strict=True)
        ):
            found = found.narrow(2 + d, before, size)
        return found

    def grad_weight(self, grad: Tensor, x: Tensor, w: Tensor, pad: Tensor | None = None) -> Tensor:
        """Correlation of the gradient with the activations."""
        pad = None if self.skip else pad
        if pad is None and self._even():
            return self._backward(grad, x, w, False, 1)
        padded = F.pad(x, self.padding)
        if pad is not None and any(self.padding):
            outside = F.pad(torch.zeros_like(x[:1, :1]), self.padding, value=1.0)
            padded = padded + outside * pad
        return self._backward(grad, padded, w, True, 1)


@dataclass(frozen=True, slots=True)
class ConvTransposeProduct:
    """A transposed convolution over one to three dimensions, ``w (O, C / groups, ...)``.

    Its weight has the outputs first, as that of every product; see :func:`exchanged`.

    The zeros between and around its inputs are no operands, so nothing of it is padding.

    Parameters
    ----------
    stride, padding, output_padding, dilation : tuple of int
        One for each dimension of the image, as in :class:`torch.nn.ConvTranspose2d`.
    groups : int
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def terms(self, w: Tensor) -> int:
        """Weights of an output channel."""
        return w.shape[1:].numel()

    def _backward(self, grad: Tensor, x: Tensor, w: Tensor, which: int) -> Tensor:
        found: Tensor = torch.ops.aten.convolution_backward(
            grad, x, exchanged(w, self.groups), None, self.stride, self.padding, self.dilation,
            True, self.output_padding, self.groups, (which == 0, which == 1, False),
        )[which]  # fmt: skip
        return found

    def grad_input(self, grad: Tensor, w: Tensor, x: Tensor) -> Tensor:
        """Convolution of the gradient with the weights."""
        return self._backward(grad, x, w, 0)

    def grad_weight(self, grad: Tensor, x: Tensor, w: Tensor, pad: Tensor | None = None) -> Tensor:
        """Correlation of the activations with the gradient."""
        return exchanged(self._backward(grad, x, w, 1), self.groups)


def exchanged(w: Tensor, groups: int) -> Tensor:
    """A transposed convolution's weight, (C, O / groups, ...), as (O, C / groups, ...), or back."""
    split = w.reshape(groups, len(w) // groups, *w.shape[1:]).transpose(1, 2)
    return split.reshape(groups * w.shape[1], len(w) // groups, *w.shape[2:])


def flattened(product: Product) -> tuple[str, list[int]] | None:
    """A product as the name of its kind and numbers, for operators take no objects.

    Returns
    -------
    str
    list of int
        What :func:`restored` makes the product of again. None for a kind that a plug-in brought.

    Examples
    --------
    >>> flattened(ConvProduct((1,), (2, 3), (1,), 4))
    ('ConvProduct', [1, 2, 3, 1, 4, 0])
    """
    kind = type(product)
    if kind is LinearProduct or kind is BatchedProduct:
        return kind.__name__, []
    if isinstance(product, ConvProduct):
        p = product
        return "ConvProduct", [*p.stride, *p.padding, *p.dilation, p.groups, int(p.skip)]
    if isinstance(product, ConvTransposeProduct):
        t = product
        sizes = [*t.stride, *t.padding, *t.output_padding, *t.dilation, t.groups]
        return "ConvTransposeProduct", sizes
    return None


def restored(kind: str, sizes: Sequence[int]) -> Product:
    """The product that :func:`flattened` gave a name and numbers for.

    Examples
    --------
    >>> restored("ConvProduct", [1, 2, 3, 1, 4, 0])
    ConvProduct(stride=(1,), padding=(2, 3), dilation=(1,), groups=4, skip=False)
    """
    if kind == "LinearProduct":
        return LinearProduct()
    if kind == "BatchedProduct":
        return BatchedProduct()
    dims, n = len(sizes) // 4, tuple(sizes)
    first, last = n[:dims], n[3 * dims : 4 * dims]
    if kind == "ConvProduct":
        return ConvProduct(first, n[dims : 3 * dims], last, n[-2], bool(n[-1]))
    middle = n[dims : 2 * dims], n[2 * dims : 3 * dims]
    return ConvTransposeProduct(first, *middle, last, n[-1])
