"""What every layer of ours can, each asked the same: empty batches, autocast, memory formats."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import approxhub as ah
from approxhub.errors import CalibrationError, CheckpointError, InputError

TABLE = np.random.default_rng(11).integers(-20000, 20000, (256, 256))
TABLE[0, 0] = 64
ODD = ah.Multiplier.from_table(TABLE, name="odd", a_signed=False, b_signed=False)


@dataclass(frozen=True)
class Kind:
    """A layer and the shapes of its inputs, with the batch where it stands."""

    name: str
    arguments: tuple[Any, ...]
    shapes: Callable[[int], tuple[tuple[int, ...], ...]]
    options: tuple[tuple[str, Any], ...] = ()

    def make(self, multiplier: ah.Multiplier = ODD, **options: Any) -> nn.Module:
        """Make one."""
        torch.manual_seed(7)
        make = getattr(ah.nn, self.name)
        return make(*self.arguments, multiplier=multiplier, **dict(self.options), **options)

    def inputs(self, batch: int = 3) -> list[Tensor]:
        """Random inputs."""
        return [torch.randn(shape) + 0.3 for shape in self.shapes(batch)]

    def __str__(self) -> str:
        return self.name


def _image(*size: int) -> Callable[[int], tuple[tuple[int, ...], ...]]:
    return lambda batch: ((batch, 2, *size),)


KINDS = [
    Kind("Linear", (4, 3), lambda n: ((n, 4),)),
    Kind("Conv1d", (2, 4, 3), _image(6)),
    Kind("Conv2d", (2, 4, 3, 1, 1), _image(4, 5)),
    Kind("Conv3d", (2, 2, 2), _image(3, 4, 3)),
    Kind("ConvTranspose1d", (2, 4, 3, 2), _image(4)),
    Kind("ConvTranspose2d", (2, 4, 3, 2, 1), _image(3, 4)),
    Kind("ConvTranspose3d", (2, 2, 2), _image(2, 3, 2)),
    Kind("NormalizedLinear", (4, 3), lambda n: ((n, 4),)),
    Kind("NormalizedConv1d", (2, 4, 3), _image(6)),
    Kind("NormalizedConv2d", (2, 4, 3), _image(4, 5)),
    Kind("NormalizedConv3d", (2, 2, 2), _image(3, 4, 3)),
    Kind("NormalizedConvTranspose1d", (2, 4, 3, 2), _image(4)),
    Kind("NormalizedConvTranspose2d", (2, 4, 3, 2, 1), _image(3, 4)),
    Kind("NormalizedConvTranspose3d", (2, 2, 2), _image(2, 3, 2)),
    Kind("RNN", (4, 3), lambda n: ((2, n, 4),)),
    Kind("LSTM", (4, 3), lambda n: ((2, n, 4),), (("num_layers", 2), ("bidirectional", True))),
    Kind("GRU", (4, 3), lambda n: ((n, 2, 4),), (("batch_first", True),)),
    Kind("RNNCell", (4, 3), lambda n: ((n, 4),)),
    Kind("LSTMCell", (4, 3), lambda n: ((n, 4),)),
    Kind("GRUCell", (4, 3), lambda n: ((n, 4),)),
    Kind("Matmul", (), lambda n: ((n, 2, 4), (n, 4, 3))),
    Kind("ScaledDotProductAttention", (), lambda n: ((n, 2, 4),) * 3),
    Kind("MultiheadAttention", (4, 2), lambda n: ((n, 2, 4),) * 3,
         (("batch_first", True), ("approximate_products", True))),
]  # fmt: skip


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each layer in turn."""
    return request.param


def _outputs(found: Any) -> list[Tensor]:
    """All tensors of a result."""
    return [t for t in torch.utils._pytree.tree_leaves(found) if isinstance(t, Tensor)]


def _fitted(kind: Kind) -> nn.Module:
    layer = kind.make()
    layer(*kind.inputs())
    return layer.eval()


