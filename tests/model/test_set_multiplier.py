"""One calibration, many multipliers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.errors import ConversionError, InputError, MappingError
from approxhub.nn import ApproxLayer


@pytest.fixture
def batches(images):
    """Batches to calibrate on."""
    return [images(), images() * 2]


@pytest.fixture
def model(net, batches, circuit):
    """A calibrated model with an unsigned 8x8 circuit."""
    return ah.calibrate(ah.approximate(net, circuit()), batches)


OTHERS = [
    ("8u", "8u", None),
    ("8s", "8s", None),
    ("8s", "8s", "affine-signed"),
    ("4u", "4u", None),
    ("6s", "3s", None),
    ("8u", "4s", None),
    ("5s", "7u", None),
    ("8u", "8u", "signmag-weights"),
    ("8u", "8u", "signmag-both(9)"),
    ("10u", "10u", None),
]


def test_one_calibration_serves_every_multiplier(net, model, batches, images, circuit):
    """After a switch the model equals one calibrated afresh, across widths, signs and mappings."""
    x = images()
    for a, b, mapping in OTHERS * 2:  # and back
        m = circuit(f"c{a}{b}", a, b)
        ah.set_multiplier(
            model, m, mapping=mapping or str(ah.nn.Linear(1, 1, multiplier=m).mapping)
        )
        fresh = ah.calibrate(ah.approximate(net, m, mapping=mapping), batches)
        assert torch.equal(model(x), fresh(x)), (a, b, mapping)
        for (name, one), (_, two) in zip(model.named_buffers(), fresh.named_buffers(), strict=True):
            assert torch.equal(one, two), name


def test_weights_and_ranges_stay(model, circuit):
    """Parameters and ranges are the same after any number of switches."""
    kept = {n: v.clone() for n, v in model.state_dict().items() if "range" in n or "weight" in n}
    kept = {n: v for n, v in kept.items() if not n.endswith(("scale", "zero_point"))}
    for a, b, mapping in OTHERS:
        ah.set_multiplier(model, circuit(f"c{a}{b}", a, b), mapping=mapping)
    assert all(torch.equal(model.state_dict()[n], v) for n, v in kept.items())


def test_patterns(model, circuit):
    """Patterns choose layers as in approximate; the others keep their multiplier."""
    ah.set_multiplier(model, {"features.3": circuit("one"), "features.*": "drum:8u/k=3"})
    assert model.features[0].multiplier.id == "drum:8u/k=3"
    assert model.features[3].multiplier.id == "local:one"
    assert model.head.multiplier.id == "local:odd"


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"multiplier": {"features.1": "drum:8u/k=3"}}, InputError, r"features\.1"),
        ({"multiplier": {"nowhere": "drum:8u/k=3"}}, InputError, "nowhere"),
        ({"multiplier": "drum:8q/k=3"}, ah.ApproxHubError, "8q"),
        ({"multiplier": "drum:8u/k=3", "mapping": "symmetric"}, MappingError, "affine"),
        (
            {
                "multiplier": {"features.*": "drum:8u/k=3", "*": "drum:8s/k=3"},
                "mapping": "affine",
            },
            MappingError,
            "symmetric",
        ),
        ({"multiplier": {}}, InputError, "empty"),
    ],
    ids=lambda v: str(v)[:50],
)
def test_all_or_nothing(model, images, state, options, error, says):
    """If one layer cannot take its multiplier, none has changed."""
    x = images()
    before, want = state(model), model(x)
    with pytest.raises(error, match=says):
        ah.set_multiplier(model, **options)
    assert state(model) == before
    assert torch.equal(model(x), want)
    assert {m.multiplier.id for m in model.modules() if isinstance(m, ah.nn.ApproxLayer)} == {
        "local:odd"
    }


def test_unconverted_models_are_refused():
    """A model without approximate layers is refused with advice."""
    with pytest.raises(ConversionError, match=r"approxhub\.approximate"):
        ah.set_multiplier(nn.Linear(2, 2), ah.exact(8))


def test_uncalibrated_models_stay_uncalibrated(net, images):
    """A switch before calibration invents no range."""
    model = ah.approximate(net, ah.exact(8))
    ah.set_multiplier(model, ah.exact(6, False))
    with pytest.raises(ah.ApproxHubError, match="calibrate"):
        model(images())


def test_training_goes_on_after_a_switch(model, images, circuit):
    """After a switch training passes work and move the ranges on."""
    ah.set_multiplier(model, circuit("s", "8s", "8s"))
    high = model.features[0].input_quantizer.range_max.item()
    model.train()(images() * 5).sum().backward()
    assert model.features[0].input_quantizer.range_max.item() != high
    assert all(p.grad is not None for p in model.parameters())


def test_a_mapping_that_no_longer_fits_is_said(model, circuit, caplog):
    """Falling back to another operand mapping is logged: it changes results."""
    with caplog.at_level("WARNING", logger="approxhub"):
        ah.set_multiplier(model, circuit("u2", "8u", "8u"))
        assert not caplog.records
        ah.set_multiplier(model, circuit("s2", "8s", "8s"))
    assert "affine does not fit" in caplog.text
    assert "now symmetric" in caplog.text


def test_parts_and_layers_by_name():
    """Parts have names; that of their layer stands for all; the first pattern decides."""
    model = nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 3))
    model = ah.approximate(model, ah.exact(8, False))
    ah.set_multiplier(model, {"1": "drum:8u/k=3"})
    ids = {n: m.multiplier.id for n, m in model.named_modules() if isinstance(m, ApproxLayer)}
    assert ids == {"0": "exact:8u", "1.ih_l0": "drum:8u/k=3", "1.hh_l0": "drum:8u/k=3"}
    ah.set_multiplier(model, {"1.hh_l0": "drum:8u/k=5", "1": "drum:8u/k=4", "*": "drum:8u/k=6"})
    ids = {n: m.multiplier.id for n, m in model.named_modules() if isinstance(m, ApproxLayer)}
    assert ids == {"0": "drum:8u/k=6", "1.ih_l0": "drum:8u/k=4", "1.hh_l0": "drum:8u/k=5"}
    with pytest.raises(InputError, match="no_such"):
        ah.set_multiplier(model, {"no_such": "drum:8u/k=3"})
