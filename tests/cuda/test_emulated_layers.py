"""Whole layers on the emulated card: quantising, sums, gradients, and that nothing waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import emulated
import pytest
import small
import torch
from approxhub_cuda.backend import CudaBackend
from approxhub_cuda.native import Library
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import approxhub as ah
from approxhub.backends import Convolution, GradientTables, RealNumbers
from approxhub.errors import CalibrationError, EngineError
from approxhub.testing.contract import lopsided

CPU = torch.device("cpu")


@pytest.fixture
def card(kernels: Path) -> Iterator[CudaBackend]:
    """The emulated card, for everything that layers do."""
    backend = CudaBackend(Library(str(kernels)), "cached")
    with small.offering(backend):
        yield backend


@pytest.mark.parametrize(
    ("check", "of"),
    [
        ("test_quantising", torch.int8),
        ("test_quantising", torch.int16),
        ("test_quantising", torch.int32),
        ("test_dequantising", torch.int32),
        ("test_dequantising", torch.int64),
        ("test_sums_of_gradient_tables", 1),
        ("test_sums_of_gradient_tables", 4),
    ],
)
def test_real_numbers_have_the_bits_of_torch(
    kernels: Path, check: str, of: torch.dtype | int
) -> None:
    """What the contract says of real numbers and gradients, with one processor or many."""
    small.real_numbers(kernels, check, of)


def layers() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Layers of several kinds, with zero points and without, and the shapes of their inputs."""
    rough, signed = lopsided("8u", "8u"), lopsided("8s", "8s")
    torch.manual_seed(0)
    return {
        "linear": (ah.nn.Linear(9, 7, multiplier=rough), (5, 9)),
        "conv": (ah.nn.Conv2d(4, 6, 3, padding=1, groups=2, multiplier=rough), (2, 4, 5, 6)),
        "without bias": (ah.nn.Conv2d(3, 5, 3, bias=False, multiplier=signed), (2, 3, 6, 5)),
        "per tensor": (ah.nn.Conv1d(3, 4, 3, per_channel=False, multiplier=rough), (2, 3, 9)),
        "transposed": (ah.nn.ConvTranspose2d(2, 3, 3, stride=2, multiplier=signed), (2, 2, 3, 3)),
        "wide": (ah.nn.Linear(9, 7, multiplier=lopsided("9s", "6s")), (5, 9)),
    }


KINDS = tuple(layers())
GRADIENTS = ("straight-through", "lre", "table-2d(half_window=3)", "approximate-backward")


