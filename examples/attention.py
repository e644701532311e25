"""A small transformer that looks at handwritten digits in patches, with approximate multipliers.

    python examples/attention.py [--epochs N]

Data: scikit-learn's digits. The projections, the two inner products of attention and the
feed-forward layers all go through the multiplier; a sensitivity analysis says which of them bears
least.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import approxhub as ah

IDS = ["float", "exact:8s", "drum:8s/k=4", "drum:8s/k=3", "truncation:8s/a=3,b=3"]

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32) / 16
labels = torch.tensor(digits.target)
# Sixteen patches of 2 x 2 pixels.
patches = images.unfold(1, 2, 2).unfold(2, 2, 2).reshape(len(images), 16, 4)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
train, test = order[:1257], order[1257:]


class Viewer(nn.Module):
    """Embedding, one attention block, mean over patches, head."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.place = nn.Parameter(0.1 * torch.randn(16, width))
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.mlp = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of (N, 16, 4) patches."""
        x = self.embed(x) + self.place
        x = self.norms[0](x + self.attention(x, x, x, need_weights=False)[0])
        x = self.norms[1](x + self.mlp(x))
        return self.head(x.mean(1))


def fit(model: nn.Module, epochs: int, rate: float) -> None:
    """Train, and leave the model in evaluation mode."""
    optimiser = torch.optim.Adam(model.parameters(), rate)
    model.train()
    for _ in range(epochs):
        for index in train[torch.randperm(len(train))].split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(patches[index]), labels[index]).backward()
            optimiser.step()
    model.eval()


@torch.no_grad()
def evaluate(model: nn.Module) -> dict[str, float]:
    """Share of the test digits that are recognised."""
    return {"accuracy": (model(patches[test]).argmax(1) == labels[test]).double().mean().item()}


def main() -> None:
    """Train, sweep over multipliers, then over layers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    model = Viewer()
    fit(model, epochs, 3e-3)
    batches = [patches[train]]
    results = ah.sweep(model, IDS, evaluate, batches, attention_products=True)
    print(results)
    worst = min(results, key=lambda row: row.value).multiplier
    print("\none layer at a time:")
    print(ah.sensitivity(model, [worst], evaluate, batches, attention_products=True))


if __name__ == "__main__":
    main()
