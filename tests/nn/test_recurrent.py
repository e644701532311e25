"""Recurrent layers and cells against loops over steps, each product written in numpy."""

from __future__ import annotations

import copy
import logging
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import approxhub as ah
from approxhub.errors import CalibrationError, CheckpointError, InputError, MappingError
from approxhub.multiplier import Multiplier
from approxhub.nn.recurrent import StateProjection

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

LAYERS = {
    "LSTM": {},
    "LSTM, proj_size": {"proj_size": 2},
    "LSTM, two layers, both directions": {"num_layers": 2, "bidirectional": True},
    "GRU": {},
    "GRU, both directions, no bias": {"bidirectional": True, "bias": False},
    "RNN": {},
    "RNN, relu": {"nonlinearity": "relu", "num_layers": 2},
}
CELLS = ("LSTMCell", "GRUCell", "RNNCell")


@pytest.fixture(params=LAYERS)
def kind(request):
    """Each layer in turn."""
    return request.param


def _plain(kind: str, **options) -> nn.Module:
    return getattr(nn, kind.split(",")[0])(3, 4, **LAYERS.get(kind, {}), **options)


def _make(kind: str, m, mapping=None, **options) -> nn.Module:
    plain = _plain(kind, **options)
    return getattr(ah.nn, type(plain).__name__).from_float(plain, m, mapping=mapping)


