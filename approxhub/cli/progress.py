"""Progress on stderr: a bar on a terminal, else a line for each step. Imports click."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

__all__ = ["progress_bar"]


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """Give a function that takes how many steps are done, of how many, and what was last."""
    if not sys.stderr.isatty():
        yield lambda done, total, what: click.echo(f"[{done}/{total}] {what}", err=True)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting")
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )
