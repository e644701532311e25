"""Learned scales: a quantiser whose scale is a parameter."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from approxhub.quantization.calibrators import Calibrator
from approxhub.quantization.mapping import CodeRange
from approxhub.quantization.quantizer import Quantizer, masked

__all__ = ["LearnedQuantizer", "scale_parameters"]


class _LearnedStep(torch.autograd.Function):
    """Real values of the codes forward, the gradients of LSQ backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, log2_scale: Tensor, value: Tensor, codes: Tensor, inside: Tensor,
        quantizer: LearnedQuantizer,
    ) -> Tensor:  # fmt: skip
        scale, zero_point = (
            quantizer.along(t, x.dim()) for t in (quantizer.scale, quantizer.zero_point)
        )
        ctx.save_for_backward(x, codes, inside, scale, zero_point)
        ctx.shape = log2_scale.shape
        ctx.largest = quantizer.code_range.largest
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, codes, inside, scale, zero_point = ctx.saved_tensors
        passed = masked(grads[0], inside)
        if not ctx.needs_input_grad[1]:
            return passed, *(None,) * 5
        steps = codes.to(torch.float32) - zero_point - masked(x.to(torch.float32) / scale, inside)
        by_scale = (grads[0] * steps).sum_to_size(scale.shape)
        weight = 1 / math.sqrt(max(1, x.numel() // scale.numel()) * ctx.largest)
        by_log = (by_scale * scale * (math.log(2) * weight)).reshape(ctx.shape)
        return passed.to(x.dtype), by_log, *(None,) * 4


class LearnedQuantizer(Quantizer):
    """A quantiser that learns its scale (LSQ).

    S. K. Esser et al., "Learned Step Size Quantization", ICLR 2020, arXiv 1902.08153. With
    ``v = x / s`` the gradient of the real value ``(q - z) * s`` by ``s`` is

    - ``round(v) - v`` where `x` was not clamped,
    - ``qmin - z`` or ``qmax - z`` where it was,

    and the sum of these, times what comes from above, is multiplied by ``g = 1 / sqrt(N * Q)``:
    N values share the scale in the tensor (its batch included), Q is the largest magnitude of a
    code. `x` has the straight-through gradient of every quantiser.

    The parameter is ``log2_scale``, and ``s = 2^log2_scale``, so that scales stay positive and
    a step is relative to the scale; its gradient is the above times ``s * ln(2)``. With
    `power_of_two`, ``s = 2^ceil(log2_scale)``, and the gradient passes the rounding by
    (S. R. Jain et al., "Trained Quantization Thresholds", MLSys 2020, arXiv 1903.08066).

    The range that its calibrator finds gives the first scale, and the zero point, which stays.
    From the first pass with a gradient on, what it observes no longer moves it, until
    :meth:`restart`; a scale that was loaded counts as learned too. `range_min` and `range_max`
    stay those that it started from.

    Parameters
    ----------
    codes, channels, axis, calibrator, power_of_two, device
        As in :class:`Quantizer`.

    Attributes
    ----------
    log2_scale : Parameter of float32
        Shape () or (channels,); used between -126 and 127. See :func:`scale_parameters`.
    learning : bool
        Whether the scale is no longer the calibrator's.

    Examples
    --------
    >>> import torch
    >>> from approxhub import OperandFormat
    >>> q = LearnedQuantizer(CodeRange.symmetric(OperandFormat(4, signed=True)))
    >>> x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    >>> q.observe(x)
    >>> first, optimiser = q.scale, torch.optim.Adam(scale_parameters(q), lr=1e-2)
    >>> for _ in range(100):
    ...     optimiser.zero_grad()
    ...     (q(x)[0] - x).square().mean().backward()
    ...     optimiser.step()
    >>> q.scale.item() < first.item()
    True
    """

    log2_scale: nn.Parameter

    @classmethod
    def from_quantizer(cls, quantizer: Quantizer) -> LearnedQuantizer:
        """A learned quantiser with the codes, calibrator, range and scale of another."""
        made = cls(
            quantizer.code_range,
            channels=None if quantizer.axis is None else len(quantizer.range_min),
            axis=quantizer.axis or 0,
            calibrator=quantizer.calibrator_name,
            power_of_two=quantizer.power_of_two,
            device=quantizer.range_min.device,
        )
        if quantizer.calibrated:
            made.set_range(quantizer.range_min, quantizer.range_max)
            made._seen.copy_(quantizer._seen)
        return made.train(quantizer.training)

    # --- state ----------------------------------------------------------------

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        """The scale as it is now, without a gradient."""
        exponent = self.log2_scale.detach().clamp(-126, 127)
        return torch.exp2(exponent.ceil() if self.power_of_two else exponent)

    def _make_scale(self, scale: Tensor) -> None:
        self.log2_scale = nn.Parameter(torch.zeros_like(scale))

    def _set_scale(self, scale: Tensor) -> None:
        exponent = torch.log2(scale)
        self.log2_scale.copy_(exponent.round() if self.power_of_two else exponent)

    def _fresh(self, name: str) -> Calibrator:
        self.learning = False
        return super()._fresh(name)

    def observe(self, x: Tensor) -> None:
        """As :meth:`Quantizer.observe`; nothing, once the scale is learned."""
        if not self.learning:
            super().observe(x)

    def fit(self, x: Tensor) -> None:
        """As :meth:`Quantizer.fit`; nothing, once the scale is learned."""
        if not self.learning:
            super().fit(x)

    @torch.no_grad()
    def set_codes(self, codes: CodeRange, power_of_two: bool | None = None) -> None:
        """Use other codes for the range that the learned scale covers."""
        if codes == self.code_range and power_of_two in (None, self.power_of_two):
            return
        limits = (self.code_range.qmin, self.code_range.qmax)
        low, high = ((limit - self.zero_point) * self.scale for limit in limits)
        super().set_codes(codes, power_of_two)
        if self.calibrated:
            self._cover(low, high)

    def resume(self) -> None:
        """Take the scale in the state, e.g. after loading one, as learned."""
        super().resume()
        self.learning = self.calibrated

    # --- quantising -------------------------------------------------------------

    def differentiable(self, x: Tensor, value: Tensor, codes: Tensor, inside: Tensor) -> Tensor:
        """As :meth:`Quantizer.differentiable`; from now on the scale is learned."""
        if not (x.requires_grad or self.log2_scale.requires_grad):
            return value
        self.learning = True
        found: Tensor = _LearnedStep.apply(  # type: ignore[no-untyped-call]
            x, self.log2_scale, value, codes, inside, self
        )
        return found


def scale_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of a model's learned scales, for an optimiser's group of their own.

    They are base-2 logarithms: a step of 0.01 changes a scale by 0.7 percent, whatever its size.
    So with Adam a learning rate of 1e-3 to 1e-2 fits (constant, or falling as that of the weights).
    Their gradients can be as small as Adam's default `eps`: give 1e-12. Weight decay would draw
    scales to 1: give none. (Scales themselves, of which many are near 1e-3, would be destroyed by
    steps of 1e-3; that is why they are not the parameters.)

    Parameters
    ----------
    model : torch.nn.Module
        Any module, also a single quantiser.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = ah.approximate(torch.nn.Sequential(torch.nn.Linear(4, 2)), "drum:8s/k=4")
    >>> net[0].input_quantizer = LearnedQuantizer.from_quantizer(net[0].input_quantizer)
    >>> scales = scale_parameters(net)
    >>> apart = {id(p) for p in scales}
    >>> optimiser = torch.optim.Adam(
    ...     [
    ...         {"params": [p for p in net.parameters() if id(p) not in apart], "lr": 1e-3},
    ...         {"params": scales, "lr": 1e-2, "eps": 1e-12, "weight_decay": 0.0},
    ...     ]
    ... )
    >>> len(scales)
    1
    """
    return [m.log2_scale for m in model.modules() if isinstance(m, LearnedQuantizer)]
