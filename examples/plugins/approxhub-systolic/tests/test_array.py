"""Sums, cycles and energy of the array, against loops written down by hand."""

import pytest
import torch
from approxhub_systolic import SystolicArray, measure

import approxhub as ah
from approxhub.errors import BackendUnavailableError
from approxhub.multiplier import Hardware

M = ah.Multiplier.from_table(
    ((torch.arange(256)[:, None] % 97 * torch.arange(256)) % 4099 - 1500).numpy(),
    name="bent", a_signed=True, hardware=Hardware(power_mw=0.5),
)  # fmt: skip


def operands(m: int, k: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random values of both operands."""
    g = torch.Generator().manual_seed(k)
    return (
        torch.randint(-128, 128, (m, k), generator=g),
        torch.randint(0, 256, (k, n), generator=g),
    )


def by_hand(a: torch.Tensor, b: torch.Tensor, array: SystolicArray, overflow: str) -> list:
    """Python integers, one product after the other, tile after tile."""

    def limited(total: int) -> int:
        if overflow == "saturate":
            return max(-array.largest - 1, min(array.largest, total))
        span = 1 << array.accumulator_bits
        return (total + span // 2) % span - span // 2

    out = []
    for row in a.tolist():
        out.append([])
        for column in b.t().tolist():
            total = 0
            for start in range(0, len(row), array.rows):
                partial = 0
                for x, w in list(zip(row, column, strict=True))[start : start + array.rows]:
                    partial = limited(partial + int(M.table[x % 256, w]))
                total = limited(total + partial)
            out[-1].append(total)
    return out


def run(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """One product on the array."""
    with ah.use_backend("systolic"):
        return ah.matmul(a, b, M)


@pytest.mark.parametrize("bits", [8, 12, 13, 16])
@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@pytest.mark.parametrize("rows", [1, 4, 7, 64])
def test_overflow(bits: int, overflow: str, rows: int) -> None:
    """Sums that overflow are those of the adders, in the order of the tiles."""
    a, b = operands(3, 23, 5)
    array = SystolicArray(rows=rows, columns=2, accumulator_bits=bits)
    with measure(array, overflow=overflow):
        found = run(a, b)
    assert found.tolist() == by_hand(a, b, array, overflow)


def test_order_matters_where_it_saturates() -> None:
    """Another height of the array gives other saturated sums: the order is in the model."""
    a, b = operands(4, 64, 4)
    found = []
    for rows in (4, 64):
        with measure(SystolicArray(rows=rows, accumulator_bits=13), overflow="saturate"):
            found.append(run(a, b).tolist())
    assert found[0] != found[1]


def test_it_refuses_what_may_overflow() -> None:
    """Without being asked for, no sum is ever wrong: what may not fit is refused."""
    a, b = operands(2, 100, 2)
    with measure(SystolicArray(accumulator_bits=16)), pytest.raises(BackendUnavailableError):
        run(a, b)
    with measure(SystolicArray(accumulator_bits=32)):
        mine = run(a, b)
    with ah.use_backend("reference"):
        assert torch.equal(mine, ah.matmul(a, b, M))


def test_it_is_never_taken_by_chance() -> None:
    """Without being asked for by name, a product runs elsewhere."""
    a, b = operands(3, 9, 4)
    with measure(SystolicArray()) as count:
        ah.matmul(a, b, M)
    assert count.products == 0


def test_it_counts() -> None:
    """Products, cycles of 2 x 2 tiles, and 0.5 mW for 2 ns each."""
    a, b = operands(7, 20, 5)
    with measure(SystolicArray(rows=10, columns=3, clock_ns=2.0)) as count:
        run(a, b)
    assert count.products == 7 * 20 * 5
    assert count.cycles == 2 * 2 * (10 + 7 + 10 + 3 - 2)
    assert count.energy_pj == 7 * 20 * 5 * 0.5 * 2.0


def test_unknown_power_is_unknown_energy() -> None:
    """Of a formula no power is known, and so no energy."""
    a, b = operands(2, 3, 4)
    with measure(SystolicArray()) as count, ah.use_backend("systolic"):
        ah.matmul(a, b - 128, "drum:8s/k=4")
    assert count.products == 24
    assert count.energy_pj is None


def test_a_layer_runs_on_it() -> None:
    """A convolution is cut into products by ApproxHub, and counted once for all its taps."""
    layer = ah.nn.Conv2d(3, 4, 3, multiplier="drum:8s/k=4")
    x = torch.randn(2, 3, 8, 8)
    layer(x)
    layer.eval()
    with torch.no_grad(), ah.use_backend("systolic"), measure(SystolicArray()) as count:
        mine = layer(x)
    with torch.no_grad():
        assert torch.equal(mine, layer(x))
    assert count.products == 2 * 6 * 6 * 4 * 27


@pytest.mark.parametrize(
    "wrong", [{"rows": 0}, {"accumulator_bits": 64}, {"accumulator_bits": 1}, {"clock_ns": 0.0}]
)
def test_impossible_arrays(wrong: dict) -> None:
    """An array that cannot be is refused."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SystolicArray(**wrong)


def test_unknown_overflow() -> None:
    """What happens on overflow has one of three names."""
    with (
        pytest.raises(ValueError, match="refuse, saturate, wrap"),
        measure(SystolicArray(), overflow="clip"),
    ):
        pass
