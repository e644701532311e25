"""Transposed convolutions that multiply through a multiplier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from approxhub.multiplier import Multiplier
from approxhub.nn.conv import ImageLayer, Size
from approxhub.nn.gradients import ConvTransposeProduct
from approxhub.nn.gradients.products import exchanged
from approxhub.quantization import Datapath, OperandMapping

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]

_FloatLayer = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


class ConvTransposeNd(ImageLayer):
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
        datapath: Datapath | str | None = None,
    ) -> None:
        make: Any = self._float_type.__init__
        make(
            self, in_channels, out_channels, kernel_size, stride, padding, output_padding, groups,
            bias, dilation, padding_mode, device, dtype,
        )  # fmt: skip
        self._setup(multiplier, mapping, gradient, calibrator, per_channel, mode, datapath)

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

    def quantized_weight(self) -> Tensor:
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
        product = self.product(tuple(extra))
        return self._run(x, product, self.quantized_weight(), self.quantized_bias())

    def product(self, output_padding: tuple[int, ...]) -> ConvTransposeProduct:
        """The product, with zeros behind its result for each dimension."""
        return ConvTransposeProduct(
            self.stride, self.padding, output_padding, self.dilation, self.groups
        )


class ConvTranspose1d(ConvTransposeNd, nn.ConvTranspose1d):
    """:class:`torch.nn.ConvTranspose1d` whose products come from a multiplier.

    See :class:`ConvTranspose2d`.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, \
dilation, padding_mode, device, dtype
        As in :class:`torch.nn.ConvTranspose1d`.
    multiplier, mapping, gradient, calibrator, per_channel, mode, datapath
        As in :class:`approxhub.nn.Linear`.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> layer = ah.nn.ConvTranspose1d(3, 2, 3, stride=2, multiplier=ah.exact(8, signed=False))
    >>> layer(torch.randn(2, 3, 5)).shape  # training: the first pass sets the range
    torch.Size([2, 2, 11])
    """

    _dims, _float_type = 1, nn.ConvTranspose1d


class ConvTranspose2d(ConvTransposeNd, nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d` whose products come from a multiplier.

    The zeros that a transposed convolution puts between and around its inputs are no operands:
    no product is made of them, and the correction of zero points leaves them out too.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, \
dilation, padding_mode, device, dtype
        As in :class:`torch.nn.ConvTranspose2d`.
    multiplier, mapping, gradient, calibrator, per_channel, mode, datapath
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


class ConvTranspose3d(ConvTransposeNd, nn.ConvTranspose3d):
    """:class:`torch.nn.ConvTranspose3d` whose products come from a multiplier.

    See :class:`ConvTranspose2d`.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, \
dilation, padding_mode, device, dtype
        As in :class:`torch.nn.ConvTranspose3d`.
    multiplier, mapping, gradient, calibrator, per_channel, mode, datapath
        As in :class:`approxhub.nn.Linear`.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> layer = ah.nn.ConvTranspose3d(1, 2, (1, 3, 3), multiplier=ah.exact(8, signed=False))
    >>> layer(torch.randn(2, 1, 2, 5, 4)).shape  # training: the first pass sets the range
    torch.Size([2, 2, 2, 7, 6])
    """

    _dims, _float_type = 3, nn.ConvTranspose3d
