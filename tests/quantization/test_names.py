"""Calibrators by name: one strict grammar for their options."""

from __future__ import annotations

import pytest

from approxhub.errors import CalibrationError, InputError, NotFoundError, PluginError
from approxhub.operands import OperandFormat
from approxhub.plugins import CalibratorInfo, hookimpl, host
from approxhub.quantization import CodeRange, MinMax, MovingAverage, Percentile, Quantizer
from approxhub.quantization.names import make_calibrator


@pytest.mark.parametrize(
    ("text", "kind", "options"),
    [
        ("minmax", MinMax, {}),
        ("moving-average", MovingAverage, {"momentum": 0.1}),
        ("moving-average(0.25)", MovingAverage, {"momentum": 0.25}),
        ("moving-average(momentum=1)", MovingAverage, {"momentum": 1.0}),
        ("percentile", Percentile, {"percent": 99.99}),
        ("percentile(99)", Percentile, {"percent": 99.0}),
        ("percentile( percent=99.9 )", Percentile, {"percent": 99.9}),
    ],
)
def test_what_a_text_makes(text, kind, options):
    """A name makes its calibrator, with the options in parentheses or the defaults."""
    made = make_calibrator(text)
    assert type(made) is kind
    assert {key: getattr(made, key) for key in options} == options


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("percentile(", "is not a calibrator"),
        ("percentile(99))", "is not a calibrator"),
        ("percentile (99)", "is not a calibrator"),
        ("", "is not a calibrator"),
        ("percentile()", "'' is not option=number"),
        ("percentile(1e2)", "'1e2' is not option=number"),
        ("percentile(nan)", "'nan' is not option=number"),
        ("percentile(-99)", "'-99' is not option=number"),
        ("percentile(99, 98)", "'98' is not option=number"),
        ("percentile(percent = 99)", "is not option=number"),
        ("percentile(99.9.9)", "percent must be of type float"),
        ("percentile(99, percent=99)", "'percent' is given twice; options: percent"),
        ("percentile(momentum=1)", "'momentum' is not an option of it; options: percent"),
        ("minmax(3)", "'3' is not an option of it; options: none"),
    ],
)
def test_bad_texts(text, says):
    """What is no name with options is refused, with what is wrong with it."""
    with pytest.raises(InputError) as caught:
        make_calibrator(text)
    assert says in str(caught.value)


def test_bad_names_and_values():
    """An unknown name, and a value that the calibrator does not take, have errors of their own."""
    with pytest.raises(NotFoundError, match="percentile"):
        make_calibrator("percentil(99)")
    with pytest.raises(CalibrationError, match="percent"):
        make_calibrator("percentile(101)")


def test_options_are_kept():
    """A quantiser keeps the text, and makes each fresh calibrator with its options."""
    q = Quantizer(CodeRange.full(OperandFormat(8, False)), calibrator="percentile(90)")
    q.restart()
    assert q.calibrator_name == "percentile(90)"
    assert q.calibrator.percent == 90
    assert "percentile(90)" in repr(q)


class _Plugin:
    @hookimpl
    def approxhub_calibrators(self):
        def make(width: int = 3, share: float = 0.5, label: str = "x"):
            if width > 9:
                raise ZeroDivisionError("too wide")
            found = MinMax()
            found.options = (width, share, label)
            return found

        return [CalibratorInfo("theirs", lambda: make)]


def test_options_of_a_plug_in():
    """A plug-in's options are the parameters with numbers; its failures bear its name."""
    host().register(_Plugin(), "plugin-of-a-test")
    assert make_calibrator("theirs").options == (3, 0.5, "x")
    assert make_calibrator("theirs(7, share=0.25)").options == (7, 0.25, "x")
    for text in ("theirs(7.5)", "theirs(label=3)"):
        with pytest.raises(InputError):
            make_calibrator(text)
    with pytest.raises(PluginError, match="too wide"):
        make_calibrator("theirs(width=10)")
