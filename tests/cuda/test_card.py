"""On a card: streams, graphs, devices, the compiler, the sanitizer, training; else skipped."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from approxhub_cuda.backend import CudaBackend
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import approxhub as ah
from approxhub.errors import CalibrationError
from approxhub.ops import lut_gemm, register

pytestmark = pytest.mark.gpu

SHAPE = (130, 147, 70)
WAYS = ("staged", "shared", "cached", "factored")


@pytest.fixture(autouse=True)
def _card() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA card")
    reason = CudaBackend().unavailable_reason()
    if reason is not None:
        pytest.skip(f"approxhub_cuda is unavailable: {reason}")


def multiplier() -> ah.Multiplier:
    """Not commutative, 64 for two zeros, and with an error of rank 2: every way can do it."""
    rng = np.random.default_rng(0)
    u, v = rng.integers(-6, 7, (256, 2)), rng.integers(-6, 7, (2, 256))
    u[0], v[:, 0] = (8, 0), (8, 0)
    values = np.arange(256).astype(np.int8).astype(np.int64)
    table = values[:, None] * values + u @ v
    return ah.Multiplier.from_table(table, name="rank-2", a_signed=True, b_signed=True)


def operands(device: str = "cuda", seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random codes on a device."""
    m, k, n = SHAPE
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(-128, 128, (m, k), generator=generator, dtype=torch.int8)
    b = torch.randint(-128, 128, (k, n), generator=generator, dtype=torch.int8)
    return a.to(device), b.to(device)


def wanted(a: Tensor, b: Tensor) -> Tensor:
    """The sums, by the reference on the CPU."""
    with ah.use_backend("reference"):
        return lut_gemm(a.cpu(), b.cpu(), register(_KEPT), torch.int32)


_KEPT = multiplier()


@pytest.mark.parametrize("way", WAYS)
def test_work_goes_onto_the_callers_stream(way: str) -> None:
    """What a side stream computes waits for what that stream did before, and for nothing else."""
    backend = CudaBackend(way=way)
    prepared = backend.prepare(_KEPT, torch.device("cuda"))
    a, b = operands()
    torch.cuda.synchronize()
    late = torch.zeros_like(a)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late.copy_(a)
        out = backend.gemm(late, b, prepared, torch.int32)
    stream.synchronize()
    assert torch.equal(out.cpu(), wanted(a, b))


@pytest.mark.parametrize("way", WAYS)
def test_it_can_be_captured(way: str) -> None:
    """A captured product gives the sums of whatever its operands hold at each replay."""
    backend = CudaBackend(way=way)
    prepared = backend.prepare(_KEPT, torch.device("cuda"))
    a, b = operands()
    backend.gemm(a, b, prepared, torch.int32)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = backend.gemm(a, b, prepared, torch.int32)
    for seed in (1, 2):
        new_a, new_b = operands(seed=seed)
        a.copy_(new_a)
        b.copy_(new_b)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(out.cpu(), wanted(a, b))


