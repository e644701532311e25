"""Parts of the reference that are read off the code: hooks, and families of multipliers.

``{approxhub-hook} approxhub_backends`` and ``{approxhub-families}`` on a page become the Markdown
that the functions here make; conf.py sees to that.
"""

from __future__ import annotations

import inspect
from typing import Any

import approxhub as ah
from approxhub import families
from approxhub.families.base import Family
from approxhub.families.sources import FAMILIES
from approxhub.plugins import builtin, hookspecs
from approxhub.registry.pins import pin_sources


def hook_text(name: str) -> str:
    """What the code says of a hook: its line, what it returns, and what is built in."""
    spec = getattr(hookspecs, name)
    lines = [f"*{inspect.getdoc(spec)}*", ""]
    returned = inspect.signature(spec).return_annotation
    record = returned.removeprefix("Sequence[").removesuffix("]")
    if record == "None":
        return "\n".join([*lines, "Returns nothing."])
    lines += [f"Returns a list of {{class}}`~approxhub.plugins.{record}`.", ""]
    return "\n".join([*lines, f"Built in: {', '.join(f'`{n}`' for n in built_in(name))}."])


def built_in(hook: str) -> list[str]:
    """Names that ApproxHub itself offers through a hook, without indexes that were added."""
    added = {source.name for source in pin_sources()}
    return sorted({_key(r) for r in getattr(builtin, hook)()} - added)


def _key(record: Any) -> str:
    return str(getattr(record, "name", None) or record.source_type)


def families_text() -> str:
    """A section for each family: its ids, its parameters, its paper, and errors of 8 bits."""
    return "\n".join(_family_text(family) for family in FAMILIES)


def _family_text(family: Family) -> str:
    keys = ",".join(f"{p.name}=..." for p in family.parameters)
    form = f"{family.name}:<formats>{'/' + keys if keys else ''}"
    lines = [f"## `{family.name}`", "", f"{family.title[0].upper()}{family.title[1:]}.", ""]
    lines += [f"Ids are `{form}`; in Python {{func}}`approxhub.{_constructor(family)}`.", ""]
    lines += [*(f"- `{p.name}`: {p.meaning}." for p in family.parameters), ""]
    if family.name != "exact":
        lines += _errors(family)
    if family.citation is not None:
        doi = f" [{family.doi}](https://doi.org/{family.doi})" if family.doi else ""
        lines += [f"{family.citation}.{doi}", ""]
    return "\n".join(lines)


def _constructor(family: Family) -> str:
    """Name of the function that makes its members, below ``approxhub``."""
    for name in families.__all__:
        module = inspect.getmodule(getattr(families, name))
        if getattr(module, "FAMILY", None) is family:
            return f"families.{name}"
    return "exact"


def _errors(family: Family) -> list[str]:
    rows = ["| id | MAE, % | WCE, % | MRE, % | EP, % | bias |", "|---|---|---|---|---|---|"]
    for path in family.examples:
        m = ah.load(f"{family.name}:{path}")
        if (m.a.bits, m.b.bits) == (8, 8):
            e = m.metrics
            rows.append(
                f"| `{m.id}` | {e.mae_pct:.4g} | {e.wce_pct:.4g} | {e.mre_pct:.4g} | "
                f"{e.ep_pct:.4g} | {e.bias:.4g} |"
            )
    return [*rows, ""]
