"""What all families share: parameters, ids, and how a circuit says what it is.

A new family is one module that holds a circuit, a `FAMILY` record and a constructor, and one line
in :mod:`approxhub.families.sources`. Imports numpy and the multiplier; never torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from approxhub.errors import InputError, UnknownMultiplierError
from approxhub.multiplier import (
    Circuit,
    Multiplier,
    Provenance,
    format_pair,
    parse_format_pair,
)
from approxhub.operands import OperandFormat

__all__ = [
    "Family",
    "FamilyCircuit",
    "IntArray",
    "Parameter",
    "SignMagnitudeCircuit",
    "characteristic_fraction",
    "dropped_bits",
    "leading_one",
    "leading_segment",
    "operand_formats",
]

IntArray = npt.NDArray[np.int64]

_NUMBER = re.compile(r"[0-9]{1,3}")


def operand_formats(
    bits: int, signed: bool, b_bits: int | None, b_signed: bool | None
) -> tuple[OperandFormat, OperandFormat]:
    """Return the formats of both operands; the weight's as the activation's if not given."""
    a = OperandFormat(bits, signed)
    b = OperandFormat(bits if b_bits is None else b_bits, signed if b_signed is None else b_signed)
    return a, b


def leading_one(x: IntArray) -> IntArray:
    """Position of the highest set bit, 0 for 1; -1 for 0. Exact below 2**53."""
    return np.frexp(x.astype(np.float64))[1].astype(np.int64) - 1


def dropped_bits(x: IntArray, k: int) -> IntArray:
    """How many bits lie below the `k`-bit segment at the leading one; 0 if all fit in it."""
    return np.maximum(leading_one(x) - (k - 1), 0)


def leading_segment(x: IntArray, k: int) -> IntArray:
    """Clear all bits below the `k`-bit segment that starts at the leading one."""
    shift = dropped_bits(x, k)
    return (x >> shift) << shift


def characteristic_fraction(x: IntArray, bits: int) -> tuple[IntArray, IntArray]:
    """Split x = 2**p * (1 + f) into p and the first `bits` bits of f; 0 gives p = f = 0.

    The fraction is an integer below 2**bits; none of it is lost where `bits` >= p.
    """
    p = np.maximum(leading_one(x), 0)
    residue = x & ((np.int64(1) << p) - 1)
    return p, (residue << bits) >> p


# --- circuits -----------------------------------------------------------------


@dataclass(frozen=True)
class FamilyCircuit(ABC):
    """A closed formula; its hash is that of the family's name, its version and its parameters.

    `version` is raised whenever the formula of a family changes: where there is no table, nothing
    else tells an old multiplier from a new one.
    """

    family: ClassVar[str]
    version: ClassVar[int] = 1

    @property
    def source_sha256(self) -> str:
        """Hash of what defines the circuit."""
        values = ",".join(f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self))
        text = f"approxhub family {self.family} version {self.version}: {values}"
        return hashlib.sha256(text.encode()).hexdigest()

    @abstractmethod
    def evaluate(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Products of broadcastable int64 arrays of values, int64."""