def _cell(kind: str, gates_x, state, hidden, out):
    """One step, as torch documents it."""
    if kind == "LSTM":
        h, c = state
        i, f, g, o = (gates_x + hidden(h)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return out(o.sigmoid() * c.tanh()), c
    (h,) = state
    if kind == "GRU":
        x_r, x_z, x_n = gates_x.chunk(3, -1)
        h_r, h_z, h_n = hidden(h).chunk(3, -1)
        z = (x_z + h_z).sigmoid()
        return ((1 - z) * (x_n + (x_r + h_r).sigmoid() * h_n).tanh() + z * h,)
    return ((gates_x + hidden(h)).relu() if kind == "relu" else (gates_x + hidden(h)).tanh(),)


def _slow(layer, x, project):
    """Output and states of a layer on (T, N, features), one step after the other."""
    kind = getattr(layer, "nonlinearity", type(layer).__name__)
    parts, last = layer.parts(), []
    for depth in range(layer.num_layers):
        outputs = []
        for way in ("", "_reverse") if layer.bidirectional else ("",):
            end = f"l{depth}{way}"
            steps = list(x.flip(0) if way else x)
            widths = (layer.proj_size or 4, 4)[: 2 if kind == "LSTM" else 1]
            state = tuple(torch.zeros(x.shape[1], w) for w in widths)
            found = []
            for step in steps:
                gates_x = project(parts[f"ih_{end}"], step)
                state = _cell(
                    kind, gates_x, state,
                    lambda h, end=end: project(parts[f"hh_{end}"], h),
                    lambda h, end=end: project(parts[f"hr_{end}"], h) if layer.proj_size else h,
                )  # fmt: skip
                found.append(state[0])
            outputs.append(torch.stack(found[::-1] if way else found))
            last.append(state)
        x = torch.cat(outputs, -1)
    return x, tuple(torch.stack(s) for s in zip(*last, strict=True))


@pytest.mark.parametrize("circuit", ["exact", "odd"])
def test_equals_the_loop(kind, some_case, circuit, oracle, activations):
    """Every layer and mapping equals a loop over steps and products, bit for bit."""
    m = getattr(some_case, circuit)()
    layer = _make(kind, m, some_case.mapping)
    layer(activations(5, 2, 3))
    x = activations(4, 2, 3) * 1.2
    with torch.no_grad():
        y, state = layer.eval()(x)
        products = some_case.products(m)
        want = _slow(layer, x, lambda part, t: oracle.projection(part, t, some_case, products))
        assert torch.equal(y, want[0])
        got = state if isinstance(state, tuple) else (state,)
        assert all(map(torch.equal, got, want[1]))
        if circuit == "exact":
            layer.mode = "exact"
            assert torch.equal(layer(x)[0], y)


@pytest.mark.parametrize("circuit", ["exact", "odd"])
def test_every_mapping(case, circuit, oracle, activations):
    """An LSTM equals the loop under every mapping."""
    m = getattr(case, circuit)()
    layer = _make("LSTM", m, case.mapping)
    x = activations(3, 2, 3)
    layer(x)
    with torch.no_grad():
        products = case.products(m)
        want, _ = _slow(layer.eval(), x, lambda p, t: oracle.projection(p, t, case, products))
        assert torch.equal(layer(x)[0], want)


@pytest.mark.parametrize("batch_first", [False, True])
def test_float_mode_is_torch_s(kind, batch_first, activations):
    """In mode float results are torch's within rounding: batched, not, packed, with a state."""
    plain = _plain(kind, batch_first=batch_first).eval()
    layer = getattr(ah.nn, type(plain).__name__).from_float(plain, ah.exact(8), mode="float")
    x, single = activations(5, 3, 3), activations(5, 3)
    inputs = [x, single]
    for ordered, lengths in ((True, [5, 4, 1]), (False, [2, 5, 3])):
        batch = activations(3, 5, 3) if batch_first else x
        inputs.append(pack_padded_sequence(batch, lengths, batch_first, enforce_sorted=ordered))
    for given in inputs:
        state = None
        for _ in range(2):  # from zeros, and from the state of the first pass
            want, got = plain(given, state), layer(given, state)
            torch.testing.assert_close(got[1], want[1])
            if isinstance(given, torch.Tensor):
                torch.testing.assert_close(got[0], want[0])
            else:
                torch.testing.assert_close(got[0].data, want[0].data)
                for field in ("batch_sizes", "sorted_indices", "unsorted_indices"):
                    a, b = getattr(got[0], field), getattr(want[0], field)
                    assert a is b or torch.equal(a, b)
            state = want[1]


def test_packed_equals_each_sequence_alone(kind, some_case, activations):
    """Each sequence of a packed batch gives the bits that it gives alone."""
    layer = _make(kind, some_case.odd(), some_case.mapping)
    x, lengths = activations(5, 3, 3), [2, 5, 3]
    layer(x)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    with torch.no_grad():
        output, state = layer.eval()(packed)
        padded, _ = nn.utils.rnn.pad_packed_sequence(output)
        states = state if isinstance(state, tuple) else (state,)
        for n, length in enumerate(lengths):
            y, alone = layer(x[:length, n])
            assert torch.equal(padded[:length, n], y)
            alone = alone if isinstance(alone, tuple) else (alone,)
            assert all(torch.equal(s[:, n], a) for s, a in zip(states, alone, strict=True))


def test_dropout_between_layers(activations):
    """Dropout is applied between layers in training alone."""
    layer = ah.nn.LSTM(3, 4, 2, dropout=1.0, multiplier=ah.exact(8, False))
    x = activations(4, 2, 3)
    layer(x)
    assert layer.parts()["ih_l1"].input_quantizer.range_max.item() == 0
    with ah.mode(layer, "float"):
        layer(x)
        assert torch.equal(layer.eval()(x)[0], layer(x)[0])


def test_a_state_is_seen_whole(activations):
    """The range of the state is that of all steps of a pass, in training and in calibration."""
    layer = ah.nn.GRU(3, 4, multiplier=ah.exact(8), calibrator="moving-average")
    x, seen = activations(6, 2, 3), []
    part = layer.parts()["hh_l0"]
    part.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    ah.calibrate(layer, [x])
    low, high = torch.stack(seen).aminmax()
    assert part.input_quantizer.range_max == high
    assert part.input_quantizer.range_min == low
    before, seen[:] = (low, high), []
    layer.train()(x)
    low, high = torch.stack(seen).aminmax()
    torch.testing.assert_close(part.input_quantizer.range_max, before[1].lerp(high, 0.1))
    torch.testing.assert_close(part.input_quantizer.range_min, before[0].lerp(low, 0.1))


def test_the_first_pass_in_training_has_a_range(kind, activations):
    """Without calibration the first pass in training is near the float layer's."""
    layer = _make(kind, ah.exact(8, False))
    x = activations(6, 2, 3)
    y = layer(x)[0]
    with ah.mode(layer, "float"):
        want = layer(x)[0]
    assert (y - want).abs().max() < 0.05 * want.abs().max()
    assert all(isinstance(p, StateProjection) != n.startswith("ih")
               for n, p in layer.parts().items())  # fmt: skip
    y.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_evaluation_moves_nothing(kind, activations):
    """In evaluation no buffer moves."""
    layer = _make(kind, ah.exact(8))
    layer(activations(4, 2, 3))
    layer.eval()
    before = {n: b.clone() for n, b in layer.named_buffers()}
    layer(activations(4, 2, 3) * 100)[0].sum().backward()
    assert all(torch.equal(b, before[n]) for n, b in layer.named_buffers())


# --- cells -------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("circuit", ["exact", "odd"])
def test_cells_equal_the_loop(cell, circuit, some_case, oracle, activations):
    """Every cell and mapping equals one step of the loop, bit for bit."""
    m = getattr(some_case, circuit)()
    layer = _make(cell, m, some_case.mapping)
    states = (activations(5, 4), activations(5, 4))[: 2 if cell == "LSTMCell" else 1]
    x, given = activations(5, 3), states if len(states) > 1 else states[0]
    layer(x, given)
    products = some_case.products(m)
    with torch.no_grad():
        y = layer.eval()(x, given)
        gates = oracle.projection(layer.ih, x, some_case, products)
        want = _cell(
            cell.removesuffix("Cell"), gates, states,
            lambda h: oracle.projection(layer.hh, h, some_case, products), lambda h: h,
        )  # fmt: skip
        assert all(map(torch.equal, y if isinstance(y, tuple) else (y,), want))
        single = layer(x[0], tuple(s[0] for s in states) if len(states) > 1 else states[0][0])
        assert torch.equal((single if isinstance(y, tuple) else (single,))[0], want[0][0])


@pytest.mark.parametrize("cell", CELLS)
def test_cells_in_float_mode_are_torch_s(cell, activations):
    """In mode float a cell is torch's within rounding, with and without a state."""
    plain = _plain(cell)
    layer = getattr(ah.nn, cell).from_float(plain, ah.exact(8), mode="float")
    x = activations(5, 3)
    state = plain(x)
    torch.testing.assert_close(layer(x), state)
    torch.testing.assert_close(layer(x, state), plain(x, state))
    torch.testing.assert_close(layer(x[0]), plain(x[0]))


# --- state, copies, refusals --------------------------------------------------------------


@pytest.mark.parametrize("any_kind", [*LAYERS, *CELLS])
def test_state_and_copies(any_kind, activations):
    """torch's names are kept, float checkpoints load, and copies give the same bits."""
    plain, layer = _plain(any_kind), _make(any_kind, ah.exact(8, False))
    x = activations(5, 3)
    layer(x)
    layer.eval()
    first = lambda y: y[0] if isinstance(y, tuple) else y  # noqa: E731
    want = first(layer(x))
    assert {n for n, _ in layer.named_parameters()} == {n for n, _ in plain.named_parameters()}
    for clone in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(first(clone(x)), want)
        assert not {id(p) for p in clone.parameters()} & {id(p) for p in layer.parameters()}
        clone.load_state_dict(plain.state_dict(), strict=True)
        assert all(torch.equal(clone.get_parameter(n), p) for n, p in plain.named_parameters())
        clone.load_state_dict(layer.state_dict())
        assert torch.equal(first(clone(x)), want)
    assert torch.equal(first(layer(x)), want)


def test_moved_parameters_are_followed(kind, activations):
    """After .to() and a load that assigns, parts still use the owner's parameters."""
    layer = _make(kind, ah.exact(8)).double()
    x = activations(4, 2, 3).double()
    assert layer(x)[0].dtype == torch.float64
    other = _make(kind, ah.exact(8))
    other.load_state_dict({k: v.clone() for k, v in layer.state_dict().items()}, assign=True)
    assert torch.equal(other.eval()(x)[0], layer.eval()(x)[0])
    for name, part in other.parts().items():
        assert part.weight is other.get_parameter(f"weight_{name}")


def test_another_circuit_s_checkpoint_copies_nothing():
    """A checkpoint of another table under the same name is refused before a weight is copied."""
    tables = [torch.zeros(16, 16).long().numpy() + k for k in (0, 1)]
    first, second = (
        ah.nn.GRU(3, 4, multiplier=Multiplier.from_table(t, name="t", a_signed=True, b_signed=True))
        for t in tables
    )
    before = first.weight_ih_l0.detach().clone()
    with pytest.raises(CheckpointError, match="another circuit"):
        first.load_state_dict(second.state_dict())
    assert torch.equal(first.weight_ih_l0, before)


def test_set_multiplier_and_modes(activations):
    """A multiplier and a mode are set for all parts, or for none."""
    layer = ah.nn.LSTM(3, 4, multiplier=ah.exact(8, False))
    layer.set_multiplier("drum:8u/k=4")
    assert layer.multiplier.id == "drum:8u/k=4"
    with pytest.raises(MappingError):
        layer.set_multiplier(ah.exact(8), "affine")
    assert {p.multiplier.id for p in layer.parts().values()} == {"drum:8u/k=4"}
    layer.parts()["hh_l0"].set_multiplier(ah.exact(8, False))
    layer.parts()["hh_l0"].mode = "exact"
    assert layer.multiplier is None
    assert layer.mode is None
    assert "several modes" in repr(layer)
    layer.mode = "exact"
    assert layer.mode == "exact"
    assert str(layer.mapping) == "affine"


@pytest.mark.parametrize(
    ("x", "hx", "says"),
    [
        (torch.zeros(3), None, r"\(T, N, 3\)"),
        (torch.zeros(4, 2, 5), None, r"\(\.\.\., 3\)"),
        (torch.zeros(0, 2, 3), None, "no steps"),
        (torch.zeros(4, 2, 3, dtype=torch.int64), None, "real activations, got torch.int64"),
        ([1.0], None, "real activations, got list"),
        (torch.zeros(4, 2, 3), torch.zeros(1, 2, 4), "h_0, c_0"),
        (torch.zeros(4, 2, 3), (torch.zeros(1, 2, 4), torch.zeros(1, 3, 4)), r"c_0 must be"),
    ],
    ids=str,
)
def test_bad_input(x, hx, says):
    """What does not fit is refused with what would."""
    with pytest.raises(InputError, match=says):
        ah.nn.LSTM(3, 4, multiplier=ah.exact(8))(x, hx)


def test_bad_input_of_a_cell():
    """A cell refuses what does not fit with what would."""
    cell = ah.nn.GRUCell(3, 4, multiplier=ah.exact(8))
    with pytest.raises(InputError, match=r"\(N, 3\)"):
        cell(torch.zeros(2, 5))
    with pytest.raises(InputError, match=r"\(2, 4\)"):
        cell(torch.zeros(2, 3), torch.zeros(2, 5))


def test_uncalibrated_evaluation_is_refused(kind):
    """A layer that never saw data refuses to evaluate and says how to calibrate."""
    with pytest.raises(CalibrationError, match=r"approxhub\.calibrate"):
        _make(kind, ah.exact(8)).eval()(torch.zeros(4, 2, 3))


def test_calibrated_by_name(caplog, activations):
    """calibrate reaches every part, with another calibrator if asked."""
    layer = ah.nn.LSTM(3, 4, 2, multiplier=ah.exact(8, False))
    with caplog.at_level(logging.WARNING, logger="approxhub"):
        ah.calibrate(layer, [activations(4, 2, 3)], calibrator="minmax")
    assert not caplog.records
    assert {p.input_quantizer.calibrator_name for p in layer.parts().values()} == {"minmax"}
    assert all(p.input_quantizer.calibrated for p in layer.parts().values())


@pytest.mark.filterwarnings("ignore")
def test_autocast_and_compiled(activations):
    """Under autocast results are bfloat16; compiled whole, the same bits."""
    layer = ah.nn.GRU(3, 4, multiplier=ah.exact(8))
    x = activations(3, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)[0]
    assert y.dtype == torch.bfloat16
    layer.eval()
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    # torch compiles recurrent layers, subclasses too, only if asked to.
    with torch.no_grad(), torch._dynamo.config.patch(allow_rnn=True):
        assert torch.equal(compiled(x)[0], layer(x)[0])
    torch._dynamo.reset()
