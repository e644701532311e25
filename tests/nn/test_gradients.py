"""Gradients equal autograd of the exact product on fake-quantised tensors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import approxhub as ah
from approxhub.errors import InputError, PluginError
from approxhub.nn import StraightThrough
from approxhub.nn.gradients import Arithmetic, ConvProduct, Grid, LinearProduct
from approxhub.operands import OperandFormat

UNIT = Grid(torch.tensor(1.0), torch.tensor(0), None, OperandFormat(8, True))
EXACT = Arithmetic(ah.exact(8), UNIT, UNIT)

CONVOLUTIONS = {
    "plain": (3, 4, 3, {}),
    "no bias": (3, 4, 3, {"bias": False}),
    "stride leaves a rest": (3, 4, 3, {"stride": 3, "padding": (2, 1)}),
    "dilation": (3, 2, 3, {"dilation": (2, 1), "padding": 1}),
    "same, even kernel": (3, 4, (2, 4), {"padding": "same"}),
    "same, even, dilation, groups": (4, 4, (4, 2), {"padding": "same", "dilation": 3, "groups": 2}),
    "groups": (4, 6, 3, {"groups": 2, "padding": 1}),
    "depthwise": (3, 6, 3, {"groups": 3, "padding": 1, "stride": 2}),
    "reflect": (2, 3, 3, {"padding": (1, 2), "padding_mode": "reflect"}),
    "circular, same, even": (2, 3, (2, 4), {"padding": "same", "padding_mode": "circular"}),
    "replicate": (2, 3, 3, {"padding": 2, "padding_mode": "replicate"}),
}


def _fake_quantised(t: Tensor, low: Tensor, high: Tensor, codes) -> Tensor:
    """Fake-quantise by clamping: its gradient is autograd's own, zero where clamped."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    if codes.affine:
        scale = (high - low) / (codes.qmax - codes.qmin)
        zero = (codes.qmin - low / scale).round().clamp(codes.qmin, codes.qmax)
    else:
        scale = torch.maximum(-low, high) / codes.qmax
        zero = torch.zeros_like(scale)
    shape = [-1, *[1] * (t.dim() - 1)] if scale.dim() else []
    scale, zero = scale.reshape(shape), zero.reshape(shape)
    code = t / scale
    code = code + (code.round() - code).detach() + zero  # rounding, straight through
    return (code.clamp(codes.qmin, codes.qmax) - zero) * scale


def _expected(plain: nn.Module, x: Tensor, seen: Tensor, fitted: Tensor, case, upstream: Tensor):
    """Gradients of torch's own layer on fake-quantised input and weight."""
    x = x.detach().clone().requires_grad_()
    parameters = {n: p.detach().clone().requires_grad_() for n, p in plain.named_parameters()}
    low, high = fitted.flatten(1).amin(1), fitted.flatten(1).amax(1)
    inputs = _fake_quantised(x, seen.amin(), seen.amax(), case.x)
    weight = _fake_quantised(parameters["weight"], low, high, case.w)
    y = torch.func.functional_call(plain, {**parameters, "weight": weight}, (inputs,))
    y.backward(upstream)
    return {"x": x.grad, **{n: p.grad for n, p in parameters.items()}}


