"""Multiplier ids: ``source:release/name+modifier``, read and written.

Pure text; imports nothing but the standard library and the errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from approxhub.errors import MultiplierIdError

__all__ = ["LOCAL", "Modifier", "MultiplierId", "is_source_name"]

LOCAL = "local"
"""Source name of the multipliers that were put into the store by hand."""

_SOURCE = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_SEGMENT = re.compile(r"[A-Za-z0-9_.,=-]+")
_SIGNMAG = re.compile(r"signmag\((weights|both),\s*([0-9]{1,2})\)")
_ORDER = ("swap", "signmag", "zerogate")


def is_source_name(text: str) -> bool:
    """Whether a text can stand before the colon of an id.

    Examples
    --------
    >>> is_source_name("my-lab"), is_source_name("../lab")
    (True, False)
    """
    return _SOURCE.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Modifier:
    """One change to a circuit's operands: ``swap``, ``signmag(...)`` or ``zerogate``.

    Parameters
    ----------
    kind : {'swap', 'signmag', 'zerogate'}
        What is changed.
    target : {'weights', 'both'}, optional
        For ``signmag``: which operands get a sign.
    bits : int, optional
        For ``signmag``: width of the signed codes.
    """

    kind: str
    target: str | None = None
    bits: int | None = None

    def __str__(self) -> str:
        return f"signmag({self.target},{self.bits})" if self.kind == "signmag" else self.kind

    @classmethod
    def parse(cls, text: str) -> Modifier:
        """Read one modifier, without its ``+``."""
        if text in ("swap", "zerogate"):
            return cls(text)
        match = _SIGNMAG.fullmatch(text)
        if match is None:
            raise MultiplierIdError(
                f"{text!r} is not a modifier; known are +swap, +signmag(weights|both, bits), "
                "+zerogate"
            )
        return cls("signmag", match[1], int(match[2]))


@dataclass(frozen=True, slots=True)
class MultiplierId:
    """The parts of a multiplier's id.

    Parameters
    ----------
    source : str or None
        Name of the source; None for a bare name.
    path : str
        What the source knows it by: ``v1.1/mul8u_1JFF``, ``8u/k=4``, ``mine``.
    modifiers : tuple of Modifier
        In the order swap, signmag, zerogate.

    Examples
    --------
    >>> i = MultiplierId.parse("evoapproxlib:v1.1/mul8u_1JFF+swap")
    >>> i.source, i.release, i.name, [str(m) for m in i.modifiers]
    ('evoapproxlib', 'v1.1', 'mul8u_1JFF', ['swap'])
    >>> str(i.base)
    'evoapproxlib:v1.1/mul8u_1JFF'
    """

    source: str | None
    path: str
    modifiers: tuple[Modifier, ...] = ()

    @classmethod
    def parse(cls, text: str) -> MultiplierId:
        """Read an id.

        Raises
        ------
        MultiplierIdError
            If `text` does not follow ``[source:]path[+modifier]...``.
        """
        if not isinstance(text, str):
            raise MultiplierIdError(f"a multiplier id is a string, got {type(text).__name__}")
        head, *tail = text.strip().split("+")
        source, colon, path = head.rpartition(":")
        if colon and not _SOURCE.fullmatch(source):
            raise MultiplierIdError(f"{text!r}: {source!r} is not the name of a source")
        segments = path.split("/")
        if not all(_SEGMENT.fullmatch(s) and s.strip(".") for s in segments):
            raise MultiplierIdError(
                f"{text!r} is not a multiplier id; write e.g. 'mul8s_1KV9', "
                "'evoapproxlib:v1.1/mul8u_1JFF', 'drum:8u/k=4' or 'exact:8s'"
            )
        modifiers = tuple(Modifier.parse(t) for t in tail)
        ranks = [_ORDER.index(m.kind) for m in modifiers]
        if ranks != sorted(set(ranks)):
            raise MultiplierIdError(
                f"{text!r}: modifiers stand once each, in the order +swap, +signmag(...), +zerogate"
            )
        return cls(source if colon else None, path, modifiers)

    @property
    def release(self) -> str | None:
        """The part of the path before its last ``/``, if any."""
        return self.path.rpartition("/")[0] or None

    @property
    def name(self) -> str:
        """The part of the path after its last ``/``."""
        return self.path.rpartition("/")[2]

    @property
    def base(self) -> MultiplierId:
        """This id without modifiers."""
        return replace(self, modifiers=())

    def with_modifier(self, modifier: Modifier) -> MultiplierId:
        """This id with one more modifier.

        Raises
        ------
        MultiplierIdError
            If the modifier would stand twice or out of order.
        """
        return MultiplierId.parse(f"{self}+{modifier}")

    def __str__(self) -> str:
        head = f"{self.source}:{self.path}" if self.source else self.path
        return "+".join([head, *map(str, self.modifiers)])
