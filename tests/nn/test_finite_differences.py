"""Gradients against finite differences in float64: of float layers, and of what is smooth of ours.

A rounding has no derivative. But with what each rounding has added held fixed, a layer is smooth,
and the straight-through and the learned scales' gradient are by definition those of this function.
A gradient table is the derivative of a product that is smooth in its operands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from campaigns import layers as campaign
from torch import Tensor, nn

import approxhub as ah
from approxhub.nn import ApproxLayer
from approxhub.nn.gradients import GivenTables
from approxhub.quantization import LearnedQuantizer, Quantizer

pytestmark = pytest.mark.filterwarnings(  # torch's
    "ignore:Using padding='same' with even kernel", "ignore:LSTM with projections"
)
every_kind = pytest.mark.parametrize("kind", campaign.KINDS, ids=str)


def _made(kind: Any, **options: Any) -> Any:
    """A layer of random weights that has seen data."""
    layer = getattr(ah.nn, kind.name)(
        *kind.arguments, multiplier=ah.exact(8, False), **dict(kind.options), **options
    )
    campaign.randomise(layer)
    layer.eval().train()
    return layer


def _inputs(kind: Any, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    shapes = kind.shapes
    return [(torch.randn(s, dtype=dtype) * 1.5 + 0.4).requires_grad_() for s in shapes]


def _weighted(found: list[Tensor]) -> Tensor:
    """A number of all outputs, of which each counts differently."""
    generator = torch.Generator().manual_seed(3)
    parts = [(t.double() * torch.randn(t.shape, generator=generator)).sum() for t in found]
    return torch.stack(parts).sum()


def _check_slopes(
    number: Callable[[], Tensor], leaves: list[Tensor], grads: list[Tensor], tolerance: float
) -> None:
    """Central differences along two random directions of each leaf are what its gradient says."""
    size = 1e-6
    for leaf, grad in zip(leaves, grads, strict=True):
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            step = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    leaf.add_(step, alpha=sign * size)
                    ends.append(number().item())
                    leaf.sub_(step, alpha=sign * size)
            slope, said = (ends[0] - ends[1]) / (2 * size), (grad.double() * step).sum().item()
            scale = max(1.0, float((grad.double() * step).abs().sum()))
            assert abs(slope - said) <= tolerance * scale, (leaf.shape, slope, said)


# --- float layers ---------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("training", [False, True])
def test_float_mode(kind, training):
    """In mode float, gradients by inputs and by parameters are slopes, of folded statistics too."""
    layer = _made(kind, mode="float").double().train(training)
    inputs = _inputs(kind, torch.float64)
    leaves = [*inputs, *layer.parameters()]
    # Statistics of a batch must not move from one call to the next.
    momentum = getattr(layer, "norm", nn.BatchNorm1d(1))
    momentum.momentum = 0.0

    def number() -> Tensor:
        return _weighted(campaign._called(layer, kind, inputs))

    grads = torch.autograd.grad(number(), leaves, allow_unused=True)
    found = [torch.zeros_like(t) if g is None else g for g, t in zip(grads, leaves, strict=True)]
    _check_slopes(number, leaves, found, 1e-7)


# --- roundings held fixed ---------------------------------------------------------------


class Held:
    """The roundings of a pass: first noted, then made again in the same order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.noted: list[tuple[Quantizer, Tensor, Tensor, Tensor]] = []
        self.left: list[Any] = []
        usual = Quantizer.quantize_unread

        def noting(q: Quantizer, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.noted.append((q, *self._steps(q, x.detach())))
            return usual(q, x, *args, **kwargs)

        monkeypatch.setattr(Quantizer, "quantize_unread", noting)

    @staticmethod
    def _along(q: Quantizer, t: Tensor, dims: int) -> Tensor:
        return t if q.axis is None else t.reshape(-1, *[1] * (dims - 1))

    def _steps(self, q: Quantizer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What rounding adds, in steps; the steps that are kept; and where none was clamped."""
        zero = self._along(q, q.zero_point, x.dim()).double()
        steps = x.double() / self._along(q, q.scale, x.dim()).double()
        free = torch.round(steps)
        kept = torch.minimum(
            torch.maximum(free, q.code_range.qmin - zero), q.code_range.qmax - zero
        )
        return free - steps, kept, kept == free

    def __call__(self, x: Tensor) -> Tensor:
        """The next rounding, as a smooth function of a tensor and of the quantiser's scale."""
        q, added, kept, inside = self.left.pop(0)
        whole = x.reshape(added.shape)
        scale = q.scale.double()
        if isinstance(q, LearnedQuantizer):
            scale = torch.exp2(q.log2_scale.double())
        scale = self._along(q, scale, whole.dim())
        steps = torch.where(inside, whole / scale + added, kept)
        return (steps * scale).reshape(x.shape)


def _smooth(part: ApproxLayer, held: Held) -> Callable[..., Tensor]:
    """A part of a layer in float64, its roundings held fixed."""

    def matmul(x: Tensor, right: Tensor) -> Tensor:
        return held(x) @ held(right)

    def folded(weight: Tensor, bias: Any, x: Tensor, call: Callable[..., Tensor]) -> Any:
        norm = getattr(part, "norm", None)
        if norm is None:
            return weight, bias
        mean, var = norm.running_mean, norm.running_var
        if norm.training:
            y = call(x, weight, bias)
            others = [d for d in range(y.dim()) if d != 1]
            var, mean = torch.var_mean(y, others, correction=0)
        scale = norm.weight * torch.rsqrt(var + norm.eps)
        shift = norm.bias - mean * scale
        bias = shift if bias is None else shift + bias * scale
        return weight * scale.reshape(-1, *[1] * (weight.dim() - 1)), bias

    def forward(x: Tensor) -> Tensor:
        weight, bias = part.weight, part.bias
        if weight.dim() == 2:
            call: Any = F.linear
        elif isinstance(part, nn.modules.conv._ConvTransposeNd):
            weight = campaign.outputs_first(weight, part.groups)
            transposed = getattr(F, f"conv_transpose{weight.dim() - 2}d")

            def call(x: Tensor, w: Tensor, b: Any) -> Tensor:
                back = campaign.outputs_first(w, part.groups)
                return transposed(x, back, b, part.stride, part.padding, part.output_padding,
                                  part.groups, part.dilation)  # fmt: skip
        else:
            plain = getattr(F, f"conv{weight.dim() - 2}d")

            def call(x: Tensor, w: Tensor, b: Any) -> Tensor:
                return plain(x, w, b, part.stride, part.padding, part.dilation, part.groups)

        weight, bias = folded(weight, bias, x, call)
        return call(held(x), held(weight), bias)

    return matmul if isinstance(part, ah.nn.Matmul) else forward


HELD = [
    *((kind, False, False) for kind in campaign.KINDS),
    *((kind, False, True) for kind in campaign.KINDS if kind.name.startswith("Normalized")),
    *((kind, True, True) for kind in campaign.KINDS),
    *(pytest.param(kind, True, False, marks=pytest.mark.slow) for kind in campaign.KINDS),
]


@pytest.mark.parametrize(("kind", "learned", "training"), HELD, ids=str)
def test_with_roundings_held_fixed(kind, learned, training, monkeypatch):
    """Straight-through gradients, and those of learned scales, are slopes of the whole layer."""
    layer = _made(kind, mode="exact")
    with torch.no_grad():
        campaign._called(layer, kind, [t * 0.8 for t in _inputs(kind)])
    quantizers = []
    parts = [m for m in layer.modules() if isinstance(m, ApproxLayer)]
    if learned:
        for part in parts:
            for name in ("input_quantizer", "weight_quantizer"):
                made = LearnedQuantizer.from_quantizer(getattr(part, name))
                made.learning = True
                setattr(part, name, made)
                quantizers.append(made)
    layer.train(training)
    if hasattr(layer, "norm"):
        layer.norm.momentum = 0.0
    inputs = _inputs(kind)
    leaves = [*inputs, *layer.parameters()]
    held = Held(monkeypatch)
    outputs = campaign._called(layer, kind, inputs)
    grads = [
        torch.zeros_like(t) if g is None else g
        for g, t in zip(
            torch.autograd.grad(_weighted(outputs), leaves, allow_unused=True), leaves, strict=True
        )
    ]
    # The factor by which LSQ scales its gradients is no part of the slope.
    sizes = {id(q): added.numel() for q, added, *_ in held.noted}
    for number, leaf in enumerate(leaves):
        for q in quantizers:
            if leaf is q.log2_scale and id(q) in sizes:
                share = sizes[id(q)] // q.scale.numel()
                grads[number] = grads[number] * math.sqrt(share * q.code_range.largest)
    double = [t.detach().double() for t in inputs]
    layer.double()
    for q in quantizers:  # which keep to float32, whatever a model is turned into
        q.log2_scale = nn.Parameter(q.log2_scale.double())
    named = [*double, *layer.parameters()]
    for part in parts:
        monkeypatch.setattr(part, "forward", _smooth(part, held), raising=False)

    def number() -> Tensor:
        held.left = list(held.noted)
        found = _weighted(campaign._called(layer, kind, double))
        assert not held.left
        return found

    monkeypatch.setattr(Quantizer, "quantize_unread", None)  # no rounding is made any more
    torch.testing.assert_close(number(), _weighted(outputs), rtol=1e-5, atol=1e-4)
    _check_slopes(number, named, grads, 1e-4)


# --- smooth products ------------------------------------------------------------------------


def _bilinear(a: Any, b: Any) -> Any:
    return 3 * a * b + 5 * a - 7 * b


def _quadratic(a: Any, b: Any) -> Any:
    return 4 * a * b + a * a - 2 * b * b + 9


def _wave(a: Any, b: Any) -> Any:
    lib = torch if isinstance(a, Tensor) else np
    return a * b + 40 * lib.sin(a / 5) * lib.cos(b / 7)


SMOOTH = {  # what each estimate gets right, but for the ends of an operand
    "lre": _bilinear,
    "table-1d(half_window=1)": _bilinear,
    "table-2d(half_window=3,tolerance=1e-6)": _quadratic,
    "given": _wave,
}


@pytest.mark.parametrize("gradient", SMOOTH)
@pytest.mark.parametrize("name", ["Linear", "Conv2d", "ConvTranspose2d", "Matmul"])
@pytest.mark.parametrize("signed", [False, True])
def test_tables_of_smooth_products(gradient, name, signed):
    """Gradients by tables are slopes of sums of a product that is smooth in its operands.

    The function is taken at the codes; what is compared is the change of its sums with them.
    """
    kind = next(k for k in campaign.KINDS if k.name == name)
    product = SMOOTH[gradient]
    f = ah.OperandFormat(7, signed)
    values = np.arange(f.min, f.max + 1)
    a, b = values[:, None].astype(np.float64), values[None, :].astype(np.float64)
    order = f.values() - f.min
    table = np.rint(product(a, b))[order][:, order].astype(np.int64)
    m = ah.Multiplier.from_table(table, name="smooth", a_signed=signed, b_signed=signed)
    layer = getattr(ah.nn, name)(
        *kind.arguments, multiplier=m, **dict(kind.options),
        gradient="straight-through" if gradient == "given" else gradient,
    )  # fmt: skip
    if gradient == "given":
        h = 1e-4  # derivatives by differences, too
        tables = [
            (product(a + h, b) - product(a - h, b)) / (2 * h),
            (product(a, b + h) - product(a, b - h)) / (2 * h),
        ]
        made = [t[order][:, order] for t in tables]
        layer.set_gradient(GivenTables(*made, tolerance=1e-6))
    # Inside of the range: at the ends the tables have no window.
    inputs = [torch.rand(s) * 1.4 - 0.6 for s in kind.shapes]
    ends = torch.tensor(-1.0), torch.tensor(1.2)
    layer.input_quantizer.set_range(*ends)
    if name == "Matmul":
        layer.weight_quantizer.set_range(*ends)
    else:
        with torch.no_grad():
            layer.weight.uniform_(-0.6, 0.8)
        q = layer.weight_quantizer
        q.set_range(*(torch.full_like(q.range_min, float(e)) for e in ends))
        layer.training = False  # without fitting the range of the weights
    layer.eval()
    operands = inputs if name == "Matmul" else [*inputs, layer.weight.detach()]
    leaves = [inputs[0].requires_grad_(), inputs[1].requires_grad_()] if name == "Matmul" else [
        inputs[0].requires_grad_(), layer.weight]  # fmt: skip
    grads = list(torch.autograd.grad(_weighted([layer(*inputs)]), leaves))
    met = (
        campaign.batched_meetings(2, 2, 4, 3) if name == "Matmul"
        else campaign.linear_meetings(4, 4, 3) if name == "Linear" else campaign.meetings(kind)
    )  # fmt: skip
    if name == "ConvTranspose2d":
        operands[1] = campaign.outputs_first(operands[1], layer.groups)
        grads[1] = campaign.outputs_first(grads[1], layer.groups)
    qs = (layer.input_quantizer, layer.weight_quantizer)
    real = [q(t.detach())[0].double() for q, t in zip(qs, operands, strict=True)]
    scales = [float(q.scale.reshape(-1)[0]) for q in qs]
    zeros = [float(q.zero_point.reshape(-1)[0]) for q in qs]

    def number() -> Tensor:
        codes = [t.reshape(-1) / s + z for t, s, z in zip(real, scales, zeros, strict=True)]
        padded = torch.cat([codes[0], torch.tensor([zeros[0]], dtype=torch.float64)])
        u, v = padded[torch.from_numpy(met.x)], codes[1][torch.from_numpy(met.w)]
        each = product(u, v) - zeros[0] * v - zeros[1] * u
        sums = torch.zeros(len(met.channel), dtype=torch.float64)
        sums.index_add_(0, torch.from_numpy(met.out), each * scales[0] * scales[1])
        shape = (2, 2, 3) if name == "Linear" else met.shape
        return _weighted([sums.reshape(shape)])

    _check_slopes(number, real, grads, 2e-4)
