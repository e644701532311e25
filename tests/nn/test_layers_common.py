"""What all layers share: state, checkpoints, copies, compilation."""

from __future__ import annotations

import copy
import gc
import io
import logging
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.errors import (
    CalibrationError,
    CheckpointError,
    InputError,
    MappingError,
    NotFoundError,
)
from approxhub.multiplier import Multiplier
from approxhub.quantization import OperandMapping

TABLE = np.random.default_rng(8).integers(-30000, 30000, (256, 256))
TABLE[0, 0] = 64


def _odd(signed: bool = False, name: str = "odd", table: np.ndarray = TABLE) -> Multiplier:
    return Multiplier.from_table(table, name=name, a_signed=signed, b_signed=signed)


KINDS = {
    "linear": ("Linear", (4, 3), {}, (5, 4)),
    "conv1d": ("Conv1d", (2, 3, 3), {"padding": 1}, (2, 2, 5)),
    "conv2d": ("Conv2d", (2, 3, (3, 2)), {"padding": (1, 0)}, (2, 2, 5, 4)),
    "conv3d": ("Conv3d", (2, 3, (1, 3, 2)), {"padding": (0, 1, 0)}, (1, 2, 2, 4, 3)),
    "conv_transpose2d": ("ConvTranspose2d", (2, 3, (3, 2)), {"stride": 2}, (2, 2, 3, 2)),
}


def _make(kind: str, multiplier=None, **options):
    name, arguments, keywords, _ = KINDS[kind]
    return getattr(ah.nn, name)(*arguments, **keywords, multiplier=multiplier or _odd(), **options)


def _plain(kind: str) -> nn.Module:
    name, arguments, keywords, _ = KINDS[kind]
    return getattr(nn, name)(*arguments, **keywords)


def _outputs_first(layer: nn.Module) -> torch.Tensor:
    """Rows of weights that have a scale each."""
    transposed = isinstance(layer, nn.ConvTranspose2d)
    return (layer.weight.detach().transpose(0, 1) if transposed else layer.weight.detach()).flatten(
        1
    )


@pytest.fixture(params=KINDS)
def kind(request):
    """Each layer type in turn."""
    return request.param


@pytest.fixture
def data(kind, activations):
    """A maker of inputs for the layer."""
    return lambda: activations(*KINDS[kind][-1])


@pytest.fixture
def fitted(kind, data):
    """A layer with a range, in evaluation."""
    layer = _make(kind)
    layer(data())
    return layer.eval()


def _state(module: nn.Module) -> dict[str, object]:
    buffers = {n: b.reshape(-1).tolist() for n, b in module.named_buffers()}
    flags = {n: m.calibrated for n, m in module.named_modules() if hasattr(m, "calibrated")}
    ranges = {
        n: [t.reshape(-1).tolist() for t in m.calibrator._range or ()]
        for n, m in module.named_modules()
        if hasattr(m, "calibrator")
    }
    return {"buffers": buffers, "calibrated": flags, "ranges": ranges}


# --- when state moves -----------------------------------------------------------


@pytest.mark.parametrize("mode", ["float", "exact", "approximate"])
def test_evaluation_moves_nothing(fitted, data, mode):
    """In evaluation no mode, with or without gradients, moves any buffer, flag or calibrator."""
    fitted.mode = mode
    before, extra = _state(fitted), fitted.get_extra_state()
    fitted(data() * 10).sum().backward()
    with torch.no_grad():
        fitted(data() * 10)
    fitted.eval()
    assert _state(fitted) == before
    assert torch.equal(fitted.get_extra_state(), extra)


@pytest.mark.parametrize("mode", ["exact", "approximate"])
def test_training_moves_the_ranges(fitted, data, mode):
    """In training the range of the activations moves as its calibrator says."""
    fitted.mode = mode
    low, high = (t.item() for t in fitted.input_quantizer.calibrator.range())
    x = data() * 10
    fitted.train()(x)
    assert fitted.input_quantizer.range_max.item() == pytest.approx(
        0.9 * high + 0.1 * x.max().item(), rel=1e-5
    )
    assert fitted.input_quantizer.range_min.item() == pytest.approx(
        0.9 * low + 0.1 * x.min().item(), rel=1e-5
    )


