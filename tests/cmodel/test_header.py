"""The comment at the top of a library file."""

from __future__ import annotations

import pytest

from approxhub.cmodel import EVOAPPROX8B, FPGAS, Header
from approxhub.errors import CModelError

TEXT = """/***
* please cite the following article(s): A. Author, "Title", 2020. doi: 10.1234/ab.cd.
***/
// MAE% = 0.0018 %
// MAE = 1.2
// WCE% = 0.0050 %
// WCE = 3
// WCRE% = 6300.00 %
// EP% = 62.50 %
// MRE% = 0.020 %
// MSE = 15865.376e9
// PDK45_PWR = 0.390 mW
// PDK45_AREA = 688.0 um2
// PDK45_DELAY = 1.40 ns
"""


@pytest.mark.parametrize("end", ["\n", "\r\n", " \r\n"])
def test_numbers_stay_strings(end: str) -> None:
    """Numbers come as they are printed, zeros and exponents included, with any line ends."""
    header = Header.parse(TEXT.replace("\n", end))
    assert header.printed["mae_pct"] == "0.0018"
    assert header.printed["wce_pct"] == "0.0050"
    assert header.printed["mse"] == "15865.376e9"
    assert header.hardware == {"power_mw": 0.39, "area_um2": 688.0, "delay_ns": 1.4}
    assert header.citation == 'A. Author, "Title", 2020. doi: 10.1234/ab.cd.'
    assert header.doi == "10.1234/ab.cd"


def test_citation_without_doi() -> None:
    """An article without a DOI has none."""
    assert Header.parse(TEXT.replace(" doi: 10.1234/ab.cd.", "")).doi is None


@pytest.mark.parametrize(
    ("old", "new", "message", "line"),
    [
        ("// EP% = 62.50 %\n", "", r"lacks EP%", None),
        ("please cite", "please read", "lacks the citation", None),
        ("62.50 %", "62.50", "line 9: EP% = 62.50  is not a number in %", 9),
        ("MAE = 1.2", "MAE = nan", "line 5: MAE = nan", 5),
        ("PDK45_AREA", "PDK65_AREA", "lacks PDK45_AREA", None),
        ("// WCE = 3", "// WCE = 3\n// WCE = 4", "line 8: WCE is printed twice", 8),
    ],
)
def test_faults_are_named(old: str, new: str, message: str, line: int | None) -> None:
    """What is missing, doubled or no number is an error that says so."""
    assert old in TEXT
    with pytest.raises(CModelError, match=message) as caught:
        Header.parse(TEXT.replace(old, new))
    assert caught.value.line == line


def test_cost_on_an_fpga() -> None:
    """approx-fpgas prints watts without saying so, nanoseconds, and LUTs instead of an area."""
    text = TEXT.replace("PDK45_PWR = 0.390 mW", "FPGA_POWER = 1.3")
    text = text.replace("PDK45_AREA = 688.0 um2", "FPGA_LUT = 74")
    text = text.replace("PDK45_DELAY = 1.40 ns", "FPGA_DELAY = 12")
    header = Header.parse(text, FPGAS)
    assert header.hardware == {"power_mw": 1300.0, "luts": 74, "delay_ns": 12.0}
    assert header.printed["mae"] == "1.2"
    with pytest.raises(CModelError, match="lacks FPGA_POWER, FPGA_DELAY, FPGA_LUT"):
        Header.parse(TEXT, FPGAS)


def test_comment_of_evoapprox8b() -> None:
    """Of evoapprox8b only the metrics are read whose definition is ours."""
    text = (
        "please cite the following article(s): A. Author\n"
        "///  Power  (45) = 218.30\n///  MAE = 329.88147\n///  MSE = 207883.35278\n"
        "///  MRE = 6.70 %\n///  WCE = 2193\n///  WCRE = 700 %\n"
    )
    header = Header.parse(text, EVOAPPROX8B)
    assert header.printed == {"mae": "329.88147", "mse": "207883.35278", "wce": "2193"}
    assert header.hardware == {}
