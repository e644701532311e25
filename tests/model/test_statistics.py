"""Captured distributions are counts of the real codes, and predict the error that is measured."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import approxhub as ah
from approxhub.errors import CalibrationError, ConversionError, InputError, MappingError
from approxhub.model.statistics import receptive_fields
from approxhub.multiplier import Multiplier
from approxhub.nn.gradients import ConvProduct, ConvTransposeProduct
from approxhub.nn.gradients.products import exchanged


def _odd(signed: bool = False, bits: int = 8) -> Multiplier:
    """A multiplier whose errors depend on both operands, not alike, with T[0][0] = 64."""
    v = ah.exact(bits, signed).a.values()
    table = v[:, None] * v - (v[:, None] & 7) * 11 + (np.abs(v) >> 3) * 5
    table[0, 0] = 64
    return Multiplier.from_table(table, name="odd", a_signed=signed, b_signed=signed)


@pytest.fixture
def fitted(net, images):
    """The nested network, calibrated, and a batch."""
    x = images()
    model = ah.calibrate(ah.approximate(net, _odd()), [x])
    return model.eval(), x


# --- counts -------------------------------------------------------------------------


def test_counts_are_those_of_the_codes(fitted):
    """Every code of every layer is counted once for each pass, shared layers for each use."""
    model, x = fitted
    seen: dict[str, list[torch.Tensor]] = {}
    layers = {n: m for n, m in model.named_modules() if isinstance(m, ah.nn.ApproxLayer)}
    hooks = [
        layer.register_forward_pre_hook(
            lambda m, args, n=n: seen.setdefault(n, []).append(m.input_quantizer.codes(args[0]))
        )
        for n, layer in layers.items()
    ]
    with ah.capture_statistics(model) as statistics:
        model(x)
        model(x[:2])
    for hook in hooks:
        hook.remove()
    assert statistics.keys() == layers.keys()
    for name, layer in layers.items():
        codes = torch.cat([c.reshape(-1) for c in seen[name]]).long().numpy()
        assert statistics[name].activations.tolist() == np.bincount(codes, minlength=256).tolist()
        weights = layer.weight_quantizer.codes(layer.weight).reshape(-1).long().detach().numpy()
        want = len(seen[name]) * np.bincount(weights, minlength=256)
        assert statistics[name].weights.tolist() == want.tolist()
        assert statistics[name].terms == layer.weight[0].numel()
    assert len(seen["head"]) == 4


def test_signed_codes_are_counted_by_pattern():
    """A negative code is counted under its bit pattern."""
    layer = ah.nn.Linear(2, 1, multiplier=_odd(signed=True))
    layer.input_quantizer.set_range(torch.tensor(-127.0), torch.tensor(127.0))
    layer.eval()
    with ah.capture_statistics(layer) as statistics:
        layer(torch.tensor([[-1.0, 3.0]]))
    counts = statistics[""].activations
    assert counts.nonzero()[0].tolist() == [3, 255]


def test_looking_changes_nothing(fitted, state):
    """Capture leaves results, state, modes and torch's generator as they are, also on an error."""
    model, x = fitted
    want, before = model(x), state(model)
    torch.manual_seed(1)
    drawn = torch.rand(3)
    torch.manual_seed(1)
    with ah.capture_statistics(model):
        assert torch.equal(model(x), want)
    assert torch.equal(torch.rand(3), drawn)
    with pytest.raises(RuntimeError, match="mine"), ah.capture_statistics(model):
        raise RuntimeError("mine")
    assert state(model) == before
    assert all(m._capture is None for m in model.modules() if isinstance(m, ah.nn.ApproxLayer))


def test_fields_are_a_fixed_amount_of_memory(fitted):
    """However much is seen, as many receptive fields are kept as were asked for."""
    model, x = fitted
    with ah.capture_statistics(model, fields=7) as statistics:
        for _ in range(5):
            model(x)
    for one in statistics.values():
        assert one.fields.shape == (7, 256)
        assert (one.fields.sum(1) == one.terms).all()


# --- receptive fields ------------------------------------------------------------------


