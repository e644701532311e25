"""A convolution that multiplies through a multiplier."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approxhub.errors import InputError
from approxhub.functional import conv2d_codes
from approxhub.multiplier import Multiplier
from approxhub.nn.base import ApproxLayer, dequantize_accumulator
from approxhub.nn.gradients import Conv2dProduct, Product
from approxhub.quantization import OperandMapping

__all__ = ["Conv2d"]

_Pair = int | tuple[int, int]


class Conv2d(ApproxLayer, nn.Conv2d):
    """:class:`torch.nn.Conv2d` whose products come from a multiplier.

    Padding with zeros is padding with the code of real zero, and goes through the multiplier
    like any other code.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, \
padding_mode, device, dtype
        As in :class:`torch.nn.Conv2d`: string padding, every padding mode, groups and depthwise
        included.
    multiplier, mapping, gradient, calibrator, per_channel, mode
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

    _channel_dim = -3

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Pair,
        stride: _Pair = 1,
        padding: str | _Pair = 0,
        dilation: _Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
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
        nn.Conv2d.__init__(
            self,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self._setup(multiplier, mapping, gradient, calibrator, per_channel, mode)

    @classmethod
    def from_float(cls, layer: nn.Conv2d, multiplier: Multiplier | str, **options: Any) -> Conv2d:
        """Make one of a float layer, sharing its parameters.

        Parameters
        ----------
        layer : torch.nn.Conv2d
        multiplier : Multiplier or str
        **options
            Keywords of :class:`Conv2d`.
        """
        new = cls(
            layer.in_channels,
            layer.out_channels,
            _pair(layer.kernel_size),
            _pair(layer.stride),
            layer.padding if isinstance(layer.padding, str) else _pair(layer.padding),
            _pair(layer.dilation),
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            device="meta",
            multiplier=multiplier,
            **options,
        )
        return new._adopt(layer)

    def _sides(self) -> tuple[int, int, int, int]:
        """Padding as left, right, top, bottom."""
        if self.padding == "valid":
            return (0, 0, 0, 0)
        if self.padding == "same":
            # As torch: the odd one goes to the right and to the bottom.
            (kh, kw), (dh, dw) = self.kernel_size, self.dilation
            (height, width) = (dh * (kh - 1), dw * (kw - 1))
            return (width // 2, width - width // 2, height // 2, height - height // 2)
        assert not isinstance(self.padding, str)
        ph, pw = self.padding
        return (pw, pw, ph, ph)

    def _float_forward(self, x: Tensor) -> Tensor:
        return nn.Conv2d.forward(self, x)

    def _integer_path(self, x: Tensor) -> Tensor:
        if x.dim() not in (3, 4) or x.shape[-3] != self.in_channels:
            raise InputError(
                f"Conv2d takes (N, {self.in_channels}, H, W) or ({self.in_channels}, H, W) "
                f"activations, got {tuple(x.shape)}"
            )
        batched = x if x.dim() == 4 else x.unsqueeze(0)
        if self.padding_mode != "zeros":
            # Copies of activations: quantising before or after is the same.
            batched = F.pad(batched, self._sides(), mode=self.padding_mode)
        y = self._run(batched)
        return y if x.dim() == 4 else y.squeeze(0)

    def _explicit_sides(self) -> tuple[int, int, int, int]:
        return self._sides() if self.padding_mode == "zeros" else (0, 0, 0, 0)

    def _integer_forward(self, x_codes: Tensor, w_codes: Tensor) -> Tensor:
        k = w_codes[0].numel()
        x_affine = self.input_quantizer.code_range.affine
        w_affine = self.weight_quantizer.code_range.affine
        acc, x_sums = conv2d_codes(
            x_codes,
            w_codes,
            self._handles[self._mode],
            self._accumulator(k),
            stride=_pair(self.stride),
            padding=self._explicit_sides(),
            dilation=_pair(self.dilation),
            groups=self.groups,
            pad_value=self.input_quantizer.zero_point,
            patch_sums=w_affine,
        )
        if x_sums is not None:
            x_sums = x_sums.repeat_interleave(self.out_channels // self.groups, dim=1)
        return dequantize_accumulator(
            acc,
            k,
            self.input_quantizer,
            self.weight_quantizer,
            x_sums,
            w_codes.sum((1, 2, 3), dtype=torch.int64) if x_affine else None,
            channel_dim=1,
        )

    def _product(self) -> Product:
        return Conv2dProduct(
            _pair(self.stride), self._explicit_sides(), _pair(self.dilation), self.groups
        )


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    return (value[0], value[1])
