"""Conversion: what becomes approximate, what stays, and what is refused."""

from __future__ import annotations

import copy
import logging
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import approxhub as ah
from approxhub.errors import (
    CheckpointError,
    ConversionError,
    InputError,
    MappingError,
    UnknownMultiplierError,
)
from approxhub.model import leftovers
from approxhub.nn import ApproxLayer
from approxhub.plugins import LayerConverter, host

U8, S8 = ah.exact(8, signed=False), ah.exact(8)


def _ids(model: nn.Module) -> dict[str, str]:
    return {n: m.multiplier.id for n, m in model.named_modules() if isinstance(m, ApproxLayer)}


def test_nested_layers_are_converted(net, images):
    """Layers in sequences, dictionaries and attributes become approximate, the rest stays."""
    converted = ah.approximate(net, U8)
    assert list(_ids(converted)) == ["features.0", "features.3", "block.inner.0", "head"]
    assert type(converted.features[1]) is nn.BatchNorm2d
    assert not converted.training
    x = images()
    with ah.mode(converted, "float"):
        assert torch.equal(converted(x), net(x))


def test_shared_layers_stay_shared(net):
    """A layer under two names becomes one approximate layer under both."""
    converted = ah.approximate(net, U8)
    assert isinstance(converted.head, ah.nn.Linear)
    assert converted.head is converted.again


def test_root_is_converted(state):
    """A model that is one layer is returned as an approximate one, the original untouched."""
    for inplace in (False, True):
        plain = nn.Linear(3, 2)
        before = state(plain)
        converted = ah.approximate(plain, U8, inplace=inplace)
        assert isinstance(converted, ah.nn.Linear)
        assert state(plain) == before
        assert (converted.weight is plain.weight) is inplace


def test_a_copy_by_default(net, state):
    """Without inplace the model is untouched and shares no parameter with the result."""
    before = state(net)
    converted = ah.approximate(net, U8)
    assert state(net) == before
    assert not {id(p) for p in net.parameters()} & {id(p) for p in converted.parameters()}


def test_in_place(net):
    """With inplace the model itself is changed, and its parameters are the same objects."""
    parameters = [(n, id(p)) for n, p in net.named_parameters()]
    assert ah.approximate(net, U8, inplace=True) is net
    assert [(n, id(p)) for n, p in net.named_parameters()] == parameters
    assert _ids(net)


def test_first_pattern_decides(net):
    """The first pattern that fits a layer gives its multiplier; layers that none fits stay."""
    patterns = {"features.3": "drum:8u/k=4", "features.*": U8, "block.*": "drum:8s/k=3"}
    converted = ah.approximate(net, patterns)
    assert _ids(converted) == {
        "features.0": "exact:8u",
        "features.3": "drum:8u/k=4",
        "block.inner.0": "drum:8s/k=3",
    }
    assert str(converted.block["inner"][0].mapping) == "symmetric"
    assert type(converted.head) is nn.Linear


def test_names_of_a_shared_layer(net):
    """The first pattern for a name decides; one of its names counts more than a wildcard."""
    for name in ("head", "again"):
        for patterns in ({name: S8, "*": U8}, {"*": U8, name: S8}):
            want = "exact:8s" if next(iter(patterns)) == name else "exact:8u"
            assert _ids(ah.approximate(net, patterns))["head"] == want
    with pytest.raises(ConversionError, match="head -> exact:8u, again -> exact:8s"):
        ah.approximate(net, {"hea?": U8, "agai?": S8})


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        ("head", {"head"}),
        (["features.*"], {"features.0", "features.3"}),
        (("block.inner.0", "features.3"), {"block.inner.0", "features.3"}),
        ("features", {"features.0", "features.3"}),
        ("block", {"block.inner.0"}),
        ("again", {"head"}),
    ],
    ids=["name", "glob", "names", "container", "block", "shared"],
)
def test_skip(net, skip, left, caplog):
    """Skipped names stay exact, everything inside a skipped container too, without a warning."""
    with caplog.at_level(logging.WARNING, logger="approxhub"):
        converted = ah.approximate(net, U8, skip=skip, strict=True)
    assert set(_ids(ah.approximate(net, U8))) - set(_ids(converted)) == left
    assert not caplog.records


