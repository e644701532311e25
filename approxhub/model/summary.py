"""What a converted model does: multiplier, mapping, datapath, operations and energy of layers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from approxhub.model.layers import approx_layers, module_names, require_layers
from approxhub.model.leftovers import has_products
from approxhub.multiplier import Multiplier
from approxhub.nn import ApproxLayer, CompositeLayer
from approxhub.operands import OperandFormat

__all__ = ["LayerSummary", "Summary", "count_operations", "summary"]


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """One row of a :class:`Summary`.

    Parameters
    ----------
    name, type : str
        Name and type of the module.
    multiplier, mapping, datapath, mode : str or None
        None for a layer that stays exact. The default datapath is an empty text.
    operations : int or None
        Multiply-accumulates for the example input; None if it was not given, or if they cannot
        be counted.
    relative_energy : float or None
        Energy over that of the exact multiplier; None where a power is unknown.
    """

    name: str
    type: str
    multiplier: str | None
    mapping: str | None
    datapath: str | None
    mode: str | None
    operations: int | None
    relative_energy: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """A converted model at a glance.

    Parameters
    ----------
    layers : tuple of LayerSummary
        Approximate layers, and everything else that multiplies and accumulates.
    operations : int or None
        Multiply-accumulates of the whole model for the example input.
    relative_energy : float or None
        See :func:`summary`.
    """

    layers: tuple[LayerSummary, ...]
    operations: int | None
    relative_energy: float | None

    def __str__(self) -> str:
        # Of little use where all layers have the default one.
        shown = any(r.datapath for r in self.layers)
        path = ("datapath",) if shown else ()
        head = ("layer", "type", "multiplier", "mapping", *path, "operations", "energy")
        rows = [
            (
                r.name or "(root)",
                r.type,
                r.multiplier or "exact",
                r.mapping or "-",
                *([r.datapath or "-"] if shown else []),
                "?" if r.operations is None else f"{r.operations:,}",
                "?" if r.relative_energy is None else f"{r.relative_energy:.3f}",
            )
            for r in self.layers
        ]
        total = "?" if self.operations is None else f"{self.operations:,}"
        energy = "?" if self.relative_energy is None else f"{self.relative_energy:.3f}"
        rows.append(("total", "", "", "", *[""] * len(path), total, energy))
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines = [
            "  ".join(
                cell.rjust(w) if i >= len(head) - 2 else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in [head, *rows]
        ]
        # Every model has an approximate layer, and those are counted wherever there is an example.
        if all(r.operations is None for r in self.layers):
            lines.append("operations need an example input: approxhub.summary(model, x)")
        unknown = {
            r.multiplier: None
            for r in self.layers
            if r.multiplier and r.mode != "float" and r.relative_energy is None
        }
        if unknown:
            lines.append(f"no published power to compare: {', '.join(unknown)}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        return {
            "layers": [
                {field: getattr(r, field) for field in LayerSummary.__slots__} for r in self.layers
            ],
            "operations": self.operations,
            "relative_energy": self.relative_energy,
        }


def count_operations(model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, int]:
    """Multiply-accumulates that each module of a model makes itself, for one input.

    Counted while the float model runs on the input, by torch's own counter: half of its
    floating-point operations. Padding counts like any other activation.

    Parameters
    ----------
    model : torch.nn.Module
        Any model; its state is left as it was.
    *args, **kwargs
        The input.

    Returns
    -------
    dict of str to int
        By first name of the module; those that make none are left out.

    Examples
    --------
    >>> import torch
    >>> count_operations(torch.nn.Linear(4, 3), torch.zeros(2, 4))
    {'': 24}
    """
    return run_counting(model, args, kwargs).made


class Counted(NamedTuple):
    """What a model multiplied for one input.

    Parameters
    ----------
    made : dict of str to int
        As :func:`count_operations` gives it.
    ran : set of str
        First names of the modules that ran.
    """

    made: dict[str, int]
    ran: set[str]


def run_counting(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Counted:
    """As :func:`count_operations`, and which modules ran."""
    names = module_names(model)
    training = [(m, m.training) for m in names]
    modes = {layer: layer.mode for layer in approx_layers(model).values()}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    counter = FlopCounterMode(display=False)
    made = dict.fromkeys(names, 0)
    ran: set[nn.Module] = set()
    running: list[tuple[int, int]] = []  # count at entry, and what inner modules have made since

    def enter(module: nn.Module, *_: Any) -> None:
        ran.add(module)
        running.append((counter.get_total_flops(), 0))

    def leave(module: nn.Module, *_: Any) -> None:
        start, inner = running.pop()
        all_of_it = counter.get_total_flops() - start
        made[module] += all_of_it - inner
        if running:
            running[-1] = (running[-1][0], running[-1][1] + all_of_it)

    hooks = [m.register_forward_pre_hook(enter) for m in names]
    hooks += [m.register_forward_hook(leave) for m in names]
    try:
        for m in names:
            m.training = False
        for layer in modes:
            layer.mode = "float"
        # Fused kernels hide their products from the counter: decompose them.
        torch.backends.mha.set_fastpath_enabled(False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # switching oneDNN off warns about Intel GPUs
            with (
                torch.no_grad(),
                torch.backends.mkldnn.flags(enabled=False),
                sdpa_kernel(SDPBackend.MATH),
                counter,
            ):
                model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for layer, was in modes.items():
            layer.mode = was
        for m, was_training in training:
            m.training = was_training
    return Counted(
        {names[m][0]: flops // 2 for m, flops in made.items() if flops},
        {names[m][0] for m in ran},
    )


@dataclass(frozen=True, slots=True)
class _Price:
    """Power of one exact product in milliwatts, if it is known, and of which technology."""

    exact: float | None
    technology: str | None
    a: OperandFormat
    b: OperandFormat

    def relative(self, layer: ApproxLayer) -> float | None:
        """Power of a layer's product over that of an exact one, which need not be known for 1."""
        m = layer.multiplier
        if layer.mode == "exact" or (m.is_exact and m.hardware.power_mw is None):
            if (m.a, m.b) == (self.a, self.b):
                return 1.0
            power = _exact_power(m.a, m.b, self.technology)
        elif layer.mode == "float" or m.hardware.technology != self.technology:
            return None
        else:
            power = m.hardware.power_mw
        return None if power is None or not self.exact else power / self.exact


