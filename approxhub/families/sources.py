"""The families as sources of multipliers, read from ids like ``drum:8u/k=4``.

Imports no more than the families; the registry's records only when a listing is asked for.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from approxhub.families.base import Family
from approxhub.families.broken_array import FAMILY as BROKEN_ARRAY
from approxhub.families.broken_carry_save import FAMILY as BROKEN_CARRY_SAVE
from approxhub.families.drum import FAMILY as DRUM
from approxhub.families.dsm import FAMILY as DSM
from approxhub.families.kulkarni import FAMILY as KULKARNI
from approxhub.families.mbm import FAMILY as MBM
from approxhub.families.mitchell import FAMILY as MITCHELL
from approxhub.families.perforation import FAMILY as PERFORATION
from approxhub.families.roba import FAMILY as ROBA
from approxhub.families.ssm import FAMILY as SSM
from approxhub.families.tosam import FAMILY as TOSAM
from approxhub.families.truncated_mitchell import FAMILY as TRUNCATED_MITCHELL
from approxhub.families.truncation import FAMILY as TRUNCATION
from approxhub.multiplier import Circuit, Multiplier, exact
from approxhub.operands import OperandFormat
from approxhub.plugins.descriptors import MultiplierSource

if TYPE_CHECKING:
    from approxhub.registry.context import FetchContext
    from approxhub.registry.entries import Entry

__all__ = ["FAMILIES", "family_sources"]


def _exact(a: OperandFormat, b: OperandFormat) -> Multiplier:
    return exact(a.bits, a.signed, b_bits=b.bits, b_signed=b.signed)


class _ExactFamily(Family):
    def multiplier(self, a: OperandFormat, b: OperandFormat, /, **values: int) -> Multiplier:
        return _exact(a, b)


def _exact_circuit(a: OperandFormat, b: OperandFormat) -> Circuit:
    return _exact(a, b)


EXACT = _ExactFamily(
    name="exact",
    title="the exact product",
    circuit=_exact_circuit,
    examples=("8u", "8s", "16u", "16s"),
)

FAMILIES: tuple[Family, ...] = (
    EXACT,
    TRUNCATION,
    PERFORATION,
    BROKEN_ARRAY,
    BROKEN_CARRY_SAVE,
    KULKARNI,
    SSM,
    DSM,
    DRUM,
    MITCHELL,
    TRUNCATED_MITCHELL,
    MBM,
    ROBA,
    TOSAM,
)


def _entries(family: Family) -> list[Entry]:
    from approxhub.registry.entries import Entry

    parsed = [(path, *family.parse(path)[:2]) for path in family.examples]
    return [
        Entry(
            id=f"{family.name}:{path}",
            a=a,
            b=b,
            citation=family.citation,
            doi=family.doi,
            summary=family.title,
        )
        for path, a, b in parsed
    ]


def _fetch(family: Family, path: str, _context: FetchContext | None = None) -> Multiplier:
    return family.fetch(path)


def family_sources() -> list[MultiplierSource]:
    """Return a source for each family, for the plug-in host.

    Their `list` gives examples (a family has a member for every width and parameter), their
    `fetch` any member. Their members have no bare names and are not cached: a formula is quicker
    than a file.

    Examples
    --------
    >>> sources = {s.name: s for s in family_sources()}
    >>> list(sources)[:5]
    ['exact', 'truncation', 'perforation', 'bam', 'bamcsa']
    >>> list(sources)[5:9]
    ['kulkarni', 'ssm', 'dsm', 'drum']
    >>> list(sources)[9:]
    ['mitchell', 'mitchw', 'mbm', 'roba', 'tosam']
    >>> sources["drum"].fetch("8ux4u/k=3", None).id
    'drum:8ux4u/k=3'
    """
    return [
        MultiplierSource(
            name=family.name,
            list=functools.partial(_entries, family),
            fetch=functools.partial(_fetch, family),
            bare_names=False,
            cache=False,
        )
        for family in FAMILIES
    ]
