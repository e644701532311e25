"""The small records that hooks return. Nothing here imports torch, h5py or a plug-in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from approxhub.backends import Backend
    from approxhub.formats import Operands, TableData
    from approxhub.multiplier import Multiplier
    from approxhub.nn import Gradient
    from approxhub.quantization import Calibrator
    from approxhub.registry import Entry, FetchContext

__all__ = [
    "API_VERSION",
    "BackendInfo",
    "CalibratorInfo",
    "GradientInfo",
    "HealthCheck",
    "LayerConverter",
    "MultiplierSource",
    "TableFormat",
]

API_VERSION = 1
"""Version of the plug-in interface; a plug-in built for another is reported, not loaded."""


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """A backend, not yet loaded.

    Parameters
    ----------
    name : str
        Unique name, as in ``APPROXHUB_BACKEND``.
    device_type : str
        ``'cpu'``, ``'cuda'``, ... or ``'any'``.
    load : callable
        Returns the :class:`~approxhub.backends.Backend`; raises or returns None if it cannot.
    priority : int
        The higher wins between equal costs.
    api_version : int
        Version of the interface it was written for.
    """

    name: str
    device_type: str
    load: Callable[[], Backend | None]
    priority: int = 0
    api_version: int = API_VERSION


@dataclass(frozen=True, slots=True)
class MultiplierSource:
    """A source of named multipliers.

    Parameters
    ----------
    name : str
        The part of an id before the colon.
    list : callable
        Returns the :class:`~approxhub.registry.Entry` records it knows (for a family with
        parameters: examples). Must not use the network.
    fetch : callable
        Takes the part of the id after the colon, without modifiers, and a
        :class:`~approxhub.registry.FetchContext`; returns the multiplier, or raises
        :class:`~approxhub.errors.UnknownMultiplierError`.
    bare_names : bool
        Whether its multipliers may be asked for without the source's name.
    cache : bool
        Whether what it returns is kept in the cache (not for closed formulas).
    priority : int
        Of sources that agree on a bare name, the one with the higher is meant.
    """

    name: str
    list: Callable[[], Iterable[Entry]]
    fetch: Callable[[str, FetchContext], Multiplier]
    bare_names: bool = True
    cache: bool = True
    priority: int = 0


@dataclass(frozen=True, slots=True)
class TableFormat:
    """A file format for product tables.

    Which operands are signed, and in which order they stand, is often not in a file: `read`
    returns what the file says, and :func:`approxhub.formats.read_table` adds what the caller says.

    Parameters
    ----------
    name : str
        Unique name, as after ``--format``.
    suffixes : tuple of str
        File suffixes with their dot, in small letters. The first is its own: a file of that
        suffix is written in this format when none is named.
    sniff : callable
        Takes the first 65,536 bytes of a file; whether they look like this format. Must refuse
        what is another's.
    read : callable, optional
        ``read(path, operands) -> approxhub.formats.TableData``. `operands` are the formats that
        the caller gave of what counts rows and columns, or None. Raises
        :class:`~approxhub.errors.TableFileError` with the line or place of what is wrong.
    write : callable, optional
        ``write(data, path)``: writes a :class:`~approxhub.formats.TableData`, in which everything
        is known, to a file that is moved to its place afterwards.
    """

    name: str
    suffixes: tuple[str, ...]
    sniff: Callable[[bytes], bool]
    read: Callable[[Path, Operands | None], TableData] | None = None
    write: Callable[[TableData, Path], None] | None = None


@dataclass(frozen=True, slots=True)
class LayerConverter:
    """How a float layer becomes one that multiplies through a multiplier.

    Parameters
    ----------
    source_type : str
        Full name of the layer's class, e.g. ``'torch.nn.modules.linear.Linear'``.
    convert : callable
        ``convert(layer, multiplier, **options)``; returns an :class:`approxhub.nn.ApproxLayer`, or
        an :class:`approxhub.nn.CompositeLayer` of several.
    priority : int
        The higher wins between converters of one type.
    """

    source_type: str
    convert: Callable[..., Any]
    priority: int = 0


@dataclass(frozen=True, slots=True)
class GradientInfo:
    """A gradient of the approximate product, not yet loaded."""

    name: str
    load: Callable[[], Gradient]


@dataclass(frozen=True, slots=True)
class CalibratorInfo:
    """A calibrator, not yet loaded; `load` returns a function that makes a fresh one."""

    name: str
    load: Callable[[], Callable[[], Calibrator]]


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A check for ``approxhub doctor``; `run` returns (healthy, one line of findings)."""

    name: str
    run: Callable[[], tuple[bool, str]]
