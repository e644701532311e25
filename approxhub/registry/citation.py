r"""Citations: the papers behind multipliers, as text and as BibTeX.

Sources give a citation as one line of text. What can be read off it with certainty becomes fields;
of the rest the line itself is kept. Imports the standard library; the store only when asked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from approxhub import __version__
from approxhub.ids import LOCAL, MultiplierId

__all__ = ["Work", "bibliography", "bibtex", "software", "works_of"]

_LAST_NAME = (
    r"(?: ?(?:van|von|de|der|den|di|da|la|le))* ?[^\W\d_][\w'\u2019-]+"
    r"(?: [^\W\d_][\w'\u2019-]+)?(?: Jr\.)?"
)
_NAME = rf"(?:[^\W\d_]\.[ -]?)+{_LAST_NAME}"
_AUTHORS = rf"(?P<authors>{_NAME}(?:(?:, and |, | and ){_NAME})*)"
_INVERTED = r"[^\W\d_][\w'\u2019-]+(?: [^\W\d_]\.)+"
_FORMS = tuple(
    re.compile(authors + rest)
    for authors, rest in (
        (
            _AUTHORS,
            r',? ["\u201c](?P<title>[^"\u201d]+?)[,.]?["\u201d][,.]? (?:[Ii]n:? )?(?P<venue>.+)',
        ),
        (_AUTHORS, r": (?P<title>.+?)\. (?P<venue>.+)"),
        (_AUTHORS, r",\s+(?P<title>[^.]+)\. In: (?P<venue>.+)"),
        (rf"(?P<authors>{_INVERTED}(?:, {_INVERTED})*)", r" (?P<title>[^.]+)\. (?P<venue>.+)"),
    )
)
_DOI = re.compile(r"[.,;]?\s*\bdoi:?\s*10\.\S+\s*$", re.IGNORECASE)
_YEAR = re.compile(r"(?<![\d\u2013-])(?:19|20)\d\d(?![\d\u2013-])")
_PAGES = r"(?P<pages>\d+[-\u2013]+\d+)"
_JOURNALS = tuple(
    re.compile(rf"(?P<journal>[^\d,]+),? {rest}, (?:[A-Z][a-z]+\.? |\d\d? )?(?:19|20)\d\d")
    for rest in (
        rf"(?P<volume>(?:[A-Z]+-)?\d+)\((?P<number>\d+)\), {_PAGES}",
        rf"[Vv]ol\.? (?P<volume>\d+), [Nn]o\.? (?P<number>\d+)(?:, pp\. {_PAGES})?",
    )
)
_PROCEEDINGS = re.compile(r"\b(?:Proc\.|Proceedings?|Conference|Conf\.|Symposium|Workshop)")
_PLACE = re.compile(rf"(?P<booktitle>.+?)(?:, (?:pp\. )?{_PAGES})?(?:, (?:19|20)\d\d)?")
_LONGEST = 2000  # characters of a citation: a stranger's may be anything
_SMALL = frozenset(("a", "an", "and", "for", "from", "in", "of", "on", "the", "to", "with"))

# What BibTeX and LaTeX take for commands. Braces count for BibTeX even behind a backslash.
_SPECIAL: Mapping[str, str] = {
    **{c: f"\\{c}" for c in "&%$#_"},
    **{"{": r"\textbraceleft{}", "}": r"\textbraceright{}", "\\": r"\textbackslash{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"ß": r"{\ss}", "ø": r"{\o}", "Ø": r"{\O}", "ł": r"{\l}", "Ł": r"{\L}", "đ": r"{\dj}"},
    **{
        "Đ": r"{\DJ}",
        "æ": r"{\ae}",
        "Æ": r"{\AE}",
        "œ": r"{\oe}",
        "Œ": r"{\OE}",
        "\u0131": r"{\i}",
    },
    **{"\u2013": "--", "\u2014": "---", "\u201c": "``", "\u201d": "''", "\u2018": "`"},
    **{"\u2019": "'", "\N{NO-BREAK SPACE}": "~"},
}
_ACCENTS: Mapping[str, str] = {
    **{"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u"},
    **{"\u0307": ".", "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c"},
    "\u0328": "k",
}


@dataclass(frozen=True, slots=True)
class Work:
    """One paper, or another thing to cite.

    Parameters
    ----------
    text : str
        The citation as its source gives it.
    doi : str or None
    key : str
        BibTeX key, unique in a bibliography.
    authors : tuple of str
        Empty where the text does not tell them with certainty, as the next three.
    title, venue, year : str or None
    ids : tuple of str
        Multipliers that it stands behind.
    """

    text: str
    doi: str | None = None
    key: str = ""
    authors: tuple[str, ...] = ()
    title: str | None = None
    venue: str | None = None
    year: str | None = None
    ids: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, doi: str | None = None) -> Work:
        """Read a line of text.

        Examples
        --------
        >>> work = Work.parse('A. Bee and C. D. Eff, "Of &," in J. Things, pp. 1-2, 1999.')
        >>> work.authors, work.title, work.venue, work.year, work.key
        (('A. Bee', 'C. D. Eff'), 'Of &', 'J. Things, pp. 1-2, 1999', '1999', 'bee1999of')
        """
        line = " ".join(text.split())
        body = _DOI.sub("", line).rstrip(".")
        years = _YEAR.findall(body)
        work = cls(line, doi, year=years[-1] if years else None)
        for form in _FORMS if len(body) <= _LONGEST else ():
            match = form.fullmatch(body)
            if match is not None:
                names = re.split(r", and |, | and ", match["authors"])
                work = replace(
                    work,
                    authors=tuple(_initials_first(n) for n in names),
                    title=match["title"],
                    venue=match["venue"],
                )
                break
        return replace(work, key=_key(work))


def _initials_first(name: str) -> str:
    """Turn ``BEE A. B.`` round, as the other names are."""
    if re.fullmatch(_INVERTED, name):
        last, _, initials = name.partition(" ")
        return f"{initials} {last.title() if last.isupper() else last}"
    return name


def _key(work: Work) -> str:
    """Last name of the first author, year, and first word of the title that says something."""
    name = work.authors[0].split()[-1] if work.authors else "work"
    words = re.findall(r"[\w]+", _ascii(work.title or ""))
    telling = next((w for w in words if w.casefold() not in _SMALL), words[0] if words else "")
    return re.sub(r"[^a-z0-9]", "", _ascii(f"{name}{work.year or ''}{telling}").casefold())


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def software() -> Work:
    """ApproxHub itself."""
    return Work(
        f"The ApproxHub contributors: ApproxHub. Computer software, version {__version__}",
        key="approxhub",
        authors=("{The ApproxHub contributors}",),
        title="ApproxHub",
        venue=f"Computer software, version {__version__}",
    )


def works_of(ids: Iterable[str]) -> tuple[list[Work], list[str]]:
    """Look up what stands behind multipliers, each paper once.

    Parameters
    ----------
    ids : iterable of str

    Returns
    -------
    works : list of Work
    unknown : list of str
        Full ids of which no paper is known.

    Raises
    ------
    NotFoundError
        If an id is not known.

    Examples
    --------
    >>> works, unknown = works_of(["drum:8u/k=4", "drum:8s/k=3", "exact:8u"])
    >>> [w.key for w in works], works[0].ids, unknown
    (['hashemi2015drum'], ('drum:8u/k=4', 'drum:8s/k=3'), ['exact:8u'])
    """
    said: dict[str, tuple[str, str | None, list[str]]] = {}
    unknown = []
    for text in ids:
        id, citation, doi = _citation_of(text)
        if citation is None and doi is None:
            unknown.append(id)
            continue
        same = doi.casefold() if doi else _ascii(citation or "").casefold()
        found = said.setdefault(same, (citation or f"doi: {doi}", doi, []))
        found[2].append(id)
    return (
        bibliography(
            replace(Work.parse(text, doi), ids=tuple(dict.fromkeys(users)))
            for text, doi, users in said.values()
        ),
        unknown,
    )


def _citation_of(text: str) -> tuple[str, str | None, str | None]:
    """Full id of a multiplier, its citation and DOI; downloads nothing."""
    from approxhub.registry.catalogue import entry_of, not_found, resolve_id
    from approxhub.registry.client import peek
    from approxhub.registry.store import Store

    id = resolve_id(MultiplierId.parse(text)).base
    if id.source == LOCAL:
        ref = Store().read_ref(str(id))
        if ref is None:
            raise not_found(id)
        return str(id), ref.provenance.citation, ref.provenance.doi
    entry = entry_of(id)
    if entry is not None:
        return str(id), entry.citation, entry.doi
    found = peek(id)
    if found is None:
        raise not_found(id)
    return str(id), found.provenance.citation, found.provenance.doi


def bibliography(works: Iterable[Work]) -> list[Work]:
    """Give each work a key of its own.

    Examples
    --------
    >>> [w.key for w in bibliography([Work("x", key="x"), Work("y", key="x")])]
    ['x', 'xa']
    """
    taken = {software().key}
    found = []
    for work in works:
        key, tail = work.key, 0
        while key in taken:
            tail += 1
            key = work.key + _letters(tail)
        taken.add(key)
        found.append(replace(work, key=key))
    return found


def _letters(number: int) -> str:
    """Count a, b, ... z, aa, ab, ..., from 1."""
    text = ""
    while number:
        number, digit = divmod(number - 1, 26)
        text = chr(ord("a") + digit) + text
    return text


def bibtex(work: Work) -> str:
    r"""Write a work as a BibTeX entry.

    Examples
    --------
    >>> print(bibtex(Work.parse("J. Müller: Of & and {. Journal of X 5(4), 1-22, 2001", "10.1/x")))
    @article{muller2001of,
      author = {J. M{\"u}ller},
      title = {{Of \& and \textbraceleft{}}},
      journal = {Journal of X},
      volume = {5},
      number = {4},
      pages = {1--22},
      year = {2001},
      doi = {10.1/x},
    }
    """
    kind, place = _published(work)
    fields = {
        "author": " and ".join(_author(a) for a in work.authors) or None,
        "title": None if work.title is None else f"{{{_escape(work.title)}}}",
        **{name: _escape(value) for name, value in place.items()},
        "year": work.year,
        # Not escaped: styles make an address of it. Only braces would break the entry.
        "doi": None if work.doi is None else re.sub(r"[{}\s]", "", work.doi),
        "note": None if work.title is not None else _escape(work.text),
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value is not None]
    return "\n".join([f"@{kind}{{{work.key},", *lines, "}"])


def _published(work: Work) -> tuple[str, dict[str, str]]:
    """BibTeX's kind of a work, and the fields that say where it stands."""
    if work.venue is None:
        return "misc", {}
    found = [m for form in _JOURNALS if (m := form.fullmatch(work.venue))]
    kind = "article"
    if not found and _PROCEEDINGS.search(work.venue):
        found = [m for m in (_PLACE.fullmatch(work.venue),) if m]
        kind = "inproceedings"
    if not found:
        return "misc", {"howpublished": work.venue}
    fields = {name: text for name, text in found[0].groupdict().items() if text}
    if "pages" in fields:
        fields["pages"] = re.sub(r"[-\u2013]+", "--", fields["pages"])
    return kind, fields


def _author(name: str) -> str:
    if name.startswith("{") and name.endswith("}"):  # not a person: BibTeX must not take it apart
        return f"{{{_escape(name[1:-1])}}}"
    return _escape(name)


def _escape(text: str) -> str:
    """Text as BibTeX and LaTeX read it."""
    return "".join(_latex(c) for c in unicodedata.normalize("NFC", text))


def _latex(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    parts = unicodedata.normalize("NFD", character)
    if len(parts) == 2 and parts[1] in _ACCENTS:
        accent = _ACCENTS[parts[1]]
        base = {"i": r"\i", "j": r"\j"}.get(parts[0], parts[0])
        return f"{{\\{accent}{{{base}}}}}" if accent.isalpha() else f"{{\\{accent}{base}}}"
    return character
