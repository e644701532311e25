"""Sweeps: one calibration, then any number of multipliers, each evaluated once."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import logging
import math
import os
import platform
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from approxhub import __version__
from approxhub.errors import (
    ApproxHubError,
    CalibrationError,
    EvaluationError,
    ExperimentError,
    InputError,
)
from approxhub.experiments.ledger import Ledger, Setting, stem
from approxhub.experiments.preparation import Preparation
from approxhub.experiments.result import Result, Results
from approxhub.experiments.targets import where
from approxhub.experiments.trials import Assignment, Trial, choose, one_by_one
from approxhub.model.calibration import calibrate
from approxhub.model.convert import approximate
from approxhub.model.layers import approx_layers
from approxhub.model.summary import Counted, run_counting, summarize
from approxhub.multiplier import Multiplier, exact
from approxhub.quantization import OperandMapping, Quantizer

__all__ = ["Evaluator", "Progress", "sensitivity", "sweep"]

Evaluator = Callable[[nn.Module], Any]
Progress = Callable[[int, int, str], None]

_log = logging.getLogger("approxhub")
_SCORE = "score"


def sweep(
    model: nn.Module,
    multipliers: Iterable[Assignment],
    evaluate: Evaluator,
    calibration: Iterable[Any] | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    mapping: OperandMapping | str | None = None,
    compensate: bool = False,
    reestimate_batch_norm: bool = False,
    seed: int = 0,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    skip_failures: bool = False,
    progress: Progress | bool = False,
    **options: Any,
) -> Results:
    """Evaluate one model with many multipliers, each with the same weights and ranges.

    Converts and calibrates the model once, counts its operations once on the first batch of
    `calibration`, and then calls `evaluate` once for each multiplier, with a copy of the model
    that is in evaluation mode: it may be trained, and no evaluation can touch another. What was
    evaluated before and is kept at `path` is not evaluated again.

    Parameters
    ----------
    model : torch.nn.Module
        A float model, or a converted one; it is left as it is.
    multipliers : iterable of str, Multiplier, or mapping of str to those
        Ids or multipliers; mappings of name patterns to them, where layers that no pattern fits
        multiply exactly; or ``'float'``, for the float model. ``'exact:8s'`` is what 8-bit
        signed codes cost without any error.
    evaluate : callable
        ``evaluate(model)`` returns a number, or a mapping of names to numbers. All numbers must
        be finite.
    calibration : iterable, optional
        Batches as :func:`approxhub.calibrate` takes them. Needed unless the model is converted
        and calibrated. In a group of processes each calibrates by itself here; for common ranges
        calibrate before.
    path : path, optional
        Keep the rows in `path` + ``.json`` and, the same, in `path` + ``.csv``. Each row is kept
        as soon as it is finished, whole or not at all; a sweep that was stopped or killed goes
        on where it was, with the ranges that were found first. `calibration` is not compared
        with the one that gave them: a warning is logged that it is not used for ranges.
        Nor is `evaluate` compared, but by the names of its metrics.
    mapping : OperandMapping or str, optional
        The operand mapping; when not given the converted model's where it fits, else each
        multiplier's default.
    compensate : bool
        Fold each multiplier's mean error into the biases, see :func:`approxhub.compensate`. Takes
        one more pass over `calibration` for each format and mapping, resumed or not.
    reestimate_batch_norm : bool
        Take the statistics of batch normalisation anew for each multiplier, see
        :func:`approxhub.reestimate_batch_norm`: one more pass for each. After `compensate`.
    seed : int
        What torch, numpy and random are seeded with before each evaluation; the caller's
        generators are left as they are.
    forward : callable, optional
        As :func:`approxhub.calibrate` takes it. Operations are then not counted.
    skip_failures : bool
        Go on where a multiplier cannot be had or evaluated; see :attr:`Results.failed`.
    progress : callable or bool
        Told ``(evaluations done, in all, what comes next)``; True prints that to stderr.
    **options
        What else :func:`approxhub.approximate` takes, for a float model.

    Returns
    -------
    Results
        A row for each multiplier, in their order.

    Raises
    ------
    EvaluationError
        If `evaluate` raises, or returns something that is no finite number. Finished rows are
        kept at `path`.
    ExperimentError
        If rows cannot be kept, or `path` has rows of another model, of other metrics, or of other
        ranges than a calibrated `model` has.
    CalibrationError
        If there is nothing to calibrate with, or the model cannot be run on it.
    ConversionError
        If the model has no layer that could be converted.
    InputError
        If the model is on several devices, or an argument is not as described.
    ApproxHubError
        If a multiplier cannot be had, or has no table and is to be compensated: before anything
        is evaluated.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 3))
    >>> x, y = torch.randn(64, 8), torch.randint(3, (64,))
    >>> def accuracy(model):
    ...     return {"accuracy": (model(x).argmax(1) == y).float().mean()}
    >>> results = ah.sweep(net, ["float", "exact:8s", "drum:8s/k=3"], accuracy, [x])
    >>> [row.multiplier for row in results]
    ['float', 'exact:8s', 'drum:8s/k=3']
    >>> results.baseline(results[2]).multiplier
    'exact:8s'
    """
    return _run(
        model, multipliers, evaluate, calibration, None, path=path, mapping=mapping,
        compensate=compensate, reestimate_batch_norm=reestimate_batch_norm, seed=seed,
        forward=forward, skip_failures=skip_failures, progress=progress, options=options,
    )  # fmt: skip


def sensitivity(
    model: nn.Module,
    multipliers: Iterable[Multiplier | str],
    evaluate: Evaluator,
    calibration: Iterable[Any] | None = None,
    *,
    layers: str | Sequence[str] = "*",
    path: str | os.PathLike[str] | None = None,
    mapping: OperandMapping | str | None = None,
    compensate: bool = False,
    reestimate_batch_norm: bool = False,
    seed: int = 0,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    skip_failures: bool = False,
    progress: Progress | bool = False,
    **options: Any,
) -> Results:
    """Evaluate one model with one layer approximate at a time, and all others exact.

    The others have codes of the same formats, and exact products: what is lost is lost by the
    one layer's circuit. There is a row for each multiplier and each layer.

    Parameters
    ----------
    model, evaluate, calibration, path, mapping, compensate, reestimate_batch_norm, seed, forward, \
