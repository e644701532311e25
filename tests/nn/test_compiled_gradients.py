"""Gradients under torch.compile: one graph with every gradient, and the bits of eager mode.

More layers are compiled in tests/machinery/test_compiled.py.
"""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import library, nn

import approxhub as ah
from approxhub.errors import InputError
from approxhub.multiplier import Multiplier
from approxhub.nn.gradients import (
    BatchedProduct,
    ConvProduct,
    ConvTransposeProduct,
    GivenTables,
    LinearProduct,
    LinearRegression,
)
from approxhub.nn.gradients.products import flattened, restored
from approxhub.nn.gradients.untraced import UntracedGradient
from approxhub.ops import register

pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = (
    "straight-through",
    "lre",
    "table-1d",
    "table-2d(half_window=2)",
    "approximate-backward",
    "approximate-backward(rounding=nearest)",
)


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    torch._dynamo.reset()
    torch.manual_seed(3)
    yield
    torch._dynamo.reset()


def _fresh(signed: bool = False) -> Multiplier:
    """A circuit that nobody has asked anything yet, not exact, with T[0][0] = 64."""
    table = np.random.default_rng(8).integers(-1000, 1000, (64, 64))
    table[0, 0] = 64
    return Multiplier.from_table(table, name="odd", a_signed=signed, b_signed=signed)


def _network(multiplier: Multiplier, mapping: str | None = None) -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)
    )
    return ah.approximate(net, multiplier, mapping=mapping)


def _compare(model: nn.Module, backend: str = "eager") -> None:
    """Steps of training through one graph, and the same steps uncompiled, number by number."""
    eager = copy.deepcopy(model)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    trained = []
    for network, run in ((model, compiled), (eager, eager)):
        torch.manual_seed(4)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        found = []
        for _ in range(3):
            x = torch.randn(4, 1, 5, 5, requires_grad=True)
            loss = run(x).square().mean()
            optimiser.zero_grad()
            loss.backward()
            found += [loss.detach(), x.grad, *(p.grad.clone() for p in network.parameters())]
            optimiser.step()
        trained.append([*found, *network.state_dict().values()])
    assert all(torch.equal(p, q) for p, q in zip(*trained, strict=True))


@pytest.mark.parametrize("gradient", NAMES)
def test_one_graph_with_every_gradient(gradient):
    """Losses, gradients, buffers and weights are those of eager mode; no call came before."""
    model = _network(_fresh()).train()
    ah.set_gradient(model, gradient)
    _compare(model)


@pytest.mark.parametrize("datapath", ["zero_point=before", "padding=skip", "bias=int32"])
def test_one_graph_behind_every_datapath(datapath):
    """What a datapath does to grids, padding and bias reaches a gradient in a graph."""
    model = _network(_fresh(signed=True), "affine-signed")
    ah.set_datapath(model, datapath)
    ah.set_gradient(model, "table-2d(half_window=2)")
    _compare(model)


def test_through_aot_autograd():
    """So it is where torch traces the backward pass before it comes."""
    model = _network(_fresh())
    ah.set_gradient(model, "approximate-backward")
    _compare(model, "aot_eager")


def test_given_tables():
    """Tables that a user gives are no constant of the graph: other tables, another gradient."""
    m = _fresh()
    model = _network(m)
    rng = np.random.default_rng(1)
    for _ in range(2):
        tables = rng.normal(size=(2, *m.table.shape))
        ah.set_gradient(model, GivenTables(by_a=tables[0], by_b=tables[1], tolerance=0.9))
        _compare(model)


def test_an_error_is_the_same_in_a_graph():
    """Tables that do not fit the circuit are refused with the words of eager mode."""
    model = _network(_fresh())
    ah.set_gradient(model, GivenTables(by_a=np.ones((4, 4)), by_b=np.ones((4, 4))))
    y = torch.compile(model, backend="eager", fullgraph=True)(torch.randn(4, 1, 5, 5))
    with pytest.raises(InputError, match="do not fit local:odd"):
        y.sum().backward()


