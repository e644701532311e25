"""Training on what a network computes on integers alone.

The model runs twice, step by step: its own operations give the gradients, and those that
:func:`approxhub.to_integers` makes of them give the numbers. Imports torch, the layers and the
conversion to integers.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from approxhub.errors import CalibrationError, ConversionError
from approxhub.model.integers import (
    Conversion,
    IntegerNetwork,
    conversion,
    require_integer_modes,
)
from approxhub.model.layers import approx_layers
from approxhub.nn import ApproxLayer
from approxhub.nn.folding import NormalizedLayer
from approxhub.nn.integers import CodeGrid, IntegerRequantize
from approxhub.quantization import LearnedQuantizer, Quantizer

__all__ = ["IntegerTraining", "integer_training"]

_DROPOUTS = (F.dropout, F.dropout2d)
_IN_PLACE = (operator.iadd, operator.isub)
_MODEL_ITSELF = "; for the model in another mode, or its summary, take the attribute model"
_tracing = threading.Lock()


class _Handed(torch.autograd.Function):
    """Another number in place of one, with the gradient passed straight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class IntegerTraining(nn.Module):
    """A model that is trained on the numbers of its integer network.

    Made by :func:`integer_training`. In training and in evaluation its result is that of
    :meth:`integers`, bit for bit: every value between its layers has been rounded to codes by the
    requantisation of the hardware, those included that no layer takes, which have an output
    quantiser. Gradients are those of the model's own operations, at these values: straight
    through each requantisation where it did not clamp (B. Jacob et al., CVPR 2018,
    DOI 10.1109/CVPR.2018.00286, section 3), and those of LSQ for quantisers with learned scales.

    The ranges of activations stay as they are, unless they are learned; the scales of the weights
    follow the weights. Statistics of folded batch normalisation are frozen, and dropout is off.

    Attributes
    ----------
    model : torch.nn.Module
        The model, whose parameters are trained.
    output_quantizers : torch.nn.ModuleDict
        Those of values that no layer takes as they are, as ``<name of the operation>_output``.
    """

    def __init__(self, model: nn.Module, outputs: dict[str, Quantizer], steps: Conversion) -> None:
        super().__init__()
        self.model = model
        self.output_quantizers = nn.ModuleDict({f"{n}_output": q for n, q in outputs.items()})
        self._shapes = steps.shapes
        self.__dict__["_traced"] = steps
        self.train(model.training)

    def train(self, mode: bool = True) -> IntegerTraining:
        """As :meth:`torch.nn.Module.train`; statistics of batch normalisation stay frozen."""
        super().train(mode)
        self._freeze_statistics()
        return self

    def _freeze_statistics(self) -> None:
        for layer in self._layers():
            if isinstance(layer, NormalizedLayer):
                layer.norm.eval()

    def _layers(self) -> list[ApproxLayer]:
        return list(approx_layers(self.model).values())

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.pop("_traced", None)  # a graph, which is made again, of the copy
        return state

    def _steps(self) -> Conversion:
        """The model's operations, with the grids of its quantisers as they are now."""
        require_integer_modes(approx_layers(self.model), _MODEL_ITSELF)
        with _tracing:  # which torch.fx does by changing a class that all threads share
            found: Conversion | None = self.__dict__.get("_traced")
            if found is None:
                found = Conversion(self.model)
                found.shapes = self._shapes
                self.__dict__["_traced"] = found
        quantizers = {n.removesuffix("_output"): q for n, q in self.output_quantizers.items()}
        found.outputs = quantizers  # type: ignore[assignment]  # a ModuleDict of quantisers
        found.refresh()
        return found

    @torch.no_grad()
    def integers(self) -> IntegerNetwork:
        """The network on integers alone, as it is now; it shares nothing with the model."""
        if self.training:
            for layer in self._layers():
                layer.observe_weight()
        return self._steps().made()

    def forward(self, x: Tensor) -> Tensor:
        """What the integer network gives, as real numbers, with gradients behind them.

        Parameters
        ----------
        x : Tensor of float
            As the model takes it.

        Returns
        -------
        Tensor of float32
            ``integers().dequantize(integers()(integers().quantize(x)))``, bit for bit.

        Raises
        ------
        CalibrationError
            If NaN or infinity reaches a quantiser.
        ConversionError
            If a layer is in another mode than ``'approximate'`` or ``'exact'``, as it is in
            :func:`approxhub.summary`.
        InputError
            If a sum needs more than 32 bits, or sizes are not those that means were made for.
        """
        given: Any = x
        if isinstance(given, fx.Proxy):
            raise ConversionError(
                "an IntegerTraining cannot be traced: the network on integers is what its "
                "integers() gives, and the model that it trains is its attribute model"
            )
        if self.training:
            self._freeze_statistics()  # somebody may have told a part to train
            for layer in self._layers():
                layer.observe_weight()
        with torch.no_grad():
            steps = self._steps()
        run = _Run(self.model, steps)
        with _held_ranges(self._layers()):
            return run(x)


@contextmanager
def _held_ranges(layers: list[ApproxLayer]) -> Iterator[None]:
    # In evaluation no range moves, and several threads may be at it.
    layers = [layer for layer in layers if layer.training]
    for layer in layers:
        layer._holds_range = True
    try:
        yield
    finally:
        for layer in layers:
            del layer._holds_range