def _windows(x: torch.Tensor, w: torch.Tensor, product: ConvProduct, zero: int) -> set[tuple]:
    """All receptive fields of a convolution, by torch's own unfold, sorted within each."""
    padded = F.pad(x.float(), product.padding, value=float(zero))
    found = set()
    for group in padded.chunk(product.groups, 1):
        columns = F.unfold(group, w.shape[2:], product.dilation, 0, product.stride)
        found |= {tuple(c.sort()[0].int().tolist()) for n in columns for c in n.t()}
    return found


def test_fields_of_a_convolution():
    """Drawn fields are windows of the padded image, in one group, and all come up."""
    product = ConvProduct((2, 1), (1, 0, 2, 1), (1, 2), 2)
    x, w = torch.randint(0, 200, (2, 4, 5, 6)), torch.zeros(4, 2, 3, 2)
    codes, present, sums = receptive_fields(
        product, x, w, torch.tensor(77), 4000, torch.Generator().manual_seed(0)
    )
    wanted = _windows(x, w, product, 77)
    drawn = {tuple(c.sort()[0].tolist()) for c in codes}
    assert present is None
    assert drawn == wanted
    assert sums == 2 * 2 * 3 * 5


def test_fields_of_a_transposed_convolution():
    """Drawn fields are what meets in one output, without the structural zeros."""
    product = ConvTransposeProduct((2, 3), (1, 0), (1, 2), (2, 1), 2)
    x, w = torch.randint(1, 200, (1, 4, 3, 2)), torch.zeros(6, 2, 3, 2)
    codes, present, sums = receptive_fields(
        product, x, w, torch.tensor(77), 4000, torch.Generator().manual_seed(0)
    )
    wanted = set()
    for group in x.chunk(2, 1):
        met: dict[tuple, list[int]] = {}
        for c, i, j, p, q in np.ndindex(2, 3, 2, 3, 2):
            at = (2 * i - 1 + 2 * p, 3 * j + q)
            met.setdefault(at, []).append(int(group[0, c, i, j]))
        inside = [met.get(at, []) for at in np.ndindex(8, 7)]
        wanted |= {tuple(sorted(codes)) for codes in inside}
    like = F.conv_transpose2d(x.float(), exchanged(w, 2), None, (2, 3), (1, 0), (1, 2), 2, (2, 1))
    assert like.shape[2:] == (8, 7)
    assert sums == 2 * like[0, 0].numel()
    drawn = {tuple(sorted(c[p].tolist())) for c, p in zip(codes, present, strict=True)}
    assert drawn == wanted


# --- predictions ---------------------------------------------------------------------


def _measured(x: torch.Tensor, w: torch.Tensor, m: Multiplier) -> tuple[float, float]:
    """Mean and deviation of the error of all integer sums of a linear layer."""
    exact = ah.exact(m.a.bits, m.a.signed)
    error = ah.matmul(x.long(), w.long().t(), m) - ah.matmul(x.long(), w.long().t(), exact)
    return error.double().mean().item(), error.double().std(unbiased=False).item()


def _captured(layer: nn.Module, x: torch.Tensor, **options):
    with ah.capture_statistics(layer, **options) as statistics, torch.no_grad():
        layer(x)
    codes = layer.input_quantizer.codes(x), layer.weight_quantizer.codes(layer.weight.detach())
    return statistics[""], codes


def _wide(m: Multiplier) -> nn.Module:
    torch.manual_seed(1)
    layer = ah.nn.Linear(64, 1000, bias=False, multiplier=m, per_channel=False)
    nn.init.normal_(layer.weight)
    return layer


@pytest.mark.parametrize("signed", [False, True])
def test_independent_operands(signed):
    """Where operands are independent, the mean is right within 1 % and the deviation within 6 %;
    a population counts the spread of activations twice, and errs upwards.
    """
    m = _odd(signed)
    layer, x = _wide(m), torch.rand(1000, 64) ** 2
    layer(x)
    statistics, codes = _captured(layer.eval(), x, fields=1000)
    mean, deviation = _measured(*codes, m)
    found = {}
    for model in ("single", "conditional", "population"):
        predicted = statistics.error(m, model=model)
        assert predicted.mean == pytest.approx(mean, rel=0.01)
        assert predicted.terms == 64
        found[model] = predicted.deviation
    assert found["single"] == pytest.approx(deviation, rel=0.06)
    assert found["conditional"] == pytest.approx(deviation, rel=0.06)
    assert found["population"] > 1.2 * deviation


