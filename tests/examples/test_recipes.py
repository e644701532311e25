"""The recipes of ``examples/`` run, at small size.

Those whose data are random are smoke tests: that they run is all that is checked.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from approxhub.experiments import Results

EXAMPLES = Path(__file__).parents[2] / "examples"

TINY = """\
from torch import nn


def net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 1000),
    )
"""


def _run(folder: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, text=True, capture_output=True,
        check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


def _lines(text: str, *begin: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.startswith(begin)]


def test_every_recipe_is_listed() -> None:
    """The README beside them has a row for each script, and none for another."""
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts
    assert {name for name in scripts if f"]({name})" in text} == scripts
    assert text.count(".py)") == len(scripts)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["recurrent", "attention"])
def test_recipes_on_digits(tmp_path: Path, name: str) -> None:
    """A recurrent and an attention model learn, and exact codes cost them next to nothing."""
    shown = _run(tmp_path, str(EXAMPLES / f"{name}.py"), "--epochs", "12").stdout
    (floating,), (exact, *_) = _lines(shown, "float "), _lines(shown, "exact:8s")
    accuracy = float(floating[2])
    assert accuracy > 0.7
    assert abs(float(exact[2]) - accuracy) < 0.02
    wanted = "retrained" if name == "recurrent" else "attention.attention.scores"
    assert wanted in shown


@pytest.mark.slow
def test_distributed_recipe(tmp_path: Path) -> None:
    """Two processes started by torchrun train one model, and share out the multipliers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shown = _run(
        tmp_path, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port,
        str(EXAMPLES / "distributed.py"), "--epochs", "4", "--path", "rows",
    ).stdout  # fmt: skip
    parts = [Results.read(tmp_path / "rows" / f"process-{rank}") for rank in (0, 1)]
    assert [len(part) for part in parts] == [3, 3]
    lines = _lines(shown, "exact:8s", "drum:", "roba:", "truncation:")
    assert [line[0] for line in lines] == [
        row.multiplier for pair in zip(*parts, strict=True) for row in pair
    ]
    assert float(lines[0][2]) > 0.7


@pytest.mark.slow
def test_cifar_recipe_smoke(tmp_path: Path) -> None:
    """SMOKE TEST, on random images, and then on files of the binary format."""
    words = [str(EXAMPLES / "cifar_resnet.py"), "drum:8s/k=4"]
    shown = _run(tmp_path, *words, "--smoke", "--path", "smoke").stdout
    assert "smoke test" in shown
    assert len(_lines(shown, "drum:8s/k=4")) == 3
    assert len(Results.read(tmp_path / "smoke")) == 3  # float, as it is, compensated
    chance = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        records = chance.integers(0, 256, (2, 1 + 3072), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(tmp_path / name)
    words += ["--data", ".", "--epochs", "1", "--retrain-epochs", "1", "--path", "files"]
    assert len(_lines(_run(tmp_path, *words).stdout, "drum:8s/k=4")) == 3
    assert "binary version" in _run(tmp_path, *words, "--data", "nowhere", code=1).stderr


@pytest.mark.slow
def test_imagenet_recipe_smoke(tmp_path: Path) -> None:
    """SMOKE TEST, on random images; without torchvision a network of it is refused in words."""
    (tmp_path / "tiny.py").write_text(TINY)
    script = str(EXAMPLES / "imagenet.py")
    words = [script, "exact:8s", "drum:8s/k=4", "--smoke", "--model", "tiny:net", "--path", "tiny"]
    shown = _run(tmp_path, *words).stdout
    assert "smoke test" in shown
    assert [line[0] for line in _lines(shown, "exact", "drum")] == ["exact:8s", "drum:8s/k=4"]
    assert set(Results.read(tmp_path / "tiny")[0].metrics) == {"top1", "top5"}
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "torchvision.py").write_text("raise ImportError('not here')\n")
    os.environ["PYTHONPATH"] = str(blocked)
    try:
        refused = _run(tmp_path, script, "--smoke", code=1).stderr
    finally:
        del os.environ["PYTHONPATH"]
    assert "Install a torchvision that fits this torch" in refused
    assert "Traceback" not in refused


@pytest.mark.slow
def test_imagenet_recipe_reads_a_folder(tmp_path: Path) -> None:
    """SMOKE TEST: images of class folders reach the network in the order of the classes."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import imagenet
    finally:
        sys.path.remove(str(EXAMPLES))
    for label, name in enumerate(("n01", "n02")):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("L", (5, 4), 100 * label + i).save(tmp_path / name / f"{i}.png")
    found = imagenet.Folder(tmp_path, lambda image: np.asarray(image)[0, 0].tolist())
    assert [found[i] for i in range(len(found))] == [
        ([0, 0, 0], 0), ([1, 1, 1], 0), ([100, 100, 100], 1), ([101, 101, 101], 1),
    ]  # fmt: skip
    with pytest.raises(SystemExit, match="no folders of images"):
        imagenet.Folder(tmp_path / "n01", lambda image: image)