def test_an_empty_batch(kind):
    """No example gives no result, of the right shape, and a gradient that is zero."""
    layer = _fitted(kind)
    some, none = layer(*kind.inputs(2)), layer(*(t.requires_grad_() for t in kind.inputs(0)))
    for a, b in zip(_outputs(some), _outputs(none), strict=True):
        assert b.shape == tuple(0 if n == 2 and a.shape[i] != b.shape[i] else n
                                for i, n in enumerate(a.shape))  # fmt: skip
        assert b.numel() == 0
    sum(t.sum() for t in _outputs(none)).backward()
    assert all(p.grad is None or not p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(kind, dtype):
    """Under autocast results are of its type, and those of the integers of full precision."""
    layer, x = _fitted(kind), kind.inputs()
    with torch.autocast("cpu", dtype=dtype):
        found = layer(*x)
    for t in _outputs(found):
        assert t.dtype in (dtype, torch.float32)
        assert torch.isfinite(t).all()
    assert any(t.dtype == dtype for t in _outputs(found))
    layer.train()
    with torch.autocast("cpu", dtype=dtype):
        y = sum(t.float().sum() for t in _outputs(layer(*(t.requires_grad_() for t in x))))
    y.backward()
    assert all(t.grad is not None and torch.isfinite(t.grad).all() for t in x)


def test_copies_and_states(kind):
    """Copies, pickles and layers that load its state give its results."""
    layer, x = _fitted(kind), kind.inputs()
    want = _outputs(layer(*x))
    other = kind.make().eval()
    other.load_state_dict(layer.state_dict())
    for clone in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other):
        for a, b in zip(_outputs(clone(*x)), want, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d", "Conv3d", "ConvTranspose3d"])
def test_channels_last(name):
    """Images and weights with their channels last in memory give the same results and gradients."""
    kind = next(k for k in KINDS if k.name == name)
    layer, (x,) = _fitted(kind), kind.inputs()
    last = torch.channels_last if name.endswith("2d") else torch.channels_last_3d
    other, y = copy.deepcopy(layer).to(memory_format=last), x.to(memory_format=last)
    found = []
    for one, t in ((layer, x), (other, y)):
        t = t.clone(memory_format=torch.preserve_format).requires_grad_()
        out = one(t)
        out.square().sum().backward()
        found.append((out, t.grad, one.weight.grad))
    assert torch.equal(found[0][0], found[1][0])
    for a, b in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_evaluation_moves_nothing(kind):
    """A pass in evaluation leaves every buffer, flag and calibrator as it was."""
    layer = _fitted(kind)
    parts = [m for m in layer.modules() if isinstance(m, ah.quantization.Quantizer)]

    def state() -> list[Any]:
        seen = [[t.tolist() for t in q.calibrator.range()] for q in parts if q.calibrated]
        return [*(b.tolist() for b in layer.buffers()), seen, [q.calibrated for q in parts]]

    before = state()
    for part in layer.modules():
        if isinstance(part, ah.nn.ApproxLayer):
            part.noise = ah.nn.Noise(mean=1.0, deviation=2.0)
    for mode in ah.nn.MODES:
        ah.set_mode(layer, mode)
        x = [(10 * t).requires_grad_() for t in kind.inputs()]
        sum(t.sum() for t in _outputs(layer(*x))).backward()
    assert state() == before


def test_numpy_is_refused(kind: Kind) -> None:
    """An array of numpy is refused with what makes a tensor of it."""
    arrays = [x.numpy() for x in kind.inputs()]
    with pytest.raises(InputError, match=r"torch\.from_numpy"):
        kind.make()(*arrays)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(kind: Kind, bad: float) -> None:
    """NaN and infinity are refused with the layer that they reached, and move no range."""
    layer, inputs = _fitted(kind), kind.inputs()
    inputs[0].view(-1)[1] = bad
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    for training in (False, True):
        layer.train(training)
        with pytest.raises(CalibrationError, match=r"(weight \(|Matmul).*NaN or infinity"):
            layer(*inputs)
    layer.eval()
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


def test_without_a_range_it_is_refused(kind: Kind) -> None:
    """A layer that has seen nothing says how to calibrate; in mode float it needs nothing."""
    layer = kind.make().eval()
    with pytest.raises(CalibrationError, match=r"approxhub\.calibrate"):
        layer(*kind.inputs())
    ah.set_mode(layer, "float")
    layer(*kind.inputs())


def test_another_circuit_s_checkpoint_changes_nothing(kind: Kind) -> None:
    """A checkpoint of another table under the same name is refused, and nothing is copied."""
    table = ah.Multiplier.from_table(TABLE + 1, name="odd", a_signed=False, b_signed=False)
    layer, other = _fitted(kind), kind.make(table)
    other(*(2 * t for t in kind.inputs()))
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    with pytest.raises(CheckpointError, match="another circuit under the name local:odd"):
        layer.load_state_dict(other.state_dict())
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


def test_float64_is_quantised_as_float32(kind: Kind) -> None:
    """Inputs of float64 have the codes of their float32 values, and results are float64 again."""
    layer, x = _fitted(kind), kind.inputs()
    wide = _outputs(layer(*(t.double() for t in x)))
    assert any(t.dtype == torch.float64 for t in wide)
    for a, b in zip(wide, _outputs(layer(*x)), strict=True):
        torch.testing.assert_close(a, b, check_dtype=False, rtol=1e-5, atol=1e-5)
    if isinstance(layer, ah.nn.ApproxLayer):
        assert torch.equal(wide[0], layer(*x).double())