def network() -> tuple[nn.Module, Tensor]:
    """A converted network with padding and zero points, and its input."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(4 * 17 * 17, 10),
    )  # fmt: skip
    net, x = ah.approximate(net, "drum:8u/k=4"), torch.randn(2, 3, 8, 8)
    ah.calibrate(net, [x])
    return net, x


def test_layers_have_the_bits_of_the_cpu() -> None:
    """Quantising, sums and dequantising of whole layers give the floats of the CPU, to the bit."""
    net, x = network()
    wanted = net.eval()(x)
    found = net.cuda()(x.cuda()).cpu()
    assert torch.equal(found, wanted)
    assert torch.equal(found.signbit(), wanted.signbit())


def test_a_network_can_be_captured() -> None:
    """A captured pass of a whole network, padding and all, gives what its input says at replays."""
    net, x = network()
    net, x = net.eval().cuda(), x.cuda()
    with torch.no_grad():
        net(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = net(x)
        for scale in (0.5, 3.0):
            x.mul_(scale)
            graph.replay()
            assert torch.equal(out, net(x))


@pytest.mark.parametrize("gradient", ["straight-through", "table-2d(half_window=4)"])
def test_a_step_of_training_can_be_captured(gradient: str) -> None:
    """Captured, forward and backward move ranges and give gradients as they do otherwise."""
    found = []
    for captured in (False, True):
        net, x = network()
        ah.set_gradient(net, gradient)
        net, x = net.train().cuda(), x.cuda()

        def step(net: nn.Module = net, x: Tensor = x) -> None:
            net.zero_grad(set_to_none=True)
            net(x).square().mean().backward()

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        if captured:
            graph = torch.cuda.CUDAGraph()
            net.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph):
                step()
        for scale in (2.0, 0.5, 3.0, 0.1):  # wider and narrower: ranges go on from the last ones
            x.mul_(scale)
            if captured:
                graph.replay()
            else:
                step()
        torch.cuda.synchronize()
        found.append([*net.buffers(), *(p.grad for p in net.parameters())])
    for eager, replayed in zip(*found, strict=True):
        torch.testing.assert_close(replayed, eager)


def test_nan_is_not_lost_and_not_waited_for() -> None:
    """NaN makes NaN of a result; eager_checks names the layer."""
    net, x = network()
    net, x = net.eval().cuda(), x.cuda()
    net(x)
    x[0, 0, 0, 0] = torch.nan
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        y = net(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert y.isnan().all()
    with ah.eager_checks(), pytest.raises(CalibrationError, match="layer '0'"):
        net(x)


def test_every_device_gives_the_same_sums() -> None:
    """Operands on any card are served there, whatever the current one is."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two NVIDIA cards")
    for i in range(torch.cuda.device_count()):
        a, b = operands(f"cuda:{i}")
        with ah.use_backend("cuda"):
            out = lut_gemm(a, b, register(_KEPT), torch.int32)
        assert out.device == a.device
        assert torch.equal(out.cpu(), wanted(a, b))


def test_under_torch_compile() -> None:
    """A compiled program gives the sums of an eager one."""
    a, b = operands()
    handle = register(_KEPT)

    def program(a: Tensor, b: Tensor) -> Tensor:
        return lut_gemm(a, b, handle, torch.int32) * 2 + 1

    with ah.use_backend("cuda"):
        found = torch.compile(program, fullgraph=True)(a, b)
    assert torch.equal(found.cpu(), wanted(a, b) * 2 + 1)


class Compared(TorchDispatchMode):
    """Holds every sum of products against the same one on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it, and again on the CPU."""
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.approxhub.lut_gemm.default, torch.ops.approxhub.lut_conv.default):
            there = [x.cpu() if isinstance(x, Tensor) else x for x in args]
            assert torch.equal(out.cpu(), func(*there, **(kwargs or {})))
            self.count += 1
        return out


def test_training_has_the_integers_of_the_cpu() -> None:
    """In steps of training on digits, forward and backward, all integers are those of the CPU."""
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    digits = datasets.load_digits()
    images = torch.tensor(digits.images[:256] / 16, dtype=torch.float32)[:, None].cuda()
    labels = torch.tensor(digits.target[:256]).cuda()
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(144, 10),
    ).cuda()  # fmt: skip
    net = ah.approximate(net, "drum:8s/k=3")
    ah.calibrate(net, [images])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        with Compared() as compared:
            loss = nn.functional.cross_entropy(net(images), labels)
            loss.backward()
        assert compared.count >= 3
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]


def test_compute_sanitizer_has_no_complaint() -> None:
    """NVIDIA's own checker finds no wrong access in any way."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        pytest.skip("needs compute-sanitizer")
    for check in ("memcheck", "racecheck"):
        done = subprocess.run(
            [tool, "--tool", check, "--error-exitcode", "3", sys.executable, "-c", _PROGRAM],
            capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


_PROGRAM = f"""
import torch
import approxhub as ah
from approxhub.testing.contract import lopsided
from approxhub_cuda.backend import CudaBackend
m = lopsided("8s", "8s")
for way in {WAYS!r}:
    backend = CudaBackend(way=way)
    tables = backend.prepare(m, torch.device("cuda"))
    for rows, k, n in ((3, 5, 2), (130, 147, 70)):
        a = torch.randint(-128, 128, (rows, k), dtype=torch.int8, device="cuda")
        b = torch.randint(-128, 128, (k, n), dtype=torch.int8, device="cuda")
        backend.gemm(a, b, tables, torch.int64)
layer = ah.nn.Conv2d(3, 5, 3, padding=1, multiplier=lopsided("8u", "8u")).cuda()
layer.set_gradient("table-2d(half_window=3)")
layer(torch.randn(2, 3, 9, 7, device="cuda", requires_grad=True)).sum().backward()
torch.cuda.synchronize()
"""