class _Shared:
    """Gives memory that it was given, laid out otherwise, where it is asked for a weight."""

    def backward(self, grad, x, w, product, arithmetic, needs):
        strided = torch.empty(*x.shape, 2)[..., 0].copy_(product.grad_input(grad, w, x))
        return strided if needs[0] else None, w if needs[1] else None


@pytest.mark.parametrize("gradient", [_Shared(), LinearRegression()])
@pytest.mark.parametrize("needs", [[True, True], [False, True], [True, False]])
def test_it_is_an_operator(gradient, needs):
    """Torch's own check of operators, of a plug-in that gives an operand back or strides too."""
    m, untraced = _fresh(), UntracedGradient(gradient)
    scale, zero = torch.tensor(1.0), torch.tensor(2, dtype=torch.int32)
    arguments = (
        torch.randn(4, 2), torch.ones(4, 3), torch.ones(2, 3), scale, zero, scale, zero,
        [0, 0, 6, 0, 1, 0, 0, 6, 0, 1], "LinearProduct", [], register(m), untraced.handle, needs,
    )  # fmt: skip
    library.opcheck(
        torch.ops.approxhub.product_gradients.default, arguments,
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip


@dataclass(frozen=True)
class _Foreign(LinearProduct):
    """A product of which nothing is known here."""


def test_products_as_numbers():
    """Each product of ours comes back from its numbers; one of a plug-in has none."""
    for product in (
        LinearProduct(),
        BatchedProduct(),
        ConvProduct((1, 2), (3, 4, 5, 6), (7, 8), 9, skip=True),
        ConvProduct((1, 2, 3), (4, 5, 6, 7, 8, 9), (10, 11, 12), 1),
        ConvTransposeProduct((1,), (2,), (3,), (4,), 5),
        ConvTransposeProduct((1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12), 13),
    ):
        found = flattened(product)
        assert found is not None
        assert restored(*found) == product
    assert flattened(_Foreign()) is None


def test_copies_have_a_handle_of_their_own():
    """A layer that was copied, or loaded elsewhere, does not name the gradient of another."""
    layer = ah.nn.Linear(3, 2, multiplier=_fresh(), gradient="lre")
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        mine, theirs = layer._compiled_gradient, other._compiled_gradient
        assert isinstance(theirs, UntracedGradient)
        assert mine.handle != theirs.handle
        assert theirs.gradient == mine.gradient


def test_a_backward_pass_of_a_layer_that_is_gone():
    """The graph names a gradient that the layer holds; without it an error says what to do."""
    layer = ah.nn.Linear(3, 2, multiplier=_fresh(), gradient="lre")
    y = torch.compile(layer, backend="eager", fullgraph=True)(torch.randn(4, 3))
    del layer
    torch._dynamo.reset()
    gc.collect()
    with pytest.raises(InputError, match="keep the compiled model"):
        y.sum().backward()


class _Doubled:
    """A gradient whose numbers have another type than its operands."""

    def backward(self, grad, x, w, product, arithmetic, needs):
        return grad.double() @ w.double(), grad.double().t() @ x.double()


def test_a_gradient_of_another_type_is_cast_as_autograd_does():
    """A compiler is told the operands' type, and reads the memory as that."""
    layer = ah.nn.Linear(6, 4, multiplier=_fresh())
    layer.set_gradient(_Doubled())
    layer(torch.randn(3, 6))
    layer.eval()
    x = torch.randn(3, 6, requires_grad=True)
    found = []
    for run in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        x.grad = layer.weight.grad = None
        run(x).square().sum().backward()
        found.append((x.grad, layer.weight.grad))
    for mine, wanted in zip(found[1], found[0], strict=True):
        assert torch.equal(mine, wanted)
    arithmetic = layer._multiplied_by()
    flat = flattened(LinearProduct())
    assert flat is not None
    of_x, of_w = layer._compiled_gradient.backward(
        torch.randn(3, 4), x.detach(), layer.weight.detach(), LinearProduct(), arithmetic,
        (True, True),
    )  # fmt: skip
    assert of_x.dtype == of_w.dtype == torch.float32
