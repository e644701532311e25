"""The generated reference leaves nothing out, and its pictures are those that the code draws."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from approxhub.families import family_sources
from approxhub.plugins import hookspecs, host

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PICTURES = DOCS / "pictures"
SHOWN = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")


def shown() -> list[tuple[Path, str, Path]]:
    """Every picture of ours on a page: page, words for those who cannot see it, file."""
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    return [
        (page, words, (page.parent / file).resolve())
        for page in pages
        if "_build" not in page.parts
        for words, file in SHOWN.findall(page.read_text(encoding="utf-8"))
        if "pictures/" in file
    ]


# --- reference ------------------------------------------------------------------------


def test_every_family_has_a_section(script):
    """Families of the reference are those of the code, each with its ids, errors and paper."""
    text = script("generated.py").families_text()
    names = [source.name for source in family_sources()]
    assert re.findall(r"^## `(\w+)`$", text, re.MULTILINE) == names
    assert "{approxhub-families}" in (DOCS / "reference/families.md").read_text(encoding="utf-8")
    for part in text.split("\n## `")[1:]:
        assert re.search(r"\| `\w+:8[us]", part), part
        assert "https://doi.org/" in part or "truncation" in part, part


def test_every_hook_is_read_off_the_code(script):
    """Each heading of a hook is followed by what the code says: its line, and what is built in."""
    generated = script("generated.py")
    page = (DOCS / "reference/hooks.md").read_text(encoding="utf-8")
    for name in (n for n in vars(hookspecs) if n.startswith("approxhub_")):
        assert f"## `{name}(" in page
        assert f"```{{approxhub-hook}} {name}\n```" in page
        text = generated.hook_text(name)
        assert getattr(hookspecs, name).__doc__ in text
        if name != "approxhub_commands":
            known = generated.built_in(name)
            assert known
            assert all(f"`{n}`" in text for n in known)
            assert set(known) <= set(host()._collect(name))


# --- pictures -------------------------------------------------------------------------


def test_every_picture_is_drawn_and_shown(script):
    """Each picture has a function that draws it, and a page that shows it, with words."""
    draw = script("pictures/draw.py")
    files = {p.name for p in PICTURES.iterdir() if p.suffix in (".svg", ".png")}
    assert files == {*draw.DIAGRAMS, *draw.CHARTS}
    seen = shown()
    assert all(file.is_file() and len(words) > 20 for _, words, file in seen), seen
    assert {file.name for _, _, file in seen} == files


def test_diagrams_are_as_drawn(script, tmp_path):
    """The diagrams in the checkout are, to the byte, what the script draws."""
    draw = script("pictures/draw.py")
    draw.draw(tmp_path, *draw.DIAGRAMS)
    for name in draw.DIAGRAMS:
        assert (tmp_path / name).read_bytes() == (PICTURES / name).read_bytes(), name


@pytest.mark.slow
def test_charts_are_as_drawn(script, tmp_path):
    """The charts in the checkout are what the script computes and draws, but for a few pixels."""
    import matplotlib
    from PIL import Image

    draw = script("pictures/draw.py")
    if not matplotlib.__version__.startswith(f"{draw.MATPLOTLIB}."):
        pytest.skip(
            f"the charts are drawn with matplotlib {draw.MATPLOTLIB}, others draw otherwise"
        )
    draw.draw(tmp_path, *draw.CHARTS)
    for name in draw.CHARTS:
        new, old = (np.asarray(Image.open(f / name).convert("RGB")) for f in (tmp_path, PICTURES))
        assert new.shape == old.shape, name
        wrong = (np.abs(new.astype(int) - old).max(axis=2) > 40).mean()
        assert wrong < 0.002, f"{name}: run docs/pictures/draw.py ({wrong:.2%} differ)"


def test_the_figures_that_the_mappings_page_quotes(script):
    """One layer errs by two thirds under affine, and by a sixth under the signmag mappings."""
    draw = script("pictures/draw.py")
    share = {}
    for mapping in ("affine", "signmag-weights", "signmag-both"):
        _, wrong, signal = draw.reach(mapping)
        share[mapping] = wrong / signal
    assert share["affine"] == pytest.approx(2 / 3, abs=0.03)
    assert share["signmag-weights"] == pytest.approx(1 / 6, abs=0.02)
    assert share["signmag-both"] == pytest.approx(1 / 6, abs=0.02)