@dataclass(frozen=True)
class SignMagnitudeCircuit(FamilyCircuit):
    """An unsigned formula between two's-complement converters.

    The magnitude of -2**(n-1) is 2**(n-1), which takes all n bits of an unsigned core of the
    operand's own width: no code saturates.
    """

    def evaluate(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Products of the magnitudes, negative where exactly one operand is."""
        product = self.magnitude(np.abs(a), np.abs(b))
        return np.where((a < 0) ^ (b < 0), -product, product)

    @abstractmethod
    def magnitude(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Products of values that are not negative; 0 if one of them is 0."""


# --- families -----------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One integer parameter of a family.

    Parameters
    ----------
    name : str
        Its key in ids and its keyword in the constructor.
    meaning : str
        What it counts, for errors and listings.
    limits : callable
        Smallest and largest value for two operand formats and the values of the parameters
        before this one.
    """

    name: str
    meaning: str
    limits: Callable[[OperandFormat, OperandFormat, Mapping[str, int]], tuple[int, int]]


@dataclass(frozen=True)
class Family:
    """A published design with a closed formula.

    Parameters
    ----------
    name : str
        Name of its source, the part of an id before the colon.
    title : str
        One line for a person.
    circuit : callable
        ``circuit(a, b, **parameters) -> Circuit`` for two operand formats.
    parameters : tuple of Parameter
        In the order in which an id writes them.
    examples : tuple of str
        Paths of some members, for listings and for close names.
    citation, doi : str or None
        Its paper.
    """

    name: str
    title: str
    circuit: Callable[..., Circuit]
    parameters: tuple[Parameter, ...] = ()
    examples: tuple[str, ...] = ()
    citation: str | None = None
    doi: str | None = None

    def multiplier(self, a: OperandFormat, b: OperandFormat, /, **values: int) -> Multiplier:
        """Make one member.

        Raises
        ------
        InputError
            If a parameter is not an integer or out of its range.
        """
        checked = self._checked(a, b, values)
        return Multiplier(
            f"{self.name}:{self.path(a, b, checked)}",
            a,
            b,
            circuit=self.circuit(a, b, **checked),
            provenance=Provenance(source=self.name, citation=self.citation, doi=self.doi),
        )

    def path(self, a: OperandFormat, b: OperandFormat, values: Mapping[str, int]) -> str:
        """Write the canonical part of an id after the colon."""
        keys = ",".join(f"{p.name}={values[p.name]}" for p in self.parameters)
        return "/".join([format_pair(a, b), *([keys] if keys else [])])

    def parse(self, path: str) -> tuple[OperandFormat, OperandFormat, dict[str, int]]:
        """Read what :meth:`path` writes, and nothing else.

        Raises
        ------
        UnknownMultiplierError
            If a format, a key or a value is wrong, missing, repeated or not written canonically.
        """
        pair, slash, tail = path.partition("/")
        try:
            a, b = parse_format_pair(pair)
        except InputError as error:
            raise self._unknown(path, str(error)) from None
        known = {p.name: p for p in self.parameters}
        values: dict[str, int] = {}
        for item in tail.split(",") if slash else ():
            key, equals, text = item.partition("=")
            if key not in known or not equals:
                raise self._unknown(path, f"{item!r} is not one of its parameters")
            if key in values:
                raise self._unknown(path, f"{key} stands twice")
            if not _NUMBER.fullmatch(text):
                raise self._unknown(path, f"{key} must be a number, got {text!r}")
            values[key] = int(text)
        missing = [name for name in known if name not in values]
        if missing:
            raise self._unknown(path, f"{' and '.join(missing)} must be given")
        try:
            values = self._checked(a, b, values)
        except InputError as error:
            raise self._unknown(path, str(error)) from None
        canonical = self.path(a, b, values)
        if path != canonical:
            raise self._unknown(path, f"write {self.name}:{canonical}", canonical)
        return a, b, values

    def fetch(self, path: str) -> Multiplier:
        """Make the member of a path.

        Raises
        ------
        UnknownMultiplierError
            As :meth:`parse`.
        """
        a, b, values = self.parse(path)
        return self.multiplier(a, b, **values)

    def _checked(
        self, a: OperandFormat, b: OperandFormat, values: Mapping[str, int]
    ) -> dict[str, int]:
        checked: dict[str, int] = {}
        for p in self.parameters:
            value = values[p.name]
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise InputError(f"{self.name}: {p.name} must be an integer, got {value!r}")
            low, high = p.limits(a, b, checked)
            if not low <= value <= high:
                given = "".join(f", {name} = {v}" for name, v in checked.items())
                raise InputError(
                    f"{self.name}: {p.name} ({p.meaning}) must be {low} to {high} "
                    f"for {a} x {b}{given}, got {value}"
                )
            checked[p.name] = int(value)
        return checked

    def _unknown(self, path: str, reason: str, *close: str) -> UnknownMultiplierError:
        paths = close or difflib.get_close_matches(path, self.examples, n=3, cutoff=0.0)
        names = [f"{self.name}:{p}" for p in paths]
        keys = "/" + ",".join(f"{p.name}=..." for p in self.parameters) if self.parameters else ""
        means = "".join(f"; {p.name} = {p.meaning}" for p in self.parameters)
        return UnknownMultiplierError(
            f"{self.name}:{path} is not a multiplier: {reason}. "
            f"It takes {self.name}:<formats>{keys}{means}; e.g. {', '.join(names)}",
            names,
        )
