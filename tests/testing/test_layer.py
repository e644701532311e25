"""The kit for layer converters: right ones pass, and each way to be wrong is caught."""

# ruff: noqa: D102 - the methods of the made-up layers are those of their base
from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from approxhub.nn import Conv2d, Linear
from approxhub.plugins import LayerConverter, host
from approxhub.testing import LayerConformance

LINEAR = "torch.nn.modules.linear.Linear"


class TestLinear(LayerConformance):
    """Ours, with a bias and leading dimensions."""

    def make_converter(self) -> LayerConverter:
        return host().get("approxhub_converters", LayerConverter, LINEAR)

    def make_layer(self) -> nn.Module:
        return nn.Linear(5, 3)

    def make_input(self) -> Tensor:
        return torch.randn(4, 2, 5)


class TestConv2d(LayerConformance):
    """Ours, with groups, stride and dilation; the kit finds the products by itself."""

    def make_converter(self) -> LayerConverter:
        return host().get("approxhub_converters", LayerConverter, "torch.nn.modules.conv.Conv2d")

    def make_layer(self) -> nn.Module:
        return nn.Conv2d(4, 6, (3, 2), stride=(1, 2), dilation=(1, 2), groups=2)

    def make_input(self) -> Tensor:
        return torch.randn(2, 4, 5, 6)


class TestPaddedConv2d(TestConv2d):
    """Ours, with padding: its code goes through the multiplier, as `loop` says."""

    def make_layer(self) -> nn.Module:
        return nn.Conv2d(2, 3, (3, 2), padding=(1, 2), bias=False)

    def make_input(self) -> Tensor:
        return torch.randn(2, 2, 4, 3)

    def loop(self, layer: nn.Module, x: Any, w: Any, product: Callable[..., Any]) -> Any:
        # Codes of padding are z_x: it is what the loop's product makes 0 of, with the exact table.
        before, after = (1, 1), (2, 2)
        z = self._zero_point
        x = np.pad(x, ((0, 0), (0, 0), before, after), constant_values=z)
        n, o = x.shape[0], w.shape[0]
        size = x.shape[2] - w.shape[2] + 1, x.shape[3] - w.shape[3] + 1
        out = np.zeros((n, o, *size), dtype=np.int64)
        for i, c, y, column in np.ndindex(*out.shape):
            met = x[i, :, y : y + w.shape[2], column : column + w.shape[3]]
            out[i, c, y, column] = product(met, w[c]).sum()
        return out

    def _integral(self, multiplier: Any, **options: Any) -> Any:
        layer, x = super()._integral(multiplier, **options)
        self._zero_point = int(layer.input_quantizer.zero_point)
        return layer, x


# --- what is wrong ---------------------------------------------------------------------------


class Swapped(Linear):
    """Meets its table the other way round."""

    def _use(self, m: Any, effective: Any, mapping: Any) -> None:
        super()._use(m, effective.swap() if effective.a == effective.b else effective, mapping)


class NoZeroPoint(Linear):
    """Forgets a correction of zero points."""

    def _integer_forward(self, x_codes: Tensor, w_codes: Tensor, bias: Any, product: Any) -> Tensor:
        k = w_codes.shape[1]
        from approxhub.ops import lut_gemm

        acc = lut_gemm(x_codes, w_codes.t(), self._handles[self._mode], self._accumulator(k))
        return self._dequantized(acc, k, None, None, bias)


class Halves(Linear):
    def _integer_forward(self, *args: Any) -> Tensor:
        return super()._integer_forward(*args) / 2


class DropsBatch(Linear):
    def _integer_path(self, x: Tensor, *args: Any) -> Tensor:
        return super()._integer_path(x, *args).reshape(-1, self.out_features)


class AlwaysApproximate(Linear):
    def _integer_path(self, x: Tensor, *args: Any) -> Tensor:
        self._mode = "approximate"
        return super()._integer_path(x, *args)


class NeverApproximate(Linear):
    def _integer_forward(self, *args: Any) -> Tensor:
        self._mode, before = "exact", self._mode
        try:
            return super()._integer_forward(*args)
        finally:
            self._mode = before


