"""Finds plug-ins, keeps each failure to itself, and hands out what the others offer.

pluggy's own loader stops at the first plug-in that raises; this one gives every plug-in a row
with its state and cause. Imports pluggy and the standard library; plug-ins are imported at the
first question, never before.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, TypeVar

import pluggy

from approxhub.errors import NotFoundError, PluginError
from approxhub.plugins import descriptors, hookspecs

__all__ = ["PluginHost", "PluginStatus", "host", "reset_host"]

GROUP = "approxhub"
BUILTIN = "approxhub"
_BUILTIN_MODULES = ("approxhub.plugins.builtin",)

T = TypeVar("T")

_log = logging.getLogger("approxhub")
_PATIENCE = 10.0
"""Seconds after which a plug-in that is still at it is named."""

_RECORDS: dict[str, type] = {
    "approxhub_backends": descriptors.BackendInfo,
    "approxhub_multiplier_sources": descriptors.MultiplierSource,
    "approxhub_formats": descriptors.TableFormat,
    "approxhub_converters": descriptors.LayerConverter,
    "approxhub_gradients": descriptors.GradientInfo,
    "approxhub_calibrators": descriptors.CalibratorInfo,
    "approxhub_checks": descriptors.HealthCheck,
}

_NOUNS = {
    "approxhub_backends": "backend",
    "approxhub_multiplier_sources": "multiplier source",
    "approxhub_formats": "table format",
    "approxhub_converters": "layer converter",
    "approxhub_gradients": "gradient",
    "approxhub_calibrators": "calibrator",
    "approxhub_checks": "health check",
}


@dataclass(slots=True)
class PluginStatus:
    """One row of ``approxhub plugins``.

    Parameters
    ----------
    name : str
        Name of the entry point.
    state : {'ok', 'failed', 'disabled'}
        Whether the plug-in takes part.
    error : str or None
        Why it does not, or what of it does not.
    version : str or None
        Version of its distribution.
    """

    name: str
    state: str = "ok"
    error: str | None = None
    version: str | None = None


def cause_of(error: BaseException) -> str:
    """Type and text of an exception, on one line."""
    try:
        text = str(error).strip().replace("\n", " ")
    except Exception:  # an exception of a plug-in's own
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def _watched(plugin: str, what: str) -> Iterator[None]:
    """Say whose turn it is if it takes long: what never ends cannot be ended from here."""
    timer = threading.Timer(
        _PATIENCE,
        _log.warning,
        (
            "plug-in %s: %s has taken %g s so far; if it never ends, interrupt, and set "
            "APPROXHUB_DISABLE_PLUGINS=%s",
            plugin,
            what,
            _PATIENCE,
            plugin,
        ),
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class PluginHost:
    """All plug-ins of this process.

    Parameters
    ----------
    entry_points : iterable of importlib.metadata.EntryPoint, optional
        Where plug-ins are found; those of the installed distributions when not given.
    disabled : set of str, optional
        Names not to load, ``{'all'}`` for none but the built-ins;
        ``APPROXHUB_DISABLE_PLUGINS`` (comma separated) when not given.
    strict : bool, optional
        Raise on the first failure; ``APPROXHUB_STRICT_PLUGINS=1`` when not given.
    """

    def __init__(
        self,
        entry_points: Iterable[metadata.EntryPoint] | None = None,
        disabled: set[str] | None = None,
        strict: bool | None = None,
    ) -> None:
        env = os.environ
        if disabled is None:
            named = env.get("APPROXHUB_DISABLE_PLUGINS", "").split(",")
            disabled = {n.strip() for n in named if n.strip()}
        self._disabled = disabled
        self._strict = (
            env.get("APPROXHUB_STRICT_PLUGINS", "") not in ("", "0") if strict is None else strict
        )
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._status: dict[str, PluginStatus] = {}
        self._records: dict[str, dict[str, tuple[str, Any]]] = {}
        self._clashes: dict[str, dict[str, str]] = {}
        self._taking_part: set[str] = set()
        self._asking: set[str] = set()
        self._lock = threading.RLock()
        self.generation = 0  # grows whenever plug-ins may offer something else
        for module in _BUILTIN_MODULES:
            self._manager.register(importlib.import_module(module), BUILTIN)
        if entry_points is None:
            entry_points = self._installed()
        self._discover(entry_points)

    # --- finding ----------------------------------------------------------------

    def _installed(self) -> list[metadata.EntryPoint]:
        try:
            return list(metadata.entry_points(group=GROUP))
        except Exception:  # one file that cannot be read hides all others: one by one, then
            found = []
            for dist in metadata.distributions():
                try:
                    found += [e for e in dist.entry_points if e.group == GROUP]
                except Exception as error:
                    if GROUP in (dist.read_text("entry_points.txt") or ""):
                        row = PluginStatus(_name(dist) or "?", version=_version(dist))
                        self._status[row.name] = row
                        self._fail(
                            row, f"its entry points cannot be read: {cause_of(error)}", error
                        )
            return found

    def _discover(self, entry_points: Iterable[metadata.EntryPoint]) -> None:
        found = sorted(entry_points, key=lambda e: (e.name, e.value))
        unique = {(e.name, e.value): e for e in found}  # a checkout on sys.path lists some twice
        times = Counter(name for name, _ in unique)
        for entry in unique.values():
            alone = times[entry.name] == 1 and entry.name != BUILTIN
            name = entry.name if alone else f"{entry.name} ({entry.value})"
            row = self._status[name] = PluginStatus(name, version=_version(entry.dist))
            if entry.name in self._disabled or "all" in self._disabled:
                row.state = "disabled"
                row.error = "named in APPROXHUB_DISABLE_PLUGINS"
            elif alone:
                self._load(entry, row)
            else:  # order never decides: of two plug-ins with one name, neither is loaded
                self._fail(row, f"another plug-in is called {entry.name!r} too; uninstall one")

    def _load(self, entry: metadata.EntryPoint, row: PluginStatus) -> None:
        try:
            with _watched(entry.name, "its import"):
                plugin = entry.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plug-in may even exit
            self._fail(row, f"import failed: {cause_of(error)}", error)
            return
        try:
            self._add(plugin, entry.name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._fail(row, cause_of(error), error)

    def _add(self, plugin: Any, name: str) -> None:
        if plugin is None:  # pluggy would block the name for good
            raise PluginError("None is no plug-in; pass a module or an object with hooks")
        if self._manager.has_plugin(name):
            raise PluginError(f"another plug-in is called {name!r} too")
        marked = {n: self._manager.parse_hookimpl_opts(plugin, n) for n in dir(plugin)}
        hooks = {o.get("specname") or n for n, o in marked.items() if o is not None}
        unknown = sorted(hook for hook in hooks if not hasattr(hookspecs, hook))
        if unknown:
            raise PluginError(f"unknown hook {', '.join(unknown)}")
        try:
            self._manager.register(plugin, name)
        except BaseException:
            if self._manager.has_plugin(name):  # with the hooks before the one that is wrong
                self._manager.unregister(name=name)
            raise

    def _fail(self, row: PluginStatus, why: str, error: BaseException | None = None) -> None:
        row.state = "ok" if row.name in self._taking_part else "failed"
        if why not in (row.error or ""):
            row.error = f"{row.error}; {why}" if row.error else why
        if self._strict:
            raise PluginError(f"plug-in {row.name}: {why}") from error

    def _takes_part(self, plugin: str) -> None:
        """Note that something of a plug-in is used, whatever else of it is refused."""
        self._taking_part.add(plugin)
        if plugin in self._status:
            self._status[plugin].state = "ok"

    # --- asking -------------------------------------------------------------------

    def status(self) -> list[PluginStatus]:
        """One row for each plug-in found, the built-in ones not among them."""
        for hook in _RECORDS:
            self._collect(hook)
        return [self._status[name] for name in sorted(self._status)]

    def plugin_error(self, name: str) -> str | None:
        """Why the plug-in `name` is not (fully) there, or None."""
        row = self._status.get(name)
        return row.error if row else None

    def _calls(self, hook: str) -> Iterator[tuple[str, Callable[..., Any]]]:
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            yield implementation.plugin_name, implementation.function

    def _guarded(self, plugin: str, hook: str, call: Callable[[], T]) -> T | None:
        if plugin == BUILTIN:
            return call()
        try:
            with _watched(plugin, hook):
                return call()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            why = cause_of(error)
            self._fail(self._status[plugin], why if hook in why else f"{hook}: {why}", error)
            return None

    def _collect(self, hook: str) -> dict[str, tuple[str, Any]]:
        with self._lock:
            if hook in self._records:
                return self._records[hook]
            if hook in self._asking:  # the lock lets only its own thread come this far
                raise PluginError(
                    f"{hook} was asked for while plug-ins were answering it; ask in load()"
                )
            self._asking.add(hook)
            try:
                self._records[hook] = self._ask(hook)
            finally:
                self._asking.remove(hook)
            return self._records[hook]

    def _ask(self, hook: str) -> dict[str, tuple[str, Any]]:
        """Ask all plug-ins, and keep what no two of them offer."""
        kind = _RECORDS[hook]
        offered: dict[str, list[tuple[str, Any]]] = {}

        def checked(function: Callable[..., Any]) -> list[Any]:
            records = list(function() or ())
            for record in records:
                if not isinstance(record, kind):
                    raise PluginError(f"{hook} must return {kind.__name__} records, got {record!r}")
                if not isinstance(_key(record), str) or not _key(record):
                    raise PluginError(f"{hook}: {record!r} has no name")
                if not isinstance(getattr(record, "priority", 0), int):
                    raise PluginError(f"{hook}: the priority of {record!r} is not an integer")
                version = getattr(record, "api_version", descriptors.API_VERSION)
                if version != descriptors.API_VERSION:
                    raise PluginError(
                        f"{_key(record)} is written for plug-in API {version}, this is "
                        f"{descriptors.API_VERSION}"
                    )
            return records

        for plugin, function in self._calls(hook):
            found = self._guarded(plugin, hook, functools.partial(checked, function))
            for record in found or ():
                offered.setdefault(_key(record), []).append((plugin, record))
        chosen: dict[str, tuple[str, Any]] = {}
        for key, offers in offered.items():
            if kind is descriptors.LayerConverter:
                best = max(r.priority for _, r in offers)
                offers = [o for o in offers if o[1].priority == best]
            winners = [o for o in offers if o[0] == BUILTIN] or (offers if len(offers) == 1 else [])
            if winners:
                chosen[key] = winners[0]
                self._takes_part(winners[0][0])
            losers = [o for o in offers if o not in winners]
            clash = _clash(key, offers, winners, kind) if losers else ""
            for plugin, _ in losers:
                why = f"{hook}: {clash}"
                self._clashes.setdefault(hook, {})[key] = why
                self._fail(self._status[plugin], why)
        return dict(sorted(chosen.items()))

    def all(self, hook: str, kind: type[T]) -> list[T]:
        """Records that the plug-ins offer through `hook`, sorted by name."""
        return [record for _, record in self._collect(hook).values() if isinstance(record, kind)]

    def get(self, hook: str, kind: type[T], name: str) -> T:
        """The record called `name`.

        Raises
        ------
        PluginError
            If a plug-in that may have offered it has failed; the message has the cause.
        NotFoundError
            If nothing offers it.
        """
        records = self._collect(hook)
        if name in records:
            record = records[name][1]
            assert isinstance(record, kind)
            return record
        known = ", ".join(records) or "none"
        noun = _NOUNS[hook]
        if name in self._clashes.get(hook, {}):
            raise PluginError(f"{noun} {name!r}: {self._clashes[hook][name]}")
        failed = [s for s in self._status.values() if s.error]
        named = [s for s in failed if s.name == name or _mentions(s.error or "", name)]
        if named:
            raise PluginError(
                f"{noun} {name!r} is not available: plug-in {named[0].name}: {named[0].error}"
            )
        causes = "; ".join(f"{s.name} ({s.error})" for s in failed)
        hint = f"; plug-ins that do not (fully) take part: {causes}" if failed else ""
        raise NotFoundError(f"no {noun} is called {name!r}; known: {known}{hint}")

    def clash(self, hook: str, name: str) -> str | None:
        """Who else offers the record called `name` and is not listened to, or None."""
        self._collect(hook)
        why = self._clashes.get(hook, {}).get(name)
        return None if why is None else why.removeprefix(f"{hook}: ")

    def add_commands(self, cli: Any) -> None:
        """Let every plug-in add its commands; one that raises is only reported."""
        hook = "approxhub_commands"

        def added(plugin: str, function: Callable[..., Any]) -> None:
            function(cli=cli)
            self._takes_part(plugin)

        for plugin, function in self._calls(hook):
            self._guarded(plugin, hook, functools.partial(added, plugin, function))

    def register(self, plugin: Any, name: str) -> None:
        """Add a plug-in by hand, for tests and notebooks; collected records are forgotten.

        Raises
        ------
        PluginError
            If it cannot be registered.
        """
        with self._lock:
            try:
                self._add(plugin, name)
            except Exception as error:
                raise PluginError(f"plug-in {name}: {cause_of(error)}") from error
            self._status[name] = PluginStatus(name)
            self._forget()

    def unregister(self, name: str) -> None:
        """Take back :meth:`register`.

        Raises
        ------
        PluginError
            If no plug-in is called so, or it is the built-in one.
        """
        with self._lock:
            if name == BUILTIN:
                raise PluginError(f"{name!r} is built in and stays")
            if not self._manager.has_plugin(name):
                raise PluginError(f"no plug-in is called {name!r}")
            self._manager.unregister(name=name)
            self._status.pop(name, None)
            self._forget()

    def refresh(self) -> None:
        """Ask all plug-ins anew at the next question, e.g. after an index was added."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        self.generation += 1
        self._records.clear()
        self._clashes.clear()
        self._taking_part.clear()
        for name, row in self._status.items():
            if self._manager.has_plugin(name):  # its import was fine; the rest is asked anew
                row.state, row.error = "ok", None


