"""The suite ``network``: layers and whole networks against the fp32 ones, in time and memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from approxhub.backends import use_backend
from approxhub.bench.context import Context
from approxhub.bench.memory import peak_bytes
from approxhub.bench.names import FP32
from approxhub.bench.networks import MobileNetV2, resnet18, resnet20
from approxhub.bench.report import Detail, Row
from approxhub.bench.step import Step
from approxhub.bench.timing import Entrant
from approxhub.errors import BenchmarkError
from approxhub.model import approximate, calibrate
from approxhub.multiplier import Multiplier

__all__ = ["NETWORKS", "Network", "compared_with_reference", "inferring", "network"]

_MULTIPLIERS = ("exact:8s", "roba:8s", "drum:8s/k=4")
_MEMORY = ((1, 64, 56, 56), (16, 64, 56, 56), (16, 512, 7, 7))
_SEED = 0


@dataclass(frozen=True, slots=True)
class Network:
    """A network and what it is shown.

    Parameters
    ----------
    name : str
    make : callable
    image : int
        Height and width of the images.
    batches : tuple of int
    """

    name: str
    make: Callable[[], nn.Module]
    image: int
    batches: tuple[int, ...]


NETWORKS = (
    Network("ResNet-18", resnet18, 224, (1, 16)),
    Network("MobileNetV2", MobileNetV2, 224, (1, 16)),
    Network("CIFAR ResNet-20", resnet20, 32, (1, 64)),
)
"""What is timed."""

_QUICK_MULTIPLIERS = ("roba:8s",)
_QUICK_NETWORKS = (Network("CIFAR ResNet-20", functools.partial(resnet20, 3), 8, (2,)),)


def network(context: Context) -> list[Step]:
    """A race for each network and batch, one for each layer of the first, and memory."""
    quick = context.settings.quick
    networks = _QUICK_NETWORKS if quick else NETWORKS
    steps = []
    for threads in context.settings.threads:
        for net in networks:
            steps += [
                Step(
                    f"network, {net.name}, batch {batch}, {threads} thread(s)",
                    functools.partial(_whole, context, net, batch, threads),
                )
                for batch in net.batches
            ]
        steps.append(
            Step(
                f"network, layers of {networks[0].name}, {threads} thread(s)",
                functools.partial(_layers, context, networks[0], threads),
            )
        )
    shapes = ((1, 4, 5, 5),) if quick else _MEMORY
    return [*steps, *(_memory_step(context, x) for x in shapes)]


def _multipliers(context: Context) -> list[Multiplier]:
    return context.multipliers(_QUICK_MULTIPLIERS if context.settings.quick else _MULTIPLIERS)


def _made(net: Network, batch: int) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return net.make().eval(), torch.rand(batch, 3, net.image, net.image)


def _converted(model: nn.Module, m: Multiplier, batch: Tensor) -> nn.Module:
    converted = approximate(model, m).eval()
    calibrate(converted, [batch])
    return converted


def _whole(context: Context, net: Network, batch: int, threads: int) -> list[Row]:
    model, images = _made(net, batch)
    entrants = [Entrant(FP32, inferring(model, images), threads=threads)]
    for m in _multipliers(context):
        run = context.on_engine(inferring(_converted(model, m, images), images))
        what = f"network, {net.name}, batch {batch}, {m.id}"
        entrants.append(
            Entrant(
                m.id,
                run,
                check=functools.partial(compared_with_reference, what, run),
                threads=threads,
                details={"multiplier": m.id},
            )
        )
    details = {"network": net.name, "image": net.image, "batch": batch}
    case = f"{net.name}, {net.image} x {net.image}, batch {batch}, threads: {threads}"
    return _with(context.race("network", case, entrants, (FP32,)), kind="network", **details)


def inferring(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """A forward pass in inference mode."""

    def run() -> Tensor:
        with torch.inference_mode():
            out: Tensor = model(x)
            return out

    return run


def _with(rows: Iterable[Row], **details: Any) -> list[Row]:
    return [replace(r, details={**r.details, **details}) for r in rows]


class _Comparing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Compares the integers of every sum of products with the reference, on the last image."""

    def __init__(self, what: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._what = what
        self.compared = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        ours = (torch.ops.approxhub.lut_conv.default, torch.ops.approxhub.lut_gemm.default)
        if func in ours:
            with use_backend("reference"):
                expected = func(args[0][-1:], *args[1:], **(kwargs or {}))
            self.compared += 1
            wrong = int((out[-1:] != expected).sum())
            if wrong:
                raise BenchmarkError(
                    f"{self._what}: {wrong} of {expected.numel()} sums of layer {self.compared} "
                    "differ from those of the reference. Nothing was timed; please report this "
                    "with what `approxhub doctor` prints"
                )
        return out


def compared_with_reference(what: str, run: Callable[[], Tensor]) -> None:
    """Run a converted network once, and compare all its integer sums with the reference.

    On the last image of the batch, where the tails of tiles lie: the reference is slow.

    Parameters
    ----------
    what : str
        What is run, for an error.
    run : callable

    Raises
    ------
    BenchmarkError
        If a sum differs, or there are none.
    """
    with _Comparing(what) as comparing:
        run()
    if not comparing.compared:
        raise BenchmarkError(f"{what}: no layer multiplies through a multiplier")


# --- layers ---------------------------------------------------------------------------


def _layers(context: Context, net: Network, threads: int) -> list[Row]:
    """A race for each different layer, on one image."""
    model, image = _made(net, 1)
    multipliers = _multipliers(context)
    rows = []
    for name, (layer, x) in _different(model, image).items():
        entrants = [Entrant(FP32, inferring(layer, x), threads=threads)]
        for m in multipliers:
            run = context.on_engine(inferring(_converted(layer, m, x), x))
            check = functools.partial(compared_with_reference, f"network, {name}, {m.id}", run)
            entrants.append(
                Entrant(m.id, run, check=check, threads=threads, details={"multiplier": m.id})
            )
        case = f"{net.name}, {name}, batch 1, threads: {threads}"
        raced = context.race("network", case, entrants, (FP32,))
        rows += _with(raced, kind="layer", network=net.name, layer=name)
    return rows


def _different(model: nn.Module, image: Tensor) -> dict[str, tuple[nn.Module, Tensor]]:
    """Layers with products, each shape once, with what reaches them; named by what they are."""
    found: dict[str, tuple[nn.Module, Tensor]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        found.setdefault(_describe(layer, inputs[0]), (layer, inputs[0]))

    kinds = (nn.Conv2d, nn.Linear)
    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, kinds)]
    with torch.inference_mode():
        model(image)
    for hook in hooks:
        hook.remove()
    return {name: (layer, x.clone()) for name, (layer, x) in found.items()}


