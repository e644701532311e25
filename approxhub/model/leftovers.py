"""What a conversion leaves exact: unconverted layers, and products called as functions.

Functional calls are found by reading the source of each ``forward``, and of the plain functions
and methods that it calls. That sees what may run, not what does:
:func:`approxhub.model.summary` counts what really runs.
"""

from __future__ import annotations

import ast
import inspect
import operator
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["Leftover", "find_calls", "has_products"]

_PRODUCTS = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)

_METHODS = frozenset(
    {"matmul", "mm", "bmm", "mv", "dot", "vdot", "inner", "tensordot", "__matmul__"}
    | {"addmm", "addmv", "addbmm", "baddbmm"}
)
_FUNCTIONS: frozenset[Any] = frozenset({operator.matmul, operator.imatmul}) | frozenset(
    getattr(space, name)
    for space, names in (
        (torch, [*sorted(_METHODS), "einsum", "chain_matmul", "bilinear"]),
        (torch, [f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)]),
        (F, [f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)]),
        (F, ["linear", "bilinear", "scaled_dot_product_attention", "multi_head_attention_forward"]),
        (torch.linalg, ["matmul", "multi_dot", "vecdot"]),
        (torch.Tensor, sorted(_METHODS)),
    )
    for name in names
    if hasattr(space, name)
)
_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Leftover:
    """Products that a conversion leaves exact.

    Parameters
    ----------
    name : str
        Name of the module that makes them; ``''`` is the root.
    what : str
        The module's type, or the call and where it stands.
    reason : str
        Why it was left.
    """

    name: str
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name or '(root)'}: {self.what} ({self.reason})"


def has_products(module: nn.Module) -> bool:
    """Whether a module is of a torch type that multiplies and accumulates."""
    return isinstance(module, _PRODUCTS)


def find_calls(module: nn.Module) -> Iterator[str]:
    """Products that a module's own ``forward`` calls as functions, as ``'F.linear, net.py:12'``.

    Nothing for torch's own modules and for approximate layers. A forward whose source cannot be
    read gives one entry that says so.
    """
    forward = type(module).forward
    if _ours(getattr(forward, "__module__", "")) or not isinstance(forward, FunctionType):
        return
    yield from _scan(forward, module, set(), _DEPTH)


def _ours(module_name: str) -> bool:
    return (module_name or "").split(".")[0] in ("torch", "approxhub", "builtins", "numpy")


def _scan(
    function: FunctionType, owner: nn.Module | None, seen: set[Any], depth: int
) -> Iterator[str]:
    function = inspect.unwrap(function)  # e.g. from @torch.no_grad()
    if not isinstance(function, FunctionType) or function.__code__ in seen or not depth:
        return
    seen.add(function.__code__)
    where = f"{Path(function.__code__.co_filename).name}"
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        yield f"{function.__qualname__}: its source cannot be read"
        return
    scope = _scope(function, owner, tree)
    for node in ast.walk(tree):
        line = first + getattr(node, "lineno", 1) - 1
        if isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.MatMult):
            yield f"{ast.unparse(node)}, {where}:{line}"
        elif isinstance(node, ast.Call):
            target = _resolve(node.func, scope)
            if _is_product(node.func, target):
                yield f"{ast.unparse(node.func)}, {where}:{line}"
            elif isinstance(target, MethodType) and isinstance(target.__self__, nn.Module):
                inner, other = target.__func__, target.__self__
                again = other is not owner and inner is type(other).forward  # has its own entry
                if isinstance(inner, FunctionType) and not (again or _ours(inner.__module__)):
                    yield from _scan(inner, other, seen, depth - 1)
            elif isinstance(target, FunctionType) and not _ours(target.__module__):
                yield from _scan(target, None, seen, depth - 1)


def _scope(function: FunctionType, owner: nn.Module | None, tree: ast.AST) -> dict[str, Any]:
    """What the names in a function stand for, as far as that is known before it runs."""
    code = function.__code__
    scope = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
    for local in code.co_varnames:  # it hides a global of its name
        scope.pop(local, None)
    me = next(iter(code.co_varnames[: code.co_argcount]), None)
    if owner is not None and me is not None:
        scope[me] = owner
        if "__class__" in scope:
            scope["super()"] = super(scope["__class__"], owner)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                module = name.name if name.asname else name.name.split(".")[0]
                scope[name.asname or module] = sys.modules.get(module)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                found = getattr(sys.modules.get(node.module), name.name, None)
                scope[name.asname or name.name] = found
    return scope


def _is_product(node: ast.expr, target: Any) -> bool:
    if target is not None:
        try:
            return target in _FUNCTIONS
        except TypeError:  # unhashable
            return False
    # Not resolvable: a method of some tensor, most likely.
    return isinstance(node, ast.Attribute) and node.attr in _METHODS


def _resolve(node: ast.expr, scope: dict[str, Any]) -> Callable[..., Any] | Any | None:
    """The object that a dotted name stands for, or None."""
    if isinstance(node, ast.Name):
        return scope.get(node.id)
    if isinstance(node, ast.Call):
        return scope.get("super()") if ast.unparse(node) == "super()" else None
    if isinstance(node, ast.Attribute):
        base = _resolve(node.value, scope)
        if base is None or isinstance(base, torch.Tensor):
            return None
        try:
            return getattr(base, node.attr, None)
        except Exception:  # a property of the user's may raise anything
            return None
    return None
