"""A linear layer that multiplies through a multiplier."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approxhub.errors import InputError
from approxhub.multiplier import Multiplier
from approxhub.nn.base import ApproxLayer
from approxhub.nn.gradients import LinearProduct
from approxhub.quantization import Datapath, OperandMapping

__all__ = ["Linear"]


class Linear(ApproxLayer, nn.Linear):
    """:class:`torch.nn.Linear` whose products come from a multiplier.

    Parameters
    ----------
    in_features, out_features, bias, device, dtype
        As in :class:`torch.nn.Linear`.
    multiplier : Multiplier or str
        A multiplier or its id.
    mapping : OperandMapping or str, optional
        How activations and weights become operands; the default of the multiplier's signs
        when not given.
    gradient : str
        Name of the gradient.
    calibrator : str
        Name of the activations' calibrator.
    per_channel : bool
        One weight scale for each output channel, or one for all.
    mode : {'approximate', 'exact', 'float'}
        What a forward pass does at first.
    datapath : Datapath or str, optional
        What hardware does with zero points, padding, bias and scales, as
        ``'zero_point=before,bias=int32'``; see :class:`approxhub.quantization.Datapath`.

    Raises
    ------
    MappingError
        If the multiplier does not fit the mapping and the datapath.
    NotFoundError
        If the multiplier, gradient or calibrator is not known.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> layer = ah.nn.Linear(3, 2, multiplier=ah.exact(8, signed=True))
    >>> layer(torch.randn(5, 7, 3)).shape  # training: the first pass sets the range
    torch.Size([5, 7, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
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
        nn.Linear.__init__(self, in_features, out_features, bias, device, dtype)
        self._setup(multiplier, mapping, gradient, calibrator, per_channel, mode, datapath)

    @classmethod
    def from_float(cls, layer: nn.Linear, multiplier: Multiplier | str, **options: Any) -> Linear:
        """Make one of a float layer, sharing its parameters.

        Parameters
        ----------
        layer : torch.nn.Linear
        multiplier : Multiplier or str
        **options
            Keywords of :class:`Linear`.
        """
        new = cls(
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            device="meta",
            multiplier=multiplier,
            **options,
        )
        return new._adopt(layer)

    def _float_forward(self, x: Tensor, *args: Any) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def _integer_path(self, x: Tensor, *args: Any) -> Tensor:
        width = self.weight.shape[1]
        if x.dim() == 0 or x.shape[-1] != width:
            raise InputError(
                f"{type(self).__name__} takes (..., {width}) activations, got {tuple(x.shape)}"
            )
        y = self._run(
            x.reshape(-1, width), LinearProduct(), self.quantized_weight(), self.quantized_bias()
        )
        return y.reshape(*x.shape[:-1], y.shape[-1])