def _key(record: Any) -> Any:
    return record.source_type if isinstance(record, descriptors.LayerConverter) else record.name


def _mentions(text: str, name: str) -> bool:
    """Whether a name stands in a text by itself, not as a part of another."""
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?!\.?[\w-])", text) is not None


def _clash(
    key: str, offers: list[tuple[str, Any]], winners: list[tuple[str, Any]], kind: type
) -> str:
    """Say who offers one name, and whose is used if that is not plain."""
    if kind is descriptors.MultiplierSource and winners:
        from approxhub.registry.store import Store

        if key in Store().index_names():  # what the built-in plug-in offers, but no part of it
            return (
                f"{key!r} is an index that was added, which is used, and is offered by "
                f"{_names([o for o in offers if o not in winners])} too; `approxhub index remove "
                f"{key}` makes room for the plug-in's"
            )
    return f"{key!r} is offered by {_names(offers)}"


def _names(offers: list[tuple[str, Any]]) -> str:
    return " and ".join(sorted(plugin for plugin, _ in offers))


def _name(dist: metadata.Distribution) -> str | None:
    try:
        return dist.metadata["Name"]
    except Exception:  # half uninstalled
        return None


def _version(dist: metadata.Distribution | None) -> str | None:
    try:
        return None if dist is None else dist.version
    except Exception:
        return None


_host: PluginHost | None = None
_building = False
_host_lock = threading.RLock()


def host() -> PluginHost:
    """The host of this process; the first call finds the plug-ins.

    Raises
    ------
    PluginError
        If a plug-in asks while it is being imported.
    """
    global _host, _building
    with _host_lock:
        if _host is None:
            if _building:
                raise PluginError(
                    "plug-ins are still being imported: use ApproxHub in a hook or in load(), "
                    "not while your module is imported"
                )
            _building = True
            try:
                _host = PluginHost()
            finally:
                _building = False
        return _host


def reset_host() -> None:
    """Forget all plug-ins, so that the next question finds them anew."""
    global _host
    with _host_lock:
        _host = None
