"""Draws the pictures of the documentation: ``python docs/pictures/draw.py`` writes them anew.

Diagrams are made of boxes and words; charts are computed from multipliers, nothing is measured.
A test compares what lies here with what this draws.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from diagram import BLUE, GREEN, GREY, RED, WHITE, Diagram

import approxhub as ah
from approxhub.charts import new_figure
from approxhub.cli import cli
from approxhub.factorization import factorize

HERE = Path(__file__).parent
MATPLOTLIB = "3.11"  # another release draws other pixels

# --- diagrams -----------------------------------------------------------------------


def way() -> str:
    """Draw the way from a name to a result, and what plug-ins can add to it."""
    d = Diagram(1000, 330, "From the id of a multiplier to the accuracy of a network")
    steps = (
        ("id", ("mul8u_12N4", "drum:8u/k=4"), WHITE),
        ("registry", ("index, download,", "hashes, cache"), BLUE),
        ("multiplier", ("table T[a, b],", "errors, power"), BLUE),
        ("backend", ("integer sums:", "products or", "lookups"), GREEN),
        ("layer", ("quantise, sum,", "rescale,", "gradient"), GREEN),
        ("model", ("accuracy,", "energy"), WHITE),
    )
    for i, (title, lines, colours) in enumerate(steps):
        x = 20 + 163 * i
        d.box(x, 50, 145, 100, title, lines, colours)
        if i:
            d.arrow((x - 18, 100), (x - 1, 100))
    d.words(20, 32, "what happens, from left to right", anchor="start", faint=True)
    d.words(20, 205, "what a plug-in can bring", anchor="start", faint=True)
    for x, title, lines in (
        (1, "source", ("names, and what", "they stand for")),
        (2, "format", ("files that hold", "tables")),
        (3, "backend", ("a device, or the", "model of one")),
        (4, "layer", ("gradient,", "calibrator")),
        (5, "command", ("check for the", "doctor")),
    ):
        left = 20 + 163 * x
        d.box(left, 220, 145, 82, title, lines, GREY)
        d.arrow((left + 72.5, 219), (left + 72.5, 152), dashed=True)
    return str(d)


def layer() -> str:
    """Draw what one layer computes, and which parts are integers."""
    d = Diagram(1000, 350, "What a layer computes: real numbers, codes, table entries, sums")
    d.box(20, 60, 130, 70, "activations", ("real numbers",))
    d.box(20, 220, 130, 70, "weights", ("real numbers",))
    d.box(190, 60, 150, 70, "quantiser", ("scale s, zero point z",), BLUE)
    d.box(190, 220, 150, 70, "quantiser", ("one per channel",), BLUE)
    d.box(
        400,
        115,
        190,
        120,
        "the circuit",
        ("every product is an", "entry of the table", "T[x, w]"),
        GREEN,
    )
    d.box(640, 115, 150, 120, "corrections", ("take the zero", "points out again"), GREEN)
    d.box(850, 115, 130, 120, "result", ("times the scales,", "plus the bias"))
    d.arrow((150, 95), (189, 95))
    d.arrow((150, 255), (189, 255))
    d.arrow((340, 95), (370, 95), (399, 150))
    d.arrow((340, 255), (370, 255), (399, 205))
    d.arrow((590, 175), (639, 175))
    d.arrow((790, 175), (849, 175))
    d.words(372, 78, "codes x", size=13)
    d.words(372, 283, "codes w", size=13)
    d.words(615, 100, "exact sum", size=13)
    d.line((358, 330), (828, 330), colour=GREEN[1], width=2)
    d.words(
        593, 322, "integers only: bit for bit the same on every backend", size=13, colour=GREEN[1]
    )
    d.words(
        593,
        40,
        "mode exact puts the true product in the circuit's place, and changes nothing else",
        size=13,
        faint=True,
    )
    return str(d)


def zero_point() -> str:
    """Draw how real numbers become codes, and which parts of a product of codes are corrections."""
    d = Diagram(
        1000, 380, "A zero point on the number line, and the four parts of a product of codes"
    )
    d.words(
        20, 36, "Real numbers from -1.0 to 3.0 on the codes 0 to 255", bold=True, anchor="start"
    )
    left, right, real, code = 50, 530, 120, 250
    for x in (left, right):
        d.line((x, real - 8), (x, real + 8), width=2)
        d.line((x, code - 8), (x, code + 8), width=2)
    d.line((left - 30, real), (right + 30, real))
    d.line((left, code), (right, code), width=4, colour=BLUE[1])
    zero = left + (right - left) / 4
    for x, number, q in ((left, "-1.0", "0"), (zero, "0.0", "z = 64"), (right, "3.0", "255")):
        hit = x == zero
        d.line((x, real + 10), (x, code - 10), colour=RED[1] if hit else "#999999", dashed=not hit)
        d.words(x, real - 16, number, bold=hit, colour=RED[1] if hit else None)
        d.words(x, code + 28, q, bold=hit, colour=RED[1] if hit else None)
    d.words(left - 30, real - 42, "real x", anchor="start", faint=True)
    d.words(
        left - 30,
        code + 56,
        "code q = round(x / s) + z,   s = 4.0 / 255",
        anchor="start",
        faint=True,
    )
    d.words(left - 30, 345, "The circuit sees 64 where the network has 0:", anchor="start")
    d.words(
        left - 30, 365, "it multiplies by 64, with whatever error it makes there.", anchor="start"
    )

    d.words(620, 36, "A product of two codes", bold=True, anchor="start")
    x0, y0, a, b, zx, zw = 660, 70, 200, 130, 100, 60
    d.box(x0, y0, zx, zw, "", ("z_x z_w",), GREY)
    d.box(x0 + zx, y0, a, zw, "", ("z_w times x",), GREY)
    d.box(x0, y0 + zw, zx, b, "", ("z_x times w",), GREY)
    d.box(x0 + zx, y0 + zw, a, b, "x times w", ("what is wanted",), GREEN)
    d.words(x0 + (zx + a) / 2, y0 - 10, "code of the activation: z_x + x", size=13)
    d.words(x0 - 12, y0 + zw + 60, "code of", size=13, anchor="end")
    d.words(x0 - 12, y0 + zw + 77, "the weight:", size=13, anchor="end")
    d.words(x0 - 12, y0 + zw + 94, "z_w + w", size=13, anchor="end")
    d.words(620, 303, "The circuit gives the area of the whole, about.", anchor="start")
    d.words(620, 324, "The three grey parts are known exactly once the", anchor="start")
    d.words(620, 345, "codes are, and are subtracted from the sum.", anchor="start")
    d.words(620, 366, "The circuit's error stays in: it is what you measure.", anchor="start")
    return str(d)


def fetch() -> str:
    """Draw the steps of a fetch, what each is checked against, and where it may end."""
    d = Diagram(1000, 300, "What happens between a name and a table in the cache")
    steps = (
        ("index", ("commit, path,", "two hashes,", "printed errors"), WHITE),
        ("download", ("mirrors first;", "size and time", "limited"), BLUE),
        ("source", ("SHA-256 of", "the file"), GREEN),
        ("table", ("own interpreter", "of C: nothing", "is run"), BLUE),
        ("table", ("SHA-256 of", "the entries"), GREEN),
        ("errors", ("computed, held", "against what", "is printed"), GREEN),
        ("cache", ("written whole,", "or not at all"), WHITE),
    )
    for i, (title, lines, colours) in enumerate(steps):
        x = 16 + 140 * i
        d.box(x, 50, 122, 100, title, lines, colours)
        if i:
            d.arrow((x - 18, 100), (x - 1, 100))
        if title == "source" or lines[0].startswith("SHA-256 of"):
            d.arrow((x + 61, 151), (x + 61, 209))
    d.words(16, 32, "blue: work;  green: checks", anchor="start", faint=True)
    d.box(
        296, 210, 402, 60, "refused", ("an error that names the step; the cache is as it was",), RED
    )
    d.arrow((777, 151), (777, 209))
    d.box(716, 210, 268, 60, "noted", ("a warning, kept with the multiplier",), GREY)
    return str(d)


# --- charts -------------------------------------------------------------------------


def plotted(*words: str) -> Callable[[Path], None]:
    """Draw what a command line of ``approxhub plot`` draws, as a page shows it."""

    def run(path: Path) -> None:
        cli.main(["plot", *words, "-o", str(path), "--json"], standalone_mode=False)

    return run


CIRCUIT = "drum:8u/k=3"


def reach(mapping: str) -> tuple[np.ndarray, float, float]:
    """Which operands a layer lets meet under a mapping, and what that does to its sums.

    Returns
    -------
    met : ndarray, shape (256, 256)
        How often each pair of patterns is met.
    error, signal : float
        Root mean square of the layer's error, and of its exact results, in real numbers.
    """
    import torch

    g = torch.Generator().manual_seed(0)
    x = torch.randn(512, 64, generator=g).relu()
    net = torch.nn.Sequential(torch.nn.Linear(64, 32, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(32, 64, generator=g) / 8)
    net = ah.approximate(net, CIRCUIT, mapping=mapping)
    ah.calibrate(net, [x], calibrator="minmax")
    found = net.eval()[0]
    with torch.no_grad():
        y = net(x)
        with ah.mode(net, "exact"):
            exact = net(x)
        codes = found.input_quantizer.codes(x), found.weight_quantizer.codes(found.weight)
    a, b = (np.bincount(c.abs().flatten().long().numpy(), minlength=256) for c in codes)
    met = np.outer(smooth(a), smooth(b))
    return met, (y - exact).square().mean().sqrt().item(), exact.square().mean().sqrt().item()


def smooth(counts: np.ndarray) -> np.ndarray:
    """Average counts over their neighbours, so that they show a shape."""
    weights = np.exp(-0.5 * (np.arange(-30, 31) / 8) ** 2)
    return np.convolve(np.pad(counts, 30, mode="reflect"), weights / weights.sum(), mode="valid")


def mappings(path: Path) -> None:
    """Draw which part of one circuit is used under three mappings, over the circuit's errors."""
    m = ah.load(CIRCUIT)
    a = np.arange(256)
    error = m.table[:256, :256] - a[:, None] * a
    limit = np.abs(error).max()
    with new_figure(path, (11.5, 4.4)) as figure:
        panels = figure.subplots(1, 3, sharey=True)
        for axes, mapping in zip(
            panels, ("affine", "signmag-weights", "signmag-both"), strict=True
        ):
            met, wrong, signal = reach(mapping)
            image = axes.imshow(
                error,
                origin="lower",
                cmap="RdBu_r",
                vmin=-limit,
                vmax=limit,
                interpolation="nearest",
            )
            order = np.sort(met.ravel())[::-1]
            level = order[np.searchsorted(order.cumsum(), 0.9 * order.sum())]
            axes.contour(met, levels=[level], colors="black", linewidths=1.5)
            axes.set_title(f"{mapping}\nerror of a sum: {100 * wrong / signal:.0f} % of its size")
            axes.set_xlabel("weight, as the circuit sees it")
        panels[0].set_ylabel("activation, as the circuit sees it")
        figure.colorbar(image, ax=panels, label=f"error of {CIRCUIT}")


