"""What quantisers of several processes have seen, taken together.

Imports torch alone; :mod:`torch.distributed` may be missing from a build of torch.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, distributed

__all__ = ["Mergeable", "all_reduce", "in_a_group"]


@runtime_checkable
class Mergeable(Protocol):
    """A calibrator that can take in what its like in other processes have seen."""

    def merge(self, like: Tensor) -> None:
        """Combine with all processes, which call this at once; some may have seen nothing.

        Parameters
        ----------
        like : Tensor of float32
            Gives shape and device of a range.
        """


def in_a_group() -> bool:
    """Whether this process is one of several that have joined a group."""
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def all_reduce(t: Tensor, operation: str) -> Tensor:
    """A tensor of every process made one: ``'min'``, ``'max'`` or ``'sum'``. All must call this."""
    operations = {
        "min": distributed.ReduceOp.MIN,
        "max": distributed.ReduceOp.MAX,
        "sum": distributed.ReduceOp.SUM,
    }
    t = t.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(t, operations[operation])
    return t
