"""Gaussian noise in place of a circuit's error: mode ``'noise'``.

Imports torch alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from approxhub.errors import InputError

__all__ = ["Noise"]


class Noise(nn.Module):
    """A Gaussian with the mean and deviation of a sum of erroneous products.

    If the error of one product of codes has the mean `mean` and the standard deviation
    `deviation`, and the errors of a sum are independent, that of a sum of ``K`` has the mean
    ``K * mean`` and the deviation ``sqrt(K) * deviation``, and by the central limit theorem it
    tends to a Gaussian. (E. Trommer, B. Waschneck, A. Kumar, "Combining Gradients and
    Probabilities for Heterogeneous Approximation of Neural Networks", ICCAD 2022,
    arXiv 2208.07265.)

    Drawn anew in each pass, in training and in evaluation, from torch's generator.

    Parameters
    ----------
    mean, deviation : float
        Of the error of one product of codes; `deviation` is not negative.
    unit : float
        What a learned deviation is measured in; the largest product of codes makes one scale of
        it fit all layers.
    learned : bool
        Whether the deviation is trained: :attr:`relative` is a parameter then, and part of the
        ``state_dict``. Given numbers are a setting, as the multiplier is, and are not.

    Attributes
    ----------
    relative : torch.nn.Parameter or None
        The learned deviation over `unit`, shape (). Its sign does not matter.

    Raises
    ------
    InputError
        If a number is not finite, the deviation is negative, or the unit is not positive.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> noise = Noise(mean=0.5, deviation=3.0)
    >>> drawn = noise(torch.empty(1000, 100), terms=16)
    >>> round(drawn.mean().item()), round(drawn.std().item())
    (8, 12)
    >>> Noise(deviation=3.0, unit=100.0, learned=True).relative.item()
    0.029999999329447746
    """

    relative: nn.Parameter | None

    def __init__(
        self,
        mean: float = 0.0,
        deviation: float = 0.0,
        *,
        unit: float = 1.0,
        learned: bool = False,
    ) -> None:
        super().__init__()
        if not all(map(math.isfinite, (mean, deviation, unit))) or deviation < 0 or unit <= 0:
            raise InputError(
                "noise has a finite mean, a deviation of 0 or more, and a unit above 0; got "
                f"{mean}, {deviation} and {unit}"
            )
        self.mean, self.unit, self._given = float(mean), float(unit), float(deviation)
        start = torch.tensor(deviation / unit, dtype=torch.float32)
        self.register_parameter("relative", nn.Parameter(start) if learned else None)

    @property
    def deviation(self) -> float:
        """Standard deviation of the error of one product, in products of codes."""
        if self.relative is None:
            return self._given
        return abs(float(self.relative.detach())) * self.unit

    def forward(self, like: Tensor, terms: int) -> Tensor:
        """Draw the errors of sums.

        Parameters
        ----------
        like : Tensor
            Gives shape and device.
        terms : int
            Products in each sum.

        Returns
        -------
        Tensor of float32
            In products of codes; differentiable with respect to :attr:`relative`.
        """
        normal = torch.randn(like.shape, dtype=torch.float32, device=like.device)
        if self.relative is None:
            return terms * self.mean + math.sqrt(terms) * self._given * normal
        deviation = self.relative.to(torch.float32).abs() * (self.unit * math.sqrt(terms))
        return terms * self.mean + deviation * normal

    def extra_repr(self) -> str:
        """Mean and deviation."""
        learned = "" if self.relative is None else ", learned"
        return f"mean={self.mean:g}, deviation={self.deviation:g}{learned}"
