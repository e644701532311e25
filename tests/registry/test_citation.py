"""Citations: what is read off a line of text, and BibTeX that is valid whatever it holds."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from approxhub.errors import NotFoundError
from approxhub.multiplier import Multiplier, Provenance
from approxhub.registry import Store, entries
from approxhub.registry.citation import Work, bibliography, bibtex, software, works_of


def parse_bibtex(text: str) -> list[tuple[str, dict[str, str]]]:
    """Entries of BibTeX as its own reader takes them: a backslash hides no brace from it."""
    found = []
    rest = text
    while (start := rest.find("@")) >= 0:
        head = re.match(r"@[a-z]+\{([^,\s{}]+),\s*", rest[start:])
        assert head, rest[start : start + 40]
        at = start + head.end()
        fields = {}
        while rest[at] != "}":
            name = re.match(r"([a-z]+) = \{", rest[at:])
            assert name, rest[at : at + 40]
            at += name.end()
            begin, depth = at, 1
            while depth:
                depth += {"{": 1, "}": -1}.get(rest[at], 0)
                at += 1
            fields[name[1]] = rest[begin : at - 1]
            end = re.match(r",\s*", rest[at:])
            assert end, rest[at : at + 40]
            at += end.end()
        found.append((head[1], fields))
        rest = rest[at + 1 :]
    return found


@pytest.mark.parametrize(
    ("text", "authors", "title", "year"),
    [
        (
            'A. B. Cee, D. Eff and G.-H. van der Ide, "On &: a study," 2016 IEEE Conf. (X), '
            "Town, 2017, pp. 2001-2010. doi: 10.1/x.y",
            ("A. B. Cee", "D. Eff", "G.-H. van der Ide"),
            "On &: a study",
            "2017",
        ),
        (
            "J. Müller-Á, and K. Ong: DRUM: it is. J. Th. 5(4), 1-2, 1962",
            None,
            "DRUM: it is",
            "1962",
        ),
        ('A. Bee, C. Dee "No comma" IEEE J., 2020', ("A. Bee", "C. Dee"), "No comma", "2020"),
        ("A. Bee, and C. Dee,  A Title. In: Proc. X. Town, 2022.", None, "A Title", "2022"),
        (
            "BEE A. B., OTHER-CEE D. A Title: X. DAC 2020.",
            ("A. B. Bee", "D. Other-Cee"),
            "A Title: X",
            "2020",
        ),
        ("Our own library, 2023", (), None, "2023"),
        ("no year at all: just words. And more", (), None, None),
    ],
)
def test_reading(text: str, authors: Any, title: Any, year: Any) -> None:
    """Authors, title and year are read off where the form is known; else nothing is guessed."""
    work = Work.parse(text)
    assert authors is None or work.authors == authors
    assert (work.title, work.year) == (title, year)
    assert bool(work.authors) == (title is not None)


def test_all_that_is_listed_can_be_read() -> None:
    """Every citation of a source of ours gives authors, a title and a year."""
    texts = {e.citation for e in entries() if e.citation}
    assert len(texts) > 5
    for text in texts:
        work = Work.parse(text)
        assert work.authors, text
        assert work.title, text
        assert work.year, text
        assert not re.search(r"\bdoi\b", work.venue or "")


@pytest.mark.parametrize(
    ("venue", "kind", "fields"),
    [
        (
            "IRE Transactions EC-11(4), 512-517, 1962",
            "article",
            {"journal": "IRE Transactions", "volume": "EC-11", "number": "4", "pages": "512--517"},
        ),
        (
            "IET Things, vol. 12, no. 4, pp. 139\u2013149, 7 2018",
            "article",
            {"journal": "IET Things", "volume": "12", "number": "4", "pages": "139--149"},
        ),
        (
            "IEEE Journal of X, Vol 10, No 4, 2020",
            "article",
            {"journal": "IEEE Journal of X", "volume": "10", "number": "4"},
        ),
        (
            "Design & Test Conference, 2017, Lausanne, 2017, pp. 258-261",
            "inproceedings",
            {
                "booktitle": r"Design \& Test Conference, 2017, Lausanne, 2017",
                "pages": "258--261",
            },
        ),
        (
            "24th International Conference on VLSI Design, 346-351, 2011",
            "inproceedings",
            {"booktitle": "24th International Conference on VLSI Design", "pages": "346--351"},
        ),
        ("DAC 2020", "misc", {"howpublished": "DAC 2020"}),
        (
            "Journal of X, to appear, 2020",
            "misc",
            {"howpublished": "Journal of X, to appear, 2020"},
        ),
    ],
)
def test_kind(venue: str, kind: str, fields: dict[str, str]) -> None:
    """A journal or proceedings of a known form are told by their fields; the rest is kept whole."""
    text = bibtex(Work.parse(f"A. Bee: Title. {venue}"))
    assert text.startswith(f"@{kind}{{")
    ((_, found),) = parse_bibtex(text)
    assert {k: v for k, v in found.items() if k not in ("author", "title", "year")} == fields
    assert found["year"] in venue


def test_our_papers_have_their_kind() -> None:
    """Of what is listed only one citation is too short to tell where it was published."""
    kinds = {t: bibtex(Work.parse(t)).partition("{")[0] for e in entries() if (t := e.citation)}
    assert [t[-9:] for t, kind in kinds.items() if kind == "@misc"] == ["DAC 2020."]
    assert {*kinds.values()} == {"@article", "@inproceedings", "@misc"}


def test_escaping() -> None:
    """Special characters become commands, accents too; the DOI stays as it is."""
    text = "Ž. Łukáš: 100% of {x_1} & #2 \\ ~ ^ $. Ümlaut — Straße, 2001"
    work = Work.parse(text, "10.1/a_b%c")
    (_, fields) = parse_bibtex(bibtex(work))[0]
    assert fields["author"] == r"{\v{Z}}. {\L}uk{\'a}{\v{s}}"
    assert fields["title"] == (
        r"{100\% of \textbraceleft{}x\_1\textbraceright{} \& \#2 \textbackslash{} "
        r"\textasciitilde{} \textasciicircum{} \$}"
    )
    assert fields["howpublished"] == r"{\"U}mlaut --- Stra{\ss}e, 2001"
    assert fields["doi"] == "10.1/a_b%c"


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.text(min_size=1), st.none() | st.text(min_size=1)), max_size=4))
def test_valid_whatever_it_holds(said: list[tuple[str, str | None]]) -> None:
    """Any text and any DOI give entries that a BibTeX reader takes apart, with unique keys."""
    works = bibliography(Work.parse(text, doi) for text, doi in said)
    read = parse_bibtex("\n".join(bibtex(w) for w in works))
    assert [key for key, _ in read] == [w.key for w in works]
    assert len({key for key, _ in read}) == len(works)


def test_keys_are_unique_beside_approxhub() -> None:
    """Works of one author, year and word get letters; none takes ApproxHub's own key."""
    same = [Work("x", key="a2000b")] * 30 + [Work("y", key="approxhub")]
    keys = [w.key for w in bibliography(same)]
    assert keys[:3] == ["a2000b", "a2000ba", "a2000bb"]
    assert len({*keys, software().key}) == 32