def test_options_reach_every_layer(net):
    """Mapping, calibrator, gradient and per_channel are those asked for."""
    converted = ah.approximate(
        net, U8, mapping="signmag-both(9)", calibrator="minmax", per_channel=False
    )
    for layer in converted.modules():
        if isinstance(layer, ApproxLayer):
            assert str(layer.mapping) == "signmag-both(9)"
            assert layer.input_quantizer.calibrator_name == "minmax"
            assert layer.weight_quantizer.scale.dim() == 0
            assert layer.gradient == "straight-through"
            assert layer.mode == "approximate"


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"multiplier": {"nowhere": U8}}, InputError, "'nowhere'"),
        ({"multiplier": U8, "skip": "feature.*"}, InputError, r"'feature\.\*'"),
        ({"multiplier": {}}, InputError, "empty"),
        ({"multiplier": {"features.1": U8, "*": U8}}, ConversionError, r"features\.1.*BatchNorm2d"),
        ({"multiplier": {"features": U8}}, ConversionError, "container"),
        ({"multiplier": {"block.inner.1": U8}}, ConversionError, "approxhub_converters"),
        ({"multiplier": {"": U8}}, ConversionError, r"\(root\)"),
        ({"multiplier": {"features.2*": U8}}, ConversionError, "no layer that could"),
        ({"multiplier": {"head": U8, "again": S8}}, ConversionError, "shared under several names"),
        ({"multiplier": U8, "mapping": "symmetric"}, MappingError, "affine"),
        ({"multiplier": {"head": U8, "*": S8}, "mapping": "affine"}, MappingError, "symmetric"),
        ({"multiplier": {"head": U8}, "strict": True}, ConversionError, r"features\.0: Conv2d"),
        ({"multiplier": "drum:8x/k=4"}, ah.ApproxHubError, "8x"),
        (
            {"multiplier": {"head": U8, "*": "no_such_multiplier"}},
            UnknownMultiplierError,
            "no_such",
        ),
    ],
    ids=lambda v: str(v)[:40],
)
def test_failure_leaves_the_model_unchanged(net, state, options, error, says, inplace):
    """Whatever goes wrong is a named error, and the model is as it was, in place too."""
    before = state(net)
    with pytest.raises(error, match=says):
        ah.approximate(net, **options, inplace=inplace)
    assert state(net) == before


def test_not_a_module():
    """Something that is no module is refused."""
    with pytest.raises(InputError, match="int"):
        ah.approximate(3, U8)


def test_nothing_twice(net):
    """What is approximate already is not converted again; named explicitly, it is an error."""
    converted = ah.approximate(net, {"head": U8})
    more = ah.approximate(converted, S8)
    assert _ids(more)["head"] == "exact:8u"
    assert _ids(more)["features.0"] == "exact:8s"
    with pytest.raises(ConversionError, match="set_multiplier"):
        ah.approximate(converted, {"head": S8})
    whole = ah.approximate(net, U8)
    count = sum(isinstance(m, ApproxLayer) for m in whole.modules())
    with pytest.raises(ConversionError, match=rf"already \({count} approx.*set_multiplier"):
        ah.approximate(whole, S8)