def test_dependent_activations_need_the_fields():
    """Where the activations of a sum are alike, one distribution predicts too little, and the
    fields predict what is measured: within 5 % as they are, within 15 % as a population.
    """
    m = ah.load("truncation:8u/a=4,b=0")
    layer, x = _wide(m), torch.rand(1000, 64) ** 2 * torch.rand(1000, 1) ** 3
    layer(x)
    statistics, codes = _captured(layer.eval(), x, fields=1000)
    mean, deviation = _measured(*codes, m)
    found = {
        model: statistics.error(m, model=model) for model in ("single", "conditional", "population")
    }
    for predicted in found.values():
        assert predicted.mean == pytest.approx(mean, rel=0.03)
    assert found["conditional"].deviation == pytest.approx(deviation, rel=0.05)
    assert found["population"].deviation == pytest.approx(deviation, rel=0.15)
    assert found["single"].deviation < 0.8 * deviation


def test_a_convolution_with_padding():
    """Fields know padding: a convolution's mean is right within 5 %, its deviation within 10 %."""
    m = _odd()
    torch.manual_seed(0)
    layer = ah.nn.Conv2d(8, 64, 3, padding=2, bias=False, multiplier=m, per_channel=False)
    nn.init.normal_(layer.weight)
    x = torch.rand(20, 8, 8, 8)
    layer(x)
    layer.eval()
    with ah.capture_statistics(layer, fields=4000) as statistics, torch.no_grad():
        layer(x)
    codes = layer.input_quantizer.codes(x).long(), layer.weight_quantizer.codes(layer.weight).long()
    pad = {"padding": 2, "pad_value": int(layer.input_quantizer.zero_point)}
    error = (ah.conv2d(*codes, m, **pad) - ah.conv2d(*codes, ah.exact(8, False), **pad)).double()
    predicted = statistics[""].error(m)
    assert predicted.mean == pytest.approx(error.mean().item(), rel=0.05)
    assert predicted.deviation == pytest.approx(error.std().item(), rel=0.1)


def test_the_formulas_by_hand():
    """All models on counts small enough for a loop over all pairs of codes."""
    m = _odd(bits=3)
    layer = ah.nn.Linear(2, 2, multiplier=m, bias=False)
    layer(torch.tensor([[0.0, 1.0], [0.3, 0.9], [1.0, 1.0]]))
    statistics, _ = _captured(layer.eval(), torch.tensor([[0.1, 0.7], [0.4, 0.4]]), fields=50)
    e = m.table - np.outer(np.arange(8), np.arange(8))
    q = statistics.weights / statistics.weights.sum()

    def moments(p: np.ndarray) -> tuple[float, float]:
        mu = sum(p[a] * q[b] * e[a, b] for a in range(8) for b in range(8))
        return mu, sum(p[a] * q[b] * (e[a, b] - mu) ** 2 for a in range(8) for b in range(8))

    mu, variance = moments(statistics.activations / 4)
    single = statistics.error(m, model="single")
    assert single.mean == pytest.approx(2 * mu)
    assert single.deviation == pytest.approx((2 * variance) ** 0.5)
    assert single.per_product == pytest.approx((mu, variance**0.5))
    each = [moments(field / 2) for field in statistics.fields]
    mean = np.mean([2 * mu for mu, _ in each])
    total = np.mean([2 * v + (2 * mu) ** 2 for mu, v in each]) - mean**2
    population = statistics.error(m, model="population")
    assert population.mean == pytest.approx(mean)
    assert population.deviation == pytest.approx(total**0.5)
    assert population.deviation != pytest.approx(single.deviation)

    given = np.array([sum(q[b] * e[a, b] for b in range(8)) for a in range(8)])
    spread = [sum(q[b] * (e[a, b] - given[a]) ** 2 for b in range(8)) for a in range(8)]
    inner = np.mean([sum(field[a] * spread[a] for a in range(8)) for field in statistics.fields])
    outer = np.var([sum(field[a] * given[a] for a in range(8)) for field in statistics.fields])
    conditional = statistics.error(m)
    assert conditional.mean == pytest.approx(mean)
    assert conditional.deviation == pytest.approx((inner + outer) ** 0.5)


def test_the_exact_multiplier_has_no_error(fitted):
    """Its predicted error is zero in every layer."""
    model, x = fitted
    with ah.capture_statistics(model) as statistics:
        model(x)
    for one in statistics.values():
        for model in ("single", "conditional", "population"):
            found = one.error(ah.exact(8, False), model=model)
            assert (found.mean, found.deviation) == (0, 0)


