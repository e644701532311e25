"""A whole network on integers alone.

The model is traced; each of its values gets a grid of codes, from the quantiser of the layer
that takes it, or found from data where no layer does; and each operation becomes one on codes.
"""

from __future__ import annotations

import inspect
import logging
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from approxhub.errors import CalibrationError, ConversionError, InputError
from approxhub.model.layers import require_layers
from approxhub.nn import ApproxLayer, CompositeLayer
from approxhub.nn.conv import ConvNd
from approxhub.nn.conv_transpose import ConvTransposeNd
from approxhub.nn.gradients import LinearProduct
from approxhub.nn.integers import (
    CodeGrid,
    IntegerClamp,
    IntegerConcatenation,
    IntegerLayer,
    IntegerLookup,
    IntegerMaxPool,
    IntegerMean,
    IntegerPool,
    IntegerRequantize,
    IntegerSum,
)
from approxhub.nn.linear import Linear
from approxhub.ops import code_dtype
from approxhub.quantization import CodeRange, Quantizer, integer_bias
from approxhub.quantization.quantizer import require

__all__ = ["IntegerNetwork", "to_integers"]

_LARGEST_BIAS = 2.0**30  # which leaves room for the sums
_log = logging.getLogger("approxhub")

# --- what there is --------------------------------------------------------------------

_SAME = {  # do not change a number, only where it stands
    nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    nn.AlphaDropout, nn.PixelShuffle, nn.PixelUnshuffle,
    torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze,
    F.dropout, F.dropout2d, F.pixel_shuffle, operator.getitem,
    "flatten", "view", "reshape", "permute", "transpose", "contiguous", "squeeze", "unsqueeze",
    "clone", "detach",
}  # fmt: skip
_CLAMPS: dict[Any, Callable[..., tuple[Any, Any]]] = {
    **dict.fromkeys((nn.ReLU, torch.relu, F.relu, "relu", "relu_"), lambda **_: (0.0, None)),
    **dict.fromkeys((nn.ReLU6, F.relu6), lambda **_: (0.0, 6.0)),
    **dict.fromkeys(
        (nn.Hardtanh, F.hardtanh), lambda min_val=-1.0, max_val=1.0, **_: (min_val, max_val)
    ),
    **dict.fromkeys((torch.clamp, "clamp"), lambda min=None, max=None, **_: (min, max)),
}
_CLAMP_OPTIONS = {
    F.relu: ("inplace",), F.relu6: ("inplace",), F.hardtanh: ("min_val", "max_val", "inplace"),
    torch.clamp: ("min", "max"), "clamp": ("min", "max"),
}  # fmt: skip
_MAX_POOLS = {nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3,
              F.max_pool1d: 1, F.max_pool2d: 2, F.max_pool3d: 3,
              torch.max_pool1d: 1, torch.max_pool2d: 2, torch.max_pool3d: 3}  # fmt: skip
_MAX_POOL_OPTIONS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_POOLS = {nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3,
          F.avg_pool1d: 1, F.avg_pool2d: 2, F.avg_pool3d: 3}  # fmt: skip
_POOL_OPTIONS = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad",
                 "divisor_override")  # fmt: skip
_ADAPTIVE = {nn.AdaptiveAvgPool1d: 1, nn.AdaptiveAvgPool2d: 2, nn.AdaptiveAvgPool3d: 3,
             F.adaptive_avg_pool1d: 1, F.adaptive_avg_pool2d: 2,
             F.adaptive_avg_pool3d: 3}  # fmt: skip