def test_software_has_no_invented_author() -> None:
    """ApproxHub is cited as its makers call themselves, and BibTeX keeps the name whole."""
    ((key, fields),) = parse_bibtex(bibtex(software()))
    assert (key, fields["author"]) == ("approxhub", "{The ApproxHub contributors}")


def test_papers_come_once(lab: Any) -> None:
    """One paper behind several multipliers is one work, whatever modifiers they have."""
    works, unknown = works_of(["mul4u_CUT", "lab:r2/mul4u_TWO+swap", "mul4u_CUT", "exact:8s"])
    assert [(w.text, w.doi, w.ids) for w in works] == [
        ("Us, 2024", "10.1/us", ("lab:r1/mul4u_CUT", "lab:r2/mul4u_TWO"))
    ]
    assert unknown == ["exact:8s"]
    assert lab.server.asked == []


def test_families_and_own_ones() -> None:
    """A member that a family does not list has its paper; one's own what was said of it."""
    said = Provenance(citation="A. Me: Mine. Here, 2020")
    Store().put(Multiplier.from_table([[9, 0], [0, 1]], name="mine", provenance=said))
    works, unknown = works_of(["drum:12ux5s/k=4", "local:mine"])
    assert [w.key for w in works] == ["hashemi2015drum", "me2020mine"]
    assert unknown == []
    with pytest.raises(NotFoundError):
        works_of(["local:nobody"])