def test_tied_parameters_stay_tied():
    """A weight shared with an embedding is one parameter after conversion too."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 4)
            self.out = nn.Linear(4, 5, bias=False)
            self.out.weight = self.embedding.weight

        def forward(self, x):
            return self.out(self.embedding(x))

    converted = ah.approximate(Tied(), S8)
    assert converted.out.weight is converted.embedding.weight
    assert len(list(converted.parameters())) == 1
    converted(torch.tensor([1, 2])).sum().backward()
    assert converted.embedding.weight.grad is not None


def test_hooks_are_kept():
    """Forward, pre-forward and backward hooks of a converted layer go on being called."""
    model, called = nn.Sequential(nn.Linear(3, 2)), []
    model[0].register_forward_hook(lambda *_: called.append("forward"))
    model[0].register_forward_pre_hook(lambda *_: called.append("pre"))
    model[0].register_full_backward_hook(lambda *_: called.append("backward"))
    converted = ah.approximate(model, S8, inplace=True)
    converted(torch.randn(4, 3, requires_grad=True)).sum().backward()
    assert called == ["pre", "forward", "backward"]


def test_frozen_layers_stay_frozen(net):
    """Parameters that want no gradient still want none."""
    net.features.requires_grad_(False)
    converted = ah.approximate(net, U8)
    wants = {n: p.requires_grad for n, p in converted.named_parameters()}
    assert wants == {n: p.requires_grad for n, p in net.named_parameters()}


COMPUTED = {
    "weight_norm": nn.utils.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "pruned weight": lambda m: prune.l1_unstructured(m, "weight", 1),
    "pruned bias": lambda m: prune.l1_unstructured(m, "bias", 1),
    "parametrised": parametrizations.weight_norm,
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("how", COMPUTED)
def test_computed_weights_are_left(how, state, caplog):
    """A layer whose weight a hook computes is left with the reason, and an error if named."""
    model = nn.Sequential(nn.Linear(3, 3), COMPUTED[how](nn.Linear(3, 2)))
    before = state(model)
    with caplog.at_level(logging.WARNING, logger="approxhub"):
        converted = ah.approximate(model, S8, inplace=True)
    assert "left exact:\n  1: " in caplog.text
    assert list(_ids(converted)) == ["0"]
    with pytest.raises(ConversionError, match="1 cannot be converted"):
        ah.approximate(model, {"1": S8}, inplace=True)
    assert state(model)["values"].keys() >= {n for n in before["values"] if n.startswith("1.")}


def test_lazy_layers_are_left_until_they_are_initialised():
    """A lazy layer is left with advice; after a pass it can be converted."""
    model = nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(2))
    converted = ah.approximate(model, S8)
    assert list(_ids(converted)) == ["0"]
    assert "run the model once" in str(leftovers(converted)[0])
    model(torch.zeros(1, 3))
    assert list(_ids(ah.approximate(model, S8))) == ["0", "1"]


def test_subclasses_are_left():
    """A subclass of Linear may compute anything: it is left and listed."""

    class Scaled(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    converted = ah.approximate(nn.Sequential(nn.Linear(3, 3), Scaled(3, 3)), S8)
    assert list(_ids(converted)) == ["0"]
    assert [(e.name, e.what) for e in leftovers(converted)] == [("1", "Scaled")]


def _encoder(**options) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_transformer_fast_path_goes_through_the_multiplier(activation):
    """In evaluation without gradients, torch's fused path does not bypass converted layers."""
    model, x = _encoder(activation=activation), torch.randn(2, 5, 8)
    zero = ah.Multiplier.from_function(lambda a, b: a * 0, name="zero", a="8s", b="8s")
    converted = ah.calibrate(ah.approximate(model, zero), [x]).eval()
    called = []
    for name, m in converted.named_modules():
        if isinstance(m, ApproxLayer):
            m.register_forward_hook(lambda *_, name=name: called.append(name))
    with torch.inference_mode():
        y = converted(x)
        parts = [f"self_attn.{p}_proj" for p in ("q", "k", "v", "out")] + ["linear1", "linear2"]
        assert called == [f"layers.{i}.{part}" for i in (0, 1) for part in parts]
        assert not torch.allclose(y, model(x), atol=1e-2)
        with ah.mode(converted, "float"):
            torch.testing.assert_close(converted(x), model(x))
        for m in converted.modules():
            m._forward_hooks.clear()
        clone = pickle.loads(pickle.dumps(copy.deepcopy(converted)))
        assert torch.equal(clone(x), y)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_models_that_torch_cannot_copy():
    """Where torch cannot copy a model, the error says to convert in place."""
    model = nn.Sequential(nn.Linear(3, 3), nn.utils.weight_norm(nn.Linear(3, 2)))
    model(torch.zeros(1, 3))
    with pytest.raises(ConversionError, match="inplace=True"):
        ah.approximate(model, S8)


def test_inner_products_of_attention_are_left_and_listed(caplog):
    """Where the inner products of attention stay exact they are listed, with what helps."""
    with caplog.at_level(logging.WARNING, logger="approxhub"):
        converted = ah.approximate(_encoder(), S8)
    listed = [(e.name, e.what) for e in leftovers(converted)]
    assert listed == [(f"layers.{i}.self_attn", "inner products of attention") for i in (0, 1)]
    assert "attention_products=True" in caplog.text
    with pytest.raises(ConversionError, match="inner products of attention"):
        ah.approximate(_encoder(), S8, strict=True)
    converted = ah.approximate(_encoder(), S8, attention_products=True, strict=True)
    assert not leftovers(converted)
    assert len(_ids(converted)) == 2 * (6 + 2)


LAYERS = {
    "linear": nn.Linear(2, 2),
    "convolutions": nn.ModuleList([nn.Conv1d(1, 2, 1), nn.Conv2d(1, 2, 1), nn.Conv3d(1, 2, 1)]),
    "transposed convolutions": nn.ModuleList(
        [nn.ConvTranspose1d(1, 2, 1), nn.ConvTranspose2d(1, 2, 1), nn.ConvTranspose3d(1, 2, 1)]
    ),
    "recurrent layers": nn.ModuleList([nn.LSTM(2, 2), nn.GRU(2, 2), nn.RNN(2, 2)]),
    "cells": nn.ModuleList([nn.LSTMCell(2, 2), nn.GRUCell(2, 2), nn.RNNCell(2, 2)]),
}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_every_layer_is_converted(layers):
    """Each layer becomes the one of its name, with parameters of its names, and nothing is left."""
    converted = ah.approximate(layers, S8, strict=True)
    for name, old in layers.named_modules():
        if old._parameters:
            assert type(converted.get_submodule(name)) is getattr(ah.nn, type(old).__name__)
    names = {n for n, _ in layers.named_parameters()}
    assert {n for n, _ in converted.named_parameters()} == names


