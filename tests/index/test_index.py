"""The shipped index: its format, its counts, and what is known to trip readers up."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

import multipliers_index

jsonschema = pytest.importorskip("jsonschema", reason="needs the extra 'test'")

# Operand formats to number of circuits, as the releases have them.
COUNTS = {
    "v1.1": {
        ("11u", "11u"): 11, ("12u", "12u"): 27, ("12s", "12s"): 14, ("16u", "16u"): 31,
        ("16s", "16s"): 9, ("7u", "7u"): 18, ("8u", "2u"): 25, ("8u", "3u"): 28, ("8u", "4u"): 29,
        ("8u", "5u"): 34, ("8u", "6u"): 26, ("8u", "7u"): 34, ("8u", "8u"): 36, ("8s", "8s"): 13,
    },
    "v2022": {
        ("11u", "11u"): 11, ("12u", "12u"): 27, ("12s", "12s"): 14, ("16u", "16u"): 31,
        ("16s", "16s"): 9, ("7u", "7u"): 18, ("8u", "2u"): 25, ("8u", "3u"): 29, ("8u", "4u"): 29,
        ("8u", "5u"): 34, ("8u", "6u"): 27, ("8u", "7u"): 34, ("8u", "8u"): 37, ("8s", "8s"): 13,
    },
    "v1.0": {
        ("11u", "11u"): 11, ("12u", "12u"): 27, ("12s", "12s"): 14, ("16u", "16u"): 31,
        ("16s", "16s"): 9, ("7u", "7u"): 18, ("8u", "8u"): 36, ("8s", "8s"): 13,
    },
    "2017": {("8u", "8u"): 505},
    "2020": {("8u", "8u"): 32, ("12u", "12u"): 21, ("16u", "16u"): 31},
}  # fmt: skip

EVOAPPROXLIB = ("v1.1", "v2022", "v1.0")

Index = dict[str, Any]


@pytest.fixture(scope="module")
def indices() -> dict[str, Index]:
    """Shipped index files by release."""
    found = [json.loads(p.read_text(encoding="utf-8")) for p in multipliers_index.index_paths()]
    return {index["release"]: index for index in found}


@pytest.fixture(scope="module")
def schema() -> Index:
    """The shipped schema."""
    loaded: Index = json.loads(multipliers_index.schema_path().read_text(encoding="utf-8"))
    return loaded


def by_name(index: Index) -> dict[str, Index]:
    """Entries of an index by name."""
    return {m["name"]: m for m in index["multipliers"]}


def test_schema_is_a_schema(schema: Index) -> None:
    """The schema itself is valid JSON Schema, draft 2020-12."""
    jsonschema.Draft202012Validator.check_schema(schema)


def test_files_follow_the_schema(indices: dict[str, Index], schema: Index) -> None:
    """Every shipped file validates, which includes that every hash is well-formed."""
    for index in indices.values():
        jsonschema.Draft202012Validator(schema).validate(index)


@pytest.mark.parametrize(
    "change",
    [
        {"source_sha256": "AB" * 32},
        {"source_sha256": None},
        {"table_sha256": "0" * 63},
        {"a": "17u"},
        {"a": "08u"},
        {"path": "/x.c"},
        {"path": "x/../../y.c"},
        {"path": "x//y.c"},
        {"format": "C model"},
        {"index_order": "ba"},
        {"hardware": {"luts": 1.5}},
        {"hardware": {"power_mw": "1", "area_um2": 1, "delay_ns": 1}},
        {"printed": {"speed": "1"}},
        {"printed": {"mae": 1}},
        {"extra": 1},
    ],
)
def test_schema_refuses(indices: dict[str, Index], schema: Index, change: Index) -> None:
    """The schema notices a bad hash, format, path, number or key."""
    index = dict(indices["v1.1"])
    index["multipliers"] = [{**index["multipliers"][0], **change}]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(index)


def test_counts(indices: dict[str, Index]) -> None:
    """1,421 multipliers: 832 of EvoApproxLib, 505 of evoapprox8b, 84 of approx-fpgas."""
    for release, counts in COUNTS.items():
        found = Counter((m["a"], m["b"]) for m in indices[release]["multipliers"])
        assert found == counts
    assert {r: len(i["multipliers"]) for r, i in indices.items()} == {
        "v1.0": 159, "v1.1": 335, "v2022": 338, "2017": 505, "2020": 84
    }  # fmt: skip


def test_names_are_unique_and_sorted(indices: dict[str, Index]) -> None:
    """A release has no two entries of one name, and lists them in order."""
    for index in indices.values():
        names = [m["name"] for m in index["multipliers"]]
        assert names == sorted(set(names))


def test_table_hashes(indices: dict[str, Index]) -> None:
    """There is a table hash exactly where a table fits: up to 24 bits in both operands together."""
    small = 0
    for release, index in indices.items():
        for m in index["multipliers"]:
            bits = int(m["a"][:-1]) + int(m["b"][:-1])
            assert (m["table_sha256"] is not None) == (bits <= 24)
            small += bits <= 16 and release in ("v1.1", "v2022")
    assert small == 489


def test_releases_that_share_names(indices: dict[str, Index]) -> None:
    """v1.0 and v1.1 never disagree; v2022 has eight names for tables that differ from v1.1's."""
    tables = {r: {m["name"]: m["table_sha256"] for m in indices[r]["multipliers"]} for r in indices}

    def differing(one: str, two: str) -> list[str]:
        shared = sorted(tables[one].keys() & tables[two].keys())
        return [n for n in shared if tables[one][n] != tables[two][n]]

    assert differing("v1.0", "v1.1") == []
    assert differing("v1.1", "v2022") == [
        "mul11u_003", "mul12u_2EF", "mul7u_0ED", "mul8s_1KV8", "mul8s_1KVA", "mul8u_17C8",
        "mul8x2u_0X3", "mul8x4u_0S7",
    ]  # fmt: skip
    assert differing("2020", "v2022") == ["mul12u_33H"]
    only = tables["v1.0"].keys() - tables["v1.1"].keys() - tables["v2022"].keys()
    assert sorted(only) == [
        "mul12u_1BG", "mul16u_42C", "mul16u_9JY", "mul16u_C9H", "mul16u_G24", "mul16u_GPK",
        "mul16u_HGY", "mul8u_199Z", "mul8u_96D", "mul8u_EXZ", "mul8u_PKY",
    ]  # fmt: skip


