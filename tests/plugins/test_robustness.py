"""Plug-ins at their worst, installed: what the guard holds off, and what it cannot."""

from __future__ import annotations

import importlib
import json
import re
import signal
import subprocess
import sys
import textwrap

import pytest

hosting = importlib.import_module("approxhub.plugins.host")

EIGHT = {
    "imports": "import no_such_module",
    "exits": "raise SystemExit(3)",
    "api": """\
        @hookimpl
        def approxhub_backends():
            return [BackendInfo('api', 'cpu', load, api_version=99)]
        """,
    "signature": """\
        @hookimpl
        def approxhub_backends(device):
            return []
        """,
    "unknown_hook": """\
        @hookimpl
        def approxhub_accelerators():
            return []
        """,
    "raises": """\
        @hookimpl
        def approxhub_backends():
            raise RuntimeError('boom')
        """,
    "one": """\
        @hookimpl
        def approxhub_backends():
            return [BackendInfo('twin', 'cpu', load)]
        """,
    "two": """\
        @hookimpl
        def approxhub_backends():
            return [BackendInfo('twin', 'cpu', load)]
        """,
}

DEMO = """\
    import json
    from approxhub import demo

    demo._EPOCHS = demo._RETRAIN_EPOCHS = 1
    rows = demo.run_demo(["exact:8s", "drum:8s/k=3"]).to_json()["rows"]
    print(json.dumps(rows))
    """


