"""What all approximate layers share: multiplier, mapping, quantisers, modes, state."""

from __future__ import annotations

import functools
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from approxhub.backends import real
from approxhub.errors import CalibrationError, CheckpointError, InputError, MappingError
from approxhub.multiplier import Multiplier, exact, resolved
from approxhub.nn.gradients import (
    ApproximateProduct,
    Arithmetic,
    ConvProduct,
    ConvTransposeProduct,
    Gradient,
    Grid,
    LinearProduct,
    Product,
    make_gradient,
    without_autocast,
)
from approxhub.nn.gradients.untraced import compilable
from approxhub.nn.noise import Noise
from approxhub.nn.recomputation import recomputing
from approxhub.nn.sums import Multiplication, Sums, channel_terms, corrected, sum_products
from approxhub.ops import accumulator_dtype, code_dtype, register
from approxhub.quantization import (
    CodeRange,
    Datapath,
    OperandMapping,
    Quantizer,
    integer_bias,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MODES", "ApproxLayer", "dequantize", "guard_loading", "require_real"]

MODES = ("float", "exact", "approximate", "noise")
_STATE_SCHEMA = 2  # 1 had no datapath, which was the default one
_WEIGHT_NAMES = {"quantized_weight", "_quantized_weight"}
_QUANTIZERS = ("input_quantizer", "weight_quantizer")
_OUTPUTS_FIRST = (LinearProduct, ConvProduct, ConvTransposeProduct)  # products with such weights

_log = logging.getLogger("approxhub")


@functools.lru_cache(maxsize=32)
def _exact_like(a_bits: int, a_signed: bool, b_bits: int, b_signed: bool) -> Multiplier:
    return exact(a_bits, a_signed, b_bits=b_bits, b_signed=b_signed)


def require_real(x: Any, layer: nn.Module) -> None:
    """Refuse what is not a tensor of real numbers.

    Raises
    ------
    InputError
    """
    name = type(layer).__name__
    if not isinstance(x, Tensor):
        raise InputError(
            f"{name} takes real activations, got {type(x).__name__}; a tensor is needed, "
            "of a numpy array torch.from_numpy(x)"
        )
    if not x.is_floating_point():
        raise InputError(
            f"{name} takes real activations, got {x.dtype}; for integers use approxhub.matmul"
        )


def dequantize(
    sums: Sums,
    bound: int,
    zero_points: tuple[Tensor, Tensor],
    scale: Tensor,
    channel_dim: int,
    bias: Tensor | None = None,
) -> Tensor:
    """Turn integer sums into real numbers: the one epilogue of every layer and backend.

    ``acc - z_x * sum(w) - z_w * sum(x) + k * z_x * z_w`` in int64, then float32 times
    ``s_x * s_w`` (B. Jacob et al., CVPR 2018, DOI 10.1109/CVPR.2018.00286, equation 7), then plus
    the bias; one of integers comes before the scale.

    Parameters
    ----------
    sums : Sums
        Sums of products, and of the operands that carry zero points.
    bound : int
        No sum, and nothing on the way to it, is larger than this.
    zero_points : (Tensor of integers, Tensor of integers)
        Of activations, (), and of weights, () or (channels,).
    scale : Tensor of float32, () or (channels,)
        Of one unit of the sums.
    channel_dim : int
        Dimension of the sums that holds the output channels.
    bias : Tensor of float32 or of integers, (channels,), or None

    Returns
    -------
    Tensor of float32
        Of the shape of the sums.
    """
    channels = sums.acc.shape[channel_dim]
    scale = scale.expand(channels)
    terms = None  # where no operand carries a zero point, there is nothing to correct
    z_x, z_w = zero_points
    if sums.w_sums is not None or sums.x_sums is not None:
        z_x, z_w = z_x.to(torch.int64), z_w.to(torch.int64)
        terms = channel_terms(sums, z_x, z_w, channels)
    if bias is None or bias.is_floating_point():
        done = real.dequantize(sums.acc, bound, terms, z_w, sums.x_sums, scale, bias, channel_dim)
        if done is not None:
            return done
    else:
        terms, bias = bias if terms is None else terms + bias, None
    shape = [1] * sums.acc.dim()
    shape[channel_dim] = -1
    total = corrected(sums, terms, z_w, channel_dim)
    y = total.to(torch.float32) * scale.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


class _IntegerBias(torch.autograd.Function):
    """Hands a result that holds a rounded bias on, with the gradient of the bias behind it."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, bias: Tensor, channel_dim: int) -> Tensor:
        ctx.others = [d for d in range(y.dim()) if d != channel_dim % y.dim()]
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        return grads[0], grads[0].sum(ctx.others), None


class ApproxLayer(nn.Module):
    """Base of the layers that multiply through a multiplier.

    Attributes
    ----------
    multiplier : Multiplier
        The circuit, as it was given.
    effective_multiplier : Multiplier
        The circuit with the wrapper of its mapping.
    mapping : OperandMapping
        How activations and weights become operands.
    datapath : Datapath
        What hardware does around its multipliers.
    mode : {'float', 'exact', 'approximate', 'noise'}
        What a forward pass does.
    noise : Noise or None
        What mode ``'noise'`` adds to exact products.
    compensation : Tensor of float32, (channels,), or None
        What mode ``'approximate'`` adds with the bias; see :func:`approxhub.compensate`.
    input_quantizer, weight_quantizer : Quantizer
    """

    weight: Tensor
    bias: Any  # of torch, a tensor or None
    input_quantizer: Quantizer
    weight_quantizer: Quantizer
    noise: Noise | None
    compensation: Tensor | None

    _channel_dim: ClassVar[int] = -1
    _datapath: Datapath = Datapath()
    _path: str = ""  # in the model that was converted or calibrated last, for messages
    # Whether the range of the activations stays in training, too.
    _holds_range: bool = False
    # Sees the codes of a pass, where somebody captures statistics.
    _capture: Callable[[Tensor, Tensor, Product], None] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Plug-ins may still have the old name of a quantised weight: the first in the order of
        # inheritance serves for both.
        super().__init_subclass__(**kwargs)
        names: Mapping[str, Any] = next(
            vars(c) for c in cls.__mro__ if not _WEIGHT_NAMES.isdisjoint(vars(c))
        )
        weight = names.get("quantized_weight")
        if weight is None:
            weight = names["_quantized_weight"]
            warnings.warn(
                f"{cls.__name__}._quantized_weight is called quantized_weight now; the old name "
                "will be ignored from version 0.3 on",
                DeprecationWarning,
                stacklevel=2,
            )
        cls._quantized_weight = cls.quantized_weight = weight  # type: ignore[method-assign]

    # --- making -----------------------------------------------------------------

    def _setup(
        self,
        multiplier: Multiplier | str,
        mapping: OperandMapping | str | None = None,
        gradient: str = "straight-through",
        calibrator: str = "moving-average",
        per_channel: bool = True,
        mode: str = "approximate",
        datapath: Datapath | str | None = None,
    ) -> None:
        m = resolved(multiplier)
        if mapping is None:
            mapping = OperandMapping.default(m)
        elif isinstance(mapping, str):
            mapping = OperandMapping.parse(mapping)
        datapath = _parsed(datapath)
        effective, x_codes, w_codes = _resolve(m, mapping, datapath)
        self._use(m, effective, mapping)
        self._datapath = datapath
        self.set_gradient(gradient)
        self.mode = mode
        self.noise = None
        self.register_buffer("compensation", None)
        self._compensated: str | None = None
        self._compensating = False
        self._observing = False
        self._make_quantizers(x_codes, w_codes, calibrator, per_channel)
        for quantizer in (self.input_quantizer, self.weight_quantizer):
            quantizer.set_codes(quantizer.code_range, datapath.scales == "power-of-two")
        self.observe_weight()
        self.register_load_state_dict_pre_hook(_before_load)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_after_load)  # type: ignore[no-untyped-call]

    def _make_quantizers(
        self, x_codes: CodeRange, w_codes: CodeRange, calibrator: str, per_channel: bool
    ) -> None:
        device, channels = self.weight.device, len(self.quantized_weight())
        self.input_quantizer = Quantizer(x_codes, calibrator=calibrator, device=device)
        self.weight_quantizer = Quantizer(
            w_codes, channels=channels if per_channel else None, device=device
        )

    def _use(self, m: Multiplier, effective: Multiplier, mapping: OperandMapping) -> None:
        self._multiplier, self._mapping = m, mapping
        a, b = effective.a, effective.b
        self._arithmetic = {
            "approximate": effective,
            "exact": _exact_like(a.bits, a.signed, b.bits, b.signed),
        }
        self._arithmetic["noise"] = self._arithmetic["exact"]
        self._register()

    def _register(self) -> None:
        self._handles = {mode: register(m) for mode, m in self._arithmetic.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._register()
        # What follows from the rest, which older pickles lack.
        self._compiled_gradient = compilable(self._gradient)
        self._compare_circuits()

    def _adopt(self, layer: nn.Module) -> Self:
        """Take over a float layer's parameters (not copies) and its place in the world."""
        assert isinstance(layer.weight, Tensor)
        self.weight = layer.weight
        self.register_parameter("bias", layer._parameters["bias"])
        self._settle(layer.weight.device)
        self.train(layer.training)
        return self

    def _settle(self, device: torch.device) -> None:
        """Start quantisers that were made on the meta device anew, on a real one."""
        for quantizer in (self.input_quantizer, self.weight_quantizer):
            quantizer.to_empty(device=device)
            quantizer.reset()
        self.observe_weight()

    # --- what it is ---------------------------------------------------------------

    @property
    def multiplier(self) -> Multiplier:
        """The circuit, as it was given."""
        return self._multiplier

    @property
    def effective_multiplier(self) -> Multiplier:
        """The circuit with the wrapper of its mapping, e.g. a sign-magnitude one."""
        return self._arithmetic["approximate"]

    @property
    def exact_multiplier(self) -> Multiplier:
        """The exact circuit of the same operands."""
        return self._arithmetic["exact"]

    @property
    def mapping(self) -> OperandMapping:
        """How activations and weights become operands."""
        return self._mapping

    @property
    def datapath(self) -> Datapath:
        """What hardware does around its multipliers."""
        return self._datapath

    @property
    def mode(self) -> str:
        """``'float'``, ``'exact'``, ``'approximate'`` or ``'noise'``."""
        return self._mode

    @mode.setter
    def mode(self, value: str) -> None:
        if value not in MODES:
            raise InputError(f"mode must be one of {', '.join(MODES)}, got {value!r}")
        self._mode = value

    def set_multiplier(
        self, multiplier: Multiplier | str, mapping: OperandMapping | str | None = None
    ) -> None:
        """Use another multiplier, keeping weights and calibrated ranges.

        Parameters
        ----------
        multiplier : Multiplier or str
            A multiplier or its id.
        mapping : OperandMapping or str, optional
            The mapping to use; when not given the present one, or the default of the new
            multiplier where the present one does not fit.

        Raises
        ------
        MappingError
            If the multiplier does not fit; the layer is unchanged then.
        """
        m = resolved(multiplier)
        if isinstance(mapping, str):
            mapping = OperandMapping.parse(mapping)
        if mapping is None:
            mapping = self._mapping
            try:
                mapping.resolve(m)
            except MappingError:
                mapping = OperandMapping.default(m)
        self._change(m, mapping, self._datapath)

    def set_datapath(self, datapath: Datapath | str) -> None:
        """Let hardware do something else around its multipliers, keeping calibrated ranges.

        Parameters
        ----------
        datapath : Datapath or str
            For instance ``'zero_point=before,padding=skip'``; what is not named has its default.

        Raises
        ------
        MappingError
            If `datapath` is not of that form, or does not fit the multiplier; the layer is
            unchanged then.
        """
        self._change(self._multiplier, self._mapping, _parsed(datapath))

    def _change(self, m: Multiplier, mapping: OperandMapping, datapath: Datapath) -> None:
        effective, x_codes, w_codes = _resolve(m, mapping, datapath)
        # What somebody has told a quantiser itself stays.
        powers = None
        if datapath.scales != self._datapath.scales:
            powers = datapath.scales == "power-of-two"
        both = ((self.input_quantizer, x_codes), (self.weight_quantizer, w_codes))
        for quantizer, codes in both:
            quantizer.checked_codes(codes, powers)
        self._use(m, effective, mapping)
        self._datapath = datapath
        # The ranges stay; where the codes change, scale and zero point follow from them.
        for quantizer, codes in both:
            if codes != quantizer.code_range or powers is not None:
                quantizer.set_codes(codes, powers)
        self._compare_circuits()

    def set_gradient(self, gradient: str | Gradient) -> None:
        """Use another gradient.

        Parameters
        ----------
        gradient : str or Gradient
            Its name, with options if wanted (``'table-2d(half_window=8)'``), or one made by hand.

        Raises
        ------
        NotFoundError
            If no gradient has that name.
        InputError
            If it has no such option, or `gradient` is something else.
        """
        made = make_gradient(gradient) if isinstance(gradient, str) else gradient
        if not callable(getattr(made, "backward", None)):
            raise InputError(
                f"a gradient is a name or an object with a method backward, got {gradient!r}"
            )
        self._gradient, self._compiled_gradient = made, compilable(made)
        self.gradient = gradient if isinstance(gradient, str) else repr(gradient)

    def set_compensation(self, shift: Tensor | None) -> None:
        """Add something with the bias, in mode ``'approximate'`` with the present multiplier.

        Parameters
        ----------
        shift : Tensor of float32, (channels,), or None
            For each output channel; None for nothing. With another multiplier, mapping or
            datapath it has no effect.
        """
        if shift is not None:
            channels = len(self.quantized_weight())
            if not isinstance(shift, Tensor) or shift.shape != (channels,):
                raise InputError(
                    f"a compensation has one number for each of {channels} channels, got "
                    f"{tuple(shift.shape) if isinstance(shift, Tensor) else repr(shift)}"
                )
        self.compensation = shift
        self._compensated = None if shift is None else self._circuit()
        self._compare_circuits()

    def _compare_circuits(self) -> None:
        """Find out whether the compensation is for the present circuit: not in a traced pass."""
        self._compensating = self._compensated == self._circuit()

    def _circuit(self) -> str:
        """What a compensation is for."""
        path = f" {self._datapath}" if str(self._datapath) else ""
        return f"{self._multiplier.identity} {self._mapping}{path}"

    def with_compensation(self, bias: Tensor | None) -> Tensor | None:
        """A bias, and with it what :meth:`set_compensation` gave, where that has an effect."""
        if self.compensation is None or self._mode != "approximate" or not self._compensating:
            return bias
        shift = self.compensation.to(torch.float32)
        return shift if bias is None else bias + shift

    def observe_weight(self) -> None:
        """Fit the weight quantiser to the weights as they are now.

        Raises
        ------
        CalibrationError
            If the weights hold NaN or infinity; the quantiser is unchanged then.
        """
        try:
            self._fit_weight(self.quantized_weight())
        except CalibrationError as error:
            raise self._located(error) from None

    def _fit_weight(self, weight: Tensor) -> None:
        if not weight.is_meta:
            self.weight_quantizer.fit(_whole(weight))

    def train(self, mode: bool = True) -> ApproxLayer:
        """As :meth:`torch.nn.Module.train`; leaving training fits the weight quantiser."""
        if self.training and not mode and "weight_quantizer" in self._modules:
            self.observe_weight()
        return super().train(mode)

    # --- forward ------------------------------------------------------------------

    def quantized_weight(self) -> Tensor:
        """The weight as it meets its quantiser, with the output channels first."""
        return self.weight

    _quantized_weight = quantized_weight

    def quantized_bias(self) -> Tensor | None:
        """What is added to the products of the quantised weight, (channels,)."""
        bias: Tensor | None = self.bias
        return bias

    def _float_forward(self, x: Tensor, *args: Any) -> Tensor:
        """What torch's layer does."""
        raise NotImplementedError

    def _integer_path(self, x: Tensor, *args: Any) -> Tensor:
        """Check the input, bring it into the shape of the product, and :meth:`_run` that."""
        raise NotImplementedError

    def _integer_forward(
        self, x_codes: Tensor, w_codes: Tensor, bias: Tensor | None, product: Any
    ) -> Tensor:
        """Real result of operands, plus `bias` if given; the arithmetic is that of the mode."""
        sums = sum_products(product, x_codes, w_codes, self.multiplication())
        return self._dequantized(sums.acc, sums.terms, sums.x_sums, sums.w_sums, bias)

    def multiplication(self) -> Multiplication:
        """How this mode multiplies operands, and the zero points that they carry."""

        def carried(quantizer: Quantizer) -> Tensor | None:
            after = self._datapath.zero_point == "after"
            return quantizer.zero_point if after and quantizer.code_range.affine else None

        return Multiplication(
            self._arithmetic[self._mode], self._handles[self._mode], self._handles["exact"],
            carried(self.input_quantizer), carried(self.weight_quantizer),
        )  # fmt: skip

    def data_quantizers(self) -> tuple[Quantizer, ...]:
        """The quantisers whose ranges come from data, and not from a weight."""
        return (self.input_quantizer,)

    def _observe(self, x: Tensor, *args: Any) -> None:
        """Show the inputs of a pass to the quantisers that find their ranges from data."""
        self.input_quantizer.observe(x)

    def _observe_operands(self, x: Tensor, w: Tensor) -> None:
        """What a pass in training does to the quantisers."""
        if not self._holds_range:
            self.input_quantizer.observe(x)
        self._fit_weight(w)

    def _multiplied_by(self) -> Arithmetic:
        """What the gradient has to know of this pass's products."""
        before = self._datapath.zero_point == "before"
        return Arithmetic(
            self._arithmetic[self._mode],
            Grid.of(self.input_quantizer, before),
            Grid.of(self.weight_quantizer, before),
        )

    def _checked(self, x: Tensor) -> Tensor:
        require_real(x, self)
        return x

    def _run(self, x: Tensor, product: Product, w: Tensor, bias: Tensor | None) -> Tensor:
        """Quantise, multiply through the circuit, and come back to real numbers."""
        if self.training and not recomputing():
            self._observe_operands(x, w)
        device = x.device.type
        # As torch: autocast leaves float64 alone.
        autocast = x.dtype != torch.float64 and _autocast(device)
        out_dtype = torch.get_autocast_dtype(device) if autocast else x.dtype
        needs_grad = torch.is_grad_enabled() and (x.requires_grad or w.requires_grad)
        with without_autocast(device):
            bias = self.with_compensation(None if bias is None else bias.to(torch.float32))
            whole = self._datapath.bias == "int32"
            # A real bias with a gradient is added where autograd sees it.
            later = not whole and (needs_grad or (bias is not None and bias.requires_grad))
            m = self.effective_multiplier
            real_x, x_codes, x_finite = self.input_quantizer.quantize_unread(
                x, code_dtype(m.a), needs_grad
            )
            real_w, w_codes, w_finite = self.weight_quantizer.quantize_unread(
                w, code_dtype(m.b), needs_grad
            )
            spoilt = _nan_unless(x_finite, w_finite)
            if spoilt is not None and not whole:
                # With a bias it costs no pass of its own.
                if bias is not None:
                    bias, spoilt = bias + spoilt, None
                elif not later and isinstance(product, _OUTPUTS_FIRST):
                    bias, spoilt = spoilt.expand(len(w)), None
            with torch.no_grad():
                x_codes = self.operand(x_codes, self.input_quantizer)
                w_codes = self.operand(w_codes, self.weight_quantizer)
                if self._capture is not None:
                    self._capture(x_codes, w_codes, product)
                y = self._integer_forward(x_codes, w_codes, None if later else bias, product)
            # What a function of our own gave, autograd lets nobody change in place.
            handed = None
            if needs_grad:
                compiling = torch.compiler.is_compiling()
                gradient = self._compiled_gradient if compiling else self._gradient
                y = handed = ApproximateProduct.apply(  # type: ignore[no-untyped-call]
                    real_x, real_w, y, gradient, product, self._multiplied_by()
                )
            if later and bias is not None:
                y = y + self._along_channels(bias, y)
            if whole and bias is not None and bias.requires_grad:
                y = handed = _IntegerBias.apply(  # type: ignore[no-untyped-call]
                    y, bias, self._channel_dim
                )
            if self._mode == "noise":
                y = self._with_noise(y, product.terms(w))
            if spoilt is not None:
                y = y + spoilt
        return y.to(out_dtype, copy=y is handed)

    def operand(self, codes: Tensor, quantizer: Quantizer) -> Tensor:
        """What of codes enters the multiplier."""
        if self._datapath.zero_point == "after" or not quantizer.code_range.affine:
            return codes
        # A difference fits the operand: the datapath leaves the codes a bit less.
        zero = quantizer.along(quantizer.zero_point, codes.dim())
        return (codes.to(torch.int32) - zero).to(codes.dtype)

    def _along_channels(self, t: Tensor, y: Tensor) -> Tensor:
        """A tensor of one number for each channel, or for all, shaped to broadcast against `y`."""
        shape = [1] * y.dim()
        shape[self._channel_dim] = -1
        return t.reshape(shape) if t.dim() else t

    def _with_noise(self, y: Tensor, terms: int) -> Tensor:
        if self.noise is None:
            raise InputError(
                f"{type(self).__name__} has no noise to add; give it one with approxhub.set_noise"
            )
        scale = self.input_quantizer.scale * self.weight_quantizer.scale
        drawn: Tensor = self.noise(y, terms) * self._along_channels(scale, y)
        return y + drawn

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """As the torch layer of the same name, in this layer's mode.

        Raises
        ------
        CalibrationError
            If a quantiser has no range yet, or NaN reaches one.
        InputError
            If the input is not of real numbers, or its shape does not fit.
        """
        try:
            if self._mode != "float":
                return self._integer_path(self._checked(x), *args)
            if self._observing:
                self._observe(self._checked(x), *args)
        except CalibrationError as error:
            raise self._located(error) from None
        return self._float_forward(x, *args)

    def _device(self) -> torch.device:
        return self.weight.device

    def _located(self, error: CalibrationError) -> CalibrationError:
        """An error that says in which layer it arose."""
        path = f"layer {self._path!r}, " if self._path else ""
        return CalibrationError(f"{path}{self._described()}: {error}")

    def _described(self) -> str:
        return f"{type(self).__name__}, weight {tuple(self.weight.shape)}"

    def _accumulator(self, k: int) -> torch.dtype:
        return accumulator_dtype(self._arithmetic[self._mode], k)

    def _dequantized(
        self,
        acc: Tensor,
        k: int,
        x_sums: Tensor | None,
        w_sums: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        """Real numbers of sums; `_channel_dim` of them are the output channels."""
        x, w = self.input_quantizer, self.weight_quantizer
        scale = x.scale * w.scale
        if self._datapath.zero_point == "before":
            x_sums = w_sums = None
        if bias is not None and self._datapath.bias == "int32":
            bias = integer_bias(bias, scale)
        bound = k * (
            self._arithmetic[self._mode].max_abs + 3 * x.code_range.largest * w.code_range.largest
        )
        sums, zeros = Sums(acc, k, x_sums, w_sums), (x.zero_point, w.zero_point)
        return dequantize(sums, bound, zeros, scale, self._channel_dim, bias)

    # --- state --------------------------------------------------------------------

    def get_extra_state(self) -> Tensor:
        """Multiplier, mapping and quantiser settings, as JSON in a uint8 tensor.

        A tensor, so that ``torch.load(weights_only=True)`` and safetensors hold it too.
        """
        state = {
            "schema": _STATE_SCHEMA,
            "multiplier": self._multiplier.id,
            "identity": self._multiplier.identity,
            "mapping": str(self._mapping),
            "datapath": str(self._datapath),
            "gradient": self.gradient,
            "calibrators": {n: getattr(self, n).calibrator_name for n in _QUANTIZERS},
            "calibrated": {n: getattr(self, n).calibrated for n in _QUANTIZERS},
        }
        if self._compensated is not None:
            state["compensated"] = self._compensated
        return torch.tensor(list(json.dumps(state, sort_keys=True).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Check a checkpoint's multiplier against this layer's, and take its quantiser settings.

        Raises
        ------
        CheckpointError
            If the checkpoint's multiplier has this one's id but another table, or the state is
            of a newer version.
        """
        saved = self._readable(state)
        mine = self._multiplier
        if saved["multiplier"] != mine.id:
            _log.warning(
                "checkpoint was made with multiplier %s; this layer keeps %s",
                saved["multiplier"],
                mine.id,
            )
        if saved["mapping"] != str(self._mapping):
            _log.warning(
                "checkpoint was made with operand mapping %s; this layer keeps %s",
                saved["mapping"],
                self._mapping,
            )
        if saved["datapath"] != str(self._datapath):
            _log.warning(
                "checkpoint was made with datapath %s; this layer keeps %s",
                saved["datapath"] or "default",
                str(self._datapath) or "default",
            )
        for name in _QUANTIZERS:
            quantizer = getattr(self, name)
            quantizer.calibrated = bool(saved["calibrated"][name])
        self._compensated = saved.get("compensated")
        self._compare_circuits()
        self._loaded_from = (saved["identity"], saved["mapping"], saved["datapath"])

    def _readable(self, state: Any) -> dict[str, Any]:
        """A checkpoint's settings, if it was not made with another circuit of this one's name."""
        saved = _decode(state)
        mine = self._multiplier
        if saved["multiplier"] == mine.id and saved["identity"] != mine.identity:
            raise CheckpointError(
                f"the checkpoint was made with another circuit under the name {mine.id}: its "
                f"content hash is {saved['identity']}, this one's {mine.identity}; "
                "find out which of the two tables is meant"
            )
        return saved

    def _refuse_others(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Refuse a checkpoint whose settings this layer cannot take."""
        extra = f"{prefix}_extra_state"
        if extra in state_dict:
            self._readable(state_dict[extra])
        for name in _QUANTIZERS:
            settings = f"{prefix}{name}._extra_state"
            if settings in state_dict:
                getattr(self, name).readable(state_dict[settings])

    def extra_repr(self) -> str:
        """The torch layer's, and multiplier, mapping and mode."""
        inner = super().extra_repr()
        path = f", datapath({self._datapath})" if str(self._datapath) else ""
        return (
            f"{inner}, multiplier={self._multiplier.id}, mapping={self._mapping}{path}, "
            f"{self._mode}"
        )


def _nan_unless(*finite: Tensor | None) -> Tensor | None:
    """What, added, makes NaN of a result unless all that nobody has looked at is true, or None.

    Added otherwise, -0.0 changes nothing, not even the sign of a zero.
    """
    unread = [f for f in finite if f is not None]
    if not unread:
        return None
    good = functools.reduce(torch.logical_and, unread)
    return torch.full_like(good, torch.nan, dtype=torch.float32).masked_fill(good, -0.0)


def guard_loading(module: nn.Module) -> None:
    """Let a module refuse another circuit's checkpoint before any of its layers has copied it."""
    hooks = module._load_state_dict_pre_hooks.values()
    if not any(getattr(h, "hook", h) is _refuse_others for h in hooks):
        module.register_load_state_dict_pre_hook(_refuse_others)  # type: ignore[no-untyped-call]


def _refuse_others(module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, ApproxLayer):
            layer._refuse_others(state_dict, f"{prefix}{name}." if name else prefix)


def _parsed(datapath: Datapath | str | None) -> Datapath:
    return datapath if isinstance(datapath, Datapath) else Datapath.parse(datapath or "")


def _resolve(
    m: Multiplier, mapping: OperandMapping, datapath: Datapath
) -> tuple[Multiplier, CodeRange, CodeRange]:
    """As :meth:`OperandMapping.resolve`, with the codes that the datapath leaves."""
    effective, x_codes, w_codes = mapping.resolve(m)
    return effective, datapath.codes(x_codes, "activations"), datapath.codes(w_codes, "weights")


def _whole(weight: Tensor) -> Tensor:
    """A weight of which this process may hold a shard only (FSDP2), in one piece."""
    gather: Callable[[], Tensor] | None = getattr(weight.detach(), "full_tensor", None)
    return weight if gather is None else gather()


def _autocast(device: str) -> bool:
    return device != "meta" and torch.is_autocast_enabled(device)


def _decode(state: Any) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = json.loads(bytes(state.cpu().tolist()))
        version = saved["schema"]
        if version == 1:
            saved["datapath"] = ""
            version = _STATE_SCHEMA
        if version == _STATE_SCHEMA:
            _ = [saved[key] for key in ("multiplier", "identity", "mapping", "datapath")]
            _ = [saved["calibrated"][name] for name in _QUANTIZERS]
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"a layer's extra state is unreadable: {error}") from error
    if version != _STATE_SCHEMA:
        raise CheckpointError(
            f"a layer's extra state has version {version}, this ApproxHub reads {_STATE_SCHEMA}; "
            "install a newer one"
        )
    return saved


def _before_load(module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Refuse another circuit's checkpoint, before anything is copied; let a float one load.

    A float checkpoint has none of our keys, and that is not an error.
    """
    assert isinstance(module, ApproxLayer)
    ours = [f"{prefix}{name}." for name in _QUANTIZERS]
    extra = f"{prefix}_extra_state"
    is_float = extra not in state_dict and not any(k.startswith(tuple(ours)) for k in state_dict)
    module.__dict__["_float_checkpoint"] = is_float
    module._refuse_others(state_dict, prefix)
    compensation = f"{prefix}compensation"
    shift = state_dict.get(compensation)
    if shift is not None:
        module.compensation = torch.zeros_like(shift, device=module._device())
    elif extra in state_dict or (is_float and _has_parameters(module, state_dict, prefix)):
        module.compensation = None  # of the layer that was saved, or of the weights before
    if is_float and isinstance(state_dict, dict):
        state_dict[extra] = module.get_extra_state()
        if module.compensation is not None:
            state_dict[compensation] = module.compensation
        given = state_dict.get(f"{prefix}weight")
        device = module._device() if given is None else given.device
        for name in _QUANTIZERS:
            for key, value in getattr(module, name).state_dict().items():
                if value.is_meta:  # nothing to keep: load_state_dict(assign=True) takes this
                    value = torch.full_like(value, int(key == "scale"), device=device)
                state_dict[f"{prefix}{name}.{key}"] = value


def _has_parameters(layer: ApproxLayer, state_dict: Mapping[str, Any], prefix: str) -> bool:
    """Whether a checkpoint has all of a layer's own parameters."""
    ours = {n for n, _ in layer.named_parameters() if not n.startswith(_QUANTIZERS)}
    return bool(ours) and all(f"{prefix}{n}" in state_dict for n in ours)


def _after_load(module: nn.Module, incompatible: Any) -> None:
    """Once weights and quantisers are in: make what follows from them follow."""
    assert isinstance(module, ApproxLayer)
    mine = (module.multiplier.identity, str(module.mapping), str(module.datapath))
    loaded = module.__dict__.pop("_loaded_from", mine)
    powers = None
    if Datapath.parse(loaded[2]).scales != module.datapath.scales:
        powers = module.datapath.scales == "power-of-two"
        module.weight_quantizer.set_codes(module.weight_quantizer.code_range, powers)
    # Saved in training, the range is that of the weights before the last step.
    module.observe_weight()
    if module.__dict__.pop("_float_checkpoint", False):
        return
    for quantizer in module.data_quantizers():
        if (
            loaded != mine and not quantizer.fixed
        ):  # its scales are for other codes: they follow from the ranges
            quantizer.set_codes(quantizer.code_range, powers)
        quantizer.resume()
