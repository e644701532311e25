"""What the comment at the top of a library's C file says.

Numbers stay the strings that were printed: their last digit says how exact they are.
Imports the errors only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from approxhub.errors import CModelError

__all__ = ["EVOAPPROX8B", "EVOAPPROXLIB", "FPGAS", "Dialect", "Header"]

_LINE = re.compile(r"///?\s*(\S.*?)\s*=\s*(\S+)\s*(\S*)\s*\Z")
_CITATION = re.compile(r"please cite the following article\(s\):\s*(.+?)\s*\Z")
_DOI = re.compile(r"\bdoi:\s*(10\.\S+?)[.,;]?(?=\s|\Z)", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Dialect:
    """Which lines a library prints, all of them mandatory.

    Attributes
    ----------
    metrics : mapping of str to (str, str)
        Name in the comment to the metric's key and the unit that stands behind the number.
    hardware : mapping of str to (str, str, int)
        Name in the comment to the field of :class:`~approxhub.multiplier.Hardware`, the unit
        that stands behind the number, and the power of ten that brings it to the field's unit.
    """

    metrics: Mapping[str, tuple[str, str]]
    hardware: Mapping[str, tuple[str, str, int]] = field(default_factory=dict)


_ERRORS = {
    "MAE%": ("mae_pct", "%"),
    "MAE": ("mae", ""),
    "WCE%": ("wce_pct", "%"),
    "WCE": ("wce", ""),
    "WCRE%": ("wcre_pct", "%"),
    "EP%": ("ep_pct", "%"),
    "MRE%": ("mre_pct", "%"),
    "MSE": ("mse", ""),
}

#: Every release of EvoApproxLib.
EVOAPPROXLIB = Dialect(
    _ERRORS,
    {
        "PDK45_PWR": ("power_mw", "mW", 0),
        "PDK45_AREA": ("area_um2", "um2", 0),
        "PDK45_DELAY": ("delay_ns", "ns", 0),
    },
)

#: approx-fpgas. Its files print no units; its tables say watts and nanoseconds.
FPGAS = Dialect(
    _ERRORS,
    {
        "FPGA_POWER": ("power_mw", "", 3),
        "FPGA_DELAY": ("delay_ns", "", 0),
        "FPGA_LUT": ("luts", "", 0),
    },
)

#: evoapprox8b. Its MRE and WCRE are over ``max(1, X)``, not over the pairs with a product, so
#: they are not taken; nor is its cost, which has no units.
EVOAPPROX8B = Dialect({"MAE": ("mae", ""), "WCE": ("wce", ""), "MSE": ("mse", "")})


@dataclass(frozen=True, slots=True)
class Header:
    """The comment of one file.

    Attributes
    ----------
    printed : mapping of str to str
        Error metrics, as printed, without their units.
    hardware : mapping of str to float
        Cost of the hardware, in the units of :class:`~approxhub.multiplier.Hardware`.
    citation : str
        The article to cite.
    doi : str or None
        Its DOI, where the citation has one.
    """

    printed: Mapping[str, str]
    hardware: Mapping[str, float]
    citation: str
    doi: str | None

    @classmethod
    def parse(cls, source: str, dialect: Dialect = EVOAPPROXLIB) -> Header:
        r"""Read the comment of a C text.

        Raises
        ------
        CModelError
            If something is missing, printed twice, or not a number in the expected unit.

        Examples
        --------
        >>> text = '''/* please cite the following article(s): A. Author, "T". doi: 10.1/x
        ... */
        ... // MAE% = 24.81 %
        ... // MAE = 16256
        ... // WCE% = 99.22 %
        ... // WCE = 65025
        ... // WCRE% = 100.00 %
        ... // EP% = 99.22 %
        ... // MRE% = 100.00 %
        ... // MSE = 47164.981e4
        ... // FPGA_POWER = 0.24
        ... // FPGA_DELAY = 0
        ... // FPGA_LUT = 0
        ... int f(int a, int b) { return 0; }'''
        >>> header = Header.parse(text, FPGAS)
        >>> header.printed["mae_pct"], header.hardware["power_mw"], header.doi
        ('24.81', 240.0, '10.1/x')
        """
        metrics: dict[str, str] = {}
        hardware: dict[str, float] = {}
        citation: str | None = None
        for number, line in enumerate(source.splitlines(), 1):
            cited = _CITATION.search(line)
            if cited is not None and citation is None:
                citation = cited[1]
            match = _LINE.match(line.strip())
            if match is None:
                continue
            name, value, unit = match.groups()
            if name in dialect.metrics:
                key, expected = dialect.metrics[name]
            elif name in dialect.hardware:
                key, expected, exponent = dialect.hardware[name]
            else:
                continue
            if key in metrics or key in hardware:
                raise CModelError(f"line {number}: {name} is printed twice", number)
            if unit != expected or _NUMBER.fullmatch(value) is None:
                raise CModelError(
                    f"line {number}: {name} = {value} {unit} is not a number in "
                    f"{expected or 'plain units'}",
                    number,
                )
            if name in dialect.metrics:
                metrics[key] = value
            else:
                amount = Decimal(value).scaleb(exponent)
                hardware[key] = int(amount) if key == "luts" else float(amount)
        missing = [n for n, (key, _) in dialect.metrics.items() if key not in metrics]
        missing += [n for n, (key, *_) in dialect.hardware.items() if key not in hardware]
        if citation is None:
            missing.append("the citation")
        if missing or citation is None:
            raise CModelError(f"the comment at the top lacks {', '.join(missing)}")
        doi = _DOI.search(citation)
        return cls(metrics, hardware, citation, doi[1] if doi is not None else None)
