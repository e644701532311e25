"""The mean error of a multiplier, taken out of the biases channel by channel."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import approxhub as ah
from approxhub.errors import (
    CalibrationError,
    ConversionError,
    InputError,
    MappingError,
    TableError,
)
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

LAYERS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "linear": lambda: (nn.Linear(7, 3), torch.randn(4, 5, 7)),
    "no bias": lambda: (nn.Linear(7, 3, bias=False), torch.randn(9, 7)),
    "conv1d": lambda: (nn.Conv1d(2, 4, 3, stride=2, padding="valid"), torch.randn(3, 2, 9)),
    "conv2d": lambda: (
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=2),
        torch.randn(3, 4, 7, 6),
    ),
    "same": lambda: (nn.Conv2d(2, 3, 4, padding="same"), torch.randn(2, 2, 5, 5)),
    "depthwise": lambda: (nn.Conv2d(3, 6, 3, padding=1, groups=3), torch.randn(2, 3, 5, 5)),
    "reflected": lambda: (
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), torch.randn(2, 2, 5, 5),
    ),
    "conv3d": lambda: (nn.Conv3d(2, 3, 2, padding=1), torch.randn(2, 2, 3, 4, 3)),
    "transposed": lambda: (
        nn.ConvTranspose2d(
            4, 6, (3, 2), stride=(2, 3), padding=(1, 2), output_padding=(1, 2), dilation=(2, 1),
            groups=2,
        ),
        torch.randn(3, 4, 4, 5),
    ),
    "transposed1d": lambda: (nn.ConvTranspose1d(2, 3, 5, padding=4), torch.randn(2, 2, 6)),
}  # fmt: skip


@pytest.fixture
def biased() -> Callable[[str], Multiplier]:
    """A maker of tables that are not commutative, biased, and have T[0][0] = 64."""

    def make(formats: str) -> Multiplier:
        a, b = (OperandFormat.parse(f) for f in formats.split("x"))
        va, vb = a.values()[:, None], b.values()[None, :]
        table = va * vb + 64 + 3 * (va & 7) - 5 * (vb & 3)
        return Multiplier.from_table(table, name="biased", a_signed=a.signed, b_signed=b.signed)

    return make


def _calibrated(layer: nn.Module, x: Tensor, m: Any, **options: Any) -> Any:
    net = ah.approximate(nn.Sequential(layer), m, **options)
    return ah.calibrate(net, [x]).eval()


def _integer_errors(net: Any, x: Tensor) -> np.ndarray[Any, Any]:
    """Sum of the errors of the integers of each channel, and how many sums it has."""
    layer = net[0]
    with torch.no_grad():
        y = layer(x).double()
        with ah.mode(net, "exact"):
            y = y - layer(x).double()
        scale = (layer.input_quantizer.scale * layer.weight_quantizer.scale).double()
        channels = y.movedim(layer._channel_dim, -1).flatten(0, -2)
        errors = channels / scale
        assert (errors - errors.round()).abs().max() < 0.2  # float32 lost no unit
    return errors.round().sum(0).numpy(), len(channels)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("formats", ["8ux8u", "8sx8s", "4ux8s"])
def test_means_are_those_of_the_integers(kind: str, formats: str, biased: Any) -> None:
    """For every kind of layer, mapping and padding: the very sum of all errors, per channel."""
    layer, x = LAYERS[kind]()
    x = x + 0.4
    net = _calibrated(layer, x, biased(formats))
    halves = [x[:1], x[1:]]
    with torch.no_grad(), ah.capture_statistics(net, fields=0, taps=True) as statistics:
        for half in halves:
            net(half)
    sums, count = _integer_errors(net, x)
    assert np.abs(sums).max() > count  # there is something to see
    means = statistics["0"].channel_means(net[0].multiplier)
    assert np.array_equal(np.rint(means * count), sums)
    np.testing.assert_allclose(means * count, sums, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("formats", "datapath"),
    [
        ("8sx8s", "zero_point=before"),
        ("8sx8s", "padding=skip"),
        ("4ux4u", "padding=skip"),
        ("4ux4u", "bias=int32"),
    ],
)
def test_means_are_those_of_the_integers_of_every_datapath(
    formats: str, datapath: str, biased: Any
) -> None:
    """Zero points subtracted first, padding that meets no circuit: the very sums again."""
    layer, x = LAYERS["conv2d"]()
    x = x + 0.4
    mapping = "affine-signed" if formats == "8sx8s" else None
    net = _calibrated(layer, x, biased(formats), datapath=datapath, mapping=mapping)
    with torch.no_grad(), ah.capture_statistics(net, fields=0, taps=True) as statistics:
        net(x)
    layer.bias.data.zero_()  # its rounding is none of the circuit's
    sums, count = _integer_errors(net, x)
    assert np.abs(sums).max() > count
    means = statistics["0"].channel_means(net[0].multiplier)
    assert np.array_equal(np.rint(means * count), sums)


def test_the_mean_error_is_gone_where_it_was_measured(biased: Any) -> None:
    """Each channel's mean is that of exact products, in a layer with a bias and one without."""
    for kind in ("conv2d", "no bias", "transposed"):
        layer, x = LAYERS[kind]()
        net = _calibrated(layer, x, biased("8ux8u"))
        before, _ = _integer_errors(net, x)
        added = ah.compensate(net, [x])
        after, count = _integer_errors_of_means(net, x)
        assert set(added) == {"0"}
        assert np.abs(before).max() > count
        assert np.abs(after).max() < 0.01 * count  # float32's own roundings


