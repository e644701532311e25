"""Models that other tools have quantised, and files that other tools read.

Each tool has a module of its own, which imports it: :mod:`~approxhub.interop.torch_ao`,
:mod:`~approxhub.interop.torchao`, :mod:`~approxhub.interop.brevitas` and
:mod:`~approxhub.interop.onnx`. The rest of ApproxHub imports none of this;
``pip install approxhub[interop]`` brings the tools.
"""

from __future__ import annotations

from approxhub.interop.imported import NarrowRange, QuantizerParameters, narrow_ranges

__all__ = ["NarrowRange", "QuantizerParameters", "narrow_ranges"]
