"""Modes of a whole model, for good and for a while."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.errors import ConversionError, InputError


@pytest.fixture
def model(net, images, circuit):
    """A calibrated model."""
    return ah.calibrate(ah.approximate(net, circuit()), [images()]).eval()


def _modes(model):
    return {m.mode for m in model.modules() if isinstance(m, ah.nn.ApproxLayer)}


def test_modes_compute_what_they_say(net, model, images):
    """Float is the float model; exact and approximate differ from it and from each other."""
    x = images()
    approximate = model(x)
    with ah.mode(model, "float"):
        assert torch.equal(model(x), net(x))
    with ah.mode(model, "exact"):
        exact = model(x)
    assert not torch.equal(exact, approximate)
    assert (exact - net(x)).abs().max() < 0.1
    assert torch.equal(model(x), approximate)


@pytest.mark.parametrize("name", ["float", "exact", "approximate"])
def test_exact_multiplier_makes_both_integer_modes_equal(net, images, name):
    """With the exact multiplier mode exact gives the bits of mode approximate, end to end."""
    model = ah.calibrate(ah.approximate(net, ah.exact(8, False)), [images()]).eval()
    x = images()
    ah.set_mode(model, "exact")
    want = model(x)
    ah.set_mode(model, name)
    assert _modes(model) == {name}
    assert torch.equal(model(x), want) == (name != "float")


def test_restored_after_an_exception(model):
    """Every layer's own mode comes back, also when the block raises or is nested."""
    model.head.mode = "exact"

    def fails():
        with ah.mode(model, "float") as inside:
            assert inside is model
            assert _modes(model) == {"float"}
            with ah.mode(model, "approximate"):
                assert _modes(model) == {"approximate"}
            assert _modes(model) == {"float"}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert model.head.mode == "exact"
    assert model.features[0].mode == "approximate"


def test_unknown_mode(model):
    """An unknown mode is refused with the known ones, and no layer changes."""
    for use in (lambda: ah.set_mode(model, "noisy"), lambda: ah.mode(model, "noisy").__enter__()):
        with pytest.raises(InputError, match="float, exact, approximate"):
            use()
    assert _modes(model) == {"approximate"}


def test_a_model_without_approximate_layers():
    """A model that was not converted is refused with advice."""
    with pytest.raises(ConversionError, match=r"approxhub\.approximate"):
        ah.set_mode(nn.Linear(2, 2), "exact")
    with pytest.raises(InputError), ah.mode("net", "exact"):
        pass
