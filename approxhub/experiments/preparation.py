"""What is done to a model for each multiplier, before it is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from approxhub.errors import InputError
from approxhub.model.calibration import run_batches
from approxhub.model.compensation import compensate, require_tables
from approxhub.model.layers import approx_layers
from approxhub.model.modes import mode
from approxhub.model.normalization import batch_norms, reestimate_batch_norm
from approxhub.model.statistics import LayerStatistics, capture_statistics

__all__ = ["Preparation"]


class Preparation:
    """Compensation and new statistics of batch normalisation, as far as they are asked for.

    Codes are counted once for each format and mapping, whatever the number of multipliers.

    Parameters
    ----------
    compensate, reestimate_batch_norm : bool
        What to do.
    batches : iterable or None
        What to do it with; needed if there is something to do.
    forward : callable or None
        As :func:`approxhub.calibrate` takes it.

    Raises
    ------
    InputError
        If there are no batches for something that needs them.
    """

    def __init__(
        self,
        compensate: bool,
        reestimate_batch_norm: bool,
        batches: Iterable[Any] | None,
        forward: Callable[[nn.Module, Any], Any] | None,
    ) -> None:
        self.compensate, self.reestimate_batch_norm = compensate, reestimate_batch_norm
        self._captured: dict[Any, Mapping[str, LayerStatistics]] = {}
        self._forward = forward
        if not (compensate or reestimate_batch_norm):
            batches = None
        elif batches is None:
            raise InputError(
                "compensate and reestimate_batch_norm need batches; give them as `calibration`"
            )
        elif isinstance(batches, Iterator):
            raise InputError(
                "compensate and reestimate_batch_norm go through `calibration` more than once; "
                f"give a list or a data loader, not a {type(batches).__name__}"
            )
        self._batches = batches

    def check(self, model: nn.Module) -> None:
        """Refuse a model that there is nothing to do for, before anything is evaluated.

        Raises
        ------
        InputError
            If batch normalisation is to be done anew, and there is none.
        """
        if self.reestimate_batch_norm:
            batch_norms(model)

    def apply(self, model: nn.Module) -> None:
        """Prepare a calibrated model, in place.

        Raises
        ------
        ApproxHubError
            As :func:`approxhub.compensate` and :func:`approxhub.reestimate_batch_norm`.
        """
        if self.compensate:
            require_tables(model)
            compensate(model, self._statistics(model))
        if self.reestimate_batch_norm:
            assert self._batches is not None
            reestimate_batch_norm(model, self._batches, forward=self._forward)

    def _statistics(self, model: nn.Module) -> Mapping[str, LayerStatistics]:
        assert self._batches is not None
        codes = tuple(
            (
                layer.input_quantizer.code_range,
                layer.weight_quantizer.code_range,
                str(layer.mapping),
                str(layer.datapath),
            )
            for layer in approx_layers(model).values()
        )
        if codes not in self._captured:
            with (
                torch.no_grad(),
                capture_statistics(model, fields=0, taps=True) as captured,
                mode(model, "exact"),
            ):
                run_batches(model, self._batches, self._forward)
            self._captured[codes] = captured
        return self._captured[codes]
