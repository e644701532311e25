"""The libraries that are indexed: their commits, where circuits lie, what is printed of them.

One description per library; :mod:`multipliers_index.build` does the rest. Imports approxhub's
readers of C comments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from approxhub.cmodel import EVOAPPROX8B, EVOAPPROXLIB, FPGAS, Dialect
from approxhub.operands import OperandFormat

__all__ = ["LIBRARIES", "Library", "Place"]

Facts = Mapping[str, tuple[dict[str, str], dict[str, float]]]


@dataclass(frozen=True, slots=True)
class Place:
    """What a file's path says of the circuit in it.

    Parameters
    ----------
    name : str
        Name of the circuit and of its function.
    a, b : OperandFormat
        Formats of the first and the second C argument.
    rank : int
        Of several files that hold one circuit, the one with the lowest rank is taken.
    """

    name: str
    a: OperandFormat
    b: OperandFormat
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Library:
    """A published library of multipliers, as C models in a git repository.

    Parameters
    ----------
    source : str
        The part of an id before the colon.
    repository : str
        Its address on GitHub.
    releases : mapping of str to str
        Release to the commit that it is, the preferred release first.
    place : callable
        What a path holds; None if no multiplier.
    technology : str
        What the printed cost holds for.
    dialect : Dialect
        Lines of the comment in each file.
    facts_path, facts : str, callable, optional
        A file with more printed figures, and its reader: bytes to metrics and cost by name.
    """

    source: str
    repository: str
    releases: Mapping[str, str]
    place: Callable[[str], Place | None]
    technology: str
    dialect: Dialect = EVOAPPROXLIB
    facts_path: str | None = None
    facts: Callable[[bytes], Facts] | None = None

    @property
    def url(self) -> str:
        """Template of a file's address."""
        return self.repository.replace("//github.com", "//raw.githubusercontent.com") + (
            "/{commit}/{path}"
        )


# --- EvoApproxLib -------------------------------------------------------------

# A circuit that is Pareto-optimal in several ways lies in several folders.
_FOLDERS = ("mae", "wce", "mre", "mse", "ep")
# (The library's folder is really spelt like this.)
_EVOAPPROXLIB = re.compile(
    r"multiplers/(\d+)x(\d+)_(signed|unsigned)/pareto_pwr_(\w+)/(\w+)\.c", re.ASCII
)


def _in_evoapproxlib(path: str) -> Place | None:
    match = _EVOAPPROXLIB.fullmatch(path)
    if match is None:
        return None
    a, b = (OperandFormat(int(bits), match[3] == "signed") for bits in (match[1], match[2]))
    return Place(match[5], a, b, _rank(path, match[4], _FOLDERS))


def _rank(path: str, folder: str, known: tuple[str, ...]) -> int:
    if folder not in known:
        raise ValueError(f"{path}: the folder of {folder!r} is new; give it a rank")
    return known.index(folder)


# --- evoapprox8b --------------------------------------------------------------

_EVOAPPROX8B = re.compile(r"multipliers_8/source_c/(mul8_\w+)\.c", re.ASCII)
_PARAMS = {"mae%": "mae_pct", "wce%": "wce_pct", "ep%": "ep_pct", "mre%": "mre_pct"}
_COSTS = {"pwr": "power_mw", "area": "area_um2", "delay": "delay_ns"}


def _in_evoapprox8b(path: str) -> Place | None:
    match = _EVOAPPROX8B.fullmatch(path)
    f = OperandFormat(8, signed=False)
    return None if match is None else Place(match[1], f, f)


def _params(raw: bytes) -> Facts:
    """Read meta.json: percentages (MRE over pairs with a product), and cost without units.

    Its exact mul8_364 costs 0.391, 709.6 and 1.43, which is what EvoApproxLib prints, in mW, um2
    and ns, for the exact mul8u_1JFF: the units, and the process, are taken to be the same.
    """
    found: dict[str, tuple[dict[str, str], dict[str, float]]] = {}

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for child in node:
                walk(child)
        elif "params" in node:
            params = node["params"]
            found[node["name"]] = (
                {key: params[name] for name, key in _PARAMS.items()},
                {field: float(params[name]) for name, field in _COSTS.items()},
            )
        else:
            walk(node.get("datasets", []) + node.get("instances", []))

    walk(json.loads(raw))
    return found


# --- approx-fpgas -------------------------------------------------------------

_FPGA_FOLDERS = ("power_mae", "power_wce", "lut_mae", "lut_wce", "delay_mae", "delay_wce")
_FPGAS = re.compile(r"mul(\d+)x(\d+)/fpga_(\w+)/(\w+)\.c", re.ASCII)


def _in_fpgas(path: str) -> Place | None:
    match = _FPGAS.fullmatch(path)
    if match is None:
        return None
    a, b = (OperandFormat(int(bits), signed=False) for bits in (match[1], match[2]))
    return Place(match[4], a, b, _rank(path, match[3], _FPGA_FOLDERS))


LIBRARIES = (
    Library(
        source="evoapproxlib",
        repository="https://github.com/ehw-fit/evoapproxlib",
        releases={
            "v1.1": "d321f7f68c81141a7eed7556e1614b86d4ba629a",
            "v2022": "187ff571556cc1f310e46fa4ac463abb71dd671e",
            "v1.0": "eafdd4983283d5dde54460dd31444547948fb015",
        },
        place=_in_evoapproxlib,
        technology="PDK45",
    ),
    Library(
        source="evoapprox8b",
        repository="https://github.com/ehw-fit/evoapprox8b",
        releases={"2017": "ad6bb819bed0c641e26c882f06796efcfe406960"},
        place=_in_evoapprox8b,
        technology="PDK45",
        dialect=EVOAPPROX8B,
        facts_path="meta.json",
        facts=_params,
    ),
    Library(
        source="approx-fpgas",
        repository="https://github.com/ehw-fit/approx-fpgas",
        releases={"2020": "f849c2eb3418a01b27bd66efac2ad823829af45d"},
        place=_in_fpgas,
        technology="FPGA",
        dialect=FPGAS,
    ),
)
"""All libraries, with their pinned commits."""
