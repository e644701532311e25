"""Train with a multiplier in the loop on several processes, and share out a sweep among them.

    torchrun --nproc-per-node 2 examples/distributed.py [--epochs N] [--path results]

Data: scikit-learn's digits. Each process trains on its share of every batch
(DistributedDataParallel; gloo, so it runs on CPUs). Ranges of quantisers are found by the first
process and sent to the others. Then each process evaluates its share of the multipliers into a
file of its own, which goes on where it was stopped, and the first process prints all rows.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import approxhub as ah
from approxhub.experiments import Results

IDS = ["exact:8s", "drum:8s/k=5", "drum:8s/k=4", "drum:8s/k=3", "roba:8s", "truncation:8s/a=3,b=3"]

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
labels = torch.tensor(digits.target)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
train, test = order[:1257], order[1257:]


@torch.no_grad()
def evaluate(model: nn.Module) -> dict[str, float]:
    """Share of the test digits that are recognised."""
    return {"accuracy": (model(images[test]).argmax(1) == labels[test]).double().mean().item()}


def fit(model: nn.Module, epochs: int, rank: int, world: int) -> None:
    """Train on this process's share of each batch."""
    shared = DistributedDataParallel(model)
    optimiser = torch.optim.Adam(shared.parameters(), 3e-3)
    draw = torch.Generator().manual_seed(0)  # the same batches everywhere
    model.train()
    for _ in range(epochs):
        for batch in train[torch.randperm(len(train), generator=draw)].split(64):
            index = batch[rank::world]
            optimiser.zero_grad()
            nn.functional.cross_entropy(shared(images[index]), labels[index]).backward()
            optimiser.step()
    model.eval()


def main() -> None:
    """Train together, sweep apart, print once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--path", type=Path, default=Path("distributed-results"))
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(192, 10)
    )
    fit(net, given.epochs, rank, world)

    # Every process has the same weights; the ranges are those that process 0 has found.
    model = ah.approximate(net, "exact:8s")
    ah.calibrate(model, [images[train]])
    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)
    model.eval()

    mine = IDS[rank::world]
    ah.sweep(model, mine, evaluate, path=given.path / f"process-{rank}")
    dist.barrier()
    if rank == 0:
        rows = [row for r in range(world) for row in Results.read(given.path / f"process-{r}")]
        print(Results(sorted(rows, key=lambda row: IDS.index(row.multiplier))))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
