"""The kit lets a right backend pass, and catches each way in which one can be wrong."""

# ruff: noqa: D102 - the methods of the made-up backends are those of the protocol
from __future__ import annotations

import math
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from approxhub.testing import BackendConformance

Failed = pytest.fail.Exception
Skipped = pytest.skip.Exception


class Gather:
    """A right backend in a few lines: every product looked up at once."""

    def unavailable_reason(self):
        return None

    def supports(self, request):
        return request.multiplier.has_table and request.m * request.k * request.n < 2**24

    def cost(self, request):
        return 1e-5 + 1e-8 * request.m * request.k * request.n

    def prepare(self, multiplier, device, weight_codes=None):
        return multiplier.a.size - 1, multiplier.b.size - 1, self.table(multiplier).to(device)

    def table(self, multiplier):
        return torch.tensor(multiplier.table)

    def products(self, a, b, prepared):
        a_mask, b_mask, table = prepared
        return table[(a.long() & a_mask).unsqueeze(-1), b.long() & b_mask]

    def gemm(self, a, b, prepared, dtype):
        return self.products(a, b, prepared).sum(-2, dtype=dtype)


class Transposed(Gather):
    """Looks up T[weight, activation]."""

    def table(self, multiplier):
        return torch.tensor(multiplier.table.T.copy())


class PadsInner(Gather):
    """Pads K to four with code 0, which goes through the table."""

    def gemm(self, a, b, prepared, dtype):
        pad = -b.shape[0] % 4
        a = torch.nn.functional.pad(a, (0, pad))
        return super().gemm(a, torch.nn.functional.pad(b, (0, 0, 0, pad)), prepared, dtype)


class Float32(Gather):
    """Sums in float32."""

    def gemm(self, a, b, prepared, dtype):
        return self.products(a, b, prepared).float().sum(-2).to(dtype)


class Float64(Gather):
    """Sums in float64, in any order."""

    def gemm(self, a, b, prepared, dtype):
        return self.products(a, b, prepared).double().sum(-2).to(dtype)


class Wraps(Gather):
    """Sums in int32 whatever is asked for."""

    def gemm(self, a, b, prepared, dtype):
        return super().gemm(a, b, prepared, torch.int32).to(dtype)


class Saturates(Gather):
    """Stops at the ends of int32."""

    def gemm(self, a, b, prepared, dtype):
        info = torch.iinfo(torch.int32)
        return super().gemm(a, b, prepared, torch.int64).clamp(info.min, info.max).to(dtype)


class Narrow(Gather):
    """Keeps products in 16 bits."""

    def table(self, multiplier):
        return super().table(multiplier).to(torch.int16)


class Mutates(Gather):
    """Leaves patterns behind in its operand."""

    def gemm(self, a, b, prepared, dtype):
        out = super().gemm(a, b, prepared, dtype)
        a &= 7
        return out


class Flattens(Gather):
    """Forgets the leading dimensions."""

    def gemm(self, a, b, prepared, dtype):
        return super().gemm(a.reshape(-1, a.shape[-1]), b, prepared, dtype)


class Folds(Gather):
    """Uses the first of the leading dimensions for all."""

    def gemm(self, a, b, prepared, dtype):
        first = a.reshape(-1, *a.shape[-2:])[0]
        return super().gemm(first, b, prepared, dtype).expand(*a.shape[:-1], -1).clone()


class NoSigns(Gather):
    """Takes the magnitude of a value for its pattern."""

    def products(self, a, b, prepared):
        return super().products(a.long().abs(), b.long().abs(), prepared)


class IgnoresStrides(Gather):
    """Reads operands as if they lay row by row."""

    def gemm(self, a, b, prepared, dtype):
        flat = torch.as_strided(b, b.shape, (b.shape[1], 1))
        return super().gemm(a, flat, prepared, dtype)


class OnlyBytes(Gather):
    """Reads every operand as int8."""

    def products(self, a, b, prepared):
        return super().products(a.to(torch.int8), b, prepared)


class SharedResult(Gather):
    """Hands out one workspace again and again."""

    spaces: dict = {}  # noqa: RUF012

    def gemm(self, a, b, prepared, dtype):
        out = super().gemm(a, b, prepared, dtype)
        return self.spaces.setdefault((out.shape, dtype), torch.empty_like(out)).copy_(out)


class RemembersWeights(Gather):
    """Knows constant weights by their address."""

    def __init__(self):
        self.known = {}

    def gemm(self, a, b, prepared, dtype):
        b = self.known.setdefault((b.data_ptr(), b.shape), b.clone())
        return super().gemm(a, b, prepared, dtype)


