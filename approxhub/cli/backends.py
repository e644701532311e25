"""``approxhub backends``: what can run integer matrix products here. May import torch."""

from __future__ import annotations

import os

import click

from approxhub.cli.output import json_option, print_json, print_table
from approxhub.plugins.descriptors import BackendInfo


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Show what can run integer matrix products here.

    Exits with 0 whether they can or not.
    """
    from approxhub.plugins import host

    infos = host().all("approxhub_backends", BackendInfo)
    forced = os.environ.get("APPROXHUB_BACKEND")
    if forced and forced not in (info.name for info in infos):
        known = ", ".join(info.name for info in infos)
        click.echo(
            f"warning: APPROXHUB_BACKEND: no backend is called {forced!r}; known: {known}", err=True
        )
    rows = [(info, _unavailable(info)) for info in infos]
    if as_json:
        print_json(
            [
                {
                    "name": info.name,
                    "device_type": info.device_type,
                    "available": reason is None,
                    "reason": reason,
                }
                for info, reason in rows
            ]
        )
    else:
        print_table(
            ("name", "device", "available", "reason"),
            (
                (
                    f"{info.name} (forced)" if info.name == forced else info.name,
                    info.device_type,
                    "yes" if reason is None else "no",
                    reason or "",
                )
                for info, reason in rows
            ),
        )


def _unavailable(info: BackendInfo) -> str | None:
    """Why a backend cannot be used, or None; whatever it raises is a reason."""
    try:
        backend = info.load()
        if backend is None:
            return "its load() returned None"
        reason = backend.unavailable_reason()
        return None if reason is None else str(reason)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plug-in may even exit
        return f"{type(error).__name__}: {error}".rstrip(": ")