def _describe(layer: nn.Module, x: Tensor) -> str:
    if isinstance(layer, nn.Conv2d):
        kernel = " x ".join(map(str, layer.kernel_size))
        size = " x ".join(map(str, x.shape[2:]))
        stride = f" stride {layer.stride[0]}" if layer.stride[0] > 1 else ""
        return f"conv {layer.in_channels} to {layer.out_channels}, {kernel}{stride}, on {size}"
    assert isinstance(layer, nn.Linear)
    return f"linear {layer.in_features} to {layer.out_features}"


# --- memory ---------------------------------------------------------------------------


def _memory_step(context: Context, x: tuple[int, ...]) -> Step:
    said = " x ".join(map(str, x))
    case = f"peak memory, conv {x[1]} to {x[1]}, 3 x 3, on {said}"

    def run() -> list[Row]:
        base = peak_bytes(x, x[1], 3, None)
        if base is None:
            context.note("no peak memory: it is read from /proc, which this system lacks")
            return []
        rows = [_memory_row(case, FP32, base, base)]
        for m in _multipliers(context):
            if m.id.startswith("local:"):
                continue  # a child process would not know it
            taken = peak_bytes(x, x[1], 3, m.id)
            assert taken is not None
            rows.append(_memory_row(case, m.id, taken, base))
        return rows

    return Step(f"network, {case}", run)


def _memory_row(case: str, name: str, taken: int, base: int) -> Row:
    over = round(taken / base, 3) if base else None
    details: dict[str, Detail] = {"kind": "memory", "bytes": taken, "over_fp32": over}
    return Row("network", case, name, details=details)