@pytest.mark.cover(1)
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_layers_have_the_bits_of_the_reference(
    card: CudaBackend, kind: str, gradient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward, backward, in training and after it: all bits are those of the reference."""
    monkeypatch.setattr("approxhub.ops.on_host", lambda t: False)  # so is the padding's code
    found = []
    for name in ("reference", "emulated-card"):
        layer, shape = layers()[kind]
        layer.set_gradient(gradient)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        with ah.use_backend(name):
            found.append(small.trained(layer, x))
    small.alike(*found)


def test_a_gradient_table_takes_few_launches(
    card: CudaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of rank r takes r + 1 products, and a recoding and a sum for each four of them."""
    calls: dict[str, int] = {}
    for name in ("recode", "combine"):
        plain = getattr(card, name)

        def counted(*arguments: Any, name: str = name, plain: Any = plain) -> None:
            calls[name] = calls.get(name, 0) + 1
            plain(*arguments)

        monkeypatch.setattr(card, name, counted)
    layer = ah.nn.Linear(9, 7, multiplier=lopsided("8u", "8u"))
    layer.set_gradient("table-2d(half_window=3)")
    by_a, by_b = layer._gradient.excesses(layer.effective_multiplier)
    assert min(len(by_a.own), len(by_b.own)) > 4
    layer(torch.randn(5, 9, requires_grad=True)).sum().backward()
    wanted = sum(-(-(1 + len(e.own)) // 4) for e in (by_a, by_b))
    assert calls == {"recode": wanted, "combine": wanted}


def test_a_gradient_table_is_its_own_slow_loop(card: CudaBackend) -> None:
    """The sums over a gradient's tables are near those of a loop over pairs, in float64."""
    m = lopsided("8u", "8u")
    layer, x = ah.nn.Linear(9, 7, bias=False, multiplier=m), torch.randn(5, 9, requires_grad=True)
    layer.set_gradient("table-2d(half_window=3)")
    y = layer(x)
    grad = torch.randn(y.shape)
    y.backward(grad)
    q_x, q_w = layer.input_quantizer, layer.weight_quantizer
    a, b = q_x.codes(x.detach()).long(), q_w.codes(layer.weight.detach()).long()
    by_a, by_b = layer._gradient.tables(m)
    s_x, s_w = q_x.scale.double(), q_w.scale.double()[:, None]
    for found, table, zero, scale, dims in (
        (x.grad, by_a, q_w.zero_point.double()[:, None], s_w, 1),
        (layer.weight.grad, by_b, q_x.zero_point.double(), s_x, 0),
    ):
        each = torch.from_numpy(table)[a[:, None], b[None]]  # (rows, outputs, inputs)
        wanted = (grad.double()[:, :, None] * scale * (each - zero)).sum(dims)
        inside = found != 0  # where a number was clamped the gradient stops
        error = ((found.double() - wanted)[inside].abs().max() / wanted.abs().max()).item()
        assert inside.float().mean() > 0.9
        assert error < 0.02  # what a table's factors may be off, and float32


class Waits(TorchDispatchMode):
    """Refuses what reads a number, or brings one from Python."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it, unless it is one of these."""
        aten = torch.ops.aten
        refused = (aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero,
                   aten.lift_fresh)  # fmt: skip
        assert func.overloadpacket not in refused, f"{func} waits for the card"
        return func(*args, **(kwargs or {}))


def test_the_backend_waits_for_nothing(kernels: Path) -> None:
    """Products, convolutions with a padding that the card knows, and the rest read no number."""
    for way in ("staged", "cached", "factored"):
        backend = CudaBackend(Library(str(kernels)), way)
        assert isinstance(backend, RealNumbers)
        assert isinstance(backend, GradientTables)
        m = lopsided("8u", "8s")
        prepared = backend.prepare(m, CPU)
        a, b = torch.zeros(3, 8, dtype=torch.uint8), torch.zeros(8, 2, dtype=torch.int8)
        image, kernel = torch.zeros(1, 4, 5, dtype=torch.uint8), torch.zeros(2, 4, 3).to(torch.int8)
        x, scale, zero = torch.zeros(2, 3), torch.ones(3), torch.zeros(3, dtype=torch.int32)
        pad = torch.tensor(7)
        with Waits():
            sums = backend.gemm(a, b, prepared, torch.int32)
            c = Convolution((1,), ((1, 1),), (1,), pad=pad)
            backend.conv(image, kernel, prepared, torch.int64, c)
            shape, codes = (2, 3, 1), torch.empty(2, 3, dtype=torch.int8)
            finite = backend.quantize(x, shape, scale, zero, (-9, 9), codes, None, None)
            backend.dequantize(sums, (3, 2, 1), zero[:2].long(), None, None, 1, scale[:2], None,
                               torch.empty(3, 2))  # fmt: skip
        assert finite.item() is True
        with Waits(), pytest.raises(AssertionError, match="waits for the card"):
            bool(finite)


def test_what_is_not_finite_is_not_lost(card: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN makes NaN of a layer's result unread, and is an error with the layer where one looks."""
    layer, shape = layers()["without bias"]
    x = torch.randn(shape)
    layer(x)
    layer.eval()
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(CalibrationError, match=r"Conv2d, weight \(5, 3, 3, 3\): NaN or infinity"):
        layer(x)
    monkeypatch.setattr("approxhub.reading.on_host", lambda t: False)
    with torch.no_grad():
        assert layer(x).isnan().all()
    with ah.eager_checks(), pytest.raises(CalibrationError, match="NaN or infinity"):
        layer(x)


def test_empty_tensors_and_refused_launches(card: CudaBackend, kernels: Path) -> None:
    """Of nothing nothing is made; a launch that fails is an error."""
    layer, _ = layers()["linear"]
    layer(torch.randn(5, 9))
    assert layer.eval()(torch.randn(0, 9)).shape == (0, 7)
    emulated.configure(kernels, refused=1)
    with pytest.raises(EngineError, match="quantising: cudaErrorLaunchOutOfResources"):
        layer(torch.randn(5, 9))


def test_one_network_in_steps_of_training(card: CudaBackend) -> None:
    """After steps of training the weights of a small network are those of the reference."""

    def trained(name: str) -> list[Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
        with ah.use_backend(name):
            net = ah.approximate(net, "drum:8s/k=3")
            x, labels = torch.randn(6, 1, 7, 7), torch.arange(6) % 3
            ah.calibrate(net, [x])
            optimizer = torch.optim.SGD(net.train().parameters(), lr=0.1)
            for _ in range(3):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x), labels).backward()
                optimizer.step()
        return list(net.state_dict().values())

    for mine, right in zip(trained("emulated-card"), trained("reference"), strict=True):
        assert torch.equal(mine, right)