skip_failures, progress, **options
        As in :func:`sweep`.
    multipliers : iterable of str or Multiplier
        Each is tried in each layer.
    layers : str or sequence of str
        Patterns of the names of the layers to try.

    Returns
    -------
    Results
        Rows have :attr:`Result.layer`.

    Raises
    ------
    InputError
        If a pattern fits no layer.
    EvaluationError, ExperimentError, CalibrationError, ConversionError, ApproxHubError
        As :func:`sweep`.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> x = torch.randn(64, 8)
    >>> results = ah.sensitivity(
    ...     net, ["drum:8s/k=3"], lambda m: (m(x) - net(x)).square().mean(), [x]
    ... )
    >>> [row.layer for row in results]
    ['0', '2']
    """
    patterns = [layers] if isinstance(layers, str) else list(layers)
    return _run(
        model, multipliers, evaluate, calibration, patterns, path=path, mapping=mapping,
        compensate=compensate, reestimate_batch_norm=reestimate_batch_norm, seed=seed,
        forward=forward, skip_failures=skip_failures, progress=progress, options=options,
    )  # fmt: skip


def _run(
    model: nn.Module,
    multipliers: Iterable[Assignment],
    evaluate: Evaluator,
    calibration: Iterable[Any] | None,
    layers: Sequence[str] | None,
    *,
    path: str | os.PathLike[str] | None,
    mapping: OperandMapping | str | None,
    compensate: bool,
    reestimate_batch_norm: bool,
    seed: int,
    forward: Callable[[nn.Module, Any], Any] | None,
    skip_failures: bool,
    progress: Progress | bool,
    options: Mapping[str, Any],
) -> Results:
    if not callable(evaluate):
        raise InputError(f"evaluate must be callable, got {type(evaluate).__name__}")
    require_one_device(model)
    if not isinstance(seed, int) or not 0 <= seed < 1 << 32:
        raise InputError(f"seed must be a whole number from 0 to 2**32 - 1, got {seed!r}")
    if isinstance(mapping, str):
        mapping = OperandMapping.parse(mapping)
    preparation = Preparation(compensate, reestimate_batch_norm, calibration, forward)
    trials, failed = choose(
        multipliers, mapping, compensate=compensate, skip_failures=skip_failures
    )
    said = progress if callable(progress) else _print if progress else _silent
    with Ledger.opened(None if path is None else stem(path)) as ledger:
        prepared = _prepare(model, trials, calibration, mapping, forward, options, ledger, said)
        preparation.check(prepared.model)
        if layers is not None:
            trials = one_by_one(prepared.model, trials, layers)
        results = Results([], failed, ledger.path)
        for done, trial in enumerate(trials):
            what = trial.name if trial.layer is None else f"{trial.name} in {trial.layer}"
            step = functools.partial(said, done, len(trials), what)
            try:
                row = _evaluate(prepared, trial, preparation, evaluate, seed, ledger, step)
            except ApproxHubError as error:
                lost = isinstance(error, ExperimentError) and not isinstance(error, EvaluationError)
                if lost or not skip_failures:
                    raise
                results.failed.append((what, error))
            else:
                results.rows.append(row)
        ledger.write()
    said(len(trials), len(trials), "done")
    return results


def _silent(done: int, total: int, what: str) -> None:
    pass


def _print(done: int, total: int, what: str) -> None:
    print(f"[{done}/{total}] {what}", file=sys.stderr, flush=True)


def require_one_device(model: nn.Module) -> None:
    """Refuse a model that is on no device, or on devices of several kinds.

    Raises
    ------
    InputError
        If it is, or is no model.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"a torch.nn.Module is needed, got {type(model).__name__}")
    first: dict[str, str] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        first.setdefault(tensor.device.type, name)
    if "meta" in first:
        raise InputError(
            f"{first['meta']} is on the meta device and has no values; load the model's weights "
            "first"
        )
    if len(first) > 1:
        places = ", ".join(f"{name} on {device}" for device, name in first.items())
        raise InputError(
            f"the model is on several devices: {places}; move all of it to one, with model.to(...)"
        )