@pytest.mark.slow
def test_the_demonstration_gives_the_same_with_eight_broken_plugins(site):
    """Eight plug-ins, broken in eight ways, change no number of a (short) demonstration."""
    code = textwrap.dedent(DEMO)
    clean = site.python("-c", code)
    assert clean.returncode == 0, clean.stderr
    for name, text in EIGHT.items():
        site.add(name, text)
    broken = site.python("-c", code)
    assert broken.returncode == 0, broken.stderr
    assert json.loads(broken.stdout) == json.loads(clean.stdout)
    assert {row["multiplier"] for row in json.loads(broken.stdout)} >= {"drum:8s/k=3"}
    done = site.python("-m", "approxhub.cli", "plugins", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert set(rows) == set(EIGHT)
    table = site.python("-m", "approxhub.cli", "plugins").stdout
    assert all(re.search(rf"^{name} +1\.5 +failed +\S", table, re.MULTILINE) for name in EIGHT), (
        table
    )
    assert all(row["state"] == "failed" and row["error"] for row in rows.values())
    assert len({row["error"] for row in rows.values()}) == 7  # the twins share theirs


WRONG = """\
class Wrong:
    def unavailable_reason(self): return None
    def supports(self, request):
        # Little is enough to be found out, and quicker.
        return request.multiplier.has_table and request.m * request.k * request.n < 300
    def cost(self, request): return 1.0
    def prepare(self, multiplier, device, weight_codes=None):
        import torch
        return torch.tensor(multiplier.table.T.copy()), multiplier.a.size - 1, multiplier.b.size - 1
    def gemm(self, a, b, prepared, dtype):
        table, a_mask, b_mask = prepared
        return table[(a.long() & a_mask).unsqueeze(-1), b.long() & b_mask].sum(-2, dtype=dtype)


@hookimpl
def approxhub_backends():
    return [BackendInfo("wrong", "cpu", Wrong)]
"""


@pytest.mark.slow
def test_the_kit_catches_a_backend_of_wrong_numbers(site):
    """An installed backend that reads its table the other way round fails, and is told why."""
    site.add("wrong", WRONG)
    done = site.python("-m", "approxhub.cli", "conformance", "wrong", "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    failed = [test for test in report["tests"] if test["outcome"] == "failed"]
    assert report["failed"] == len(failed) > 5
    assert any("T[b, a]" in test["message"] for test in failed)
    assert all(test["clause"] for test in failed)


@pytest.mark.slow
def test_a_backend_that_kills_the_process_is_a_failed_test(site):
    """A crash of native code takes the kit's process with it, and not the report."""
    start = "    def supports(self, request):\n"
    assert start in WRONG
    site.add("wrong", WRONG.replace(start, f"{start}        import os; os._exit(42)\n"))
    done = site.python("-m", "approxhub.cli", "conformance", "wrong", "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    (last,) = [test for test in report["tests"] if "exit status 42" in (test["message"] or "")]
    assert last["outcome"] == "failed"
    assert last["test"].startswith("test_")


# --- an import that never ends ----------------------------------------------------------------

ENDLESS = "import time\nwhile True: time.sleep(0.1)"


def test_an_import_that_never_ends_can_be_left_out(site):
    """Without importing any, all are listed by name; then the one that hangs is left out."""
    site.add("endless", ENDLESS)
    site.add(
        "good", "@hookimpl\ndef approxhub_backends(): return [BackendInfo('good', 'cpu', load)]"
    )
    names = {}
    for disabled in ("all", "endless"):
        done = site.python(
            "-m", "approxhub.cli", "plugins", "--json", APPROXHUB_DISABLE_PLUGINS=disabled
        )
        assert done.returncode == 0, done.stderr
        names[disabled] = {row["name"]: row["state"] for row in json.loads(done.stdout)}
    assert names["all"] == {"endless": "disabled", "good": "disabled"}
    assert names["endless"] == {"endless": "disabled", "good": "ok"}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("import time; time.sleep(0.5)", "its import"),
        (
            "import time\n@hookimpl\ndef approxhub_backends(): time.sleep(0.5); return []",
            "approxhub_backends",
        ),
    ],
)
def test_what_takes_long_is_named(text, what, site, monkeypatch, caplog):
    """Whose import or hook takes long is said while it does, and how to leave it out."""
    monkeypatch.setattr(hosting, "_PATIENCE", 0.1)
    site.add("slow", text)
    site.add("quick")
    assert site.rows()["slow"].state == "ok"
    (said,) = caplog.messages
    assert said.startswith(f"plug-in slow: {what} has taken 0.1 s so far")
    assert said.endswith("APPROXHUB_DISABLE_PLUGINS=slow")


def test_an_import_that_never_ends_can_be_interrupted(site):
    """The guard cannot end it; an interrupt does, and the traceback says whose import it was."""
    site.add("endless", "print('importing', flush=True)\n" + ENDLESS)
    process = subprocess.Popen(
        # A shell starts what runs in its background with interrupts ignored.
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, "
         "signal.default_int_handler); import approxhub.plugins as p; p.host()"],
        env=site.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in stderr
    assert "plugin_endless.py" in stderr


# --- a plug-in that is gone ---------------------------------------------------------------------

LAB = """\
from approxhub.plugins import MultiplierSource


def entries():
    from approxhub import OperandFormat
    from approxhub.registry import Entry

    f = OperandFormat(4, signed=True)
    return [Entry("mylab:or1", f, f)]


def fetch(path, context):
    import approxhub as ah

    made = ah.Multiplier.from_function(lambda a, b: (a * b) | 1, name="or1", a="4s", b="4s")
    return ah.Multiplier("mylab:or1", made.a, made.b, table=made.table)


@hookimpl
def approxhub_multiplier_sources():
    return [MultiplierSource("mylab", entries, fetch)]
"""

SAVE = """\
    import sys, torch, approxhub as ah

    torch.manual_seed(0)
    net = ah.approximate(torch.nn.Sequential(torch.nn.Linear(3, 2)), "mylab:or1")
    x = torch.arange(6.0).reshape(2, 3)
    net(x)
    net.eval()
    torch.save(net.state_dict(), sys.argv[1] + "/state.pt")
    torch.save(net, sys.argv[1] + "/net.pt")
    print(net(x).tolist())
    """

LOAD = """\
    import sys, torch, approxhub as ah

    net = torch.load(sys.argv[1] + "/net.pt", weights_only=False)
    print(net(torch.arange(6.0).reshape(2, 3)).tolist())
    other = ah.approximate(torch.nn.Sequential(torch.nn.Linear(3, 2)), "exact:4s").eval()
    other.load_state_dict(torch.load(sys.argv[1] + "/state.pt"))
    assert torch.equal(other[0].weight, net[0].weight)
    try:
        ah.load("mylab:or1")
    except ah.ApproxHubError as error:
        print(type(error).__name__, error)
    """


@pytest.mark.slow
def test_a_plugin_that_is_removed_while_a_checkpoint_names_it(site, tmp_path):
    """The model runs from the cache, its weights load elsewhere, its id says what is missing."""
    site.add("mylab", LAB)
    saved = site.python("-c", textwrap.dedent(SAVE), str(tmp_path))
    assert saved.returncode == 0, saved.stderr
    for file in (site.folder / "plugin_mylab.py", *site.folder.glob("mylab-*/*")):
        file.unlink()
    loaded = site.python("-c", textwrap.dedent(LOAD), str(tmp_path))
    assert loaded.returncode == 0, loaded.stderr
    sums, error = loaded.stdout.splitlines()
    assert sums == saved.stdout.strip()
    assert error.startswith("UnknownMultiplierError no source is called 'mylab'")
    assert "checkpoint was made with multiplier mylab:or1" in loaded.stderr
