"""Plug-ins as they are installed: the good ones take part, each bad one is a row with its cause."""

from __future__ import annotations

import inspect
import json
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from types import SimpleNamespace

import click
import pytest
import torch
from click.testing import CliRunner

import approxhub as ah
from approxhub.backends import available_backends
from approxhub.cli import cli
from approxhub.errors import ApproxHubError, NotFoundError, PluginError
from approxhub.plugins import (
    BackendInfo,
    CalibratorInfo,
    GradientInfo,
    HealthCheck,
    LayerConverter,
    MultiplierSource,
    PluginHost,
    TableFormat,
    hookimpl,
    hookspecs,
    host,
    reset_host,
)

BACKENDS = "approxhub_backends"

GOOD = """\
@hookimpl
def approxhub_backends():
    return [BackendInfo("good", "cpu", load)]
"""


def _hook(body: str, name: str = BACKENDS, arguments: str = "") -> str:
    return f"@hookimpl\ndef {name}({arguments}):\n    {body}\n"


# How a plug-in can be wrong: its text, and what its row says.
BROKEN = {
    "imports": ("import no_such_module", "import failed: ModuleNotFoundError: No module named 'no"),
    "syntax": ("def (", "import failed: SyntaxError"),
    "exits": ("raise SystemExit(3)", "import failed: SystemExit: 3"),
    "odd_exception": (
        "class Odd(BaseException): pass\nraise Odd('odd')",
        "import failed: Odd: odd",
    ),
    "mute_exception": (
        "class Mute(Exception):\n    def __str__(self): raise KeyError\nraise Mute",
        "import failed: Mute",
    ),
    "asks_too_early": (
        "from approxhub.plugins import host\nhost()",
        "import failed: PluginError: plug-ins are still being imported",
    ),
    "computes_too_early": (
        "import approxhub\napproxhub.load('exact:8s')",
        "import failed: PluginError: plug-ins are still being imported",
    ),
    "api": (
        _hook("return [BackendInfo('api', 'cpu', load, api_version=99)]"),
        "PluginError: api is written for plug-in API 99, this is 1",
    ),
    "signature": (_hook("return []", arguments="device"), "device"),
    "unknown_hook": (_hook("return []", "approxhub_accelerators"), "unknown hook approxhub_accel"),
    "raises": (_hook("raise RuntimeError('boom')"), "RuntimeError: boom"),
    "exits_later": (_hook("raise SystemExit"), "SystemExit"),
    "wrong_records": (
        _hook("return ['gpu']"),
        "approxhub_backends must return BackendInfo records, got 'gpu'",
    ),
    "no_list": (_hook("return 42"), "TypeError: 'int' object is not iterable"),
    "raises_midway": (
        _hook("yield BackendInfo('raises_midway', 'cpu', load); raise OSError('half')"),
        "OSError: half",
    ),
    "no_name": (_hook("return [BackendInfo('', 'cpu', load)]"), "has no name"),
    "name_is_none": (_hook("return [BackendInfo(None, 'cpu', load)]"), "has no name"),
    "no_priority": (
        _hook("return [BackendInfo('no_priority', 'cpu', load, priority='high')]"),
        "is not an integer",
    ),
    "twice": (
        _hook("return [BackendInfo('twice', 'cpu', load)] * 2"),
        "'twice' is offered by twice and twice",
    ),
    "built_in": (
        _hook("return [BackendInfo('reference', 'cpu', load)]"),
        "'reference' is offered by approxhub and built_in",
    ),
    "endless": (
        _hook(
            "from approxhub.plugins import host; return host().all('approxhub_backends', object)"
        ),
        "PluginError: approxhub_backends was asked for while plug-ins were answering it",
    ),
}


def works() -> bool:
    """Whether the core does its job."""
    a = torch.tensor([[2, -3]])
    return ah.matmul(a, a.t(), ah.load("exact:8s")).item() == 13


