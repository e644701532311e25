"""The main job on one page: what approximate multipliers do to a small, real classifier.

Trains a convolutional network on scikit-learn's bundled handwritten digits, evaluates it through
several multipliers, and retrains it with two of them in the loop. Needs no network.
"""

from __future__ import annotations

import copy
import logging
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import approxhub as ah
from approxhub.errors import ApproxHubError, DemoError
from approxhub.multiplier import Multiplier
from approxhub.quantization import OperandMapping

__all__ = ["DEFAULT_TRIALS", "DemoResult", "DemoRow", "draw_chart", "run_demo"]

DEFAULT_TRIALS: tuple[tuple[str, str | None], ...] = (
    ("roba:8s", None),
    ("drum:8s/k=3", None),
    ("mitchell:8u", None),
    ("truncation:8s/a=3,b=3", None),
    ("bam:8s/h=0,v=8", None),
    # One circuit under two operand mappings: how numbers reach it matters as much as what it is.
    ("drum:8u/k=3", "signmag-weights"),
    ("drum:8u/k=3", None),
)
"""Multipliers and operand mappings that the demonstration tries by default."""

_EPOCHS = 20
_RETRAIN_EPOCHS = 4
_RETRAINED = 2
_RATE = 3e-3
_BATCH = 64

Progress = Callable[[int, int, str], None]


@dataclass(slots=True)
class DemoRow:
    """One line of the table.

    Parameters
    ----------
    multiplier : str or None
        Id; None for the float network.
    mapping : str or None
        Operand mapping; None for the float network.
    stage : {'float', 'exact', 'approximate', 'retrained'}
        What was evaluated.
    correct, total : int
        Digits recognised, of how many; summed over the seeds.
    relative_energy : float or None
        Energy of all multiplications over that of exact ones; None where a power is unknown.
    loss : float or None
        Percentage points below exact arithmetic of the same width, sign and mapping; for a
        retrained network, below the exact one that was trained on for as long.
    interval : (float, float) or None
        With several seeds, the 95 % interval of the mean accuracy (Student's t over the seeds).
    """

    multiplier: str | None
    mapping: str | None
    stage: str
    correct: int
    total: int
    relative_energy: float | None = None
    loss: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def accuracy(self) -> float:
        """Share of digits recognised."""
        return self.correct / self.total

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "multiplier": self.multiplier,
            "mapping": self.mapping,
            "stage": self.stage,
            "accuracy": self.accuracy,
            "correct": self.correct,
            "total": self.total,
            "relative_energy": self.relative_energy,
            "loss_points": self.loss,
            "interval": self.interval,
        }


