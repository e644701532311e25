"""Benchmarks of a card, run on the emulated one: that all is compared, and what rows say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from approxhub_cuda.backend import CudaBackend
from approxhub_cuda.native import Library
from click.testing import CliRunner
from torch import nn

from approxhub.bench import Report, Settings, run
from approxhub.bench.cards import Device, conv, gemm, network
from approxhub.bench.context import Context
from approxhub.bench.names import FP32, PLAIN_GATHER
from approxhub.bench.networks import VisionTransformer, resnet50
from approxhub.bench.present import tables_of
from approxhub.cli import cli
from approxhub.errors import BackendUnavailableError, InputError
from approxhub.model import approximate, calibrate

SETTINGS = Settings(multipliers=("roba:8s",), rounds=1, quick=True, device="cuda")


def emulated_card(kernels: Path) -> Device:
    """The emulated card as a device to time."""
    return Device.of(torch.device("cpu"), "cuda", CudaBackend(Library(str(kernels))))


@pytest.mark.parametrize("suite", [gemm, conv], ids=["gemm", "conv"])
def test_each_way_is_timed(kernels: Path, suite: object, tmp_path: Path) -> None:
    """Every way, the plain gather among them, and torch have a row, shown with its ratios."""
    assert callable(suite)
    with Context(SETTINGS, tmp_path) as context:
        card = emulated_card(kernels)
        rows = [row for step in suite(context, card) for row in step.run()]
    assert len(card.described()["commit"]) >= 7  # a hash, or "unknown"
    names = {row.name for row in rows}
    assert names == {FP32, PLAIN_GATHER, "cuda", "cuda, staged", "cuda, shared", "cuda, cached"}
    for row in rows:
        assert set(row.against) == {FP32, PLAIN_GATHER}
    report = Report({}, {}, {"device": "cuda"}, (), tuple(rows))
    tables = tables_of(report, rows[0].suite)
    assert all(f"x {PLAIN_GATHER}" in table.header for table in tables)
    assert sum(len(table.rows) for table in tables) == len(rows)


def _small() -> torch.nn.Module:
    """A network that takes seconds by emulation; a real one takes minutes."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(8, 10),
    )  # fmt: skip


@pytest.mark.slow
def test_networks_are_timed(kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inference is compared with the reference and timed, and a training step with an exact one."""
    monkeypatch.setattr("approxhub.bench.cards._NETWORKS", {"small": (_small, 8, 2)})
    with Context(SETTINGS, tmp_path) as context:
        steps = network(context, emulated_card(kernels))
        rows = [row for step in steps for row in step.run()]
    assert {row.details["kind"] for row in rows} == {"inference", "training"}
    assert {"roba:8s", FP32, "exact, quantised"} == {row.name for row in rows}


def test_without_a_card_the_reason_is_said() -> None:
    """Asked for a device that nothing serves, or for a suite it lacks, the error says so."""
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailableError, match="no backend can be timed on 'cuda'"):
            run(SETTINGS)
        done = CliRunner().invoke(cli, ["bench", "gemm", "--device", "cuda", "--quick"])
        assert done.exit_code == 1
    with pytest.raises(InputError, match="suites gemm, conv, network"):
        run(Settings(("roofline",), device="cuda"))


def test_resnet50_has_the_parameters_of_the_paper() -> None:
    """ResNet-50 has 25.6 million parameters, and gives a row of scores."""
    with torch.device("meta"):
        net = resnet50()
        assert net(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)
    assert sum(p.numel() for p in net.parameters()) == 25_557_032


def test_vit_has_the_parameters_of_the_paper() -> None:
    """ViT-B/16 has 86.6 million parameters; a small one is converted whole, and gives scores."""
    with torch.device("meta"):
        net = VisionTransformer()
        assert net(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)
    assert sum(p.numel() for p in net.parameters()) == 86_567_656
    small = VisionTransformer(8, 4, width=8, depth=1, heads=2, classes=3).eval()
    converted = approximate(small, "roba:8s")
    assert not [m for m in converted.modules() if type(m) in (nn.Linear, nn.MultiheadAttention)]
    x = torch.randn(2, 3, 8, 8)
    assert calibrate(converted, [x]).eval()(x).shape == (2, 3)
