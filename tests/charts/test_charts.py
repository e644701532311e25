"""Charts: the numbers they draw, and files that are whole, equal and nowhere else."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from approxhub.charts import (
    Point,
    check_target,
    draw_error_maps,
    draw_histogram,
    draw_pareto,
    error_map,
    errors_of,
)
from approxhub.errors import ChartError, InputError
from approxhub.multiplier import Multiplier, exact

ODD = Multiplier.from_function(lambda a, b: a * b + a, name="odd", a="3s", b="2u")
"""Not commutative, and its errors say which operand is which."""

POINTS = [Point("p", 0.1, 3.0, True), Point("q", 0.2, 0.0, True), Point("r", 0.3, 3.0, False)]


def test_error_map_is_by_value() -> None:
    """Rows are activations, columns weights, both in ascending order of values."""
    found = error_map(ODD)
    assert found.exhaustive
    assert found.mean.tolist() == [[a] * 4 for a in range(-4, 4)]


def test_error_map_averages() -> None:
    """Above 256 values a cell is the mean of its pairs, also where only one side is wide."""
    m = Multiplier.from_function(
        lambda a, b: a * b + (b % 4) + 1024 * (a % 2), name="m", a="10s", b="9u"
    )
    mean = error_map(m).mean
    assert mean.shape == (256, 256)
    a, b = np.arange(-512, 512), np.arange(512)
    errors = (b[None, :] % 4) + 1024 * (a[:, None] % 2)
    slow = [
        [errors[4 * i : 4 * i + 4, 2 * j : 2 * j + 2].mean() for j in (0, 1, 255)] for i in (0, 255)
    ]
    assert mean[np.ix_([0, 255], [0, 1, 255])].tolist() == slow
    narrow = Multiplier.from_function(lambda a, b: a * b + b, name="n", a="2u", b="10u")
    assert error_map(narrow).mean[0, :2].tolist() == [1.5, 5.5]


def test_error_map_of_a_circuit() -> None:
    """Without a table one pair in the middle of each cell is evaluated, and that is said."""
    m = Multiplier.from_function(
        lambda a, b: a * b + a - 2 * b, name="w", a="16s", b="16u", fingerprint="w"
    )
    found = error_map(m)
    assert (found.mean.shape, found.exhaustive) == ((256, 256), False)
    assert found.mean[1, 2] == (-32768 + 256 + 128) - 2 * (512 + 128)


def test_errors() -> None:
    """Errors are of all pairs with a table, signed; else of the sample of a seed."""
    assert sorted(errors_of(ODD).tolist()) == sorted(a for a in range(-4, 4) for _ in range(4))
    m = Multiplier.from_function(
        lambda a, b: a * b - 3, name="w", a="16s", b="16s", fingerprint="w"
    )
    assert set(errors_of(m).tolist()) == {-3}


@pytest.mark.parametrize(
    ("name", "start", "draw"),
    [
        ("a.svg", b"<?xml", lambda p: draw_error_maps([ODD, exact(4)], p)),
        ("a.SVG", b"<?xml", lambda p: draw_histogram([ODD, exact(4)], p)),
        ("a.png", b"\x89PNG", lambda p: draw_pareto(POINTS, "power", "error", p)),
    ],
)
def test_equal_charts_are_equal_bytes(tmp_path: Path, name: str, start: bytes, draw: Any) -> None:
    """Drawing twice gives the same bytes, of the kind that the suffix says, and no other file."""
    path = tmp_path / name
    draw(path)
    data = path.read_bytes()
    draw(path)
    assert data.startswith(start)
    assert data == path.read_bytes()
    assert b"<dc:date>" not in data
    assert list(tmp_path.iterdir()) == [path]


def test_refusals(tmp_path: Path) -> None:
    """Another suffix, no multiplier and too many are refused, and leave no file."""
    for draw in (
        lambda: draw_error_maps([ODD], tmp_path / "a.pdf"),
        lambda: draw_error_maps([ODD], tmp_path / "a"),
        lambda: draw_error_maps([], tmp_path / "a.png"),
        lambda: draw_error_maps([ODD] * 10, tmp_path / "a.png"),
        lambda: draw_histogram([ODD] * 9, tmp_path / "a.png"),
        lambda: draw_pareto([], "x", "y", tmp_path / "a.png"),
    ):
        with pytest.raises(InputError):
            draw()
    with pytest.raises(ChartError, match="cannot be written"):
        draw_histogram([ODD], tmp_path / "nowhere" / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chart is replaced whole or not at all."""
    path = tmp_path / "a.svg"
    path.write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ChartError, match="No space left"):
        draw_histogram([ODD], path)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where matplotlib is missing the error names the extra that brings it."""
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError("No module named 'matplotlib'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ChartError, match=r"pip install 'approxhub\[demo\]'"):
        check_target(tmp_path / "a.png")
