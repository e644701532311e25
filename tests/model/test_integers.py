"""Whole networks on integers alone, against a second implementation in numpy and Python."""

from __future__ import annotations

import copy
import io
import logging
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import approxhub as ah
from approxhub.errors import CalibrationError, ConversionError, InputError, OperandRangeError
from approxhub.model import IntegerNetwork
from approxhub.nn.integers import CodeGrid
from approxhub.quantization import CodeRange, LearnedQuantizer


class Residual(nn.Module):
    """Convolutions with and without padding, pooling, a residual sum, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.conv3 = nn.Conv2d(4, 5, (2, 1), stride=(1, 2), padding_mode="reflect", padding=(1, 0))
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        """Classify (N, 2, H, W)."""
        x = F.max_pool2d(torch.relu(self.norm(self.conv1(x))), 2)
        x = torch.relu(self.conv2(x) + x)
        x = F.avg_pool2d(self.conv3(x), (2, 1))
        return self.fc(x.mean((2, 3)))


# --- in numpy and Python ----------------------------------------------------------------


def fixed_point(factor: float) -> tuple[int, int]:
    """Mantissa of 31 bits and shift of a positive factor."""
    fraction, exponent = math.frexp(factor)
    mantissa, shift = round(fraction * 2**31), 31 - exponent
    if mantissa == 2**31:
        mantissa, shift = 2**30, shift - 1
    assert 1 <= shift <= 62
    return mantissa, shift


def requantised(total: np.ndarray, factor: float, grid: CodeGrid) -> np.ndarray:
    """Python's integers, of any size, multiplied and shifted."""
    mantissa, shift = fixed_point(factor)
    steps = [(int(v) * mantissa + (1 << (shift - 1))) >> shift for v in total.reshape(-1)]
    found = np.array(steps, np.int64).reshape(total.shape) + grid.zero_point
    return np.clip(found, grid.codes.qmin, grid.codes.qmax)


