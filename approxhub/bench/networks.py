"""Five networks in plain torch, as their papers give them: what whole-network timings run.

Weights are random: timings do not depend on them. Imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["MobileNetV2", "ResNet", "VisionTransformer", "resnet18", "resnet20", "resnet50"]


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Input plus what the convolutions make of it."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class _Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution, and a shortcut; the last one has four times the width."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != 4 * width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Input plus what the convolutions make of it."""
        return torch.relu(self.inner(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network of basic blocks.

    K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
    DOI 10.1109/CVPR.2016.90. Where the size changes, the shortcut is a 1x1 convolution (option
    B of the paper).

    Parameters
    ----------
    stem : torch.nn.Module
        What stands before the first block.
    widths : sequence of int
        Channels of each stage; all but the first begin with stride 2. The stem gives the first.
    blocks : int
        Blocks of each stage.
    classes : int

    Examples
    --------
    >>> resnet20()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, stem: nn.Module, widths: Sequence[int], blocks: int, classes: int) -> None:
        super().__init__()
        self.stem = stem
        stages, channels = [], widths[0]
        for i, width in enumerate(widths):
            for j in range(blocks):
                stages.append(_Block(channels, width, 2 if i > 0 and j == 0 else 1))
                channels = width
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, classes)."""
        y: Tensor = self.fc(self.stages(self.stem(x)).mean((2, 3)))
        return y


def resnet18(classes: int = 1000) -> ResNet:
    """ResNet-18 for images of 224 x 224."""
    stem = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    )
    return ResNet(stem, (64, 128, 256, 512), 2, classes)


def resnet20(classes: int = 10) -> ResNet:
    """ResNet-20 for images of 32 x 32 (section 4.2 of the paper)."""
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return ResNet(stem, (16, 32, 64), 3, classes)


def resnet50(classes: int = 1000) -> nn.Sequential:
    """ResNet-50 for images of 224 x 224, with the stride at the 3x3 convolutions."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    ]  # fmt: skip
    channels = 64
    for i, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for j in range(blocks):
            layers.append(_Bottleneck(channels, width, 2 if i > 0 and j == 0 else 1))
            channels = 4 * width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


def _conv_bn(channels: int, out: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU6(),
    )


class _InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow again."""

    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        widen = [_conv_bn(channels, hidden, 1, 1)] if expansion > 1 else []
        self.body = nn.Sequential(
            *widen,
            _conv_bn(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """The body, plus the input where the size stays."""
        y: Tensor = self.body(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1, for images of 224 x 224.

    M. Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
    DOI 10.1109/CVPR.2018.00474, table 2.

    Parameters
    ----------
    classes : int

    Examples
    --------
    >>> MobileNetV2()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 1000])
    """

    _STAGES = (  # expansion, channels, blocks, stride of the first
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_bn(3, 32, 3, 2)]
        channels = 32
        for expansion, out, blocks, stride in self._STAGES:
            for j in range(blocks):
                layers.append(_InvertedResidual(channels, out, stride if j == 0 else 1, expansion))
                channels = out
        self.features = nn.Sequential(*layers, _conv_bn(channels, 1280, 1, 1))
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, classes)."""
        y: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return y


class _EncoderBlock(nn.Module):
    """Attention and two linear layers, each behind a normalisation and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, width), before and after."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """ViT-B/16 for images of 224 x 224, or a smaller one of its kind.

    A. Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv 2010.11929, table 1.

    Parameters
    ----------
    image, patch : int
        Sides of the image and of its patches.
    width, depth, heads, classes : int

    Examples
    --------
    >>> VisionTransformer(32, 16, width=12, depth=2, heads=3)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 1000])
    """

    def __init__(
        self, image: int = 224, patch: int = 16, *, width: int = 768, depth: int = 12,
        heads: int = 12, classes: int = 1000,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, (image // patch) ** 2 + 1, width) / 50)
        self.blocks = nn.Sequential(*(_EncoderBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, 1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, image, image) to (N, classes)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.places
        y: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return y
