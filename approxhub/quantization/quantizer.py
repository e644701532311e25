"""The quantiser: real numbers to codes, with one rounding for the table and for the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from approxhub.errors import CalibrationError
from approxhub.plugins import CalibratorInfo, host
from approxhub.plugins.guard import guarded
from approxhub.quantization.calibrators import Calibrator
from approxhub.quantization.mapping import CodeRange

__all__ = ["Quantizer", "make_calibrator", "scale_and_zero_point"]


_NOT_FINITE = "NaN or infinity reached a quantiser; no code stands for it"


def make_calibrator(name: str) -> Calibrator:
    """Make a fresh calibrator by name; those that plug-ins bring too.

    Raises
    ------
    NotFoundError
        If none has that name.
    PluginError
        If it cannot be loaded.
    """
    info = host().get("approxhub_calibrators", CalibratorInfo, name)
    with guarded(f"calibrator {name!r}"):
        return info.load()()


def scale_and_zero_point(low: Tensor, high: Tensor, codes: CodeRange) -> tuple[Tensor, Tensor]:
    """Scale and zero point with which `codes` cover a range.

    The range is widened to hold 0, so that real zero has a code of its own. Symmetric:
    ``s = max(|low|, |high|) / qmax``, ``z = 0``. Affine: ``s = (high - low) / (qmax - qmin)``,
    ``z = round_half_even(qmin - low / s)``. (B. Jacob et al., CVPR 2018,
    DOI 10.1109/CVPR.2018.00286.)

    Parameters
    ----------
    low, high : Tensor of float32
        The range, of any one shape.
    codes : CodeRange
        The codes to use.

    Returns
    -------
    scale : Tensor of float32
        Positive; 1 where the range is empty.
    zero_point : Tensor of int32
    """
    low, high = low.clamp(max=0).to(torch.float32), high.clamp(min=0).to(torch.float32)
    if codes.affine:
        steps = codes.qmax - codes.qmin
        span = high - low
        # A range of more than the largest float32 is divided before it is subtracted.
        scale = torch.where(torch.isinf(span), high / steps - low / steps, span / steps)
    else:
        scale = torch.maximum(-low, high) / codes.qmax
    info = torch.finfo(torch.float32)
    scale = torch.where(scale >= info.tiny, scale, torch.ones_like(scale)).clamp(max=info.max)
    if not codes.affine:
        return scale, torch.zeros_like(scale, dtype=torch.int32)
    zero = torch.round(codes.qmin - low / scale).clamp(codes.qmin, codes.qmax)
    return scale, zero.to(torch.int32)


class _FakeQuantize(torch.autograd.Function):
    """Real values of the codes forward, the straight-through gradient inside their range."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, real: Tensor, inside: Tensor) -> Tensor:
        ctx.save_for_backward(inside)
        return real

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None


