"""What `approxhub.compensate` does to the demonstration's network, over several seeds.

    python benchmarks/compensation.py [--seeds N] [--json FILE]

Ten circuits that err to one side by construction, and others that do not: accuracy with exact
products, with the circuit's, and with the circuit's and its mean error folded into the biases.
Codes are counted on the training images, accuracy is of the test images; nothing is trained after
the float network. Needs scikit-learn and matplotlib; no network.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch

import approxhub as ah
from approxhub import demo

BIASED = (
    "truncation:8s/a=3,b=3",
    "truncation:8u/a=3,b=3",
    "perforation:8s/j=0,k=2",
    "perforation:8u/j=0,k=2",
    "bam:8s/h=0,v=8",
    "bam:8u/h=0,v=8",
    "bam:8u/h=2,v=6",
    "mitchell:8s",
    "mitchell:8u",
    "kulkarni:8u",
)
"""Chosen by their construction, before anything was measured: they leave parts of a sum out."""

UNBIASED = ("exact:8s", "exact:8u", "drum:8s/k=5", "drum:8u/k=5", "roba:8s")
"""Exact ones, and ones whose errors nearly cancel over all operands."""


def run(seeds: int, multipliers: tuple[str, ...] = BIASED + UNBIASED) -> list[dict[str, Any]]:
    """Correct digits by multiplier, of all seeds."""
    data = demo._digits()
    rows: dict[str, dict[str, Any]] = {}
    for seed in range(seeds):
        print(f"seed {seed}", file=sys.stderr, flush=True)
        with demo._seeded(seed):
            net = demo._network()
            demo._train(net, data, demo._EPOCHS, demo._RATE, seed)
        base = ah.approximate(net, "exact:8s")
        ah.calibrate(base, torch.split(data.train_x, 256))
        captured: dict[str, Any] = {}
        for id in multipliers:
            model = copy.deepcopy(base)
            ah.set_multiplier(model, id)
            mapping = str(model[0].mapping)
            if mapping not in captured:
                with (
                    torch.no_grad(),
                    ah.capture_statistics(model, fields=0, taps=True) as captured[mapping],
                    ah.mode(model, "exact"),
                ):
                    model(data.train_x)
            m = ah.load(id)
            row = rows.setdefault(
                id,
                {
                    "multiplier": id, "mapping": mapping, "biased": id in BIASED,
                    "mean_error": m.metrics.bias, "mean_absolute_error": m.metrics.mae,
                    "exact": [], "approximate": [], "compensated": [],
                },
            )  # fmt: skip
            with ah.mode(model, "exact"):
                row["exact"].append(demo._correct(model, data))
            row["approximate"].append(demo._correct(model, data))
            ah.compensate(model, captured[mapping])
            row["compensated"].append(demo._correct(model, data))
    return list(rows.values())


def main() -> None:
    """Print a table, or write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    logging.getLogger("approxhub").setLevel(logging.ERROR)
    rows = run(given.seeds)
    total = len(demo._digits().test_x)
    if given.json is not None:
        report = {
            "schema_version": 1, "seeds": given.seeds, "total": total, "rows": rows,
            "versions": {"approxhub": ah.__version__, "torch": str(torch.__version__)},
        }  # fmt: skip
        given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("| multiplier | mapping | exact | approximate | compensated | seeds improved |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        shares = (
            f"{100 * sum(row[k]) / (total * given.seeds):.1f} %"
            for k in ("exact", "approximate", "compensated")
        )
        better = sum(c > a for a, c in zip(row["approximate"], row["compensated"], strict=True))
        print(
            f"| `{row['multiplier']}` | {row['mapping']} | {' | '.join(shares)} "
            f"| {better} of {given.seeds} |"
        )


if __name__ == "__main__":
    main()
