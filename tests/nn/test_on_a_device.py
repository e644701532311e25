"""On a device nothing is read, and nothing is copied to it, while layers run: so nothing waits.

There is no card here: layers run on the CPU, taken for a device that must not be read; and on fake
CUDA tensors, which have no numbers to read, and do not mix with those of the CPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import approxhub as ah
from approxhub import functional, ops, reading
from approxhub.errors import CalibrationError
from approxhub.quantization import CodeRange, Quantizer, quantizer

aten = torch.ops.aten
# What gives Python a number, or a tensor whose size depends on numbers.
READING = (
    aten._local_scalar_dense, aten.item, aten.is_nonzero, aten.equal, aten.nonzero,
    aten._unique2, aten.masked_select, aten.repeat_interleave.Tensor,
)  # fmt: skip


class Unread(TorchDispatchMode):
    """Forbids to read numbers, to bring numbers of Python in, and to copy between devices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it, unless it is one of these."""
        masks = func.overloadpacket == aten.index and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        if masks or func in READING or func.overloadpacket in READING:
            raise AssertionError(f"{func} waits for the device")
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            if func.overloadpacket == aten.lift_fresh and out.numel() > 1:
                raise AssertionError("numbers are copied to the device")
            there = {a.device.type for a in args if isinstance(a, Tensor) and a.dim()}
            if there - {out.device.type}:
                raise AssertionError(f"{func} copies between devices")
        return out


LAYERS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any], list[tuple[int, ...]]]] = {
    "linear": (ah.nn.Linear, {"in_features": 4, "out_features": 3}, [(5, 4)]),
    "conv": (
        ah.nn.Conv2d,
        {"in_channels": 2, "out_channels": 4, "kernel_size": 3, "padding": 1, "groups": 2},
        [(2, 2, 5, 4)],
    ),
    "without-bias": (
        ah.nn.Conv1d,
        {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": "same", "bias": False},
        [(2, 2, 5)],
    ),
    "transposed": (
        ah.nn.ConvTranspose2d,
        {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "stride": 2, "padding": 1},
        [(2, 2, 3, 3)],
    ),
    "matmul": (ah.nn.Matmul, {}, [(2, 3, 4), (2, 4, 5)]),
    "attention": (ah.nn.ScaledDotProductAttention, {}, [(2, 3, 4)] * 3),
    "lstm": (ah.nn.LSTM, {"input_size": 3, "hidden_size": 4}, [(5, 2, 3)]),
}  # fmt: skip
OPTIONS = {
    "affine": {"multiplier": "drum:8u/k=4"},
    "narrow": {"multiplier": "drum:4u/k=3"},
    "signed": {"multiplier": "drum:8s/k=4"},
    "datapath": {"multiplier": "drum:8u/k=4", "datapath": "padding=skip,bias=int32"},
    "before": {"multiplier": "drum:8s/k=4", "mapping": "affine-signed",
               "datapath": "zero_point=before"},
}  # fmt: skip


def made(kind: str, options: str) -> tuple[nn.Module, list[Tensor]]:
    """A layer that has seen data, and its inputs."""
    make, arguments, shapes = LAYERS[kind]
    torch.manual_seed(0)
    layer = make(**arguments, **OPTIONS[options])
    inputs = [torch.randn(shape) for shape in shapes]
    with torch.no_grad():
        layer(*inputs)
    return layer, inputs


def off_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the CPU for a device."""
    for module in (reading, ops, functional, quantizer):
        monkeypatch.setattr(module, "on_host", lambda t: False)


def first(result: Any) -> Tensor:
    """The tensor that a layer gives, recurrent ones first."""
    found: Tensor = result[0] if isinstance(result, tuple) else result
    return found


def faked(layer: nn.Module) -> nn.Module:
    """The same layer with fake parameters and buffers on a CUDA device."""
    for m in layer.modules():
        for there in (m._parameters, m._buffers):
            for name, t in there.items():
                if t is not None:
                    fake = torch.empty(t.shape, dtype=t.dtype, device="cuda")
                    there[name] = nn.Parameter(fake) if isinstance(t, nn.Parameter) else fake
    return layer


