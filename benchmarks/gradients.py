"""Retrain the demonstration's network with each gradient, over several seeds.

    python benchmarks/gradients.py [--seeds N] [--epochs N] [--multiplier ID] [--gradient NAME]
    python benchmarks/gradients.py --render

For each multiplier: accuracy of the exact network trained on for as long, of the multiplier before
retraining, and after it with each gradient; mean and 95 % interval (Student's t over the seeds).
Needs scikit-learn and matplotlib; no network. With ``--render`` nothing is run: the table of
``docs/explanation/gradients.md`` is written from ``results/gradients/digits.json``, which holds
what ``--json`` has printed.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import approxhub as ah
from approxhub import demo

MULTIPLIERS = ("bam:8s/h=0,v=8", "drum:8u/k=3", "drum:8s/k=3", "truncation:8s/a=3,b=3")
GRADIENTS = ("straight-through", "lre", "table-1d", "table-2d", "approximate-backward")


def _networks(seeds: int) -> Iterator[tuple[int, nn.Module]]:
    """A trained float network for each seed."""
    data = demo._digits()
    for seed in range(seeds):
        with demo._seeded(seed):
            net = demo._network()
            demo._train(net, data, demo._EPOCHS, demo._RATE, seed)
        yield seed, net


def run(
    multipliers: list[str], gradients: list[str], seeds: int, epochs: int
) -> dict[tuple[str, str], list[float]]:
    """Accuracies by multiplier and stage, one for each seed."""
    data = demo._digits()
    total, found = len(data.test_x), {}

    def note(multiplier: str, stage: str, net: nn.Module) -> None:
        found.setdefault((multiplier, stage), []).append(demo._correct(net, data) / total)

    for seed, net in _networks(seeds):
        for id in multipliers:
            print(f"seed {seed}: {id}", file=sys.stderr, flush=True)
            base = ah.approximate(net, id)
            ah.calibrate(base, torch.split(data.train_x, 256))
            with demo._seeded(seed):
                exact = copy.deepcopy(base)
                ah.set_mode(exact, "exact")
                demo._train(exact, data, epochs, demo._RATE, seed)
                note(id, "exact, trained on", exact)
            note(id, "untrained", base.eval())
            for gradient in gradients:
                model = copy.deepcopy(base)
                ah.set_gradient(model, gradient)
                with demo._seeded(seed):
                    demo._train(model, data, epochs, demo._RATE, seed)
                note(id, gradient, model)
    return found


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "gradients" / "digits.json"
PAGE = ROOT / "docs" / "explanation" / "gradients.md"


def rendered(page: str, rows: list[dict[str, Any]]) -> str:
    """The page with a line for each multiplier and stage, in percent and points."""
    exact = {r["multiplier"]: r["mean"] for r in rows if r["stage"].startswith("exact")}
    lines = ["| multiplier | | accuracy | 95 % interval | points lost |", "|---|---|---|---|---|"]
    for r in rows:
        low, high = (100 * v for v in r["interval"])
        lost = 100 * (exact[r["multiplier"]] - r["mean"])
        lines.append(
            f"| `{r['multiplier']}` | {r['stage']} | {100 * r['mean']:.1f} % | "
            f"{low:.1f} to {high:.1f} | {lost:.1f} |"
        )
    table = "\n".join(lines)
    place = re.compile(r"(<!-- begin: digits -->\n).*?(<!-- end: digits -->)", re.DOTALL)
    return place.sub(lambda m: f"{m[1]}\n{table}\n\n{m[2]}", page)


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=demo._RETRAIN_EPOCHS)
    parser.add_argument("--multiplier", action="append")
    parser.add_argument("--gradient", action="append")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--render", action="store_true")
    given = parser.parse_args()
    if given.render:
        rows = json.loads(RESULTS.read_text(encoding="utf-8"))
        PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")
        return
    logging.getLogger("approxhub").setLevel(logging.ERROR)
    found = run(
        given.multiplier or list(MULTIPLIERS),
        given.gradient or list(GRADIENTS),
        given.seeds,
        given.epochs,
    )
    rows = [
        {
            "multiplier": multiplier,
            "stage": stage,
            "mean": sum(values) / len(values),
            "interval": demo._interval(values),
            "seeds": values,
        }
        for (multiplier, stage), values in found.items()
    ]
    if given.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'multiplier':24} {'stage':22} {'mean':>6}  95 % interval")
    for row in rows:
        low, high = row["interval"] or (float("nan"),) * 2
        print(
            f"{row['multiplier']:24} {row['stage']:22} {100 * row['mean']:6.2f}  "
            f"{100 * low:.2f} to {100 * high:.2f}"
        )


if __name__ == "__main__":
    main()
