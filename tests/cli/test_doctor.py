"""``approxhub doctor``: it works whatever is broken, and its exit code is the core's."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import approxhub.backends.native as native
import approxhub.plugins as plugins
from approxhub import health
from approxhub.backends.cpu import CpuBackend
from approxhub.errors import BackendUnavailableError, PluginError
from approxhub.multiplier import Multiplier
from approxhub.plugins import HealthCheck, hookimpl, hookspecs, host
from approxhub.registry.store import Store

OURS = {"cache", "compilers", "cpu-engine", "cuda", "packages", "python", "threads"}


def rows(ran: Any) -> dict[str, Any]:
    """Checks by name."""
    return {c["name"]: c for c in ran.json["checks"]}


def offer(*checks: Any, name: str = "other") -> None:
    """Register a plug-in that brings checks."""

    class Plugin:
        @staticmethod
        @hookimpl
        def approxhub_checks() -> list[Any]:
            return list(checks)

    host().register(Plugin, name)


def test_healthy(run: Any) -> None:
    """A sound installation exits with 0, and each built-in check says something on one line."""
    ran = run("doctor", "--json")
    assert (ran.code, ran.json["healthy"]) == (0, True)
    assert set(rows(ran)) == OURS
    for check in rows(ran).values():
        assert check["core"] is check["healthy"] is True
        assert check["finding"].splitlines() == [check["finding"]] != [""]
    assert "torch" in rows(ran)["packages"]["finding"]
    text = run("doctor")
    assert text.code == 0
    assert all(f"\n{name} " in text.out for name in OURS)


def test_nothing_is_changed(run: Any, home: Path) -> None:
    """The doctor does not even make the cache's folder."""
    assert "made at the first fetch" in rows(run("doctor", "--json"))["cache"]["finding"]
    assert not home.exists()


# --- the core -------------------------------------------------------------------------------


def test_damaged_cache(run: Any, home: Path) -> None:
    """A flipped bit in the cache is found, named, and fails."""
    m = Multiplier.from_table([[64, 1], [2, 3]], name="small")
    store = Store()
    store.put(m)
    sound = rows(run("doctor", "--json"))["cache"]
    assert sound["healthy"]
    assert "1 id(s), 1 table(s)" in sound["finding"]
    path = store.object_path(m.identity)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    ran = run("doctor", "--json")
    assert (ran.code, ran.json["healthy"]) == (1, False)
    assert "damaged: local:small" in rows(ran)["cache"]["finding"]


