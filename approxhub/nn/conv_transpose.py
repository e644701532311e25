"""Transposed convolutions that multiply through a multiplier."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from approxhub.functional import conv_transpose_codes
from approxhub.multiplier import Multiplier
from approxhub.nn.conv import ImageLayer, Size
from approxhub.nn.gradients import ConvTransposeProduct
from approxhub.nn.gradients.products import exchanged
from approxhub.quantization import OperandMapping

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]

_FloatLayer = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


class _ConvTransposeNd(ImageLayer):
    """A transposed convolution over any number of dimensions."""

    _float_type: ClassVar[type[_FloatLayer]]
    _channel_dim = 1

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any  # in torch it may be a string, for convolutions
    dilation: tuple[int, ...]
    groups: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        multiplier: Multiplier | str,
        mapping: OperandMapping | str | None = None,
        gradient: str = "straight-through",
        calibrator: str = "moving-average",
        per_channel: bool = True,
        mode: str = "approximate",
    ) -> None:
        make: Any = self._float_type.__init__
        make(
            self, in_channels, out_channels, kernel_size, stride, padding, output_padding, groups,
            bias, dilation, padding_mode, device, dtype,
        )  # fmt: skip
        self._setup(multiplier, mapping, gradient, calibrator, per_channel, mode)

    @classmethod
    def from_float(cls, layer: _FloatLayer, multiplier: Multiplier | str, **options: Any) -> Self:
        """Make one of a float layer, sharing its parameters.

        Parameters
        ----------
        layer : torch.nn.ConvTranspose1d, ConvTranspose2d or ConvTranspose3d
            A layer of as many dimensions.
        multiplier : Multiplier or str
        **options
            Keywords of this class.
        """
        assert not isinstance(layer.padding, str)
        new = cls(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
            layer.output_padding, layer.groups, layer.bias is not None, layer.dilation,
            layer.padding_mode, device="meta", multiplier=multiplier, **options,
        )  # fmt: skip
        return new._adopt(layer)

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """As torch's layer, in this layer's mode.

        Parameters
        ----------
        x : Tensor of float, (N, C, ...) or (C, ...)
        output_size : sequence of int, optional
            Wanted size of the image, with or without the leading dimensions.

        Raises
        ------
        CalibrationError
            If a quantiser has no range yet, or NaN reaches one.
        InputError
            If the input is not of real numbers, or its shape does not fit.
        ValueError
            If the output cannot have that size.
        """
        return super().forward(x, output_size)

    def _quantized_weight(self) -> Tensor:
        return exchanged(self.weight, self.groups)

    def _float_forward(self, x: Tensor, *args: Any) -> Tensor:
        forward: Any = self._float_type.forward
        y: Tensor = forward(self, x, *args)
        return y

    def _batch_path(self, x: Tensor, *args: Any) -> Tensor:
        output_padding: Any = self._output_padding
        extra = output_padding(
            x, args[0], self.stride, self.padding, self.kernel_size, self._dims, self.dilation
        )
        product = ConvTransposeProduct(
            self.stride, self.padding, tuple(extra), self.dilation, self.groups
        )
        return self._run(x, product, self._quantized_weight(), self.bias)

    def _integer_forward(
        self, x_codes: Tensor, w_codes: Tensor, bias: Tensor | None, product: Any
    ) -> Tensor:
        """Sums over the real products alone, and what the epilogue needs to correct them.

        The epilogue takes every sum to have `k` terms, of which a sum ``R`` of a transposed
        convolution has some only. For the others, the skipped ones ``S``, the code ``z_x`` of
        real zero is put in, with exact products: ``z_x * sum_S(w)`` is added to the accumulator
        and ``|S| * z_x`` to the sum of the activations. Of them the epilogue leaves
        ``sum_S((z_x - z_x) * (w - z_w)) = 0``.
        """
        k, zero = w_codes.shape[1:].numel(), self.input_quantizer.zero_point.to(torch.int64)
        acc = conv_transpose_codes(
            x_codes, exchanged(w_codes, product.groups), self._handles[self._mode],
            self._accumulator(k), stride=product.stride, padding=product.padding,
            output_padding=product.output_padding, groups=product.groups,
            dilation=product.dilation,
        )  # fmt: skip
        x_sums = w_sums = None
        everywhere = torch.ones((1, 1, *x_codes.shape[2:]), dtype=torch.int64, device=acc.device)
        if self.input_quantizer.code_range.affine:
            taps = w_codes.sum(1, dtype=torch.int64)
            w_sums = taps.flatten(1).sum(1)
            met = _scattered(everywhere, taps, product)
            acc = acc + zero * (w_sums.reshape(-1, *[1] * self._dims) - met)
        if self.weight_quantizer.code_range.affine:
            groups, channels = product.groups, w_codes.shape[1]
            taps = torch.ones((1, *w_codes.shape[2:]), dtype=torch.int64, device=acc.device)
            split = x_codes.reshape(x_codes.shape[0], groups, channels, *x_codes.shape[2:])
            x_sums = _scattered(split.sum(2, dtype=torch.int64), taps, product)
            skipped = k - channels * _scattered(everywhere, taps, product)
            x_sums = x_sums + zero * skipped
        return self._dequantized(acc, k, x_sums, w_sums, bias)


def _scattered(x: Tensor, taps: Tensor, product: ConvTransposeProduct) -> Tensor:
    """Transposed convolution of integers, each channel for itself: a loop over the taps.

    Parameters
    ----------
    x : Tensor of int64, (N, C or 1, ...)
    taps : Tensor of int64, (C or 1, ...)
        A kernel for each channel.
    product : ConvTransposeProduct
        Gives stride, padding, output padding and dilation.

    Returns
    -------
    Tensor of int64, (N, C, ...)
    """
    size, kernel = x.shape[2:], taps.shape[1:]
    steps = list(zip(size, product.stride, product.dilation, strict=True))
    whole = [
        (n - 1) * s + d * (k - 1) + 1 + extra
        for (n, s, d), k, extra in zip(steps, kernel, product.output_padding, strict=True)
    ]
    out = x.new_zeros((x.shape[0], max(x.shape[1], taps.shape[0]), *whole))
    images = (slice(None), slice(None))
    for tap in itertools.product(*map(range, kernel)):
        where = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, (n, s, d) in zip(tap, steps, strict=True)
        )
        share = taps[images[:1] + tap]
        out[images + where] += x * share.reshape(-1, *[1] * len(size))
    inner = tuple(slice(p, n - p) for p, n in zip(product.padding, whole, strict=True))
    return out[images + inner]


class ConvTranspose1d(_ConvTransposeNd, nn.ConvTranspose1d):
    """:class:`torch.nn.ConvTranspose1d` whose products come from a multiplier.

    See :class:`ConvTranspose2d`.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, \