def test_weight_quantiser_follows_the_weights(fitted, data):
    """A training pass fits the weight scales to the weights, and so does leaving training."""
    for leave in (False, True):
        fitted.train()
        with torch.no_grad():
            fitted.weight.mul_(2)
        if not leave:
            fitted(data())
        else:
            fitted.eval()
        want = _outputs_first(fitted)
        assert torch.equal(fitted.weight_quantizer.range_max, want.amax(1))
        assert torch.equal(fitted.weight_quantizer.range_min, want.amin(1))


def test_evaluation_does_not_refit_the_weights(fitted):
    """Weights changed in evaluation do not move the scales until training is left again."""
    before = _state(fitted)
    with torch.no_grad():
        fitted.weight.mul_(2)
    fitted.eval()
    assert _state(fitted) == before
    fitted.train().eval()
    assert _state(fitted) != before


def test_uncalibrated_evaluation_is_refused(kind, data):
    """A layer that never saw data refuses to evaluate and says how to calibrate; float works."""
    layer = _make(kind).eval()
    with pytest.raises(CalibrationError, match=r"approxhub\.calibrate"):
        layer(data())
    layer.mode = "float"
    layer(data())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_activations(fitted, data, bad):
    """NaN and infinity are refused, with the layer they reached; ranges stay as they were."""
    x = data()
    x.view(-1)[3] = bad
    before = _state(fitted)
    with pytest.raises(CalibrationError, match="NaN or infinity"):
        fitted.train()(x)
    fitted.eval()
    with pytest.raises(CalibrationError, match=rf"{type(fitted).__name__}, weight .*infinity"):
        fitted(x)
    assert _state(fitted) == before


def test_bad_weights_leave_the_quantiser(fitted):
    """Weights with NaN are refused where they would be observed, and the old range stays."""
    before = _state(fitted)
    fitted.train()
    with torch.no_grad():
        fitted.weight.view(-1)[0] = float("nan")
    with pytest.raises(CalibrationError, match="NaN or infinity"):
        fitted.eval()
    assert _state(fitted) == before


# --- what a layer refuses ---------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_integers_are_refused(fitted, data, dtype):
    """Activations that are not real numbers are refused, with a word on what takes integers."""
    with pytest.raises(InputError, match=r"approxhub\.matmul"):
        fitted(data().to(dtype))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"mapping": "symmetric"}, MappingError),
        ({"mapping": "affin"}, MappingError),
        ({"mode": "fast"}, InputError),
        ({"gradient": "straight"}, NotFoundError),
        ({"calibrator": "max"}, NotFoundError),
        ({"multiplier": "drum:8s/k"}, Exception),
    ],
)
def test_bad_options(kind, options, error):
    """An unknown or unfitting option is refused when the layer is made."""
    if error is Exception:
        error = ah.ApproxHubError
    with pytest.raises(error):
        _make(kind, **options)


def test_mode_is_checked(fitted):
    """An unknown mode is refused with the known ones, and the mode stays."""
    with pytest.raises(InputError, match="float, exact, approximate"):
        fitted.mode = "Exact"
    assert fitted.mode == "approximate"


# --- making one of a float layer ---------------------------------------------------


def test_from_float_shares_the_parameters(kind):
    """The layer made of a float one has its very parameters, its dtype and its training flag."""
    for training in (True, False):
        plain = _plain(kind).double().train(training)
        plain.weight.requires_grad_(False)
        layer = type(_make(kind)).from_float(plain, _odd(), mapping="signmag-weights")
        assert layer.weight is plain.weight
        assert layer.bias is plain.bias
        assert not layer.weight.requires_grad
        assert layer.training is training
        assert layer.weight_quantizer.calibrated
        assert not layer.input_quantizer.calibrated
        assert str(layer.mapping) == "signmag-weights"
        assert {b.device.type for b in layer.buffers()} == {"cpu"}