def weights(w: np.ndarray, quantizer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and zero points of a weight, one for each output channel."""
    along = (-1, *[1] * (w.ndim - 1))
    scale, zero = quantizer.scale.numpy(), quantizer.zero_point.numpy().astype(np.int64)
    codes = np.rint(w / scale.reshape(along)) + zero.reshape(along)
    r = quantizer.code_range
    return np.clip(codes, r.qmin, r.qmax).astype(np.int64), scale, zero


class Second:
    """The network of :class:`Residual`, one product after the other."""

    def __init__(self, model: nn.Module, network: IntegerNetwork) -> None:
        self.model, self.steps = model, dict(network.network.named_modules())

    def grid(self, layer) -> CodeGrid:
        """Of a layer's input."""
        q = layer.input_quantizer
        return CodeGrid(float(q.scale), int(q.zero_point), q.code_range)

    def products(self, layer, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Straight from the table."""
        m = layer.effective_multiplier
        return m.table.astype(np.int64)[x & (m.a.size - 1), w & (m.b.size - 1)]

    def layer(self, name: str, x: np.ndarray, grid: CodeGrid) -> np.ndarray:
        """A convolution or linear layer from its codes to those of `grid`."""
        layer = self.model.get_submodule(name)
        before, path = self.grid(layer), layer.datapath
        weight = layer.weight.detach().numpy()
        bias = None if layer.bias is None else layer.bias.detach().numpy()
        if name == "conv1":
            norm = layer.norm
            gain = torch.rsqrt(norm.running_var + norm.eps) * norm.weight
            weight = weight * gain.detach().numpy().reshape(-1, 1, 1, 1)
            shift = -norm.running_mean * gain + norm.bias
            bias = (shift + layer.bias * gain).detach().numpy()
        w, scale, zero = weights(weight, layer.weight_quantizer)
        linear = w.ndim == 2
        if linear:
            x, w = x[..., None, None], w[..., None, None]
        groups, stride = getattr(layer, "groups", 1), getattr(layer, "stride", (1, 1))
        sides = [(p, p) for p in getattr(layer, "padding", (0, 0))]
        real = np.ones((1, 1, *x.shape[2:]), bool)
        if getattr(layer, "padding_mode", "zeros") == "reflect":
            x = np.pad(x, [(0, 0), (0, 0), *sides], "reflect")
            real = np.ones((1, 1, *x.shape[2:]), bool)
        else:
            x = np.pad(x, [(0, 0), (0, 0), *sides], constant_values=before.zero_point)
            real = np.pad(real, [(0, 0), (0, 0), *sides])
        size = [(n - k) // s + 1 for n, k, s in zip(x.shape[2:], w.shape[2:], stride, strict=True)]
        total = np.zeros((len(x), len(w), *size), np.int64)
        for o, c, i, j in np.ndindex(*w.shape):
            at = (slice(i, i + (size[0] - 1) * stride[0] + 1, stride[0]),
                  slice(j, j + (size[1] - 1) * stride[1] + 1, stride[1]))  # fmt: skip
            channel = o // (len(w) // groups) * w.shape[1] + c
            a, b = x[:, channel][(slice(None), *at)], w[o, c, i, j]
            z_x, z_w = before.zero_point, zero[o]
            if path.zero_point == "before":
                found = self.products(layer, a - z_x, b - z_w)
            else:
                found = self.products(layer, a, b) - z_x * b - z_w * a + z_x * z_w
            if path.padding == "skip":
                found = found * real[0, 0][at]
            total[:, o] += found
        unit = np.float32(before.scale) * scale  # float32, as the layers have it
        if bias is not None:
            whole = np.rint(bias.astype(np.float64) / unit.astype(np.float64)).astype(np.int64)
            total += whole.reshape(1, -1, 1, 1)
        codes = np.stack(
            [
                requantised(total[:, o], before.scale * float(scale[o]) / grid.scale, grid)
                for o in range(len(w))
            ],
            1,
        )
        return codes[..., 0, 0] if linear else codes

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Codes of the input to codes of the output."""
        grids = {name: self.grid(self.model.get_submodule(name))
                 for name in ("conv1", "conv2", "conv3", "fc")}  # fmt: skip
        x = self.layer("conv1", x, grids["conv2"])
        x = np.maximum(x, grids["conv2"].zero_point)
        n, c, h, w = x.shape
        x = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))
        term = self.steps["conv2"].grid  # an output quantiser
        y = self.layer("conv2", x, term)
        scales = [term.scale, grids["conv2"].scale]
        out = grids["conv3"]
        factors = [s / out.scale for s in scales]
        _, shift = fixed_point(max(factors))
        m = [round(math.ldexp(f, shift)) for f in factors]
        total = (y - term.zero_point) * m[0] + (x - grids["conv2"].zero_point) * m[1]
        x = np.clip(((total + (1 << (shift - 1))) >> shift) + out.zero_point,
                    out.codes.qmin, out.codes.qmax)  # fmt: skip
        x = np.maximum(x, out.zero_point)
        pooled = self.steps["conv3"].grid
        x = self.layer("conv3", x, pooled) - pooled.zero_point
        n, c, h, w = x.shape
        x = x[:, :, : h // 2 * 2].reshape(n, c, h // 2, 2, w).sum(3)
        x = requantised(x, pooled.scale / pooled.scale / 2, pooled) - pooled.zero_point
        count = x.shape[2] * x.shape[3]
        x = requantised(x.sum((2, 3)), pooled.scale / grids["fc"].scale / count, grids["fc"])
        return self.layer("fc", x, self.steps["fc"].grid)


CASES = [
    ("symmetric", "8s", ""),
    ("symmetric", "8s", "padding=skip"),
    ("affine", "8u", ""),
    ("affine", "8u", "padding=skip,bias=int32,scales=power-of-two"),
    ("affine-signed", "8s", "zero_point=before"),
    ("affine-signed", "5s", "zero_point=before,padding=skip"),
]


def _odd(operands: str) -> ah.Multiplier:
    f = ah.OperandFormat.parse(operands)
    table = np.random.default_rng(3).integers(-3, 4, (f.size, f.size)) * f.size
    values = f.values()
    table = table + values[:, None] * values + (np.arange(f.size)[:, None] & 3)
    table[0, 0] = 64
    return ah.Multiplier.from_table(table, name="odd", a_signed=f.signed, b_signed=f.signed)


def _model(mapping="affine", operands="8u", path="", mode="approximate"):
    torch.manual_seed(4)
    net, x = Residual(), torch.randn(5, 2, 6, 7) + 0.4
    with torch.no_grad():
        for _ in range(3):
            net(x)
    made = ah.approximate(net, _odd(operands), mapping=mapping, datapath=path, fold_batch_norm=True)
    ah.calibrate(made, [x])
    ah.set_mode(made, mode)
    return made.eval(), x


class _Integers(TorchDispatchMode):
    """Counts operations, and refuses real numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.seen += 1
        for t in torch.utils._pytree.tree_leaves((args, kwargs, out)):
            if isinstance(t, torch.Tensor):
                assert not t.is_floating_point(), func
                assert not t.is_complex(), func
        return out


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(filter(None, c)))
def test_equals_numpy_bit_for_bit(case):
    """Every mapping and datapath: codes in, codes out, as numpy and Python's integers say."""
    model, x = _model(*case)
    network = ah.to_integers(model, [x])
    codes = network.quantize(x)
    with _Integers() as watched:
        found = network(codes)
    assert watched.seen > 20
    want = Second(model, network)(codes.numpy().astype(np.int64))
    assert len(np.unique(want)) > 5
    np.testing.assert_array_equal(found.numpy().astype(np.int64), want)
    assert found.dtype == codes.dtype
    np.testing.assert_array_equal(
        network.dequantize(found).numpy(),
        (want - network.output_grid.zero_point).astype(np.float32)
        * np.float32(network.output_grid.scale),
    )


def test_mode_exact_has_exact_products():
    """A model in mode exact becomes integers with true products."""
    model, x = _model(mode="exact")
    network = ah.to_integers(model, [x])
    ah.set_multiplier(model, ah.exact(8, False))
    ah.set_mode(model, "approximate")
    other = ah.to_integers(model, [x])
    codes = network.quantize(x)
    assert torch.equal(network(codes), other(codes))


def test_is_as_the_model_within_rounding():
    """It gives what the model gives, within a few steps of its output's codes."""
    model, x = _model("symmetric", "8s", "bias=int32", mode="exact")
    network = ah.to_integers(model, [x])
    near = (network.dequantize(network(network.quantize(x))) - model(x)).abs()
    assert near.max() < 6 * network.output_grid.scale


def test_the_model_stays_as_it_was():
    """Its state does not change, and the network shares none of it."""
    model, x = _model()
    before = copy.deepcopy(model.state_dict())
    network = ah.to_integers(model, [x])
    codes = network.quantize(x)
    first = network(codes)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with torch.no_grad():
        for t in model.state_dict().values():
            t.zero_()
    assert torch.equal(network(codes), first)


def test_copies_and_states():
    """Copies, pickles and its own state give the same codes; its state is of integers alone."""
    model, x = _model()
    network = ah.to_integers(model, [x])
    codes = network.quantize(x)
    want = network(codes)
    assert torch.equal(pickle.loads(pickle.dumps(network))(codes), want)
    assert not any(v.is_floating_point() for v in network.state_dict().values())
    other = copy.deepcopy(network)
    for t in other.state_dict().values():
        t.zero_()
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    assert not torch.equal(other(codes), want)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(codes), want)
    assert network(codes[:0]).shape == (0, 3)


