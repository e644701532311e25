"""Telling a pass that gradient checkpointing runs again from one that runs for the first time.

Imports torch alone.
"""

from __future__ import annotations

import torch

__all__ = ["recomputing"]


def recomputing() -> bool:
    """Whether this pass runs inside a backward pass, as :mod:`torch.utils.checkpoint` has it.

    What moves once for each pass in training (ranges, batch statistics) must not move again then.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
