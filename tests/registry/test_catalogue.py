"""Names: what stands for one multiplier, what for several, what for none."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from approxhub import errors
from approxhub.operands import OperandFormat
from approxhub.plugins import hookimpl, host
from approxhub.registry import Entry, energy_reference, entries, index_source, resolve

LIBRARIES = ("evoapproxlib", "evoapprox8b", "approx-fpgas")
U4 = OperandFormat(4, signed=False)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("mul4u_CUT", "lab:r1/mul4u_CUT"),
        ("lab:mul4u_CUT", "lab:r1/mul4u_CUT"),
        ("r1/mul4u_TWO", "lab:r1/mul4u_TWO"),
        ("lab:r2/mul4u_TWO", "lab:r2/mul4u_TWO"),
        ("mul4u_SAME", "lab:r1/mul4u_SAME"),
        ("mul4u_CUT+swap", "lab:r1/mul4u_CUT+swap"),
        ("exact:8s", "exact:8s"),
        ("drum:9u/k=5", "drum:9u/k=5"),
        ("local:any", "local:any"),
    ],
)
def test_resolve(lab: Any, name: str, full: str) -> None:
    """A name without source or release resolves where it stands for one table."""
    assert resolve(name) == full


@pytest.mark.parametrize("name", ["mul4u_TWO", "lab:mul4u_TWO", "mul4u_TWO+swap"])
def test_different_tables_are_ambiguous(lab: Any, name: str) -> None:
    """A name of two different tables is refused with its candidates."""
    with pytest.raises(errors.AmbiguousMultiplierError, match="tables differ") as caught:
        resolve(name)
    assert caught.value.candidates == ("lab:r1/mul4u_TWO", "lab:r2/mul4u_TWO")


def test_unknown_hash_never_agrees(lab: Any) -> None:
    """A table whose hash is unknown is not taken to be the same as any other."""
    lab.add("mul4u_NIL", "A * B", None, "r1")
    lab.add("mul4u_NIL", "B * A", None, "r2")
    for release, function in (("r1", "mul4u_FUN"), ("r2", "another")):
        lab.add("mul4u_FUN", "A * B", None, release)
        lab.index(release)["multipliers"][-1]["function"] = function
        lab.add("mul4u_ANY", "A * B", None, release)
        lab.index(release)["multipliers"][-1]["function"] = None
    lab.install()
    for name in ("mul4u_WHO", "mul4u_NIL", "mul4u_FUN", "mul4u_ANY"):
        with pytest.raises(errors.AmbiguousMultiplierError, match="nothing proves"):
            resolve(name)


def test_one_function_of_one_file_agrees(lab: Any) -> None:
    """Without any table hash, the same function of the same file is the same circuit."""
    for release in ("r1", "r2"):
        lab.add("mul16u_ONE", "A", None, release, fmt="16u")
    for release, fmt in (("r1", "16u"), ("r2", "12u")):
        lab.add("mul16u_TWO", "A", None, release, fmt="16u", a=fmt)
    lab.install()
    assert resolve("mul16u_ONE") == "lab:r1/mul16u_ONE"
    with pytest.raises(errors.AmbiguousMultiplierError):
        resolve("mul16u_TWO")


@pytest.mark.parametrize("name", ["mul8s_1KVA", "mul12u_2EF"])
def test_real_ambiguity(name: str) -> None:
    """Two circuits of EvoApproxLib under one name are refused; with a release each is there."""
    with pytest.raises(errors.AmbiguousMultiplierError, match="tables differ") as caught:
        resolve(name)
    assert caught.value.candidates == tuple(
        f"evoapproxlib:{release}/{name}" for release in ("v1.0", "v1.1", "v2022")
    )
    for id in caught.value.candidates:
        assert resolve(id) == id


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("mul8s_1KV9", "evoapproxlib:v2022/mul8s_1KV9"),  # there alone
        ("mul8u_96D", "evoapproxlib:v1.0/mul8u_96D"),  # there alone
        ("mul8u_1JFF", "evoapproxlib:v1.1/mul8u_1JFF"),  # in all three, with one table
        ("mul11u_001", "evoapproxlib:v1.1/mul11u_001"),  # too, and wider than 8 bits
        ("mul8u_199Z", "evoapproxlib:v1.0/mul8u_199Z"),  # in approx-fpgas too, with one table
        ("mul8u_1JD3", "approx-fpgas:2020/mul8u_1JD3"),
        ("mul8_364", "evoapprox8b:2017/mul8_364"),
        ("mul16s_G7F", "evoapproxlib:v1.1/mul16s_G7F"),  # in v1.0 too, as the very same file
    ],
)
def test_real_names(name: str, full: str) -> None:
    """A bare name is one of those that agree: EvoApproxLib's, and of its releases v1.1's first."""
    assert resolve(name) == full


def test_names_of_two_libraries_may_differ() -> None:
    """``mul12u_33H`` of approx-fpgas is not the circuit of this name in EvoApproxLib v2022."""
    with pytest.raises(errors.AmbiguousMultiplierError, match="tables differ"):
        resolve("mul12u_33H")


def test_same_names_with_same_tables_agree() -> None:
    """A name that several releases have with one table resolves to the first that is listed."""
    listed = [e for e in entries() if e.source == "evoapproxlib" and e.table_sha256]
    seen: dict[str, list[Entry]] = {}
    for e in listed:
        seen.setdefault(e.name, []).append(e)
    agreed = {
        name: group
        for name, group in seen.items()
        if len(group) > 1 and len({e.table_sha256 for e in group}) == 1
    }
    assert len(agreed) > 100
    for name in [*agreed][::10]:  # each question walks the whole catalogue
        assert resolve(f"evoapproxlib:{name}") == agreed[name][0].id


def test_priority_decides_between_sources_that_agree(lab: Any, tmp_path: Any) -> None:
    """Of sources with one table, the one of the higher priority is meant, whatever its name."""
    one, two = (tmp_path / f"{n}.json" for n in ("one", "two"))
    for path, name in ((one, "alpha"), (two, "zeta")):
        path.write_text(json.dumps({**lab.index("r1"), "source": name}))

    class Plugin:
        @staticmethod
        @hookimpl
        def approxhub_multiplier_sources() -> list[Any]:
            return [index_source("alpha", [one]), index_source("zeta", [two], priority=1)]

    host().register(Plugin, "greek")
    assert resolve("mul4s_NEG") == "zeta:r1/mul4s_NEG"


def test_whole_library_is_listed() -> None:
    """All libraries are in the index: so many multipliers of each release."""
    assert Counter((e.source, e.release) for e in entries() if e.source in LIBRARIES) == {
        ("evoapproxlib", "v1.0"): 159,
        ("evoapproxlib", "v1.1"): 335,
        ("evoapproxlib", "v2022"): 338,
        ("evoapprox8b", "2017"): 505,
        ("approx-fpgas", "2020"): 84,
    }


def test_energy_reference(lab: Any) -> None:
    """The reference is the cheapest circuit with the exact table in that technology."""
    lab.add("mul4u_DEAR", "A * B", lambda a, b: a * b, hardware={"power_mw": 9.0})
    lab.install()
    assert energy_reference(U4, U4, "LAB1") == 0.25
    assert energy_reference(U4, U4, "LAB2") is None
    assert energy_reference(U4, U4, None) is None
    assert energy_reference(U4, OperandFormat(4, True), "LAB1") is None


def test_energy_reference_without_hash(lab: Any) -> None:
    """Without a hash, printed errors that are all zero count as exact; unprinted ones do not."""
    f = OperandFormat(16, signed=False)
    for name, printed in [("A", {}), ("B", {"ep_pct": "0.1"}), ("C", {"ep_pct": "0.00"})]:
        power = {"A": 1.0, "B": 2.0, "C": 3.0}[name]
        lab.add(
            f"mul16u_{name}", "A", None, fmt="16u", printed=printed, hardware={"power_mw": power}
        )
    lab.install()
    assert energy_reference(f, f, "LAB1") == 3.0


@pytest.mark.parametrize("text", ["8u", "8s"])
def test_energy_reference_of_the_library(text: str) -> None:
    """The shipped index has an exact 8x8 multiplier of both signs to compare with."""
    f = OperandFormat.parse(text)
    technologies = {e.hardware.technology for e in entries() if e.source == "evoapproxlib"}
    found = [energy_reference(f, f, t) for t in technologies]
    assert all(p is not None and 0.1 < p < 1 for p in found)


def test_energy_references_of_silicon_and_fpga_stay_apart() -> None:
    """An FPGA's power is compared with an FPGA's: a thousand times that of the silicon alone."""
    f = OperandFormat(8, signed=False)
    assert energy_reference(f, f, "PDK45") == 0.391
    assert energy_reference(f, f, "FPGA") == 1300.0
    assert {e.hardware.technology for e in entries() if e.source == "approx-fpgas"} == {"FPGA"}
    costs = [e.hardware for e in entries() if e.source == "approx-fpgas"]
    assert all(c.area_um2 is None and c.luts is not None for c in costs)