# --- once for all multipliers -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A converted, calibrated model, and how much it multiplies."""

    model: nn.Module
    counted: Counted | None


def _prepare(
    model: nn.Module,
    trials: Sequence[Trial],
    calibration: Iterable[Any] | None,
    mapping: OperandMapping | None,
    forward: Callable[[nn.Module, Any], Any] | None,
    options: Mapping[str, Any],
    ledger: Ledger,
    said: Progress,
) -> _Prepared:
    model = _converted(model, trials, mapping, options)
    print_of = fingerprint(model)
    if ledger.setting is not None:
        before = _as_before(model, print_of, ledger.setting, ledger.path)
        if ledger.rows:
            said(0, len(trials), f"{_rows(ledger)} kept from {ledger.path}.json")
        if calibration is not None:
            _log.warning(
                "using the ranges kept in %s.json; the calibration given is not used for ranges",
                ledger.path,
            )
        return before
    counted = None
    if calibration is not None:
        said(0, len(trials), "calibrating")
        counted = _calibrate(model, calibration, forward)
    else:
        _require_ranges(model)
    ledger.start(
        {
            "model": type(model).__name__,
            "model_sha256": print_of,
            "ranges": _ranges(model),
            "operations": None if counted is None else counted.made,
            "ran": None if counted is None else sorted(counted.ran),
        }
    )
    return _Prepared(model, counted)


def _converted(
    model: nn.Module,
    trials: Sequence[Trial],
    mapping: OperandMapping | None,
    options: Mapping[str, Any],
) -> nn.Module:
    """A copy of a model whose layers are approximate."""
    if approx_layers(model):
        if options:
            raise InputError(
                f"the model is converted already; {', '.join(options)} would have no effect"
            )
        return copy.deepcopy(model).eval()
    first = next((t.first for t in trials if t.first is not None), exact(8))
    return approximate(model, first, mapping=mapping, **options).eval()


def _calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], Any] | None,
) -> Counted | None:
    kept: list[Any] = []

    def noting() -> Iterator[Any]:
        for batch in batches:
            if not kept:
                kept.append(batch)
            yield batch

    # A tensor or a mapping instead of batches of them is `calibrate`'s to refuse.
    wrong = isinstance(batches, (Tensor, Mapping)) or not isinstance(batches, Iterable)
    with _explained(model, kept):
        calibrate(model, batches if wrong else noting(), forward=forward, synchronize=False)
        if forward is not None:
            return None
        (batch,) = kept
        args, kwargs = _as_arguments(batch)
        return run_counting(model, args, kwargs)


