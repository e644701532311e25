"""Retrain a ResNet-20 on CIFAR-10 with a multiplier in the loop.

    python examples/cifar_resnet.py --data cifar-10-batches-bin [--path resnet20] [ID ...]
    python examples/cifar_resnet.py --smoke [ID ...]

The folder is that of the *binary* version of CIFAR-10 (https://www.cs.toronto.edu/~kriz/cifar.html):
data_batch_1.bin to data_batch_5.bin, and test_batch.bin. The network is that of He et al., "Deep
Residual Learning for Image Recognition", CVPR 2016, DOI 10.1109/CVPR.2016.90, section 4.2.
First the float network is trained (kept as resnet20.pt beside --path), then every multiplier is
evaluated as it is, with its mean error compensated, and after some epochs of training through it.
`--smoke` takes a few random images: it shows that everything runs, and its accuracies mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import approxhub as ah

IDS = ["exact:8s", "drum:8s/k=4", "drum:8s/k=3", "truncation:8s/a=3,b=3"]
RECORD = 1 + 3 * 32 * 32
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


class Block(nn.Module):
    """Two convolutions, and a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Option A of the paper: the way around has no weights."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        around = x[:, :, :: self.stride, :: self.stride]
        around = F.pad(around, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return F.relu(y + around)


def resnet20() -> nn.Module:
    """Three stages of three blocks."""
    blocks = [
        Block(inputs if first else outputs, outputs, stride if first else 1)
        for inputs, outputs, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        for first in (True, False, False)
    ]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def images(folder: Path, names: list[str]) -> tuple[Tensor, Tensor]:
    """Normalised images and labels of some files."""
    try:
        data = np.concatenate([np.fromfile(folder / n, np.uint8) for n in names])
    except OSError as error:
        sys.exit(f"{error}: --data takes the folder of CIFAR-10's binary version")
    records = torch.from_numpy(data.reshape(-1, RECORD))
    x = records[:, 1:].reshape(-1, 3, 32, 32).float() / 255
    mean, deviation = (torch.tensor(t).reshape(3, 1, 1) for t in (MEAN, DEVIATION))
    return (x - mean) / deviation, records[:, 0].long()


def augmented(x: Tensor) -> Tensor:
    """The batch, shifted by up to four pixels and mirrored by chance."""
    top, left = torch.randint(9, (2,)).tolist()
    x = F.pad(x, (4, 4, 4, 4))[:, :, top : top + 32, left : left + 32]
    return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)


def main() -> None:
    """Train, evaluate, compensate, retrain."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ids", nargs="*", default=IDS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--path", type=Path, default=Path("resnet20"))
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--retrain-epochs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args()
    if given.smoke:
        print("smoke test: random images, no result")
        given.epochs = given.retrain_epochs = 1
        x, y = torch.randn(32, 3, 32, 32), torch.randint(10, (32,))
        train, test = (x, y), (x[:16], y[:16])
    elif given.data is None:
        parser.error("--data is needed (or --smoke)")
    else:
        train = images(given.data, [f"data_batch_{i}.bin" for i in range(1, 6)])
        test = images(given.data, ["test_batch.bin"])
    given.path.parent.mkdir(parents=True, exist_ok=True)

    def fit(model: nn.Module, epochs: int, rate: float) -> None:
        optimiser = torch.optim.SGD(
            model.parameters(), rate, momentum=0.9, weight_decay=1e-4, nesterov=True
        )
        steps = epochs * -(-len(train[0]) // 128)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        model.train()
        for _ in range(epochs):
            for index in torch.randperm(len(train[0])).split(128):
                optimiser.zero_grad()
                x, y = augmented(train[0][index]).to(given.device), train[1][index]
                F.cross_entropy(model(x), y.to(given.device)).backward()
                optimiser.step()
                schedule.step()
        model.eval()

    @torch.no_grad()
    def evaluate(model: nn.Module) -> dict[str, float]:
        right = sum(
            int((model(x.to(given.device)).argmax(1).cpu() == y).sum())
            for x, y in zip(test[0].split(256), test[1].split(256), strict=True)
        )
        return {"accuracy": right / len(test[0])}

    def retrained(model: nn.Module) -> dict[str, float]:
        fit(model, given.retrain_epochs, 0.01)
        return evaluate(model)

    torch.manual_seed(0)
    model = resnet20().to(given.device)
    weights = given.path.with_suffix(".pt")
    if weights.exists():
        model.load_state_dict(torch.load(weights, map_location=given.device))
    else:
        fit(model, given.epochs, 0.1)
        torch.save(model.state_dict(), weights)
    model.eval()

    batches = [x.to(given.device) for x in train[0][:512].split(128)]
    shared: dict[str, Any] = {"progress": True}
    ids = ["float", *given.ids]
    print(ah.sweep(model, ids, evaluate, batches, path=given.path, **shared))
    print("\nmean error compensated:")
    print(ah.sweep(model, given.ids, evaluate, batches, path=given.path, compensate=True, **shared))
    print(f"\nretrained, {given.retrain_epochs} epochs:")
    path = given.path.with_name(f"{given.path.name}-retrained")
    print(ah.sweep(model, given.ids, retrained, batches, path=path, **shared))


if __name__ == "__main__":
    main()