def backend(name: str) -> BackendInfo:
    """A backend by name."""
    return host().get(BACKENDS, BackendInfo, name)


def backends() -> list[str]:
    """Names of all backends."""
    return [info.name for info in host().all(BACKENDS, BackendInfo)]


# --- one bad plug-in ------------------------------------------------------------------------


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_a_row_with_its_cause(name, site):
    """Whatever it does, the plug-in has a row, the next one takes part, and the core works."""
    text, cause = BROKEN[name]
    site.add(name, text)
    site.add("zz_good", GOOD)
    assert works()
    rows = site.rows()
    assert (rows[name].state, rows[name].version) == ("failed", "1.5")
    assert cause in rows[name].error
    assert host().plugin_error(name) == rows[name].error
    assert (rows["zz_good"].state, rows["zz_good"].error) == ("ok", None)
    assert "good" in backends()
    assert "reference" in backends()


@pytest.mark.parametrize("name", [n for n in BROKEN if n not in ("built_in", "twice")])
def test_asking_for_it_by_name_raises_with_the_cause(name, site):
    """Asked for what it would have offered, under any name, the error has the cause."""
    site.add(name, BROKEN[name][0])
    cause = re.escape(BROKEN[name][1])
    with pytest.raises(PluginError, match=f"'{name}' is not available: .*{cause}"):
        backend(name)
    with pytest.raises(NotFoundError, match=f"'other'.* {name} \\(.*{cause}"):
        backend("other")


def test_asking_for_a_clash_raises_with_the_cause(site):
    """A name that is offered twice is refused with both; the built-in one is still ours."""
    site.add("twice", BROKEN["twice"][0])
    site.add("built_in", BROKEN["built_in"][0])
    with pytest.raises(PluginError, match="'twice' is offered by twice and twice"):
        backend("twice")
    assert host().plugin_error("twice") == f"{BACKENDS}: 'twice' is offered by twice and twice"
    assert backend("reference").device_type == "any"


@pytest.mark.parametrize(
    ("text", "value", "state"),
    [
        ("", "plugin_x:nothing", "failed"),
        ("", "plugin x!", "failed"),
        ("thing = object()", "plugin_x:thing", "ok"),
    ],
)
def test_entry_points_that_name_something_else(text, value, state, site):
    """A missing attribute or a malformed value is a row; any object may be a plug-in."""
    site.add("x", text, value=value, module="plugin_x")
    row = site.rows()["x"]
    assert row.state == state
    assert (row.error is None) == (state == "ok")


def test_an_object_may_be_the_plugin(site):
    """An entry point may name an object whose methods are hooks."""
    site.add(
        "thing",
        """\
        class Plugin:
            @hookimpl
            def approxhub_backends(self):
                return [BackendInfo("mine", "cpu", load)]

        plugin = Plugin()
        """,
        value="plugin_thing:plugin",
    )
    assert "mine" in backends()


def test_entry_points_that_cannot_be_read(site):
    """A malformed entry_points.txt is a row; it hides no other plug-in."""
    site.add("torn", entry_points="[approxhub]\nno equals sign\n")
    site.add("good", GOOD)
    rows = site.rows()
    assert rows["torn"].state == "failed"
    assert "entry points cannot be read" in rows["torn"].error
    assert rows["good"].state == "ok"
    assert "good" in backends()
    assert works()


def test_others_entry_points_that_cannot_be_read(site):
    """If the malformed file is not about ApproxHub, it is no row of ours."""
    site.add("torn", entry_points="[console_scripts]\nno equals sign\n")
    site.add("good", GOOD)
    rows = site.rows()
    assert "torn" not in rows
    assert rows["good"].state == "ok"


def test_half_uninstalled(site):
    """Without METADATA and module the plug-in is a row without a version."""
    site.add("gone", metadata=False)
    (site.folder / "plugin_gone.py").unlink()
    row = site.rows()["gone"]
    assert row.state == "failed"
    assert "plugin_gone" in row.error
    assert works()


