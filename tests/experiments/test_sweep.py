"""Sweeps: what they cost, what they keep, and what stops them."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.errors import (
    CalibrationError,
    ConversionError,
    EvaluationError,
    ExperimentError,
    InputError,
    MappingError,
    TableError,
    UnknownMultiplierError,
)
from approxhub.experiments import Results

FEW = ["exact:8s", "drum:8s/k=3", "mitchell:8u"]


class Passes(nn.Module):
    """A model that knows how often it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One layer."""
        RAN.append(len(x))
        return self.layer(x)


RAN: list[int] = []


@pytest.fixture
def small() -> tuple[nn.Module, torch.Tensor, Callable[[nn.Module], Any]]:
    """A model of one layer, inputs, and an evaluator."""
    torch.manual_seed(5)
    net, x = Passes().eval(), torch.randn(32, 6)
    RAN.clear()
    return net, x, lambda model: model(x).square().mean()


# --- what it costs, and what it gives ------------------------------------------------------


def test_one_calibration_and_as_many_evaluations_as_multipliers(small: Any) -> None:
    """The model runs once on each batch, once to count operations, and once per evaluation."""
    net, x, evaluate = small
    drawn: list[int] = []

    def batches() -> Any:
        for size in (4, 8):
            drawn.append(size)
            yield x[:size]

    ah.sweep(net, FEW, evaluate, batches())
    assert drawn == [4, 8]
    assert RAN == [4, 8, 4, 32, 32, 32]


def test_rows_are_what_one_gets_by_hand(digits: ModuleType) -> None:
    """Converting, calibrating and evaluating each multiplier by itself gives the same numbers."""
    rows = ah.sweep(digits.trained(), FEW, digits.evaluate, digits.calibration())
    for id, row in zip(FEW, rows, strict=True):
        model = ah.approximate(digits.trained(), id)
        ah.calibrate(model, digits.calibration())
        assert row.metrics == digits.evaluate(model.eval())
        assert row.mapping == str(model[0].mapping)
        assert row.identities == {id: ah.load(id).identity}


def test_order_of_multipliers_does_not_matter(digits: ModuleType) -> None:
    """No row depends on the ones before it, whatever formats and mappings those had."""
    ids = ["mitchell:8u", "drum:8s/k=3", "drum:4u/k=2", "float", "exact:8u"]
    there = ah.sweep(digits.trained(), ids, digits.evaluate, digits.calibration())
    back = ah.sweep(digits.trained(), ids[::-1], digits.evaluate, digits.calibration())
    assert there.rows == back.rows[::-1]


def test_float_is_the_model_itself(small: Any) -> None:
    """The row 'float' is of the unconverted model, and has no mapping and no energy."""
    net, x, evaluate = small
    (row,) = ah.sweep(net, ["float"], evaluate, [x])
    assert row.value == evaluate(net)
    assert (row.mapping, row.relative_energy, row.identities) == ("", None, {})


def test_the_models_own_mapping_is_kept_where_it_fits(small: Any) -> None:
    """A converted model keeps its mapping; a given one is used for all; else the default."""
    net, x, evaluate = small
    own = ah.calibrate(ah.approximate(net, "exact:8s", mapping="affine-signed"), [x])
    rows = ah.sweep(own, ["drum:8s/k=4", "drum:8u/k=4"], evaluate)
    assert [r.mapping for r in rows] == ["affine-signed", "affine"]
    rows = ah.sweep(net, ["drum:8u/k=4"], evaluate, [x], mapping="signmag-weights")
    assert rows[0].mapping == "signmag-weights"
    with pytest.raises(MappingError, match="drum:8u"):
        ah.sweep(net, ["drum:8s/k=4", "drum:8u/k=4"], evaluate, [x], mapping="symmetric")


def test_the_datapath_stands_in_the_row(small: Any) -> None:
    """What hardware does around the multipliers is an option, and part of what a row says."""
    net, x, evaluate = small
    plain, other = (
        ah.sweep(net, ["drum:8s/k=4"], evaluate, [x], mapping="affine-signed", **options)[0]
        for options in ({}, {"datapath": "zero_point=before"})
    )
    assert (plain.datapath, other.datapath) == ("", "zero_point=before")
    assert plain.value != other.value
    assert plain.key != other.key


def test_an_assignment_leaves_other_layers_exact(digits: ModuleType) -> None:
    """With a mapping of patterns, layers that none fits multiply exactly, in the same codes."""
    assignment = {"0": "drum:8s/k=3", "9": "drum:8s/k=4"}
    (row,) = ah.sweep(digits.trained(), [assignment], digits.evaluate, digits.calibration())
    assert row.multiplier == "0=drum:8s/k=3, 9=drum:8s/k=4"
    assert set(row.identities) == set(assignment.values())
    model = ah.approximate(digits.trained(), {**assignment, "*": "exact:8s"})
    ah.calibrate(model, digits.calibration())
    assert row.metrics == digits.evaluate(model.eval())


def test_energy_is_that_of_the_summary(circuit_with_power: Any, small: Any) -> None:
    """Relative energy is counted once and is what `summary` gives."""
    net, x, evaluate = small
    half, exact = circuit_with_power
    rows = ah.sweep(net, [half, exact], evaluate, [x])
    model = ah.approximate(net, half)
    assert rows[0].relative_energy == ah.summary(model, x).relative_energy
    assert rows[1].relative_energy == 1.0


@pytest.fixture
def circuit_with_power() -> tuple[ah.Multiplier, ah.Multiplier]:
    """An approximate circuit whose power is known, and the exact one it is compared with."""
    powered = [
        m for m in ah.registry.entries() if m.hardware.power_mw and m.exact and m.a.bits == 8
    ]
    entry = powered[0]
    exact = ah.exact(8, entry.a.signed)
    table = np.array(exact.table)
    table[3, 3] += 1
    make = ah.Multiplier.from_table
    return (
        make(
            table, name="half", a_signed=entry.a.signed, b_signed=entry.b.signed,
            hardware=type(entry.hardware)(power_mw=0.01, technology=entry.hardware.technology),
        ),
        exact,
    )  # fmt: skip


def test_an_evaluator_may_train_its_model(digits: ModuleType) -> None:
    """What an evaluator does to its model reaches neither the caller's nor the next row."""
    net = digits.trained()
    before = {n: p.clone() for n, p in net.state_dict().items()}

    def spoil(model: nn.Module) -> dict[str, float]:
        found = digits.evaluate(model)
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
        model.train()
        return found

    rows = ah.sweep(net, ["exact:8s", "drum:8s/k=3"], spoil, digits.calibration())
    clean = ah.sweep(net, ["exact:8s", "drum:8s/k=3"], digits.evaluate, digits.calibration())
    assert rows.rows == clean.rows
    assert all(torch.equal(before[n], p) for n, p in net.state_dict().items())
    assert not net.training


