"""Names: what stands for one multiplier, what for several, what for none."""

from __future__ import annotations

from typing import Any

import pytest

from approxhub import errors
from approxhub.operands import OperandFormat
from approxhub.registry import Entry, energy_reference, entries, resolve

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
    for release in ("r1", "r2"):
        lab.add("mul4u_NIL", "A * B", None, release)
    lab.install()
    for name in ("mul4u_WHO", "mul4u_NIL"):
        with pytest.raises(errors.AmbiguousMultiplierError, match="nothing proves"):
            resolve(name)


def test_real_ambiguity() -> None:
    """``mul8s_1KVA`` is two circuits of EvoApproxLib; ``mul8s_1KV9`` is one."""
    with pytest.raises(errors.AmbiguousMultiplierError) as caught:
        resolve("mul8s_1KVA")
    assert caught.value.candidates == (
        "evoapproxlib:v1.1/mul8s_1KVA",
        "evoapproxlib:v2022/mul8s_1KVA",
    )
    assert resolve("mul8s_1KV9").endswith("/mul8s_1KV9")


def test_same_names_with_same_tables_agree() -> None:
    """A name that both releases have with one table resolves to the first."""
    listed = [e for e in entries() if e.source == "evoapproxlib" and e.table_sha256]
    seen: dict[str, list[Entry]] = {}
    for e in listed:
        seen.setdefault(e.name, []).append(e)
    for name, group in seen.items():
        if len(group) > 1 and len({e.table_sha256 for e in group}) == 1:
            assert resolve(name) == min(e.id for e in group)


def test_whole_library_is_listed() -> None:
    """Both releases of EvoApproxLib are in the index, 673 multipliers in all."""
    assert sum(e.source == "evoapproxlib" for e in entries()) == 673


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