dilation, padding_mode, device, dtype
        As in :class:`torch.nn.ConvTranspose1d`.
    multiplier, mapping, gradient, calibrator, per_channel, mode
        As in :class:`approxhub.nn.Linear`.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> layer = ah.nn.ConvTranspose1d(3, 2, 3, stride=2, multiplier=ah.exact(8, signed=False))
    >>> layer(torch.randn(2, 3, 5)).shape  # training: the first pass sets the range
    torch.Size([2, 2, 11])
    """

    _dims, _float_type = 1, nn.ConvTranspose1d


class ConvTranspose2d(_ConvTransposeNd, nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d` whose products come from a multiplier.

    The zeros that a transposed convolution puts between and around its inputs are no operands:
    no product is made of them, and the correction of zero points leaves them out too.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, \
dilation, padding_mode, device, dtype
        As in :class:`torch.nn.ConvTranspose2d`.
    multiplier, mapping, gradient, calibrator, per_channel, mode
        As in :class:`approxhub.nn.Linear`; a scale for each output channel, in every group.

    Raises
    ------
    MappingError
        If the multiplier does not fit the mapping.
    NotFoundError
        If the multiplier, gradient or calibrator is not known.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> layer = ah.nn.ConvTranspose2d(3, 2, 2, stride=2, multiplier=ah.exact(8, signed=False))
    >>> layer(torch.randn(2, 3, 5, 4), output_size=(11, 8)).shape
    torch.Size([2, 2, 11, 8])
    """

    _dims, _float_type = 2, nn.ConvTranspose2d


class ConvTranspose3d(_ConvTransposeNd, nn.ConvTranspose3d):
    """:class:`torch.nn.ConvTranspose3d` whose products come from a multiplier.

    See :class:`ConvTranspose2d`.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, \
dilation, padding_mode, device, dtype
        As in :class:`torch.nn.ConvTranspose3d`.
    multiplier, mapping, gradient, calibrator, per_channel, mode
        As in :class:`approxhub.nn.Linear`.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> layer = ah.nn.ConvTranspose3d(1, 2, (1, 3, 3), multiplier=ah.exact(8, signed=False))
    >>> layer(torch.randn(2, 1, 2, 5, 4)).shape  # training: the first pass sets the range
    torch.Size([2, 2, 2, 7, 6])
    """

    _dims, _float_type = 3, nn.ConvTranspose3d
