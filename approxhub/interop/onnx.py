"""Converted models as ONNX: standard QuantizeLinear and DequantizeLinear, and which circuit.

ONNX has no operator for an approximate product. So the file holds the network with exact products
of the same codes, which is what mode ``exact`` computes, and names the multiplier of each layer in
its metadata, for a tool that knows what to do with it.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn

from approxhub.errors import ApproxHubError, CalibrationError, ConversionError, InputError
from approxhub.files import replacing
from approxhub.model.layers import require_layers
from approxhub.nn import ApproxLayer, CompositeLayer, Conv1d, Conv2d, Conv3d, Linear
from approxhub.quantization import Datapath, Quantizer

__all__ = ["export"]

_OPSET = 21  # the first one whose QuantizeLinear has 16 bits
_SCHEMA = 1


class _Graph:
    """Nodes and tensors of a graph that is being written."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self._count = 0

    def constant(self, name: str, values: Any) -> str:
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, kind: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        self._count += 1
        out = name or f"{kind.lower()}_{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=out, **attributes))
        return out


def _dtype(q: Quantizer) -> Any:
    """The type of codes; limits that it does not have are clipped to first."""
    f = q.code_range.format
    low, high = (q.code_range.qmin, q.code_range.qmax)
    for kind in (np.int8, np.uint8, np.int16, np.uint16):
        info = np.iinfo(kind)
        if (info.min < 0) == f.signed and info.min <= low and high <= info.max:
            return kind
    raise ConversionError(f"ONNX has no type for codes {low}..{high}")


def _quantize(graph: _Graph, x: str, q: Quantizer, name: str) -> str:
    """Codes of a real tensor and back, by the two standard operators."""
    kind, codes = _dtype(q), q.code_range
    scale = graph.constant(f"{name}.scale", q.scale)
    zero = graph.constant(f"{name}.zero_point", q.zero_point.cpu().numpy().astype(kind))
    info = np.iinfo(kind)
    out = graph.add("QuantizeLinear", [x, scale, zero])
    if (codes.qmin, codes.qmax) != (info.min, info.max):
        limits = [
            graph.constant(f"{name}.{end}", np.array(code, kind))
            for end, code in (("qmin", codes.qmin), ("qmax", codes.qmax))
        ]
        out = graph.add("Clip", [out, *limits])
    return graph.add("DequantizeLinear", [out, scale, zero])


def _weight(graph: _Graph, layer: ApproxLayer, name: str) -> str:
    """Codes of a weight as they are, and the operator that makes them real."""
    q = layer.weight_quantizer
    kind = _dtype(q)
    weight = layer.quantized_weight().detach()
    codes = graph.constant(f"{name}.weight_codes", q.codes(weight).cpu().numpy().astype(kind))
    scale = graph.constant(f"{name}.weight_scale", q.scale)
    zero = graph.constant(f"{name}.weight_zero_point", q.zero_point.cpu().numpy().astype(kind))
    axis: dict[str, Any] = {} if q.axis is None else {"axis": 0}
    return graph.add("DequantizeLinear", [codes, scale, zero], **axis)


def _layer(graph: _Graph, x: str, layer: ApproxLayer, name: str) -> str:
    if type(layer) not in (Linear, Conv1d, Conv2d, Conv3d):
        raise ConversionError(f"a {type(layer).__name__} has no form in ONNX here")
    if layer.datapath != Datapath(scales=layer.datapath.scales):
        raise ConversionError(f"datapath {layer.datapath} has no form in ONNX here")
    x = _quantize(graph, x, layer.input_quantizer, f"{name}.input")
    w = _weight(graph, layer, name)
    bias = layer.bias  # a compensation is for the approximate products alone
    if isinstance(layer, Linear):
        out = graph.add("MatMul", [x, graph.add("Transpose", [w], perm=[1, 0])])
        if bias is None:
            return out
        return graph.add("Add", [out, graph.constant(f"{name}.bias", bias.float())])
    inputs = [x, w]
    assert isinstance(layer, (Conv1d, Conv2d, Conv3d))
    if bias is not None:
        inputs.append(graph.constant(f"{name}.bias", bias.float()))
    if layer.padding_mode != "zeros":
        raise ConversionError(f"padding mode {layer.padding_mode!r} has no form in ONNX here")
    sides = layer.sides()
    return graph.add(
        "Conv", inputs, strides=list(layer.stride), dilations=list(layer.dilation),
        group=layer.groups, kernel_shape=list(layer.kernel_size),
        pads=[before for before, _ in sides] + [behind for _, behind in sides],
    )  # fmt: skip


# --- what is between layers -------------------------------------------------------------


def _sizes(value: Any, dims: int) -> list[int]:
    return [int(value)] * dims if isinstance(value, int) else [int(v) for v in value]


