"""Layers whose products come from a multiplier, with torch.nn's names and signatures."""

from __future__ import annotations

from approxhub.nn.base import MODES, ApproxLayer
from approxhub.nn.conv import Conv2d
from approxhub.nn.gradients import Gradient, StraightThrough
from approxhub.nn.linear import Linear

__all__ = ["MODES", "ApproxLayer", "Conv2d", "Gradient", "Linear", "StraightThrough"]
