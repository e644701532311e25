"""Suites on a device that is not the CPU: its backends, each way of theirs, and torch.

Everything is called as a user would, on the current stream, and waited for. Imports torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approxhub import functional
from approxhub.backends import Backend, GemmRequest, use_backend
from approxhub.backends.routing import available_backends
from approxhub.bench.context import FAMILIES, Bound, Context, codes, on_backend, unstructured
from approxhub.bench.convolutions import ConvCase
from approxhub.bench.inference import compared_with_reference, inferring
from approxhub.bench.machine import commit, driver
from approxhub.bench.names import FP16, FP32, INT8, PLAIN_GATHER
from approxhub.bench.networks import MobileNetV2, VisionTransformer, resnet18, resnet50
from approxhub.bench.report import Row
from approxhub.bench.step import Step
from approxhub.bench.timing import Entrant
from approxhub.errors import BackendUnavailableError
from approxhub.model import approximate, calibrate, mode
from approxhub.multiplier import Multiplier
from approxhub.ops import lut_gemm, register

__all__ = ["CARD_SUITES", "Device", "conv", "gemm", "network"]

CARD_SUITES = ("gemm", "conv", "network")
"""Suites that there are for other devices than the CPU."""

_SHAPES = {
    "large": (4096, 4096, 4096),
    "3 x 3, 128 channels": (25088, 1152, 128),  # ResNet, batch 32
    "ViT-B, queries, keys and values": (6304, 768, 2304),  # 32 images of 197 tokens
    "ViT-B, MLP": (6304, 768, 3072),
    "ViT-B, MLP, back": (6304, 3072, 768),
    "classifier": (32, 2048, 1000),
}
_QUICK_SHAPES = {"tiny": (5, 19, 7)}

_CONVOLUTIONS = (
    ConvCase("ResNet, 7x7 stride 2", (32, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3),
    ConvCase("ResNet, 3x3, 64 channels", (32, 64, 56, 56), (64, 64, 3, 3)),
    ConvCase("ResNet, 3x3, 128 channels", (32, 128, 28, 28), (128, 128, 3, 3)),
    ConvCase("ResNet, 3x3, 256 channels", (32, 256, 14, 14), (256, 256, 3, 3)),
    ConvCase("ResNet, 3x3, 512 channels", (32, 512, 7, 7), (512, 512, 3, 3)),
    ConvCase("ResNet, 3x3, stride 2", (32, 64, 56, 56), (128, 64, 3, 3), stride=2),
    ConvCase("ResNet, shortcut", (32, 64, 56, 56), (128, 64, 1, 1), stride=2, padding=0),
    ConvCase("ResNet-50, 1x1", (32, 256, 56, 56), (64, 256, 1, 1), padding=0),
    ConvCase("ResNet-50, 1x1, wider", (32, 512, 7, 7), (2048, 512, 1, 1), padding=0),
    ConvCase("MobileNetV2, 3x3 stride 2", (32, 3, 224, 224), (32, 3, 3, 3), stride=2),
    ConvCase("MobileNetV2, 1x1, wider", (32, 24, 56, 56), (144, 24, 1, 1), padding=0),
    ConvCase("MobileNetV2, depthwise", (32, 144, 56, 56), (144, 1, 3, 3), groups=144),
    ConvCase(
        "MobileNetV2, depthwise, stride 2", (32, 144, 56, 56), (144, 1, 3, 3), stride=2, groups=144
    ),
    ConvCase("MobileNetV2, 1x1, narrower", (32, 144, 56, 56), (24, 144, 1, 1), padding=0),
    ConvCase("ViT, patches", (32, 3, 224, 224), (768, 3, 16, 16), stride=16, padding=0),
)  # fmt: skip
_QUICK_CONVOLUTIONS = ("ResNet, 3x3, 64 channels", "ResNet, shortcut", "MobileNetV2, depthwise")

_NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "ResNet-18": (resnet18, 224, 32),
    "ResNet-50": (resnet50, 224, 32),
    "MobileNetV2": (MobileNetV2, 224, 32),
    "ViT-B": (VisionTransformer, 224, 32),
}
_NETWORK_MULTIPLIERS = ("exact:8s", "roba:8s")
_YARDSTICKS = (PLAIN_GATHER, FP16, FP32, INT8)
_EXACT = "exact, quantised"


@dataclass(frozen=True, slots=True)
class Device:
    """Where to run, and what runs there.

    Parameters
    ----------
    device : torch.device
    backends : dict of str to Backend
        The one that is chosen there under its name, and each of its ways as ``'name, way'``.
    """

    device: torch.device
    backends: dict[str, Backend]

    @classmethod
    def find(cls, name: str) -> Device:
        """The device of that name, if a backend other than the reference can be used there.

        Raises
        ------
        BackendUnavailableError
            If there is none; the message has the reasons.
        """
        device = torch.device(name)
        reasons = []
        for info, reason in available_backends():
            if info.device_type == device.type:
                if reason is None:
                    return cls.of(device, info.name, _made(info.load))
                reasons.append(f"{info.name}: {reason}")
        why = "; ".join(reasons) or "no plug-in offers one"
        raise BackendUnavailableError(f"no backend can be timed on {name!r}: {why}")

    @classmethod
    def of(cls, device: torch.device, name: str, backend: Backend) -> Device:
        """A device with one backend, and the ways that it offers apart."""
        ways = backend.ways() if hasattr(backend, "ways") else {}
        return cls(device, {name: backend, **{f"{name}, {w}": b for w, b in ways.items()}})

    def wait(self) -> None:
        """Until everything that was put on the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def waited(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """A call that ends when the device has done it."""

        def run() -> Any:
            out = call()
            self.wait()
            return out

        return run

    def described(self) -> dict[str, Any]:
        """Name, memory and driver, and the checkout's commit, for a report."""
        said: dict[str, Any] = {"device": str(self.device), "commit": commit()}
        if self.device.type == "cuda":
            properties = torch.cuda.get_device_properties(self.device)
            said |= {
                "device_name": properties.name,
                "device_bytes": properties.total_memory,
                "cuda": torch.version.cuda,
                "driver": driver(),
            }
        return said


def _made(load: Callable[[], Backend | None]) -> Backend:
    backend = load()
    assert backend is not None  # it is available
    return backend


@contextmanager
def _bound(d: Device) -> Iterator[dict[str, Bound]]:
    """What binds calls to each backend of a device."""

    def giving(backend: Backend) -> Callable[[], Backend]:
        return lambda: backend

    with ExitStack() as stack:
        yield {
            name: stack.enter_context(on_backend(f"bench-{i}", giving(backend), d.device.type))
            for i, (name, backend) in enumerate(d.backends.items())
        }


def _named(name: str) -> str:
    """A backend's way as a row calls it."""
    return PLAIN_GATHER if name.endswith(", plain") else name


def _entrants(
    d: Device, call: Callable[[], Tensor], m: Multiplier, expected: Tensor, products: int,
    bound: dict[str, Bound],
) -> list[Entrant]:  # fmt: skip
    found = []
    for name, backend in d.backends.items():
        if backend.supports(GemmRequest(m, 1, 1, 1, d.device, torch.int64)):
            found.append(
                Entrant(
                    _named(name), d.waited(bound[name](call)), expected, products=products,
                    details={"multiplier": m.id},
                )
            )  # fmt: skip
    return found


# --- matrix products ------------------------------------------------------------------------------


def gemm(context: Context, d: Device) -> list[Step]:
    """A race for each shape and multiplier."""
    shapes = _QUICK_SHAPES if context.settings.quick else _SHAPES
    tables = context.any_multipliers([*FAMILIES, unstructured(True)])
    return [
        Step(f"gemm, {name}, {m.id}", functools.partial(_gemm, context, d, name, shape, m))
        for name, shape in shapes.items()
        for m in tables
    ]


def _gemm(
    context: Context, d: Device, name: str, shape: tuple[int, int, int], m: Multiplier
) -> list[Row]:
    rows, k, n = shape
    a, b = codes(m.a, (rows, k), 1).to(d.device), codes(m.b, (k, n), 2).to(d.device)
    handle, products = register(m), rows * k * n

    def call() -> Tensor:
        out: Tensor = lut_gemm(a, b, handle, torch.int64)
        return out

    with use_backend("reference"):
        expected = call()
    entrants = []
    x, w = (torch.rand(s, device=d.device) for s in ((rows, k), (k, n)))
    entrants.append(Entrant(FP32, d.waited(lambda: x @ w), products=products))
    if d.device.type == "cuda":
        half = x.half(), w.half()
        entrants.append(Entrant(FP16, d.waited(lambda: half[0] @ half[1]), products=products))
        entrants += _int8(context, d, shape)
    with _bound(d) as bound:
        entrants += _entrants(d, call, m, expected, products, bound)
        return context.race("gemm", f"{name}, {rows} x {k} x {n}, {m.id}", entrants, _YARDSTICKS)


def _int8(context: Context, d: Device, shape: tuple[int, int, int]) -> list[Entrant]:
    """Torch's int8 product, where it takes such a shape."""
    rows, k, n = shape
    x, w = (
        torch.randint(-128, 128, s, dtype=torch.int8, device=d.device) for s in ((rows, k), (k, n))
    )
    try:
        torch._int_mm(x, w)
    except RuntimeError as error:
        context.note(f"no {INT8} for {rows} x {k} x {n}: {str(error).splitlines()[0]}")
        return []
    run = d.waited(lambda: torch._int_mm(x, w))
    return [Entrant(INT8, run, products=math.prod(shape))]


# --- convolutions ---------------------------------------------------------------------------------


def conv(context: Context, d: Device) -> list[Step]:
    """A race for each convolution and multiplier."""
    quick = context.settings.quick
    cases = list(_CONVOLUTIONS)
    if quick:
        cases = [c.tiny() for c in cases if c.name in _QUICK_CONVOLUTIONS]
    tables = context.any_multipliers(["exact:8s", "roba:8s", unstructured(True)])
    return [
        Step(f"conv, {c.name}, {m.id}", functools.partial(_conv, context, d, c, m))
        for c in cases
        for m in tables
    ]


def _conv(context: Context, d: Device, case: ConvCase, m: Multiplier) -> list[Row]:
    x, w = codes(m.a, case.x, 1).to(d.device), codes(m.b, case.w, 2).to(d.device)
    run_conv = getattr(functional, case.function)

    def call() -> Tensor:
        out: Tensor = run_conv(x, w, m, **case.options)
        return out

    with use_backend("reference"):
        expected = call()
    real = [torch.rand(case.x, device=d.device), torch.rand(case.w, device=d.device)]
    types = {FP32: torch.float32} | ({FP16: torch.float16} if d.device.type == "cuda" else {})
    entrants = []
    for name, dtype in types.items():
        operands = [t.to(dtype) for t in real]
        run = functools.partial(F.conv2d, *operands, **case.options)
        entrants.append(Entrant(name, d.waited(run), products=case.products))
    with _bound(d) as bound:
        entrants += _entrants(d, call, m, expected, case.products, bound)
        return context.race("conv", f"{case.name}, {m.id}", entrants, _YARDSTICKS)


# --- networks -------------------------------------------------------------------------------------


def network(context: Context, d: Device) -> list[Step]:
    """A race for each network: inference, and a step of training."""
    found = []
    for name, (make, image, batch) in _NETWORKS.items():
        size = (8, 2) if context.settings.quick else (image, batch)
        for kind, run in (("inference", _inference), ("training", _training)):
            found.append(
                Step(f"{name}, {kind}", functools.partial(run, context, d, name, make, *size))
            )
        if context.settings.quick:
            break
    return found


def _inference(
    context: Context, d: Device, name: str, make: Callable[[], nn.Module], image: int, batch: int
) -> list[Row]:
    model = make().to(d.device).eval()
    images = torch.rand(batch, 3, image, image, device=d.device)
    entrants = [Entrant(FP32, d.waited(inferring(model, images)))]
    if d.device.type == "cuda":
        half = make().to(d.device).eval().half()
        entrants.append(Entrant(FP16, d.waited(inferring(half, images.half()))))
    with _bound(d) as bound:
        chosen = next(iter(bound.values()))
        for m in context.any_multipliers(_NETWORK_MULTIPLIERS):
            converted = approximate(model, m).eval()
            calibrate(converted, [images])
            run = chosen(inferring(converted, images))
            check = functools.partial(compared_with_reference, f"{name}, {m.id}", run)
            entrants.append(Entrant(m.id, d.waited(run), check=check, details={"multiplier": m.id}))
        case = f"{name}, inference, {image} x {image}, batch {batch}"
        return _kind(context.race("network", case, entrants, (FP16, FP32)), "inference")


def _training(
    context: Context, d: Device, name: str, make: Callable[[], nn.Module], image: int, batch: int
) -> list[Row]:
    model = make().to(d.device).train()
    images = torch.rand(batch, 3, image, image, device=d.device)
    entrants: list[Entrant] = []
    with _bound(d) as bound:
        chosen = next(iter(bound.values()))
        for m in context.any_multipliers(_NETWORK_MULTIPLIERS):
            converted = approximate(model, m).train()
            calibrate(converted, [images])

            def step(net: nn.Module = converted) -> Tensor:
                net.zero_grad()
                loss: Tensor = net(images).square().mean()
                loss.backward()  # type: ignore[no-untyped-call]
                return loss

            def exact(net: nn.Module = converted, step: Callable[[], Tensor] = step) -> Tensor:
                with mode(net, "exact"):
                    return step()

            if not entrants:
                entrants.append(Entrant(_EXACT, d.waited(chosen(exact))))
            entrants.append(Entrant(m.id, d.waited(chosen(step)), details={"multiplier": m.id}))
        case = f"{name}, training step, {image} x {image}, batch {batch}"
        return _kind(context.race("network", case, entrants, (_EXACT,)), "training")


def _kind(rows: list[Row], kind: str) -> list[Row]:
    return [replace(r, details={**r.details, "kind": kind}) for r in rows]