@pytest.mark.parametrize("text", ["raise KeyboardInterrupt", _hook("raise KeyboardInterrupt")])
def test_ctrl_c_passes(text, site):
    """KeyboardInterrupt, at import or in a hook, is the user's and interrupts."""
    site.add("slow", text)
    with pytest.raises(KeyboardInterrupt):
        host().status()


# --- several ----------------------------------------------------------------------------------


def test_the_core_works_with_all_of_them_broken(site):
    """With every broken plug-in installed the command line shows each cause, and exits with 0."""
    for name, (text, _) in BROKEN.items():
        site.add(name, text)
    site.add("commands", _hook("raise OSError('no commands')", "approxhub_commands", "cli"))
    site.add("good", GOOD)
    done = site.python("-m", "approxhub.cli", "plugins", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    for name, (_, cause) in BROKEN.items():
        assert rows[name]["state"] == "failed"
        assert cause in rows[name]["error"]
    assert rows["commands"]["error"] == "approxhub_commands: OSError: no commands"
    assert rows["good"] == {"name": "good", "state": "ok", "error": None, "version": "1.5"}
    assert works()
    done = CliRunner().invoke(cli, ["backends", "--json"])
    assert done.exit_code == 0, done.stderr
    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert found["reference"]["available"] is found["good"]["available"] is True


def test_two_plugins_of_one_name(site):
    """Order never decides: neither is imported, both have a row that names the clash."""
    for value in ("plugin_one", "plugin_two"):
        site.add("twin", GOOD, module=value, project=f"dist_{value}")
    rows = site.rows()
    for value in ("plugin_one", "plugin_two"):
        assert rows[f"twin ({value})"].state == "failed"
        assert "another plug-in is called 'twin' too" in rows[f"twin ({value})"].error
        assert value not in sys.modules
    with pytest.raises(ApproxHubError, match="another plug-in is called 'twin' too"):
        backend("good")


def test_one_plugin_found_twice(site):
    """The same entry point in two places, as after an editable install, is one plug-in."""
    for project in ("mine", "mine_too"):
        site.add("mine", GOOD, project=project)
    assert site.rows()["mine"].state == "ok"


def test_one_module_under_two_names(site):
    """A module that is offered under two names takes part once."""
    site.add("aaa", GOOD, module="plugin_shared")
    site.add("bbb", GOOD, module="plugin_shared")
    rows = site.rows()
    assert [rows["aaa"].state, rows["bbb"].state] == ["ok", "failed"]
    assert "good" in backends()


def test_our_own_name_is_taken(site):
    """A plug-in called approxhub is refused; the built-in one stays."""
    site.add("approxhub", GOOD, module="plugin_usurper", project="usurper")
    row = site.rows()["approxhub (plugin_usurper)"]
    assert row.state == "failed"
    assert "plugin_usurper" not in sys.modules
    assert "reference" in backends()


@pytest.mark.parametrize("names", [("aaa", "bbb"), ("bbb", "aaa")])
def test_two_backends_of_one_name(names, site):
    """Both plug-ins have a row that names both, and the backend is not there."""
    for name in names:
        site.add(name, GOOD)
    rows = site.rows()
    for name in names:
        assert rows[name].error == f"{BACKENDS}: 'good' is offered by aaa and bbb"
    assert "good" not in backends()
    with pytest.raises(PluginError, match="'good' is offered by aaa and bbb"):
        backend("good")


def _converter(priority: int, source: str = "torch.nn.modules.linear.Linear") -> str:
    return (
        "from approxhub.plugins import LayerConverter\n"
        f"def convert(layer, multiplier, **options): return {priority}\n"
        + _hook(f"return [LayerConverter({source!r}, convert, {priority})]", "approxhub_converters")
    )


def test_the_converter_of_highest_priority_wins(site):
    """Converters of one layer type go by priority, ours among them."""
    site.add("low", _converter(1))
    site.add("high", _converter(2))
    assert [site.rows()[name].state for name in ("low", "high")] == ["ok", "ok"]
    source = "torch.nn.modules.linear.Linear"
    found = host().get("approxhub_converters", LayerConverter, source)
    assert found.convert(None, None) == 2


def test_converters_of_equal_priority_clash(site):
    """Of two converters with one priority neither is taken, and both are told."""
    site.add("one", _converter(3, "lib.Layer"))
    site.add("two", _converter(3, "lib.Layer"))
    rows = site.rows()
    assert rows["one"].error == rows["two"].error
    assert "'lib.Layer' is offered by one and two" in rows["one"].error
    known = [c.source_type for c in host().all("approxhub_converters", LayerConverter)]
    assert "lib.Layer" not in known


def test_a_plugin_that_fails_in_one_hook_keeps_the_others(site):
    """What a plug-in offers through its other hooks stays."""
    site.add("half", GOOD + _hook("raise OSError('no formats')", "approxhub_formats"))
    row = site.rows()["half"]
    assert (row.state, row.error) == ("ok", "approxhub_formats: OSError: no formats")
    assert "good" in backends()
    with pytest.raises(NotFoundError, match=r"not \(fully\) take part: half \(approxhub_formats"):
        host().get("approxhub_formats", TableFormat, "nobody")


def test_a_plugin_whose_records_clash_in_part_takes_part(site):
    """One refused record is told in the row; the state stays ok for the others."""
    infos = "[BackendInfo('mine', 'cpu', load), BackendInfo('reference', 'cpu', load)]"
    site.add("part", _hook(f"return {infos}"))
    row = site.rows()["part"]
    assert row.state == "ok"
    assert "'reference' is offered by approxhub and part" in row.error
    assert "mine" in backends()


def test_a_failure_names_its_hook(site):
    """The cause of a hook that raises says which hook it was."""
    site.add("raises", BROKEN["raises"][0])
    assert site.rows()["raises"].error == f"{BACKENDS}: RuntimeError: boom"


@pytest.mark.parametrize("name", ["boo", "approxhub", "Error", "run"])
def test_a_part_of_a_cause_is_no_name(name, site):
    """A plug-in is blamed for a name that its cause mentions, not for a part of a word."""
    site.add("raises", BROKEN["raises"][0])
    with pytest.raises(NotFoundError):
        backend(name)


# --- switches ---------------------------------------------------------------------------------


def test_disabled_by_name(site, monkeypatch):
    """APPROXHUB_DISABLE_PLUGINS names plug-ins that are not even imported."""
    site.add("good", GOOD)
    site.add("exits", BROKEN["exits"][0])
    site.add("other", "")
    monkeypatch.setenv("APPROXHUB_DISABLE_PLUGINS", "good, exits")
    rows = site.rows()
    assert [rows[n].state for n in ("good", "exits", "other")] == ["disabled", "disabled", "ok"]
    assert "plugin_good" not in sys.modules
    with pytest.raises(PluginError, match=r"'good' is not available: .*APPROXHUB_DISABLE_PLUGINS"):
        backend("good")


def test_all_disabled(site, monkeypatch):
    """'all' leaves the built-in ones."""
    site.add("good", GOOD)
    monkeypatch.setenv("APPROXHUB_DISABLE_PLUGINS", "all")
    assert {row.state for row in site.rows().values()} == {"disabled"}
    assert "good" not in backends()
    assert works()


def test_twins_can_be_disabled(site, monkeypatch):
    """A name that two plug-ins have can be disabled as any other, also when strict."""
    for value in ("plugin_one", "plugin_two"):
        site.add("twin", GOOD, module=value, project=f"dist_{value}")
    monkeypatch.setenv("APPROXHUB_DISABLE_PLUGINS", "twin")
    monkeypatch.setenv("APPROXHUB_STRICT_PLUGINS", "1")
    assert {row.state for n, row in site.rows().items() if "twin" in n} == {"disabled"}


@pytest.mark.parametrize("name", [n for n in BROKEN if n != "endless"])
def test_strict_raises(name, site, monkeypatch):
    """APPROXHUB_STRICT_PLUGINS=1 raises the first failure, with its cause."""
    site.add(name, BROKEN[name][0])
    monkeypatch.setenv("APPROXHUB_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=f"plug-in {name}: .*{re.escape(BROKEN[name][1])}"):
        host().status()


def test_strict_keeps_the_exception(site, monkeypatch):
    """The exception that strict raises has the plug-in's own as its cause."""
    site.add("imports", BROKEN["imports"][0])
    monkeypatch.setenv("APPROXHUB_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError) as caught:
        host()
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    monkeypatch.setenv("APPROXHUB_STRICT_PLUGINS", "0")
    assert site.rows()["imports"].state == "failed"


# --- laziness -----------------------------------------------------------------------------------


def test_discovery_imports_nothing_heavy(site):
    """Finding all plug-ins and what they offer imports no torch, h5py, requests or pycparser."""
    site.add("good", GOOD)
    done = site.python(
        "-c",
        "import sys\n"
        "import approxhub, approxhub.plugins\n"
        "assert 'plugin_good' not in sys.modules\n"
        "rows = approxhub.plugins.host().status()\n"
        "assert [r.state for r in rows if r.name == 'good'] == ['ok'], rows\n"
        "assert 'plugin_good' in sys.modules\n"
        "heavy = ('torch', 'h5py', 'requests', 'pycparser', 'sklearn', 'matplotlib', 'pytest')\n"
        "print([name for name in heavy if name in sys.modules])\n",
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_load_is_not_called_by_discovery(site):
    """A load() that raises is no failure of the plug-in, only its backend's unavailability."""
    site.add("lazy", _hook("return [BackendInfo('lazy', 'cpu', lambda: 1 / 0)]"))
    assert site.rows()["lazy"].state == "ok"
    reasons = {info.name: reason for info, reason in available_backends()}
    assert reasons["lazy"] == "ZeroDivisionError: division by zero"
    assert reasons["reference"] is None
    assert site.rows()["lazy"].error is None
    assert works()


def test_plugins_are_found_once_and_anew_after_a_reset(site):
    """host() is one object until reset_host(); then what is installed now is found."""
    before = host()
    site.add("good", GOOD)
    assert host() is before
    assert "good" not in backends()
    reset_host()
    assert host() is not before
    assert "good" in backends()


def test_many_threads_find_one_host(site):
    """Threads that ask at a time get one host, and each hook is called once."""
    site.add("slow", "import time\ntime.sleep(0.1)\ncalls = []\n" + _hook("calls.append(1)"))
    with ThreadPoolExecutor(8) as pool:
        hosts = list(pool.map(lambda _: (host(), host().all(BACKENDS, BackendInfo))[0], range(16)))
    assert len({id(h) for h in hosts}) == 1
    assert sys.modules["plugin_slow"].calls == [1]


def test_another_thread_waits_for_discovery(site):
    """A thread that asks while plug-ins are imported gets the host, not an error."""
    site.add("slow", "import time\ntime.sleep(0.3)")
    first = threading.Thread(target=host)
    first.start()
    time.sleep(0.1)
    assert "slow" in {row.name for row in host().status()}
    first.join()


# --- hooks ----------------------------------------------------------------------------------------

EVERY_HOOK = """\
import click

from approxhub.plugins import (
    CalibratorInfo,
    GradientInfo,
    HealthCheck,
    LayerConverter,
    MultiplierSource,
    TableFormat,
)


@hookimpl
def approxhub_backends():
    return [BackendInfo("every", "cpu", load)]


def fetch(path, context):
    import approxhub

    return approxhub.Multiplier.from_table([[64, 2], [3, 4]], name="every")


@hookimpl
def approxhub_multiplier_sources():
    return [MultiplierSource("every", list=lambda: [], fetch=fetch, cache=False)]


@hookimpl
def approxhub_formats():
    return (TableFormat("every", (".every",), lambda head: head == b"every"),)


@hookimpl
def approxhub_converters():
    yield LayerConverter("every.Layer", lambda layer, multiplier: layer)


@hookimpl
def approxhub_gradients():
    return [GradientInfo("every", object)]


@hookimpl
def approxhub_calibrators():
    return [CalibratorInfo("every", lambda: object)]


@hookimpl
def approxhub_commands(cli):
    @cli.command("every")
    def every():
        \"\"\"Say so.\"\"\"
        click.echo("every command")


@hookimpl
def approxhub_checks():
    return [HealthCheck("every", lambda: (True, "healthy"))]
"""

KINDS = {
    "approxhub_backends": (BackendInfo, "every"),
    "approxhub_multiplier_sources": (MultiplierSource, "every"),
    "approxhub_formats": (TableFormat, "every"),
    "approxhub_converters": (LayerConverter, "every.Layer"),
    "approxhub_gradients": (GradientInfo, "every"),
    "approxhub_calibrators": (CalibratorInfo, "every"),
    "approxhub_checks": (HealthCheck, "every"),
}

NOUNS = {
    "approxhub_backends": "backend",
    "approxhub_multiplier_sources": "multiplier source",
    "approxhub_formats": "table format",
    "approxhub_converters": "layer converter",
    "approxhub_gradients": "gradient",
    "approxhub_calibrators": "calibrator",
    "approxhub_checks": "health check",
}


def _hooks() -> set[str]:
    return {n for n, f in vars(hookspecs).items() if n.startswith("approxhub_") and callable(f)}


def test_every_hook_is_implemented_here():
    """The plug-in of these tests implements all hooks that there are."""
    assert (
        _hooks() == {*KINDS, "approxhub_commands"} == set(re.findall(r"approxhub_\w+", EVERY_HOOK))
    )


@pytest.mark.parametrize("hook", KINDS)
def test_every_hook_is_heard(hook, site):
    """What an installed plug-in returns from a hook can be had by kind and by name."""
    site.add("every", EVERY_HOOK)
    kind, name = KINDS[hook]
    record = host().get(hook, kind, name)
    assert isinstance(record, kind)
    assert record in host().all(hook, kind)
    with pytest.raises(NotFoundError, match=f"no {NOUNS[hook]} is called 'nobody'; known: .*ever"):
        host().get(hook, kind, "nobody")


def test_what_plugins_bring_is_used(site):
    """A backend runs, a source is fetched from, a command is on the command line."""
    site.add("every", EVERY_HOOK)
    one = torch.ones(1, 1).int()
    with ah.use_backend("every"):
        assert ah.matmul(one, one, ah.load("every:thing")).item() == 4
    done = site.python("-m", "approxhub.cli", "every")
    assert (done.returncode, done.stdout) == (0, "every command\n"), done.stderr


def test_commands_that_fail_are_rows(site):
    """A plug-in whose commands fail is a row; commands of the others are there."""
    site.add("every", EVERY_HOOK)
    site.add("bad", _hook("raise OSError('no commands')", "approxhub_commands", "cli"))
    group = click.Group()
    host().add_commands(group)
    assert "every" in group.commands
    row = site.rows()["bad"]
    assert (row.state, row.error) == ("failed", "approxhub_commands: OSError: no commands")


def test_hooks_have_one_line_each():
    """Every hook says in one line what it is for, and what it returns in its annotation."""
    for name in _hooks():
        doc = inspect.getdoc(getattr(hookspecs, name))
        assert doc
        assert "\n" not in doc
        assert "return" in getattr(hookspecs, name).__annotations__


# --- by hand ----------------------------------------------------------------------------


def plugin(*names: str, **hooks) -> SimpleNamespace:
    """A plug-in that offers backends of these names."""
    infos = [BackendInfo(name, "cpu", lambda: None) for name in names]
    return SimpleNamespace(approxhub_backends=hookimpl(lambda: infos), **hooks)


def test_registering_by_hand():
    """A registered object takes part until it is unregistered."""
    assert "mine" not in backends()
    host().register(plugin("mine"), "notebook")
    assert "mine" in backends()
    assert host().plugin_error("notebook") is None
    host().unregister("notebook")
    assert "mine" not in backends()
    assert "notebook" not in {row.name for row in host().status()}


def test_registering_by_hand_is_checked():
    """A wrong signature, an unknown hook or a taken name is refused, and can be put right."""
    wrong = plugin("mine", approxhub_formats=hookimpl(lambda folder: []))
    with pytest.raises(PluginError, match=r"plug-in notebook: .*folder"):
        host().register(wrong, "notebook")
    typo = plugin("mine", approxhub_format=hookimpl(lambda: []))
    with pytest.raises(PluginError, match="unknown hook approxhub_format"):
        host().register(typo, "notebook")
    assert "mine" not in backends()
    host().register(plugin("mine"), "notebook")
    with pytest.raises(PluginError, match="another plug-in is called 'notebook'"):
        host().register(plugin("other"), "notebook")
    with pytest.raises(PluginError, match="another plug-in is called 'approxhub'"):
        host().register(plugin("other"), "approxhub")
    assert "mine" in backends()


def test_what_cannot_be_registered_or_unregistered():
    """None, a plug-in that is not there, and the built-in one are refused."""
    with pytest.raises(PluginError, match="None is no plug-in"):
        host().register(None, "notebook")
    host().register(plugin("mine"), "notebook")
    host().unregister("notebook")
    with pytest.raises(PluginError, match="no plug-in is called 'notebook'"):
        host().unregister("notebook")
    with pytest.raises(PluginError, match="'approxhub' is built in"):
        host().unregister("approxhub")
    assert works()


def test_a_hook_may_have_a_function_of_another_name():
    """pluggy's specname says which hook a function implements, and is checked as a name is."""
    infos = [BackendInfo("mine", "cpu", lambda: None)]
    offer = hookimpl(lambda: infos, specname=BACKENDS)
    host().register(SimpleNamespace(offer=offer), "notebook")
    assert "mine" in backends()
    typo = SimpleNamespace(approxhub_backends=hookimpl(lambda: infos, specname="approxhub_backend"))
    with pytest.raises(PluginError, match="unknown hook approxhub_backend"):
        host().register(typo, "typo")


def test_a_clash_ends_when_one_goes():
    """Rows tell of a clash once, and are clean again when it is over."""
    host().register(plugin("mine"), "one")
    host().register(plugin("mine"), "two")
    for _ in range(2):
        error = {row.name: row.error for row in host().status()}["one"]
        assert error == f"{BACKENDS}: 'mine' is offered by one and two"
        host().register(plugin(), "unrelated")
        host().unregister("unrelated")
    host().unregister("two")
    assert {row.name: row.state for row in host().status()}["one"] == "ok"
    assert "mine" in backends()


def test_entry_points_can_be_given():
    """A host can be made of given entry points, apart from what is installed."""
    entry = metadata.EntryPoint("given", "no_such_module_either", "approxhub")
    (row,) = PluginHost([entry]).status()
    assert (row.name, row.state, row.version) == ("given", "failed", None)
    (row,) = PluginHost([entry], disabled={"given"}).status()
    assert row.state == "disabled"
    with pytest.raises(PluginError, match="given: import failed"):
        PluginHost([entry], strict=True)
