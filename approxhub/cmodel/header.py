"""What the comment at the top of an EvoApproxLib C file says.

Numbers stay the strings that were printed: their last digit says how exact they are.
Imports the errors only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from approxhub.errors import CModelError

__all__ = ["Header", "Printed"]

_LINE = re.compile(r"//\s*(\S+)\s*=\s*(\S+)\s*(\S*)\s*\Z")
_CITATION = re.compile(r"please cite the following article\(s\):\s*(.+?)\s*\Z")
_DOI = re.compile(r"\bdoi:\s*(10\.\S+?)[.,;]?(?=\s|\Z)", re.IGNORECASE)
_TECHNOLOGY = re.compile(r"([A-Za-z0-9]+)_(PWR|AREA|DELAY)")

# Name in the comment -> field and unit.
_METRICS = {
    "MAE%": ("mae_pct", "%"),
    "MAE": ("mae", ""),
    "WCE%": ("wce_pct", "%"),
    "WCE": ("wce", ""),
    "WCRE%": ("wcre_pct", "%"),
    "EP%": ("ep_pct", "%"),
    "MRE%": ("mre_pct", "%"),
    "MSE": ("mse", ""),
}
_HARDWARE = {"PWR": ("power_mw", "mW"), "AREA": ("area_um2", "um2"), "DELAY": ("delay_ns", "ns")}
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Printed:
    """The error metrics as printed, without their units."""

    mae_pct: str
    mae: str
    wce_pct: str
    wce: str
    wcre_pct: str
    ep_pct: str
    mre_pct: str
    mse: str


@dataclass(frozen=True, slots=True)
class Header:
    """The comment of one file.

    Attributes
    ----------
    printed : Printed
        Error metrics, as printed.
    power_mw, area_um2, delay_ns : str
        Cost of the hardware, as printed.
    technology : str
        Process that the cost is for, such as ``PDK45``.
    citation : str
        The article to cite.
    doi : str or None
        Its DOI, where the citation has one.
    """

    printed: Printed
    power_mw: str
    area_um2: str
    delay_ns: str
    technology: str
    citation: str
    doi: str | None

    @classmethod
    def parse(cls, source: str) -> Header:
        r"""Read the comment of a C text.

        Raises
        ------
        CModelError
            If something is missing, printed twice, or not a number in the expected unit.

        Examples
        --------
        >>> text = '''/* please cite the following article(s): A. Author, "T". doi: 10.1/x
        ... */
        ... // MAE% = 0.0018 %
        ... // MAE = 1.2
        ... // WCE% = 0.0050 %
        ... // WCE = 3
        ... // WCRE% = 100.00 %
        ... // EP% = 62.50 %
        ... // MRE% = 0.02 %
        ... // MSE = 15865.376e9
        ... // PDK45_PWR = 0.391 mW
        ... // PDK45_AREA = 688.0 um2
        ... // PDK45_DELAY = 1.40 ns
        ... int f(int a, int b) { return a * b; }'''
        >>> header = Header.parse(text)
        >>> header.printed.mae_pct, header.power_mw, header.doi
        ('0.0018', '0.391', '10.1/x')
        """
        metrics: dict[str, str] = {}
        hardware: dict[str, str] = {}
        technologies: set[str] = set()
        citation: str | None = None
        for number, line in enumerate(source.splitlines(), 1):
            cited = _CITATION.search(line)
            if cited is not None and citation is None:
                citation = cited[1]
            match = _LINE.match(line.strip())
            if match is None:
                continue
            name, value, unit = match.groups()
            technology = _TECHNOLOGY.fullmatch(name)
            if name in _METRICS:
                (key, expected), target = _METRICS[name], metrics
            elif technology is not None:
                (key, expected), target = _HARDWARE[technology[2]], hardware
                technologies.add(technology[1])
            else:
                continue
            if key in target:
                raise CModelError(f"line {number}: {name} is printed twice", number)
            if unit != expected or _NUMBER.fullmatch(value) is None:
                raise CModelError(
                    f"line {number}: {name} = {value} {unit} is not a number in "
                    f"{expected or 'plain units'}",
                    number,
                )
            target[key] = value
        missing = [n for n, (key, _) in _METRICS.items() if key not in metrics]
        missing += [n for n, (key, _) in _HARDWARE.items() if key not in hardware]
        if citation is None:
            missing.append("the citation")
        if missing or citation is None:
            raise CModelError(f"the comment at the top lacks {', '.join(missing)}")
        if len(technologies) != 1:
            raise CModelError(f"the comment names several technologies: {sorted(technologies)}")
        doi = _DOI.search(citation)
        return cls(
            printed=Printed(**metrics),
            technology=technologies.pop(),
            citation=citation,
            doi=doi[1] if doi is not None else None,
            **hardware,
        )