def test_distinct_circuits_of_evoapprox8b(indices: dict[str, Index]) -> None:
    """Some of the 505 circuits are different netlists of one table; 34 are exact."""
    rows = indices["2017"]["multipliers"]
    assert len({m["table_sha256"] for m in rows}) == 424
    assert sum(float(m["printed"]["ep_pct"]) == 0 for m in rows) == 34


def test_cost_on_fpgas(indices: dict[str, Index]) -> None:
    """approx-fpgas has LUTs, power and delay on an FPGA, and no area; the others the reverse."""
    for release, index in indices.items():
        fields = {tuple(m["hardware"]) for m in index["multipliers"]}
        if release == "2020":
            assert (index["technology"], fields) == ("FPGA", {("power_mw", "delay_ns", "luts")})
        else:
            assert (index["technology"], fields) == (
                "PDK45", {("power_mw", "area_um2", "delay_ns")}
            )  # fmt: skip


def test_citations_are_there(indices: dict[str, Index]) -> None:
    """Every entry's citation is in the file, every citation is used, and a DOI is in its text."""
    for index in indices.values():
        used = {m["citation"] for m in index["multipliers"]}
        assert used == set(index["citations"])
        for article in index["citations"].values():
            assert article["doi"] is None or article["doi"] in article["text"]


def test_formats_stand_in_name_and_path(indices: dict[str, Index]) -> None:
    """Name, path and operand formats of an entry say the same, and function is the name."""
    for index in (indices[r] for r in EVOAPPROXLIB):
        for m in index["multipliers"]:
            a, b, sign = m["a"][:-1], m["b"][:-1], m["a"][-1]
            width = a if a == b else f"{a}x{b}"
            assert m["name"].startswith(f"mul{width}{sign}_")
            kind = {"u": "unsigned", "s": "signed"}[sign]
            assert f"/{a}x{b}_{kind}/" in m["path"]
            assert m["path"].endswith(f"/{m['name']}.c")
            assert m["function"] == m["name"]


def test_exact_circuits_among_approximate_ones(indices: dict[str, Index]) -> None:
    """mul8u_1JFF and v1.1's mul8s_1KV8 are exact multipliers."""
    for name in ("mul8u_1JFF", "mul8s_1KV8"):
        assert by_name(indices["v1.1"])[name]["printed"]["wce"] == "0"
    assert by_name(indices["v2022"])["mul8s_1KV9"]["printed"]["wce"] != "0"


def test_one_name_two_circuits(indices: dict[str, Index]) -> None:
    """mul8s_1KVA is one circuit in v1.1 and another in v2022."""
    one, two = (by_name(indices[r])["mul8s_1KVA"] for r in ("v1.1", "v2022"))
    assert one["table_sha256"] != two["table_sha256"]
    assert one["source_sha256"] != two["source_sha256"]


def test_printed_numbers_keep_their_digits(indices: dict[str, Index]) -> None:
    """Printed numbers are strings with trailing zeros, since the last digit has a meaning."""
    printed = by_name(indices["v1.1"])["mul8u_1JFF"]["printed"]
    assert printed["mae_pct"] == "0.00"
    assert any(m["printed"]["mse"].partition("e")[2] for m in indices["v1.1"]["multipliers"])


def test_addresses(indices: dict[str, Index]) -> None:
    """Sources are fetched from the pinned commit."""
    for index in indices.values():
        assert index["licence"]["spdx"] == "MIT"
        for url in index["urls"]:
            assert "{commit}" in url
            assert "{path}" in url