@dataclass(slots=True)
class DemoResult:
    """What the demonstration found.

    Parameters
    ----------
    rows : list of DemoRow
    seeds : tuple of int
        Seeds of the networks trained.
    operations : int
        Multiply-accumulates for one digit.
    failed : list of (str, ApproxHubError)
        Multipliers asked for that could not be had, and why.
    """

    rows: list[DemoRow]
    seeds: tuple[int, ...]
    operations: int
    failed: list[tuple[str, ApproxHubError]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with the versions that gave them."""
        return {
            "schema_version": 1,
            "rows": [row.to_json() for row in self.rows],
            "seeds": list(self.seeds),
            "operations": self.operations,
            "failed": [{"multiplier": i, "error": str(e)} for i, e in self.failed],
            "versions": {
                "approxhub": ah.__version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
        }


@dataclass(frozen=True, slots=True)
class _Digits:
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass(frozen=True, slots=True)
class _Trial:
    multiplier: Multiplier
    mapping: str


def _digits() -> _Digits:
    try:
        import matplotlib  # noqa: F401  (for the chart: better missed now than at the end)
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise DemoError(
            f"the demonstration needs scikit-learn and matplotlib ({error}); "
            "install them with: pip install 'approxhub[demo]'"
        ) from error
    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)[:, None]
    parts = train_test_split(
        images, bunch.target, test_size=0.3, stratify=bunch.target, random_state=0
    )
    train_x, test_x, train_y, test_y = (torch.from_numpy(p) for p in parts)
    return _Digits(train_x, train_y, test_x, test_y)


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def _train(model: nn.Module, data: _Digits, epochs: int, rate: float, seed: int) -> None:
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    model.train()
    for _ in range(epochs):
        shuffled = torch.randperm(len(data.train_x), generator=order)
        for index in torch.split(shuffled, _BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(data.train_x[index]), data.train_y[index])
            torch.autograd.backward(loss)
            optimizer.step()
    model.eval()


@torch.no_grad()
def _correct(model: nn.Module, data: _Digits) -> int:
    return int((model(data.test_x).argmax(1) == data.test_y).sum())


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The same numbers for the same seed, and the caller's generator left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    from scipy.stats import t

    mean, half = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    half *= float(t.ppf(0.975, len(values) - 1))
    return max(0.0, mean - half), min(1.0, mean + half)


def _choose(
    ids: Sequence[str] | None,
) -> tuple[list[_Trial], list[tuple[str, ApproxHubError]]]:
    wanted: Sequence[tuple[str, str | None]] = [(i, None) for i in ids or ()] or DEFAULT_TRIALS
    trials: list[_Trial] = []
    failed: list[tuple[str, ApproxHubError]] = []
    for name, mapping in wanted:
        try:
            m = ah.load(name)
            chosen = OperandMapping.parse(mapping) if mapping else OperandMapping.default(m)
            chosen.resolve(m)
        except ApproxHubError as error:
            failed.append((name, error))
            continue
        trial = _Trial(m, str(chosen))
        if trial not in trials:
            trials.append(trial)
    return trials, failed


def run_demo(
    multipliers: Sequence[str] | None = None,
    *,
    seed: int = 0,
    seeds: int = 1,
    progress: Progress | None = None,
) -> DemoResult:
    """Train, quantise, evaluate and retrain the network of the demonstration.

    Parameters
    ----------
    multipliers : sequence of str, optional
        Ids to try, each under its default mapping; :data:`DEFAULT_TRIALS` when not given. Only
        ids that are neither formulas nor in the cache use the network.
    seed : int
        Seed of the (first) network: the same seed gives the same table.
    seeds : int
        How many networks to train, with seeds `seed`, `seed` + 1, ...
    progress : callable, optional
        Told ``(steps done, steps in all, what comes next)``.

    Returns
    -------
    DemoResult
        The two multipliers that lose most are retrained.

    Raises
    ------
    DemoError
        If scikit-learn or matplotlib is missing, or `seeds` is not positive.
    ApproxHubError
        If no multiplier could be had: the gravest of the causes.
    """
    if seeds < 1:
        raise DemoError(f"seeds must be at least 1, got {seeds}")
    data = _digits()
    trials, failed = _choose(multipliers)
    if not trials:
        raise max((error for _, error in failed), key=lambda e: e.exit_code)
    said = progress or (lambda done, total, what: None)
    steps = seeds * (2 + len(trials) + min(_RETRAINED, len(trials)))
    done = 0

    def step(what: str) -> None:
        nonlocal done
        said(done, steps, what)
        done += 1

    total = len(data.test_x)
    counts: dict[tuple[str | None, str | None, str], list[int]] = {}
    energy: dict[tuple[str | None, str | None, str], float | None] = {}
    worst: list[_Trial] | None = None
    operations = 0
    # What a conversion leaves is known here, and a warning would stand between the progress.
    log = logging.getLogger("approxhub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        for s in range(seed, seed + seeds):
            with _seeded(s):
                step(f"seed {s}: training the float network")
                net = _network()
                _train(net, data, _EPOCHS, _RATE, s)
                counts.setdefault((None, None, "float"), []).append(_correct(net, data))
                step(f"seed {s}: calibrating, and exact arithmetic")
                first = trials[0]
                base = ah.approximate(net, first.multiplier, mapping=first.mapping)
                ah.calibrate(base, torch.split(data.train_x, 256))
                for trial in trials:
                    key = (_exact_id(trial), trial.mapping, "exact")
                    if len(counts.get(key, ())) > s - seed:
                        continue
                    ah.set_multiplier(base, trial.multiplier, mapping=trial.mapping)
                    with ah.mode(base, "exact"):
                        counts.setdefault(key, []).append(_correct(base, data))
                        energy[key] = 1.0  # by definition: it is the exact multiplier's
                for trial in trials:
                    step(f"seed {s}: {trial.multiplier.id} ({trial.mapping})")
                    ah.set_multiplier(base, trial.multiplier, mapping=trial.mapping)
                    key = (trial.multiplier.id, trial.mapping, "approximate")
                    counts.setdefault(key, []).append(_correct(base, data))
                    seen = ah.summary(base, data.test_x[:1])
                    energy[key] = seen.relative_energy
                    operations = seen.operations or 0
                if worst is None:
                    worst = sorted(trials, key=lambda t: _first(counts, t))[:_RETRAINED]
                for trial in worst:
                    key = (_exact_id(trial), trial.mapping, "retrained")
                    if len(counts.get(key, ())) <= s - seed:
                        # What more training brings by itself must not pass for recovery.
                        ah.set_multiplier(base, trial.multiplier, mapping=trial.mapping)
                        model = copy.deepcopy(base)
                        ah.set_mode(model, "exact")
                        _train(model, data, _RETRAIN_EPOCHS, _RATE, s)
                        counts.setdefault(key, []).append(_correct(model, data))
                        energy[key] = 1.0
                    if trial.multiplier.id == _exact_id(trial):
                        continue
                    step(f"seed {s}: retraining with {trial.multiplier.id} ({trial.mapping})")
                    ah.set_multiplier(base, trial.multiplier, mapping=trial.mapping)
                    model = copy.deepcopy(base)
                    _train(model, data, _RETRAIN_EPOCHS, _RATE, s)
                    key = (trial.multiplier.id, trial.mapping, "retrained")
                    counts.setdefault(key, []).append(_correct(model, data))
                    energy[key] = energy[(trial.multiplier.id, trial.mapping, "approximate")]
    finally:
        log.setLevel(level)
    said(steps, steps, "done")

    exact = {str(t.multiplier.id): _exact_id(t) for t in trials}
    exact |= {i: i for i in list(exact.values())}

    def loss(multiplier: str | None, mapping: str | None, stage: str, correct: int) -> float | None:
        if multiplier is None:
            return None
        against = "retrained" if stage == "retrained" else "exact"
        return (
            100.0 * (sum(counts[exact[multiplier], mapping, against]) - correct) / (total * seeds)
        )

    rows = [
        DemoRow(
            multiplier,
            mapping,
            stage,
            sum(found),
            total * seeds,
            energy.get((multiplier, mapping, stage)),
            loss(multiplier, mapping, stage, sum(found)),
            _interval([c / total for c in found]),
        )
        for (multiplier, mapping, stage), found in counts.items()
    ]
    return DemoResult(rows, tuple(range(seed, seed + seeds)), operations, failed)


def _exact_id(trial: _Trial) -> str:
    a, b = trial.multiplier.a, trial.multiplier.b
    return ah.exact(a.bits, a.signed, b_bits=b.bits, b_signed=b.signed).id


def _first(counts: dict[tuple[str | None, str | None, str], list[int]], trial: _Trial) -> int:
    return counts[(trial.multiplier.id, trial.mapping, "approximate")][0]


def draw_chart(result: DemoResult, path: Path) -> None:
    """Draw accuracy by multiplier as a PNG.

    Parameters
    ----------
    result : DemoResult
    path : Path
        The file to write.

    Raises
    ------
    DemoError
        If matplotlib is missing or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DemoError(
            f"the chart needs matplotlib ({error}); install it with: pip install 'approxhub[demo]'"
        ) from error
    colours = {
        "float": "#555555",
        "exact": "#4477aa",
        "approximate": "#ee6677",
        "retrained": "#228833",
    }
    rows = result.rows
    figure = Figure(figsize=(8.5, 1.2 + 0.38 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for y, row in enumerate(rows):
        spread = None
        if row.interval is not None:
            low, high = row.interval
            spread = [[100 * (row.accuracy - low)], [100 * (high - row.accuracy)]]
        axes.barh(y, 100 * row.accuracy, xerr=spread, color=colours[row.stage], height=0.7)
        axes.text(101, y, f"{100 * row.accuracy:.1f}", va="center", fontsize=9)
    labels = [f"{r.multiplier}\n{r.mapping}" if r.multiplier else "float32" for r in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 108)
    axes.set_xlabel(f"accuracy on {rows[0].total // len(result.seeds)} handwritten digits, %")
    axes.spines[["top", "right"]].set_visible(False)
    for stage, colour in colours.items():
        if any(r.stage == stage for r in rows):
            axes.bar(0, 0, color=colour, label=stage)
    figure.legend(loc="outside upper center", ncols=len(colours), frameon=False, fontsize=9)
    try:
        figure.savefig(path, dpi=130, format="png")
    except OSError as error:
        raise DemoError(f"the chart could not be written to {path}: {error}") from error