# --- every operation ----------------------------------------------------------------------


class Of(nn.Module):
    """A layer, something behind it, and a layer again if its shape fits."""

    def __init__(self, dims: int, between) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        self.first = convolution(2, 4, 1)
        self.between = between if isinstance(between, nn.Module) else None
        self.call = between

    def forward(self, x):
        """Apply both."""
        y = self.first(x)
        return self.call(y) if self.between is None else self.between(y)


BETWEEN = {
    "relu": (2, nn.ReLU()),
    "relu6": (2, nn.ReLU6()),
    "hardtanh": (2, nn.Hardtanh(-0.3, 0.4)),
    "clamp": (2, lambda x: torch.clamp(x, -0.2, max=0.5)),
    "clamp method": (2, lambda x: x.clamp(min=-0.1)),
    "max 1d": (1, nn.MaxPool1d(3, 2, 1)),
    "max 2d": (2, nn.MaxPool2d((3, 2), 2, 1, ceil_mode=True)),
    "max 3d": (3, nn.MaxPool3d(2)),
    "max function": (2, lambda x: F.max_pool2d(x, 2, stride=1, dilation=2)),
    "average 1d": (1, nn.AvgPool1d(2, 3, 1)),
    "average 2d": (2, nn.AvgPool2d(2, (1, 2), (1, 0))),
    "average 3d": (3, lambda x: F.avg_pool3d(x, (1, 2, 2))),
    "divisor": (2, nn.AvgPool2d(2, divisor_override=3)),
    "adaptive": (2, nn.AdaptiveAvgPool2d((2, None))),
    "adaptive function": (1, lambda x: F.adaptive_avg_pool1d(x, 1)),
    "mean": (2, lambda x: x.mean(-1, keepdim=True)),
    "flatten": (2, nn.Flatten()),
    "view": (2, lambda x: x.view(x.size(0), -1)),
    "reshape": (2, lambda x: x.reshape(x.shape[0], x.shape[1] // 2, -1)),
    "permute": (2, lambda x: x.permute(0, 2, 3, 1).contiguous()[..., 1:]),
    "dropout": (2, nn.Sequential(nn.Dropout(), nn.Identity())),
    "pixel shuffle": (2, nn.PixelShuffle(2)),
    "add": (2, lambda x: torch.add(x, x.relu(), alpha=2)),
    "double": (2, lambda x: x + x),
    "subtract": (2, lambda x: x - torch.sigmoid(x)),
    "concatenate": (2, lambda x: torch.cat([x, torch.tanh(x)], dim=1)),
    "gelu": (2, nn.GELU()),
    "leaky": (2, lambda x: F.leaky_relu(x, 0.3)),
    "hardswish": (2, nn.Hardswish()),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_operations_are_those_of_torch(name):
    """Each operation is within one step of torch's, computed on what its input's codes stand for.

    Clamps, maxima and shapes, which make no new number, are equal.
    """
    torch.manual_seed(2)
    dims, between = BETWEEN[name]
    model = Of(dims, between)
    x = torch.randn(3, 2, *(6, 4, 4)[:dims])
    if dims == 1:
        x = torch.randn(3, 2, 12)
    made = ah.calibrate(ah.approximate(model, ah.exact(8), skip=()), [x]).eval()
    network = ah.to_integers(made, [x])
    codes = network.quantize(x)
    with _Integers():
        found = network(codes)
    inner = network.network.first
    real = inner.grid.dequantize(inner(codes))
    want = between(real) if not isinstance(between, nn.Module) else between.eval()(real)
    got = network.dequantize(found)
    assert got.shape == want.shape
    tables = name in ("subtract", "concatenate")  # rounded once more
    steps = 2.01 if tables else 0.51
    assert (got - want).abs().max() <= steps * network.output_grid.scale
    if name in ("relu", "max 1d", "max 2d", "max 3d", "max function", "flatten", "view",
                "reshape", "permute", "dropout", "pixel shuffle"):  # fmt: skip
        assert torch.equal(got, want)


LAYERS = {
    "linear": (nn.Linear(5, 3), (2, 4, 5)),
    "conv1d": (nn.Conv1d(2, 3, 3, padding="same"), (2, 2, 7)),
    "conv3d": (nn.Conv3d(1, 2, 2, stride=2), (1, 1, 4, 4, 2)),
    "transposed": (nn.ConvTranspose2d(2, 3, 3, 2, 1, 1), (2, 2, 3, 4)),
    "circular": (nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), (2, 2, 5)),
    "unbatched": (nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("operands", ["8s", "8u"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_layers_are_requantised_sums(kind, operands, per_channel):
    """The codes of a layer alone are its own results, rounded to the output's codes."""
    torch.manual_seed(1)
    plain, shape = LAYERS[kind]
    x = torch.randn(shape)
    layer = ah.approximate(plain, _odd(operands), datapath="bias=int32", per_channel=per_channel)
    ah.calibrate(layer, [x]).eval()
    network = ah.to_integers(nn.Sequential(layer).eval(), [x])
    grid = network.output_grid
    codes = network(network.quantize(x)).to(torch.int64)
    exact = layer(x).detach().double() / grid.scale + grid.zero_point
    exact = exact.clamp(grid.codes.qmin, grid.codes.qmax)
    assert codes.shape == exact.shape
    assert (codes - exact).abs().max() <= 0.5001


def test_two_layers_that_take_one_value_have_their_own_codes():
    """A value goes to the second layer by a requantisation, where its codes are others."""

    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            x = self.a(x)
            return self.b(x) + self.c(x)

    x = torch.randn(6, 4)
    model = ah.calibrate(ah.approximate(Fork(), {"b": ah.exact(8), "*": ah.exact(5)}), [x]).eval()
    network = ah.to_integers(model, [x])
    names = [n for n, _ in network.network.named_children()]
    assert names == ["a", "b", "c_input", "c", "add"]
    near = network.dequantize(network(network.quantize(x))) - model(x)
    assert near.abs().max() < 3 * network.output_grid.scale


def test_next_to_no_weights_are_given_a_larger_scale(caplog):
    """A bias that would not fit 32 bits in units of its weights is kept, and it is said."""
    model = nn.Sequential(nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[0] = 1e-12
        model[0].bias.copy_(torch.tensor([0.5, -0.25]))
    x = torch.randn(8, 3)
    model = ah.calibrate(ah.approximate(model, ah.exact(8)), [x]).eval()
    with caplog.at_level(logging.WARNING, logger="approxhub"):
        network = ah.to_integers(model, [x])
    assert "1 channel(s)" in caplog.text
    found = network.dequantize(network(network.quantize(x)))
    assert (found[:, 0] - 0.5).abs().max() <= network.output_grid.scale


# --- what cannot be -------------------------------------------------------------------------


class Calls(nn.Module):
    """A layer, and a call."""

    def __init__(self, call) -> None:
        super().__init__()
        self.first, self.call = nn.Linear(4, 4), call

    def forward(self, x):
        """Apply both."""
        return self.call(self.first(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: x @ x.t(), "t: there is no counterpart"),
        (lambda x: torch.softmax(x, -1), "softmax: at the end of a network leave it out"),
        (lambda x: x + 1.0, "add: a sum of two tensors"),
        (lambda x: (x, x), "must return one tensor"),
        (lambda x: x.mean(0), "mean: a mean over the batch"),
        (lambda x: x.clamp(x.sum()), "sum: there is no counterpart"),
        (lambda x: x if x.sum() > 0 else -x, "cannot be traced"),
    ],
)
def test_what_has_no_counterpart_is_named(call, message):
    """Operations that integers do not have are refused, by their names."""
    x = torch.randn(4, 4)
    model = ah.calibrate(ah.approximate(Calls(call), ah.exact(8)), [x]).eval()
    with pytest.raises(ConversionError, match=message):
        ah.to_integers(model, [x])


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (nn.BatchNorm1d(4), {}, r"norm \(BatchNorm1d\): fold it first"),
        (nn.Linear(4, 4), {"skip": "norm"}, r"norm \(Linear\): its products are exact real ones"),
        (nn.LSTM(4, 4), {}, r"norm \(LSTM\): what it does between its products"),
        (nn.LayerNorm(4), {}, r"norm \(LayerNorm\): there is no counterpart"),
    ],
)
def test_modules_without_counterpart_are_named(module, options, message):
    """So are modules, with what to do."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Linear(4, 4), module

        def forward(self, x):
            return self.norm(self.first(x))

    x = torch.randn(6, 4)
    model = ah.calibrate(ah.approximate(Net(), ah.exact(8), **options), [x]).eval()
    with pytest.raises(ConversionError, match=message):
        ah.to_integers(model, [x])


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (nn.AdaptiveAvgPool1d(3), r"windows of \(4,\) to \(3,\) have several sizes"),
        (nn.AvgPool1d(3, ceil_mode=True), "ceil_mode"),
        (nn.AvgPool1d(2, padding=1, count_include_pad=False), "count_include_pad"),
        (nn.MaxPool1d(2, return_indices=True), "indices are no codes"),
    ],
)
def test_uneven_windows_are_refused(pool, message):
    """Means over windows of several sizes would need several mantissas."""
    x = torch.randn(2, 2, 4)
    net = nn.Sequential(nn.Conv1d(2, 2, 1), pool)
    model = ah.calibrate(ah.approximate(net, ah.exact(8)), [x]).eval()
    with pytest.raises(ConversionError, match=message):
        ah.to_integers(model, [x])


def test_what_a_model_has_to_be():
    """Calibrated, in evaluation, on integers already, and shown a batch."""
    model, x = _model()
    with pytest.raises(InputError, match=r"write \[x\]"):
        ah.to_integers(model, x)
    with pytest.raises(CalibrationError, match="at least one batch"):
        ah.to_integers(model, [])
    with pytest.raises(InputError, match="begins with one, got str"):
        ah.to_integers(model, ["x"])
    with pytest.raises(ConversionError, match="mode 'float'"), ah.mode(model, "float"):
        ah.to_integers(model, [x])
    with pytest.raises(ConversionError, match="eval"):
        ah.to_integers(copy.deepcopy(model).train(), [x])
    model.fc.input_quantizer.restart()
    with pytest.raises(CalibrationError, match="'fc' has no range"):
        ah.to_integers(model, [x])
    with pytest.raises(ConversionError, match="no approximate layer"):
        ah.to_integers(nn.Linear(2, 2), [x])


def test_what_a_network_takes():
    """Codes within range, of the size that it was made for."""
    model, x = _model()
    network = ah.to_integers(model, [x])
    with pytest.raises(InputError, match=r"takes codes, got torch\.float32"):
        network(x)
    with pytest.raises(OperandRangeError, match=r"256 is outside of 0\.\.255"):
        network(torch.full((1, 2, 6, 7), 256))
    with pytest.raises(InputError, match="means of 4 numbers, not of 6"):
        network(network.quantize(torch.randn(1, 2, 12, 7)))


def test_sums_of_more_than_32_bits_are_an_error():
    """An accumulator of hardware would overflow: it is said, not computed."""
    x = torch.full((1, 8), 3.0)
    net = nn.Sequential(nn.Linear(8, 1, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
    model = ah.calibrate(ah.approximate(net, ah.exact(16)), [x]).eval()
    network = ah.to_integers(model, [x])
    with pytest.raises(InputError, match="more than the 32 bits"):
        network(network.quantize(x))


def test_a_grid_is_that_of_a_quantiser():
    """Codes and real numbers are those of the quantiser that it was taken from."""
    quantizer = ah.quantization.Quantizer(CodeRange.full(ah.OperandFormat(6, signed=False)))
    x = torch.randn(100) * 3
    quantizer.observe(x / 2)
    grid = CodeGrid.of(quantizer)
    codes = quantizer.codes(x)
    assert torch.equal(grid.quantize(x).float(), codes)
    assert torch.equal(grid.dequantize(grid.quantize(x)), quantizer.dequantize(codes))


# --- training ---------------------------------------------------------------------------------


def _learning(model: nn.Module) -> nn.Module:
    """The same model with learned scales."""
    for name in ("conv1", "conv2", "conv3", "fc"):
        layer = model.get_submodule(name)
        for q in ("input_quantizer", "weight_quantizer"):
            setattr(layer, q, LearnedQuantizer.from_quantizer(getattr(layer, q)))
    return model


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(filter(None, c)))
def test_training_sees_the_integers_of_numpy(case, learned):
    """Before each step, the pass of training has given what numpy's integers give, bit for bit."""
    model, x = _model(*case)
    model = _learning(model) if learned else model
    training = ah.integer_training(model, [x], learned=learned).train()
    wanted = torch.randn(5, 3)
    optimiser = torch.optim.Adam(training.parameters(), lr=3e-3)
    seen, losses = [], []
    for _ in range(3):
        optimiser.zero_grad()
        y = training(x)
        network = training.integers()
        codes = network.quantize(x)
        want = Second(model, network)(codes.numpy().astype(np.int64))
        grid = network.output_grid
        np.testing.assert_array_equal(network(codes).numpy(), want)
        np.testing.assert_array_equal(
            y.detach().numpy(), (want - grid.zero_point).astype(np.float32) * np.float32(grid.scale)
        )
        seen.append(want)
        loss = (y - wanted).square().mean()
        loss.backward()
        losses.append(loss.item())
        optimiser.step()
    assert not np.array_equal(seen[0], seen[-1])
    assert losses[-1] < losses[0]
    # What is handed to hardware is what evaluation gives.
    network = training.eval().integers()
    assert torch.equal(training(x), network.dequantize(network(network.quantize(x))))


def test_training_on_integers_ends_nearer_to_what_is_wanted():
    """With codes of four bits, a network trained on its integers does better than one that is not.

    Both start from the same weights, and are compared as integers.
    """
    torch.manual_seed(0)
    x = torch.rand(64, 6)
    wanted = torch.stack([x[:, 0] * x[:, 1], x[:, 2] - x[:, 3]], 1)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    model = ah.calibrate(ah.approximate(net, ah.exact(4)), [x]).eval()
    untrained = ah.to_integers(model, [x])
    training = ah.integer_training(model, [x]).train()
    optimiser = torch.optim.Adam(training.parameters(), lr=1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        (training(x) - wanted).square().mean().backward()
        optimiser.step()
    after = training.eval().integers()
    errors = [
        (n.dequantize(n(n.quantize(x))) - wanted).square().mean().item() for n in (untrained, after)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_training_has_the_gradients_of_the_model_at_its_integers():
    """They are those of the same operations by hand, straight through each requantisation."""
    model, x = _model("affine", "8u", mode="exact")
    training = ah.integer_training(model, [x])
    upstream = torch.randn(5, 3)
    x = (x * 1.2).requires_grad_()  # some are clamped
    parameters = dict(model.named_parameters())
    (training(x) * upstream).sum().backward()
    found = {n: p.grad.clone() for n, p in parameters.items()} | {"x": x.grad.clone()}
    network = training.integers()
    codes = {}

    class Noting(torch.fx.Interpreter):
        def run_node(self, n):
            codes[n.name] = super().run_node(n)
            return codes[n.name]

    Noting(network.network).run(network.quantize(x.detach()))

    def through(free, name, grid):
        """The real numbers of codes, with the gradient of what was rounded and clamped."""
        held = free.clamp(*((c - grid.zero_point + e) * grid.scale for c, e in
                            ((grid.codes.qmin, -0.5), (grid.codes.qmax, 0.5))))  # fmt: skip
        return held + (grid.dequantize(codes[name]) - held).detach()

    def step(free, name):
        return through(free, name, network.network.get_submodule(name).grid)

    def weight(layer, w):
        c, scale, zero = weights(w.detach().numpy(), layer.weight_quantizer)
        along = (-1, *[1] * (w.dim() - 1))
        real = torch.from_numpy(
            ((c - zero.reshape(along)) * scale.reshape(along)).astype(np.float32)
        )
        return w + (real - w).detach()

    copied = {n: p.detach().clone().requires_grad_() for n, p in parameters.items()}
    start = x.detach().clone().requires_grad_()
    norm = model.conv1.norm
    gain = torch.rsqrt(norm.running_var + norm.eps) * copied["conv1.norm.weight"]
    bias = -norm.running_mean * gain + copied["conv1.norm.bias"] + copied["conv1.bias"] * gain
    first = network.input_grid
    y = through(start, "codes", first)
    w = weight(model.conv1, copied["conv1.weight"] * gain.reshape(-1, 1, 1, 1))
    y = F.max_pool2d(torch.relu(step(F.conv2d(y, w, bias, padding=1), "conv1")), 2)
    w = weight(model.conv2, copied["conv2.weight"])
    y = torch.relu(step(step(F.conv2d(y, w, padding=1, groups=2), "conv2") + y, "add"))
    w = weight(model.conv3, copied["conv3.weight"])
    y = F.pad(y, (0, 0, 1, 1), mode="reflect")
    y = step(F.conv2d(y, w, copied["conv3.bias"], stride=(1, 2)), "conv3")
    y = step(F.avg_pool2d(y, (2, 1)), "avg_pool2d")
    y = step(y.mean((2, 3)), "mean")
    y = step(F.linear(y, weight(model.fc, copied["fc.weight"]), copied["fc.bias"]), "fc")
    (y * upstream).sum().backward()
    want = {n: p.grad for n, p in copied.items()} | {"x": start.grad}
    assert (want["x"] == 0).any()
    for name, grad in want.items():
        size = grad.abs().max().item()
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-5 * size)


def test_an_output_quantiser_learns_by_the_definition():
    """The gradient of its scale is that of LSQ, of the layer's results before their rounding."""
    torch.manual_seed(3)
    x = torch.randn(20, 4)
    model = ah.calibrate(ah.approximate(nn.Sequential(nn.Linear(4, 3)), ah.exact(5)), [x]).eval()
    training = ah.integer_training(model, [x], learned=True)
    [quantizer] = training.output_quantizers.values()
    with torch.no_grad():
        quantizer.log2_scale -= 0.4  # so that some are clamped
    upstream = torch.randn(20, 3)
    (training(x) * upstream).sum().backward()
    network, free = training.integers(), model(x).detach().double()
    q = network(network.quantize(x)).double()
    s, r = float(quantizer.scale), quantizer.code_range
    inside = (torch.round(free / s) >= r.qmin) & (torch.round(free / s) <= r.qmax)
    assert not inside.all()
    each = torch.where(inside, q - free / s, q) * upstream
    want = each.sum() * s * math.log(2) / math.sqrt(free.numel() * r.qmax)
    assert quantizer.log2_scale.grad.item() == pytest.approx(want.item(), rel=1e-4)


def test_training_moves_no_range_and_no_statistics():
    """Neither of activations, nor of folded batch normalisation; those of weights follow them."""
    model, x = _model()
    training = ah.integer_training(model, [x])
    buffers = {n: b.clone() for n, b in training.named_buffers()}
    training.train()
    model.conv1.norm.train()
    training(x * 5).sum().backward()
    assert not model.conv1.norm.training
    assert model.fc.training
    for name, buffer in training.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    with torch.no_grad():
        model.fc.weight.mul_(2)
    training(x)
    assert torch.equal(
        model.fc.weight_quantizer.scale, buffers["model.fc.weight_quantizer.scale"] * 2
    )
    model.train()(x * 5)  # the model by itself is as before
    assert not torch.equal(
        model.fc.input_quantizer.scale, buffers["model.fc.input_quantizer.scale"]
    )


@pytest.mark.parametrize("name", BETWEEN)
def test_training_passes_every_operation(name):
    """Through each operation there is a gradient, and the numbers are those of the integers."""
    torch.manual_seed(2)
    dims, between = BETWEEN[name]
    x = torch.randn(3, 2, 12) if dims == 1 else torch.randn(3, 2, *(6, 4, 4)[:dims])
    model = ah.approximate(Of(dims, between), ah.exact(8), skip=())
    model = ah.calibrate(model, [x]).eval()
    training = ah.integer_training(model, [x]).train()
    x.requires_grad_()
    y = training(x)
    y.square().sum().backward()
    assert x.grad.any()
    assert model.first.weight.grad.any()
    network = training.integers()
    codes = network.quantize(x.detach())
    assert torch.equal(network.dequantize(network(codes)), y)


def test_training_in_place_and_with_a_second_layer():
    """Operations in place change no other value; a value may go to layers of other codes."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 3)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            x = self.a(x)
            y = self.b(self.relu(x.clone()))
            y += self.c(x)
            return F.dropout(y, 0.9, training=True).relu_()

    x = torch.randn(6, 4)
    model = ah.calibrate(ah.approximate(Net(), {"b": ah.exact(8), "*": ah.exact(5)}), [x]).eval()
    training = ah.integer_training(model, [x]).train()
    y = training(x)
    y.sum().backward()
    network = training.integers()
    assert torch.equal(network.dequantize(network(network.quantize(x))), y)
    assert model.a.weight.grad.any()
    assert torch.equal(training(x).neg_(), -y)  # nor does who changes the result


def test_training_copies_and_states():
    """Copies, pickles and loaded states give the same, and train on their own."""
    model, x = _model()
    training = ah.integer_training(model, [x], learned=True)
    want = training(x)
    state = {k: v.clone() for k, v in training.state_dict().items()}
    for clone in (copy.deepcopy(training), pickle.loads(pickle.dumps(training))):
        assert torch.equal(clone(x), want)
        clone.train()(x).sum().backward()
        with torch.no_grad():
            for p in clone.parameters():
                p.add_(0.1)
        assert not torch.equal(clone.eval()(x), want)
        assert torch.equal(training(x), want)
        clone.load_state_dict(state)
        assert torch.equal(clone(x), want)
    with torch.no_grad():
        assert torch.equal(training(x), want)


def test_training_refuses_what_to_integers_refuses():
    """With the same errors, and NaN by the quantiser that it reaches."""
    model, x = _model()
    with pytest.raises(InputError, match=r"write \[x\]"):
        ah.integer_training(model, x)
    with pytest.raises(ConversionError, match="eval"):
        ah.integer_training(copy.deepcopy(model).train(), [x])
    with pytest.raises(CalibrationError, match="NaN"):
        ah.integer_training(model, [x])(x * torch.nan)
    with pytest.raises(CalibrationError, match="input 'x' of Residual: NaN"):
        ah.integer_training(model, [x]).train()(x * torch.nan)
    assert not any(m._holds_range for m in model.modules() if hasattr(m, "_holds_range"))


def test_training_says_what_to_do_instead():
    """In a mode that has no integers, in a summary, and where its integer network is asked for."""
    x = torch.randn(4, 3)
    model = ah.calibrate(ah.approximate(nn.Sequential(nn.Linear(3, 2)), ah.exact(8)), [x]).eval()
    training = ah.integer_training(model, [x])
    with pytest.raises(ConversionError, match=r"layer '0' is in mode 'float'.*attribute model"):
        ah.summary(training, x)
    with ah.mode(model, "float"):
        for call in (lambda: training(x), training.integers):
            with pytest.raises(ConversionError, match=r"layer '0' is in mode 'float'"):
                call()
    with pytest.raises(ConversionError, match=r"its integers\(\) gives"):
        ah.to_integers(training, [x])
    assert ah.summary(training.model, x).operations == 24


class Fickle(nn.Module):
    """Does something else in training, by a branch that is taken when it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        """Hold values low in training alone, and drop all of a path."""
        x = self.fc(x)
        if self.training:
            x = x.clamp(max=0.1) * torch.bernoulli(torch.ones(len(x), 1))
        return self.out(x)


def test_training_is_on_what_evaluation_does():
    """Whatever a model does in training alone is neither trained nor handed to hardware."""
    x = torch.randn(8, 3)
    model = ah.calibrate(ah.approximate(Fickle(), ah.exact(8)), [x]).eval()
    want = ah.to_integers(model, [x])
    want = want.dequantize(want(want.quantize(x)))
    training = ah.integer_training(model, [x]).train()
    for each in (training, copy.deepcopy(training), pickle.loads(pickle.dumps(training))):
        assert torch.equal(each(x), want)
        assert all(m.training for m in each.modules())
        network = each.eval().integers()
        assert torch.equal(network.dequantize(network(network.quantize(x))), want)


def test_training_evaluates_in_several_threads():
    """All get the numbers that one alone gets, a copy that is not yet traced included."""
    model, x = _model()
    training = copy.deepcopy(ah.integer_training(model, [x]))
    want = ah.integer_training(model, [x])(x)
    with ThreadPoolExecutor(4) as pool:
        for y in pool.map(lambda _: training(x), range(40)):
            assert torch.equal(y, want)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_inputs_that_are_no_numbers_are_refused(bad):
    """No code stands for NaN or infinity; the most negative one did."""
    torch.manual_seed(0)
    x = torch.randn(16, 4)
    net = ah.calibrate(ah.approximate(nn.Sequential(nn.Linear(4, 3)), "exact:8u"), [x]).eval()
    integers = ah.to_integers(net, [x])
    x[2, 1] = bad
    with pytest.raises(CalibrationError, match="NaN or infinity"):
        integers.quantize(x)
    assert integers.quantize(x.to("meta")).is_meta
    torch._dynamo.reset()
    traced = torch.compile(integers.quantize, backend="eager", fullgraph=True)
    x[2, 1] = 0
    assert torch.equal(traced(x), integers.quantize(x))