def _pool(graph: _Graph, x: str, module: Any) -> str:
    dims = int(type(module).__name__[-2])
    kind = "MaxPool" if "Max" in type(module).__name__ else "AveragePool"
    pads = _sizes(module.padding, dims)
    attributes: dict[str, Any] = {
        "kernel_shape": _sizes(module.kernel_size, dims),
        "strides": _sizes(module.stride, dims),
        "pads": pads * 2,
        "ceil_mode": int(module.ceil_mode),
    }
    if kind == "MaxPool":
        attributes["dilations"] = _sizes(module.dilation, dims)
    else:
        attributes["count_include_pad"] = int(module.count_include_pad)
        if getattr(module, "divisor_override", None) is not None:
            raise ConversionError("divisor_override has no form in ONNX here")
    return graph.add(kind, [x], **attributes)


def _adaptive(graph: _Graph, x: str, module: Any) -> str:
    size = module.output_size
    if any(v != 1 for v in ([size] if isinstance(size, int) else size)):
        raise ConversionError(f"adaptive pooling to {size} has no form in ONNX; to 1 it has")
    return graph.add("GlobalAveragePool", [x])


def _norm(graph: _Graph, x: str, module: Any, name: str) -> str:
    if module.running_mean is None:
        raise ConversionError("batch normalisation without running statistics has no form here")
    ones = torch.ones_like(module.running_mean)
    tensors = {
        "weight": ones if module.weight is None else module.weight,
        "bias": 0 * ones if module.bias is None else module.bias,
        "mean": module.running_mean,
        "var": module.running_var,
    }
    inputs = [x, *(graph.constant(f"{name}.{key}", t.float()) for key, t in tensors.items())]
    return graph.add("BatchNormalization", inputs, epsilon=float(module.eps))


def _flat(graph: _Graph, x: str, start: int, end: int) -> str:
    if end != -1:
        raise ConversionError(f"flatten to dimension {end} has no form in ONNX here")
    shape = graph.constant(f"flat_{len(graph.tensors)}", np.array([0] * start + [-1], np.int64))
    return graph.add("Reshape", [x, shape])


def _module(graph: _Graph, x: str, module: Any, name: str) -> str:
    kind = type(module)
    if isinstance(module, ApproxLayer):
        return _layer(graph, x, module, name)
    if kind in (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d):
        return x
    if kind is nn.Flatten:
        return _flat(graph, x, module.start_dim, module.end_dim)
    if kind in _PLAIN:
        return graph.add(_PLAIN[kind], [x])
    if kind in (nn.ReLU6, nn.Hardtanh):
        ends = (0.0, 6.0) if kind is nn.ReLU6 else (module.min_val, module.max_val)
        limits = [graph.constant(f"{name}.{i}", np.float32(v)) for i, v in enumerate(ends)]
        return graph.add("Clip", [x, *limits])
    if kind is nn.LeakyReLU:
        return graph.add("LeakyRelu", [x], alpha=float(module.negative_slope))
    if kind is nn.Softmax:
        return graph.add("Softmax", [x], axis=module.dim)
    if kind in _POOLS:
        return _pool(graph, x, module)
    if kind in (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d):
        return _adaptive(graph, x, module)
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return _norm(graph, x, module, name)
    raise ConversionError(f"a {kind.__name__} has no form in ONNX here")


_PLAIN: dict[type[nn.Module], str] = {
    nn.ReLU: "Relu",
    nn.Sigmoid: "Sigmoid",
    nn.Tanh: "Tanh",
    nn.Softplus: "Softplus",
}
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_FUNCTIONS: dict[Any, str] = {
    F.relu: "Relu", torch.relu: "Relu", "relu": "Relu", torch.sigmoid: "Sigmoid",
    "sigmoid": "Sigmoid", torch.tanh: "Tanh", "tanh": "Tanh",
    operator.add: "Add", torch.add: "Add", operator.iadd: "Add", "add": "Add",
    operator.mul: "Mul", torch.mul: "Mul",
}  # fmt: skip


def _function(graph: _Graph, node: fx.Node, value: Callable[[Any], str]) -> str:
    if node.target in (torch.flatten, "flatten"):
        given: list[Any] = [*node.args[1:], *node.kwargs.values()]
        start, end = (*given, -1)[:2] if given else (0, -1)
        return _flat(graph, value(node.args[0]), start, end)
    kind = _FUNCTIONS.get(node.target)
    if kind is None or set(node.kwargs) - {"inplace"}:
        raise ConversionError(f"{node.format_node()} has no form in ONNX here")
    return graph.add(kind, [value(a) for a in node.args if a is not True and a is not False])


