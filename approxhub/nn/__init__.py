"""Layers whose products come from a multiplier, with torch.nn's names and signatures."""

from __future__ import annotations

from approxhub.nn.attention import Matmul, MultiheadAttention, ScaledDotProductAttention
from approxhub.nn.base import MODES, ApproxLayer
from approxhub.nn.composite import CompositeLayer
from approxhub.nn.conv import Conv1d, Conv2d, Conv3d
from approxhub.nn.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from approxhub.nn.folding import (
    NormalizedConv1d,
    NormalizedConv2d,
    NormalizedConv3d,
    NormalizedConvTranspose1d,
    NormalizedConvTranspose2d,
    NormalizedConvTranspose3d,
    NormalizedLinear,
)
from approxhub.nn.gradients import Gradient, StraightThrough
from approxhub.nn.linear import Linear
from approxhub.nn.noise import Noise
from approxhub.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

__all__ = [
    "GRU",
    "LSTM",
    "MODES",
    "RNN",
    "ApproxLayer",
    "CompositeLayer",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "GRUCell",
    "Gradient",
    "LSTMCell",
    "Linear",
    "Matmul",
    "MultiheadAttention",
    "Noise",
    "NormalizedConv1d",
    "NormalizedConv2d",
    "NormalizedConv3d",
    "NormalizedConvTranspose1d",
    "NormalizedConvTranspose2d",
    "NormalizedConvTranspose3d",
    "NormalizedLinear",
    "RNNCell",
    "ScaledDotProductAttention",
    "StraightThrough",
]
