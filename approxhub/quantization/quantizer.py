"""The quantiser: real numbers to codes, with one rounding for the table and for the gradient."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from approxhub.backends import real
from approxhub.errors import CalibrationError, CheckpointError, InputError, MappingError
from approxhub.quantization.calibrators import (
    Calibrator,
    CodesAware,
    MinMax,
    MovingAverage,
    extremes,
)
from approxhub.quantization.mapping import CodeRange
from approxhub.quantization.names import make_calibrator
from approxhub.quantization.ranks import Mergeable, all_reduce, in_a_group
from approxhub.quantization.scales import scale_and_zero_point
from approxhub.reading import capturing, eager_checks, may_read, on_host

__all__ = ["Quantizer"]

_NOT_FINITE = "NaN or infinity reached a quantiser; no code stands for it"
NO_RANGE = "NaN or infinity in a tensor that a range is taken from; check inputs and weights"


def require(holds: Tensor, message: str) -> Tensor | None:
    """Refuse what does not hold; compiled code, which cannot branch on data, does so as it runs.

    On a device nobody waits to find out: the answer is given back there.
    """
    if torch.compiler.is_compiling() and holds.device.type == "cpu":
        torch._assert_async(holds, message)
    elif not may_read(holds):
        return None if holds.is_meta else holds
    elif not holds:
        raise CalibrationError(message)
    return None


class _FakeQuantize(torch.autograd.Function):
    """Real values of the codes forward, the straight-through gradient inside their range."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, real: Tensor, inside: Tensor) -> Tensor:
        ctx.save_for_backward(inside)
        return real

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return masked(grads[0], inside), None, None