@pytest.mark.cover(2)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", LAYERS)
def test_evaluation_reads_nothing(kind: str, options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass in which nothing is read gives the bits of another."""
    layer, inputs = made(kind, options)
    wanted = first(layer.eval()(*inputs))
    off_host(monkeypatch)
    with torch.no_grad(), Unread():
        found = first(layer(*inputs))
    assert torch.equal(found, wanted)
    assert torch.equal(found.signbit(), wanted.signbit())


# torch without CUDA cannot take slices of fake CUDA tensors, so not all of the above.
@pytest.mark.parametrize(
    ("kind", "options"),
    [*(("linear", o) for o in OPTIONS), ("conv", "signed"), ("without-bias", "signed")],
)
def test_evaluation_stays_on_the_device(kind: str, options: str) -> None:
    """On fake CUDA tensors a pass gives the right shape there, and meets nothing of the CPU."""
    layer, inputs = made(kind, options)
    wanted = first(layer.eval()(*inputs)).shape
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        layer = faked(layer)
        there = [torch.empty(x.shape, device="cuda") for x in inputs]
        with Unread():
            y = first(layer(*there))
    assert y.device.type == "cuda"
    assert y.shape == wanted


GRADIENTS = ("straight-through", "lre", "table-2d(half_window=2)", "approximate-backward")


@pytest.mark.cover(2)
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["linear", "conv", "transposed", "matmul"])
def test_training_reads_nothing(
    kind: str, options: str, gradient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps in which nothing is read give the results, ranges and gradients of others."""
    found = []
    for unread in (False, True):
        layer, inputs = made(kind, options)
        layer.set_gradient(gradient)
        inputs = [(3 * x).requires_grad_() for x in inputs]
        layer(*inputs).square().sum().backward()  # tables are made, and brought to the device
        with monkeypatch.context() as m:
            if unread:
                off_host(m)
                with Unread():
                    y = layer(*inputs)
                    torch.manual_seed(1)
                    y.square().sum().backward()
            else:
                y = layer(*inputs)
                torch.manual_seed(1)
                y.square().sum().backward()
        found.append([y, *(x.grad for x in inputs), *layer.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# With a momentum of 0.5, halfway to the newest extremes.
@pytest.mark.parametrize(
    ("calibrator", "wanted"),
    [("minmax", (-3.0, 1.0)), ("moving-average(0.5)", (-2.0, 0.75)), ("percentile(100)", (-3, 1))],
)
@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("unread", [True, False])
def test_training_goes_on_from_a_range_that_was_given(
    calibrator: str,
    wanted: tuple[float, float],
    seen: bool,
    unread: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever was seen before, and wherever: what comes next moves the range that was given."""
    layer = ah.nn.Linear(4, 3, multiplier="drum:8u/k=4", calibrator=calibrator)
    if unread:
        off_host(monkeypatch)
    if seen:
        layer(torch.full((2, 4), 100.0))
    q = layer.input_quantizer
    q.set_range(torch.tensor(-1.0), torch.tensor(1.0))
    assert (q.range_min.item(), q.range_max.item()) == (-1, 1)
    layer(torch.tensor([[-3.0, 0.0, 0.25, 0.5]]))
    assert (q.range_min.item(), q.range_max.item()) == wanted
    assert torch.equal(q.scale, (q.range_max - q.range_min) / 255)


def test_what_reads_is_noticed() -> None:
    """The mode of these tests sees a number that is read, and one that is brought to the device."""
    with Unread():
        for reads in (
            lambda: bool(torch.ones(3).all()),
            lambda: int(torch.ones(3)[1]),
            lambda: torch.ones(3)[torch.ones(3) > 0],
            lambda: torch.tensor([1, 2]),
        ):
            with pytest.raises(AssertionError):
                reads()
    with (
        FakeTensorMode(),
        Unread(),
        pytest.raises(AssertionError),
    ):
        torch.tensor([1, 2], device="cuda")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take the CPU for a device that nobody reads, without the engine, which does."""
    off_host(monkeypatch)
    with ah.use_backend("reference"):
        yield


BAD = (float("nan"), float("inf"))


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", [k for k in LAYERS if k != "attention"])
def test_what_is_not_finite_makes_nan(device: None, kind: str, bad: float) -> None:
    """Unread, NaN and infinity in an input make NaN of a result, with and without a bias."""
    layer, inputs = made(kind, "affine")
    layer.eval()
    assert first(layer(*inputs)).isfinite().all()
    inputs[-1].view(-1)[1] = bad
    with torch.no_grad():
        assert first(layer(*inputs)).isnan().any()
    assert first(layer(*[x.requires_grad_() for x in inputs])).isnan().any()


@pytest.mark.parametrize("options", ["affine", "datapath"])
def test_weights_that_are_not_finite_make_nan(device: None, options: str) -> None:
    """So it is with weights; ranges stay as they were, in training too."""
    layer, inputs = made("conv", options)
    before = copy.deepcopy(layer.state_dict())
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = torch.nan
        inputs[0][0, 0, 0, 0] = torch.inf
    for training in (True, False):
        layer.train(training)
        assert layer(*inputs).isnan().all()
        assert not layer(*inputs).isfinite().any()
    for name, t in layer.state_dict().items():
        if "quantizer" in name:
            assert torch.equal(t, before[name]), name
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = 0
        inputs[0][0, 0, 0, 0] = 0
    assert layer.train()(2 * inputs[0]).isfinite().all()
    assert not torch.equal(layer.input_quantizer.range_max, before["input_quantizer.range_max"])


def test_eager_checks_wait_and_raise(device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In eager_checks, by the variable too, NaN is an error with the layer; but not in capture."""
    net = ah.approximate(nn.Sequential(nn.Linear(4, 3)), "drum:8u/k=4")
    ah.calibrate(net, [torch.randn(5, 4)])
    net.eval()
    x = torch.full((5, 4), torch.nan)
    with ah.eager_checks(), pytest.raises(CalibrationError, match=r"layer '0', Linear.*NaN"):
        net(x)
    monkeypatch.setenv("APPROXHUB_EAGER_CHECKS", "1")
    with pytest.raises(CalibrationError, match=r"layer '0', Linear.*NaN"):
        net(x)
    with ah.eager_checks(False):
        assert net(x).isnan().all()
    monkeypatch.setattr(reading, "capturing", lambda t: True)
    assert net(x).isnan().all()


def test_calibration_always_checks(device: None) -> None:
    """A batch with NaN is an error of calibrate, with its place, on a device too."""
    net = ah.approximate(nn.Sequential(nn.Linear(4, 3)), "drum:8u/k=4")
    batches = [torch.randn(5, 4), torch.full((5, 4), torch.nan)]
    with pytest.raises(CalibrationError, match=r"batches\[1\]: layer '0'"):
        ah.calibrate(net, batches)


class Recorded(TorchDispatchMode):
    """Remembers operations with their tensors, to run them again as a CUDA graph does."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it, and remember it."""
        out = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """The same again, from and into the same memory."""
        for func, args, kwargs, out in self.done:
            new = func(*args, **kwargs)
            pairs = zip(new, out, strict=True) if isinstance(out, tuple | list) else [(new, out)]
            for now, place in pairs:
                if now.data_ptr() != place.data_ptr():
                    place.copy_(now)


def followed(calibrator: str, channels: int | None) -> Quantizer:
    """A quantiser that has seen nothing."""
    codes = CodeRange.full(ah.OperandFormat(8, signed=False))
    return Quantizer(codes, channels=channels, calibrator=calibrator)


def state(q: Quantizer) -> list[Tensor]:
    """All that moves."""
    return [*q.buffers(), *q.calibrator.range()]


FOLLOWING = pytest.mark.parametrize("calibrator", ["minmax", "moving-average(0.25)"])


@FOLLOWING
@pytest.mark.parametrize("channels", [None, 3])
def test_replayed_observations_accumulate(
    device: None, calibrator: str, channels: int | None
) -> None:
    """What is recorded of one observation goes on from the last range at each replay."""
    torch.manual_seed(0)
    batches = [scale * torch.randn(3, 5) for scale in (1, 2, 0.5, 4, 0.1, 3, 0.2)]
    batches[3][0, 0] = torch.nan  # moves nothing, at replays too
    eager, q = followed(calibrator, channels), followed(calibrator, channels)
    x = batches[0].clone()
    q.observe(x)
    eager.observe(x)
    places = [t.data_ptr() for t in state(q)]
    with Recorded() as graph:
        q.observe(x.copy_(batches[1]))
    graph.done = graph.done[1:]  # without the copy
    eager.observe(x)
    for batch in batches[2:5]:
        x.copy_(batch)
        graph.replay()
        eager.observe(batch)
        assert all(torch.equal(a, b) for a, b in zip(state(q), state(eager), strict=True))
    with ah.eager_checks():
        q.observe(batches[5])
    eager.observe(batches[5])
    x.copy_(batches[6])
    graph.replay()
    with ah.eager_checks():
        q.observe(batches[1])
    for batch in (batches[6], batches[1]):
        eager.observe(batch)
    assert all(torch.equal(a, b) for a, b in zip(state(q), state(eager), strict=True))
    assert [t.data_ptr() for t in state(q)] == places


@FOLLOWING
@pytest.mark.parametrize("checked", [False, True])
def test_a_first_batch_that_is_not_finite_does_not_count(
    device: None, calibrator: str, checked: bool
) -> None:
    """The next good one is the first, whether it is looked at or not; so it is after a restart."""
    good = [torch.tensor([1.0, 2.0]), torch.tensor([0.5, 4.0])]
    wanted, q = followed(calibrator, None), followed(calibrator, None)
    for batch in good:
        wanted.observe(batch)
    for _ in range(2):
        q.observe(torch.tensor([torch.nan, 9.0]))
        assert [q.range_min.item(), q.range_max.item()] == [0, 0]
        with ah.eager_checks(checked):
            for batch in good:
                q.observe(batch)
        assert all(torch.equal(a, b) for a, b in zip(state(q), state(wanted), strict=True))
        q.reset()
    for batch in good:
        q.fit(batch)
    assert [q.range_min.item(), q.range_max.item()] == [0.5, 4]


def test_running_statistics_outlive_what_is_not_finite(device: None) -> None:
    """Folded batch normalisation keeps its statistics where a batch has NaN, and goes on after."""
    torch.manual_seed(0)
    layer = ah.nn.NormalizedConv1d(2, 3, 3, multiplier="drum:8u/k=4")
    plain = copy.deepcopy(layer.norm)
    x = torch.randn(4, 2, 6)
    for bad in (None, torch.nan, torch.inf, None):
        batch = x.clone()
        if bad is None:
            plain(nn.functional.conv1d(batch, layer.weight, layer.bias))
        else:
            batch[0, 0, 0] = bad
        y = layer(batch)
        assert y.isfinite().all() if bad is None else y.isnan().all()
        for name, there in layer.norm.state_dict().items():
            assert torch.equal(there, plain.state_dict()[name]), name
