"""The contract of a layer converter, clause by clause, as a pytest class to subclass.

Ranges are set so that every scale is 1: then a layer's results are its integer sums, and are
compared with ``==`` to a loop over products. Imports torch, numpy, the layers and pytest.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import approxhub.model as model
from approxhub.errors import CalibrationError, InputError
from approxhub.multiplier import Multiplier, exact
from approxhub.nn import ApproxLayer
from approxhub.plugins import LayerConverter
from approxhub.quantization import Quantizer
from approxhub.testing.contract import at_once, broken, lopsided, offered, pytest

__all__ = ["LayerConformance"]

IntArray = npt.NDArray[np.int64]
Product = Callable[[IntArray, IntArray], IntArray]

PAIRS = (("8s", "8s"), ("8u", "8u"), ("4s", "6s"), ("5u", "4u"), ("8u", "5s"))
_ZERO_POINTS = (5, 3)  # of activations and weights, where codes have one

_SUMS = (
    "results are sums of T[x, w] - z_x * w - z_w * x + z_x * z_w over the products that the float "
    "layer multiplies, padding being code z_x; times the scales, plus the bias"
)


class LayerConformance:
    """All that a layer converter, and what it makes, must hold, as tests.

    Subclass it in a test module, and say how the converter, a float layer and an input are made.
    Small sizes will do: keep sums below 200 products. The float layer has to be linear in its
    weight and in its input; then the kit finds the products that it is made of by itself.
    A layer that pads its input with zeros overrides `loop`.

    Examples
    --------
    >>> import torch
    >>> from approxhub.plugins import LayerConverter, host
    >>> class TestLinear(LayerConformance):
    ...     def make_converter(self):
    ...         name = "torch.nn.modules.linear.Linear"
    ...         return host().get("approxhub_converters", LayerConverter, name)
    ...
    ...     def make_layer(self):
    ...         return torch.nn.Linear(5, 3)
    ...
    ...     def make_input(self):
    ...         return torch.randn(4, 5)
    """

    def make_converter(self) -> LayerConverter:
        """Return the converter to test."""
        raise NotImplementedError(
            f"{type(self).__name__} must say what it tests: def make_converter(self)"
        )

    def make_layer(self) -> nn.Module:
        """Return a float layer of the type that is converted."""
        raise NotImplementedError(
            f"{type(self).__name__} must make a float layer: def make_layer(self)"
        )

    def make_input(self) -> Tensor:
        """Return an input of the float layer; only its shape matters."""
        raise NotImplementedError(
            f"{type(self).__name__} must make an input of its layer: def make_input(self)"
        )

    def loop(self, layer: nn.Module, x: IntArray, w: IntArray, product: Product) -> IntArray:
        """Sum the products that the layer is made of, slowly and obviously.

        Parameters
        ----------
        layer : torch.nn.Module
            A float layer as `make_layer` gives, for its sizes.
        x, w : ndarray of int64
            Codes of the input and of the weight, in their shapes.
        product : callable
            What two codes contribute to a sum; takes arrays of one shape.

        Returns
        -------
        ndarray of int64
            Of the shape of the layer's output.
        """
        shape, (out, i, j) = _structure(layer, x.shape)
        sums = np.zeros(int(np.prod(shape)), dtype=np.int64)
        np.add.at(sums, out, product(x.reshape(-1)[i], w.reshape(-1)[j]))
        return sums.reshape(shape)

    # --- tools of the tests -----------------------------------------------------------

    def _converted(
        self, multiplier: Multiplier, layer: nn.Module | None = None, **options: Any
    ) -> ApproxLayer:
        torch.manual_seed(0)
        layer = self.make_layer() if layer is None else layer
        made = self.make_converter().convert(layer, multiplier, **options)
        if not isinstance(made, ApproxLayer):
            broken("convert() returns an approxhub.nn.ApproxLayer", f"returned {made!r}")
        return made

    def _integral(self, multiplier: Multiplier, **options: Any) -> tuple[ApproxLayer, Tensor]:
        """A converted layer whose scales are 1, and an input of integers for it."""
        layer = self._converted(multiplier, **options)
        x_codes, w_codes = layer.input_quantizer.code_range, layer.weight_quantizer.code_range
        z_x, z_w = (
            z if c.affine else 0 for z, c in zip(_ZERO_POINTS, (x_codes, w_codes), strict=True)
        )
        rng = np.random.default_rng(0)
        x = _integers(tuple(self.make_input().shape), x_codes.qmin - z_x, x_codes.qmax - z_x, rng)
        w = _integers(tuple(layer.weight.shape), w_codes.qmin - z_w, w_codes.qmax - z_w, rng)
        channels = _channels(layer)
        if channels.shape[1] < 2:
            pytest.skip("a channel of the layer has a single weight: make it larger")
        flat = w.reshape(-1)
        flat[channels[:, 0]], flat[channels[:, -1]] = w_codes.qmin - z_w, w_codes.qmax - z_w
        with torch.no_grad():
            layer.weight.copy_(w)
            if isinstance(layer.bias, Tensor):
                layer.bias.copy_(_integers(tuple(layer.bias.shape), -50, 50, rng))
        layer.eval()
        layer.observe_weight()
        low, high = (torch.tensor(float(c - z_x)) for c in (x_codes.qmin, x_codes.qmax))
        layer.input_quantizer.set_range(low, high)
        return layer, x

    def _want(self, layer: ApproxLayer, x: Tensor, multiplier: Multiplier) -> Tensor:
        """What the contract says of an integral layer."""
        (x_codes, z_x), (w_codes, z_w) = (
            _coded(q, t)
            for q, t in ((layer.input_quantizer, x), (layer.weight_quantizer, layer.weight))
        )

        def product(a: IntArray, b: IntArray) -> IntArray:
            found = multiplier.table[a & (multiplier.a.size - 1), b & (multiplier.b.size - 1)]
            return np.asarray(found - z_x * b - z_w * a + z_x * z_w, dtype=np.int64)

        sums = self.loop(self._float_like(layer), x_codes, w_codes, product)
        zero = self._float_like(layer)
        with torch.no_grad():
            bias: Tensor = zero.eval()(torch.zeros_like(x))  # where the weights meet only zeros
        return torch.from_numpy(sums) + bias

    def _float_like(self, layer: ApproxLayer) -> nn.Module:
        """A float layer with the weights of an approximate one."""
        new = self.make_layer()
        new.load_state_dict({k: v for k, v in layer.named_parameters() if k in new.state_dict()})
        return new

    def _calibrated(self, multiplier: Multiplier, **options: Any) -> tuple[ApproxLayer, Tensor]:
        """A layer that has seen real values, in evaluation, and such an input."""
        layer = self._converted(multiplier, **options)
        x = torch.randn(self.make_input().shape, generator=torch.Generator().manual_seed(1))
        layer.train()(x)
        return layer.eval(), x

    # --- what it says of itself ---------------------------------------------------------

    def test_its_record(self) -> None:
        """A converter is a LayerConverter that names the full class of the layers it takes."""
        converter, kind = self.make_converter(), type(self.make_layer())
        if not isinstance(converter, LayerConverter):
            broken("a converter is a LayerConverter", f"is {converter!r}")
        name = f"{kind.__module__}.{kind.__qualname__}"
        if converter.source_type != name:
            broken(
                "source_type is the full name of the layer's class",
                f"says {converter.source_type!r} for {name!r}",
            )

    def test_parameters_are_shared(self) -> None:
        """The new layer has the float layer's parameters, not copies, under the same names."""
        layer = self.make_layer()
        before = {k: v.clone() for k, v in layer.state_dict().items()}
        made = dict(self._converted(exact(8), layer).named_parameters())
        for name, parameter in layer.named_parameters():
            if made.get(name) is not parameter:
                broken("parameters are the same objects, under the same names", f"not so: {name}")
        if any(not torch.equal(v, before[k]) for k, v in layer.state_dict().items()):
            broken("conversion changes no weight", "changed one")

    def test_options_are_taken(self) -> None:
        """Mapping, gradient, calibrator and per_channel are passed on; training stays as it was."""
        for training in (True, False):
            layer = self._converted(
                lopsided("8s", "8s"),
                self.make_layer().train(training),
                mapping="affine-signed",
                gradient="straight-through",
                calibrator="minmax",
                per_channel=False,
            )
            found = {
                "mapping": str(layer.mapping),
                "calibrator": layer.input_quantizer.calibrator_name,
                "per_channel": layer.weight_quantizer.axis is not None,
                "training": layer.training,
            }
            want = {"mapping": "affine-signed", "calibrator": "minmax", "per_channel": False}
            if found != {**want, "training": training}:
                broken("convert() takes the options of approxhub.approximate", f"made {found}")

    # --- integers -----------------------------------------------------------------------

    @pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "per layer"])
    @pytest.mark.parametrize("pair", PAIRS, ids="x".join)
    def test_sums(self, pair: tuple[str, str], per_channel: bool) -> None:
        """Every result is the integer sum of table entries, zero points corrected after it."""
        m = lopsided(*pair)
        layer, x = self._integral(m, per_channel=per_channel)
        self._compare(layer, x, m)

    @pytest.mark.parametrize("pair", PAIRS, ids="x".join)
    def test_exact_mode(self, pair: tuple[str, str]) -> None:
        """In mode exact the same sums are made of exact products."""
        m = lopsided(*pair)
        layer, x = self._integral(m)
        layer.mode = "exact"
        self._compare(layer, x, exact(m.a.bits, m.a.signed, b_bits=m.b.bits, b_signed=m.b.signed))

    def _compare(self, layer: ApproxLayer, x: Tensor, m: Multiplier) -> None:
        with torch.no_grad():
            found, want = layer(x), self._want(layer, x, m)
        if found.shape != want.shape:
            broken(
                "results have the shape of the float layer's",
                f"gave {tuple(found.shape)}, not {tuple(want.shape)}",
            )
        wrong = found != want
        if wrong.any():
            place = tuple(int(i) for i in wrong.nonzero()[0])
            broken(
                _SUMS,
                f"in mode {layer.mode}, with {m.a} x {m.b} and mapping {layer.mapping}, "
                f"{int(wrong.sum())} of {wrong.numel()} results are wrong; at {place} it gave "
                f"{found[place].item():g}, not {want[place].item():g}",
            )

    @pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
    def test_the_exact_multiplier_is_exact(self, signed: bool) -> None:
        """With the exact multiplier, mode approximate equals mode exact bit for bit."""
        layer, x = self._calibrated(exact(8, signed))
        with torch.no_grad():
            approximate = layer(x)
            layer.mode = "exact"
            if not torch.equal(approximate, layer(x)):
                broken("with the exact multiplier, approximate equals exact", "differs")

    def test_any_strides(self) -> None:
        """Inputs of any strides give what contiguous ones do, and are left as they are."""
        m = lopsided("8u", "8u")
        layer, x = self._integral(m)
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), 7.0)
        wide[..., ::2] = x
        for laid_out in (x.movedim(-1, 0).contiguous().movedim(0, -1), wide[..., ::2]):
            self._compare(layer, laid_out, m)
            if not torch.equal(laid_out, x):
                broken("a layer leaves its input unchanged", "changed it")

    # --- modes --------------------------------------------------------------------------

    def test_float_mode(self) -> None:
        """In mode float it is the float layer, bit for bit."""
        layer, x = self._calibrated(lopsided("8s", "8s"))
        layer.mode = "float"
        with torch.no_grad():
            if not torch.equal(layer(x), self._float_like(layer).eval()(x)):
                broken("in mode float it is the float layer, bit for bit", "differs")

    def test_modes_change_nothing_else(self) -> None:
        """Going through the modes and back gives the same results."""
        layer, x = self._calibrated(lopsided("8s", "8s"))
        with torch.no_grad():
            first = layer(x)
            for mode in ("exact", "float", "approximate"):
                layer.mode = mode
                layer(x)
            if not torch.equal(layer(x), first):
                broken("a mode has no memory", "gave other results after going through the modes")
            layer.mode = "exact"
            if torch.equal(layer(x), first):
                broken("mode approximate multiplies through the multiplier", "was exact")

    def test_another_multiplier(self) -> None:
        """set_multiplier changes the products and nothing else, and may be taken back."""
        one, other = lopsided("8s", "8s"), lopsided("8s", "8s", seed=1)
        layer, x = self._integral(one)
        for m in (other, one):
            layer.set_multiplier(m)
            self._compare(layer, x, m)

    # --- state --------------------------------------------------------------------------

    def test_evaluation_changes_no_state(self) -> None:
        """A forward pass in evaluation leaves the state as it was, and gives the same again."""
        layer, x = self._calibrated(lopsided("8u", "8u"))
        before = copy.deepcopy(layer.state_dict())
        with torch.no_grad():
            first, again = layer(x * 3), layer(x * 3)
        if not torch.equal(first, again):
            broken("evaluation is deterministic", "gave two results for one input")
        for key, value in layer.state_dict().items():
            if not torch.equal(value, before[key]):
                broken("evaluation changes no state", f"changed {key}")

    def test_it_asks_to_be_calibrated(self) -> None:
        """In evaluation, without ever having seen values, it raises a CalibrationError."""
        layer = self._converted(exact(8)).eval()
        clause = "without a range it raises CalibrationError"
        try:
            layer(self.make_input())
        except CalibrationError:
            return
        broken(clause, "gave a result")

    def test_state_dict(self) -> None:
        """A state_dict makes a fresh conversion give the same results."""
        layer, x = self._calibrated(lopsided("8u", "8u"))
        state = layer.state_dict()
        torch.manual_seed(99)
        fresh = self._converted(lopsided("8u", "8u"), self.make_layer()).eval()
        try:
            fresh.load_state_dict(state)
        except RuntimeError as error:
            broken("a state_dict of its own loads", str(error))
        self._same(layer, fresh, x, "a state_dict holds all that matters")

    def test_a_float_checkpoint_loads(self) -> None:
        """The float layer's own state_dict loads, and gives its weights."""
        torch.manual_seed(7)
        given = self.make_layer()
        layer = self._converted(exact(8))
        try:
            layer.load_state_dict(given.state_dict())
        except RuntimeError as error:
            broken("a float checkpoint loads", str(error))
        mine = dict(layer.named_parameters())
        if any(not torch.equal(mine[k], v) for k, v in given.named_parameters()):
            broken("a float checkpoint gives the weights", "kept its own")

    @pytest.mark.parametrize("how", ["deepcopy", "pickle"])
    def test_copies(self, how: str) -> None:
        """A deep copy, and one through pickle, gives the same and shares nothing."""
        layer, x = self._calibrated(lopsided("8s", "8s"))
        made = copy.deepcopy(layer) if how == "deepcopy" else pickle.loads(pickle.dumps(layer))
        self._same(layer, made, x, f"a copy by {how} gives the same")
        with torch.no_grad():
            before = layer(x)
            made.weight.mul_(-2)
            made.observe_weight()
            if not torch.equal(layer(x), before):
                broken(f"a copy by {how} shares nothing", "changed with its copy")

    def _same(self, one: ApproxLayer, other: ApproxLayer, x: Tensor, clause: str) -> None:
        with torch.no_grad():
            if not torch.equal(one(x), other(x)):
                broken(clause, "gave other results")

    # --- manners ------------------------------------------------------------------------

    def test_it_trains(self) -> None:
        """Input and parameters get finite gradients of their shapes."""
        layer = self._converted(lopsided("8s", "8s")).train()
        x = self.make_input().detach().clone().requires_grad_()
        layer(x).square().sum().backward()
        for name, tensor in (("the input", x), *layer.named_parameters()):
            if tensor.grad is None or not torch.isfinite(tensor.grad).all():
                broken("input and parameters get finite gradients", f"gave {name} {tensor.grad}")

    def test_the_straight_through_gradient(self) -> None:
        """With integers for codes, the straight-through gradient is the float layer's."""
        layer, x = self._integral(lopsided("8s", "8s"))
        like = self._float_like(layer).eval()
        grads = []
        for module in (layer, like):
            given = x.clone().requires_grad_()
            y = module(given)
            cotangent = torch.arange(y.numel(), dtype=y.dtype).reshape(y.shape) % 7 - 3
            y.backward(cotangent)
            weight = module.get_parameter("weight")
            grads.append((given.grad, weight.grad))
        for name, mine, wanted in zip(("the input", "the weight"), *grads, strict=True):
            if mine is None or wanted is None or not torch.equal(mine, wanted):
                broken("its product gives the float layer's gradients", f"differs for {name}")

    def test_several_threads(self) -> None:
        """In evaluation several threads use one layer at a time."""
        layer, x = self._calibrated(lopsided("8u", "8u"))

        def work() -> Tensor:
            with torch.no_grad():  # which a thread does not take over from another
                return layer(x)  # type: ignore[no-any-return]

        want = work()
        if not all(torch.equal(found, want) for found in at_once(work)):
            broken("in evaluation several threads may use one layer", "gave other results")

    def test_under_the_compiler(self) -> None:
        """torch.compile takes the layer as a whole, and gives the same bits."""
        layer, x = self._calibrated(lopsided("8u", "8u"))
        clause = "torch.compile(fullgraph=True) takes the layer, and gives the same bits"
        torch.compiler.reset()
        compiled = torch.compile(layer, backend="eager", fullgraph=True)
        with torch.no_grad():
            want = layer(x)
            try:
                found = compiled(x)
            except torch._dynamo.exc.TorchDynamoException as error:
                broken(clause, f"could not be compiled: {str(error).splitlines()[0]}")
            if not torch.equal(found, want):
                broken(clause, "gave other bits")

    def test_integer_inputs_are_refused(self) -> None:
        """Integers are no activations: they are refused with an InputError."""
        layer, x = self._calibrated(exact(8))
        try:
            layer(x.to(torch.int64))
        except InputError:
            return
        broken("integers are refused with InputError", "took them for activations")

    def test_it_is_found(self) -> None:
        """approxhub.approximate converts the layer inside a model, and leaves nothing exact."""
        record = replace(self.make_converter(), priority=2**31)
        with offered("approxhub_converters", record):
            net = model.approximate(nn.Sequential(self.make_layer()), exact(8), strict=True)
        (found,) = net.children()
        if not isinstance(found, ApproxLayer):
            broken("approxhub.approximate uses the converter", f"left {found!r}")