def test_an_evaluator_may_draw_random_numbers(small: Any) -> None:
    """The seed decides what it draws, for every row anew; the caller's generators go on."""
    net, x, _ = small

    def draw(model: nn.Module) -> dict[str, float]:
        return {"t": float(torch.rand(1)), "n": np.random.rand(), "r": random.random()}

    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    one, two = ah.sweep(net, FEW[:2], draw, [x], seed=7)
    assert one.metrics == two.metrics
    assert one.seed == 7
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    assert one.metrics == draw(net)


def test_progress_is_told(small: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A function is told each step; True prints to stderr; nothing is printed otherwise."""
    net, x, evaluate = small
    told: list[tuple[int, int, str]] = []
    ah.sweep(net, FEW[:2], evaluate, [x], progress=lambda *step: told.append(step))
    assert told == [
        (0, 2, "calibrating"), (0, 2, "exact:8s"), (1, 2, "drum:8s/k=3"), (2, 2, "done"),
    ]  # fmt: skip
    assert capsys.readouterr() == ("", "")
    ah.sweep(net, FEW[:2], evaluate, [x], progress=True)
    assert "[1/2] drum:8s/k=3" in capsys.readouterr().err


def test_one_layer_at_a_time(digits: ModuleType) -> None:
    """A row for each multiplier and layer, each what a model with that one layer gives."""
    rows = ah.sensitivity(
        digits.trained(), ["drum:8s/k=3", "mitchell:8u"], digits.evaluate, digits.calibration(),
        layers=["0", "9"],
    )  # fmt: skip
    assert [(r.multiplier, r.layer) for r in rows] == [
        ("drum:8s/k=3", "0"), ("drum:8s/k=3", "9"), ("mitchell:8u", "0"), ("mitchell:8u", "9"),
    ]  # fmt: skip
    model = ah.approximate(digits.trained(), {"9": "mitchell:8u", "*": "exact:8u"})
    ah.calibrate(model, digits.calibration())
    assert rows[3].metrics == digits.evaluate(model.eval())
    with pytest.raises(InputError, match=r"no approximate layer is called 'x'; there are 0, 3"):
        ah.sensitivity(digits.trained(), FEW, digits.evaluate, digits.calibration(), layers="x")


def test_compensation_counts_codes_once_for_each_format(digits: ModuleType) -> None:
    """Rows are what compensating each model by hand gives; one pass serves many multipliers."""
    ids = ["float", "truncation:8s/a=3,b=3", "drum:8s/k=3", "truncation:8u/a=3,b=3"]
    drawn: list[int] = []

    class Batches:
        def __iter__(self) -> Any:
            drawn.append(1)
            return iter(digits.calibration())

    rows = ah.sweep(digits.trained(), ids, digits.evaluate, Batches(), compensate=True)
    assert len(drawn) == 1 + 2  # calibration, and signed and unsigned codes
    assert [row.compensated for row in rows] == [False, True, True, True]
    for row in rows[1:]:
        model = ah.approximate(digits.trained(), row.multiplier)
        ah.calibrate(model, digits.calibration()).eval()
        ah.compensate(model, digits.calibration())
        assert row.metrics == digits.evaluate(model)
    plain = ah.sweep(digits.trained(), ids, digits.evaluate, digits.calibration())
    for biased in (1, 3):
        assert rows[biased].value > plain[biased].value + 0.03


def test_a_multiplier_without_a_table_cannot_be_compensated(small: Any) -> None:
    """It is refused by name before anything runs; with skip_failures the others are evaluated."""
    net, x, evaluate = small
    with pytest.raises(TableError, match=r"^exact:16s .*has no table.*at most 24 bits"):
        ah.sweep(net, ["exact:8s", "exact:16s"], evaluate, [x], compensate=True)
    assert RAN == []
    ids = ["exact:8s", "exact:16s", {"*": "drum:16s/k=4"}]
    found = ah.sweep(net, ids, evaluate, [x], compensate=True, skip_failures=True)
    assert [row.multiplier for row in found] == ["exact:8s"]
    assert [name for name, _ in found.failed] == ["exact:16s", "*=drum:16s/k=4"]
    assert all(isinstance(error, TableError) for _, error in found.failed)


def test_batch_norm_is_taken_anew_for_each_multiplier(tmp_path: Path) -> None:
    """Rows are what doing it by hand gives, and lie in one file beside the others."""
    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x, path, ids = torch.randn(64, 6), tmp_path / "rows", FEW[1:]

    def evaluate(model: nn.Module) -> Any:
        return model(x).square().mean()

    ah.sweep(net, ids, evaluate, [x], path=path)
    rows = ah.sweep(net, ids, evaluate, [x], path=path, reestimate_batch_norm=True)
    for row in rows:
        model = ah.calibrate(ah.approximate(net, row.multiplier), [x])
        ah.reestimate_batch_norm(model, [x])
        assert row.value == evaluate(model).item()
    flags = [(r.batch_norm_reestimated, r.compensated) for r in Results.read(path)]
    assert flags == [(False, False)] * 2 + [(True, False)] * 2


def test_preparation_needs_batches_that_can_be_read_again(small: Any) -> None:
    """None, a generator, and a model without batch normalisation are refused at once."""
    net, x, evaluate = small
    done = ah.calibrate(ah.approximate(net, "exact:8s"), [x])
    RAN.clear()
    with pytest.raises(InputError, match="give them as `calibration`"):
        ah.sweep(done, FEW, evaluate, compensate=True)
    with pytest.raises(InputError, match="not a list_iterator"):
        ah.sweep(net, FEW, evaluate, iter([x]), compensate=True)
    assert RAN == []
    with pytest.raises(InputError, match="no batch normalisation"):
        ah.sweep(net, FEW, evaluate, [x], reestimate_batch_norm=True)


# --- what it keeps --------------------------------------------------------------------------


def test_rows_can_be_reproduced_from_the_file(small: Any, tmp_path: Path) -> None:
    """A row has mapping, datapath, seed, versions, id, hash and energy, in JSON and in CSV."""
    net, x, evaluate = small
    kept = ah.sweep(net, FEW, evaluate, [x], path=tmp_path / "new" / "rows.json")
    assert kept.path == tmp_path / "new" / "rows"
    value = json.loads((tmp_path / "new" / "rows.json").read_text())
    assert value["schema_version"] == 1
    assert value["setting"]["model_sha256"]
    assert value["setting"]["ranges"] == {"layer.input_quantizer": [float(x.min()), float(x.max())]}
    assert value["rows"] == [row.to_json() for row in kept]
    with (tmp_path / "new" / "rows.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    for line, row in zip(table, kept, strict=True):
        assert line["schema_version"] == "1"
        assert line["multiplier"] == row.multiplier
        assert float(line["score"]) == row.value
        assert line["identities"] == f"{row.multiplier}={ah.load(row.multiplier).identity}"
        assert (line["mapping"], line["datapath"], line["seed"]) == (row.mapping, "", "0")
        assert line["relative_energy"] == str(row.relative_energy or "")
        assert line["version_torch"] == torch.__version__
        assert line["version_approxhub"] == ah.__version__
        assert line["version_numpy"] == np.__version__
    assert Results.read(tmp_path / "new" / "rows.csv").rows == kept.rows


def test_a_sweep_killed_twice_equals_an_uninterrupted_one(
    digits: ModuleType, tmp_path: Path
) -> None:
    """Killed with SIGKILL twice, it goes on; files are equal, byte for byte.

    All in all it costs one calibration and an evaluation each, and those that were killed.
    """
    net, whole, broken = digits.trained(), tmp_path / "whole", tmp_path / "broken"
    ids = digits.IDS[::5]
    evaluate, calls = digits.counting()
    assert len(ah.sweep(net, ids, evaluate, digits.calibration(), path=whole)) == 10
    assert len(calls) == 10
    for stop in (2, 6):
        assert _killed(digits, broken, ids, at=stop)
    rows = len(Results.read(broken))
    assert rows == 6
    calls.clear()

    def no_batches() -> Any:
        raise AssertionError("calibrated again")
        yield

    resumed = ah.sweep(net, ids, evaluate, no_batches(), path=broken)
    assert len(calls) == 10 - rows
    assert [r.multiplier for r in resumed] == ids
    for suffix in (".json", ".csv"):
        assert Path(f"{whole}{suffix}").read_bytes() == Path(f"{broken}{suffix}").read_bytes()
    left = sorted(p.name for p in tmp_path.iterdir())
    assert not any(name.endswith(".tmp") for name in left), left


def _killed(
    digits: ModuleType, path: Path, ids: list[str], at: int | None = None, after: float = 60.0
) -> bool:
    """Sweep in another process; kill it before a given evaluation, or after some seconds.

    Returns whether it was killed before it had finished.
    """

    def progress(done: int, total: int, what: str) -> None:
        if done == at:
            os.kill(os.getpid(), signal.SIGKILL)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that forking and threads do not mix; it has one
        child = os.fork()
    if not child:
        try:
            ah.sweep(
                digits.trained(), ids, digits.evaluate, digits.calibration(), path=path,
                progress=progress,
            )  # fmt: skip
        finally:
            os._exit(0)
    if at is None:
        time.sleep(after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.slow
def test_killed_at_any_moment(digits: ModuleType, tmp_path: Path) -> None:
    """Killed twelve times, at moments that chance draws, nothing is torn and nothing is lost."""
    net = digits.trained()
    whole = ah.sweep(net, digits.IDS, digits.evaluate, digits.calibration())
    chance, broken, kills, seen = random.Random(0), tmp_path / "broken", 0, 0
    while kills < 12:
        kills += _killed(digits, broken, digits.IDS, after=chance.uniform(0.05, 0.5))
        rows = Results.read(broken).rows if Path(f"{broken}.json").exists() else []
        assert rows == whole.rows[: len(rows)]
        assert len(rows) >= seen
        seen = len(rows)
        if seen == 50:
            for suffix in (".json", ".csv"):
                Path(f"{broken}{suffix}").unlink()
            seen = 0
    resumed = ah.sweep(net, digits.IDS, digits.evaluate, digits.calibration(), path=broken)
    assert resumed.rows == whole.rows


def test_the_files_are_whole_at_every_step_of_writing(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before or after each replacement of a file, the same call completes the table."""
    net, x, evaluate = small
    whole = ah.sweep(net, FEW, evaluate, [x])
    replace = os.replace
    for stop in range(2 * (len(FEW) + 2)):
        for after in (False, True):
            path, steps = tmp_path / f"{stop}{after}", iter(range(100))

            def stopping(
                a: Any, b: Any, steps: Any = steps, stop: int = stop, after: bool = after
            ) -> None:
                now = next(steps) == stop
                if now and not after:
                    raise KeyboardInterrupt
                replace(a, b)
                if now:
                    raise KeyboardInterrupt

            monkeypatch.setattr(os, "replace", stopping)
            with pytest.raises(KeyboardInterrupt):
                ah.sweep(net, FEW, evaluate, [x], path=path)
            monkeypatch.setattr(os, "replace", replace)
            assert ah.sweep(net, FEW, evaluate, [x], path=path).rows == whole.rows
            assert Results.read(path).rows == whole.rows
            with Path(f"{path}.csv").open(newline="") as file:
                assert len(list(csv.DictReader(file))) == len(FEW)


def test_more_multipliers_are_added_to_the_same_file(small: Any, tmp_path: Path) -> None:
    """Other ids, mappings and seeds go into the same table; what is there is not evaluated."""
    net, x, evaluate = small
    path = tmp_path / "rows"
    first = ah.sweep(net, FEW[:2], evaluate, [x], path=path)
    RAN.clear()
    more = ah.sweep(net, FEW[::-1], evaluate, [x], path=path)
    assert RAN == [32]
    assert more.rows[1:] == first.rows[::-1]
    ah.sweep(net, FEW[1:2], evaluate, [x], path=path, mapping="affine-signed")
    ah.sweep(net, FEW[1:2], evaluate, [x], path=path, seed=1)
    ah.sensitivity(net, FEW[1:2], evaluate, [x], path=path)
    assert [(r.multiplier, r.mapping, r.seed, r.layer) for r in Results.read(path)] == [
        ("exact:8s", "symmetric", 0, None),
        ("drum:8s/k=3", "symmetric", 0, None),
        ("mitchell:8u", "affine", 0, None),
        ("drum:8s/k=3", "affine-signed", 0, None),
        ("drum:8s/k=3", "symmetric", 1, None),
        ("drum:8s/k=3", "symmetric", 0, "layer"),
    ]


def test_going_on_says_what_is_kept_and_used(
    small: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Kept rows are counted, and not told as evaluations; other batches change no range, as said.

    Without batches there is nothing to warn of.
    """
    net, x, evaluate = small
    path = tmp_path / "rows"
    told: list[tuple[int, int, str]] = []
    with caplog.at_level(logging.WARNING, "approxhub"):
        ah.sweep(net, FEW[:2], evaluate, [x], path=path)
        before = json.loads((tmp_path / "rows.json").read_text())["setting"]
        ah.sweep(net, FEW[:2], evaluate, path=path)
        assert caplog.messages == []
        ah.sweep(net, FEW, evaluate, [9 * x], path=path, progress=lambda *s: told.append(s))
    assert caplog.messages == [
        f"using the ranges kept in {path}.json; the calibration given is not used for ranges"
    ]
    assert told == [
        (0, 3, f"2 rows kept from {path}.json"), (2, 3, "mitchell:8u"), (3, 3, "done"),
    ]  # fmt: skip
    assert json.loads((tmp_path / "rows.json").read_text())["setting"] == before


def test_another_table_of_the_same_name_is_another_row(small: Any, tmp_path: Path) -> None:
    """What counts is the table's hash: a row is not taken for one of another circuit."""
    net, x, evaluate = small
    tables = [np.outer(np.arange(256), np.arange(256)) for _ in range(2)]
    tables[1][1:] -= 200
    make = ah.Multiplier.from_table
    one, two = (make(t, name="mine", a_signed=False, b_signed=False) for t in tables)
    for m in (one, two):
        ah.sweep(net, [m], evaluate, [x], path=tmp_path / "rows")
    rows = Results.read(tmp_path / "rows").rows
    assert [r.identities for r in rows] == [{m.id: m.identity} for m in (one, two)]
    assert rows[0].value != rows[1].value


def test_rows_of_another_model_are_not_mixed(small: Any, tmp_path: Path) -> None:
    """Other weights, another structure or other ranges are refused, and the file is as it was."""
    net, x, evaluate = small
    path = tmp_path / "rows"
    ah.sweep(net, FEW[:1], evaluate, [x], path=path)
    before = (tmp_path / "rows.json").read_bytes()
    other = Passes()
    with pytest.raises(ExperimentError, match="another model"):
        ah.sweep(other, FEW[:2], evaluate, [x], path=path)
    with pytest.raises(ExperimentError, match="another model"):
        ah.sweep(nn.Sequential(net, nn.ReLU()), FEW[:2], evaluate, [x], path=path)
    with pytest.raises(ExperimentError, match="another model"):
        ah.sweep(net, FEW[:2], evaluate, [x], path=path, per_channel=False)
    converted = ah.calibrate(ah.approximate(net, "exact:8s"), [2 * x])
    with pytest.raises(ExperimentError, match=r"another calibration .*input_quantizer"):
        ah.sweep(converted, FEW[:2], evaluate, path=path)
    assert (tmp_path / "rows.json").read_bytes() == before
    assert len(ah.sweep(net, FEW[:2], evaluate, [x], path=path)) == 2


def test_two_processes_do_not_write_one_file(small: Any, tmp_path: Path) -> None:
    """While one sweep writes a path, another one of the same path is refused."""
    net, x, evaluate = small

    def nested(model: nn.Module) -> Any:
        with pytest.raises(ExperimentError, match="another process is writing"):
            ah.sweep(net, FEW[:1], evaluate, [x], path=tmp_path / "rows")
        return evaluate(model)

    assert len(ah.sweep(net, FEW[:1], nested, [x], path=tmp_path / "rows")) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[1]", "not a file of results"),
        ('{"schema_version": 1}', "not a file of results"),
        ('{"schema_version": 99, "setting": {}, "rows": []}', "version 99"),
        ('{"schema_version": 1, "setting": {}, "rows": [{"a": 1}]}', "damaged"),
        ('{"schema_version": 1, "setting": {}, "rows": 3}', "damaged"),
    ],
)
def test_a_file_that_is_something_else_is_left_alone(
    small: Any, tmp_path: Path, text: str, said: str
) -> None:
    """What is no file of results is named, and not overwritten."""
    net, x, evaluate = small
    file = tmp_path / "rows.json"
    file.write_text(text)
    with pytest.raises(ExperimentError, match=said):
        ah.sweep(net, FEW, evaluate, [x], path=file)
    with pytest.raises(ExperimentError, match=said):
        Results.read(file)
    assert file.read_text() == text
    assert RAN == []


