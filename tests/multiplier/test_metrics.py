"""Error metrics against a loop over Python's own integers and fractions."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from approxhub.errors import InputError, TableError
from approxhub.metrics import Metrics, exhaustive_metrics, sampled_metrics
from approxhub.multiplier import Multiplier, exact
from approxhub.operands import OperandFormat

SIGNS = list(product((False, True), repeat=2))


def slow(table, a: OperandFormat, b: OperandFormat, p_a=None, p_b=None) -> dict[str, Fraction]:
    """All metrics by their definitions, exactly; weights in ascending order of values."""
    p_a = p_a or [1] * a.size
    p_b = p_b or [1] * b.size
    total = sum(p_a) * sum(p_b)
    out = dict.fromkeys(("mae", "wce", "mse", "mre_pct", "wcre_pct", "ep_pct", "bias"), Fraction(0))
    nonzero = Fraction(0)
    for i, x in enumerate(range(a.min, a.max + 1)):
        for j, w in enumerate(range(b.min, b.max + 1)):
            p = Fraction(p_a[i] * p_b[j], total)
            error = int(table[x % a.size][w % b.size]) - x * w
            out["mae"] += p * abs(error)
            out["mse"] += p * error**2
            out["bias"] += p * error
            out["ep_pct"] += 100 * p * (error != 0)
            if p:
                out["wce"] = max(out["wce"], Fraction(abs(error)))
            if x * w:
                relative = 100 * Fraction(abs(error), abs(x * w))
                out["mre_pct"] += p * relative
                nonzero += p
                if p:
                    out["wcre_pct"] = max(out["wcre_pct"], relative)
    out["mre_pct"] = out["mre_pct"] / nonzero if nonzero else Fraction(0)
    return out


def assert_same(found: Metrics, expected: dict[str, Fraction]) -> None:
    """Worst case equal, means to float precision."""
    assert found.wce == expected["wce"]
    for key, value in expected.items():
        assert getattr(found, key) == pytest.approx(float(value), rel=1e-12, abs=1e-12), key


def noisy(a: OperandFormat, b: OperandFormat, seed: int, spread: int) -> np.ndarray:
    """The exact table with errors of up to `spread`."""
    rng = np.random.default_rng(seed)
    error = rng.integers(-spread, spread, (a.size, b.size), endpoint=True)
    return (np.outer(a.values(), b.values()) + error).astype(np.int32)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(SIGNS),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 40, 10**9]),
)
def test_metrics_equal_the_slow_loop(bits_a, bits_b, signs, seed, spread):
    """On any table of any small formats all metrics follow their definitions."""
    a, b = OperandFormat(bits_a, signs[0]), OperandFormat(bits_b, signs[1])
    table = noisy(a, b, seed, spread)
    assert_same(exhaustive_metrics(table, a, b), slow(table, a, b))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(SIGNS), st.integers(0, 2**32 - 1))
def test_metrics_under_distributions_equal_the_slow_loop(data, signs, seed):
    """With weights in ascending order of values, zeros among them, all definitions hold."""
    a, b = OperandFormat(3, signs[0]), OperandFormat(2, signs[1])
    weights = st.integers(0, 5)
    p_a = data.draw(st.lists(weights, min_size=8, max_size=8).filter(any))
    p_b = data.draw(st.lists(weights, min_size=4, max_size=4).filter(any))
    table = noisy(a, b, seed, 9)
    assert_same(exhaustive_metrics(table, a, b, p_a, p_b), slow(table, a, b, p_a, p_b))
    assert_same(exhaustive_metrics(table, a, b, p_b=p_b), slow(table, a, b, None, p_b))


def test_metrics_of_an_8x8_table_equal_the_slow_loop():
    """A full signed 8x8 table with a known seed."""
    f = OperandFormat(8, True)
    table = noisy(f, f, 7, 300)
    m = Multiplier.from_table(table, name="noisy", a_signed=True, b_signed=True)
    assert_same(m.metrics, slow(table, f, f))
    assert (m.metrics.method, m.metrics.samples, m.metrics.interval) == ("exhaustive", 65536, {})


def test_percentages_divide_by_the_whole_range():
    """MAE% and WCE% divide by 2**(bits_a + bits_b), signed operands too."""
    for signed in (False, True):
        f = OperandFormat(8, signed)
        table = np.outer(f.values(), f.values()) + 64
        m = Multiplier.from_table(table, name="m", a_signed=signed, b_signed=signed).metrics
        assert (m.mae, m.wce, m.bias, m.ep_pct) == (64, 64, 64, 100)
        assert m.mae_pct == m.wce_pct == 100 * 64 / 65536


def test_bias_has_a_sign():
    """A multiplier that is always too small has a negative bias, T - X."""
    f = OperandFormat(4, False)
    assert exhaustive_metrics(np.outer(f.values(), f.values()) - 2, f, f).bias == -2


def test_relative_errors_leave_out_products_that_are_zero():
    """An error at X = 0 counts in MAE and EP and not in MRE and WCRE."""
    m = Multiplier.from_function(lambda a, b: a * b + 8 * (a == 0), name="m", a="4u", b="4u")
    assert m.metrics.mae == 0.5
    assert m.metrics.ep_pct == 6.25
    assert (m.metrics.mre_pct, m.metrics.wcre_pct) == (0, 0)


def test_a_distribution_is_over_values_not_patterns():
    """The first weight belongs to the smallest value: -4 for 3s."""
    f = OperandFormat(3, True)
    table = np.outer(f.values(), f.values())
    table[f.to_pattern(-4)] += 1  # wrong where the activation is -4 only
    only_lowest = [1] + [0] * 7
    assert exhaustive_metrics(table, f, f, p_a=only_lowest).ep_pct == 100
    assert exhaustive_metrics(table, f, f, p_a=only_lowest[::-1]).ep_pct == 0
    assert exhaustive_metrics(table, f, f, p_b=only_lowest).ep_pct == 12.5


def test_all_weight_on_zero_leaves_no_relative_error():
    """Where only zero products occur, MRE is 0 rather than a division by zero."""
    f = OperandFormat(2, False)
    metrics = exhaustive_metrics(noisy(f, f, 1, 3), f, f, p_a=[1, 0, 0, 0])
    assert (metrics.mre_pct, metrics.wcre_pct) == (0, 0)


def test_a_uniform_distribution_is_the_default():
    """Equal weights of any size give the metrics of none."""
    f = OperandFormat(5, True)
    table = noisy(f, f, 3, 20)
    assert exhaustive_metrics(table, f, f, np.full(32, 4.0), np.full(32, 0.5)) == (
        exhaustive_metrics(table, f, f)
    )


@pytest.mark.parametrize(
    ("p", "text"),
    [
        ([1] * 15, "expected 16 weights"),
        ([[1] * 16], "expected 16 weights"),
        (["a"] * 16, "not an array of numbers"),
        ([0] * 16, "not all 0"),
        ([-1] + [1] * 15, "not negative"),
        ([float("nan")] + [1] * 15, "finite"),
        ([float("inf")] + [1] * 15, "finite"),
    ],
)
@pytest.mark.parametrize("which", ["p_a", "p_b"])
def test_bad_distributions_are_refused(p, text, which):
    """Wrong lengths and weights are refused, and the error names the operand."""
    with pytest.raises(InputError, match=f"operand {which[-1]}: .*{text}"):
        exact(4).metrics_under(**{which: p})


def test_distributions_need_a_table():
    """Wide multipliers have no metrics under a distribution."""
    with pytest.raises(TableError, match="too many for a table"):
        exact(16).metrics_under(p_a=np.ones(65536))


def test_sampled_intervals_cover_the_exhaustive_value():
    """About 95 of 100 samples' intervals hold each true mean, and no worst case is exceeded.

    The errors grow with the product, as those of most designs do; a few huge relative errors of
    small products would need more samples before their mean is normal.
    """
    f = OperandFormat(8, True)
    x = np.outer(f.values(), f.values())
    share = np.random.default_rng(5).integers(-20, 10, x.shape)
    m = Multiplier.from_table(x + x * share // 128, name="m", a_signed=True, b_signed=True)
    truth = m.metrics
    samples = [sampled_metrics(m.evaluate, f, f, samples=3000, seed=s) for s in range(100)]
    for key in ("mae", "mse", "mre_pct", "ep_pct", "bias"):
        true = getattr(truth, key)
        inside = sum(s.interval[key][0] <= true <= s.interval[key][1] for s in samples)
        assert 85 <= inside <= 100, key
    assert max(s.wce for s in samples) <= truth.wce
    assert max(s.wcre_pct for s in samples) <= truth.wcre_pct + 1e-9


def test_a_sample_is_repeatable():
    """The same seed gives the same metrics, another seed others; the method is stated."""
    f = OperandFormat(16, False)

    def evaluate(a, b):
        return a * b & ~0xFF

    one = sampled_metrics(evaluate, f, f, samples=1000, seed=1)
    assert one == sampled_metrics(evaluate, f, f, samples=1000, seed=1)
    assert one != sampled_metrics(evaluate, f, f, samples=1000, seed=2)
    assert (one.method, one.samples, one.range_bits) == ("sampled", 1000, 32)


def test_a_sample_reaches_both_ends_of_the_range():
    """Samples are drawn from the smallest to the largest value, both included."""
    seen = {}

    def evaluate(a, b):
        seen.update(a=(a.min(), a.max()), b=(b.min(), b.max()))
        return a * b

    a, b = OperandFormat(3, True), OperandFormat(2, False)
    metrics = sampled_metrics(evaluate, a, b, samples=2000)
    assert seen == {"a": (-4, 3), "b": (0, 3)}
    assert (metrics.mae, metrics.wce, metrics.ep_pct) == (0, 0, 0)


def test_json_holds_plain_numbers():
    """What the command line prints survives JSON."""
    text = json.dumps(exact(4).metrics.to_json())
    assert set(json.loads(text)) == {
        "mae",
        "mae_pct",
        "wce",
        "wce_pct",
        "mse",
        "mre_pct",
        "wcre_pct",
        "ep_pct",
        "bias",
    }
    assert set(json.loads(text).values()) == {0}