class Quantizer(nn.Module):
    """Turns real numbers into codes ``q = clamp(round_half_even(x / s) + z, qmin, qmax)``.

    Its state (range, scale, zero point) moves only in :meth:`observe`; quantising never moves it.

    Parameters
    ----------
    codes : CodeRange
        The codes it may produce.
    channels : int, optional
        One scale for each index of `axis`; one for all when not given.
    axis : int
        The channel axis.
    calibrator : str
        Name of the calibrator that chooses its range.
    device : torch.device, optional
        Where its state is.

    Attributes
    ----------
    range_min, range_max : Tensor of float32
        The range that was found, shape () or (channels,).
    scale : Tensor of float32
    zero_point : Tensor of int32

    Examples
    --------
    >>> from approxhub import OperandFormat
    >>> q = Quantizer(CodeRange.full(OperandFormat(8, signed=False)))
    >>> q.observe(torch.tensor([-1.0, 1.55]))
    >>> q.codes(torch.tensor([-1.0, 0.0, 1.55, 9.0])).tolist()
    [0.0, 100.0, 255.0, 255.0]
    """

    range_min: Tensor
    range_max: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        codes: CodeRange,
        *,
        channels: int | None = None,
        axis: int = 0,
        calibrator: str = "minmax",
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        shape = () if channels is None else (channels,)
        self.code_range = codes
        self.axis = None if channels is None else axis
        self.calibrator_name = calibrator
        self.calibrator = make_calibrator(calibrator)
        self.calibrated = False
        self.register_buffer("range_min", torch.zeros(shape, device=device))
        self.register_buffer("range_max", torch.zeros(shape, device=device))
        self.register_buffer("scale", torch.ones(shape, device=device))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32, device=device))

    # --- state ----------------------------------------------------------------

    @torch.no_grad()
    def reset(self) -> None:
        """Back to the state of a new quantiser."""
        for buffer, value in (
            (self.range_min, 0),
            (self.range_max, 0),
            (self.scale, 1),
            (self.zero_point, 0),
        ):
            buffer.fill_(value)
        self.restart()

    def restart(self, calibrator: str | None = None) -> None:
        """Forget the range and start a fresh calibrator, of another name if given."""
        self.calibrator_name = calibrator or self.calibrator_name
        self.calibrator = make_calibrator(self.calibrator_name)
        self.calibrated = False

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Let the calibrator see a tensor, and take over its range.

        Raises
        ------
        CalibrationError
            If `x` holds NaN or infinity; the state is unchanged then.
        """
        if x.numel() == 0 or x.is_meta:
            return
        x = x.detach().to(torch.float32)
        if not torch.isfinite(x).all():
            raise CalibrationError(
                "NaN or infinity in a tensor that a range is taken from; check inputs and weights"
            )
        self.calibrator.observe(x, self.axis)
        self.set_range(*self.calibrator.range())

    @torch.no_grad()
    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Cover a given range; scale and zero point follow from it.

        Raises
        ------
        CalibrationError
            If the range has the wrong shape, is not finite, or is upside down.
        """
        low, high = (
            torch.as_tensor(t, dtype=torch.float32, device=self.scale.device) for t in (low, high)
        )
        if low.shape != self.scale.shape or high.shape != self.scale.shape:
            raise CalibrationError(
                f"a range of shape {tuple(self.scale.shape)} is needed, got {tuple(low.shape)} "
                f"and {tuple(high.shape)}"
            )
        if not (torch.isfinite(low) & torch.isfinite(high) & (low <= high)).all():
            raise CalibrationError(f"not a range: {low.tolist()} to {high.tolist()}")
        self.range_min.copy_(low)
        self.range_max.copy_(high)
        self._derive()
        self.calibrated = True

    def set_codes(self, codes: CodeRange) -> None:
        """Use other codes for the same range."""
        self.code_range = codes
        if self.calibrated:
            self._derive()

    def resume(self) -> None:
        """Let the calibrator go on from the range in the state, e.g. after loading one."""
        self.calibrator = make_calibrator(self.calibrator_name)
        if self.calibrated:
            self.calibrator.resume(self.range_min, self.range_max)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Quantizer:
        # model.half() must not round the scales: they stay float32 and only change device.
        def keep(t: Tensor) -> Tensor:
            moved = fn(t)
            return t.to(moved.device) if moved.dtype != t.dtype else moved

        super()._apply(keep, recurse)  # type: ignore[no-untyped-call]
        return self

    @torch.no_grad()
    def _derive(self) -> None:
        scale, zero_point = scale_and_zero_point(self.range_min, self.range_max, self.code_range)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)

    # --- quantising -------------------------------------------------------------

    def _along(self, t: Tensor, dims: int) -> Tensor:
        """A scale or zero point shaped to broadcast along the channel axis."""
        if self.axis is None:
            return t
        shape = [1] * dims
        shape[self.axis] = -1
        return t.reshape(shape)

    def codes(self, x: Tensor) -> Tensor:
        """Codes of a tensor, as float32 integers.

        Raises
        ------
        CalibrationError
            If the quantiser has no range yet, or `x` holds NaN or infinity. (In compiled code
            the latter is a RuntimeError with the same words.)
        """
        return self._codes(x)[0]

    def _codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes after and before clamping."""
        if not self.calibrated:
            raise CalibrationError(
                "this quantiser has no range yet: run approxhub.calibrate(model, batches) first, "
                "or a forward pass in training mode"
            )
        x = x.to(torch.float32)
        self._refuse_what_has_no_code(x)
        free = torch.round(x / self._along(self.scale, x.dim()))
        free = free + self._along(self.zero_point, x.dim())
        return free.clamp(self.code_range.qmin, self.code_range.qmax), free

    @staticmethod
    def _refuse_what_has_no_code(x: Tensor) -> None:
        if torch.compiler.is_compiling():
            torch._assert_async(torch.isfinite(x).all(), _NOT_FINITE)
        elif not (x.is_meta or torch.isfinite(x).all()):
            raise CalibrationError(_NOT_FINITE)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Real values of codes: ``(q - z) * s``, float32."""
        z, s = (self._along(t, codes.dim()) for t in (self.zero_point, self.scale))
        return (codes - z) * s

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise a tensor.

        Parameters
        ----------
        x : Tensor of float
            Real values.

        Returns
        -------
        real : Tensor of float32
            The real values of the codes. Its gradient is passed straight to `x` where `x` was
            not clamped, and is zero elsewhere (Y. Bengio et al., arXiv 1308.3432).
        codes : Tensor of float32
            The codes, from the same rounding.

        Raises
        ------
        CalibrationError
            If the quantiser has no range yet, or `x` holds NaN or infinity.
        """
        with torch.no_grad():
            codes, free = self._codes(x)
            real = self.dequantize(codes)
            inside = codes == free
        if x.requires_grad and torch.is_grad_enabled():
            real = _FakeQuantize.apply(x, real, inside)  # type: ignore[no-untyped-call]
        return real, codes

    def extra_repr(self) -> str:
        """Codes, axis and calibrator."""
        r = self.code_range
        axis = "" if self.axis is None else f", axis={self.axis}"
        state = "" if self.calibrated else ", not calibrated"
        kind = "affine" if r.affine else "symmetric"
        return f"{r.qmin}..{r.qmax} {kind}, {self.calibrator_name}{axis}{state}"
