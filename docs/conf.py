"""How Sphinx builds the documentation."""

from __future__ import annotations

import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from generated import families_text, hook_text
from sphinx.util.docutils import SphinxDirective

project = "ApproxHub"
author = "The ApproxHub contributors"
release = version = metadata.version("approxhub")

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx_click"]
exclude_patterns = ["_build"]
copyright = "The ApproxHub contributors"
html_theme = "furo"
html_title = f"ApproxHub {release}"

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_mock_imports = [
    tool for tool in ("brevitas", "onnx", "onnxruntime", "torchao") if find_spec(tool) is None
]  # of the extra `interop`, which `docs` does not bring
autodoc_typehints = "none"  # the docstrings name the types
numpydoc_class_members_toctree = False
numpydoc_show_class_members = False


class _Hook(SphinxDirective):
    """What the code says of a hook."""

    required_arguments = 1

    def run(self) -> list[Any]:
        return list(self.parse_text_to_nodes(hook_text(self.arguments[0])))


class _Families(SphinxDirective):
    """A section for each family."""

    def run(self) -> list[Any]:
        return list(self.parse_text_to_nodes(families_text(), allow_section_headings=True))


def _without_nameless(app: Any, context: Any, lines: list[str]) -> None:
    """Leave out arguments that a command hides from its usage line by an empty metavar."""
    text = "\n".join(lines)
    kept = [part for part in text.split(".. option:: ") if part.splitlines()[:1] not in ([""], [])]
    lines[:] = ".. option:: ".join(["", *kept]).splitlines()


def _as_code(app: Any, context: Any, lines: list[str]) -> None:
    """Show the command lines at the end of a command's help as code: they have globs in them."""
    shown = [line.removeprefix("|").strip() for line in lines]
    if shown and shown[0] == "Examples:":
        code = [f"   $ {line}" for line in shown[1:] if line]
        lines[:] = ["", "Examples:", "", ".. code-block:: console", "", *code, ""]


def setup(app: Any) -> None:
    """Connect what is above."""
    app.add_directive("approxhub-hook", _Hook)
    app.add_directive("approxhub-families", _Families)
    app.connect("sphinx-click-process-epilog", _as_code)
    app.connect("sphinx-click-process-arguments", _without_nameless)
