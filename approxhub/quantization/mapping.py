"""Operand mappings: how real numbers reach a circuit.

The same circuit gives other results under another mapping, so a mapping has a name, is stored in
the ``state_dict`` and stands in every row of results. Imports no torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from approxhub.errors import InputError, MappingError
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

__all__ = ["MAPPINGS", "CodeRange", "OperandMapping"]

MAPPINGS = (
    "symmetric",
    "affine",
    "affine-signed",
    "signmag-weights",
    "signmag-both",
    "mixed",
)

_TEXT = re.compile(r"([a-z-]+)(?:\((\d{1,2})\))?")


@dataclass(frozen=True, slots=True)
class CodeRange:
    """The codes that a quantiser may produce for one operand.

    Parameters
    ----------
    format : OperandFormat
        The operand that the codes enter.
    qmin, qmax : int
        Smallest and largest code.
    affine : bool
        Whether there is a zero point; without one, code 0 is real zero.
    """

    format: OperandFormat
    qmin: int
    qmax: int
    affine: bool

    @property
    def largest(self) -> int:
        """Largest magnitude of a code."""
        return max(-self.qmin, self.qmax)

    @classmethod
    def symmetric(cls, f: OperandFormat, limit: int | None = None) -> CodeRange:
        """``-limit..limit`` without a zero point; `limit` is the largest code by default."""
        limit = f.max if limit is None else min(limit, f.max)
        return cls(f, -limit, limit, affine=False)

    @classmethod
    def full(cls, f: OperandFormat) -> CodeRange:
        """Every code of the operand, with a zero point."""
        return cls(f, f.min, f.max, affine=True)


@dataclass(frozen=True, slots=True)
class OperandMapping:
    """A named way for activations and weights to become operands.

    Parameters
    ----------
    name : str
        One of :data:`MAPPINGS`.
    bits : int, optional
        For the ``signmag`` mappings: width of the signed codes; the circuit's when not given.
        One bit more uses the whole circuit.

    Examples
    --------
    >>> from approxhub import exact
    >>> OperandMapping.default(exact(8, signed=False)).name
    'affine'
    >>> m, x, w = OperandMapping.parse("signmag-weights(9)").resolve(exact(8, signed=False))
    >>> m.id, (x.qmin, x.qmax), (w.qmin, w.qmax)
    ('exact:8u+signmag(weights,9)', (0, 255), (-255, 255))
    """

    name: str
    bits: int | None = None

    def __post_init__(self) -> None:
        if self.name not in MAPPINGS:
            raise MappingError(
                f"no operand mapping is called {self.name!r}; known: {', '.join(MAPPINGS)}"
            )
        if self.bits is not None and not self.name.startswith("signmag"):
            raise MappingError(f"only the signmag mappings take a width, not {self.name!r}")

    @classmethod
    def parse(cls, text: str) -> OperandMapping:
        """Read ``'affine'`` or ``'signmag-weights(9)'``.

        Raises
        ------
        MappingError
            If `text` is not the name of a mapping.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise MappingError(
                f"no operand mapping is called {text!r}; known: {', '.join(MAPPINGS)}"
            )
        return cls(match[1], int(match[2]) if match[2] else None)

    @classmethod
    def default(cls, m: Multiplier) -> OperandMapping:
        """``symmetric`` for signed x signed, ``affine`` for unsigned x unsigned, else ``mixed``."""
        if m.a.signed != m.b.signed:
            return cls("mixed")
        return cls("symmetric" if m.a.signed else "affine")

    def resolve(self, m: Multiplier) -> tuple[Multiplier, CodeRange, CodeRange]:
        """Fit this mapping to a circuit.

        Parameters
        ----------
        m : Multiplier
            The circuit.

        Returns
        -------
        multiplier : Multiplier
            The circuit, behind its sign-magnitude wrapper if the mapping has one.
        activations, weights : CodeRange
            What the quantisers may produce.

        Raises
        ------
        MappingError
            If the circuit's operands do not fit; the message says what would.
        """
        self._check(m)
        if self.name in ("signmag-weights", "signmag-both"):
            circuit = m
            try:
                m = m.signmag(self.name.removeprefix("signmag-"), self.bits)
            except InputError as error:
                raise MappingError(f"mapping {self}: {error}") from None
            limit_a, limit_b = circuit.a.max, circuit.b.max
            x = (
                CodeRange.symmetric(m.a, limit_a)
                if self.name == "signmag-both"
                else CodeRange.full(m.a)
            )
            return m, x, CodeRange.symmetric(m.b, limit_b)
        x, w = (CodeRange.symmetric(f) if f.signed else CodeRange.full(f) for f in (m.a, m.b))
        return m, CodeRange.full(m.a) if self.name == "affine-signed" else x, w

    def _check(self, m: Multiplier) -> None:
        signs = (m.a.signed, m.b.signed)
        wanted = {
            "symmetric": (True, True),
            "affine-signed": (True, True),
            "mixed": signs if signs[0] != signs[1] else (not signs[0], signs[1]),
        }.get(self.name, (False, False))
        if signs != wanted:
            fits = {
                (True, True): "'symmetric' or 'affine-signed'",
                (False, False): "'affine', 'signmag-weights' or 'signmag-both'",
            }.get(signs, "'mixed'")
            words = {True: "signed", False: "unsigned"}
            raise MappingError(
                f"mapping {str(self)!r} needs a circuit of {words[wanted[0]]} x "
                f"{words[wanted[1]]} operands, but {m.id} is {m.a} x {m.b}; use the mapping {fits}"
            )
        if any(f.signed and f.bits < 2 for f in (m.a, m.b)):
            raise MappingError(f"{m.id}: a signed operand of one bit has no positive code")

    def __str__(self) -> str:
        return self.name if self.bits is None else f"{self.name}({self.bits})"
