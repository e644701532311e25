"""Gradients of an approximate product, and the shapes of products they work on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from approxhub.plugins import GradientInfo, host
from approxhub.plugins.guard import guarded

__all__ = ["Conv2dProduct", "Gradient", "LinearProduct", "Product", "StraightThrough"]


class Product(Protocol):
    """The shape of a sum of products; its two methods are linear in both arguments."""

    def grad_input(self, grad: Tensor, w: Tensor, x: Tensor) -> Tensor:
        """Gradient of the exact product with respect to the activations, of the shape of `x`."""

    def grad_weight(self, grad: Tensor, x: Tensor, w: Tensor) -> Tensor:
        """Gradient of the exact product with respect to the weights, of the shape of `w`."""


@dataclass(frozen=True, slots=True)
class LinearProduct:
    """``y = x @ w.T`` with ``x (M, K)`` and ``w (N, K)``."""

    def grad_input(self, grad: Tensor, w: Tensor, x: Tensor) -> Tensor:
        """``grad @ w``."""
        return grad @ w

    def grad_weight(self, grad: Tensor, x: Tensor, w: Tensor) -> Tensor:
        """``grad.T @ x``."""
        return grad.t() @ x


@dataclass(frozen=True, slots=True)
class Conv2dProduct:
    """A 2-d convolution; `padding` is left, right, top, bottom."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int

    def _backward(self, grad: Tensor, x: Tensor, w: Tensor, which: int) -> Tensor:
        left, right, top, bottom = self.padding
        even = left == right and top == bottom
        shape = x.shape
        if not even:
            x = F.pad(x, self.padding)
        found: Tensor = torch.ops.aten.convolution_backward(
            grad, x, w, None, self.stride, (top, left) if even else (0, 0), self.dilation,
            False, (0, 0), self.groups, (which == 0, which == 1, False),
        )[which]  # fmt: skip
        if which == 0 and not even:
            found = found[..., top : top + shape[2], left : left + shape[3]]
        return found

    def grad_input(self, grad: Tensor, w: Tensor, x: Tensor) -> Tensor:
        """Transposed convolution of the gradient with the weights."""
        return self._backward(grad, x, w, 0)

    def grad_weight(self, grad: Tensor, x: Tensor, w: Tensor) -> Tensor:
        """Correlation of the gradient with the activations."""
        return self._backward(grad, x, w, 1)


class Gradient(Protocol):
    """How the gradient of an approximate product is estimated."""

    def backward(
        self, grad: Tensor, x: Tensor, w: Tensor, product: Product, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients with respect to activations and weights.

        Parameters
        ----------
        grad : Tensor of float32
            Gradient with respect to the layer's product, before the bias.
        x, w : Tensor of float32
            Real values of the activation and weight codes.
        product : Product
            How they were multiplied.
        needs : (bool, bool)
            Which of the two gradients is wanted; None stands for the other.
        """


class StraightThrough:
    """The gradient of the exact product, as if the circuit made no error.

    Y. Bengio, N. Leonard, A. Courville, "Estimating or Propagating Gradients Through Stochastic
    Neurons for Conditional Computation", arXiv 1308.3432, 2013.
    """

    def backward(
        self, grad: Tensor, x: Tensor, w: Tensor, product: Product, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of the exact product; see :meth:`Gradient.backward`."""
        return (
            product.grad_input(grad, w, x) if needs[0] else None,
            product.grad_weight(grad, x, w) if needs[1] else None,
        )


def make_gradient(name: str) -> Gradient:
    """The gradient of that name; those that plug-ins bring too.

    Raises
    ------
    NotFoundError
        If none has that name.
    """
    info = host().get("approxhub_gradients", GradientInfo, name)
    with guarded(f"gradient {name!r}"):
        return info.load()


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """A context in which a type of device computes in the dtypes it is given."""
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


class ApproximateProduct(torch.autograd.Function):
    """Hands the result of the integer path on, with an estimated gradient behind it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, result: Tensor, gradient: Gradient, product: Product
    ) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.gradient, ctx.product = gradient, product
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        with without_autocast(x.device.type):  # backward may be called inside autocast
            found = ctx.gradient.backward(grads[0], x, w, ctx.product, needs)
        return (*found, None, None, None)