def test_from_float_equals_a_new_layer(kind, data):
    """It computes what a layer made directly with the same weights does."""
    plain, layer = _plain(kind), _make(kind)
    layer.load_state_dict(plain.state_dict())
    x = data()
    assert torch.equal(type(layer).from_float(plain, _odd())(x), layer(x))


def test_repr_names_multiplier_mapping_and_mode(fitted):
    """The repr has torch's text, the multiplier's id, the mapping and the mode."""
    text = repr(fitted)
    assert "multiplier=local:odd, mapping=affine, approximate" in text
    assert ("in_features=4" in text) or ("kernel_size=(" in text)


# --- set_multiplier ------------------------------------------------------------------


def test_set_multiplier_equals_a_layer_made_with_it(kind, fitted, data):
    """Another multiplier of any width and sign gives what a layer calibrated with it gives."""
    calibration = data()
    fitted.input_quantizer.restart("minmax")
    fitted.train()(calibration)
    fitted.eval()
    x = data()
    for m in (ah.exact(8), ah.exact(4, False), _odd(True), ah.exact(6, b_bits=3), _odd()):
        fitted.set_multiplier(m)
        fresh = _make(kind, m, calibrator="minmax")
        fresh.load_state_dict({n: p.detach() for n, p in fitted.named_parameters()})
        fresh(calibration)
        assert torch.equal(fitted(x), fresh.eval()(x))
        assert fitted.mapping == OperandMapping.default(m)


def test_set_multiplier_that_does_not_fit(fitted, data):
    """A mapping that does not fit is refused and leaves the layer as it was."""
    x, before = data(), _state(fitted)
    want = fitted(x)
    with pytest.raises(MappingError):
        fitted.set_multiplier(ah.exact(8), "affine")
    assert fitted.multiplier.id == "local:odd"
    assert _state(fitted) == before
    assert torch.equal(fitted(x), want)


def test_set_multiplier_keeps_the_mapping_that_fits(kind):
    """The present mapping stays where it fits, and gives way to the default where it does not."""
    layer = _make(kind, mapping="signmag-both")
    layer.set_multiplier(ah.exact(6, False))
    assert str(layer.mapping) == "signmag-both"
    layer.set_multiplier(ah.exact(8))
    assert str(layer.mapping) == "symmetric"


def test_equal_multipliers_outlive_each_other(kind, data):
    """A layer works on after another one that shared its table by value is gone."""
    from approxhub.backends.routing import clear_prepared

    first, second = (_make(kind, _odd(), mapping="signmag-weights") for _ in range(2))
    x = data()
    first(x)
    want = second(x)
    del first
    clear_prepared()
    gc.collect()
    assert torch.equal(second(x), want)


# --- checkpoints -----------------------------------------------------------------------


def test_state_dict_keeps_torch_s_names(kind):
    """The parameters keep torch's names, and the rest stands under three of our own."""
    keys = set(_make(kind).state_dict())
    assert set(_plain(kind).state_dict()) <= keys
    heads = {k.split(".")[0] for k in keys}
    assert heads == {"weight", "bias", "_extra_state", "input_quantizer", "weight_quantizer"}


