"""Products that stay exact are found, with file and line, and nothing else is."""

# ruff: noqa: D102 - the forwards below are specimens

from __future__ import annotations

import inspect
import operator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import einsum as contraction
from torch import matmul as product
from torch import nn
from torch.nn.functional import linear as dense
from torch.nn.functional import scaled_dot_product_attention as attend

import approxhub as ah
from approxhub.model import leftovers

HERE = Path(__file__).name
W = torch.ones(3, 3)


def _helper(x):
    return torch.bmm(x, x)  # marked


def _chain(x):
    return _helper(x)


class Base(nn.Module):
    def forward(self, x):
        return F.linear(x, W)  # marked


class Alias(nn.Module):
    def forward(self, x):
        x = dense(x, W)  # marked
        return product(x, x)  # marked


class Operators(nn.Module):
    def forward(self, x):
        y = x @ x  # marked
        y @= x  # marked
        return operator.matmul(y, x)  # marked


class Methods(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 3))

    def forward(self, x):
        x = x.matmul(x)  # marked
        x = self.scale.mm(x)  # marked
        x = x.transpose(0, 1).bmm(x)  # marked
        return torch.Tensor.matmul(x, x)  # marked


class Einsum(nn.Module):
    def forward(self, x):
        return torch.einsum("ij,jk", x, x) + contraction("ij,jk", x, x)  # marked twice


class Attention(nn.Module):
    def forward(self, q):
        return F.scaled_dot_product_attention(q, q, q) + attend(q, q, q)  # marked twice


class Convolutions(nn.Module):
    def forward(self, x):
        x = F.conv2d(x, W)  # marked
        x = torch.conv1d(x, W)  # marked
        return F.conv_transpose2d(x, W)  # marked


class HelperMethod(nn.Module):
    def forward(self, x):
        return self.outer(x)

    def outer(self, x):
        return self._inner(x)

    def _inner(self, x):
        return torch.mm(x, x)  # marked


class HelperFunction(nn.Module):
    def forward(self, x):
        return _chain(x)


class Inherited(Base):
    pass


class Super(Base):
    def forward(self, x):
        return super().forward(x) + 1


class Decorated(nn.Module):
    @torch.no_grad()
    def forward(self, x):
        return self.inner(x)

    def inner(self, x):
        return torch.linalg.multi_dot([x, x])  # marked


class LocalImport(nn.Module):
    def forward(self, x):
        import torch.nn.functional as functional
        from torch import mm as multiply

        return functional.linear(x, W) + multiply(x, x)  # marked twice


class Part(nn.Module):
    def forward(self, x):
        return x

    def encode(self, x):
        return torch.addmm(x, x, x)  # marked