def _check(layer, plain, x, seen, case) -> None:
    """Compare all gradients, some activations and weights being clamped."""
    layer.train()(seen)
    layer.eval()
    fitted = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.mul_(1.3)
    plain.load_state_dict({n: p.detach() for n, p in layer.named_parameters()})
    x = x.clone().requires_grad_()
    y = layer(x)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    want = _expected(plain, x, seen, fitted, case, upstream)
    got = {"x": x.grad, **{n: p.grad for n, p in layer.named_parameters()}}
    assert got.keys() == want.keys()
    for name, gradient in want.items():
        size = gradient.abs().max().item()
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-6 * max(1, size))
    assert (got["x"] == 0).any()
    assert (got["weight"] == 0).any()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("configuration", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_conv2d(some_case, configuration, activations, shaken):
    """Every configuration of Conv2d has the gradients of the exact product, masks included."""
    i, o, kernel, options = configuration
    layer = ah.nn.Conv2d(
        i, o, kernel, multiplier=some_case.odd(), mapping=some_case.mapping, **options
    )
    plain = nn.Conv2d(i, o, kernel, **options)
    x, seen = activations(2, i, 7, 6) * 2, activations(2, i, 7, 6)
    _check(shaken(layer), plain, x, seen, some_case)


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_linear(case, shape, bias, activations, shaken):
    """Linear has the gradients of the exact product for every mapping and leading dimension."""
    layer = ah.nn.Linear(6, 4, bias, multiplier=case.odd(), mapping=case.mapping)
    _check(shaken(layer), nn.Linear(6, 4, bias), activations(*shape) * 6, activations(9, 6), case)


@pytest.mark.parametrize("mode", ["exact", "approximate"])
def test_training_mode(some_case, mode, activations, shaken):
    """In training the gradient is that of the ranges which this very pass has set."""
    layer = shaken(
        ah.nn.Linear(6, 4, multiplier=some_case.odd(), mapping=some_case.mapping, mode=mode)
    )
    plain = nn.Linear(6, 4)
    plain.load_state_dict({n: p.detach() for n, p in layer.named_parameters()})
    x = activations(5, 6).requires_grad_()
    y = layer(x)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    want = _expected(plain, x, x.detach(), layer.weight.detach(), some_case, upstream)
    torch.testing.assert_close(x.grad, want["x"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.weight.grad, want["weight"], rtol=1e-5, atol=1e-5)


def _layers():
    return {
        "linear": (ah.nn.Linear(4, 3, multiplier=ah.exact(8, False)), (5, 4)),
        "conv2d": (ah.nn.Conv2d(2, 3, 3, padding=1, multiplier=ah.exact(8, False)), (2, 2, 5, 4)),
    }


both = pytest.mark.parametrize("kind", ["linear", "conv2d"])


@both
@pytest.mark.parametrize(("x_grad", "w_grad", "b_grad"), [
    (a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)
])  # fmt: skip
def test_gradient_only_where_it_is_wanted(kind, x_grad, w_grad, b_grad, monkeypatch, activations):
    """Only the wanted products are computed, and frozen parameters get no gradient."""
    layer, shape = _layers()[kind]
    layer.weight.requires_grad_(w_grad)
    layer.bias.requires_grad_(b_grad)
    product = LinearProduct if kind == "linear" else ConvProduct
    made = []
    for name in ("grad_input", "grad_weight"):
        original = getattr(product, name)
        monkeypatch.setattr(
            product, name, lambda *a, n=name, f=original: (made.append(n), f(*a))[1]
        )
    x = activations(*shape).requires_grad_(x_grad)
    y = layer(x)
    assert y.requires_grad == (x_grad or w_grad or b_grad)
    if y.requires_grad:
        y.sum().backward()
    assert made == ["grad_input"] * x_grad + ["grad_weight"] * w_grad
    assert (x.grad is not None) == x_grad
    assert (layer.weight.grad is not None) == w_grad
    assert (layer.bias.grad is not None) == b_grad


@both
def test_bias_gradient_is_the_sum_of_the_upstream_gradient(kind, activations):
    """The bias gets the upstream gradient summed over everything but the channels."""
    layer, shape = _layers()[kind]
    y = layer(activations(*shape))
    upstream = torch.randn_like(y)
    y.backward(upstream)
    want = upstream.sum(0) if kind == "linear" else upstream.sum((0, 2, 3))
    torch.testing.assert_close(layer.bias.grad, want)


@both
def test_used_twice(kind, activations):
    """A layer used twice in one graph adds up the gradients of both uses."""
    layer, shape = _layers()[kind]
    a, b = activations(*shape), activations(*shape) * 0.3
    layer(a)
    layer.eval()
    (layer(a) * 2 + layer(b)).sum().backward()
    together = layer.weight.grad.clone()
    layer.zero_grad()
    (layer(a) * 2).sum().backward()
    layer(b).sum().backward()
    torch.testing.assert_close(layer.weight.grad, together)


@both
def test_used_twice_in_training(kind, activations):
    """Ranges that move between two passes do not disturb the first one's gradient."""
    layer, shape = _layers()[kind]
    a = activations(*shape).requires_grad_()
    first = layer(a)
    alone = torch.autograd.grad(first.sum(), (a, layer.weight), retain_graph=True)
    layer(activations(*shape) * 9)
    again = torch.autograd.grad(first.sum(), (a, layer.weight))
    assert all(torch.equal(u, v) for u, v in zip(alone, again, strict=True))


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(kind, dtype, activations):
    """Under autocast the output has its dtype; sums stay integers and gradients float32."""
    layer, shape = _layers()[kind]
    x = activations(*shape)
    layer(x)
    layer.eval()
    want = layer(x)
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x.requires_grad_())
        narrow = layer(x.to(dtype))
    assert y.dtype == narrow.dtype == dtype
    assert torch.equal(y, want.to(dtype))
    y.float().square().sum().backward()
    assert x.grad.dtype == layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.abs().sum() > 0


@both
def test_backward_inside_autocast_is_not_rounded(kind, activations):
    """A backward pass called inside autocast gives the same bits as one outside."""
    layer, shape = _layers()[kind]
    x = activations(*shape)
    layer(x)
    layer.eval()
    layer(x).square().sum().backward()
    outside = layer.weight.grad.clone()
    layer.zero_grad()
    loss = layer(x).square().sum()
    with torch.autocast("cpu"):
        loss.backward()
    assert torch.equal(layer.weight.grad, outside)


@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(kind, dtype, activations):
    """Models in other float dtypes give outputs and gradients of that dtype."""
    layer, shape = _layers()[kind]
    x = activations(*shape).to(dtype).requires_grad_()
    layer = layer.to(dtype)
    y = layer(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == layer.weight.grad.dtype == layer.bias.grad.dtype == dtype
    assert layer.input_quantizer.scale.dtype == torch.float32


def test_float64_is_left_alone_by_autocast():
    """As in torch, autocast leaves float64 inputs float64."""
    layer = ah.nn.Linear(3, 2, multiplier=ah.exact(8), dtype=torch.float64)
    with torch.autocast("cpu"):
        assert layer(torch.randn(4, 3, dtype=torch.float64)).dtype == torch.float64


@both
def test_float_mode_has_torch_s_gradient(kind, activations):
    """Mode float is differentiated by torch itself: finite differences agree."""
    layer, shape = _layers()[kind]
    layer = layer.double()
    layer.mode = "float"
    x = activations(*shape).double().requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,), fast_mode=True)


