"""Finding the quantiser whose values a layer is given, by running a model once.

Eager models and graphs of ``torch.fx`` alike keep their quantisers before or behind layers, not in
them. So a tensor that a quantiser gives is marked, the mark goes on through functions that move
values without changing them, and is read where a layer takes its input. Imports torch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["inputs_of"]

# Each gives values that its first argument has, and zero.
_KEEPING = {
    torch.flatten, Tensor.flatten, Tensor.reshape, torch.reshape, Tensor.view, Tensor.view_as,
    Tensor.permute, torch.permute, Tensor.transpose, torch.transpose, Tensor.contiguous,
    Tensor.squeeze, torch.squeeze, Tensor.unsqueeze, torch.unsqueeze, Tensor.clone, torch.clone,
    Tensor.detach, Tensor.t, Tensor.__getitem__, Tensor.chunk, torch.chunk, Tensor.split,
    torch.split, Tensor.expand, Tensor.unflatten, F.relu, torch.relu, Tensor.relu, torch.relu_,
    Tensor.relu_, F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d,
    torch.max_pool3d, F.pixel_shuffle,
}  # fmt: skip


class _Marks(TorchFunctionMode):
    """Which quantiser a tensor's values are of."""

    def __init__(self) -> None:
        super().__init__()
        self._of: dict[int, Any] = {}
        self._kept: list[Any] = []  # so that no id is given twice

    def put(self, t: Any, mark: Any) -> None:
        if isinstance(t, Tensor):
            self._of[id(t)] = mark
            self._kept.append(t)

    def of(self, t: Any) -> Any:
        return self._of.get(id(t))

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        mark = self.of(args[0]) if args else None
        keeps = func in _KEEPING or (func in (F.dropout, torch.dropout) and result is args[0])
        if mark is not None and keeps:
            for t in result if isinstance(result, (tuple, list)) else (result,):
                self.put(t, mark)
        return result


def inputs_of(
    model: nn.Module,
    layers: Iterable[nn.Module],
    quantizers: Mapping[nn.Module, Any],
    run: Callable[[], Any],
) -> dict[nn.Module, Any]:
    """The mark of each layer's input, for those that have one.

    Parameters
    ----------
    model : torch.nn.Module
    layers : iterable of torch.nn.Module
        Modules whose first input is wanted.
    quantizers : mapping of torch.nn.Module to anything
        The mark of what each of these modules gives.
    run : callable
        Runs the model once.

    Returns
    -------
    dict
        A layer that was called with inputs of several marks has none.
    """
    marks = _Marks()
    found: dict[nn.Module, list[Any]] = {}

    def given(module: nn.Module, args: tuple[Any, ...]) -> None:
        found.setdefault(module, []).append(marks.of(args[0]) if args else None)

    def gave(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        marks.put(result, quantizers[module])

    hooks = [layer.register_forward_pre_hook(given) for layer in layers]
    hooks += [quantizer.register_forward_hook(gave) for quantizer in quantizers]
    training = [(m, m.training) for m in model.modules()]
    for m, _ in training:
        m.training = False
    try:
        with torch.no_grad(), marks:
            run()
    finally:
        for hook in hooks:
            hook.remove()
        for m, was in training:
            m.training = was
    return {
        module: of[0]
        for module, of in found.items()
        if of[0] is not None and all(mark is of[0] for mark in of)
    }
