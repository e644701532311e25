"""Operations and relative energy against numbers worked out by hand."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.errors import ConversionError
from approxhub.model import count_operations

X = torch.zeros(2, 1, 5, 5)
# Net of conftest.py on X: 4 maps of 5x5 with 1*3*3 each; 2 of 3x3 with 4*3*3; 18*6; 6*6 twice.
COUNTED = {
    "features.0": 2 * 25 * 4 * 9,
    "features.3": 2 * 9 * 2 * 36,
    "block.inner.0": 2 * 18 * 6,
    "head": 2 * 2 * 36,
}
TOTAL = sum(COUNTED.values())


@pytest.fixture
def reference(monkeypatch):
    """Set the price of exact products by operand formats, in the technology 'process'."""

    def set_to(**prices: float):
        def price(a, b, technology):
            key = str(a) if a == b else f"{a}x{b}"
            return prices.get(f"_{key}") if technology == "process" else None

        monkeypatch.setattr("approxhub.registry.energy_reference", price)

    return set_to


# --- operations -------------------------------------------------------------------


def test_convolutions_and_linear_layers(net):
    """Multiply-accumulates of each layer; the shared head counts each of its two uses."""
    assert count_operations(net, X) == COUNTED
    converted = ah.approximate(net, ah.exact(8))
    assert count_operations(converted, X) == COUNTED
    assert ah.summary(converted, X).operations == TOTAL


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(4, 6, 3, groups=2, padding=1), (3, 4, 5, 7), 3 * 35 * 6 * 2 * 9),
        (nn.Conv2d(4, 4, 3, stride=2, groups=4), (1, 4, 7, 7), 9 * 4 * 9),
        (nn.Conv2d(2, 3, (2, 3), dilation=2), (1, 2, 8, 8), 6 * 4 * 3 * 2 * 6),
        (nn.Linear(7, 5), (2, 3, 7), 6 * 35),
        (nn.Linear(7, 5, bias=False), (7,), 35),
        (nn.Conv1d(2, 3, 3), (4, 2, 10), 4 * 8 * 3 * 6),
        (nn.LSTM(5, 7, batch_first=True), (2, 3, 5), 2 * 3 * 4 * 7 * (5 + 7)),
        (nn.GRU(5, 7, batch_first=True), (2, 3, 5), 2 * 3 * 3 * 7 * (5 + 7)),
    ],
    ids=str,
)
def test_single_layers(layer, shape, macs):
    """Operations of single layers equal the closed formula."""
    assert count_operations(layer, torch.zeros(shape)) == {"": macs}


def test_attention():
    """Attention makes four projections and two inner products of its own."""
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.zeros(3, 5, 8)
    projections, products = 4 * 3 * 5 * 8 * 8, 2 * 3 * 5 * 5 * 8
    assert count_operations(layer, x, x, x) == {"": projections + products}


def test_transformer_counts_as_one_by_one():
    """In a whole encoder the fused path hides nothing from the count."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    x = torch.zeros(3, 5, 8)
    projection, inner = 3 * 5 * 8 * 8, 2 * 3 * 5 * 5 * 8
    attention = 4 * projection + inner
    want = {"self_attn": attention, "linear1": 15 * 8 * 16, "linear2": 15 * 8 * 16}
    assert count_operations(layer.eval(), x) == want
    fast_path = torch.backends.mha.get_fastpath_enabled()
    parts = {f"self_attn.{p}_proj": projection for p in ("q", "k", "v", "out")}
    for products in (False, True):
        model = ah.approximate(layer, ah.exact(8), attention_products=products)
        rows = {r.name: (r.operations, r.multiplier) for r in ah.summary(model, x).layers}
        exact = {} if products else {"self_attn": (inner, None)}
        matmuls = ("scores", "context") if products else ()
        made = {**parts, **{f"self_attn.attention.{p}": inner // 2 for p in matmuls}}
        made |= {"linear1": 15 * 8 * 16, "linear2": 15 * 8 * 16}
        assert rows == {**exact, **{n: (count, "exact:8s") for n, count in made.items()}}
    assert torch.backends.mha.get_fastpath_enabled() is fast_path


def test_functional_products_count_where_they_are_made():
    """Products called as functions count for the module whose forward calls them."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, x):
            y = self.linear(x)
            return y @ y.transpose(-1, -2)

    converted = ah.approximate(Model(), ah.exact(8))
    rows = {r.name: r for r in ah.summary(converted, torch.zeros(2, 5, 3)).layers}
    assert rows["linear"].operations == 2 * 5 * 3 * 4
    assert rows[""].operations == 2 * 5 * 5 * 4
    assert rows[""].multiplier is None


def test_layers_inside_a_layer_are_not_lost():
    """A layer type with parts of its own: converted parts are listed, and nothing is lost."""

    class Adapted(nn.Linear):
        def __init__(self):
            super().__init__(3, 4)
            self.down = nn.Linear(3, 2)
            self.up = nn.Linear(2, 4)

        def forward(self, x):
            return super().forward(x) + self.up(self.down(x))

    converted = ah.approximate(nn.Sequential(Adapted()), {"0.down": ah.exact(8)})
    rows = {r.name: r.operations for r in ah.summary(converted, torch.zeros(5, 3)).layers}
    assert rows == {"0": 60, "0.down": 30, "0.up": 40}


def test_layers_that_do_not_run_count_nothing():
    """A layer that the input does not reach makes no operations and hides no total."""
    model = nn.Sequential(nn.Linear(3, 2))
    model.spare = nn.LSTM(2, 2)
    model.forward = lambda x: model[0](x)
    model = ah.approximate(model, ah.exact(8), inplace=True)
    summary = ah.summary(model, torch.zeros(4, 3))
    assert {r.name: r.operations for r in summary.layers} == {
        "0": 24,
        "spare.ih_l0": 0,
        "spare.hh_l0": 0,
    }
    assert summary.operations == 24


def test_nothing_moves(net, images, state):
    """Counting leaves state, modes, training flags and hooks as they were, also if it fails."""
    model = ah.calibrate(ah.approximate(net, ah.exact(8)), [images()]).train()
    model.head.mode = "exact"
    model.features.eval()
    before, grad = state(model), torch.is_grad_enabled()
    ah.summary(model, images() * 100)
    with pytest.raises(RuntimeError):
        ah.summary(model, torch.zeros(3, 7))
    assert state(model) == before
    assert torch.is_grad_enabled() is grad


# --- energy -----------------------------------------------------------------------


def test_relative_energy_of_one_multiplier(net, circuit, reference):
    """With one multiplier everywhere it is the ratio of the two powers."""
    reference(_8u=0.4)
    summary = ah.summary(ah.approximate(net, circuit(power=0.1)), X)
    assert summary.relative_energy == pytest.approx(0.25)
    assert [r.relative_energy for r in summary.layers] == [pytest.approx(0.25)] * 4


def test_operations_weigh_the_layers(net, circuit, reference):
    """Of several multipliers each counts by its operations; exact layers at the exact price."""
    reference(_8u=0.5)
    patterns = {"features.0": circuit("a", power=0.1), "head": circuit("b", power=0.3)}
    summary = ah.summary(ah.approximate(net, patterns), X)
    rows = {r.name: r.relative_energy for r in summary.layers}
    want = {"features.0": 0.2, "features.3": 1.0, "block.inner.0": 1.0, "head": 0.6}
    assert rows == pytest.approx(want)
    total = sum(COUNTED[n] * e for n, e in want.items()) / TOTAL
    assert summary.relative_energy == pytest.approx(total)


def test_the_widest_circuit_sets_the_price(net, circuit, reference):
    """In a model of two widths the exact multiplier is that of the wider one."""
    reference(_8u=0.5, _4u=0.05)
    patterns = {"head": circuit("n", "4u", "4u", power=0.02), "*": circuit("w", power=0.25)}
    rows = ah.summary(ah.approximate(net, patterns), X).layers
    assert {r.name: r.relative_energy for r in rows}["head"] == pytest.approx(0.04)


def test_the_wrapper_does_not_count(net, circuit, reference):
    """Behind a sign-magnitude wrapper it is the circuit's own power and format that count."""
    reference(_8u=0.4)
    model = ah.approximate(net, circuit(power=0.1), mapping="signmag-both")
    assert ah.summary(model, X).relative_energy == pytest.approx(0.25)


def test_mode_exact_is_the_exact_price(net, circuit, reference):
    """In mode exact every layer costs 1.0, whatever circuit it holds, and so does the model."""
    reference(_8u=0.4)
    for power in (0.1, None):
        model = ah.approximate(net, circuit(power=power))
        with ah.mode(model, "exact"):
            summary = ah.summary(model, X)
        assert summary.relative_energy == 1.0
        assert {r.relative_energy for r in summary.layers} == {1.0}


def test_exact_multipliers_without_a_power(net, circuit, reference):
    """The exact multiplier costs 1.0 beside priced circuits and alone; a priced one its price."""
    reference(_8u=0.4)
    patterns = {"head": ah.exact(8, False), "*": circuit(power=0.1)}
    rows = ah.summary(ah.approximate(net, patterns), X).layers
    assert {r.name: r.relative_energy for r in rows}["head"] == 1.0
    assert ah.summary(ah.approximate(net, ah.exact(8, False)), X).relative_energy == 1.0
    priced = circuit("priced", power=0.8, exact=True)
    assert ah.summary(ah.approximate(net, priced), X).relative_energy == pytest.approx(2.0)


def test_a_circuit_of_no_power_costs_nothing(net, circuit, reference):
    """A power of zero is a price, not an unknown."""
    reference(_8u=0.4)
    assert ah.summary(ah.approximate(net, circuit(power=0.0)), X).relative_energy == 0.0


@pytest.mark.parametrize(
    ("head", "prices"),
    [
        ({"power": None}, {"_8u": 0.4}),  # a circuit of unknown power
        ({"power": 0.1, "technology": "another"}, {"_8u": 0.4}),  # not comparable
        ({"power": 0.1, "technology": None}, {"_8u": 0.4}),
        ({"power": 0.1}, {}),  # no exact circuit is known
        ({"power": 0.1}, {"_8u": 0.0}),
    ],
    ids=["power", "technology", "no technology", "reference", "free reference"],
)
def test_unknown_powers_give_none(net, circuit, reference, head, prices):
    """Where a power is unknown or not comparable, the energy is None and not a guess."""
    reference(**prices)
    patterns = {"head": circuit("h", **head), "*": circuit("o", power=0.2)}
    summary = ah.summary(ah.approximate(net, patterns), X)
    assert summary.relative_energy is None
    assert summary.operations == TOTAL
    assert {r.name: r.relative_energy for r in summary.layers}["head"] is None


def test_mode_float_has_no_energy(net, circuit, reference):
    """A float product is not a multiplier's: its energy is None."""
    reference(_8u=0.4)
    model = ah.approximate(net, circuit(power=0.1))
    with ah.mode(model, "float"):
        assert ah.summary(model, X).relative_energy is None


# --- the rest -----------------------------------------------------------------------


def test_rows_say_what_runs(net, circuit):
    """Every row has name, type, multiplier, mapping and mode; unconverted layers have none."""
    model = ah.approximate(net, {"head": circuit()}, mapping="signmag-weights(9)")
    rows = {r.name: (r.type, r.multiplier, r.mapping, r.mode) for r in ah.summary(model, X).layers}
    assert rows["head"] == ("Linear", "local:odd", "signmag-weights(9)", "approximate")
    assert rows["features.0"] == ("Conv2d", None, None, None)
    assert list(rows) == ["features.0", "features.3", "block.inner.0", "head"]


def test_without_an_example(net, circuit):
    """Without an input there are no counts and no total, and each layer's price still shows."""
    summary = ah.summary(ah.approximate(net, {"head": circuit()}))
    assert summary.operations is None
    assert summary.relative_energy is None
    assert all(r.operations is None for r in summary.layers)
    assert len(summary.layers) == 4


def test_the_text_says_what_is_missing(net, circuit, reference):
    """Below the table stand why there are no operations, and whose power is not known."""
    reference(_8u=0.5)
    model = ah.approximate(net, {"head": circuit(power=0.1), "*": "drum:8u/k=3"})
    wants, power = str(ah.summary(model)).splitlines()[-2:]
    assert wants == "operations need an example input: approxhub.summary(model, x)"
    assert power == "no published power to compare: drum:8u/k=3"
    assert str(ah.summary(model, X)).splitlines()[-1] == power
    ah.set_multiplier(model, circuit(power=0.1))
    assert str(ah.summary(model, X)).splitlines()[-1].startswith("total")


def test_keyword_inputs(net):
    """The example input may be given by keyword."""
    assert ah.summary(ah.approximate(net, ah.exact(8)), x=X).operations == TOTAL


def test_text_and_json(net, circuit, reference):
    """The text has a line for each layer and a total; the JSON is plain and has the same."""
    reference(_8u=0.5)
    summary = ah.summary(ah.approximate(net, {"head": circuit(power=0.1)}), X)
    lines = str(summary).splitlines()
    assert len(lines) == 2 + len(summary.layers)
    assert lines[0].split() == ["layer", "type", "multiplier", "mapping", "operations", "energy"]
    assert f"{TOTAL:,}" in lines[-1]
    data = json.loads(json.dumps(summary.to_json()))
    assert data["operations"] == TOTAL
    assert data["relative_energy"] == summary.relative_energy
    assert [r["name"] for r in data["layers"]] == [r.name for r in summary.layers]
    assert "?" in str(ah.summary(ah.approximate(net, circuit())))


def test_unconverted_models_are_refused():
    """A model without approximate layers is refused with advice."""
    with pytest.raises(ConversionError, match=r"approxhub\.approximate"):
        ah.summary(nn.Linear(2, 2), torch.zeros(1, 2))