def test_what_no_converter_takes_is_left_and_listed():
    """A layer without a converter stays exact and is listed with the hook that could add it."""
    model = nn.ModuleList([nn.Linear(2, 2), nn.Bilinear(2, 2, 2)])
    left = leftovers(ah.approximate(model, S8))
    assert [e.what for e in left] == ["Bilinear"]
    assert "approxhub_converters" in left[0].reason


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_recurrent_layer_with_a_computed_weight_is_left():
    """A recurrent weight that a hook computes is named, and the layer left."""
    model = nn.ModuleList([nn.Linear(2, 2), nn.utils.weight_norm(nn.GRU(2, 2), "weight_hh_l0")])
    left = leftovers(ah.approximate(model, S8, inplace=True))
    assert [e.what for e in left] == ["GRU"]
    assert "weight_hh_l0 is computed by a hook" in left[0].reason


def test_a_plug_in_adds_a_converter():
    """A converter from a plug-in takes its layer type, through the same hook as ours."""

    class Doubled(nn.Linear):
        pass

    class Plugin:
        @ah.hookimpl
        def approxhub_converters(self):
            name = f"{Doubled.__module__}.{Doubled.__qualname__}"
            return [LayerConverter(name, lambda m, c, **o: ah.nn.Linear.from_float(m, c, **o))]

    host().register(Plugin(), "doubled")
    try:
        converted = ah.approximate(nn.Sequential(Doubled(3, 2)), S8)
    finally:
        host().unregister("doubled")
    assert list(_ids(converted)) == ["0"]


def test_meta_models_convert():
    """A model without memory converts, and is filled by a float checkpoint afterwards."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    converted = ah.approximate(model, S8)
    assert {p.device.type for p in converted.parameters()} == {"meta"}
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    converted.load_state_dict(plain.state_dict(), assign=True)
    x = torch.randn(8, 3)
    want = ah.calibrate(ah.approximate(plain, S8), [x]).eval()
    assert torch.equal(ah.calibrate(converted, [x]).eval()(x), want(x))


@pytest.mark.parametrize(
    "clone", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_another_circuit_s_checkpoint_changes_no_layer(clone):
    """It is refused before anything is copied, in whatever layer the other circuit is."""
    table = np.random.default_rng(1).integers(-99, 99, (256, 256))
    one, other = (
        ah.Multiplier.from_table(t, name="odd", a_signed=True, b_signed=True)
        for t in (table, table + 1)
    )
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.LSTM(4, 3))
    mine, saved = (
        ah.approximate(net, {"2": m, "*": one}) for m in (one, other)
    )  # fmt: skip
    ah.calibrate(saved[0], [torch.randn(8, 4)])
    mine = clone(mine)
    before = {k: v.clone() for k, v in mine.state_dict().items()}
    state = {k: v + 1 if v.is_floating_point() else v for k, v in saved.state_dict().items()}
    with pytest.raises(CheckpointError, match="another circuit under the name local:odd"):
        mine.load_state_dict(state)
    assert all(torch.equal(v, before[k]) for k, v in mine.state_dict().items())
    # Inside of another model, too: there what comes before it is loaded already.
    around = nn.Sequential(mine)
    with pytest.raises(CheckpointError):
        around.load_state_dict({f"0.{k}": v for k, v in state.items()})
    assert all(torch.equal(v, before[k]) for k, v in mine.state_dict().items())
    mine.load_state_dict(before)


@pytest.mark.parametrize("products", [None, "exact:8s"])
def test_a_transformer_takes_a_padding_mask_as_before(products):
    """Torch's nested tensors, which its fast path wants of a mask, reach no converted layer."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, mask = torch.randn(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool)
    mask[1, 3:] = True
    batch = {"src": x, "src_key_padding_mask": mask}
    converted = ah.approximate(model, "exact:8s", attention_products=products)
    ah.calibrate(converted, [batch])
    with torch.no_grad():
        y = converted(**batch)
    assert torch.equal(converted(**batch), y)  # with gradients there is no fast path
    assert torch.allclose(y[~mask], model(**batch)[~mask], atol=0.2)