def test_float_checkpoint_loads_strictly(kind, fitted, data):
    """A float checkpoint loads with strict=True; weights are refitted, the input range stays."""
    plain = _plain(kind)
    high = fitted.input_quantizer.range_max.item()
    result = fitted.load_state_dict(plain.state_dict(), strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert torch.equal(fitted.weight, plain.weight)
    assert torch.equal(fitted.weight_quantizer.range_max, _outputs_first(plain).amax(1))
    assert fitted.input_quantizer.range_max.item() == high
    assert fitted.input_quantizer.calibrated
    fitted(data())


def test_float_checkpoint_is_not_changed(kind, fitted):
    """Loading adds nothing to the caller's dict."""
    state = _plain(kind).state_dict()
    keys = list(state)
    fitted.load_state_dict(state)
    assert list(state) == keys


def test_float_checkpoint_of_a_whole_model():
    """A float checkpoint of a nested model loads strictly into the converted, calibrated one."""

    def build() -> nn.Module:
        block = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
        return nn.Sequential(block, nn.Flatten(), nn.Linear(18, 3))

    x = torch.randn(4, 1, 5, 5)
    first, second = build(), build()
    converted = ah.calibrate(ah.approximate(first, ah.exact(8, False)), [x]).eval()
    assert not converted.load_state_dict(second.state_dict(), strict=True).missing_keys
    for name, p in second.named_parameters():
        assert torch.equal(converted.get_parameter(name), p)
    with ah.mode(converted, "float"):
        assert torch.equal(converted(x), second.eval()(x))


def test_incomplete_checkpoints_are_still_refused(kind, fitted):
    """A float checkpoint without its bias, or with a stray key, fails as in torch."""
    state = _plain(kind).state_dict()
    del state["bias"]
    with pytest.raises(RuntimeError, match="bias"):
        fitted.load_state_dict(state)
    with pytest.raises(RuntimeError, match="stray"):
        fitted.load_state_dict({**_plain(kind).state_dict(), "stray": torch.ones(1)})
    own = fitted.state_dict()
    del own["input_quantizer.scale"]
    with pytest.raises(RuntimeError, match=r"input_quantizer\.scale"):
        fitted.load_state_dict(own)


def test_round_trip(kind, fitted, data):
    """A state_dict saved and loaded with weights_only=True gives the same bits."""
    file = io.BytesIO()
    torch.save(fitted.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = _make(kind).eval()
    assert not other.load_state_dict(state).missing_keys
    x = data()
    assert torch.equal(other(x), fitted(x))
    assert _state(other)["buffers"] == _state(fitted)["buffers"]
    assert torch.equal(other.get_extra_state(), fitted.get_extra_state())


def test_training_goes_on_from_a_loaded_range(kind, fitted, data):
    """After loading, the moving average goes on where it was saved."""
    other = _make(kind)
    other.load_state_dict(fitted.state_dict())
    x = data() * 4
    assert torch.equal(other(x), fitted.train()(x))
    assert _state(other) == _state(fitted)


def test_uncalibrated_state_stays_uncalibrated(kind, fitted, data):
    """A checkpoint of a layer without a range takes the range away: it is part of the state."""
    fitted.load_state_dict(_make(kind).state_dict())
    with pytest.raises(CalibrationError):
        fitted(data())


def test_same_id_with_another_table_is_refused(kind, fitted, data):
    """A checkpoint of another circuit of the same name is an error, and nothing is copied."""
    other = _make(kind, _odd(table=TABLE + 1))
    state, before, x = other.state_dict(), _state(fitted), data()
    want = fitted(x)
    with pytest.raises(CheckpointError) as caught:
        fitted.load_state_dict(state)
    assert "local:odd" in str(caught.value)
    assert fitted.multiplier.identity in str(caught.value)
    assert other.multiplier.identity in str(caught.value)
    assert _state(fitted) == before
    assert torch.equal(fitted(x), want)


@pytest.mark.parametrize(
    ("multiplier", "mapping"),
    [
        (ah.exact(8, False), "affine"),
        (ah.exact(4, False), "affine"),
        (ah.exact(8, False), "signmag-weights"),
        (ah.exact(8), "symmetric"),
        (ah.exact(5), "affine-signed"),
    ],
    ids=lambda v: str(getattr(v, "id", v)),
)
def test_another_id_keeps_and_warns(kind, fitted, data, caplog, multiplier, mapping):
    """Another multiplier's checkpoint loads with a warning; scales follow from its ranges."""
    layer = _make(kind, multiplier, mapping=mapping).eval()
    with caplog.at_level(logging.WARNING, logger="approxhub"):
        layer.load_state_dict(fitted.state_dict())
    assert "local:odd" in caplog.text
    assert f"keeps {multiplier.id}" in caplog.text
    assert layer.multiplier is multiplier
    assert str(layer.mapping) == mapping
    want = copy.deepcopy(fitted)
    want.set_multiplier(multiplier, mapping)
    x = data()
    assert torch.equal(layer(x), want(x))


def test_the_same_checkpoint_does_not_warn(kind, fitted, caplog):
    """A checkpoint of the same multiplier loads in silence."""
    with caplog.at_level(logging.WARNING, logger="approxhub"):
        _make(kind).load_state_dict(fitted.state_dict())
    assert not caplog.records


@pytest.mark.parametrize(
    "extra", [torch.tensor([1, 2], dtype=torch.uint8), torch.zeros(0, dtype=torch.uint8), None]
)
def test_unreadable_extra_state(fitted, extra):
    """A damaged extra state is a named error and copies nothing."""
    before = fitted.weight.detach().clone()
    state = {k: v + 1 if k == "weight" else v for k, v in fitted.state_dict().items()}
    with pytest.raises(CheckpointError, match="unreadable"):
        fitted.load_state_dict({**state, "_extra_state": extra})
    assert torch.equal(fitted.weight, before)


def test_newer_extra_state(fitted):
    """A checkpoint of a later version is refused with both versions."""
    text = bytes(fitted.get_extra_state().tolist()).replace(b'"schema": 2', b'"schema": 7')
    with pytest.raises(CheckpointError, match="version 7"):
        fitted.set_extra_state(torch.tensor(list(text), dtype=torch.uint8))


# --- copies, pickles, devices, compilers ---------------------------------------------


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(kind, fitted, data, clone):
    """Copies and pickles compute the same bits, load checkpoints, and train on their own."""
    other, x = clone(fitted), data()
    assert torch.equal(other(x), fitted(x))
    before = _state(fitted)
    other.train()(x * 9)
    assert _state(fitted) == before
    other.load_state_dict(_plain(kind).state_dict())
    assert _state(fitted) == before
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other.eval()(x), fitted(x))


def test_pickle_in_a_fresh_process(activations, tmp_path):
    """Pickled layers work in a process that never saw their multiplier."""
    pairs = []
    for kind in KINDS:
        layer, x = _make(kind, mapping="signmag-weights"), activations(*KINDS[kind][-1])
        layer(x)
        pairs.append((layer.eval(), x, layer(x).detach()))
    torch.save(pairs, tmp_path / "layers.pt")
    code = (
        "import sys, torch\n"
        "for layer, x, y in torch.load(sys.argv[1], weights_only=False):\n"
        "    assert torch.equal(layer(x), y)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "layers.pt")], check=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_whole_model_in_another_dtype(kind, fitted, data, dtype):
    """model.half() and its like change parameters and outputs, and no scale."""
    scales = {n: b.clone() for n, b in fitted.named_buffers()}
    layer = nn.Sequential(fitted).to(dtype)[0]
    assert layer.weight.dtype == dtype
    assert all(torch.equal(b, scales[n]) for n, b in layer.named_buffers())
    assert layer(data().to(dtype)).dtype == dtype


def test_meta_device(kind, fitted, data):
    """On the meta device a calibrated layer gives shapes, in training too."""
    shape, x = fitted(data()).shape, data().to("meta")
    layer = fitted.to("meta")
    assert layer(x).shape == shape
    assert layer(x).is_meta
    assert layer.train()(x).shape == shape


@pytest.mark.parametrize("assign", [False, True])
def test_made_on_meta_and_loaded(kind, fitted, data, assign):
    """A layer made without memory is filled by a checkpoint of its own."""
    layer = _make(kind, device="meta")
    if not assign:
        layer = layer.to_empty(device="cpu")
    layer.load_state_dict(fitted.state_dict(), assign=assign)
    x = data()
    assert torch.equal(layer.eval()(x), fitted(x))


@pytest.mark.parametrize("assign", [False, True])
def test_made_on_meta_and_loaded_from_float(kind, data, assign):
    """A layer made without memory is filled by a float checkpoint, and then finds its range."""
    plain, layer = _plain(kind), _make(kind, device="meta")
    if not assign:
        layer = layer.to_empty(device="cpu")
    layer.load_state_dict(plain.state_dict(), assign=assign)
    assert {b.device.type for b in layer.buffers()} == {"cpu"}
    with pytest.raises(CalibrationError):
        layer.eval()(data())
    x = data()
    assert torch.equal(layer.train()(x), type(layer).from_float(plain, _odd())(x))


def test_training_inside_inference_mode(kind, data):
    """A range found in inference mode serves training outside of it."""
    layer = _make(kind)
    with torch.inference_mode():
        layer(data())
    layer(data()).sum().backward()
    assert layer.weight.grad is not None
    copy.deepcopy(layer)


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")
def test_compiled(fitted, data, backend):
    """Compiled whole, layers give the same bits and gradients, in evaluation and training."""
    torch._dynamo.reset()
    compiled, x = torch.compile(fitted, backend=backend, fullgraph=True), data()
    eager = copy.deepcopy(fitted)
    for _ in range(2):
        y, want = compiled(x), eager(x)
        assert torch.equal(y, want)
        y.square().sum().backward()
        want.square().sum().backward()
        assert torch.equal(fitted.weight.grad, eager.weight.grad)
        compiled.train()
        eager.train()
    assert _state(fitted) == _state(eager)
    torch._dynamo.reset()


def test_accumulator_width_is_proven(kind):
    """int32 is used where K * max|T| proves it enough, and int64 from one product more."""
    layer = _make(kind, ah.exact(8, False))
    limit = (2**31 - 1) // 255**2
    assert layer._accumulator(limit) == torch.int32
    assert layer._accumulator(limit + 1) == torch.int64
    layer = _make(kind, mapping="signmag-both", mode="exact")
    limit = (2**31 - 1) // 128**2
    assert layer._accumulator(limit + 1) == torch.int64


def test_buffers_hold_no_table(fitted):
    """No buffer or state_dict entry is as large as a table."""
    assert max(v.numel() for v in fitted.state_dict().values()) < 1024
    assert max(b.numel() for b in fitted.buffers()) < 1024


def test_a_state_saved_in_training_gives_the_same_outputs(kind, data):
    """Saved before the ranges of the weights were fitted, loaded in evaluation: same outputs."""
    trained, other = _make(kind), _make(kind)
    x = data()
    trained.train()(x)
    with torch.no_grad():
        trained.weight.mul_(1.5)
    other.eval().load_state_dict(trained.state_dict())
    assert torch.equal(other(x), trained.eval()(x))


def test_a_state_that_lacks_settings_is_refused(fitted):
    """An extra state without its keys is a CheckpointError, not a KeyError."""
    state = fitted.state_dict()
    state["_extra_state"] = torch.tensor(list(b'{"schema": 1}'), dtype=torch.uint8)
    with pytest.raises(CheckpointError, match="unreadable"):
        fitted.load_state_dict(state)


def test_the_old_name_of_a_quantised_weight_still_works():
    """A plug-in's layer from before the renaming keeps its weight, and is told of the new name."""
    with pytest.warns(DeprecationWarning, match="quantized_weight"):

        class Halved(ah.nn.Linear):
            def _quantized_weight(self):
                return super()._quantized_weight() / 2

    class Mixed:
        def _quantized_weight(self):
            return super()._quantized_weight() / 2

    with pytest.warns(DeprecationWarning, match="quantized_weight"):

        class Quartered(Mixed, Halved):
            pass

    for cls, by in ((Halved, 2), (Quartered, 4)):
        layer = cls(4, 3, multiplier="exact:8s").eval()
        for weight in (layer.quantized_weight(), layer._quantized_weight()):
            assert torch.equal(weight, layer.weight / by)
        assert layer.weight_quantizer.range_max.max() <= layer.weight.abs().max() / by


def test_pickles_from_before_have_what_follows_from_the_rest():
    """Whole layers that were pickled when less was kept in them still run."""
    layer = ah.nn.Linear(4, 3, multiplier="drum:8s/k=3", gradient="lre")
    x = torch.randn(5, 4)
    layer(x)
    layer.eval().set_compensation(torch.tensor([1.0, 2.0, 3.0]))
    old = copy.copy(layer)
    for name in ("_compensating", "_compiled_gradient"):
        del old.__dict__[name]
    again = pickle.loads(pickle.dumps(old))
    assert torch.equal(again(x), layer(x))
    assert again._compiled_gradient is not None