def _integer_errors_of_means(net: Any, x: Tensor) -> tuple[np.ndarray[Any, Any], int]:
    layer = net[0]
    with torch.no_grad():
        y = layer(x).double()
        with ah.mode(net, "exact"):
            y = y - layer(x).double()
        scale = (layer.input_quantizer.scale * layer.weight_quantizer.scale).double()
        channels = y.movedim(layer._channel_dim, -1).flatten(0, -2)
    return (channels / scale).sum(0).numpy(), len(channels)


@pytest.mark.parametrize("id", ["exact:8s", "exact:8u"])
def test_exact_products_stay_as_they_are_bit_for_bit(id: str) -> None:
    """There is nothing to compensate: exact zeros are added."""
    layer, x = LAYERS["conv2d"]()
    net = _calibrated(layer, x, id)
    with torch.no_grad():
        before = net(x)
        (shift,) = ah.compensate(net, [x]).values()
        assert torch.equal(shift, torch.zeros(6))
        assert torch.equal(net(x), before)


def test_an_unbiased_multiplier_changes_by_no_more_than_rounding() -> None:
    """A table whose mean error is nought, but for rounding, moves no sum by more than that."""
    circuit = ah.load("truncation:8s/a=3,b=3")
    v = circuit.a.values()
    # One weight for each channel meets what all meet: then nothing is left but rounding.
    point, y = nn.Conv2d(1, 4, 1), torch.randn(8, 1, 6, 6)
    net = _calibrated(point, y, "exact:8s")
    with torch.no_grad(), ah.capture_statistics(net, fields=0, taps=True) as statistics:
        net(y)
    p = statistics["0"].taps[0] / statistics["0"].taps.sum()
    means = p @ (circuit.table - np.outer(v, v))
    fair = Multiplier.from_table(
        circuit.table - np.rint(means).astype(np.int64), name="fair", a_signed=True, b_signed=True
    )
    ah.set_multiplier(net, fair)
    (shift,) = ah.compensate(net, [y]).values()
    scale = net[0].input_quantizer.scale * net[0].weight_quantizer.scale
    assert (shift.abs() <= 0.5 * scale * (1 + 1e-6)).all()
    assert shift.abs().max() > 0


def test_only_approximate_products_are_compensated(biased: Any) -> None:
    """Modes exact and float, the bias, and a gradient's way to it are as before."""
    layer, x = LAYERS["conv2d"]()
    net = _calibrated(layer, x, biased("8ux8u"))
    twin = copy.deepcopy(net)
    (shift,) = ah.compensate(net, [x]).values()
    with torch.no_grad():
        for mode in ("exact", "float"):
            with ah.mode(net, mode), ah.mode(twin, mode):
                assert torch.equal(net(x), twin(x))
        assert not torch.equal(net(x), twin(x))
    assert torch.equal(net[0].bias, twin[0].bias)
    net(x).sum().backward()
    twin(x).sum().backward()
    assert torch.equal(net[0].bias.grad, twin[0].bias.grad)
    with torch.no_grad():
        twin[0].bias += shift
        assert torch.equal(net(x), twin(x))