def test_what_cannot_be_predicted(fitted):
    """No pass, no fields, another format, no layer: each is named."""
    model, x = fitted
    with ah.capture_statistics(model, fields=0) as statistics:
        with ah.mode(model, "float"):
            model(x)
        with pytest.raises(CalibrationError, match="no forward pass"):
            statistics["head"].error("mitchell:8u")
        model(x)
        with pytest.raises(InputError, match="already"), ah.capture_statistics(model):
            pass
    assert statistics["head"].error("mitchell:8u", model="single").deviation > 0
    for name in ("population", "conditional"):
        with pytest.raises(CalibrationError, match="fields=512"):
            statistics["head"].error("mitchell:8u", model=name)
    with pytest.raises(InputError, match="conditional, population, single"):
        statistics["head"].error("mitchell:8u", model="best")
    with pytest.raises(MappingError, match="affine"):
        statistics["head"].error("mitchell:8s")
    with pytest.raises(MappingError, match="capture again"):
        statistics["head"].error("mitchell:6u")
    with pytest.raises(InputError, match="0 or more"), ah.capture_statistics(model, fields=-1):
        pass
    with pytest.raises(ConversionError), ah.capture_statistics(nn.Linear(2, 2)):
        pass


# --- noise of a whole model --------------------------------------------------------------


def test_noise_from_statistics(fitted):
    """Noise stands for a multiplier's error under each layer's own operands."""
    model, x = fitted
    with ah.capture_statistics(model) as statistics:
        model(x)
    ah.set_noise(model, statistics, error_model="single")
    for name, layer in model.named_modules():
        if isinstance(layer, ah.nn.ApproxLayer):
            mean, deviation = statistics[name].error(_odd(), model="single").per_product
            assert (layer.noise.mean, layer.noise.deviation) == (mean, deviation)
            assert layer.noise.unit == 255 * 255
    ah.set_noise(model, statistics, multiplier=ah.exact(8, False))
    with ah.mode(model, "exact"):
        want = model(x)
    with ah.mode(model, "noise"):
        assert torch.equal(model(x), want)
    ah.set_noise(model, None)
    with pytest.raises(InputError, match="no noise"), ah.mode(model, "noise"):
        model(x)


def test_noise_resembles_the_error():
    """In a layer, mode noise differs from exact as much as mode approximate does, within 6 %."""
    m = _odd()
    layer, x = _wide(m), torch.rand(1000, 64) ** 2
    layer(x)
    statistics, _ = _captured(layer.eval(), x)
    ah.set_noise(layer, {"": statistics})
    found = {}
    with torch.no_grad():
        for mode in ("exact", "approximate", "noise"):
            layer.mode = mode
            found[mode] = layer(x)
    wanted, drawn = (found[mode] - found["exact"] for mode in ("approximate", "noise"))
    assert drawn.mean().item() == pytest.approx(wanted.mean().item(), rel=0.05)
    assert drawn.std().item() == pytest.approx(wanted.std().item(), rel=0.06)


def test_learned_noise_of_a_model(fitted):
    """Every layer gets one parameter, which starts at the given deviation and gets a gradient."""
    model, x = fitted
    ah.set_noise(model, (1.0, 20.0), learned=True)
    relative = [p for n, p in model.named_parameters() if n.endswith("noise.relative")]
    assert len(relative) == 4
    assert all(p.item() == pytest.approx(20 / 255**2) for p in relative)
    with ah.mode(model, "noise"):
        model(x).square().sum().backward()
    assert all(p.grad.abs() > 0 for p in relative)


def test_bad_noise_changes_nothing(fitted, state):
    """A layer without statistics, or a bad deviation, leaves all layers as they were."""
    model, x = fitted
    with ah.capture_statistics(model) as statistics:
        model(x)
    before = state(copy.deepcopy(model)).keys()
    for source, words in (
        ({n: s for n, s in statistics.items() if n != "head"}, "'head'"),
        ((0.0, -1.0), "deviation of 0 or more"),
    ):
        with pytest.raises(InputError, match=words):
            ah.set_noise(model, source)
        assert all(getattr(m, "noise", None) is None for m in model.modules())
    assert state(model).keys() == before