def test_cache_that_cannot_be_written(
    run: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that cannot be made or written, or is a file, fails and says what to do."""
    monkeypatch.setattr(health.os, "access", lambda path, mode: False)
    for make in (lambda: None, home.mkdir):
        make()
        ran = run("doctor", "--json")
        assert ran.code == 1
        assert "APPROXHUB_HOME" in rows(ran)["cache"]["finding"]
    home.rmdir()
    home.write_text("")
    assert "is not a folder" in rows(run("doctor", "--json"))["cache"]["finding"]


@pytest.mark.parametrize(("built", "code"), [(False, 0), (True, 1)])
def test_no_engine(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, built: bool, code: int
) -> None:
    """An engine that was not built is told and no failure; one that does not load is one."""

    def missing() -> None:
        raise BackendUnavailableError("install a C compiler")

    (tmp_path / "_native").mkdir()
    if built:
        (tmp_path / "_native" / "libapproxhub_cpu.so").touch()
    monkeypatch.setattr(native, "load_library", missing)
    monkeypatch.setattr(health.importlib.resources, "files", lambda package: tmp_path)
    ran = run("doctor", "--json")
    assert ran.code == code
    assert "reference serves: install a C compiler" in rows(ran)["cpu-engine"]["finding"]


def _require_engine() -> None:
    try:
        native.load_library()
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("wrong", ["sum", "turned"])
def test_wrong_engine(run: Any, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """An engine that is off by one, or takes the operands the other way round, fails."""
    _require_engine()
    right, prepare = CpuBackend.gemm, CpuBackend.prepare

    def off_by_one(*args: Any) -> Any:
        out = right(*args)
        out[-1, -1] += 1
        return out

    def turned(self: Any, m: Multiplier, device: Any) -> Any:
        if not m.is_commutative:
            m = Multiplier.from_table(
                np.ascontiguousarray(m.table.T), name="t", a_signed=True, b_signed=True
            )
        return prepare(self, m, device)

    if wrong == "sum":
        monkeypatch.setattr(CpuBackend, "gemm", off_by_one)
    else:
        monkeypatch.setattr(CpuBackend, "prepare", turned)
    ran = run("doctor", "--json")
    assert ran.code == 1
    assert "wrong sums on scalar" in rows(ran)["cpu-engine"]["finding"]
    assert "FAILED" in run("doctor").out


def test_instruction_set_that_is_not_there(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forced instruction set that this machine lacks fails; one that it has is told."""
    _require_engine()
    monkeypatch.setenv("APPROXHUB_CPU_ISA", "scalar")
    assert "in use: scalar (forced)" in rows(run("doctor", "--json"))["cpu-engine"]["finding"]
    monkeypatch.setenv("APPROXHUB_CPU_ISA", "abacus")
    ran = run("doctor", "--json")
    assert ran.code == 1
    assert "unset it" in rows(ran)["cpu-engine"]["finding"]


def test_packages(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is missing or too old fails; extras, and a source tree, do not count."""
    required = ["numpy>=1.26", "torch >=2.8", "pluggy>=99.1", "nope>=2; extra == 'demo'"]
    monkeypatch.setattr(metadata, "requires", lambda name: required)
    ran = run("doctor", "--json")
    assert ran.code == 1
    finding = rows(ran)["packages"]["finding"]
    assert "too old: pip install 'pluggy>=99.1'" in finding
    assert "nope" not in finding
    required[2:] = ["nope[x]>=2.1,<3"]
    assert "nope is missing" in rows(run("doctor", "--json"))["packages"]["finding"]

    def unknown(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", unknown)
    assert rows(run("doctor", "--json"))["packages"]["healthy"]


def test_torch_that_cannot_be_imported(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch every check that needs it fails by itself, and the others still run."""
    monkeypatch.setitem(sys.modules, "torch", None)
    ran = run("doctor", "--json")
    assert ran.code == 1
    found = rows(ran)
    assert set(found) == OURS
    assert not found["packages"]["healthy"]
    assert "torch" in found["packages"]["finding"]
    assert found["python"]["healthy"]


# --- plug-ins -------------------------------------------------------------------------------


def _raise(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (lambda: _raise(ValueError("two\nlines")), "ValueError: two lines"),
        (lambda: sys.exit(3), "SystemExit: 3"),
        (lambda: None, "TypeError"),
        (lambda: (1, "well"), "its run() returned (1, 'well')"),
        (lambda: (True, None), "its run() returned"),
        (lambda: (True,), "ValueError"),
        (lambda: (False, "ill\n"), "ill"),
        ("no function", "TypeError"),
    ],
)
def test_a_check_that_fails(run: Any, result: Any, said: str) -> None:
    """A plug-in's check that fails, in whatever way, is a row; the core is healthy all the same."""
    offer(HealthCheck("mine", result), HealthCheck("fine", lambda: (True, "well")))
    ran = run("doctor", "--json")
    assert (ran.code, ran.json["healthy"]) == (0, True)
    found = rows(ran)
    assert said in found["mine"]["finding"]
    assert "\n" not in found["mine"]["finding"]
    assert (found["mine"]["healthy"], found["mine"]["core"]) == (False, False)
    assert found["fine"]["finding"] == "well"
    assert run("doctor").code == 0


def test_a_check_that_prints(run: Any) -> None:
    """What a check prints does not get between the report's lines."""

    def prints() -> tuple[bool, str]:
        print("noise")
        return True, "well"

    offer(HealthCheck("loud", prints))
    ran = run("doctor", "--json")
    assert rows(ran)["loud"]["finding"] == "well"
    assert "noise" in ran.err


def test_a_check_of_our_name(run: Any) -> None:
    """A plug-in cannot replace one of our checks, nor fail in its place."""
    offer(HealthCheck("python", lambda: (False, "mine")))
    ran = run("doctor", "--json")
    assert ran.code == 0
    assert "mine" not in rows(ran)["python"]["finding"]
    assert "'python' is offered by" in ran.json["plugins"][0]["error"]


def test_every_hook_raises(run: Any) -> None:
    """With a plug-in all of whose hooks raise, the doctor works, and says the cause."""

    def hook(name: str) -> Any:
        arguments = "cli" if name == "approxhub_commands" else ""
        return eval(f"lambda {arguments}: fail()", {"fail": lambda: _raise(OSError("broken"))})

    names = [n for n in vars(hookspecs) if n.startswith("approxhub_")]
    broken = SimpleNamespace(**{n: hookimpl(hook(n)) for n in names})
    host().register(broken, "broken")
    ran = run("doctor", "--json")
    assert ran.code == 0
    assert set(rows(ran)) == OURS
    (row,) = ran.json["plugins"]
    assert row["name"] == "broken"
    assert "OSError: broken" in row["error"]


def test_the_host_fails(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a failure of a plug-in is raised instead of listed, the core is still checked."""

    def strict() -> Any:
        raise PluginError("plug-in mine: broken")

    monkeypatch.setattr(plugins, "host", strict)
    ran = run("doctor", "--json")
    found = rows(ran)
    assert set(found) == OURS
    assert found["python"]["healthy"]
    assert ran.json["plugins"][0]["error"] == "PluginError: plug-in mine: broken"