class Inexact(Linear):
    """Is exact in neither mode, and not in the same way."""

    def _integer_forward(self, *args: Any) -> Tensor:
        return super()._integer_forward(*args) + (self._mode == "exact")


class RoundedFloat(Linear):
    def _float_forward(self, x: Tensor, *args: Any) -> Tensor:
        return super()._float_forward(x, *args).round()


class StaysMultiplied(Linear):
    def set_multiplier(self, *args: Any) -> None:
        pass


class Counts(Linear):
    """Moves its range in evaluation."""

    def _integer_path(self, x: Tensor, *args: Any) -> Tensor:
        self.input_quantizer.range_min -= 1
        return super()._integer_path(x, *args)


class Drifts(Linear):
    def _integer_path(self, x: Tensor, *args: Any) -> Tensor:
        self._passes = getattr(self, "_passes", 0) + 1
        return super()._integer_path(x, *args) + self._passes


class HiddenState(Linear):
    """Keeps something that no state_dict has."""

    def _integer_path(self, x: Tensor, *args: Any) -> Tensor:
        if self.training:
            self._seen = float(x.detach().abs().max())
        return super()._integer_path(x, *args) + getattr(self, "_seen", 0.0)


class SharesOnCopy(Linear):
    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def __reduce__(self) -> Any:
        return _same, (id(self),)


_alive: dict[int, nn.Module] = {}


def _same(key: int) -> nn.Module:
    return _alive[key]


class OddNames(Linear):
    """Its own state does not load."""

    def _load_from_state_dict(self, state: Any, prefix: str, *args: Any) -> None:
        state.pop(f"{prefix}weight", None)
        super()._load_from_state_dict(state, prefix, *args)


class NoGradient(Linear):
    def _integer_path(self, x: Tensor, *args: Any) -> Tensor:
        return super()._integer_path(x.detach(), *args)


class TurnedGradient(Linear):
    def _integer_path(self, x: Tensor, *args: Any) -> Tensor:
        y = super()._integer_path(x, *args)
        return y + (x.sum() - x.sum().detach())


class TakesIntegers(Linear):
    def _checked(self, x: Tensor) -> Tensor:
        return x.to(torch.float32)


class NeverAsks(Linear):
    def _integer_path(self, x: Tensor, *args: Any) -> Tensor:
        if not self.input_quantizer.calibrated:
            self.input_quantizer.observe(x)
        return super()._integer_path(x, *args)


class AssumesStrides(Linear):
    """Reads its input's memory, whatever the strides."""

    def _integer_path(self, x: Tensor, *args: Any) -> Tensor:
        return super()._integer_path(torch.as_strided(x, x.shape, _contiguous(x)), *args)


def _contiguous(x: Tensor) -> tuple[int, ...]:
    return torch.empty(x.shape, device="meta").stride()


class OneAtATime(Linear):
    """Keeps its input on itself for a while."""

    def _integer_path(self, x: Tensor, *args: Any) -> Tensor:
        self._here = getattr(self, "_here", 0) + 1
        time.sleep(0.01)
        self._here, before = self._here - 1, self._here
        return super()._integer_path(x, *args) * before


class BreaksGraphs(Linear):
    def _integer_path(self, x: Tensor, *args: Any) -> Tensor:
        torch._dynamo.graph_break()
        return super()._integer_path(x, *args)


def with_class(kind: type) -> Callable[..., Any]:
    """Convert to a class, as our converter does."""

    def convert(layer: nn.Linear, multiplier: Any, **options: Any) -> Any:
        made = kind.from_float(layer, multiplier, **options)
        _alive[id(made)] = made
        return made

    return convert


def _copies(layer: nn.Linear, multiplier: Any, **options: Any) -> Any:
    return Linear.from_float(copy.deepcopy(layer), multiplier, **options)


def _no_options(layer: nn.Linear, multiplier: Any, **options: Any) -> Any:
    return Linear.from_float(layer, multiplier)


def kit_of(convert: Any, name: str = LINEAR) -> type[LayerConformance]:
    """The kit on a way to convert linear layers."""

    class Kit(TestLinear):
        def make_converter(self) -> LayerConverter:
            return LayerConverter(name, convert)

    return Kit