def _integers(shape: tuple[int, ...], low: int, high: int, rng: np.random.Generator) -> Tensor:
    """Real values that are whole numbers, both ends among them."""
    values = rng.integers(low, high, shape, endpoint=True)
    values.flat[0], values.flat[-1] = low, high
    return torch.from_numpy(values).to(torch.float32)


def _channels(layer: ApproxLayer) -> Tensor:
    """Which weights each output channel has: (channels, weights of each), places in the weight."""
    with torch.no_grad():
        before = layer.weight.clone()
        layer.weight.copy_(torch.arange(before.numel()).reshape(before.shape))
        places = layer.quantized_weight().to(torch.int64)
        layer.weight.copy_(before)
    return places.reshape(len(places), -1)


def _coded(quantizer: Quantizer, values: Tensor) -> tuple[IntArray, int]:
    """Codes of whole numbers at scale 1, made by hand, and their zero point."""
    z = {int(v) for v in quantizer.zero_point.reshape(-1)}
    if not (quantizer.scale == 1).all() or len(z) != 1:
        broken(
            "ranges of whole numbers as wide as the codes have scale 1: quantisers see all of the "
            "input and of the weight, per channel of the output",
            f"has the scales {quantizer.scale.tolist()}",
        )
    (zero,) = z
    return values.detach().numpy().astype(np.int64) + zero, zero


def _structure(
    layer: nn.Module, x_shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[IntArray, IntArray, IntArray]]:
    """Shape of a float layer's output, and which input meets which weight in which output."""
    weight = layer.get_parameter("weight").detach()

    def run(w: Tensor, x: Tensor) -> Tensor:
        found = torch.func.functional_call(layer, {"weight": w}, (x,))
        assert isinstance(found, Tensor)
        return found

    with torch.no_grad():
        nothing = run(torch.zeros_like(weight), torch.zeros(x_shape))  # the bias
        each_w = torch.eye(weight.numel()).reshape(-1, *weight.shape)
        each_x = torch.eye(int(np.prod(x_shape))).reshape(-1, *x_shape)
        over_x = torch.func.vmap(run, in_dims=(None, 0))
        met = torch.func.vmap(over_x, in_dims=(0, None))(each_w, each_x) - nothing
    if not ((met == 0) | (met == 1)).all():
        raise NotImplementedError(
            "this layer is no plain sum of products of its input and its weight: override loop"
        )
    j, i, out = met.reshape(len(each_w), len(each_x), -1).nonzero().numpy().T
    return tuple(nothing.shape), (out, i, j)