def test_a_path_that_cannot_be_written_is_said_before_any_work(small: Any, tmp_path: Path) -> None:
    """A path below a file is refused, and nothing ran."""
    net, x, evaluate = small
    (tmp_path / "file").write_text("")
    with pytest.raises(ExperimentError, match="cannot be kept"):
        ah.sweep(net, FEW, evaluate, [x], path=tmp_path / "file" / "rows")
    with pytest.raises(ExperimentError, match="cannot be kept at /proc/dg: "):
        ah.sweep(net, FEW, evaluate, [x], path="/proc/dg")  # where nobody can make a file
    os.mkfifo(tmp_path / "rows.csv")
    with pytest.raises(ExperimentError, match="it is a pipe; name a regular file"):
        ah.sweep(net, FEW, evaluate, [x], path=tmp_path / "rows")
    assert RAN == []


# --- what stops it ---------------------------------------------------------------------------


def _after(evaluate: Callable[[nn.Module], Any], n: int, then: Callable[[], Any]) -> Any:
    """An evaluator that does something else after some evaluations."""
    done: list[int] = []

    def evaluator(model: nn.Module) -> Any:
        done.append(1)
        return evaluate(model) if len(done) <= n else then()

    return evaluator


def _raise() -> Any:
    raise ValueError("labels are missing")


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (
            _raise,
            r"raised ValueError with drum:8s/k=3: labels are missing \(.*test_sweep\.py, line",
        ),
        (lambda: float("nan"), r"returned nan as score with drum:8s/k=3"),
        (lambda: {"score": float("inf")}, r"returned inf as score"),
        (lambda: "good", r"returned 'good' as score .* must return a number"),
        (lambda: None, r"returned None as score"),
        (lambda: {}, r"returned no number"),
        (lambda: torch.zeros(3), r"as score .* must return a number"),
        (lambda: {"score": 1.0, "seed": 2.0}, r"cannot be called 'seed'"),
        (lambda: {3: 1.0}, r"cannot be called 3"),
    ],
)
def test_finished_rows_are_kept_when_an_evaluator_fails(
    small: Any, tmp_path: Path, then: Callable[[], Any], said: str
) -> None:
    """The error names the multiplier and the file; the same call then goes on from there."""
    net, x, evaluate = small
    path = tmp_path / "rows"
    with pytest.raises(EvaluationError, match=said) as caught:
        ah.sweep(net, FEW, _after(evaluate, 1, then), [x], path=path)
    assert f"1 finished row is kept in {path}.json" in str(caught.value)
    assert [r.multiplier for r in Results.read(path)] == FEW[:1]
    RAN.clear()
    assert len(ah.sweep(net, FEW, evaluate, [x], path=path)) == 3
    assert RAN == [32, 32]