class OtherMethod(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Part()

    def forward(self, x):
        return self.part.encode(x)


class Nested(nn.Module):
    def forward(self, x):
        def inner(y):
            return [torch.mv(v, v) for v in y]  # marked

        return inner(x) if x.sum() else (lambda v: v @ v)(x)  # marked


def _matmul(x):
    return x


class Matmul(nn.Module):
    """A module whose name and methods only sound like products."""

    def forward(self, x):
        return x


class Harmless(nn.Module):
    def __init__(self):
        super().__init__()
        self.matmul = Matmul()
        self.dot = nn.Identity()
        self.act = nn.ReLU()
        self.layers = nn.ModuleList([nn.Identity()])
        self.table = {"mm": 1}
        self.linear = nn.Identity()

    def forward(self, x, linear=None):
        product = self.act  # hides the imported name
        x = product(self.matmul(self.dot(x)))
        x = _matmul(F.relu(x)) * x + torch.add(x, x).mul(2).sum()
        np.dot(np.ones(2), np.ones(2))
        for layer in self.layers:
            x = layer(x)
        x = F.softmax(F.layer_norm(x, x.shape), -1).pow(2)
        self.helper("F.linear(x)")
        return self.linear(x) if linear is None else linear(x)

    def helper(self, text):
        return [*text.split("@"), self.table["mm"]]


FOUND = [
    (Base, ["F.linear"]),
    (Alias, ["dense", "product"]),
    (Operators, ["x @ x", "y @= x", "operator.matmul"]),
    (Methods, ["x.matmul", "self.scale.mm", "x.transpose(0, 1).bmm", "torch.Tensor.matmul"]),
    (Einsum, ["torch.einsum", "contraction"]),
    (Attention, ["F.scaled_dot_product_attention", "attend"]),
    (Convolutions, ["F.conv2d", "torch.conv1d", "F.conv_transpose2d"]),
    (HelperMethod, ["torch.mm"]),
    (HelperFunction, ["torch.bmm"]),
    (Inherited, ["F.linear"]),
    (Super, ["F.linear"]),
    (Decorated, ["torch.linalg.multi_dot"]),
    (LocalImport, ["functional.linear", "multiply"]),
    (OtherMethod, ["torch.addmm"]),
    (Nested, ["torch.mv", "v @ v"]),
]


@pytest.mark.parametrize(("kind", "calls"), FOUND, ids=lambda v: getattr(v, "__name__", ""))
def test_functional_calls_are_found(kind, calls):
    """Every way to call a product is found once, with its file and a line that makes one."""
    entries = leftovers(kind())
    found = [e.what.rsplit(", ", 1) for e in entries]
    assert sorted(call for call, _ in found) == sorted(calls)
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    for _, where in found:
        file, line = where.split(":")
        assert file == HERE
        assert "# marked" in source[int(line) - 1]
    assert {(e.name, e.reason) for e in entries} == {("", "functional call")}


def test_no_false_alarms():
    """Modules, functions and locals that only have a product's name are not reported."""
    assert leftovers(Harmless()) == []


def test_torch_s_own_modules_are_not_searched():
    """Activations, norms, pooling, embeddings and containers of torch leave nothing."""
    model = nn.Sequential(
        nn.BatchNorm1d(3), nn.LayerNorm(3), nn.GELU(), nn.Dropout(), nn.Embedding(3, 3),
        nn.Flatten(), nn.AdaptiveAvgPool1d(1), nn.Softmax(-1), nn.ModuleDict(), nn.Identity(),
    )  # fmt: skip
    assert leftovers(model) == []


def test_names_of_nested_modules():
    """Calls are listed under the module that makes them, layers under their own name."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Base(), nn.Bilinear(2, 2, 2)))
    assert [(e.name, e.what.split(",")[0]) for e in leftovers(model)] == [
        ("0", "Linear"),
        ("1.0", "F.linear"),
        ("1.1", "Bilinear"),
    ]


def test_recursion_ends():
    """Helpers that call themselves or each other are read once."""

    class Recursive(nn.Module):
        def forward(self, x):
            return self.other(x)

        def other(self, x):
            return self.forward(x) @ x

    assert len(leftovers(Recursive())) == 1


def test_source_that_cannot_be_read():
    """A forward without source is reported as such rather than passed over."""
    space = {"nn": nn}
    exec("class Hidden(nn.Module):\n    def forward(self, x):\n        return x @ x", space)
    (entry,) = leftovers(space["Hidden"]())
    assert "cannot be read" in entry.what


def test_a_property_that_raises_does_no_harm():
    """A user's property that raises while the source is read is passed over."""

    class Prickly(nn.Module):
        @property
        def helper(self):
            raise RuntimeError("not now")

        def forward(self, x):
            return self.helper.run(x) @ x

    assert len(leftovers(Prickly())) == 1


def test_what_is_converted_is_not_left(net):
    """A fully converted model leaves nothing; approximate layers are not searched."""
    assert leftovers(ah.approximate(net, ah.exact(8))) == []
    assert [e.name for e in leftovers(net)] == ["features.0", "features.3", "block.inner.0", "head"]


def test_skipped_calls_and_strict(caplog):
    """With strict a functional call is an error, unless its module is skipped by name."""
    model = nn.Sequential(nn.Linear(3, 3), Base())
    with pytest.raises(ah.ApproxHubError, match=rf"1: F\.linear, {HERE}:\d+ \(functional call\)"):
        ah.approximate(model, ah.exact(8), strict=True)
    ah.approximate(model, ah.exact(8), strict=True, skip="1")
    ah.approximate(model, ah.exact(8))
    line = inspect.getsourcelines(Base.forward)[1] + 1
    assert f"1: F.linear, {HERE}:{line} (functional call)" in caplog.text


def test_entries_read_as_text():
    """An entry's text has name, what and why; the root has a name of its own."""
    (entry,) = leftovers(nn.Linear(2, 2))
    assert str(entry) == "(root): Linear (no pattern fits it)"
