"""Every suite runs, says what it should, and never times a wrong path."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import approxhub as ah
from approxhub.backends import real
from approxhub.backends.cpu import CpuBackend
from approxhub.backends.native import load_library
from approxhub.bench import SUITES, Report, Settings, inference, run, training
from approxhub.bench.context import Context
from approxhub.bench.inference import compared_with_reference
from approxhub.bench.memory import peak_bytes, peak_bytes_of_step
from approxhub.bench.names import FAKE_QUANTISED, FP32, INT8, ONE_THREAD, SCALAR_LOOKUP
from approxhub.bench.native import LOOPS
from approxhub.bench.present import markdown, tables_of
from approxhub.errors import BackendUnavailableError, BenchmarkError, InputError

YARDSTICKS = {*LOOPS, FP32, INT8, SCALAR_LOOKUP, ONE_THREAD, FAKE_QUANTISED}


@pytest.fixture(autouse=True)
def _engine() -> None:
    try:
        load_library()
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@functools.cache
def quick(suite: str) -> Report:
    """A quick run of one suite."""
    settings = Settings((suite,), multipliers=_MULTIPLIERS.get(suite, ()), rounds=1, quick=True)
    # A process for each measurement takes seconds; it has a test of its own.
    with (
        mock.patch.object(inference, "peak_bytes", lambda x, out, kernel, id: 5 if id else 4),
        mock.patch.object(training, "peak_bytes_of_step", lambda n, size, id: 6 if id else 4),
    ):
        return run(settings)


_MULTIPLIERS = {"scaling": ("roba:8s",), "roofline": ("roba:8s",), "conv": ("roba:8s",)}


@pytest.mark.parametrize("suite", SUITES)
def test_suite(suite: str) -> None:
    """A suite gives rows of its own that can be written, read and shown."""
    report = quick(suite)
    assert report.rows
    assert {r.suite for r in report.rows} == {suite}
    assert Report.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False))) == report
    for row in report.rows:
        assert set(row.against) <= YARDSTICKS
        assert all(v > 0 for v in row.against.values())
        if row.seconds is not None and row.spread is not None:
            assert 0 < row.spread[0] <= row.seconds <= row.spread[1]
    for table in tables_of(report, suite):
        assert table.rows
        assert {len(line) for line in table.rows} == {len(table.header)}
    assert report.settings["command"].startswith(f"approxhub bench {suite} ")
    assert markdown(report, suite).count("\n| ") >= len(tables_of(report, suite))


def test_gemm_has_every_instruction_set() -> None:
    """Every multiplier is timed on every instruction set that this machine has."""
    rows = quick("gemm").of("gemm")
    engine = [r for r in rows if "isa" in r.details]
    isas = {r.details["isa"] for r in engine}
    assert isas == set(load_library().isas)
    assert len(engine) == len({r.details["multiplier"] for r in engine}) * len(isas)
    ways = {str(r.details["way"]) for r in engine}
    assert {"exact", "factored", "lookup"} <= ways
    assert {"torch fp32"} <= set(engine[0].against)
    for row in engine:
        assert (row.details["int8_products"] is None) == (row.details["way"] == "lookup")


def test_conv_has_every_kind() -> None:
    """Convolutions of one to three dimensions, depthwise and transposed ones are timed."""
    cases = {r.case.split(",")[0] for r in quick("conv").rows}
    assert {"3x3", "depthwise 3x3", "pointwise", "1d", "3d", "transposed 4x4"} <= cases


def test_scaling_has_every_sweep() -> None:
    """Each sweep has more than one value, and threads are compared with one thread."""
    values: dict[Any, set[Any]] = {}
    for row in quick("scaling").rows:
        values.setdefault(row.details["sweep"], set()).add(row.details["value"])
    assert set(values) == {"M", "K", "N", "rank of the error", "batch", "threads"}
    assert all(len(v) > 1 for v in values.values())
    threads = [r for r in quick("scaling").rows if r.details["sweep"] == "threads"]
    assert all(set(r.against) == {ONE_THREAD} for r in threads)
    assert all(r.against[ONE_THREAD] == 1 for r in threads if r.details["value"] == 1)


def test_network_has_layers_and_memory() -> None:
    """Whole networks, their different layers, and the peak memory of a layer stand in it."""
    kinds: dict[Any, set[str]] = {}
    for row in quick("network").rows:
        kinds.setdefault(row.details["kind"], set()).add(row.name)
    assert kinds["network"] == kinds["layer"] == {FP32, "roba:8s"}
    assert kinds["memory"] == {FP32, "roba:8s"}
    memory = [r.details for r in quick("network").rows if r.details["kind"] == "memory"]
    assert [(d["bytes"], d["over_fp32"]) for d in memory] == [(4, 1.0), (5, 1.25)]
    layers = {r.case for r in quick("network").rows if r.details["kind"] == "layer"}
    assert len(layers) == 9  # the sizes that a ResNet-20 has, the classifier among them


def test_train_has_steps_quantisers_and_memory() -> None:
    """Steps, quantising and the memory of a step are compared with torch's fake quantisation."""
    kinds: dict[Any, list[Any]] = {}
    for row in quick("train").rows:
        kinds.setdefault(row.details["kind"], []).append(row)
    assert [r.name for r in kinds["step"]] == [FAKE_QUANTISED, "roba:8s"]
    assert all(set(r.against) == {FAKE_QUANTISED} for r in kinds["step"] + kinds["quantiser"])
    assert len(kinds["quantiser"]) == 2
    memory = [r.details for r in kinds["memory"]]
    assert [(d["bytes"], d["over_fake_quantised"]) for d in memory] == [(4, 1.0), (6, 1.5)]


