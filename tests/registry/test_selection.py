"""Selections: what fits, what is left out for want of a figure, order, and the Pareto front."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from approxhub.errors import (
    AmbiguousMultiplierError,
    InputError,
    NotFoundError,
    UnknownMultiplierError,
)
from approxhub.multiplier import Hardware, Multiplier, Provenance
from approxhub.registry import Store, load
from approxhub.registry.selection import Query, cached_ids, expand, pareto_front, select


def slow_front(points: list[tuple[int, ...]]) -> list[bool]:
    """Non-dominated points, straight from the definition."""

    def dominates(p: tuple[int, ...], q: tuple[int, ...]) -> bool:
        return all(x <= y for x, y in zip(p, q, strict=True)) and p != q

    return [not any(dominates(p, q) for p in points) for q in points]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.integers(1, 3).flatmap(lambda n: st.lists(st.tuples(*[st.integers(0, 4)] * n))))
def test_front_is_the_definition(points: list[tuple[int, ...]]) -> None:
    """The front has what nothing dominates: equal points are in it together, or not at all."""
    assert pareto_front(points).tolist() == slow_front(points)


@pytest.fixture
def costs(lab: Any) -> Any:
    """The lab with circuits of known figures: name, printed MAE and power."""
    rows = {
        "mul4u_A": ("1.0", 0.1),
        "mul4u_B": ("0.5", 0.2),
        "mul4u_C": ("0.5", 0.2),  # ties with B
        "mul4u_D": ("0.5", 0.3),  # beaten by B and C, in one column only
        "mul4u_E": ("0.0", 0.4),
        "mul4u_F": (None, 0.05),
        "mul4u_G": ("2.0", None),
    }
    for name, (mae, power) in rows.items():
        lab.add(
            name,
            "A * B",
            lambda a, b: a * b,
            printed={} if mae is None else {"mae_pct": mae},
            hardware={"power_mw": power, "area_um2": None, "delay_ns": None},
        )
    lab.install()
    return lab


def names(query: Query) -> list[str]:
    """Names that a query gives, of the lab."""
    return [r.entry.name for r in select(query).rows]


LAB = "mul4u_?"


def test_front_with_ties(costs: Any) -> None:
    """Both of a tie are on the front, what ties in one column and loses in the other is not."""
    found = select(Query((LAB,), pareto=("power", "mae")))
    assert [r.entry.name for r in found.rows] == ["mul4u_A", "mul4u_B", "mul4u_C", "mul4u_E"]
    assert found.lacking == {"power": 1, "mae": 1}


def test_bounds_are_inclusive_and_count_what_they_leave_out(costs: Any) -> None:
    """A bound takes its own value in; what lacks the figure is left out, and counted."""
    found = select(Query((LAB,), at_most={"mae": 0.5}))
    assert {r.entry.name for r in found.rows} == {"mul4u_B", "mul4u_C", "mul4u_D", "mul4u_E"}
    assert found.lacking == {"mae": 1}
    assert names(Query((LAB,), at_least={"power": 0.3})) == ["mul4u_D", "mul4u_E"]
    assert names(Query((LAB,), at_least={"mae": 0.5}, at_most={"mae": 0.5})) == [
        *("mul4u_B", "mul4u_C", "mul4u_D")
    ]


def test_order(costs: Any) -> None:
    """Smallest first, ties by id, what lacks the figure last: also the other way round."""
    assert "".join(n[-1] for n in names(Query((LAB,), sort="mae"))) == "EBCDAGF"
    assert "".join(n[-1] for n in names(Query((LAB,), sort="mae", reverse=True))) == "GABCDEF"
    assert "".join(n[-1] for n in names(Query((LAB,), sort="id", reverse=True))) == "GFEDCBA"
    assert "".join(n[-1] for n in names(Query((LAB,), reverse=True))) == "GFEDCBA"
    assert "".join(n[-1] for n in names(Query((LAB,), sort="power", limit=2))) == "FA"
    assert names(Query((LAB,), limit=0)) == []


def test_conditions_hold_together(lab: Any) -> None:
    """Formats, sign, release and words narrow; a word of the citation counts."""
    assert names(Query(source="lab", signed=True)) == ["mul4s_NEG"]
    assert names(Query(source="lab", release="r2", words=("SAME",))) == ["mul4u_SAME"]
    assert len(names(Query(words=("us, 2024", "MIT")))) == 13
    sixteen = {r.entry.id for r in select(Query(source="drum", width=(16, 16))).rows}
    assert sixteen == {"drum:16u/k=6", "drum:16s/k=6"}
    assert names(Query(("lab:*",), width=(4, 8))) == []
    assert names(Query(words=("us, 2024", "nothing"))) == []


def test_exactness(lab: Any) -> None:
    """Exactness is by table hash or printed errors; what neither tells is left out, counted."""
    found = select(Query(("lab:*",), exact=True))
    # The index lies about mul4u_LIE's table: here only the index speaks.
    assert {r.entry.id for r in found.rows} == {
        *("lab:r1/mul4u_SAME", "lab:r2/mul4u_SAME", "lab:r1/mul4u_WHO", "lab:r1/mul4u_LIE")
    }
    assert found.lacking == {"exact": 3}
    assert "mul4u_PRINT" in names(Query(("lab:*",), exact=False))
    assert "exact:8u" in {r.entry.id for r in select(Query(source="exact", exact=True)).rows}


def test_technologies_do_not_mix(lab: Any) -> None:
    """Costs in two technologies are told when sorted, and refused on a front."""
    mine = Multiplier.from_table(
        [[0, 0], [0, 1]], name="mine", hardware=Hardware(power_mw=1.0, technology="ELSE")
    )
    Store().put(mine)
    both = ("lab:r1/mul4u_CUT", "local:mine")
    assert select(Query(both, sort="power")).mixed == ("ELSE", "LAB1")
    assert select(Query(both, sort="bits")).mixed == ()
    assert select(Query(both, sort="power", technology="ELSE")).mixed == ()
    with pytest.raises(InputError, match="ELSE, LAB1"):
        select(Query(both, pareto=("power", "bits")))
    assert len(select(Query(both, pareto=("bits",))).rows) == 1


def test_own_multipliers_are_listed(lab: Any) -> None:
    """What only the cache has is listed, with what its ref says; a damaged ref is a warning."""
    said = Provenance(citation="Me, 2020", licence="MIT")
    Store().put(Multiplier.from_table([[9, 0], [0, 1]], name="mine", provenance=said))
    (row,) = select(Query(source="local")).rows
    assert (row.entry.id, row.entry.citation, str(row.entry.a), row.cached) == (
        *("local:mine", "Me, 2020", "1u", True),
    )
    path = Store().ref_path("local:mine")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="local:mine cannot be listed"):
        assert select(Query(source="local")).rows == ()


def test_computed_figures(lab: Any) -> None:
    """Figures that no source prints are computed only when asked, of what needs no download."""
    one = Query(("mitchell:8u", "mul4u_CUT"))
    assert [r.figures["mae"] for r in select(one).rows] == [None, None]
    load("mul4u_CUT")
    found = select(dataclasses.replace(one, computed=True)).rows
    assert [r.figures["mae"] for r in found] == [load(r.entry.id).metrics.mae_pct for r in found]


def test_ranks_come_from_the_cache(lab: Any) -> None:
    """Ranks are known once factors lie in the cache, and looked up only when asked."""
    from approxhub.factorization import factorize_cached

    query = Query(("mul4u_CUT",), sort="error-rank")
    assert select(query).rows[0].figures["error-rank"] is None
    found = factorize_cached(load("mul4u_CUT"))
    figures = select(query).rows[0].figures
    assert (figures["rank"], figures["error-rank"]) == (found.rank_table, found.rank_error)
    assert select(Query(("mul4u_CUT",))).rows[0].figures["rank"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"sort": "colour"},
        {"pareto": ("mae", "colour")},
        {"at_most": {"colour": 1.0}},
        {"at_most": {"mae": float("nan")}},
        {"at_least": {"mae": float("inf")}},
        {"limit": -1},
    ],
)
def test_bad_queries(wrong: dict[str, Any]) -> None:
    """An unknown column, a bound that is no number and a negative limit are refused."""
    with pytest.raises(InputError):
        Query(**wrong)


def test_expand(lab: Any) -> None:
    """A glob becomes the ids it fits, anything else stays; one that fits nothing is an error."""
    assert expand("lab:r2/*_[ST]*") == ["lab:r2/mul4u_SAME", "lab:r2/mul4u_TWO"]
    assert expand("r2/mul4u_SAM?") == ["lab:r2/mul4u_SAME"]
    assert expand("nonsense") == ["nonsense"]
    with pytest.raises(UnknownMultiplierError, match=r"nope\*"):
        expand("nope*")


def test_cached_ids(lab: Any) -> None:
    """Names and globs mean what is cached, even where an index has more of the name."""
    load("lab:r1/mul4u_TWO")
    assert cached_ids("mul4u_TWO") == cached_ids("*_TWO") == ["lab:r1/mul4u_TWO"]
    load("lab:r2/mul4u_TWO")
    with pytest.raises(AmbiguousMultiplierError, match="lab:r1/mul4u_TWO, lab:r2/mul4u_TWO"):
        cached_ids("mul4u_TWO")
    assert cached_ids("lab:r2/mul4u_TWO") == ["lab:r2/mul4u_TWO"]
    for missing in ("mul4u_CUT", "nope*", "local:mine"):
        with pytest.raises(NotFoundError):
            cached_ids(missing)
    with pytest.raises(InputError, match="modifiers"):
        cached_ids("mul4u_TWO+swap")


def test_every_filter_narrows(lab: Any) -> None:
    """Whatever two conditions are combined, the result is the rows that fit both."""
    conditions: list[dict[str, Any]] = [
        {"source": "lab"},
        {"release": "r1"},
        {"signed": False},
        {"words": ("mul4u",)},
        {"at_most": {"bits": 8.0}},
        {"technology": "LAB1"},
    ]
    for one, other in itertools.combinations(conditions, 2):
        both = {r.entry.id for r in select(Query(**one, **other)).rows}
        alone = [{r.entry.id for r in select(Query(**c)).rows} for c in (one, other)]
        assert both == alone[0] & alone[1]