def test_failures_can_be_skipped(small: Any, tmp_path: Path) -> None:
    """With skip_failures the others are evaluated; what failed is tried again next time."""
    net, x, evaluate = small
    ids = ["exact:8s", "nosuch", "drum:8s/k=3", {"nolayer": "exact:8s"}]
    path = tmp_path / "rows"
    found = ah.sweep(net, ids, evaluate, [x], path=path, skip_failures=True)
    assert [r.multiplier for r in found] == ["exact:8s", "drum:8s/k=3"]
    assert [name for name, _ in found.failed] == ["nosuch", "nolayer=exact:8s"]
    failing = _after(evaluate, 0, _raise)
    found = ah.sweep(net, [*FEW, "roba:8s"], failing, [x], path=path, skip_failures=True)
    assert [name for name, _ in found.failed] == ["mitchell:8u", "roba:8s"]
    assert len(Results.read(path)) == 2


def test_a_multiplier_that_cannot_be_had_stops_it_before_any_work(small: Any) -> None:
    """All ids are loaded first: a typing error at the end does not cost a night."""
    net, x, evaluate = small
    with pytest.raises(UnknownMultiplierError, match="nosuch"):
        ah.sweep(net, [*FEW, "nosuch"], evaluate, [x])
    with pytest.raises(UnknownMultiplierError, match="nosuch"):
        ah.sweep(net, ["nosuch"], evaluate, [x], skip_failures=True)
    assert RAN == []


