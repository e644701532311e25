"""What to evaluate: which layers of a model multiply through which circuit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from approxhub.errors import ApproxHubError, InputError, MappingError
from approxhub.experiments.result import FLOAT
from approxhub.model.convert import assigned
from approxhub.model.layers import approx_layers, matches
from approxhub.model.statistics import require_table
from approxhub.multiplier import Multiplier, resolved
from approxhub.quantization import OperandMapping

__all__ = ["Assignment", "Choice", "Trial", "choose", "one_by_one"]

Choice = Multiplier | str
Assignment = Choice | Mapping[str, Choice]
"""A multiplier for all layers, or one for each pattern of their names."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing to evaluate.

    Parameters
    ----------
    name : str
        What the row calls it.
    multipliers : dict of str to Multiplier
        By patterns of layers' names; empty for the float model.
    layer : str or None
        The one layer, in a sensitivity analysis.
    mapping : OperandMapping or None
        Each multiplier's default if None.
    """

    name: str
    multipliers: Mapping[str, Multiplier]
    layer: str | None = None
    mapping: OperandMapping | None = None

    @property
    def first(self) -> Multiplier | None:
        """Its formats are those of the layers that no pattern fits."""
        return next(iter(self.multipliers.values()), None)

    @property
    def identities(self) -> dict[str, str]:
        """Content hash of each multiplier by its id."""
        return {m.id: m.identity for m in self.multipliers.values()}

    def apply(self, model: nn.Module) -> None:
        """Let a converted model be this, in place; layers that no pattern fits are exact.

        Raises
        ------
        InputError
            If a pattern fits no layer.
        MappingError
            If a multiplier does not fit the mapping.
        """
        layers = approx_layers(model).values()
        if self.first is None:
            for layer in layers:
                layer.mode = FLOAT
            return
        chosen = assigned(model, dict(self.multipliers))
        for layer in layers:
            m = chosen.get(layer, self.first)
            layer.set_multiplier(m, self.mapping or _kept(layer.mapping, m))
            layer.mode = "approximate" if layer in chosen else "exact"


def _kept(mapping: OperandMapping, m: Multiplier) -> OperandMapping:
    """A layer's own mapping where it fits, else the multiplier's default."""
    try:
        mapping.resolve(m)
    except MappingError:
        return OperandMapping.default(m)
    return mapping


def choose(
    wanted: Iterable[Assignment],
    mapping: OperandMapping | None,
    *,
    compensate: bool = False,
    skip_failures: bool = False,
) -> tuple[list[Trial], list[tuple[str, ApproxHubError]]]:
    """Load multipliers, each once; gives what could not be had, too.

    Parameters
    ----------
    wanted : iterable
        As :func:`approxhub.sweep` takes them.
    mapping : OperandMapping or None
        Each multiplier's default if None.
    compensate : bool
        Whether a multiplier for all layers has to have a table.
    skip_failures : bool
        Whether to go on with what could be had, if there is some.

    Raises
    ------
    InputError
        If nothing is wanted, or it is no sequence of multipliers.
    ApproxHubError
        If one could not be had, and that is not to be skipped: the gravest.
    """
    if isinstance(wanted, (str, Multiplier, Mapping)) or not isinstance(wanted, Iterable):
        raise InputError(
            f"a sequence of multipliers is needed, got {type(wanted).__name__}; "
            "for a single one m write [m]"
        )
    trials: list[Trial] = []
    failed: list[tuple[str, ApproxHubError]] = []
    for item in wanted:
        name = _name(item)
        try:
            trial = _trial(name, item, mapping, compensate)
        except ApproxHubError as error:
            failed.append((name, error))
            continue
        if trial not in trials:
            trials.append(trial)
    if not trials and not failed:
        raise InputError("there are no multipliers to evaluate")
    if failed and not (skip_failures and trials):
        raise max((error for _, error in failed), key=lambda error: error.exit_code)
    return trials, failed


def _name(item: Assignment) -> str:
    if isinstance(item, Mapping):
        return ", ".join(f"{pattern}={_name(choice)}" for pattern, choice in item.items())
    return item.id if isinstance(item, Multiplier) else str(item)


def _trial(name: str, item: Assignment, mapping: OperandMapping | None, compensate: bool) -> Trial:
    if isinstance(item, str) and item == FLOAT:
        return Trial(FLOAT, {})
    if isinstance(item, Mapping):
        if not item:
            raise InputError("a mapping from name patterns to multipliers must not be empty")
        multipliers = {str(pattern): resolved(choice) for pattern, choice in item.items()}
        name = _name(multipliers)
    else:
        multipliers = {"*": resolved(item)}
        name = multipliers["*"].id
    for m in multipliers.values():
        effective, _, _ = (mapping or OperandMapping.default(m)).resolve(m)
        # Of an assignment, the model says which layers are compensated.
        if compensate and not isinstance(item, Mapping):
            require_table(effective)
    return Trial(name, multipliers, None, mapping)


def one_by_one(model: nn.Module, trials: Sequence[Trial], patterns: Sequence[str]) -> list[Trial]:
    """For each multiplier, each layer that a pattern fits alone, in the model's order.

    Raises
    ------
    InputError
        If a pattern fits no layer, or a trial is already of several multipliers.
    """
    names = list(approx_layers(model))
    for pattern in patterns:
        if not any(matches([name], pattern) for name in names):
            raise InputError(
                f"no approximate layer is called {pattern!r}; there are {', '.join(names)}"
            )
    found = []
    for trial in trials:
        if list(trial.multipliers) not in ([], ["*"]):
            raise InputError(
                f"{trial.name}: a sensitivity analysis takes one multiplier at a time; "
                "see approxhub.sweep for assignments"
            )
        if trial.first is None:
            found.append(trial)  # the float model has no layer to look at alone
            continue
        found += [
            Trial(trial.name, {name: trial.first}, name, trial.mapping)
            for name in names
            if any(matches([name], pattern) for pattern in patterns)
        ]
    return found
