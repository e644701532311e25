"""The contract of a gradient, clause by clause, as a pytest class to subclass.

Imports torch, the layers and pytest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from approxhub.multiplier import Multiplier, exact
from approxhub.nn import Gradient, Linear
from approxhub.nn.gradients import Arithmetic, ConvProduct, Grid, LinearProduct, Product
from approxhub.plugins import GradientInfo
from approxhub.testing.contract import at_once, broken, lopsided, offered, pytest

__all__ = ["GradientConformance"]

Pair = tuple[Tensor | None, Tensor | None]
_NAMES = ("activations", "weights")
_LINEAR = "a gradient is linear in `grad`: it is a vector times a Jacobian"


@dataclass(frozen=True, slots=True)
class Case:
    """A product of one shape, with operands, how they met, and the gradient of its result."""

    product: Product
    arithmetic: Arithmetic
    x: Tensor
    w: Tensor
    grad: Tensor


_SCALES = (0.02, 0.01, 0.5)


def _arithmetic(m: Multiplier) -> Arithmetic:
    """Codes of eight bits without zero points, at the scales of the cases."""
    x, w = (
        Grid(torch.tensor(s), torch.tensor(0, dtype=torch.int32), None, f)
        for s, f in zip(_SCALES, (m.a, m.b), strict=False)
    )
    return Arithmetic(m, x, w)


def _case(name: str, seed: int = 0) -> Case:
    """Real values of codes: small integers times a scale, as the layers give."""
    shapes = {
        "linear": ((5, 7), (3, 7), (5, 3)),
        "one row": ((1, 4), (2, 4), (1, 2)),
        "convolution": ((2, 4, 5, 6), (6, 2, 3, 2), (2, 6, 3, 3)),
    }
    product: Product = LinearProduct()
    if name == "convolution":
        product = ConvProduct(stride=(2, 2), padding=(0, 1, 1, 1), dilation=(1, 2), groups=2)
    generator = torch.Generator().manual_seed(seed)
    x, w, grad = (
        torch.randint(-127, 128, shape, generator=generator) * torch.tensor(scale)
        for shape, scale in zip(shapes[name], _SCALES, strict=True)
    )
    return Case(product, _arithmetic(lopsided("8s", "8s")), x, w, grad)


CASES = ("linear", "one row", "convolution")


def _turned(t: Tensor) -> Tensor:
    """The same numbers, with the last dimension outermost in memory."""
    return t.movedim(-1, 0).contiguous().movedim(0, -1)


class GradientConformance:
    """All that a gradient of an approximate product must hold, as tests.

    Subclass it in a test module, and say how the gradient is made.

    Examples
    --------
    >>> from approxhub.nn import StraightThrough
    >>> class TestStraightThrough(GradientConformance):
    ...     straight_through = True
    ...
    ...     def make_gradient(self):
    ...         return StraightThrough()
    """

    straight_through: ClassVar[bool] = False
    """Whether it claims to be the exact product's gradient where the multiplier is exact."""

    linear: ClassVar[bool] = True
    """False for one that recodes the incoming gradient, e.g. to put it through a circuit."""

    random: ClassVar[bool] = False
    """Whether it draws random numbers; they have to come from torch's own generator."""

    def make_gradient(self) -> Gradient:
        """Return the gradient to test."""
        raise NotImplementedError(
            f"{type(self).__name__} must say how its gradient is made: def make_gradient(self)"
        )

    def _of(
        self, case: Case, needs: tuple[bool, bool] = (True, True), grad: Tensor | None = None
    ) -> Pair:
        """Both gradients of a case, checked to be a pair."""
        return self._asked(self.make_gradient(), case, needs, grad)

    def _asked(
        self,
        gradient: Gradient,
        case: Case,
        needs: tuple[bool, bool] = (True, True),
        grad: Tensor | None = None,
    ) -> Pair:
        """The same of a given gradient; torch's generator is always in the same state."""
        grad = case.grad if grad is None else grad
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            found = gradient.backward(grad, case.x, case.w, case.product, case.arithmetic, needs)
        if not isinstance(found, tuple) or len(found) != 2:
            broken("backward() returns a pair: for activations, for weights", f"gave {found!r}")
        return found

    def _both(self, case: Case, grad: Tensor | None = None) -> tuple[Tensor, Tensor]:
        gx, gw = self._of(case, grad=grad)
        if gx is None or gw is None:
            broken(
                "None stands only for a gradient that is not wanted", "gave None for one that is"
            )
        return gx, gw

    # --- clauses ----------------------------------------------------------------------

    @pytest.mark.parametrize("name", CASES)
    def test_shapes(self, name: str) -> None:
        """Gradients are float32 tensors of the shapes of activations and weights."""
        case = _case(name)
        for who, found, like in zip(_NAMES, self._both(case), (case.x, case.w), strict=True):
            if not isinstance(found, Tensor):
                broken("gradients are tensors", f"gave {type(found).__name__} for the {who}")
            if found.shape != like.shape or found.dtype != like.dtype:
                broken(
                    "a gradient has the shape and type of what it is of",
                    f"gave {found.dtype} of {tuple(found.shape)} for {who} of {tuple(like.shape)}",
                )

    @pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)], ids=str)
    @pytest.mark.parametrize("name", CASES)
    def test_what_is_wanted(self, name: str, needs: tuple[bool, bool]) -> None:
        """What is not wanted is None, and what is wanted does not depend on the other."""
        case = _case(name)
        both, found = self._both(case), self._of(case, needs)
        for who, wanted, got, want in zip(_NAMES, needs, found, both, strict=True):
            if not wanted and got is not None:
                broken("None stands for what is not wanted", f"computed that of the {who}")
            if wanted and (got is None or not (self.random or torch.equal(got, want))):
                broken("what is wanted does not depend on the other", f"changed for the {who}")

    @pytest.mark.parametrize("name", CASES)
    def test_it_is_finite(self, name: str) -> None:
        """Finite operands give finite gradients, zeros and the largest codes too."""
        case = _case(name)
        zeros = replace(case, x=case.x * 0, w=case.w * 0)
        largest = replace(case, x=case.x * 0 + 2.54, w=case.w * 0 - 1.28)
        for tried in (case, zeros, largest):
            for who, found in zip(_NAMES, self._both(tried), strict=True):
                if not torch.isfinite(found).all():
                    broken("finite operands give finite gradients", f"did not for the {who}")

    @pytest.mark.parametrize("name", CASES)
    def test_it_is_linear(self, name: str) -> None:
        """Zero gives zero, twice gives twice (exactly), and sums give sums (but for rounding)."""
        if not self.linear:
            pytest.skip("linear is False: it recodes the incoming gradient")
        case, other = _case(name), _case(name, seed=1)
        once, more = self._both(case), self._both(case, other.grad)
        twice, total = self._both(case, 2 * case.grad), self._both(case, case.grad + other.grad)
        none = self._both(case, torch.zeros_like(case.grad))
        for i, who in enumerate(_NAMES):
            if none[i].any():
                broken(_LINEAR, f"a zero gradient gave something for the {who}")
            if not torch.equal(twice[i], 2 * once[i]):
                broken(_LINEAR, f"twice the gradient did not give twice that of the {who}")
            if not torch.allclose(total[i], once[i] + more[i], rtol=1e-4, atol=1e-4):
                broken(_LINEAR, f"a sum of gradients did not give the sum for the {who}")

    @pytest.mark.parametrize("name", CASES)
    def test_operands_are_unchanged(self, name: str) -> None:
        """Operands and incoming gradient stay as they are, and nothing of them is returned."""
        case = _case(name)
        given = (case.grad, case.x, case.w)
        before = [t.clone() for t in given]
        found = self._both(case)
        if not all(torch.equal(t, b) for t, b in zip(given, before, strict=True)):
            broken("backward() leaves its operands unchanged", "changed one")
        owned = {t.untyped_storage().data_ptr() for t in given}
        if any(t.untyped_storage().data_ptr() in owned for t in found):
            broken("a gradient is a new tensor", "returned memory of an operand")

    def test_it_keeps_nothing(self) -> None:
        """One gradient serves all layers, so what one asked does not change another's answer."""
        case, first = _case("linear"), self.make_gradient()
        other = replace(
            _case("convolution", seed=3), arithmetic=_arithmetic(lopsided("8s", "8s", seed=3))
        )
        want, _, again = (self._asked(first, c) for c in (case, other, case))
        fresh = self._both(case)
        for who, a, b, c in zip(_NAMES, want, again, fresh, strict=True):
            if a is None or b is None or not (torch.equal(a, b) and torch.equal(a, c)):
                broken("a gradient depends on what it is given alone", f"changed for the {who}")

    @pytest.mark.parametrize("name", CASES)
    def test_any_strides(self, name: str) -> None:
        """Tensors of any strides give what contiguous ones do, stride 0 of a sum's too."""
        case = _case(name)
        for grad in (case.grad, case.grad[:1, :1].expand(case.grad.shape)):
            laid_out = replace(case, x=_turned(case.x), w=_turned(case.w), grad=grad)
            plain = replace(case, grad=grad.contiguous())
            clause = "backward() takes tensors of any strides"
            try:
                found = self._both(laid_out)
            except RuntimeError as error:
                broken(clause, f"raised {error}")
            for who, got, want in zip(_NAMES, found, self._both(plain), strict=True):
                same = torch.allclose(got, want, rtol=1e-5, atol=1e-5)
                if not (self.random or same):
                    broken(clause, f"gave another gradient for the {who}")

    def test_several_threads(self) -> None:
        """Several threads ask one gradient at a time, as they train several models."""
        if self.random:
            pytest.skip("random is True: threads share torch's generator")
        case, gradient = _case("linear"), self.make_gradient()
        want = self._both(case)

        def work() -> tuple[Tensor | None, Tensor | None]:
            return gradient.backward(
                case.grad, case.x, case.w, case.product, case.arithmetic, (True, True)
            )

        for found in at_once(work):
            if any(a is None or not torch.equal(a, b) for a, b in zip(found, want, strict=True)):
                broken("a gradient may be asked from several threads", "gave other gradients")

    @pytest.mark.parametrize("name", CASES)
    def test_straight_through(self, name: str) -> None:
        """Where it claims that, it is the exact product's for the exact multiplier, bit for bit."""
        if not self.straight_through:
            pytest.skip("straight_through is False: it does not claim that")
        case = replace(_case(name), arithmetic=_arithmetic(exact(8)))
        want = (
            case.product.grad_input(case.grad, case.w, case.x),
            case.product.grad_weight(case.grad, case.x, case.w),
        )
        for who, found, wanted in zip(_NAMES, self._both(case), want, strict=True):
            if not torch.equal(found, wanted):
                broken(
                    "with the exact multiplier it is the exact product's", f"differs for the {who}"
                )

    @pytest.mark.parametrize("approximate", [False, True], ids=["exact", "approximate"])
    def test_in_a_layer(self, approximate: bool) -> None:
        """A layer trains with it by name: weights and activations get finite gradients."""
        torch.manual_seed(0)
        name, gradient = "conformance-gradient", self.make_gradient()
        m = lopsided("8s", "8s") if approximate else exact(8)
        with offered("approxhub_gradients", GradientInfo(name, lambda: gradient)):
            layer = Linear(6, 4, multiplier=m, gradient=name)
            x = torch.randn(5, 6, requires_grad=True)
            layer(x).square().sum().backward()
        for who, found in (("activations", x.grad), ("weights", layer.weight.grad)):
            if found is None or not torch.isfinite(found).all():
                broken("a layer trains with it by name", f"gave {found} for the {who}")
