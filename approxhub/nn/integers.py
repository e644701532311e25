"""Layers on integers alone: codes in, codes out, and no real number on the way.

What :func:`approxhub.to_integers` makes of a network consists of these. Each is written as
hardware does it: products, sums, one multiplication by a mantissa and one shift. Imports torch,
the quantisers and the integer sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approxhub.errors import InputError, OperandRangeError
from approxhub.functional import window_sums
from approxhub.multiplier import Multiplier
from approxhub.nn.gradients.products import Product
from approxhub.nn.sums import Multiplication, channel_terms, corrected, sum_products
from approxhub.ops import code_dtype, register
from approxhub.quantization import CodeRange, FixedPoint, Quantizer

__all__ = [
    "CodeGrid",
    "IntegerClamp",
    "IntegerConcatenation",
    "IntegerLayer",
    "IntegerLookup",
    "IntegerMaxPool",
    "IntegerMean",
    "IntegerPool",
    "IntegerRequantize",
    "IntegerSum",
]


@dataclass(frozen=True, slots=True)
class CodeGrid:
    """The codes of a tensor, and the real numbers that they stand for.

    ``(code - zero_point) * scale``.

    Parameters
    ----------
    scale : float
        A float32 number.
    zero_point : int
    codes : CodeRange
        Smallest and largest code, and the operand that they enter.

    Examples
    --------
    >>> from approxhub import OperandFormat
    >>> grid = CodeGrid(0.5, 3, CodeRange.full(OperandFormat(4, signed=False)))
    >>> grid.quantize(torch.tensor([-9.0, 0.0, 1.0])).tolist()
    [0, 3, 5]
    >>> grid.dequantize(torch.tensor([0, 3, 5])).tolist()
    [-1.5, 0.0, 1.0]
    """

    scale: float
    zero_point: int
    codes: CodeRange

    @classmethod
    def of(cls, quantizer: Quantizer) -> CodeGrid:
        """That of a quantiser with one scale."""
        return cls(float(quantizer.scale), int(quantizer.zero_point), quantizer.code_range)

    @property
    def dtype(self) -> torch.dtype:
        """The smallest type that holds the codes."""
        return code_dtype(self.codes.format)

    def quantize(self, x: Tensor) -> Tensor:
        """Codes of real numbers: ``clamp(round_half_even(x / scale) + zero_point)``."""
        scale = torch.tensor(self.scale, dtype=torch.float32, device=x.device)
        steps = torch.round(x.to(torch.float32) / scale) + self.zero_point
        return steps.clamp(self.codes.qmin, self.codes.qmax).to(self.dtype)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Real numbers of codes, float32."""
        scale = torch.tensor(self.scale, dtype=torch.float32, device=codes.device)
        return (codes.to(torch.int64) - self.zero_point).to(torch.float32) * scale

    def every(self) -> Tensor:
        """All codes, in order, int64."""
        return torch.arange(self.codes.qmin, self.codes.qmax + 1)

    def narrow(self, steps: Tensor) -> Tensor:
        """Steps from real zero as codes: the zero point added, held within the range."""
        codes = (steps + self.zero_point).clamp(self.codes.qmin, self.codes.qmax)
        return codes.to(self.dtype)

    def refuse_others(self, codes: Tensor) -> None:
        """Refuse a tensor that does not hold codes of this grid.

        Raises
        ------
        InputError
            If it is not of integers.
        OperandRangeError
            If a code is outside the range.
        """
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise InputError(
                f"an integer network takes codes, got {codes.dtype}; quantise real numbers with "
                "its method quantize"
            )
        if codes.numel():
            low, high = (int(v) for v in torch.aminmax(codes))
            if low < self.codes.qmin or high > self.codes.qmax:
                raise OperandRangeError(
                    f"code {low if low < self.codes.qmin else high} is outside of "
                    f"{self.codes.qmin}..{self.codes.qmax}"
                )

    def __str__(self) -> str:
        return f"{self.codes.qmin}..{self.codes.qmax}, zero point {self.zero_point}"


class _Rescaled(nn.Module):
    """What ends in a multiplication by mantissas and a shift."""

    mantissa: Tensor
    shift: Tensor

    def _rescale_by(self, factor: Tensor) -> None:
        found = FixedPoint.of(factor)
        self.register_buffer("mantissa", found.mantissa)
        self.register_buffer("shift", found.shift)

    def _rescaled(self, x: Tensor, channel_dim: int = -1) -> Tensor:
        return FixedPoint(self.mantissa, self.shift).multiply(x, channel_dim)