def factors(path: Path) -> None:
    """Draw a table as the exact product and products of one column and one row each."""
    m = ah.load("bam:8u/h=0,v=6")
    f = factorize(m)
    size = np.arange(256)
    exact = size[:, None] * size
    terms = [np.outer(f.u[:, i], f.v[i]) for i in range(f.u.shape[1])]
    assert f.with_exact
    assert (exact + sum(terms) == m.table).all()
    shown = [m.table, exact, *terms]
    titles = [
        "table T[a, b]",
        "exact product a b",
        *(f"u{i} v{i}" for i in range(1, 1 + len(terms))),
    ]
    with new_figure(path, (11.5, 3.1)) as figure:
        panels = figure.subplots(1, len(shown))
        for i, (axes, values, title) in enumerate(zip(panels, shown, titles, strict=True)):
            limit = np.abs(values).max()
            axes.imshow(values, origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes.set_title(title, fontsize=11)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel(f"{values.min():,} to {values.max():,}", fontsize=9)
            if i:
                axes.text(
                    -0.11, 0.5, "=" if i == 1 else "+", transform=axes.transAxes, fontsize=18,
                    ha="center", va="center",
                )  # fmt: skip


def slopes(path: Path) -> None:
    """Draw one column of a table, and what three gradients take for its derivative."""
    m = ah.load("drum:8u/k=3")
    weight = 100
    a = np.arange(256)
    names = ("straight-through", "lre", "table-2d")
    with new_figure(path, (11.5, 3.8)) as figure:
        left, right = figure.subplots(1, 2)
        left.plot(a, a * weight, color="#999999", label="exact product")
        left.plot(a, m.table[:, weight], color="#222222", label=m.id)
        left.set_xlabel("activation a")
        left.set_ylabel(f"product with the weight {weight}")
        left.legend(frameon=False)
        for name, colour in zip(names, ("#999999", "#4477aa", "#cc3355"), strict=True):
            right.plot(a, derivative(name, m, weight), color=colour, label=name)
        right.set_xlabel("activation a")
        right.set_ylabel("taken for the derivative")
        right.legend(frameon=False)


def derivative(name: str, m: ah.Multiplier, weight: int) -> np.ndarray:
    """What a gradient takes for the derivative of T[a, weight] by a, for each a."""
    import torch

    layer = ah.nn.Linear(1, 1, bias=False, multiplier=m, gradient=name)
    layer.weight.data.fill_(weight)
    layer.input_quantizer.set_range(torch.tensor(0.0), torch.tensor(255.0))
    layer.weight_quantizer.set_range(torch.tensor([0.0]), torch.tensor([255.0]))
    x = torch.arange(256.0).reshape(-1, 1).requires_grad_()
    layer.eval()(x).sum().backward()
    return x.grad.flatten().numpy()


DIAGRAMS: dict[str, Callable[[], str]] = {
    "way.svg": way,
    "layer.svg": layer,
    "zero-point.svg": zero_point,
    "fetch.svg": fetch,
}
CHARTS: dict[str, Callable[[Path], None]] = {
    "error-maps.png": plotted("drum:8u/k=3", "mitchell:8u", "bam:8u/h=0,v=8"),
    "front.png": plotted("--kind", "pareto", "--format", "8s", "--technology", "PDK45"),
    "mappings.png": mappings,
    "factors.png": factors,
    "slopes.png": slopes,
}


def draw(folder: Path, *names: str) -> None:
    """Write pictures into a folder, all of them if none is named."""
    for name in names or (*DIAGRAMS, *CHARTS):
        if name in DIAGRAMS:
            (folder / name).write_text(DIAGRAMS[name](), encoding="utf-8", newline="\n")
        else:
            CHARTS[name](folder / name)
            with Image.open(folder / name) as image:  # a third of the bytes, for the eye the same
                few = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
            few.save(folder / name, optimize=True)


if __name__ == "__main__":
    draw(HERE, *sys.argv[1:])