def masked(grad: Tensor, inside: Tensor) -> Tensor:
    """A gradient where a mask of bool is set, and zero elsewhere."""
    # Bytes are multiplied as they are read; a mask of bool is made one of floats first.
    return grad * inside.view(torch.uint8)


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
        Name of the calibrator that chooses its range, with options if wanted
        (``'percentile(99.9)'``).
    power_of_two : bool
        Whether scales are powers of two; see
        :func:`~approxhub.quantization.scale_and_zero_point`. Stored in the ``state_dict``, and
        taken over from one that is loaded, as its scales are.
    device : torch.device, optional
        Where its state is.

    Attributes
    ----------
    range_min, range_max : Tensor of float32
        The range that was found, shape () or (channels,).
    scale : Tensor of float32
    zero_point : Tensor of int32
    fixed : bool
        Whether scale and zero point were given by :meth:`adopt`, and stay.
    synchronized : bool
        Whether what it observes is that of all processes of a group; see
        :func:`approxhub.synchronize`. A setting of this process, not part of the state.

    Examples
    --------
    >>> from approxhub import OperandFormat
    >>> q = Quantizer(CodeRange.full(OperandFormat(8, signed=False)))
    >>> q.observe(torch.tensor([-1.0, 1.55]))
    >>> q.codes(torch.tensor([-1.0, 0.0, 1.55, 9.0])).tolist()
    [0.0, 100.0, 255.0, 255.0]
    """

    calibrator_name: str
    calibrator: Calibrator
    calibrated: bool
    synchronized: bool = False
    fixed: bool = False
    range_min: Tensor
    range_max: Tensor
    scale: Tensor
    zero_point: Tensor
    # Whether `range_min` and `range_max` are what the calibrator has seen: a tensor, for on a
    # device nobody reads whether its first one was finite. No buffer: it follows from `calibrated`.
    _seen: Tensor
    _full: CodeRange  # of the mapping, while fixed codes may be fewer

    def __init__(
        self,
        codes: CodeRange,
        *,
        channels: int | None = None,
        axis: int = 0,
        calibrator: str = "minmax",
        power_of_two: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        shape = () if channels is None else (channels,)
        self.code_range = codes
        self.axis = None if channels is None else axis
        self.power_of_two = power_of_two
        self.synchronized = False
        self._seen = torch.zeros((), dtype=torch.bool, device=device)
        self.restart(calibrator)
        self.register_buffer("range_min", torch.zeros(shape, device=device))
        self.register_buffer("range_max", torch.zeros(shape, device=device))
        self._make_scale(torch.ones(shape, device=device))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32, device=device))

    # --- state ----------------------------------------------------------------

    def _make_scale(self, scale: Tensor) -> None:
        self.register_buffer("scale", scale)

    def _set_scale(self, scale: Tensor) -> None:
        self.scale.copy_(scale)

    @torch.no_grad()
    def reset(self) -> None:
        """Back to the state of a new quantiser."""
        for buffer in (self.range_min, self.range_max, self.zero_point):
            buffer.zero_()
        self._set_scale(torch.ones_like(self.range_min))
        self.restart()

    def restart(self, calibrator: str | None = None) -> None:
        """Forget the range and start a fresh calibrator, of another name if given."""
        name = calibrator or self.calibrator_name
        fresh = self._fresh(name)
        if self.fixed:
            self._loosen()
            if isinstance(fresh, CodesAware):
                fresh.use_codes(self.code_range, self.power_of_two)
        self.calibrator = fresh
        self.calibrator_name = name
        self.calibrated = False
        self._seen.zero_()

    def _fresh(self, name: str) -> Calibrator:
        calibrator = make_calibrator(name)
        if isinstance(calibrator, CodesAware):
            calibrator.use_codes(self.code_range, self.power_of_two)
        return calibrator

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Let the calibrator see a tensor, and take over its range.

        Where :attr:`synchronized` is set it sees the smallest and largest value of all processes.

        Raises
        ------
        CalibrationError
            If `x` holds NaN or infinity; the state is unchanged then. On a device, with the
            calibrators ``'minmax'`` and ``'moving-average'``, such an `x` moves nothing and is
            not reported, outside of :func:`approxhub.eager_checks`; if it is the first, the range
            is 0 to 0 until a finite one comes, which counts as the first.
        """
        if x.is_meta or self.fixed:
            return
        x = x.detach().to(torch.float32)
        if self.synchronized and in_a_group():
            x = self._extremes_of_all(x)
        if x.numel() == 0:
            return
        unread = self._unread()
        if may_read(x):
            self._observe_read(x)
        elif unread is not None:
            self._observe_unread(x, unread)
        else:
            with eager_checks():
                self._observe_read(x)

    def _observe_read(self, x: Tensor) -> None:
        # NaN and infinity are in the extremes, if anywhere: one pass over `x`.
        axis = self.axis
        unread = self._catch_up()
        if unread is not None:  # a calibrator that looks at nothing else
            x, axis = torch.stack(extremes(x, axis), dim=-1), None if axis is None else 0
            ends = x
        else:
            ends = torch.stack(torch.aminmax(x))
        require(torch.isfinite(ends).all(), NO_RANGE)
        self.calibrator.observe(x, axis)
        self._cover(*self.calibrator.range())
        self._seen.fill_(True)
        if unread is not None and not on_host(x):
            unread.follow(self.range_min, self.range_max)  # which a graph may move at any time

    def _observe_unread(self, x: Tensor, calibrator: MinMax) -> None:
        """As :meth:`observe`, without a look at the numbers: what is not finite moves nothing."""
        if not (self.calibrated or torch.compiler.is_compiling() or capturing(x)):
            self._seen.zero_()
        calibrator.observe_in_place(x, self.axis, self.range_min, self.range_max, self._seen)
        self._derive()
        self.calibrated = True

    def _unread(self) -> MinMax | None:
        """The calibrator, if it is one that need not read; others may well."""
        c = self.calibrator
        return c if isinstance(c, MinMax) and type(c) in (MinMax, MovingAverage) else None

    def _catch_up(self) -> MinMax | None:
        """As :meth:`_unread`, and it has forgotten what was not finite."""
        c = self._unread()
        if c and self.calibrated and not torch.compiler.is_compiling() and not self._seen:
            c.forget()
        return c

    def _extremes_of_all(self, x: Tensor) -> Tensor:
        """Smallest and largest value in any process, (2,) or with `axis` first; none is empty."""
        if not isinstance(self.calibrator, MinMax):
            raise CalibrationError(
                f"calibrator {self.calibrator_name!r} cannot follow several processes in "
                "training; use 'moving-average' or 'minmax'"
            )
        assert self.axis in (None, 0)
        ends = torch.full((2, *self.range_min.shape), -torch.inf, device=x.device)
        if x.numel():
            low, high = extremes(x, self.axis)
            # A maximum of NaN is whatever the library makes of it; infinity is refused as well.
            ends = torch.stack([-low, high]).nan_to_num(nan=torch.inf, neginf=torch.inf)
        negative, high = all_reduce(ends, "max")
        return torch.stack([-negative, high], dim=-1)

    @torch.no_grad()
    def merge(self) -> None:
        """Take in what this quantiser's like in all other processes have seen.

        All processes of torch's default group must call this at once, and then have one range. A
        calibrator that is not :class:`~approxhub.quantization.Mergeable` has the hull of ranges.
        """
        if isinstance(self.calibrator, Mergeable):
            self._catch_up()
            self.calibrator.merge(self.range_min)
            if all_reduce(torch.tensor(self.calibrated, device=self.scale.device).int(), "max"):
                self._cover(*self.calibrator.range())
                self._seen.fill_(True)
            return
        ends = torch.stack([-self.range_min, self.range_max])
        negative, high = all_reduce(ends if self.calibrated else ends - torch.inf, "max")
        if (-negative <= high).all():
            self.set_range(-negative, high)

    def fit(self, x: Tensor) -> None:
        """Forget what was seen, and fit the range to one tensor alone.

        Raises
        ------
        CalibrationError
            If `x` holds NaN or infinity; the quantiser is unchanged then.
        """
        if self.fixed:
            return
        before = self.calibrator, self.calibrated
        # Weights are fitted at every step: without looking up a name, if it can be done.
        fresh = type(self.calibrator) is MinMax
        self.calibrator = MinMax() if fresh else self._fresh(self.calibrator_name)
        self.calibrated = False
        try:
            if not may_read(x):
                self._seen.zero_()
            self.observe(x)
        except Exception:
            self.calibrator, self.calibrated = before
            raise

    @torch.no_grad()
    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Cover a given range; scale and zero point follow from it.

        What is observed afterwards moves it as if it had been found: what the calibrator saw
        before counts no more.

        Parameters
        ----------
        low, high : Tensor of float
            Of shape (), or (channels,).

        Raises
        ------
        CalibrationError
            If the range has the wrong shape, is not finite, or is upside down.
        """
        self._cover(low, high)
        self.calibrator.resume(self.range_min, self.range_max)
        self._seen.fill_(True)

    def _cover(self, low: Tensor, high: Tensor) -> None:
        """As :meth:`set_range`, with a range that the calibrator has found."""
        low, high = (
            torch.as_tensor(t, dtype=torch.float32, device=self.scale.device) for t in (low, high)
        )
        if low.shape != self.scale.shape or high.shape != self.scale.shape:
            raise CalibrationError(
                f"a range of shape {tuple(self.scale.shape)} is needed, got {tuple(low.shape)} "
                f"and {tuple(high.shape)}"
            )
        fits = (torch.isfinite(low) & torch.isfinite(high) & (low <= high)).all()
        if torch.compiler.is_compiling():
            require(fits, "a range must be finite, and not upside down")
        elif not fits:
            raise CalibrationError(f"not a range: {low.tolist()} to {high.tolist()}")
        self._take_range(low, high)

    def _take_range(self, low: Tensor, high: Tensor) -> None:
        self.range_min.copy_(low)
        self.range_max.copy_(high)
        self._derive()
        self.calibrated = True

    @torch.no_grad()
    def adopt(self, scale: Tensor, zero_point: Tensor, limits: tuple[int, int]) -> None:
        """Take over a scale and zero point that were found elsewhere, as they are, and keep them.

        From now on nothing that is observed moves them, until :meth:`restart`.

        Parameters
        ----------
        scale : Tensor of float
            Of shape (), or (channels,).
        zero_point : Tensor of integers
            As `scale`.
        limits : (int, int)
            Smallest and largest code, inside the operand.

        Raises
        ------
        CalibrationError
            If a number is not one of its kind, or the shapes do not fit.
        MappingError
            If the operand does not hold these codes, or has no zero point.
        """
        scale, zero_point = (t.detach().to(self.scale.device) for t in (scale, zero_point))
        if scale.shape != self.range_min.shape or zero_point.shape != scale.shape:
            raise CalibrationError(
                f"a scale and a zero point of shape {tuple(self.range_min.shape)} are needed, got "
                f"{tuple(scale.shape)} and {tuple(zero_point.shape)}"
            )
        values = scale.to(torch.float32)
        if not (torch.isfinite(values) & (values > 0) & (values == scale)).all():
            raise CalibrationError(f"scales must be positive float32 numbers, got {scale.tolist()}")
        codes = self._inside(self._full if self.fixed else self.code_range, limits)
        inside = (zero_point >= codes.qmin) & (zero_point <= codes.qmax)
        if not (inside & (zero_point == zero_point.round())).all():
            raise CalibrationError(
                f"zero points must be codes of {codes.qmin}..{codes.qmax}, got "
                f"{zero_point.tolist()}"
            )
        if zero_point.any() and not codes.affine:
            raise MappingError(
                f"zero point {zero_point.tolist()}: this operand mapping has none here; choose "
                "one that has, as 'affine-signed'"
            )
        self._full = self._full if self.fixed else self.code_range
        self.code_range, self.fixed, self.calibrated = codes, True, True
        self._set_scale(values)
        self.zero_point.copy_(zero_point)
        for end, code in ((self.range_min, codes.qmin), (self.range_max, codes.qmax)):
            end.copy_((code - self.zero_point) * values)
        self.calibrator.resume(self.range_min, self.range_max)
        self._seen.fill_(True)

    @staticmethod
    def _inside(codes: CodeRange, limits: tuple[int, int]) -> CodeRange:
        """Codes between limits, of the operand of others."""
        (low, high), f = limits, codes.format
        # With a zero point the datapath may leave fewer codes than the operand has.
        least, most = (codes.qmin, codes.qmax) if codes.affine else (f.min, f.max)
        if not least <= low < high <= most:
            raise MappingError(
                f"codes {low}..{high} do not fit an operand ({f}) with the codes {least}..{most}; "
                "choose another circuit, mapping or datapath"
            )
        return CodeRange(codes.format, low, high, codes.affine)

    def _loosen(self) -> None:
        """Let scale and zero point move again, over all codes of the mapping."""
        self.code_range, self.fixed = self._full, False

    def checked_codes(self, codes: CodeRange, power_of_two: bool | None = None) -> CodeRange:
        """The codes that it will have after :meth:`set_codes`.

        Raises
        ------
        MappingError
            If scale and zero point are fixed, and do not fit.
        """
        if not self.fixed:
            return codes
        if power_of_two and (torch.frexp(self.scale)[0] != 0.5).any():
            raise MappingError("fixed scales are not powers of two; calibrate anew")
        if self.zero_point.any() and not codes.affine:
            raise MappingError(
                "this quantiser has a fixed zero point, and the operand mapping none; "
                "calibrate anew"
            )
        return self._inside(codes, (self.code_range.qmin, self.code_range.qmax))

    def set_codes(self, codes: CodeRange, power_of_two: bool | None = None) -> None:
        """Use other codes for the same range, and other scales if said.

        Fixed codes and scales stay as they are, for another operand.

        Raises
        ------
        MappingError
            If scale and zero point are fixed, and do not fit; nothing is changed then.
        """
        if self.fixed:
            self.code_range, self._full = self.checked_codes(codes, power_of_two), codes
            self.power_of_two = self.power_of_two if power_of_two is None else power_of_two
            return
        self.code_range = codes
        if power_of_two is not None:
            self.power_of_two = power_of_two
        if isinstance(self.calibrator, CodesAware):
            self.calibrator.use_codes(codes, self.power_of_two)
        if self.calibrated:
            self._derive()

    def resume(self) -> None:
        """Let the calibrator go on from the range in the state, e.g. after loading one."""
        self.calibrator = self._fresh(self.calibrator_name)
        self._seen.fill_(self.calibrated)
        if self.calibrated:
            self.calibrator.resume(self.range_min, self.range_max)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Quantizer:
        # model.half() must not round the scales: they stay float32 and only change device.
        def keep(t: Tensor) -> Tensor:
            moved = fn(t)
            return t.to(moved.device) if moved.dtype != t.dtype else moved

        super()._apply(keep, recurse)  # type: ignore[no-untyped-call]
        self._seen = keep(self._seen)
        return self

    @torch.no_grad()
    def _derive(self) -> None:
        scale, zero_point = scale_and_zero_point(
            self.range_min, self.range_max, self.code_range, self.power_of_two
        )
        self._set_scale(scale)
        self.zero_point.copy_(zero_point)

    def get_extra_state(self) -> Tensor:
        """Whether scales are powers of two, and the limits of fixed codes, in a uint8 tensor.

        One element, 0 or 1, for a quantiser whose range is found here; JSON for a fixed one.
        """
        if not self.fixed:
            return torch.tensor([self.power_of_two], dtype=torch.uint8)
        state = {
            "schema": 2,
            "power_of_two": self.power_of_two,
            "limits": [self.code_range.qmin, self.code_range.qmax],
        }
        return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what :meth:`get_extra_state` gave.

        Raises
        ------
        CheckpointError
            If it is something else, of a newer version, or its codes do not fit the operand.
        """
        power_of_two, limits = self.readable(state)
        if self.fixed:
            self._loosen()
        self.power_of_two = power_of_two
        if limits is not None:
            self._full, self.fixed = self.code_range, True
            self.code_range = self._inside(self.code_range, limits)

    def readable(self, state: Any) -> tuple[bool, tuple[int, int] | None]:
        """What an extra state holds, if this quantiser can have it.

        Returns
        -------
        power_of_two : bool
        limits : (int, int) or None
            Of fixed codes.

        Raises
        ------
        CheckpointError
            As :meth:`set_extra_state`.
        """
        values = state.tolist() if isinstance(state, Tensor) else state
        if values in ([0], [1]):
            return values == [1], None
        try:
            saved = json.loads(bytes(values))
            version = saved["schema"]
            if version == 2:
                low, high = (int(v) for v in saved["limits"])
                self._inside(self._full if self.fixed else self.code_range, (low, high))
                return bool(saved["power_of_two"]), (low, high)
        except MappingError as error:
            raise CheckpointError(f"a checkpoint with fixed codes: {error}") from None
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"a quantiser's extra state must be [0], [1] or JSON, got {values}: {error}"
            ) from error
        raise CheckpointError(
            f"a quantiser's extra state has version {version}, this ApproxHub reads 2; install a "
            "newer one"
        )

    # --- quantising -------------------------------------------------------------

    def along(self, t: Tensor, dims: int) -> Tensor:
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
            the latter is a RuntimeError with the same words. On a device NaN stays NaN, outside of
            :func:`approxhub.eager_checks`.)
        """
        return self._codes(x)[0]

    def _require_channels(self, x: Tensor) -> None:
        if self.axis is None:
            return
        channels = self.scale.numel()
        if not -x.dim() <= self.axis < x.dim() or x.shape[self.axis] != channels:
            raise InputError(
                f"this quantiser has {channels} channels along axis {self.axis}, which a tensor of "
                f"shape {tuple(x.shape)} does not have"
            )

    def _require_range(self) -> None:
        if not self.calibrated:
            raise CalibrationError(
                "this quantiser has no range yet: run approxhub.calibrate(model, batches) first, "
                "or a forward pass in training mode"
            )

    def _codes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Codes after and before clamping; and, unread, whether all numbers were finite."""
        self._require_range()
        self._require_channels(x)
        x = x.to(torch.float32)
        finite = require(torch.isfinite(x).all(), _NOT_FINITE)
        free = torch.round(x / self.along(self.scale, x.dim()))
        free = free + self.along(self.zero_point, x.dim())
        return free.clamp(self.code_range.qmin, self.code_range.qmax), free, finite

    def dequantize(self, codes: Tensor) -> Tensor:
        """Real values of codes: ``(q - z) * s``, float32."""
        z, s = (self.along(t, codes.dim()) for t in (self.zero_point, self.scale))
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
        value, codes = self.quantize(x, torch.float32, with_real=True)
        assert value is not None
        return value, codes

    def quantize(
        self, x: Tensor, dtype: torch.dtype, with_real: bool
    ) -> tuple[Tensor | None, Tensor]:
        """As calling the quantiser, with codes of a given type, and real values only if wanted.

        On a CPU the native engine does it in one pass, with the same bits; on a device its backend.
        There NaN is not looked for, outside of :func:`approxhub.eager_checks`.

        Parameters
        ----------
        x : Tensor of float
            Real values.
        dtype : torch.dtype
            Of the codes.
        with_real : bool
            Whether the real values of the codes, with their gradient, are wanted.

        Returns
        -------
        real : Tensor of float32 or None
        codes : Tensor of `dtype`

        Raises
        ------
        CalibrationError
            If the quantiser has no range yet, or `x` holds NaN or infinity.
        """
        return self.quantize_unread(x, dtype, with_real)[:2]

    def quantize_unread(
        self, x: Tensor, dtype: torch.dtype, with_real: bool
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """As :meth:`quantize`, and whether all of `x` was finite, where nobody has looked.

        Returns
        -------
        real : Tensor of float32 or None
        codes : Tensor of `dtype`
        finite : Tensor of one bool, or None
            On a device, which is not waited for: where it is false, codes are any. None where all
            is known to be finite.
        """
        self._require_range()
        self._require_channels(x)
        unread = None
        with torch.no_grad():
            limits = (self.code_range.qmin, self.code_range.qmax)
            done = real.quantize(
                x.detach().to(torch.float32), self.scale, self.zero_point, limits, self.axis,
                dtype, with_real,
            )  # fmt: skip
            if done is not None:
                codes, value, inside, finite = done
                if isinstance(finite, Tensor):
                    unread = require(finite, _NOT_FINITE)
                elif not finite:
                    raise CalibrationError(_NOT_FINITE)
            else:
                found, free, unread = self._codes(x)
                codes = found.to(dtype)
                value = self.dequantize(found) if with_real else None
                inside = found == free if with_real else None
        if value is not None and inside is not None and torch.is_grad_enabled():
            value = self.differentiable(x, value, codes, inside)
        return value, codes, unread

    def differentiable(self, x: Tensor, value: Tensor, codes: Tensor, inside: Tensor) -> Tensor:
        """Real values of codes, with their gradient where one is wanted."""
        if not x.requires_grad:
            return value
        found: Tensor = _FakeQuantize.apply(x, value, inside)  # type: ignore[no-untyped-call]
        return found

    def extra_repr(self) -> str:
        """Codes, axis and calibrator."""
        r = self.code_range
        axis = "" if self.axis is None else f", axis={self.axis}"
        state = ", fixed" if self.fixed else "" if self.calibrated else ", not calibrated"
        kind = "affine" if r.affine else "symmetric"
        powers = ", power_of_two" if self.power_of_two else ""
        return f"{r.qmin}..{r.qmax} {kind}{powers}, {self.calibrator_name}{axis}{state}"