def test_it_belongs_to_its_multiplier_and_mapping(biased: Any) -> None:
    """With another one it has no effect; when the former is back, it has."""
    layer, x = LAYERS["linear"]()
    net = _calibrated(layer, x, "drum:8s/k=3")
    plain = copy.deepcopy(net)
    ah.compensate(net, [x])
    with torch.no_grad():
        y = net(x)
        for id, mapping in (("drum:8s/k=4", None), ("drum:8s/k=3", "affine-signed")):
            for model in (net, plain):
                ah.set_multiplier(model, id, mapping=mapping)
            assert torch.equal(net(x), plain(x))
        ah.set_multiplier(net, "drum:8s/k=3", mapping="symmetric")
        assert torch.equal(net(x), y)
        ah.set_multiplier(plain, "drum:8s/k=3", mapping="symmetric")
        assert ah.compensate(net, None) == {}
        assert torch.equal(net(x), plain(x))
        assert "0.compensation" not in net.state_dict()


def test_checkpoints_have_it(biased: Any) -> None:
    """Saved with the model and loaded into a plain one; a plain checkpoint takes it away."""
    layer, x = LAYERS["conv2d"]()
    net = _calibrated(layer, x, biased("8ux8u"))
    plain = copy.deepcopy(net)
    other = copy.deepcopy(net)
    before = plain.state_dict()
    ah.compensate(net, [x])
    state = net.state_dict()
    assert state["0.compensation"].shape == (6,)
    with torch.no_grad():
        plain.load_state_dict(state)
        assert torch.equal(plain(x), net(x))
        net.load_state_dict(before)
        assert torch.equal(net(x), other(x))
        plain.load_state_dict(nn.Sequential(layer).state_dict())
        assert plain[0].compensation is None


def test_one_capture_serves_many_multipliers() -> None:
    """Statistics of one pass give what batches give, for every multiplier of the same formats."""
    layer, x = LAYERS["conv2d"]()
    net = _calibrated(layer, x, "exact:8s")
    with torch.no_grad(), ah.capture_statistics(net, taps=True) as statistics:
        net(x)
    for id in ("drum:8s/k=3", "truncation:8s/a=3,b=3"):
        ah.set_multiplier(net, id)
        (one,) = ah.compensate(net, statistics).values()
        (two,) = ah.compensate(net, [x]).values()
        assert torch.equal(one, two)
    ah.set_multiplier(net, "drum:8u/k=3")
    with pytest.raises(MappingError):
        ah.compensate(net, statistics)


def test_composite_layers_have_compensated_parts() -> None:
    """Projections of recurrent and attention layers; products of activations are left."""
    net = nn.LSTM(4, 3, batch_first=True)
    x = torch.rand(8, 5, 4)
    model = ah.approximate(net, "truncation:8s/a=3,b=3")
    ah.calibrate(model, [x]).eval()
    added = ah.compensate(model, [x])
    assert set(added) == {n for n, m in model.named_modules() if isinstance(m, ah.nn.ApproxLayer)}
    with torch.no_grad():
        assert model(x)[0].shape == (8, 5, 3)

    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.attention(x, x, x)[0]
            return found

    model = ah.approximate(Attend(), "truncation:8s/a=3,b=3", attention_products=True)
    ah.calibrate(model, [x]).eval()
    added = ah.compensate(model, [x])
    parts = {n for n, m in model.named_modules() if isinstance(m, ah.nn.ApproxLayer)}
    assert set(added) < parts
    assert len(added) == len(parts) - 2


