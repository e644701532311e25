"""Parameters from elsewhere: taken as they are, kept, saved, and refused where they do not fit."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import approxhub as ah
from approxhub.errors import CalibrationError, CheckpointError, ConversionError, MappingError
from approxhub.interop import QuantizerParameters, narrow_ranges
from approxhub.interop.imported import fitting_mapping, take_over
from approxhub.quantization import CodeRange, Datapath, Quantizer


def _parameters(layer):
    pairs = (layer.input_quantizer, layer.weight_quantizer)
    return [(q.scale.tolist(), q.zero_point.tolist(), q.code_range.qmax, q.fixed) for q in pairs]


def test_adopted_numbers_are_taken_as_they_are(fixed):
    """Scale and zero point are the given ones, bit for bit, and codes stay inside their limits."""
    q = fixed.input_quantizer
    assert q.scale.item() == torch.tensor(0.11).item()
    assert q.codes(torch.tensor([-9.0, 0.0, 0.22, 99.0])).tolist() == [0, 7, 9, 127]
    assert fixed.weight_quantizer.zero_point.tolist() == [3, 250]


@pytest.mark.parametrize(
    "move",
    [
        lambda layer: layer.train()(torch.randn(5, 4) * 9),
        lambda layer: layer.train().eval(),
        lambda layer: ah.calibrate(layer, [torch.randn(5, 4) * 9], calibrator="minmax"),
        lambda layer: layer.load_state_dict(layer.state_dict()),
        lambda layer: layer.set_multiplier("drum:8u/k=4"),
        lambda layer: layer.observe_weight(),
    ],
)
def test_nothing_moves_them(fixed, move):
    """Training, calibration, loading and another circuit leave imported parameters alone."""
    before = _parameters(fixed)
    move(fixed)
    assert _parameters(fixed) == before


def test_a_restart_lets_them_move(fixed):
    """A quantiser that is restarted has the codes of its mapping again, and finds its range."""
    q = fixed.input_quantizer
    q.restart()
    assert (q.fixed, q.code_range.qmax) == (False, 255)
    ah.calibrate(fixed, [torch.ones(1, 4)])
    assert q.range_max.item() == 1.0


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_have_them(fixed, clone):
    """Copies and pickles keep imported parameters."""
    assert _parameters(clone(fixed)) == _parameters(fixed)


def test_checkpoints_have_them(fixed):
    """A checkpoint brings imported parameters into a layer of our own, and takes them away."""
    plain = ah.nn.Linear(4, 2, multiplier=ah.exact(8, signed=False))
    plain(torch.randn(5, 4))
    own = copy.deepcopy(plain.state_dict())
    plain.load_state_dict(fixed.state_dict())
    assert _parameters(plain) == _parameters(fixed)
    x = torch.randn(3, 4)
    assert torch.equal(plain.eval()(x), fixed(x))
    plain.load_state_dict(own)
    assert not plain.input_quantizer.fixed
    assert plain.input_quantizer.code_range.qmax == 255


def test_checkpoints_that_do_not_fit(fixed):
    """Codes that an operand does not hold are refused before anything is copied."""
    narrow = ah.nn.Linear(4, 2, multiplier=ah.exact(6, signed=False))
    before = narrow.weight.detach().clone()
    with pytest.raises(CheckpointError, match=r"0\.\.127"):
        narrow.load_state_dict(fixed.state_dict())
    assert torch.equal(narrow.weight, before)
    newer = torch.tensor(list(b'{"schema": 9}'), dtype=torch.uint8)
    with pytest.raises(CheckpointError, match="version 9"):
        fixed.input_quantizer.set_extra_state(newer)


def test_circuits_that_do_not_fit(fixed):
    """A circuit whose operands do not hold imported codes is refused; the layer is unchanged."""
    before = _parameters(fixed), fixed.multiplier
    with pytest.raises(MappingError, match=r"0\.\.127"):
        fixed.set_multiplier(ah.exact(6, signed=False))
    assert (_parameters(fixed), fixed.multiplier) == before


def test_datapaths_that_do_not_fit():
    """A datapath that leaves fewer codes, or other scales, than imported ones is refused."""
    layer = ah.nn.Linear(4, 2, multiplier=ah.exact(8), mapping="affine-signed")
    layer.input_quantizer.adopt(torch.tensor(0.11), torch.tensor(5), (-128, 127))
    for datapath, words in (("zero_point=before", "codes"), ("scales=power-of-two", "powers")):
        with pytest.raises(MappingError, match=words):
            layer.set_datapath(datapath)
        assert layer.datapath == Datapath()
    layer.input_quantizer.adopt(torch.tensor(0.125), torch.tensor(5), (0, 15))
    layer.set_datapath("zero_point=before,scales=power-of-two")
    assert layer.input_quantizer.scale.item() == 0.125


@pytest.mark.parametrize(
    ("scale", "zero", "limits", "error"),
    [
        (0.0, 0, (0, 9), CalibrationError),
        (float("nan"), 0, (0, 9), CalibrationError),
        ([1.0, 2.0], [0, 0], (0, 9), CalibrationError),
        (1.0, 10, (0, 9), CalibrationError),
        (1.0, 0, (-1, 9), MappingError),
        (1.0, 0, (0, 256), MappingError),
        (1.0, 0, (9, 0), MappingError),
    ],
)
def test_numbers_that_cannot_be(scale, zero, limits, error):
    """Impossible parameters are refused, and change nothing."""
    q = Quantizer(CodeRange.full(ah.OperandFormat(8, signed=False)))
    with pytest.raises(error):
        q.adopt(torch.tensor(scale), torch.tensor(zero), limits)
    assert not q.fixed
    assert not q.calibrated
    assert q.code_range.qmax == 255


def test_a_zero_point_where_there_is_none():
    """A mapping without zero points takes none."""
    q = Quantizer(CodeRange.symmetric(ah.OperandFormat(8, signed=True)))
    with pytest.raises(MappingError, match="affine-signed"):
        q.adopt(torch.tensor(1.0), torch.tensor(3), (-128, 127))


def _of(low, high, zero=0, scale=1.0):
    return QuantizerParameters(torch.tensor(scale), torch.tensor(zero), low, high)


@pytest.mark.parametrize(
    ("m", "x", "w", "name"),
    [
        ("exact:8s", (-128, 127), (-127, 127), "symmetric"),
        ("exact:8s", (-128, 127, 5), (-127, 127), "affine-signed"),
        ("exact:8s", (0, 127, 5), (-127, 127), "affine-signed"),
        ("exact:8u", (0, 255, 5), (0, 255, 9), "affine"),
        ("exact:8u", (0, 127, 5), (-128, 127), "signmag-weights"),
        ("exact:8u", (-127, 127), (-127, 127), "signmag-both"),
        ("exact:8s", (0, 255), (-127, 127), None),
        ("exact:8s", (-128, 127), (0, 255, 9), None),
        ("exact:4u", (0, 127), (0, 127), None),
    ],
)
def test_the_mapping_that_fits(m, x, w, name):
    """Codes enter a circuit as they are, under the mapping that allows it; or not at all."""
    if name is None:
        with pytest.raises(MappingError, match="codes"):
            fitting_mapping(ah.load(m), _of(*x), _of(*w))
    else:
        assert fitting_mapping(ah.load(m), _of(*x), _of(*w)).name == name


def test_scales_that_layers_do_not_have():
    """Scales of groups of weights, or several for activations, are named and refused."""
    layer, m = torch.nn.Linear(4, 2), ah.exact(8)
    groups = QuantizerParameters(torch.ones(4), torch.zeros(4), -127, 127)
    with pytest.raises(ConversionError, match="4 scales for 2 output channels"):
        take_over(layer, m, None, groups)
    with pytest.raises(ConversionError, match="activations have 4 scales"):
        take_over(layer, m, groups, _of(-127, 127))


def test_narrow_ranges_are_reported(fixed):
    """A quantiser that leaves codes out is reported with its share; a whole one is not."""
    [entry] = narrow_ranges(torch.nn.Sequential(fixed))
    assert str(entry) == "0: activations have the codes 0..127 of 0..255, 50% of the operand"
    assert narrow_ranges(ah.nn.Linear(4, 2, multiplier=ah.exact(8))) == []