def test_another_evaluators_metrics_are_not_mixed(small: Any, tmp_path: Path) -> None:
    """Rows of one file have the same metrics."""
    net, x, evaluate = small
    ah.sweep(net, FEW[:1], evaluate, [x], path=tmp_path / "rows")
    with pytest.raises(ExperimentError, match=r"returned loss, but earlier rows have score"):
        ah.sweep(net, FEW[:2], lambda m: {"loss": 1.0}, [x], path=tmp_path / "rows")


def test_models_that_cannot_be_swept(small: Any) -> None:
    """No layers, no ranges, meta tensors, no model: each is said, with what to do."""
    net, x, evaluate = small
    with pytest.raises(ConversionError, match="no layer that could be converted"):
        ah.sweep(nn.Sequential(nn.ReLU()), FEW, evaluate, [x])
    with pytest.raises(CalibrationError, match="nothing to calibrate it with"):
        ah.sweep(net, FEW, evaluate)
    with pytest.raises(CalibrationError, match="at least one batch"):
        ah.sweep(net, FEW, evaluate, [])
    with pytest.raises(InputError, match=r"write \[x\]"):
        ah.sweep(net, FEW, evaluate, x)
    with pytest.raises(InputError, match=r"layer.weight is on the meta device"):
        ah.sweep(Passes().to("meta"), FEW, evaluate, [x])
    with pytest.raises(InputError, match="Module is needed"):
        ah.sweep("net", FEW, evaluate, [x])  # type: ignore[arg-type]