def test_what_cannot_be_compensated_is_said_and_nothing_changes(biased: Any) -> None:
    """No batches, one batch in place of several, statistics without taps or of other layers."""
    layer, x = LAYERS["linear"]()
    net = _calibrated(layer, x, biased("8ux8u"))
    with torch.no_grad(), ah.capture_statistics(net) as statistics:
        net(x)
    with ah.capture_statistics(net, taps=True) as unseen:
        pass
    ah.compensate(net, [x])
    before = net[0].compensation.clone()
    for source, error, said in (
        ([], CalibrationError, "at least one batch"),
        (x, InputError, r"write \[x\]"),
        (statistics, InputError, "taps=True"),
        ({}, InputError, "no statistics of layer '0'"),
        ({"0": 3}, InputError, "are of type int"),
        (unseen, CalibrationError, "0: no forward pass"),
    ):
        with pytest.raises(error, match=said):
            ah.compensate(net, source)
    with pytest.raises(ConversionError):
        ah.compensate(nn.Linear(2, 2), [x])
    assert torch.equal(net[0].compensation, before)
    wide = Multiplier.from_function(lambda a, b: a * b, name="w", a="16s", b="16s", fingerprint="w")
    many = _calibrated(nn.Linear(4000, 2), torch.randn(2, 4000), wide)
    with (
        pytest.raises(InputError, match="too many to count"),
        ah.capture_statistics(many, taps=True),
        ah.mode(many, "exact"),
    ):
        many(torch.randn(2, 4000))


@pytest.mark.parametrize("wide", ["exact:16s", "drum:16s/k=4"])
def test_a_multiplier_without_a_table_is_refused_before_a_batch_runs(wide: str) -> None:
    """Compensation names layer and multiplier and draws no batch; a prediction names it, too."""
    net = nn.Sequential(nn.Linear(4, 2))
    x = torch.randn(8, 4)
    model = ah.calibrate(ah.approximate(net, wide), [x]).eval()
    with pytest.raises(TableError, match=rf"^0: {wide} .*has no table.*at most 24 bits"):
        ah.compensate(model, iter([pytest.fail]))  # type: ignore[list-item]
    with ah.capture_statistics(model, fields=4) as statistics, ah.mode(model, "exact"):
        model(x)
    with pytest.raises(TableError, match=rf"^{wide} .*has no table.*at most 24 bits"):
        statistics["0"].error(wide)


def _compensated(biased: Any) -> tuple[nn.Module, Tensor]:
    layer, x = LAYERS["linear"]()
    net = ah.approximate(nn.Sequential(layer, nn.Linear(3, 2)), biased("8ux8u"))
    ah.calibrate(net, [x]).eval()
    ah.compensate(net, [x])
    return net, x


@pytest.mark.parametrize("kept", ["", "1.", "0.weight"])
def test_a_checkpoint_that_does_not_speak_of_it_leaves_it(biased: Any, kept: str) -> None:
    """Parts of a checkpoint, and weights alone, are loaded without losing it in other layers."""
    net, x = _compensated(biased)
    with torch.no_grad():
        y = net(x)
        part = {k: v for k, v in net.state_dict().items() if kept and k.startswith(kept)}
        net.load_state_dict(part, strict=False)
        assert torch.equal(net(x), y)
        if kept == "0.weight":
            with pytest.raises(RuntimeError, match="Missing key"):
                net.load_state_dict(part)
            assert torch.equal(net(x), y)


def test_a_checkpoint_of_a_layer_without_takes_it_away(biased: Any) -> None:
    """Loaded is what was saved: there it was nothing."""
    net, x = _compensated(biased)
    plain = copy.deepcopy(net)
    for i in (0, 1):
        plain[i].set_compensation(None)
    net.load_state_dict(plain.state_dict())
    assert net[0].compensation is None
    with torch.no_grad():
        assert torch.equal(net(x), plain(x))


def test_it_compiles_into_one_graph(biased: Any) -> None:
    """Whether it is for the present circuit is known before a pass is traced."""
    net, x = _compensated(biased)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(net, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), net(x))


@pytest.mark.parametrize("shape", [(), (1,), (2,), (3, 1)])
def test_one_of_another_shape_is_refused(biased: Any, shape: tuple[int, ...]) -> None:
    """Nothing is broadcast that somebody did not mean; the old one stays."""
    net, _ = _compensated(biased)
    before = net[0].compensation
    with pytest.raises(InputError, match="each of 3 channels"):
        net[0].set_compensation(torch.zeros(shape))
    assert net[0].compensation is before
