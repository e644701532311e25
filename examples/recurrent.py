"""An LSTM that reads handwritten digits row by row, with approximate multipliers.

    python examples/recurrent.py [--epochs N]

Data: scikit-learn's digits, 1,257 to train and 540 to test. Post-training rows first, then the
multiplier that lost most is trained in the loop, beside exact products trained for as long.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import approxhub as ah

IDS = ["float", "exact:8s", "drum:8s/k=4", "drum:8s/k=3", "truncation:8s/a=3,b=3"]

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32) / 16  # (N, rows, columns)
labels = torch.tensor(digits.target)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
train, test = order[:1257], order[1257:]


class Reader(nn.Module):
    """Each row of eight pixels is one step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 32, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of (N, 8, 8) images."""
        return self.head(self.lstm(x)[0][:, -1])


def fit(model: nn.Module, epochs: int, rate: float) -> None:
    """Train, and leave the model in evaluation mode."""
    optimiser = torch.optim.Adam(model.parameters(), rate)
    model.train()
    for _ in range(epochs):
        for index in train[torch.randperm(len(train))].split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[index]), labels[index]).backward()
            optimiser.step()
    model.eval()


@torch.no_grad()
def evaluate(model: nn.Module) -> dict[str, float]:
    """Share of the test digits that are recognised."""
    return {"accuracy": (model(images[test]).argmax(1) == labels[test]).double().mean().item()}


def main() -> None:
    """Train, sweep, retrain."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    model = Reader()
    fit(model, epochs, 5e-3)
    results = ah.sweep(model, IDS, evaluate, [images[train]])
    print(results)

    worst = min(results, key=lambda row: row.value).multiplier

    def retrained(model: nn.Module) -> dict[str, float]:
        fit(model, max(1, epochs // 4), 2e-3)
        return evaluate(model)

    print(f"\nretrained, {max(1, epochs // 4)} epochs:")
    print(ah.sweep(model, list(dict.fromkeys(["exact:8s", worst])), retrained, [images[train]]))


if __name__ == "__main__":
    main()