class _Run:
    """One pass: of each value its codes, and its real numbers with a gradient."""

    def __init__(self, model: nn.Module, steps: Conversion) -> None:
        self._model, self._steps = model, steps
        self._real: dict[fx.Node, Any] = {}
        self._codes: dict[fx.Node, Any] = {}

    def __call__(self, x: Tensor) -> Tensor:
        steps = self._steps
        for node in steps.nodes:
            kind = steps.kinds[node]
            if kind == "output":
                break
            if kind == "placeholder":
                if node.users:
                    self._quantize(node, x)
            elif kind == "number":
                self._real[node] = self._codes[node] = self._called(node, self._real)
            elif kind == "same":
                for values in (self._real, self._codes):
                    values[node] = self._same(node, values)
            else:
                self._step(node, kind)
        found: Tensor = self._real[node.args[0]]
        # Autograd lets nobody change in place what a function of our own gave.
        return found.clone() if found.requires_grad else found

    def _quantize(self, node: fx.Node, x: Tensor) -> None:
        owner, grid = self._steps.owners[node], self._steps.grids[node]
        try:
            self._real[node], self._codes[node] = owner.quantize(x, grid.dtype, with_real=True)
        except CalibrationError as error:
            what = f"input {node.name!r} of {type(self._model).__name__}"
            raise CalibrationError(f"{what}: {error}") from None

    def _called(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """What an operation of the model makes of values."""
        args: Any = fx.node.map_arg(node.args, lambda n: values[n])
        kwargs: Any = fx.node.map_arg(node.kwargs, lambda n: values[n])
        if node.op == "call_module":
            return self._model.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            first, *rest = args
            return getattr(first, str(node.target))(*rest, **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def _same(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """An operation that changes no number; dropout is none."""
        module = node.op == "call_module" and self._model.get_submodule(str(node.target))
        if node.target in _DROPOUTS or isinstance(module, nn.modules.dropout._DropoutNd):
            return values[self._steps.source(node)]
        return self._called(node, values)

    def _step(self, node: fx.Node, kind: str) -> None:
        """An operation that makes new numbers, of the model and on integers."""
        steps = self._steps
        taken = steps.terms(node)
        codes, real = [self._codes[n] for n in taken], dict(self._real)
        if kind == "layer":
            layer = steps.layer(node)
            asked = CodeGrid.of(layer.input_quantizer)
            if steps.grids[taken[0]] != asked:
                with torch.no_grad():
                    codes = [IntegerRequantize(steps.grids[taken[0]], asked)(*codes)]
                real[taken[0]] = _rounded(real[taken[0]], codes[0], asked, layer.input_quantizer)
        for n in taken if _in_place(node, self._model) else ():
            real[n] = real[n].clone()  # others take it too, and so does its gradient
        free = self._called(node, real)
        with torch.no_grad():
            found = steps.operation(node, kind, taken)(*codes)
        grid = steps.grids[node]
        self._codes[node] = found
        if kind in ("clamp", "max"):  # no rounding: the limits alone were
            self._real[node] = _Handed.apply(  # type: ignore[no-untyped-call]
                free, grid.dequantize(found)
            )
        else:
            self._real[node] = _rounded(free, found, grid, steps.owners[node])


def _rounded(free: Tensor, codes: Tensor, grid: CodeGrid, owner: Quantizer) -> Tensor:
    """Real numbers of codes, with the gradient that their quantiser has for what was rounded."""
    with torch.no_grad():
        free_codes = torch.round(free.detach().to(torch.float32) / grid.scale) + grid.zero_point
        inside = (free_codes >= grid.codes.qmin) & (free_codes <= grid.codes.qmax)
        value = grid.dequantize(codes)
    return owner.differentiable(free, value, codes, inside) if torch.is_grad_enabled() else value


def _in_place(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    named = node.op == "call_method" and str(node.target).endswith("_")
    return named or node.target in _IN_PLACE or bool(node.kwargs.get("inplace"))


def integer_training(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    calibrator: str = "minmax",
    learned: bool = False,
) -> IntegerTraining:
    """Let a converted, calibrated model be trained on what it computes on integers alone.

    The numbers of each pass are those of :func:`approxhub.to_integers`, requantisation and output
    quantisers included, so the weights can adapt to both; :meth:`IntegerTraining.integers` is
    then the network whose integers the training has seen. A pass makes each product twice, once
    for the numbers and once for the gradient.

    Parameters
    ----------
    model : torch.nn.Module
        As :func:`approxhub.to_integers` takes it. It is not copied: its parameters are trained.
    batches : iterable
        Batches of inputs that the output quantisers are calibrated with, as there.
    calibrator : str
        Of the output quantisers.
    learned : bool
        Whether the output quantisers learn their scales, as
        :class:`approxhub.quantization.LearnedQuantizer`; those of the layers are the model's own.

    Returns
    -------
    IntegerTraining
        In evaluation, as the model is; call its ``train()``.

    Raises
    ------
    ConversionError, CalibrationError, InputError
        As :func:`approxhub.to_integers`.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x, wanted = torch.randn(16, 4), torch.randn(16, 2)
    >>> net = ah.calibrate(ah.approximate(net, "drum:8s/k=4"), [x]).eval()
    >>> training = ah.integer_training(net, [x]).train()
    >>> optimiser = torch.optim.SGD(training.parameters(), lr=0.01)
    >>> for _ in range(3):
    ...     optimiser.zero_grad()
    ...     (training(x) - wanted).square().mean().backward()
    ...     optimiser.step()
    >>> integers = training.eval().integers()
    >>> torch.equal(integers.dequantize(integers(integers.quantize(x))), training(x))
    True
    """
    steps = conversion(model, batches, calibrator)
    outputs = {
        name: LearnedQuantizer.from_quantizer(q) if learned else q
        for name, q in steps.outputs.items()
    }
    return IntegerTraining(model, outputs, steps)