class IntegerLayer(_Rescaled):
    """Products through a multiplier, their sums, an integer bias, and codes again.

    Parameters
    ----------
    product : Product
        Which codes meet; a linear layer's, a convolution's or a transposed convolution's.
    multiplication : Multiplication
        How operands are multiplied, and the zero points that they carry.
    weight : Tensor of integers
        Operands: codes, or their differences to a zero point.
    bias : Tensor of int32, (outputs,), or None
    factor : Tensor of float64, () or (outputs,)
        One unit of the sums, in scales of the output.
    before, grid : CodeGrid
        Of the input, and of the output.
    subtract : bool
        Whether the zero point of the input is subtracted before the multiplier.
    pad : tuple of int, optional
        Copies of the image's own codes that it is padded with first, as
        :func:`torch.nn.functional.pad` takes them.
    pad_mode : str
        How they are copied.
    """

    weight: Tensor
    bias: Tensor
    w_zero: Tensor

    def __init__(
        self,
        product: Product,
        multiplication: Multiplication,
        weight: Tensor,
        bias: Tensor | None,
        factor: Tensor,
        before: CodeGrid,
        grid: CodeGrid,
        *,
        subtract: bool = False,
        pad: tuple[int, ...] | None = None,
        pad_mode: str = "zeros",
    ) -> None:
        super().__init__()
        self.product, self.before, self.grid = product, before, grid
        self.subtract, self.pad, self.pad_mode = subtract, pad, pad_mode
        self.multiplier = multiplication.multiplier
        self._exact: Multiplier | None = None
        self._carry = (multiplication.x_zero is not None, multiplication.w_zero is not None)
        self._handles = (multiplication.handle, multiplication.exact_handle)
        self.register_buffer("weight", weight)
        none = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
        self.register_buffer("bias", none if bias is None else bias)
        zero = torch.zeros((), dtype=torch.int64, device=weight.device)
        given = multiplication.w_zero
        self.register_buffer("w_zero", zero if given is None else given.to(torch.int64).clone())
        self._rescale_by(factor)

    def keep(self, exact: Multiplier) -> IntegerLayer:
        """Hold on to the exact multiplier whose handle is used."""
        self._exact = exact
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for m in (self.multiplier, self._exact):
            if m is not None:
                register(m)

    def forward(self, x: Tensor) -> Tensor:
        """Codes of the input, of any leading dimensions, to codes of the output."""
        dims = self.weight.dim() - 2
        whole = x if dims and x.dim() == dims + 2 else x.reshape(-1, x.shape[-1])
        if dims and x.dim() != dims + 2:
            whole = x.unsqueeze(0)
        if self.pad is not None:
            whole = F.pad(whole, self.pad, mode=self.pad_mode)
        if self.subtract:
            whole = (whole.to(torch.int32) - self.before.zero_point).to(x.dtype)
        z_x = torch.tensor(self.before.zero_point, device=x.device)
        by = Multiplication(
            self.multiplier, *self._handles,
            z_x.to(torch.int32) if self._carry[0] else None,
            self.w_zero if self._carry[1] else None,
        )  # fmt: skip
        sums = sum_products(self.product, whole, self.weight, by)
        channel_dim = 1
        terms = channel_terms(sums, z_x, self.w_zero, len(self.weight)) + self.bias
        total = corrected(sums, terms, self.w_zero, channel_dim)
        codes = self.grid.narrow(self._rescaled(total, channel_dim))
        if not dims:
            return codes.reshape(*x.shape[:-1], codes.shape[-1])
        return codes if x.dim() == dims + 2 else codes.squeeze(0)

    def extra_repr(self) -> str:
        """Weight, multiplier and codes."""
        return f"{tuple(self.weight.shape)}, {self.multiplier.id}, {self.grid}"