def _exact_power(a: OperandFormat, b: OperandFormat, technology: str | None) -> float | None:
    from approxhub.registry import energy_reference

    return energy_reference(a, b, technology)


def _price(layers: Sequence[ApproxLayer]) -> _Price:
    """Price of an exact product of the model's width and sign: its widest circuit's."""

    def width(m: Multiplier) -> tuple[int, OperandFormat, OperandFormat]:
        return (m.a.bits + m.b.bits, m.a, m.b)

    _, a, b = max(width(layer.multiplier) for layer in layers)
    known = {
        layer.multiplier.hardware.technology
        for layer in layers
        if layer.multiplier.hardware.power_mw is not None
    }
    if len(known) > 1:
        return _Price(None, None, a, b)
    technology = next(iter(known), None)
    return _Price(_exact_power(a, b, technology), technology, a, b)


def _is_exact(module: nn.Module) -> bool:
    """Whether a module of torch's makes products that no multiplier makes."""
    if isinstance(module, CompositeLayer):
        return bool(module.exact_products())
    return has_products(module)


def summary(model: nn.Module, *args: Any, **kwargs: Any) -> Summary:
    """Multiplier, mapping, datapath, operations and relative energy of a model's layers.

    Relative energy is the sum over all multiply-accumulates of the power of the multiplier that
    makes them, over the same sum at the power of the exact multiplier of the model's width and
    sign in the same technology. What is left exact counts at the exact price. Wrappers, zero
    points, adders and memory are not in it.

    Parameters
    ----------
    model : torch.nn.Module
        A converted model; its state is left as it was.
    *args, **kwargs
        An example input. Without one, operations and the model's energy are None.

    Returns
    -------
    Summary

    Raises
    ------
    ConversionError
        If the model has no approximate layer.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = ah.approximate(torch.nn.Sequential(torch.nn.Linear(4, 2)), ah.exact(8))
    >>> ah.summary(net, torch.zeros(1, 4)).operations
    8
    """
    require_layers(model)
    return summarize(model, run_counting(model, args, kwargs) if args or kwargs else None)


def summarize(model: nn.Module, counted: Counted | None) -> Summary:
    """As :func:`summary`, of operations that were counted before."""
    layers = require_layers(model)
    price = _price(list(layers.values()))
    rows: list[LayerSummary] = []
    spent: float | None = 0.0
    within: set[nn.Module] = set()
    for module, names in module_names(model).items():
        name = names[0]
        operations = None if counted is None else counted.made.get(name, 0)
        if module in within and not operations and not isinstance(module, ApproxLayer):
            continue
        if isinstance(module, ApproxLayer):
            relative = price.relative(module)
            text: tuple[str | None, str | None, str | None, str | None] = (
                module.multiplier.id,
                str(module.mapping),
                str(module.datapath),
                module.mode,
            )
        elif operations or _is_exact(module):
            if has_products(module):
                within.update(module.modules())  # its parts are its own business
            if counted is not None and name in counted.ran and not operations:
                operations = None  # it multiplies, but the counter did not see it
            relative, text = 1.0, (None, None, None, None)
        else:
            continue
        rows.append(LayerSummary(name, type(module).__name__, *text, operations, relative))
        if spent is not None:
            known = relative is not None and operations is not None
            spent = spent + (relative or 0.0) * (operations or 0) if known else None
    unknown = counted is None or any(r.operations is None for r in rows)
    total = None if unknown else sum(r.operations or 0 for r in rows)
    energy = spent / total if spent is not None and total else None
    return Summary(tuple(rows), total, energy)