def _as_arguments(batch: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """What :func:`calibrate` gives a model of a batch."""
    if isinstance(batch, Mapping):
        return (), batch
    return (batch[0] if isinstance(batch, (tuple, list)) else batch,), {}


@contextmanager
def _explained(model: nn.Module, batches: Sequence[Any]) -> Iterator[None]:
    """Make what a model or its batches raise our error; say so if they are on two devices."""
    try:
        yield
    except ApproxHubError:
        raise
    except Exception as error:
        args, kwargs = _as_arguments(batches[0]) if batches else ((), {})
        given = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
        devices, here = {t.device for t in given}, {t.device for t in model.parameters()}
        if isinstance(error, RuntimeError) and devices - here:
            there, mine = (", ".join(sorted(map(str, s))) for s in (devices, here))
            raise InputError(
                f"the batches are on {there}, but the model is on {mine}; move one to the other"
            ) from error
        shapes = ", ".join(str(tuple(t.shape)) for t in given)
        first = f"; the first batch has the shape {shapes}" if shapes else ""
        raise CalibrationError(
            f"running the model on the calibration batches raised {type(error).__name__}: "
            f"{error}{where(error)}{first}"
        ) from error


def _data_quantizers(model: nn.Module) -> dict[str, Quantizer]:
    wanted = {q for layer in approx_layers(model).values() for q in layer.data_quantizers()}
    return {n: q for n, q in model.named_modules() if isinstance(q, Quantizer) and q in wanted}


def _require_ranges(model: nn.Module) -> None:
    without = [name for name, q in _data_quantizers(model).items() if not q.calibrated]
    if without:
        raise CalibrationError(
            "the model is not calibrated, and there is nothing to calibrate it with; give batches "
            f"as `calibration`, or calibrate it first ({without[0]} has no range)"
        )


def _ranges(model: nn.Module) -> dict[str, list[Any]]:
    """Ranges that came from data, by the names of their quantisers; exact in JSON."""
    return {
        name: [q.range_min.tolist(), q.range_max.tolist()]
        for name, q in _data_quantizers(model).items()
        if q.calibrated
    }


def _as_before(model: nn.Module, print_of: str, setting: Setting, path: Path | None) -> _Prepared:
    """Take over the ranges and counts of the rows that are there already."""
    if setting.get("model_sha256") != print_of:
        raise ExperimentError(
            f"{path}.json has rows of another model: weights, layers or quantisers differ "
            f"({setting.get('model')}); name another path"
        )
    quantizers = _data_quantizers(model)
    mine = {name: q for name, q in quantizers.items() if q.calibrated}
    try:
        for name, (low, high) in setting["ranges"].items():
            found = mine.get(name)
            if found is not None and [found.range_min.tolist(), found.range_max.tolist()] != [
                low, high,
            ]:  # fmt: skip
                raise ExperimentError(
                    f"{path}.json has rows of another calibration of this model ({name} differs); "
                    "name another path"
                )
            quantizers[name].set_range(torch.tensor(low), torch.tensor(high))
        made, ran = setting["operations"], setting["ran"]
    except (KeyError, TypeError, ValueError) as error:
        raise ExperimentError(f"{path}.json is damaged: {error!r}; move it away") from error
    return _Prepared(model, None if made is None else Counted(dict(made), set(ran)))


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over a converted model's modules, parameters and buffers.

    What belongs to quantisers and to a multiplier is left out: ranges are compared by
    themselves, and multipliers are what a sweep changes.
    """
    digest = hashlib.sha256()
    quantizers = [name for name, m in model.named_modules() if isinstance(m, Quantizer)]
    apart = tuple(f"{name}." for name in quantizers)
    for name, module in model.named_modules():
        if isinstance(module, Quantizer):
            text = f"{name} {module.axis} {module.calibrator_name} {module.power_of_two}"
        else:
            text = f"{name} {type(module).__module__}.{type(module).__qualname__}"
        digest.update(f"{text}\n".encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.startswith(apart):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# --- once for each multiplier -----------------------------------------------------------


def _evaluate(
    prepared: _Prepared,
    trial: Trial,
    preparation: Preparation,
    evaluate: Evaluator,
    seed: int,
    ledger: Ledger,
    starting: Callable[[], None],
) -> Result:
    """The row of a trial: the one that is kept, or a new one, which is said as it is begun."""
    model = copy.deepcopy(prepared.model)
    trial.apply(model)
    found = _described(prepared, trial, preparation, model, seed)
    kept = next((row for row in ledger.rows if row.key == found.key), None)
    if kept is not None:
        return kept
    starting()
    if trial.first is not None:
        with _explained(model, ()):
            preparation.apply(model)
    with _seeded(seed, model):
        try:
            value = evaluate(model)
        except Exception as error:
            raise EvaluationError(
                f"the evaluator raised {type(error).__name__} with {trial.name}: {error}"
                f"{where(error)}{_about_devices(model, error)}{_about_rows(ledger)}"
            ) from error
    row = dataclasses.replace(found, metrics=_numbers(value, trial, ledger))
    ledger.add(row)
    return row


def _described(
    prepared: _Prepared, trial: Trial, preparation: Preparation, model: nn.Module, seed: int
) -> Result:
    """The row of a trial, without metrics."""
    layers = [] if trial.first is None else list(approx_layers(model).values())
    return Result(
        multiplier=trial.name,
        layer=trial.layer,
        mapping=_distinct(layer.mapping for layer in layers),
        datapath=_distinct(layer.datapath for layer in layers),
        seed=seed,
        compensated=bool(layers) and preparation.compensate,
        batch_norm_reestimated=bool(layers) and preparation.reestimate_batch_norm,
        metrics={},
        relative_energy=summarize(model, prepared.counted).relative_energy if layers else None,
        identities=trial.identities,
        versions=_versions(),
    )


def _distinct(values: Iterable[object]) -> str:
    return "; ".join(filter(None, dict.fromkeys(map(str, values))))


def _versions() -> dict[str, str]:
    return {
        "approxhub": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


@contextmanager
def _seeded(seed: int, model: nn.Module) -> Iterator[None]:
    """The same random numbers for the same seed, and the caller's generators left as they were."""
    here = {p.device for p in model.parameters() if p.device.type == "cuda"}
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=sorted(device.index for device in here)):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def _numbers(value: Any, trial: Trial, ledger: Ledger) -> dict[str, float]:
    """What an evaluator returned, as finite numbers with names.

    Raises
    ------
    EvaluationError
        If it is something else.
    ExperimentError
        If earlier rows have other metrics.
    """
    given = value if isinstance(value, Mapping) else {_SCORE: value}
    found: dict[str, float] = {}
    for name, entry in given.items():
        try:
            if isinstance(entry, (str, bytes)):
                raise TypeError
            number = float(entry.detach() if isinstance(entry, Tensor) else entry)
        except (TypeError, ValueError, RuntimeError):
            raise EvaluationError(
                f"the evaluator returned {entry!r:.80} as {name} with {trial.name}; it must return "
                f"a number, or a mapping of names to numbers{_about_rows(ledger)}"
            ) from None
        if not math.isfinite(number):
            raise EvaluationError(
                f"the evaluator returned {number} as {name} with {trial.name}, which is no result"
                f"{_about_rows(ledger)}"
            )
        if not isinstance(name, str) or name in _TAKEN:
            raise EvaluationError(
                f"a metric cannot be called {name!r}: {'that is another column' * (name in _TAKEN)}"
                f"{'names are texts' * (name not in _TAKEN)}{_about_rows(ledger)}"
            )
        found[name] = number
    if not found:
        raise EvaluationError(
            f"the evaluator returned no number with {trial.name}{_about_rows(ledger)}"
        )
    if ledger.rows and set(ledger.rows[0].metrics) != set(found):
        raise ExperimentError(
            f"the evaluator returned {', '.join(found)}, but earlier rows have "
            f"{', '.join(ledger.rows[0].metrics)}; keep rows of another evaluator at another path"
        )
    return found


_TAKEN = {"schema_version", *(f.name for f in dataclasses.fields(Result))}


def _about_devices(model: nn.Module, error: Exception) -> str:
    if not isinstance(error, RuntimeError) or "device" not in str(error):
        return ""
    here = ", ".join(sorted({str(p.device) for p in model.parameters()}))
    return f"\n(the model that the evaluator was given is on {here})"


def _about_rows(ledger: Ledger) -> str:
    if ledger.path is None or not ledger.rows:
        return ""
    rows = f"{_rows(ledger, 'finished ')} {'is' if len(ledger.rows) == 1 else 'are'}"
    return f"\n({rows} kept in {ledger.path}.json; the same call goes on from there)"


def _rows(ledger: Ledger, kind: str = "") -> str:
    return f"{len(ledger.rows)} {kind}row{'s' * (len(ledger.rows) != 1)}"