def test_mixed_devices_are_said(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model on two kinds of device, batches elsewhere, an evaluator's data elsewhere."""
    from approxhub.experiments import sweeping

    net, x, evaluate = small
    with pytest.raises(InputError, match="batches are on meta, but the model is on cpu"):
        ah.sweep(net, FEW, evaluate, [x.to("meta")])

    def apart(model: nn.Module) -> Any:  # what torch says, where there is an accelerator
        raise RuntimeError("Expected all tensors to be on the same device, but found two")

    with pytest.raises(EvaluationError, match=r"the evaluator was given is on cpu\)"):
        ah.sweep(net, FEW, apart, [x])

    class Elsewhere:
        """A tensor on an accelerator that is not here."""

        device = torch.device("cuda:0")

    monkeypatch.setattr(nn.Module, "named_buffers", lambda self: [("running", Elsewhere())])
    with pytest.raises(InputError, match=r"layer.weight on cpu, running on cuda; move all"):
        sweeping.require_one_device(net)


def test_wrong_arguments(small: Any) -> None:
    """One id instead of several, nothing at all, no evaluator, options without effect."""
    net, x, evaluate = small
    with pytest.raises(InputError, match=r"write \[m\]"):
        ah.sweep(net, "exact:8s", evaluate, [x])
    with pytest.raises(InputError, match="no multipliers"):
        ah.sweep(net, [], evaluate, [x])
    with pytest.raises(InputError, match="must not be empty"):
        ah.sweep(net, [{}], evaluate, [x])
    with pytest.raises(InputError, match="callable"):
        ah.sweep(net, FEW, 3, [x])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="seed"):
        ah.sweep(net, FEW, evaluate, [x], seed=-1)
    done = ah.calibrate(ah.approximate(net, "exact:8s"), [x])
    with pytest.raises(InputError, match="skip would have no effect"):
        ah.sweep(done, FEW, evaluate, skip="layer")
    with pytest.raises(InputError, match="one multiplier at a time"):
        ah.sensitivity(net, [{"layer": "exact:8s"}], evaluate, [x])  # type: ignore[list-item]