class OneTable(Gather):
    """Uses the table that was prepared last."""

    def prepare(self, multiplier, device, weight_codes=None):
        self.last = super().prepare(multiplier, device)

    def gemm(self, a, b, prepared, dtype):
        return super().gemm(a, b, self.last, dtype)


class NotThreadSafe(Gather):
    """Keeps an operand in itself for a moment."""

    def gemm(self, a, b, prepared, dtype):
        self.a = a
        time.sleep(0.002)
        return super().gemm(self.a, b, prepared, dtype)


class ForgetsHint(Gather):
    """Goes wrong when it is told the weights beforehand."""

    def prepare(self, multiplier, device, weight_codes=None):
        mask_a, mask_b, table = super().prepare(multiplier, device)
        return mask_a, mask_b, table if weight_codes is None else table + 1


class SkipsRemainder(Gather):
    """Runs columns in fours, and leaves the rest."""

    def gemm(self, a, b, prepared, dtype):
        out = super().gemm(a, b, prepared, dtype)
        if b.shape[1] > 4 and b.shape[1] % 4:
            out[..., b.shape[1] // 4 * 4 :] = 0
        return out


class Sometimes(Gather):
    """Gives something else the second time."""

    count = 0

    def gemm(self, a, b, prepared, dtype):
        self.count += 1
        out = super().gemm(a, b, prepared, dtype)
        return out + (self.count > 1)


class WrongType(Gather):
    """Always returns int64."""

    def gemm(self, a, b, prepared, dtype):
        return super().gemm(a, b, prepared, torch.int64)


class Refuses(Gather):
    """Supports nothing, and so is never wrong."""

    def supports(self, request):
        return False


class Yes(Gather):
    """Answers with something that is not a bool."""

    def supports(self, request):
        return "yes"


class NoCost(Gather):
    """Has no idea."""

    def cost(self, request):
        return math.nan


class Free(Gather):
    """Costs less the more there is to do."""

    def cost(self, request):
        return 1 / (request.m * request.k * request.n)


class Lacking:
    """Has no gemm."""

    unavailable_reason = supports = cost = prepare = Gather.unavailable_reason


class Mute(Gather):
    """Is unavailable for an empty reason."""

    def unavailable_reason(self):
        return ""


class Absent(Gather):
    """Is unavailable for a reason."""

    def unavailable_reason(self):
        return "no such card"


def kit(backend: type) -> BackendConformance:
    """The kit for one backend."""
    return type("Kit", (BackendConformance,), {"make_backend": lambda self: backend()})()


Check = Callable[[BackendConformance], None]

CATCHES: dict[type, tuple[Check, str]] = {
    Transposed: (lambda k: k.test_the_activation_comes_first(), r"read as T\[b, a\]"),
    PadsInner: (lambda k: k.test_padding_never_reaches_the_table(), r"x T\[0\]\[0\]: elements"),
    Float32: (
        lambda k: k.test_sums_beyond_float32(_case("8ux8u-near")),
        "rounded, as floating point does",
    ),
    Float64: (lambda k: k.test_sums_beyond_float64(_case("4ux4u-any")), "rounded"),
    Wraps: (lambda k: k.test_sums_beyond_int32(_case("8sx8s-any")), "wrap at int32"),
    Saturates: (lambda k: k.test_sums_beyond_int32(_case("8ux8u-near")), "saturate at int32"),
    Narrow: (lambda k: k.test_every_entry_of_the_table(_case("8ux8u-near")), "sums are wrong"),
    Mutates: (lambda k: k.test_sums_are_exact(_case("8ux8u-near")), "changed operand a"),
    Flattens: (lambda k: k.test_leading_dimensions((2, 3)), r"shape \(30, 4\)"),
    Folds: (lambda k: k.test_leading_dimensions((2,)), "sums are wrong"),
    NoSigns: (
        lambda k: k.test_every_entry_of_the_table(_case("8sx8s-near")),
        "two's-complement bit patterns",
    ),
    IgnoresStrides: (lambda k: k.test_layouts("plain", "transposed"), r"strides .* \(1, 9\)"),
    OnlyBytes: (lambda k: k.test_sums_are_exact(_case("12ux4s-near")), "12u x 4s"),
    SharedResult: (lambda k: k.test_results_are_the_callers_own(), "changed an earlier result"),
    RemembersWeights: (lambda k: k.test_new_values_in_the_same_memory(), "keeps nothing"),
    OneTable: (lambda k: k.test_several_prepared_multipliers(), "sums are wrong"),
    NotThreadSafe: (lambda k: k.test_several_threads(), "from any thread"),
    ForgetsHint: (lambda k: k.test_constant_weights_are_a_hint(), "sums are wrong"),
    SkipsRemainder: (lambda k: k.test_outer_sizes(3, 17), "column 16 is 0"),
    Sometimes: (lambda k: k.test_it_is_deterministic(), "gave different ones"),
    WrongType: (lambda k: k.test_sums_are_exact(_case("4ux4u-near")), "returned torch.int64"),
    Refuses: (lambda k: k.test_it_supports_something(), "refused all of 8ux8u-near"),
    Yes: (lambda k: k.test_supports_and_cost_answer(_case("8ux8u-near")), "returned 'yes'"),
    NoCost: (lambda k: k.test_supports_and_cost_answer(_case("8ux8u-near")), "returned nan"),
    Lacking: (lambda k: k.test_it_has_the_five_methods(), r"lacks \['gemm'\]"),
    Mute: (lambda k: k.test_it_says_why_it_is_unavailable(), "returned ''"),
}


def _case(name: str):
    from approxhub.testing.backend import CASES, LONGER_SUMS

    return next(c for c in (*CASES, *LONGER_SUMS) if str(c) == name)


@pytest.mark.parametrize("fault", CATCHES, ids=lambda f: f.__name__)
def test_a_fault_is_caught(fault: type) -> None:
    """A wrong backend fails the test of that clause, with a message that names the fault."""
    check, message = CATCHES[fault]
    with pytest.raises(Failed, match=f"(?s)^The contract says: .*{message}"):
        check(kit(fault))


@pytest.mark.parametrize("fault", CATCHES, ids=lambda f: f.__name__)
def test_the_same_check_passes_a_right_backend(fault: type) -> None:
    """What catches a fault does not catch a right backend."""
    CATCHES[fault][0](kit(Gather))


def test_a_wrong_order_of_costs_is_caught() -> None:
    """A backend that costs less the more there is to do fails where it supports the sizes."""

    class Any(Free):
        def supports(self, request):
            return True

    with pytest.raises(Failed, match="cheapest backend is taken"):
        kit(Any).test_more_work_does_not_cost_less()


def test_an_unavailable_backend_is_skipped_with_its_reason() -> None:
    """Where a backend cannot run, its sums are skipped, and the skip says why."""
    absent = kit(Absent)
    absent.test_it_says_why_it_is_unavailable()
    with pytest.raises(Skipped, match="no such card"):
        absent.test_it_supports_something()


def test_what_is_not_supported_is_skipped() -> None:
    """A multiplier that supports() refuses is skipped, not run."""
    with pytest.raises(Skipped, match="refuses 16u x 16u"):
        kit(Gather).test_sums_are_exact(_case("16ux16u-circuit"))


def test_a_kit_without_make_backend_says_so() -> None:
    """Forgetting make_backend is an error that says what to write."""

    class TestNothing(BackendConformance):
        pass

    with pytest.raises(NotImplementedError, match=r"TestNothing .* def make_backend"):
        TestNothing().test_it_supports_something()


def test_a_backend_is_made_once() -> None:
    """All tests of a class share one backend, as the core does."""
    made = []

    class TestMine(BackendConformance):
        def make_backend(self):
            made.append(threading.get_ident())
            return Gather()

    TestMine().test_it_supports_something()
    TestMine().test_the_activation_comes_first()
    assert len(made) == 1


class TestRightBackend(BackendConformance):
    """The whole kit passes a right backend that is not our own."""

    def make_backend(self):
        return Gather()


def test_run_by_pytest(tmp_path: Path) -> None:
    """In a test module of one's own, a right backend passes and a wrong one fails."""
    (tmp_path / "test_mine.py").write_text(
        textwrap.dedent(f"""\
            import runpy

            from approxhub.testing import BackendConformance

            found = runpy.run_path({__file__!r})


            class TestRight(BackendConformance):
                def make_backend(self):
                    return found["Gather"]()


            class TestWrong(BackendConformance):
                def make_backend(self):
                    return found["Transposed"]()
            """)
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "-rf",
         "-W", "error", "-k", "supports_something or every_entry or comes_first", "test_mine.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "T[b, a]" in done.stdout
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) > 5
    assert all("TestWrong" in line for line in failed)


def test_only_the_kit_needs_pytest() -> None:
    """Without pytest the core imports; the kit raises an error that says how to get it."""
    code = """\
        import sys

        sys.modules["pytest"] = None
        import approxhub as ah, approxhub.cli

        [getattr(ah, name) for name in ah.__all__]
        try:
            import approxhub.testing
        except ah.ApproxHubError as error:
            print(error)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert "pip install 'approxhub[test]'" in done.stdout