class _Tracer(fx.Tracer):
    """Takes layers, ours and torch's, whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, (ApproxLayer, CompositeLayer))
        return ours or super().is_leaf_module(m, module_qualified_name)


def _metadata(layers: dict[str, ApproxLayer]) -> str:
    rows = {
        name: {
            "multiplier": layer.multiplier.id,
            "identity": layer.multiplier.identity,
            "table_sha256": layer.multiplier.table_sha256,
            "mapping": str(layer.mapping),
            "activations": [layer.input_quantizer.code_range.qmin,
                            layer.input_quantizer.code_range.qmax],
            "weights": [layer.weight_quantizer.code_range.qmin,
                        layer.weight_quantizer.code_range.qmax],
        }
        for name, layer in layers.items()
    }  # fmt: skip
    return json.dumps({"schema": _SCHEMA, "layers": rows}, sort_keys=True)


def export(model: nn.Module, example: Tensor, path: str | os.PathLike[str]) -> None:
    """Write a converted, calibrated model as ONNX.

    Activations pass QuantizeLinear, Clip where codes are fewer than those of their type, and
    DequantizeLinear; weights are stored as codes with a DequantizeLinear of their own. Products
    are exact: what the file computes is the model in mode ``exact``, up to the rounding of
    floating-point sums, and not what an approximate circuit does. The metadata property
    ``approxhub`` holds, as JSON, the id, content hash and table hash of each layer's multiplier,
    the operand mapping and the codes.

    Parameters
    ----------
    model : torch.nn.Module
        Of `Linear`, `Conv1d` to `Conv3d`, activation functions, pooling, batch normalisation,
        flattening, sums and products; one tensor in, one out. It is exported as in evaluation.
    example : Tensor of float
        An input; the first dimension is taken for a batch of any size.
    path : path-like
        Where to write; whole, or not at all.

    Raises
    ------
    ConversionError
        If the model has no approximate layer, cannot be traced, or something in it has no form
        in ONNX here; what and where is said.
    CalibrationError
        If a layer has no range yet.
    InputError
        If the file cannot be written.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = ah.approximate(torch.nn.Sequential(torch.nn.Linear(4, 2)), "drum:8s/k=4")
    >>> x = torch.randn(16, 4)
    >>> export(ah.calibrate(net, [x]), x, getfixture("tmp_path") / "net.onnx")
    """
    layers = require_layers(model)
    if not isinstance(example, Tensor) or not example.is_floating_point() or example.dim() < 1:
        raise InputError("export takes an example input: a tensor of real numbers, batch first")
    for name, layer in layers.items():
        if not layer.input_quantizer.calibrated:
            raise CalibrationError(
                f"{name or '(root)'}: activations have no range yet: run approxhub.calibrate first"
            )
    training = [(m, m.training) for m in model.modules()]
    try:
        for m, _ in training:
            m.training = False
        if isinstance(model, ApproxLayer):
            model = nn.Sequential(model)
            layers = require_layers(model)
        with torch.no_grad():
            shape = model(example).shape
        try:
            traced = _Tracer().trace(model)
        except Exception as error:  # of the model's own code, of any kind
            raise ConversionError(
                f"{type(model).__name__} cannot be traced by torch.fx: {error}"
            ) from error
        proto = _written(model, traced, example, shape)
    finally:
        for m, was in training:
            m.training = was
    entry = proto.metadata_props.add()
    entry.key, entry.value = "approxhub", _metadata(layers)
    onnx.checker.check_model(proto, full_check=True)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(proto.SerializeToString())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def _written(model: nn.Module, traced: fx.Graph, example: Tensor, shape: Sequence[int]) -> Any:
    graph = _Graph()
    names: dict[Any, str] = {}
    result = ""
    for node in traced.nodes:
        try:
            if node.op == "placeholder":
                if names:
                    raise ConversionError("models of several inputs have no form here")
                names[node] = "input"
            elif node.op == "call_module":
                module = model.get_submodule(str(node.target))
                names[node] = _module(graph, names[node.args[0]], module, str(node.target))
            elif node.op in ("call_function", "call_method"):
                names[node] = _function(
                    graph, node,
                    lambda a: names[a] if isinstance(a, fx.Node)
                    else graph.constant(f"number_{len(graph.tensors)}", np.float32(a)),
                )  # fmt: skip
            elif node.op == "get_attr":
                values = model.get_parameter(str(node.target))
                names[node] = graph.constant(str(node.target), values)
            else:
                if not isinstance(node.args[0], fx.Node):
                    raise ConversionError("models of several outputs have no form here")
                result = names[node.args[0]]
        except ApproxHubError as error:
            raise type(error)(f"{node.target}: {error}") from None
    graph.nodes.append(helper.make_node("Identity", [result], ["output"], name="output"))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *map(int, sizes[1:])])
        for name, sizes in (("input", example.shape), ("output", shape))
    ]
    made = helper.make_graph(graph.nodes, type(model).__name__, ends[:1], ends[1:], graph.tensors)
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10,
        producer_name="approxhub",
    )  # fmt: skip
