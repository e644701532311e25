"""Post-training evaluation of a torchvision or timm network on your ImageNet folder.

    python examples/imagenet.py --data IMAGENET/val --model resnet18 --path resnet18 [ID ...]
    python examples/imagenet.py --data IMAGENET/val --from timm --model resnet18.a1_in1k [ID ...]
    python examples/imagenet.py --smoke --model package.module:function [ID ...]

The folder has one folder of images for each class, in the order of the classes. The network comes
with its published weights (downloaded by its library on first use) and its own preprocessing.
The rows are kept at --path and go on from there if stopped. `--smoke` takes random weights and
random images: it shows that everything runs, and its accuracies mean nothing. There, a model may be
any function that returns one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import approxhub as ah
from approxhub.experiments import targets

IDS = ["float", "exact:8s", "drum:8s/k=6", "drum:8s/k=5", "drum:8s/k=4", "roba:8s"]


class Folder(Dataset[tuple[Tensor, int]]):
    """A folder for each class; their order is that of the labels."""

    def __init__(self, root: Path, transform: Callable[[Image.Image], Tensor]) -> None:
        classes = sorted(p for p in root.iterdir() if p.is_dir())
        self.files = [(f, i) for i, c in enumerate(classes) for f in sorted(c.iterdir())]
        self.transform = transform
        if not self.files:
            sys.exit(f"{root} has no folders of images, one for each class")

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """An image, ready for the network, and its label."""
        file, label = self.files[index]
        with Image.open(file) as image:
            return self.transform(image.convert("RGB")), label


def network(origin: str, name: str, pretrained: bool) -> tuple[nn.Module, Any]:
    """A network, and what makes its input of an image."""
    if ":" in name:
        return targets.call(name), None
    try:
        if origin == "timm":
            import timm

            model = timm.create_model(name, pretrained=pretrained)
            config = timm.data.resolve_model_data_config(model)
            return model, timm.data.create_transform(**config, is_training=False)
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        sys.exit(
            f"{origin} cannot be imported ({error}). Install a torchvision that fits this torch "
            f"({torch.__version__}), which timm needs too: pip install torchvision"
            f"{' timm' if origin == 'timm' else ''}"
        )
    weights = models.get_model_weights(name).DEFAULT
    return models.get_model(name, weights=weights if pretrained else None), weights.transforms()


def main() -> None:
    """Sweep over multipliers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ids", nargs="*", default=IDS)
    parser.add_argument("--data", type=Path)
    parser.add_argument(
        "--from", dest="origin", choices=("torchvision", "timm"), default="torchvision"
    )
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--images", type=int, help="evaluate on so many images only")
    parser.add_argument("--calibration-images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compensate", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args()
    if given.data is None and not given.smoke:
        parser.error("--data is needed (or --smoke)")

    torch.manual_seed(0)
    model, transform = network(given.origin, given.model, not given.smoke)
    if given.smoke:
        print("smoke test: random images, no result")
        data: Any = TensorDataset(torch.randn(8, 3, 64, 64), torch.randint(1000, (8,)))
        given.workers = 0
    elif transform is None:
        parser.error("--model package.module:function goes with --smoke")
    else:
        data = Folder(given.data, transform)
    # Spread over the classes, and the same in every run.
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()

    def loader(indices: list[int]) -> DataLoader[Any]:
        return DataLoader(Subset(data, indices), given.batch, num_workers=given.workers)

    test = loader(order[: given.images])
    batches = [x.to(given.device) for x, _ in loader(order[-given.calibration_images :])]

    @torch.no_grad()
    def evaluate(model: nn.Module) -> dict[str, float]:
        right = {1: 0, 5: 0}
        for x, labels in test:
            best = model(x.to(given.device)).topk(5).indices.cpu()
            for k in right:
                right[k] += int((best[:, :k] == labels[:, None]).any(1).sum())
        return {f"top{k}": n / len(test.dataset) for k, n in right.items()}  # type: ignore[arg-type]

    results = ah.sweep(
        model.to(given.device).eval(), given.ids, evaluate, batches, path=given.path,
        calibrator="percentile(99.99)", compensate=given.compensate, progress=True,
    )  # fmt: skip
    print(results)


if __name__ == "__main__":
    main()
