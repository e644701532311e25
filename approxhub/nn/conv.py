"""Convolutions that multiply through a multiplier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approxhub.errors import InputError
from approxhub.multiplier import Multiplier
from approxhub.nn.base import ApproxLayer
from approxhub.nn.gradients import ConvProduct
from approxhub.quantization import Datapath, OperandMapping

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Conv1d", "Conv2d", "Conv3d"]

Size = int | tuple[int, ...]
_LETTERS = ("L", "H, W", "D, H, W")


class ImageLayer(ApproxLayer):
    """What convolutions and transposed convolutions share."""

    in_channels: int
    _dims: ClassVar[int]

    def _batched(self, x: Tensor) -> Tensor:
        """The input with a batch dimension, if its shape fits."""
        channel_dim = -self._dims - 1
        if x.dim() not in (self._dims + 1, self._dims + 2) or (
            x.shape[channel_dim] != self.in_channels
        ):
            shape = f"{self.in_channels}, {_LETTERS[self._dims - 1]}"
            raise InputError(
                f"{type(self).__name__} takes (N, {shape}) or ({shape}) activations, "
                f"got {tuple(x.shape)}"
            )
        return x if x.dim() == self._dims + 2 else x.unsqueeze(0)

    def _integer_path(self, x: Tensor, *args: Any) -> Tensor:
        y = self._batch_path(self._batched(x), *args)
        return y if x.dim() == self._dims + 2 else y.squeeze(0)

    def _batch_path(self, x: Tensor, *args: Any) -> Tensor:
        """The integer path of a batch of images."""
        raise NotImplementedError


class ConvNd(ImageLayer):
    """A convolution over any number of dimensions."""

    _float_type: ClassVar[type[nn.Conv1d | nn.Conv2d | nn.Conv3d]]
    _channel_dim = 1

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: Any  # a Literal in torch

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: str | Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
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
            self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip
        self._setup(multiplier, mapping, gradient, calibrator, per_channel, mode, datapath)

    @classmethod
    def from_float(
        cls, layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, multiplier: Multiplier | str, **options: Any
    ) -> Self:
        """Make one of a float layer, sharing its parameters.

        Parameters
        ----------
        layer : torch.nn.Conv1d, torch.nn.Conv2d or torch.nn.Conv3d
            A layer of as many dimensions.
        multiplier : Multiplier or str
        **options
            Keywords of this class.
        """
        new = cls(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
            layer.dilation, layer.groups, layer.bias is not None, layer.padding_mode,
            device="meta", multiplier=multiplier, **options,
        )  # fmt: skip
        return new._adopt(layer)

    def sides(self) -> list[tuple[int, int]]:
        """Padding before and behind each dimension."""
        if self.padding == "valid":
            return [(0, 0)] * self._dims
        if self.padding == "same":
            # As torch: the odd one goes behind.
            spans = [d * (k - 1) for k, d in zip(self.kernel_size, self.dilation, strict=True)]
            return [(span // 2, span - span // 2) for span in spans]
        assert not isinstance(self.padding, str)
        return [(p, p) for p in self.padding]

    def _float_forward(self, x: Tensor, *args: Any) -> Tensor:
        forward: Any = self._float_type.forward
        y: Tensor = forward(self, x)
        return y

    def _batch_path(self, x: Tensor, *args: Any) -> Tensor:
        product, sides = self.product()
        if sides is not None:
            # Copies of activations: quantising before or after is the same.
            x = F.pad(x, sides, mode=self.padding_mode)
        return self._run(x, product, self.quantized_weight(), self.quantized_bias())

    def product(self) -> tuple[ConvProduct, tuple[int, ...] | None]:
        """The product, and what the image is padded with before it, where not with zeros."""
        sides = tuple(side for pair in reversed(self.sides()) for side in pair)
        copied = self.padding_mode != "zeros"
        skip = self.datapath.padding == "skip"
        inside = (0,) * len(sides) if copied else sides
        product = ConvProduct(self.stride, inside, self.dilation, self.groups, skip)
        return product, sides if copied else None


class Conv1d(ConvNd, nn.Conv1d):
    """:class:`torch.nn.Conv1d` whose products come from a multiplier; see :class:`Conv2d`.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, \
padding_mode, device, dtype
        As in :class:`torch.nn.Conv1d`.
    multiplier, mapping, gradient, calibrator, per_channel, mode, datapath
        As in :class:`approxhub.nn.Linear`.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> layer = ah.nn.Conv1d(3, 8, 3, padding="same", multiplier=ah.exact(8, signed=False))
    >>> layer(torch.randn(2, 3, 7)).shape  # training: the first pass sets the range
    torch.Size([2, 8, 7])
    """

    _dims, _float_type = 1, nn.Conv1d


class Conv2d(ConvNd, nn.Conv2d):
    """:class:`torch.nn.Conv2d` whose products come from a multiplier.

    Padding with zeros is padding with the code of real zero, and goes through the multiplier
    like any other code, unless the datapath skips it.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, \
padding_mode, device, dtype
        As in :class:`torch.nn.Conv2d`: string padding, every padding mode, groups and depthwise
        included.
    multiplier, mapping, gradient, calibrator, per_channel, mode, datapath
        As in :class:`approxhub.nn.Linear`.

    Raises
    ------
    MappingError
        If the multiplier does not fit the mapping.
    NotFoundError
        If the multiplier, gradient or calibrator is not known.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> layer = ah.nn.Conv2d(3, 8, 3, padding="same", multiplier=ah.exact(8, signed=False))
    >>> layer(torch.randn(2, 3, 5, 7)).shape  # training: the first pass sets the range
    torch.Size([2, 8, 5, 7])
    """

    _dims, _float_type = 2, nn.Conv2d


class Conv3d(ConvNd, nn.Conv3d):
    """:class:`torch.nn.Conv3d` whose products come from a multiplier; see :class:`Conv2d`.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, \
padding_mode, device, dtype
        As in :class:`torch.nn.Conv3d`.
    multiplier, mapping, gradient, calibrator, per_channel, mode, datapath
        As in :class:`approxhub.nn.Linear`.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> layer = ah.nn.Conv3d(1, 4, (1, 3, 3), multiplier=ah.exact(8, signed=False))
    >>> layer(torch.randn(2, 1, 2, 5, 7)).shape  # training: the first pass sets the range
    torch.Size([2, 4, 2, 3, 5])
    """

    _dims, _float_type = 3, nn.Conv3d
