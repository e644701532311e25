"""``approxhub doctor``: whether this installation is healthy, and what to do if it is not."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from typing import Any

import click

from approxhub.cli.output import examples, json_option, print_json, print_table
from approxhub.plugins.descriptors import HealthCheck


@dataclasses.dataclass(frozen=True, slots=True)
class _Checked:
    """What a check found; `core` if it is one of ours, whose failure is ours too."""

    name: str
    core: bool
    healthy: bool
    finding: str


@click.command(epilog=examples("doctor", "doctor --json"))
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Check this installation, and say what to do where it is not healthy.

    Looks at Python and packages, the CPU engine, threads, compilers, CUDA, the cache, and at
    what plug-ins bring and check themselves. Uses no network and changes nothing.

    Exits with 0 unless the core itself is not healthy, and then with 1. A plug-in that does not
    work, an engine that was not built and a missing CUDA are told, and are no failure.
    """
    with contextlib.redirect_stdout(sys.stderr):  # whatever plug-ins print is no report
        checks = [_checked(c, core) for c, core in _checks()]
        plugins = _plugins(ctx)
    healthy = all(c.healthy for c in checks if c.core)
    if as_json:
        print_json(
            {
                "healthy": healthy,
                "checks": [dataclasses.asdict(c) for c in checks],
                "plugins": plugins,
            }
        )
    else:
        rows = [(c.name, "ok" if c.healthy else "FAILED", c.finding) for c in checks]
        rows += [(f"plug-in {p['name']}", p["state"], p["error"] or "") for p in plugins]
        print_table(("check", "state", "finding"), rows)
    ctx.exit(0 if healthy else 1)


def _checks() -> list[tuple[HealthCheck, bool]]:
    """All checks, and whether each is the core's; ours alone if the plug-in host fails."""
    from approxhub.health import CHECKS

    try:
        from approxhub.plugins import host

        offered = host().all("approxhub_checks", HealthCheck)
    except KeyboardInterrupt:
        raise
    except BaseException:  # its cause stands among the plug-ins
        offered = list(CHECKS)
    return [(c, any(c is ours for ours in CHECKS)) for c in offered]


def _checked(check: HealthCheck, core: bool) -> _Checked:
    """Run a check; whatever it raises or returns, it is a row."""
    from approxhub.plugins.host import cause_of

    try:
        found: Any = check.run()
        healthy, finding = found
        if not isinstance(healthy, bool) or not isinstance(finding, str):
            raise TypeError(f"its run() returned {found!r}, not (healthy, finding)")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a check may even exit
        healthy, finding = False, cause_of(error)
    return _Checked(check.name, core, healthy, " ".join(finding.split()))


def _plugins(ctx: click.Context) -> list[dict[str, Any]]:
    """A row for each plug-in, or one with the cause if the host itself fails."""
    try:
        from approxhub.plugins import host

        root = ctx.find_root()
        if isinstance(root.command, click.Group):
            root.command.list_commands(root)  # so that a plug-in whose commands fail is seen
        return [dataclasses.asdict(s) for s in host().status()]
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        from approxhub.plugins.host import cause_of

        row = {"name": "(all)", "state": "failed", "error": cause_of(error), "version": None}
        return [row]