class OddLayer(kit_of(with_class(Linear))):  # type: ignore[misc]
    """A layer of another class than the converter says."""

    def make_layer(self) -> nn.Module:
        return type("Odd", (nn.Linear,), {})(5, 3)


WRONG: list[tuple[Any, str, str]] = [
    (kit_of(with_class(Linear), "Linear"), "test_its_record", "full name"),
    (kit_of(_copies), "test_parameters_are_shared", "same objects"),
    (kit_of(lambda layer, m, **_: layer), "test_parameters_are_shared", "ApproxLayer"),
    (kit_of(_no_options), "test_options_are_taken", "options"),
    (kit_of(with_class(Swapped)), "test_sums", "results are wrong"),
    (kit_of(with_class(NoZeroPoint)), "test_sums", "mapping affine"),
    (kit_of(with_class(Halves)), "test_exact_mode", "results are wrong"),
    (kit_of(with_class(DropsBatch)), "test_sums", "shape"),
    (kit_of(with_class(AlwaysApproximate)), "test_exact_mode", "results are wrong"),
    (kit_of(with_class(Inexact)), "test_the_exact_multiplier_is_exact", "approximate equals"),
    (kit_of(with_class(AssumesStrides)), "test_any_strides", "results are wrong"),
    (kit_of(with_class(OneAtATime)), "test_several_threads", "other results"),
    (kit_of(with_class(BreaksGraphs)), "test_under_the_compiler", "could not be compiled"),
    (kit_of(with_class(RoundedFloat)), "test_float_mode", "bit for bit"),
    (kit_of(with_class(NeverApproximate)), "test_modes_change_nothing_else", "was exact"),
    (kit_of(with_class(Drifts)), "test_modes_change_nothing_else", "no memory"),
    (kit_of(with_class(StaysMultiplied)), "test_another_multiplier", "results are wrong"),
    (kit_of(with_class(Counts)), "test_evaluation_changes_no_state", "changed input_quantizer"),
    (kit_of(with_class(Drifts)), "test_evaluation_changes_no_state", "deterministic"),
    (kit_of(with_class(NeverAsks)), "test_it_asks_to_be_calibrated", "gave a result"),
    (kit_of(with_class(HiddenState)), "test_state_dict", "all that matters"),
    (kit_of(with_class(OddNames)), "test_state_dict", "its own loads"),
    (kit_of(with_class(OddNames)), "test_a_float_checkpoint_loads", "float checkpoint"),
    (kit_of(with_class(SharesOnCopy)), "test_copies", "shares nothing"),
    (kit_of(with_class(NoGradient)), "test_it_trains", "the input"),
    (kit_of(with_class(TurnedGradient)), "test_the_straight_through_gradient", "differs"),
    (kit_of(with_class(TakesIntegers)), "test_integer_inputs_are_refused", "integers"),
    (OddLayer, "test_it_is_found", "no layer that could be converted"),
]


@pytest.mark.parametrize(("kit", "clause", "words"), WRONG)
def test_a_wrong_layer_is_caught(kit, clause, words, run_kit):
    """Each fault breaks its clause, and the message says what the contract is."""
    assert words in run_kit(kit, clause)[clause]


def test_every_clause_is_broken_by_something():
    """No clause of the kit is there that nothing can fail."""
    clauses = {name for name in dir(LayerConformance) if name.startswith("test_")}
    assert clauses == {clause for _, clause, _ in WRONG}


def test_forgotten_padding_is_caught(run_kit):
    """Padding with code 0 in place of the zero point's is seen, through the loop of the kit."""

    class PadsWithZero(Conv2d):
        def _integer_path(self, x: Tensor, *args: Any) -> Tensor:
            return super()._integer_path(nn.functional.pad(x, (2, 2, 1, 1), value=1.0), *args)

    class Kit(TestPaddedConv2d):
        def make_converter(self) -> LayerConverter:
            def convert(layer: nn.Conv2d, multiplier: Any, **options: Any) -> Any:
                made = PadsWithZero.from_float(layer, multiplier, **options)
                made.padding = (0, 0)
                return made

            return LayerConverter("torch.nn.modules.conv.Conv2d", convert)

    assert run_kit(Kit, "test_sums") or run_kit(Kit, "test_exact_mode")
