"""Layers with batch normalisation inside: its scale and shift become those of the weight.

Hardware multiplies by the folded weight, so that is what is quantised. In training the
statistics of the batch are folded, those of the product with the float weight; in evaluation the
running ones (B. Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018, DOI 10.1109/CVPR.2018.00286, section 3.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from approxhub.errors import ConversionError, InputError
from approxhub.multiplier import Multiplier
from approxhub.nn.base import ApproxLayer
from approxhub.nn.conv import Conv1d, Conv2d, Conv3d
from approxhub.nn.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from approxhub.nn.linear import Linear
from approxhub.nn.recomputation import recomputing
from approxhub.quantization.quantizer import NO_RANGE, require

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "NORMALIZED",
    "NormalizedConv1d",
    "NormalizedConv2d",
    "NormalizedConv3d",
    "NormalizedConvTranspose1d",
    "NormalizedConvTranspose2d",
    "NormalizedConvTranspose3d",
    "NormalizedLinear",
]

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class NormalizedLayer(ApproxLayer):
    """A layer and the batch normalisation behind it, as one layer with a folded weight.

    Attributes
    ----------
    norm : torch.nn.BatchNorm1d, BatchNorm2d or BatchNorm3d
        Its ``eval()`` freezes the statistics while the rest trains.
    """

    norm: BatchNorm
    _norm_type: ClassVar[type[BatchNorm]]
    _affine: tuple[Tensor, Tensor] | None = None

    def __init__(
        self, *args: Any, eps: float = 1e-5, momentum: float | None = 0.1, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        channels, weight = len(self.quantized_weight()), self.weight
        self.norm = self._norm_type(
            channels, eps, momentum, device=weight.device, dtype=weight.dtype
        )
        self.observe_weight()

    @classmethod
    def from_pair(
        cls, layer: Any, norm: BatchNorm, multiplier: Multiplier | str, **options: Any
    ) -> Self:
        """Make one of a float layer and the batch normalisation behind it, sharing parameters.

        Parameters
        ----------
        layer : torch.nn.Module
            A layer of this kind.
        norm : torch.nn.BatchNorm1d, BatchNorm2d or BatchNorm3d
            With running statistics.
        multiplier : Multiplier or str
        **options
            Keywords of the layer's own class.

        Raises
        ------
        ConversionError
            If `norm` keeps no running statistics, or is of another number of channels.
        """
        channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        if norm.running_mean is None or norm.num_features != channels:
            raise ConversionError(
                f"{type(norm).__name__}({norm.num_features}) cannot be folded into "
                f"{type(layer).__name__} of {channels} channels: it needs running statistics, and "
                "as many channels"
            )
        make: Any = cls
        new: Self = make.from_float(layer, multiplier, **options)
        new.norm = norm
        new.observe_weight()
        return new

    def _adopt(self, layer: nn.Module) -> Self:
        assert isinstance(layer.weight, Tensor)
        self.norm.to_empty(device=layer.weight.device)
        self.norm.reset_parameters()
        return super()._adopt(layer)

    def quantized_weight(self) -> Tensor:
        weight = super().quantized_weight()
        if "norm" not in self._modules:
            return weight
        scale, _ = self._affine or self._running_affine()
        return weight * scale.reshape(-1, *[1] * (weight.dim() - 1))

    def _running_affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift of each channel, from the running statistics."""
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        return self._affine_of(self.norm.running_mean, self.norm.running_var)

    def _affine_of(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.rsqrt(var + self.norm.eps)
        scale = scale if self.norm.weight is None else scale * self.norm.weight
        shift = -mean * scale
        return scale, shift if self.norm.bias is None else shift + self.norm.bias

    def _batch_affine(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift of each channel, from the product of a batch with the float weight.

        Moves the running statistics too.
        """
        others = [d for d in range(y.dim()) if d != 1]
        var, mean = torch.var_mean(y.float(), others, correction=0)
        finite = None
        if y.numel():
            # Before they are in the running statistics, which would keep them.
            finite = require(torch.isfinite(torch.stack([var, mean]).detach()).all(), NO_RANGE)
        if not recomputing():
            with torch.no_grad():
                self._move_running(y, finite)
        return self._affine_of(mean, var)

    def _move_running(self, y: Tensor, finite: Tensor | None) -> None:
        """Let the running statistics see a batch, if it is finite, which may not have been read."""
        kept = [] if finite is None else [b.clone() for b in self.norm.buffers()]
        self.norm(y)
        if finite is not None:
            for now, before in zip(self.norm.buffers(), kept, strict=True):
                now.copy_(torch.where(finite, now, before))

    def _float_forward(self, x: Tensor, *args: Any) -> Tensor:
        y: Tensor = self.norm(super()._float_forward(x, *args))
        return y

    def _integer_path(self, x: Tensor, *args: Any) -> Tensor:
        if x.dim() != self.weight.dim():
            raise InputError(
                f"{type(self).__name__} takes batches of {self.weight.dim()} dimensions, got "
                f"{tuple(x.shape)}"
            )
        if self.norm.training:
            self._affine = self._batch_affine(super()._float_forward(x, *args))
        else:
            self._affine = self._running_affine()
        try:
            return super()._integer_path(x, *args)
        finally:
            self._affine = None

    def quantized_bias(self) -> Tensor | None:
        scale, shift = self._affine or self._running_affine()
        return shift if self.bias is None else shift + self.bias * scale


class NormalizedLinear(NormalizedLayer, Linear):
    """:class:`Linear` with batch normalisation folded in; see :class:`NormalizedConv2d`."""

    _norm_type = nn.BatchNorm1d


class NormalizedConv1d(NormalizedLayer, Conv1d):
    """:class:`Conv1d` with batch normalisation folded in; see :class:`NormalizedConv2d`."""

    _norm_type = nn.BatchNorm1d


class NormalizedConv2d(NormalizedLayer, Conv2d):
    """:class:`Conv2d` with the :class:`torch.nn.BatchNorm2d` behind it folded into its weight.

    Parameters
    ----------
    *args, **kwargs
        As in :class:`Conv2d`.
    eps, momentum
        As in :class:`torch.nn.BatchNorm2d`.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> layer = ah.nn.NormalizedConv2d(3, 8, 3, bias=False, multiplier=ah.exact(8, signed=False))
    >>> y = layer(torch.randn(16, 3, 5, 7))  # training: statistics of the batch
    >>> layer.norm.num_batches_tracked
    tensor(1)
    """

    _norm_type = nn.BatchNorm2d


class NormalizedConv3d(NormalizedLayer, Conv3d):
    """:class:`Conv3d` with batch normalisation folded in; see :class:`NormalizedConv2d`."""

    _norm_type = nn.BatchNorm3d


class NormalizedConvTranspose1d(NormalizedLayer, ConvTranspose1d):
    """:class:`ConvTranspose1d` with batch normalisation folded in.

    See :class:`NormalizedConv2d`.
    """

    _norm_type = nn.BatchNorm1d


class NormalizedConvTranspose2d(NormalizedLayer, ConvTranspose2d):
    """:class:`ConvTranspose2d` with batch normalisation folded in.

    See :class:`NormalizedConv2d`.
    """

    _norm_type = nn.BatchNorm2d


class NormalizedConvTranspose3d(NormalizedLayer, ConvTranspose3d):
    """:class:`ConvTranspose3d` with batch normalisation folded in.

    See :class:`NormalizedConv2d`.
    """

    _norm_type = nn.BatchNorm3d


NORMALIZED: dict[type[nn.Module], type[NormalizedLayer]] = {
    nn.Linear: NormalizedLinear,
    nn.Conv1d: NormalizedConv1d,
    nn.Conv2d: NormalizedConv2d,
    nn.Conv3d: NormalizedConv3d,
    nn.ConvTranspose1d: NormalizedConvTranspose1d,
    nn.ConvTranspose2d: NormalizedConvTranspose2d,
    nn.ConvTranspose3d: NormalizedConvTranspose3d,
}
"""What a float layer becomes together with the batch normalisation behind it."""