_MEANS = {torch.mean, "mean"}
_SUMS = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), 1.0),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, "sub", "sub_"), -1.0),
}
_CONCATENATIONS = {torch.cat, torch.concat}
_FUNCTIONS = {  # of each number alone: a table of codes
    nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.Mish, nn.LeakyReLU,
    nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Hardshrink,
    nn.Softshrink, nn.Tanhshrink, nn.Threshold,
    torch.sigmoid, torch.tanh, torch.abs, torch.square, F.sigmoid, F.tanh, F.hardswish,
    F.hardsigmoid, F.silu, F.gelu, F.mish, F.leaky_relu, F.elu, F.selu, F.celu, F.softplus,
    F.softsign, F.logsigmoid, "sigmoid", "tanh", "abs", "square",
}  # fmt: skip
_NUMBERS = {"size", "dim", "numel"}
_MAKERS = ("placeholder", "layer", "sum", "cat", "function")  # of new numbers

_HINTS: dict[Any, str] = {
    **dict.fromkeys(
        (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
        "fold it first: approximate(..., fold_batch_norm=True)",
    ),
    **dict.fromkeys(
        (nn.Softmax, nn.LogSoftmax, F.softmax, F.log_softmax, torch.softmax, "softmax"),
        "at the end of a network leave it out: the largest code is the same",
    ),
    **dict.fromkeys(
        (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
        "its products are exact real ones: convert it with approximate(...)",
    ),
}


class IntegerNetwork(nn.Module):
    """A network that takes codes and gives codes, with integers alone in between.

    Made by :func:`to_integers`. Its ``state_dict`` holds weights as codes, and the mantissas and
    shifts of every requantisation.

    Attributes
    ----------
    network : torch.fx.GraphModule
        The operations on codes, with the names of the model that it was made from.
    input_grid, output_grid : CodeGrid
        What codes of the input and of the output stand for.
    """

    def __init__(
        self, network: fx.GraphModule, input_grid: CodeGrid, output_grid: CodeGrid
    ) -> None:
        super().__init__()
        self.network, self.input_grid, self.output_grid = network, input_grid, output_grid

    def forward(self, codes: Tensor) -> Tensor:
        """Codes of the output for codes of the input.

        Parameters
        ----------
        codes : Tensor of integers
            As :meth:`quantize` gives.

        Returns
        -------
        Tensor of integers

        Raises
        ------
        InputError
            If the input does not hold codes, or a sum needs more than 32 bits.
        """
        self.input_grid.refuse_others(codes)
        out: Tensor = self.network(codes.to(self.input_grid.dtype))
        return out

    def quantize(self, x: Tensor) -> Tensor:
        """Codes of real inputs.

        Raises
        ------
        CalibrationError
            If some are NaN or infinite, for which there is no code; not looked for on a device,
            outside of :func:`approxhub.eager_checks`.
        """
        require(torch.isfinite(x).all(), "the input holds NaN or infinity: no code stands for them")
        return self.input_grid.quantize(x)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Real numbers of the output's codes, float32."""
        return self.output_grid.dequantize(codes)


def to_integers(
    model: nn.Module, batches: Iterable[Any], *, calibrator: str = "minmax"
) -> IntegerNetwork:
    """Make a network that runs on integers alone of a converted, calibrated model.

    Sums of products are integers anyway. Here the bias becomes an integer too, and the sums
    become the next layer's codes by a multiplication and a shift (fixed-point requantisation:
    B. Jacob et al., CVPR 2018, DOI 10.1109/CVPR.2018.00286), so that no real number is needed
    on the way. What lies between layers works on codes: ReLU and other clamps, max pooling and
    changes of shape as they are; sums, differences, means and concatenation with one rounding;
    functions of single numbers (sigmoid, GELU, ...) as tables.

    A value has the codes of the layer that takes it. Values that no layer takes as they are, such
    as the terms of a residual sum and the network's output, get a quantiser of their own, which
    `batches` calibrate: the output quantisers.

    Parameters
    ----------
    model : torch.nn.Module
        Converted, calibrated and in evaluation; in mode ``'approximate'`` or ``'exact'``. It is
        left as it was.
    batches : iterable
        Batches of inputs: tensors, or tuples or lists whose first element is the input. Sizes
        that means are taken over are those of the first.
    calibrator : str
        Of the output quantisers.

    Returns
    -------
    IntegerNetwork

    Raises
    ------
    ConversionError
        If the model cannot be traced, or holds what has no counterpart on integers: the error
        names it. The same if it is training, or a layer is in another mode.
    CalibrationError
        If a layer has no range yet, or there is no batch.
    InputError
        If `batches` is one tensor, or scales are too far apart.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.randn(16, 4)
    >>> net = ah.calibrate(ah.approximate(net, "drum:8s/k=4"), [x]).eval()
    >>> integers = ah.to_integers(net, [x])
    >>> codes = integers(integers.quantize(x))
    >>> codes.dtype, (integers.dequantize(codes) - net(x)).abs().max().item() < 0.05
    (torch.int8, True)
    """
    with torch.no_grad():
        return conversion(model, batches, calibrator).made()


def conversion(model: nn.Module, batches: Iterable[Any], calibrator: str) -> Conversion:
    """A model that can be made one of integers, traced, with its output quantisers calibrated."""
    layers = require_layers(model)
    if isinstance(batches, (Tensor, Mapping)) or not isinstance(batches, Iterable):
        raise InputError(
            f"to_integers takes an iterable of batches, got {type(batches).__name__}; "
            "for a single batch x write [x]"
        )
    if model.training:
        raise ConversionError("in training ranges and weights move: call model.eval() first")
    require_integer_modes(layers)
    for name, layer in layers.items():
        if not all(q.calibrated for q in (layer.input_quantizer, layer.weight_quantizer)):
            raise CalibrationError(
                f"layer {name!r} has no range yet: run approxhub.calibrate(model, batches) first"
            )
    with torch.no_grad():
        return Conversion.calibrated(model, batches, calibrator)


def require_integer_modes(layers: Mapping[str, ApproxLayer], hint: str = "") -> None:
    """Refuse layers in a mode that no hardware is in.

    Raises
    ------
    ConversionError
    """
    for name, layer in layers.items():
        if layer.mode not in ("approximate", "exact"):
            raise ConversionError(
                f"layer {name!r} is in mode {layer.mode!r}: "
                f"set it to 'approximate' or 'exact'{hint}"
            )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """All modules as in evaluation for a while, without what their `train` does besides."""
    before = [(m, m.training) for m in model.modules()]
    try:
        for m, _ in before:
            m.training = False
        yield
    finally:
        for m, training in before:
            m.training = training


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, (ApproxLayer, CompositeLayer))
        return ours or super().is_leaf_module(m, module_qualified_name)


class Conversion:
    """One model on its way to integers."""

    def __init__(self, model: nn.Module) -> None:
        try:
            with _evaluating(model):  # hardware never trains, whatever the model does now
                graph = _Tracer().trace(model)
        except ConversionError:
            raise
        except Exception as error:  # whatever a user's forward does when it is traced
            raise ConversionError(
                f"{type(model).__name__} cannot be traced ({error}): its forward must not depend "
                "on the values of tensors"
            ) from error
        self._root = model
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._traced = fx.GraphModule(model, graph)
        self.nodes = list(graph.nodes)
        inputs = [n for n in self.nodes if n.op == "placeholder" and n.users]
        if len(inputs) != 1:
            raise ConversionError(f"a network with one input is needed, got {len(inputs)}")
        self._input = inputs[0]
        self._numbers: set[fx.Node] = set()
        self.kinds = {n: self._kind(n) for n in self.nodes}
        if "layer" not in self.kinds.values():
            raise ConversionError("no approximate layer is called")
        self.shapes: dict[str, torch.Size] = {}
        self.outputs: dict[str, Quantizer] = {}  # quantisers of values that no layer takes
        self._wanted: dict[fx.Node, Quantizer | None] = {}
        self.owners: dict[fx.Node, Quantizer] = {}
        self.grids: dict[fx.Node, CodeGrid] = {}

    @classmethod
    def calibrated(cls, model: nn.Module, batches: Iterable[Any], calibrator: str) -> Conversion:
        """With output quantisers whose ranges are those of batches."""
        made = cls(model)
        made._find_wanted()
        made.outputs = made._output_quantizers(calibrator)
        made._watch(batches)
        made.refresh()
        return made

    # --- what each node is ------------------------------------------------------------

    def _what(self, node: fx.Node) -> Any:
        """The class of the module, the function, or the name of the method that is called."""
        if node.op == "call_module":
            return type(self._modules[str(node.target)])
        return node.target

    def _kind(self, node: fx.Node) -> str:
        if node.op in ("placeholder", "output"):
            return node.op
        what = self._what(node)
        if node.op == "call_module" and isinstance(self._modules[str(node.target)], ApproxLayer):
            if not isinstance(self._modules[str(node.target)], (Linear, ConvNd, ConvTransposeNd)):
                raise self._refused(node, "it multiplies what no layer on integers does yet")
            return "layer"
        taken = list(node.all_input_nodes)
        if taken and all(n in self._numbers for n in taken):
            self._numbers.add(node)
            return "number"
        if what in _NUMBERS or (what is getattr and node.args[1:] in (("shape",), ("ndim",))):
            self._numbers.add(node)
            return "number"
        for kind, known in (
            ("same", _SAME), ("clamp", _CLAMPS), ("max", _MAX_POOLS), ("pool", _POOLS),
            ("adaptive", _ADAPTIVE), ("mean", _MEANS), ("sum", _SUMS),
            ("cat", _CONCATENATIONS), ("function", _FUNCTIONS),
        ):  # fmt: skip
            if node.op != "get_attr" and what in known:
                return kind
        raise self._refused(node)

    def _refused(self, node: fx.Node, why: str | None = None) -> ConversionError:
        what = self._what(node)
        if isinstance(self._modules.get(str(node.target)), CompositeLayer):
            why = "what it does between its products, gates or softmax, is not on integers"
        name = getattr(what, "__name__", str(what))
        where = f"{node.target} ({name})" if node.op == "call_module" else name
        hint = why or _HINTS.get(what) or "there is no counterpart of it on integers"
        return ConversionError(f"{where}: {hint}")

    # --- grids ----------------------------------------------------------------------

    def layer(self, node: fx.Node) -> Any:
        return self._modules[str(node.target)]

    def _asked_for(self, node: fx.Node) -> Quantizer | None:
        """The quantiser of those who take a node's value, the first of them first."""
        for user in node.users:
            kind = self.kinds[user]
            if kind == "layer":
                found: Quantizer = self.layer(user).input_quantizer
                return found
            if kind in ("same", "clamp", "max") and self.source(user) is node:
                wanted = self._wanted[user]
                if wanted is not None:
                    return wanted
        return None

    @staticmethod
    def source(node: fx.Node) -> fx.Node:
        """The tensor that an operation of one tensor takes."""
        found = node.args[0] if node.args else node.kwargs["input"]
        assert isinstance(found, fx.Node)
        return found

    def terms(self, node: fx.Node) -> list[fx.Node]:
        """The tensors that a node takes, in order."""
        return [n for n in node.all_input_nodes if n not in self._numbers]

    def _find_wanted(self) -> None:
        for node in reversed(self.nodes):
            self._wanted[node] = self._asked_for(node)

    def _output_quantizers(self, calibrator: str) -> dict[str, Quantizer]:
        """One for each value that no layer takes as it is."""
        layers = [n for n in self.nodes if self.kinds[n] == "layer"]
        found: dict[str, Quantizer] = {}
        # Codes as those of the layer before; or of the first one.
        codes: CodeRange = self.layer(layers[0]).input_quantizer.code_range
        for node in self.nodes:
            if self.kinds[node] == "layer":
                codes = self.layer(node).input_quantizer.code_range
            if self.kinds[node] in _MAKERS and node.users and self._wanted[node] is None:
                found[node.name] = Quantizer(codes, calibrator=calibrator)
        return found

    def _watch(self, batches: Iterable[Any]) -> None:
        """Calibrate the output quantisers, and note shapes."""
        watch = _Watching(self._traced, self.outputs, self.shapes)
        seen = 0
        for batch in batches:
            x = batch[0] if isinstance(batch, (tuple, list)) else batch
            if not isinstance(x, Tensor):
                raise InputError(f"a batch is a tensor, or begins with one, got {type(x).__name__}")
            watch.run(x)
            seen += 1
        if not seen:
            raise CalibrationError("to_integers needs at least one batch; the iterable was empty")

    def refresh(self) -> None:
        """Take the grids of all values from their quantisers as they are now."""
        self._find_wanted()
        owners: dict[fx.Node, Quantizer] = {}  # whole at once: other threads may be reading
        for node in self.nodes:
            kind = self.kinds[node]
            if kind in _MAKERS and node.users:
                owners[node] = self._wanted[node] or self.outputs[node.name]
            elif kind in ("same", "clamp", "max"):
                owners[node] = owners[self.source(node)]
            elif kind in ("pool", "adaptive", "mean"):
                owners[node] = self._wanted[node] or owners[self.source(node)]
        self.owners = owners
        self.grids = {node: CodeGrid.of(q) for node, q in owners.items()}

    # --- making -----------------------------------------------------------------------

    def made(self) -> IntegerNetwork:
        graph, root = fx.Graph(), nn.Module()
        new: dict[fx.Node, fx.Node] = {}

        def call(name: str, module: nn.Module, *args: fx.Node) -> fx.Node:
            while hasattr(root, name):
                name = f"{name}_"
            root.add_module(name, module)
            return graph.call_module(name, args)

        output = None
        for node in self.nodes:
            kind = self.kinds[node]
            if kind == "placeholder":
                if node.users:
                    new[node] = graph.placeholder("codes")
            elif kind == "output":
                (output,) = node.args
                if not isinstance(output, fx.Node) or output in self._numbers:
                    raise ConversionError("the network must return one tensor")
                graph.output(new[output])
            elif kind in ("number", "same") and node.op != "call_module":
                if node.target in (F.dropout, F.dropout2d):
                    new[node] = new[self.source(node)]
                else:
                    new[node] = graph.node_copy(node, lambda n: new[n])
            else:
                taken = self.terms(node)
                made, args = self.operation(node, kind, taken), [new[n] for n in taken]
                if kind == "layer":
                    asked = CodeGrid.of(self.layer(node).input_quantizer)
                    if self.grids[taken[0]] != asked:
                        step = IntegerRequantize(self.grids[taken[0]], asked)
                        args = [call(f"{node.name}_input", step, *args)]
                new[node] = call(node.name, made, *args)
        assert isinstance(output, fx.Node)
        module = fx.GraphModule(root, graph)
        device = next(iter(self._root.parameters())).device
        network = IntegerNetwork(module, self.grids[self._input], self.grids[output])
        return network.to(device).eval()

    def operation(self, node: fx.Node, kind: str, taken: list[fx.Node]) -> nn.Module:
        if kind == "layer":
            return self._integer_layer(node)
        before, grid = self.grids[taken[0]], self.grids[node]
        if kind == "same":
            module = self.layer(node)
            dropout = nn.modules.dropout._DropoutNd
            return nn.Identity() if isinstance(module, dropout) else module
        if kind == "clamp":
            options = self._options(node, _CLAMP_OPTIONS.get(self._what(node), ()))
            limits = _CLAMPS[self._what(node)](**options)
            low, high = (
                None if v is None else int(before.quantize(torch.tensor(float(v)))) for v in limits
            )
            return IntegerClamp(low, high)
        if kind == "max":
            return self._max_pool(node)
        if kind in ("pool", "adaptive"):
            return self._pool(node, kind, before, grid)
        if kind == "mean":
            return self._mean(node, before, grid)
        if kind == "sum":
            return self._sum(node, taken, grid)
        if kind == "cat":
            options = self._options(node, ("dim",))
            return IntegerConcatenation([self.grids[n] for n in taken], grid, options.get("dim", 0))
        return IntegerLookup(self._function(node), before, grid)

    def _options(self, node: fx.Node, names: Sequence[str]) -> dict[str, Any]:
        """Options of an operation: of its module, or by position and name of a call."""
        if node.op == "call_module":
            module = self.layer(node)
            signature = inspect.signature(type(module).__init__)
            return {n: getattr(module, n) for n in signature.parameters if hasattr(module, n)}
        given = dict(zip(names, node.args[1:], strict=False))
        given.update({k: v for k, v in node.kwargs.items() if k not in ("input", "tensors")})
        if any(isinstance(v, fx.Node) for v in given.values()):
            raise self._refused(node, "its options must be numbers")
        return given

    def _function(self, node: fx.Node) -> Callable[[Tensor], Tensor]:
        if node.op == "call_module":
            module: nn.Module = self.layer(node)
            return module
        kwargs = {k: v for k, v in node.kwargs.items() if k not in ("input", "inplace")}
        if node.op == "call_method":
            return lambda x: getattr(x, str(node.target))(*node.args[1:], **kwargs)
        return lambda x: node.target(x, *node.args[1:], **kwargs)  # type: ignore[operator]

    def _max_pool(self, node: fx.Node) -> nn.Module:
        dims = _MAX_POOLS[self._what(node)]
        options = self._options(node, _MAX_POOL_OPTIONS)
        if options.pop("return_indices", False):
            raise self._refused(node, "indices are no codes")
        options["stride"] = options.get("stride") or options["kernel_size"]
        found = {k: v for k, v in options.items() if k in _MAX_POOL_OPTIONS}
        found.setdefault("ceil_mode", False)
        return IntegerMaxPool(dims, {k: _single(v) for k, v in found.items()})

    def _pool(self, node: fx.Node, kind: str, before: CodeGrid, grid: CodeGrid) -> nn.Module:
        what = self._what(node)
        if kind == "adaptive":
            dims = _ADAPTIVE[what]
            size = self.shapes[self.source(node).name][-dims:]
            wanted = _spread(self._options(node, ("output_size",))["output_size"], dims)
            out = [n if w is None else w for n, w in zip(size, wanted, strict=True)]
            if any(n % w for n, w in zip(size, out, strict=True)):
                raise self._refused(
                    node, f"windows of {tuple(size)} to {tuple(out)} have several sizes"
                )
            kernel = [n // w for n, w in zip(size, out, strict=True)]
            return IntegerPool(
                before, grid, kernel, kernel, [0] * dims, math.prod(kernel), tuple(size)
            )
        dims, options = _POOLS[what], self._options(node, _POOL_OPTIONS)
        kernel = _spread(options["kernel_size"], dims)
        stride = _spread(options.get("stride") or kernel, dims)
        padding = _spread(options.get("padding", 0), dims)
        if options.get("ceil_mode"):
            raise self._refused(node, "with ceil_mode windows have several sizes")
        if any(padding) and not options.get("count_include_pad", True):
            raise self._refused(node, "without count_include_pad windows have several sizes")
        divisor = options.get("divisor_override") or math.prod(kernel)
        return IntegerPool(before, grid, kernel, stride, padding, divisor, None)

    def _mean(self, node: fx.Node, before: CodeGrid, grid: CodeGrid) -> nn.Module:
        options = self._options(node, ("dim", "keepdim"))
        shape = self.shapes[self.source(node).name]
        given = options.get("dim")
        dims = [given] if isinstance(given, int) else list(given or range(len(shape)))
        dims = [d - len(shape) if d >= 0 else d for d in dims]
        if -len(shape) in dims:
            raise self._refused(node, "a mean over the batch")
        count = math.prod(shape[d] for d in dims)
        return IntegerMean(before, grid, dims, bool(options.get("keepdim")), count)

    def _sum(self, node: fx.Node, taken: list[fx.Node], grid: CodeGrid) -> nn.Module:
        sign = _SUMS[self._what(node)]
        operands = [*node.args[:2]]
        if any(o not in taken for o in operands) or len(operands) < 2:
            raise self._refused(node, "a sum of two tensors of the network is needed")
        alpha: Any = node.kwargs.get("alpha", 1)
        sign *= alpha
        if operands[0] is operands[1]:
            return IntegerSum([self.grids[taken[0]]], grid, (1 + sign,))
        return IntegerSum([self.grids[n] for n in taken], grid, (1, sign))

    def _integer_layer(self, node: fx.Node) -> nn.Module:
        layer, grid = self.layer(node), self.grids[node]
        if len(node.args) + len(node.kwargs) != 1:
            raise self._refused(node, "a layer that is given more than its input")
        x, w = layer.input_quantizer, layer.weight_quantizer
        bias = layer.with_compensation(layer.quantized_bias())
        w_scale = w.scale if bias is None else self._scale_for(node, bias, x.scale, w)
        weight = layer.quantized_weight().to(torch.float32)
        steps = torch.round(weight / w.along(w_scale, weight.dim()))
        codes = steps + w.along(w.zero_point, weight.dim())
        codes = codes.clamp(w.code_range.qmin, w.code_range.qmax)
        codes = layer.operand(codes.to(code_dtype(layer.effective_multiplier.b)), w)
        scale = x.scale * w_scale
        pad = None
        if isinstance(layer, Linear):
            product: Any = LinearProduct()
        elif isinstance(layer, ConvNd):
            product, pad = layer.product()
        else:
            product = layer.product(tuple(layer.output_padding))
        factor = x.scale.to(torch.float64) * w_scale.to(torch.float64) / grid.scale
        return IntegerLayer(
            product, layer.multiplication(), codes.clone(),
            None if bias is None else integer_bias(bias.to(torch.float32), scale), factor,
            CodeGrid.of(x), grid,
            subtract=layer.datapath.zero_point == "before" and x.code_range.affine,
            pad=pad, pad_mode=getattr(layer, "padding_mode", "zeros"),
        ).keep(layer.exact_multiplier)  # fmt: skip

    def _scale_for(self, node: fx.Node, bias: Tensor, x_scale: Tensor, w: Quantizer) -> Tensor:
        """Scales of the weights with which the bias fits an integer of 32 bits.

        They are the quantiser's but where the weights of a channel are next to nothing and its
        bias is not: in units of their products it would be too large.
        """
        least = bias.abs().to(torch.float32) / (x_scale * _LARGEST_BIAS)
        least = least.amax() if w.axis is None else least
        small = least > w.scale
        if small.any():
            _log.warning(
                "%s: the weights of %d channel(s) are so small that their bias would need more "
                "than 32 bits; they are given a larger scale",
                node.target,
                int(small.sum()),
            )
        return torch.maximum(w.scale, least)


class _Watching(fx.Interpreter):
    """Runs a traced model, and shows values to the quantisers that want them, by name."""

    def __init__(
        self,
        traced: fx.GraphModule,
        quantizers: Mapping[str, Quantizer],
        shapes: dict[str, torch.Size],
    ) -> None:
        super().__init__(traced)
        self._quantizers, self.shapes = quantizers, shapes

    def run_node(self, n: fx.Node) -> Any:
        found = super().run_node(n)
        if isinstance(found, Tensor):
            self.shapes.setdefault(n.name, found.shape)
            if n.name in self._quantizers:
                self._quantizers[n.name].to(found.device).observe(found)
        return found


def _single(value: Any) -> Any:
    """The number in a sequence of one."""
    return value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value


def _spread(value: Any, dims: int) -> list[Any]:
    """A number for each dimension."""
    if isinstance(value, (tuple, list)):
        return list(value) if len(value) == dims else list(value) * dims
    return [value] * dims
