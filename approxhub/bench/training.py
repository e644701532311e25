"""The suite ``train``: steps of training against those of fake-quantised torch, time and memory.

The yardstick is what a quantised network costs without ApproxHub: ``F.conv2d`` and ``F.linear``
on tensors from ``torch.fake_quantize_*``, with scales that stay as they are.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approxhub.bench.context import Context, unstructured
from approxhub.bench.inference import compared_with_reference, inferring
from approxhub.bench.memory import peak_bytes_of_step
from approxhub.bench.names import FAKE_QUANTISED
from approxhub.bench.networks import resnet20
from approxhub.bench.report import Detail, Row
from approxhub.bench.step import Step
from approxhub.bench.timing import Entrant
from approxhub.model import approximate
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat
from approxhub.quantization import CodeRange, Quantizer

__all__ = ["fake_quantised", "train", "training_step"]

_MULTIPLIERS = ("exact:8s", "roba:8s", "drum:8s/k=4", unstructured(signed=True))
_NETWORK = "CIFAR ResNet-20"
_BATCH, _IMAGE = 64, 32
_TENSOR = (64, 16, 32, 32)
_SEED = 0


def train(context: Context) -> list[Step]:
    """A race of steps, one of quantisers, and memory."""
    steps = []
    for threads in context.settings.threads:
        steps += [
            Step(f"train, a step, {threads} thread(s)", functools.partial(_race, context, threads)),
            Step(
                f"train, quantiser, {threads} thread(s)",
                functools.partial(_quantiser, context, threads),
            ),
        ]
    return [*steps, Step("train, peak memory", functools.partial(_memory, context))]


def _multipliers(context: Context) -> list[Multiplier]:
    return context.multipliers(_MULTIPLIERS[1:2] if context.settings.quick else _MULTIPLIERS)


def _sizes(context: Context) -> tuple[int, int]:
    return (2, 8) if context.settings.quick else (_BATCH, _IMAGE)


def training_step(network: nn.Module, batch: int, image: int) -> Callable[[], None]:
    """One step of stochastic gradient descent on random images, the same ones in each call."""
    generator = torch.Generator().manual_seed(_SEED)
    x = torch.randn(batch, 3, image, image, generator=generator)
    labels = torch.randint(10, (batch,), generator=generator)
    optimizer = torch.optim.SGD(network.train().parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


class _FakeQuantised(nn.Module):
    """Codes of 8 bits, symmetric, with one scale for each output channel of the weights."""

    weight: Tensor

    def scaled(self) -> nn.Module:
        """Give it scales that stay."""
        self.x_scale, self.x_zero = torch.tensor(4 / 127), torch.tensor(0, dtype=torch.int32)
        self.w_scale = self.weight.detach().flatten(1).abs().amax(1) / 127
        self.w_zero = torch.zeros(len(self.weight), dtype=torch.int32)
        return self

    def quantised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both operands."""
        return (
            torch.fake_quantize_per_tensor_affine(x, self.x_scale, self.x_zero, -127, 127),
            torch.fake_quantize_per_channel_affine(
                self.weight, self.w_scale, self.w_zero, 0, -127, 127
            ),
        )


class _Conv2d(_FakeQuantised, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        x, w = self.quantised(x)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


class _Linear(_FakeQuantised, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        x, w = self.quantised(x)
        return F.linear(x, w, self.bias)


def fake_quantised(network: nn.Module) -> nn.Module:
    """A copy of a network whose convolutions and linear layers quantise with torch alone."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if type(module) in (nn.Conv2d, nn.Linear):
            module.__class__ = _Conv2d if isinstance(module, nn.Conv2d) else _Linear
            assert isinstance(module, _FakeQuantised)
            module.scaled()
    return network


def _float() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return resnet20()


def _race(context: Context, threads: int) -> list[Row]:
    batch, image = _sizes(context)
    network = _float()
    yardstick = training_step(fake_quantised(network), batch, image)
    entrants = [Entrant(FAKE_QUANTISED, yardstick, threads=threads)]
    for m in _multipliers(context):
        made = approximate(network, m)
        step = _on_engine(context, training_step(made, batch, image))
        entrants.append(
            Entrant(
                m.id, step, check=functools.partial(_checked, context, made, step, image, m.id),
                threads=threads, details={"multiplier": m.id},
            )
        )  # fmt: skip
    case = f"a step of {_NETWORK}, {image} x {image}, batch {batch}, threads: {threads}"
    details: dict[str, Detail] = {"kind": "step", "network": _NETWORK, "batch": batch}
    raced = context.race("train", case, entrants, (FAKE_QUANTISED,))
    return [replace(r, details={**r.details, **details}) for r in raced]


def _on_engine(context: Context, call: Callable[[], None]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        call()
        return torch.empty(0)

    return context.on_engine(run)


def _checked(
    context: Context, network: nn.Module, step: Callable[[], object], image: int, id: str
) -> None:
    """Compare the sums of a forward pass with the reference, once a step has given it ranges."""
    step()
    shown = copy.deepcopy(network).eval()
    x = torch.rand(2, 3, image, image)
    compared_with_reference(f"train, {id}", context.on_engine(inferring(shown, x)))


def _quantiser(context: Context, threads: int) -> list[Row]:
    shape = (2, 2, 3, 3) if context.settings.quick else _TENSOR
    generator = torch.Generator().manual_seed(_SEED)
    x = torch.randn(shape, generator=generator).requires_grad_()
    grad = torch.randn(shape, generator=generator)
    quantizer = Quantizer(CodeRange.symmetric(OperandFormat(8, signed=True)))
    quantizer.observe(x)

    def ours() -> None:
        value, _ = quantizer.quantize(x, torch.int8, with_real=True)
        assert value is not None
        value.backward(grad)  # type: ignore[no-untyped-call]

    def torchs() -> None:
        torch.fake_quantize_per_tensor_affine(
            x, quantizer.scale, quantizer.zero_point, -127, 127
        ).backward(grad)  # type: ignore[no-untyped-call]

    entrants = [
        Entrant(FAKE_QUANTISED, torchs, threads=threads),
        Entrant("Quantizer: codes, real values and gradient", ours, threads=threads),
    ]
    case = f"quantising {' x '.join(map(str, shape))} and its gradient, threads: {threads}"
    raced = context.race("train", case, entrants, (FAKE_QUANTISED,))
    return [replace(r, details={**r.details, "kind": "quantiser"}) for r in raced]


def _memory(context: Context) -> list[Row]:
    batch, image = _sizes(context)
    base = peak_bytes_of_step(batch, image, None)
    if base is None:
        context.note("no peak memory: it is read from /proc, which this system lacks")
        return []
    case = f"peak memory of a step of {_NETWORK}, {image} x {image}, batch {batch}"
    found = {FAKE_QUANTISED: base}
    for m in _multipliers(context):
        if m.id.startswith("local:"):
            continue  # a child process would not know it
        taken = peak_bytes_of_step(batch, image, m.id)
        assert taken is not None
        found[m.id] = taken
    return [
        Row(
            "train", case, name,
            details={
                "kind": "memory", "bytes": taken,
                "over_fake_quantised": round(taken / base, 3) if base else None,
            },
        )
        for name, taken in found.items()
    ]  # fmt: skip
