"""``approxhub new-plugin``: writes a complete plug-in package."""

from __future__ import annotations

from pathlib import Path

import click

from approxhub.cli.output import examples, json_option, print_json
from approxhub.plugins.template import DEFAULT_LICENCE, TITLES, write_package


@click.command(
    epilog=examples(
        "new-plugin approxhub-fpga --kind backend",
        "new-plugin mylab --kind source --licence MIT --output ~/src",
    )
)
@click.argument("name")
@click.option("--kind", type=click.Choice(list(TITLES)), required=True, help="What it brings.")
@click.option(
    "--output",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    help="Folder in which its folder is made; the current one when not given.",
)
@click.option(
    "--licence",
    default=DEFAULT_LICENCE,
    show_default=True,
    metavar="SPDX",
    help="Its licence, as an SPDX expression such as MIT.",
)
@json_option
def command(name: str, kind: str, output: Path, licence: str, as_json: bool) -> None:
    """Write a complete plug-in package: it installs, and passes its tests, as it is.

    NAME is the package's, in small letters, digits and hyphens; what it offers is called the same,
    without `approxhub-` before it. The package has its entry point, the module, tests that
    subclass ApproxHub's conformance kit, a README, a place for the licence and a CI workflow.
    """
    folder = write_package(name, kind, output, licence=licence)
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    if as_json:
        print_json({"folder": str(folder), "kind": kind, "files": files})
        return
    click.echo(f"wrote {folder}")
    for file in files:
        click.echo(f"  {file}")
    if licence == DEFAULT_LICENCE:
        click.echo("choose its licence in pyproject.toml and LICENSE", err=True)
    click.echo(f"next: cd {folder} && pip install -e '.[test]' && pytest", err=True)