def test_the_yardstick_of_training_is_a_quantised_network() -> None:
    """It has the float network's weights, 8-bit operands, and a gradient for each parameter."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.Flatten(),
                                  torch.nn.Linear(16, 10))  # fmt: skip
    made = training.fake_quantised(network)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(made[0].weight, network[0].weight)
    assert len(made[0].quantised(x)[1][0].unique()) <= 255
    near = (made(x) - network(x)).abs().max()
    assert 0 < near < 0.1 * network(x).abs().max()
    training.training_step(made, 2, 4)()
    assert all(p.grad is not None and p.grad.any() for p in made.parameters())
    assert not isinstance(network[0], type(made[0]))


@pytest.mark.slow
def test_peak_memory_of_a_step() -> None:
    """A step holds the activations of all layers, and not much more than torch's."""
    base = peak_bytes_of_step(16, 32, None)
    if base is None:
        pytest.skip("this system does not tell")
    assert base > 30e6
    taken = peak_bytes_of_step(16, 32, "roba:8s")
    assert taken is not None
    assert taken < 2 * base


def test_roofline_adds_up() -> None:
    """Parts of a layer's time make up the whole of it, but for what noise takes away."""
    parts = {r.details["part"]: r for r in quick("roofline").rows if r.details["kind"] == "part"}
    whole = parts.pop("whole")
    assert whole.details["share"] == 1
    assert set(parts) == {
        "quantise", "lay lanes", "pack rows", "inner loop", "emit sums", "check, plan, allocate",
        "epilogue and the rest",
    }  # fmt: skip
    assert all((r.seconds or 0) >= 0 for r in parts.values())
    kernels = [r for r in quick("roofline").rows if r.details["kind"] == "kernel"]
    assert {r.details["isa"] for r in kernels} == set(load_library().isas)


def test_the_engine_is_timed_under_its_own_name(tmp_path: Path) -> None:
    """Under another one it would not be asked to quantise, and layers would do it in torch."""

    def quantised() -> torch.Tensor:
        one, zero = torch.ones(()), torch.zeros((), dtype=torch.int32)
        done = real.quantize(torch.ones(3), one, zero, (0, 7), None, torch.uint8, False)
        return torch.tensor(done is not None)

    with Context(Settings(quick=True), tmp_path) as context:
        assert context.on_engine(quantised)()


@pytest.mark.slow
def test_peak_memory() -> None:
    """A layer holds its input and its output at least, and at most twice what torch's does."""
    x = (8, 64, 56, 56)
    base = peak_bytes(x, 64, 3, None)
    if base is None:
        pytest.skip("this system does not tell")
    assert base >= 2 * 4 * 8 * 64 * 56 * 56
    taken = peak_bytes(x, 64, 3, "roba:8s")
    assert taken is not None
    assert taken <= 2 * base


# --- what is wrong ------------------------------------------------------------------------


def _off_by_one(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(function)
    def wrong(*args: Any, **kwargs: Any) -> torch.Tensor:
        out = function(*args, **kwargs)
        out.view(-1)[-1] += 1
        return out

    return wrong


@pytest.mark.parametrize(
    ("suite", "method"),
    [
        ("gemm", "gemm"),
        ("tables", "gemm"),
        ("conv", "conv"),
        ("scaling", "gemm"),
        ("network", "gemm"),
        ("train", "gemm"),
        ("roofline", "gemm"),
    ],
)
def test_a_wrong_engine_is_never_timed(
    monkeypatch: pytest.MonkeyPatch, suite: str, method: str
) -> None:
    """One sum that is off by one stops every suite."""
    monkeypatch.setattr(CpuBackend, method, _off_by_one(getattr(CpuBackend, method)))
    with pytest.raises(BenchmarkError, match="differ from those of the reference"):
        run(Settings((suite,), ("roba:8s",), rounds=1, quick=True))


def test_the_last_image_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a batch, a network is compared where the tails of tiles lie."""
    layer = ah.approximate(torch.nn.Conv2d(3, 64, 3), "roba:8s").eval()
    x = torch.rand(2, 3, 32, 32)
    ah.calibrate(layer, [x])
    run = inference.inferring(layer, x)
    compared_with_reference("small", run)
    monkeypatch.setattr(CpuBackend, "conv", _off_by_one(CpuBackend.conv))
    with pytest.raises(BenchmarkError, match="small: 1 of 57600 sums of layer 1 differ"):
        compared_with_reference("small", run)
    with pytest.raises(BenchmarkError, match="no layer"):
        compared_with_reference("small", inference.inferring(torch.nn.ReLU(), x))


def test_refusals() -> None:
    """Unknown suites, and numbers below 1, are refused before anything runs."""
    with pytest.raises(InputError, match="'nope'; known: gemm, "):
        run(Settings(("nope",)))
    with pytest.raises(InputError, match="at least 1"):
        run(Settings(rounds=0))
    with pytest.raises(InputError, match="at least 1"):
        run(Settings(threads=(1, 0)))
