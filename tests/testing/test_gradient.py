"""The kit for gradients: right ones pass, and each way to be wrong is caught."""

# ruff: noqa: D102 - the methods of the made-up gradients are those of the protocol
from __future__ import annotations

import itertools
import time

import pytest
import torch

from approxhub.nn import StraightThrough
from approxhub.nn.gradients import make_gradient
from approxhub.testing import GradientConformance


class Right(StraightThrough):
    """What is right."""


class NotAPair(Right):
    def backward(self, *args):
        return [*super().backward(*args), None]


class Transposed(Right):
    def backward(self, grad, x, w, product, arithmetic, needs):
        found = super().backward(grad, x, w, product, arithmetic, needs)
        return tuple(None if t is None else t.movedim(0, -1) for t in found)


class Doubles(Right):
    def backward(self, *args):
        return tuple(None if t is None else t.double() for t in super().backward(*args))


class AlwaysBoth(Right):
    def backward(self, grad, x, w, product, arithmetic, needs):
        return super().backward(grad, x, w, product, arithmetic, (True, True))


class NeverWeights(Right):
    def backward(self, grad, x, w, product, arithmetic, needs):
        return super().backward(grad, x, w, product, arithmetic, (needs[0], False))


class Entangled(Right):
    def backward(self, grad, x, w, product, arithmetic, needs):
        gx, gw = super().backward(grad, x, w, product, arithmetic, needs)
        return gx if gw is None or gx is None else gx * 0.5, gw


class Divides(Right):
    def backward(self, grad, x, w, product, arithmetic, needs):
        return super().backward(grad, x, 1 / w, product, arithmetic, needs)


class Clips(Right):
    def backward(self, grad, x, w, product, arithmetic, needs):
        return super().backward(grad.clamp(-1, 1), x, w, product, arithmetic, needs)


class Offset(Right):
    def backward(self, grad, x, w, product, arithmetic, needs):
        return super().backward(grad + 1, x, w, product, arithmetic, needs)


class Squares(Right):
    """Twice gives twice, and yet sums do not give sums."""

    def backward(self, grad, x, w, product, arithmetic, needs):
        return super().backward(grad * (grad > grad.mean()), x, w, product, arithmetic, needs)


class Mutates(Right):
    def backward(self, grad, x, w, product, arithmetic, needs):
        return super().backward(grad.mul_(0.5), x, w, product, arithmetic, needs)


class ReturnsOperand(Right):
    def backward(self, grad, x, w, product, arithmetic, needs):
        _, gw = super().backward(grad, x, w, product, arithmetic, needs)
        return (x if needs[0] else None), gw


class Remembers(Right):
    calls = itertools.count(1)

    def backward(self, grad, x, w, product, arithmetic, needs):
        return super().backward(grad * next(self.calls), x, w, product, arithmetic, needs)


class Damped(Right):
    def backward(self, grad, x, w, product, arithmetic, needs):
        return super().backward(grad * 0.5, x, w, product, arithmetic, needs)


class Views(Right):
    """Takes its tensors to lie row by row."""

    def backward(self, grad, x, w, product, arithmetic, needs):
        return super().backward(grad, x.view(-1).view(x.shape), w, product, arithmetic, needs)


class Halfway(Right):
    """Keeps how far it is on itself."""

    def backward(self, *args):
        self.here = getattr(self, "here", 0) + 1
        time.sleep(0.005)
        self.here, before = self.here - 1, self.here
        return tuple(None if t is None else t * before for t in super().backward(*args))


class LosesWeights(Right):
    def backward(self, grad, x, w, product, arithmetic, needs):
        gx, _ = super().backward(grad, x, w, product, arithmetic, needs)
        return gx, torch.full_like(w, torch.nan)


def kit_of(gradient: type, claims: bool = True) -> type[GradientConformance]:
    """The kit on a gradient."""

    class Kit(GradientConformance):
        straight_through = claims

        def make_gradient(self):
            return gradient()

    return Kit


class OwnDice(Right):
    """Draws from a generator of its own, which no seed of the user's reaches."""

    dice = torch.Generator()

    def backward(self, grad, x, w, product, arithmetic, needs):
        noise = torch.rand(grad.shape, generator=self.dice)
        return super().backward(grad + noise, x, w, product, arithmetic, needs)


WRONG = [
    (NotAPair, "test_shapes", "a pair"),
    (Transposed, "test_shapes", "shape and type"),
    (Doubles, "test_shapes", "torch.float64"),
    (AlwaysBoth, "test_what_is_wanted", "None stands for what is not wanted"),
    (Entangled, "test_what_is_wanted", "does not depend on the other"),
    (NeverWeights, "test_shapes", "None for one that is"),
    (Divides, "test_it_is_finite", "finite operands"),
    (Clips, "test_it_is_linear", "twice"),
    (Offset, "test_it_is_linear", "a zero gradient"),
    (Squares, "test_it_is_linear", "a sum of gradients"),
    (Mutates, "test_operands_are_unchanged", "changed one"),
    (ReturnsOperand, "test_operands_are_unchanged", "memory of an operand"),
    (Remembers, "test_it_keeps_nothing", "alone"),
    (Views, "test_any_strides", "raised"),
    (Halfway, "test_several_threads", "other gradients"),
    (Damped, "test_straight_through", "the exact product"),
    (LosesWeights, "test_in_a_layer", "for the weights"),
]


@pytest.mark.parametrize(
    ("gradient", "clause", "words"), WRONG, ids=lambda v: getattr(v, "__name__", None)
)
def test_a_wrong_gradient_is_caught(gradient, clause, words, run_kit):
    """Each fault breaks its clause, and the message says what the contract is."""
    failed = run_kit(kit_of(gradient), clause)
    assert words in failed[clause]
    assert "The contract says: " in failed[clause]


def test_a_right_gradient_passes(run_kit):
    """The built-in straight-through gradient holds the contract, and one that claims less too."""
    assert run_kit(kit_of(StraightThrough)) == {}
    assert run_kit(kit_of(Damped, claims=False)) == {}


def test_random_gradients_obey_the_seed(run_kit):
    """A gradient that draws from torch's generator passes as such; from elsewhere it does not."""

    class Kit(GradientConformance):
        linear, random = False, True

        def make_gradient(self):
            return make_gradient("approximate-backward")

    assert run_kit(Kit) == {}

    class Own(Kit):
        def make_gradient(self):
            return OwnDice()

    assert set(run_kit(Own)) == {"test_it_keeps_nothing"}


def test_every_clause_is_broken_by_something():
    """No clause of the kit is there that nothing can fail."""
    clauses = {name for name in dir(GradientConformance) if name.startswith("test_")}
    assert clauses == {clause for _, clause, _ in WRONG}