@both
def test_no_grad_in_training_mode(kind, activations):
    """Under no_grad a training pass still moves the ranges, and gives no graph."""
    layer, shape = _layers()[kind]
    with torch.no_grad():
        y = layer(activations(*shape))
    assert not y.requires_grad
    assert layer.input_quantizer.calibrated


@both
def test_a_few_steps_train(kind, activations):
    """Gradient descent through the multiplier lowers the loss, and the weight scales follow."""
    layer, shape = _layers()[kind]
    x = activations(*shape)
    target = torch.randn_like(layer(x)).detach()
    before = layer.weight_quantizer.scale.clone()
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    layer.eval()
    assert not torch.equal(layer.weight_quantizer.scale, before)
    want = layer.weight.detach().flatten(1)
    assert torch.equal(layer.weight_quantizer.range_max, want.amax(1))


@both
def test_gradients_of_empty_batches(kind):
    """An empty batch gives gradients of zero of the right shapes."""
    layer, shape = _layers()[kind]
    layer(torch.randn(shape))
    x = torch.zeros((0, *shape[1:]), requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape
    assert layer.weight.grad.shape == layer.weight.shape
    assert not layer.weight.grad.any()


def test_straight_through_gives_none_for_what_is_not_needed():
    """The gradient's own interface: None stands for a gradient that nobody wants."""
    grad, x, w = torch.ones(2, 3), torch.ones(2, 4), torch.ones(3, 4)
    assert StraightThrough().backward(grad, x, w, LinearProduct(), EXACT, (False, False)) == (
        None,
        None,
    )
    of_x, of_w = StraightThrough().backward(grad, x, w, LinearProduct(), EXACT, (True, True))
    assert torch.equal(of_x, grad @ w)
    assert torch.equal(of_w, grad.t() @ x)


def test_conv_product_is_linear_in_both(activations):
    """The two gradient products of a convolution are adjoint to it: <y, g> is equal thrice."""
    x, w = activations(2, 4, 6, 5), activations(6, 2, 2, 3)
    sides = (1, 2, 0, 1)
    product = ConvProduct((2, 1), sides, (1, 2), 2)
    y = nn.functional.conv2d(nn.functional.pad(x, sides), w, None, (2, 1), 0, (1, 2), 2)
    g = torch.randn_like(y)
    assert product.grad_input(g, w, x).shape == x.shape
    dots = [(y * g).sum(), (product.grad_input(g, w, x) * x).sum()]
    dots.append((product.grad_weight(g, x, w) * w).sum())
    torch.testing.assert_close(torch.stack(dots), dots[0].expand(3), rtol=1e-4, atol=1e-3)


def test_a_copy_has_its_own_gradients(activations):
    """A deep copy trains apart from its original."""
    layer, shape = _layers()["linear"]
    other = copy.deepcopy(layer)
    other(activations(*shape)).sum().backward()
    assert layer.weight.grad is None


class _Wrong:
    """A gradient that gives whatever it was told to."""

    def __init__(self, given):
        self.given = given

    def backward(self, grad, x, w, product, arithmetic, needs):
        return self.given(x, w)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda x, w: None, "two gradients"),
        (lambda x, w: x, "two gradients"),
        (lambda x, w: (x, None), r"of shape \(3, 4\) for w, gave None"),
        (lambda x, w: (x[:1], w), r"of shape \(5, 4\) for x, gave \(1, 4\)"),
    ],
)
def test_a_gradient_that_gives_something_else_is_named(given, words):
    """The fault of somebody's gradient does not look like one of torch's."""
    layer = ah.nn.Linear(4, 3, multiplier="exact:8s")
    layer.set_gradient(_Wrong(given))
    y = layer(torch.randn(5, 4, requires_grad=True))
    with pytest.raises(PluginError, match=f"gradient _Wrong has to give .*{words}"):
        y.sum().backward()


def test_what_is_no_gradient_is_refused():
    """When it is set, not in the backward pass; the old one stays."""
    layer = ah.nn.Linear(4, 3, multiplier="exact:8s", gradient="lre")
    with pytest.raises(InputError, match="a method backward, got 5"):
        layer.set_gradient(5)
    assert layer.gradient == "lre"