class IntegerRequantize(_Rescaled):
    """Codes of one grid to codes of another."""

    def __init__(self, before: CodeGrid, grid: CodeGrid) -> None:
        super().__init__()
        self.before, self.grid = before, grid
        self._rescale_by(torch.tensor(before.scale / grid.scale, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Rescale."""
        return self.grid.narrow(self._rescaled(x.to(torch.int64) - self.before.zero_point))

    def extra_repr(self) -> str:
        """Codes."""
        return f"{self.before} to {self.grid}"


class IntegerClamp(nn.Module):
    """Codes held within limits: ReLU is from the zero point on."""

    def __init__(self, low: int | None, high: int | None) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        """Clamp."""
        return x.clamp(self.low, self.high)

    def extra_repr(self) -> str:
        """Limits."""
        return f"{self.low}, {self.high}"


class IntegerLookup(nn.Module):
    """A function of single numbers: a table with a code for each code."""

    table: Tensor

    def __init__(
        self, function: Callable[[Tensor], Tensor], before: CodeGrid, grid: CodeGrid
    ) -> None:
        super().__init__()
        self.before = before
        found = function(before.dequantize(before.every()))
        self.register_buffer("table", grid.quantize(found))

    def forward(self, x: Tensor) -> Tensor:
        """Look up."""
        return self.table[x.to(torch.int64) - self.before.codes.qmin]

    def extra_repr(self) -> str:
        """Size."""
        return f"{len(self.table)} codes"


class IntegerSum(nn.Module):
    """A sum of tensors of codes, each with a grid of its own, rounded once.

    ``(sum_i (q_i - z_i) * m_i + 2^(shift - 1)) >> shift``, with one shift for all.
    """

    def __init__(
        self, before: Sequence[CodeGrid], grid: CodeGrid, signs: Sequence[float] = (1, 1)
    ) -> None:
        super().__init__()
        self.before, self.grid = tuple(before), grid
        factors = [g.scale / grid.scale * s for g, s in zip(before, signs, strict=True)]
        largest = max(map(abs, factors))
        self.shift = int(FixedPoint.of(torch.tensor(largest, dtype=torch.float64)).shift)
        self.mantissas = tuple(round(math.ldexp(f, self.shift)) for f in factors)

    def forward(self, *x: Tensor) -> Tensor:
        """Add up."""
        total: Any = 1 << (self.shift - 1)
        for codes, before, mantissa in zip(x, self.before, self.mantissas, strict=True):
            total = total + (codes.to(torch.int64) - before.zero_point) * mantissa
        return self.grid.narrow(total >> self.shift)

    def extra_repr(self) -> str:
        """Mantissas and shift."""
        return f"{self.mantissas} >> {self.shift}, {self.grid}"


class IntegerConcatenation(nn.Module):
    """Tensors of codes next to each other, on one grid."""

    def __init__(self, before: Sequence[CodeGrid], grid: CodeGrid, dim: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            nn.Identity() if g == grid else IntegerRequantize(g, grid) for g in before
        )
        self.dim = dim

    def forward(self, *x: Tensor) -> Tensor:
        """Rescale where needed, and concatenate."""
        return torch.cat([part(t) for part, t in zip(self.parts, x, strict=True)], self.dim)


class IntegerMaxPool(nn.Module):
    """The largest code in each window."""

    def __init__(self, dims: int, options: dict[str, Any]) -> None:
        super().__init__()
        self.dims, self.options = dims, options

    def forward(self, x: Tensor) -> Tensor:
        """Pool."""
        if self.dims != 1:
            pool = F.max_pool2d if self.dims == 2 else F.max_pool3d
            y: Tensor = pool(x, **self.options)
            return y
        # torch has it for integers in two dimensions and more.
        flat: dict[str, Any] = {
            key: (1 - (key == "padding"), value) if isinstance(value, int) else value
            for key, value in self.options.items()
            if not isinstance(value, bool)
        }
        y = F.max_pool2d(x.unsqueeze(-2), ceil_mode=self.options["ceil_mode"], **flat)
        return y.squeeze(-2)

    def extra_repr(self) -> str:
        """Options."""
        return ", ".join(f"{k}={v}" for k, v in self.options.items())


class IntegerPool(_Rescaled):
    """The mean in each window: its sum, times a mantissa, and a shift."""

    def __init__(
        self,
        before: CodeGrid,
        grid: CodeGrid,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        divisor: int,
        size: Sequence[int] | None,
    ) -> None:
        super().__init__()
        self.before, self.grid = before, grid
        self.kernel, self.stride, self.size = list(kernel), list(stride), size
        self.padding = [p for p in padding for _ in range(2)]
        self.count = math.prod(kernel)
        factor = before.scale / grid.scale / divisor
        self._rescale_by(torch.tensor(factor, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Pool."""
        dims = len(self.kernel)
        if self.size is not None and list(x.shape[-dims:]) != list(self.size):
            raise InputError(
                f"this integer network was made for images that are {tuple(self.size)} where "
                f"their mean is taken, got {tuple(x.shape[-dims:])}; make one for this size"
            )
        images = x if x.dim() == dims + 2 else x.unsqueeze(0)
        zero = torch.tensor(self.before.zero_point, device=x.device)
        sums = window_sums(
            images, zero, self.kernel, stride=self.stride, padding=self.padding,
            dilation=[1] * dims, groups=images.shape[1],
        )  # fmt: skip
        y = self.grid.narrow(self._rescaled(sums - self.count * self.before.zero_point))
        return y if x.dim() == dims + 2 else y.squeeze(0)

    def extra_repr(self) -> str:
        """Windows."""
        return f"{self.kernel}, stride={self.stride}, {self.grid}"


class IntegerMean(_Rescaled):
    """The mean over dimensions."""

    def __init__(
        self, before: CodeGrid, grid: CodeGrid, dims: Sequence[int], keepdim: bool, count: int
    ) -> None:
        super().__init__()
        self.before, self.grid = before, grid
        self.dims, self.keepdim, self.count = list(dims), keepdim, count
        factor = before.scale / grid.scale / count
        self._rescale_by(torch.tensor(factor, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Sum up, and rescale."""
        met = math.prod(x.shape[d] for d in self.dims)
        if met != self.count:
            raise InputError(
                f"this integer network was made for means of {self.count} numbers, not of {met}; "
                "make one for this size"
            )
        steps = x.to(torch.int64) - self.before.zero_point
        return self.grid.narrow(self._rescaled(steps.sum(self.dims, keepdim=self.keepdim)))

    def extra_repr(self) -> str:
        """Dimensions."""
        return f"{self.dims}, {self.count} numbers, {self.grid}"
