"""Boxes, arrows and words as SVG: what the drawn pictures of the documentation are made of.

Standard library only. Equal calls give equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

__all__ = ["BLUE", "GREEN", "GREY", "RED", "WHITE", "Diagram"]

WHITE, GREY = ("#ffffff", "#999999"), ("#f3f3f3", "#999999")
BLUE, GREEN, RED = ("#e6eff8", "#4477aa"), ("#e6f4ea", "#228833"), ("#fdeaec", "#cc3355")
"""Fill and line of a box."""

_INK, _FAINT = "#222222", "#666666"
_FONT = "Helvetica, Arial, 'DejaVu Sans', sans-serif"
_LINE = 17


class Diagram:
    """A picture of a given size in pixels, on white paper, for light and dark pages alike.

    Parameters
    ----------
    width, height : int
    title : str
        What it shows, for those who cannot see it.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self._head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img">\n'
            f"<title>{escape(title)}</title>\n"
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="{_FAINT}"/></marker>'
            "</defs>\n"
            f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>\n'
        )
        self._parts: list[str] = []

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        title: str,
        lines: Sequence[str] = (),
        colours: tuple[str, str] = WHITE,
    ) -> None:
        """Draw a rectangle with a title in bold and lines below it, all in its middle."""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" '
            f'fill="{colours[0]}" stroke="{colours[1]}" stroke-width="1.5"/>\n'
        )
        top = y + height / 2 - _LINE * len(lines) / 2 + 5
        if title:
            self.words(x + width / 2, top, title, bold=True)
        for i, line in enumerate(lines, 1 if title else 0):
            self.words(x + width / 2, top + _LINE * i, line, size=13)

    def words(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = 14,
        bold: bool = False,
        faint: bool = False,
        anchor: str = "middle",
        colour: str | None = None,
    ) -> None:
        """Write one line; `anchor` is ``'start'``, ``'middle'`` or ``'end'``."""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-family="{_FONT}" font-size="{size}" '
            f'text-anchor="{anchor}" fill="{colour or (_FAINT if faint else _INK)}"'
            f"{' font-weight=' + chr(34) + 'bold' + chr(34) if bold else ''}>"
            f"{escape(text)}</text>\n"
        )

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        """Draw a line through points, with a tip at its end."""
        self._line(points, _FAINT, 1.5, dashed, ' marker-end="url(#tip)"')

    def line(
        self, *points: tuple[float, float], colour: str = _FAINT, width: float = 1.5,
        dashed: bool = False,
    ) -> None:  # fmt: skip
        """Draw a line through points."""
        self._line(points, colour, width, dashed, "")

    def _line(
        self, points: Sequence[tuple[float, float]], colour: str, width: float, dashed: bool,
        end: str,
    ) -> None:  # fmt: skip
        path = "L".join(f"{x:g} {y:g}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(
            f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"'
            f"{dash}{end}/>\n"
        )

    def __str__(self) -> str:
        return self._head + "".join(self._parts) + "</svg>\n"
