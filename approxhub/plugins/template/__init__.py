"""A complete plug-in package, to begin with: written from the templates that lie here.

Imports the standard library, the errors and the plug-in host.
"""

from __future__ import annotations

import keyword
import re
import secrets
import shutil
import sys
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from approxhub import __version__
from approxhub.errors import InputError, StoreError
from approxhub.plugins.descriptors import (
    BackendInfo,
    CalibratorInfo,
    GradientInfo,
    LayerConverter,
    MultiplierSource,
    TableFormat,
)

__all__ = ["DEFAULT_LICENCE", "TITLES", "write_package"]

DEFAULT_LICENCE = "LicenseRef-Unchosen"

TITLES = {
    "backend": "A backend",
    "source": "A source of multipliers",
    "format": "A table format",
    "layer": "A layer and its converter",
    "gradient": "A gradient",
    "calibrator": "A calibrator",
}
"""What a plug-in of each kind is called."""

_HOOKS: dict[str, tuple[str, type[Any]]] = {
    "backend": ("approxhub_backends", BackendInfo),
    "source": ("approxhub_multiplier_sources", MultiplierSource),
    "format": ("approxhub_formats", TableFormat),
    "layer": ("approxhub_converters", LayerConverter),
    "gradient": ("approxhub_gradients", GradientInfo),
    "calibrator": ("approxhub_calibrators", CalibratorInfo),
}
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LICENCE = re.compile(r"[A-Za-z0-9.+-]+( (AND|OR|WITH) [A-Za-z0-9.+-]+)*")
_PREFIX = "approxhub-"


def write_package(
    distribution: str, kind: str, output: Path, *, licence: str = DEFAULT_LICENCE
) -> Path:
    """Write a package that installs and passes its tests as it is.

    Parameters
    ----------
    distribution : str
        Its name, in small letters, digits and hyphens. What it offers is called the same, without
        ``approxhub-`` before it.
    kind : str
        A key of :data:`TITLES`.
    output : Path
        Folder in which its folder is made.
    licence : str
        SPDX expression.

    Returns
    -------
    Path
        The new folder.

    Raises
    ------
    InputError
        If a name is malformed or taken, or the folder is there already; nothing is written then.
    StoreError
        If it cannot be written; nothing is left then.
    """
    values = _values(distribution, kind, licence)
    folder = output / distribution
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} is there already; choose another name, or --output elsewhere")
    files = _files(kind, values)
    temporary = output / f".{distribution}.{secrets.token_hex(4)}.tmp"
    try:
        for path, text in files.items():
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            (temporary / path).write_text(text, encoding="utf-8", newline="\n")
        temporary.rename(folder)
    except OSError as error:
        why = error.strerror or error
        raise StoreError(f"{folder} cannot be written: {why}; choose another --output") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _values(distribution: str, kind: str, licence: str) -> dict[str, str]:
    """What stands in the places of the templates."""
    if not _NAME.fullmatch(distribution):
        raise InputError(
            f"{distribution!r} cannot name a package; use small letters, digits and single hyphens"
        )
    if not _LICENCE.fullmatch(licence):
        raise InputError(f"{licence!r} is no SPDX expression; write e.g. MIT or Apache-2.0")
    module, name = distribution.replace("-", "_"), distribution.removeprefix(_PREFIX)
    taken = {"approxhub", "multipliers_index", "test", "tests", *sys.stdlib_module_names}
    if module in taken or keyword.iskeyword(module):
        raise InputError(f"a module {module!r} is there already; try {_PREFIX}{distribution}")
    offers = module if kind == "layer" else name
    if offers in _offered(kind):
        raise InputError(f"a {kind} called {offers!r} is there already; choose another name")
    camel = "".join(part.capitalize() for part in name.split("-"))
    installed = f"approxhub conformance {name}{'' if kind == 'backend' else f' --kind {kind}'}"
    return {
        "approxhub": __version__,
        "checked": (
            "Its tests show that it holds what ApproxHub asks of it."
            if kind == "layer"
            else f"`{installed}` shows that it holds what ApproxHub asks of it."
        ),
        "distribution": distribution,
        "kind": kind,
        "klass": camel if camel.endswith(kind.capitalize()) else camel + kind.capitalize(),
        "licence": licence,
        "module": module,
        "name": name,
        "title": TITLES[kind],
    }


def _offered(kind: str) -> list[str]:
    """Names that are taken among what is installed."""
    from approxhub.plugins.host import host

    hook, record = _HOOKS[kind]
    return [getattr(r, "name", "") for r in host().all(hook, record)]


def _files(kind: str, values: dict[str, str]) -> dict[str, str]:
    """Text of each file, by its place in the package."""
    module = values["module"]
    places = {
        "pyproject.toml": "common/pyproject.toml",
        "README.md": "common/README.md",
        "LICENSE": "common/LICENSE",
        ".github/workflows/test.yml": "common/workflow.yml",
        f"src/{module}/__init__.py": f"{kind}/__init__.py",
        f"src/{module}/{kind}.py": f"{kind}/{kind}.py",
        f"tests/test_{module}.py": f"{kind}/test.py",
    }
    here = resources.files(__name__)
    return {
        place: Template((here / f"{template}.tmpl").read_text(encoding="utf-8")).substitute(values)
        for place, template in places.items()
    }
