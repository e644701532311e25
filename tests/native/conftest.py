"""Cases for the native engine, each with the sums that plain loops give, and their file.

A case is written as ``vectors.c`` reads it. Nothing here knows how the engine goes about its work.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

UNTOUCHED = 0x5A5A5A5A  # what the driver fills an output with; twice that if it is wide
ONE = (1, 1, 1)


def strides(shape: Sequence[int], order: Sequence[int], gap: int = 1) -> tuple[int, ...]:
    """Steps of axes that lie in memory in an order, the last innermost, `gap` elements apart."""
    steps = [0] * len(shape)
    for axis in reversed(order):
        steps[axis] = gap
        gap *= shape[axis]
    return tuple(steps)


def extent(shape: Sequence[int], steps: Sequence[int]) -> int:
    """Elements from the first to the last."""
    return 1 + sum((n - 1) * s for n, s in zip(shape, steps, strict=True)) if all(shape) else 0


@dataclass(frozen=True)
class Geometry:
    """Where the lanes lie; the fields of ``ah_geometry``."""

    images: int
    groups: int
    channels: int
    size: tuple[int, int, int]
    kernel: tuple[int, int, int] = ONE
    before: tuple[int, int, int] = (0, 0, 0)
    after: tuple[int, int, int] = (0, 0, 0)
    stride: tuple[int, int, int] = ONE
    dilation: tuple[int, int, int] = ONE
    order: tuple[int, ...] = (0, 1, 2, 3, 4)
    gap: int = 1
    pad: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Images, all channels, depth, height, width."""
        return (self.images, self.groups * self.channels, *self.size)

    @property
    def step(self) -> tuple[int, ...]:
        """Bytes from one of each to the next."""
        return strides(self.shape, self.order, self.gap)

    @property
    def taps(self) -> int:
        """Of the kernel."""
        return math.prod(self.kernel)

    @property
    def out(self) -> tuple[int, int, int]:
        """Output positions in each direction."""
        sides = zip(
            self.size, self.before, self.after, self.kernel, self.dilation, self.stride, strict=True
        )
        a, b, c = ((n + p + q - d * (k - 1) - 1) // s + 1 for n, p, q, k, d, s in sides)
        return a, b, c

    def patches(self, source: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """What each tap meets: (images, groups, channels, taps, *out)."""
        view = np.lib.stride_tricks.as_strided(source, self.shape, self.step)
        met = np.full((*self.shape[:2], self.taps, *self.out), self.pad, np.uint8)
        for tap, offset in enumerate(itertools.product(*map(range, self.kernel))):
            for position in itertools.product(*map(range, self.out)):
                at = [
                    p * s + o * d - b
                    for p, s, o, d, b in zip(
                        position, self.stride, offset, self.dilation, self.before, strict=True
                    )
                ]
                if all(0 <= i < n for i, n in zip(at, self.size, strict=True)):
                    z, y, x = position
                    met[:, :, tap, z, y, x] = view[:, :, at[0], at[1], at[2]]
        return met.reshape(self.images, self.groups, self.channels, *met.shape[2:])


@dataclass(frozen=True)
class Lookup:
    """Entries of a table, (row code, lane code), less a bias."""

    entries: npt.NDArray[np.uint16]
    bias: int

    def table(self) -> npt.NDArray[np.int64]:
        """Products, (row code, lane code)."""
        return self.entries.astype(np.int64) + self.bias

    def parts(self) -> list[npt.NDArray[np.generic]]:
        """What the file has of it: image, left, right, low, high, weight."""
        halves = [(self.entries & 255).astype(np.uint8), (self.entries >> 8).astype(np.uint8)]
        return [np.concatenate(halves, axis=1), *5 * [np.empty(0, np.uint8)]]


@dataclass(frozen=True)
class Planes:
    """A sum of byte products; the fields of ``ah_planes``."""

    left: npt.NDArray[np.uint8]
    right: npt.NDArray[np.int8]
    low: npt.NDArray[np.int32]
    high: npt.NDArray[np.int32]
    weight: npt.NDArray[np.int64]

    def table(self) -> npt.NDArray[np.int64]:
        """Products, (row code, lane code)."""
        total = np.zeros((256, 256), np.int64)
        for x, y, low, high, w in zip(
            self.left, self.right, self.low, self.high, self.weight, strict=True
        ):
            total += w * np.outer(x.astype(np.int64) - low, y.astype(np.int64) + high)
        return total

    def parts(self) -> list[npt.NDArray[np.generic]]:
        """What the file has of it: image, left, right, low, high, weight."""
        return [
            np.empty(0, np.uint8), self.left, self.right, self.low, self.high, self.weight,
        ]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One call of the engine; `rows` and outputs lie in memory in the order given."""

    name: str
    geometry: Geometry
    count: int
    tables: Lookup | Planes
    source: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.uint8] = field(repr=False)  # (groups * count, channels, taps)
    row_order: tuple[int, ...] = (0, 1, 2)
    out_order: tuple[int, ...] = (0, 1, 2, 3, 4)
    out_gap: int = 1
    wide: bool = False

    def sums(self) -> npt.NDArray[np.int64]:
        """What the engine has to find: (images, groups * count, *out)."""
        g, table = self.geometry, self.tables.table()
        patches = g.patches(self.source).reshape(g.images, g.groups, g.channels * g.taps, -1)
        rows = self.rows.reshape(g.groups, self.count, -1, 1)
        sums = np.empty((g.images, g.groups, self.count, patches.shape[-1]), np.int64)
        for image, group, row in np.ndindex(sums.shape[:3]):
            sums[image, group, row] = table[rows[group, row], patches[image, group]].sum(axis=0)
        return sums.reshape(g.images, g.groups * self.count, *g.out)

    def bytes(self) -> bytes:
        """The case as the driver reads it."""
        g, sums = self.geometry, self.sums()
        out_step = strides(sums.shape, self.out_order, self.out_gap)
        untouched = UNTOUCHED << 32 | UNTOUCHED if self.wide else UNTOUCHED
        expected = np.full(extent(sums.shape, out_step), untouched, np.int64)
        elements = [8 * s for s in out_step]
        np.lib.stride_tricks.as_strided(expected, sums.shape, elements)[...] = sums
        assert self.wide or abs(sums).max() < 2**31
        row_step = strides(self.rows.shape, self.row_order)
        planes = len(self.tables.weight) if isinstance(self.tables, Planes) else 0
        bias = self.tables.bias if isinstance(self.tables, Lookup) else 0
        numbers = [
            g.images, g.groups, g.channels, *g.size, *g.before, *g.out, *g.kernel, *g.stride,
            *g.dilation, *g.step, g.pad, self.count, self.wide, planes, bias, *out_step, *row_step,
        ]  # fmt: skip
        parts = [
            self.name.encode() + b"\0", np.array(numbers, np.int64), self.source,
            self.rows.transpose(self.row_order), *self.tables.parts(), expected,
        ]  # fmt: skip
        return b"".join(
            struct.pack("<q", len(data)) + data
            for data in (p if isinstance(p, bytes) else p.tobytes() for p in parts)
        )


def _tables(rng: np.random.Generator, planes: int) -> Lookup | Planes:
    """Any tables that do not commute and whose first entry is not 0."""
    if planes == 0:
        bias = -int(rng.integers(0, 40000))
        entries = rng.integers(0, 2**16, (256, 256)).astype(np.uint16)
        entries[0, 0] = 64 - bias
        return Lookup(entries, bias)
    left = rng.integers(0, 256, (planes, 256)).astype(np.uint8)
    right = rng.integers(-128, 128, (planes, 256)).astype(np.int8)
    low, high = (
        np.where(rng.random(planes) < 0.5, 0, rng.integers(*span, planes)).astype(np.int32)
        for span in ((1, 200), (-100, 256))
    )
    left[:, 0], right[:, 0] = 255, 127
    weight = np.sort(rng.choice([-3, 1, 256], planes)).astype(np.int64)  # equal ones together
    return Planes(left, right, low, high, weight)


def _case(
    rng: np.random.Generator, name: str, g: Geometry, count: int, planes: int, **layout: Any
) -> Case:
    rows = rng.integers(0, 256, (g.groups * count, g.channels, g.taps)).astype(np.uint8)
    source = rng.integers(0, 256, extent(g.shape, g.step)).astype(np.uint8)
    if planes == 0:
        layout.pop("row_order", None)  # a lookup has its rows contiguous
    tables = _tables(rng, planes)
    largest = g.channels * g.taps * int(abs(tables.table()).max())
    layout["wide"] = layout.get("wide", False) or largest >= 2**31
    return Case(name, g, count, tables, source, rows, **layout)


def _matrices(rng: np.random.Generator) -> Iterator[Case]:
    """Sizes around the engine's tiles, blocks and flushes: lanes, inner dimension, rows."""
    sizes = [
        (1, 1, 1), (2, 3, 1), (17, 17, 2), (64, 64, 3), (65, 65, 17), (63, 4, 97), (255, 2, 16),
        (256, 255, 5), (257, 256, 4), (3, 257, 33), (130, 513, 7), (16, 385, 200),
    ]  # fmt: skip
    for (lanes, k, count), planes in itertools.product(sizes, (0, 1, 3)):
        turned = (lanes + count) % 2 == 0  # the lanes are the rows of a matrix, or its columns
        order = (0, 2, 3, 4, 1) if turned else (0, 1, 2, 3, 4)
        g = Geometry(1, 1, k, (1, 1, lanes), order=order)
        yield _case(
            rng, f"matrix {lanes} {k} {count}, {planes} planes", g, count, planes,
            out_order=order, wide=turned,
        )  # fmt: skip


def _long_sums(rng: np.random.Generator) -> Iterator[Case]:
    """Sums that need every flush: largest entries and codes, longer than one sum may be."""
    entries = np.zeros((256, 256), np.uint16)
    entries[255, 255] = 65535
    entries[0, 0] = 64
    largest = Lookup(entries, 0)
    none = np.zeros(1, np.int32)
    bytewise = Planes(
        np.full((1, 256), 255, np.uint8), np.full((1, 256), -128, np.int8), none, none,
        np.ones(1, np.int64),
    )  # fmt: skip
    for name, tables, k in (("entries", largest, 32769), ("bytes", bytewise, 65800)):
        g = Geometry(1, 1, k, (1, 1, 2))
        codes = np.full(2 * k, 255, np.uint8)
        rows = np.full((3, k, 1), 255, np.uint8)
        yield Case(f"largest {name}", g, 3, tables, codes, rows, wide=True)
    # As few as the loop for many rows takes that are more than 16.
    rows = np.full((17, 32769, 1), 255, np.uint8)
    g = Geometry(1, 1, 32769, (1, 1, 65))
    codes = np.full(65 * 32769, 255, np.uint8)
    yield Case("largest entries of many rows", g, 17, largest, codes, rows, wide=True)
    g = Geometry(1, 2, 1, (1, 1, 32800), (1, 1, 32800))
    yield _case(rng, "long narrow depthwise", g, 2, 0, wide=True)
    for planes in (0, 1):
        yield _case(rng, f"long narrow, {planes} planes", Geometry(1, 1, 40000, ONE), 2, planes)


def _convolutions(rng: np.random.Generator) -> Iterator[Case]:
    """Shapes that the engine treats apart."""
    channels_last = (0, 2, 3, 4, 1)
    shapes = {
        "plain": Geometry(2, 1, 5, (1, 7, 9), (1, 3, 3), (0, 1, 1), (0, 1, 1), pad=200),
        "depthwise": Geometry(2, 6, 1, (1, 8, 8), (1, 3, 3), (0, 1, 1), (0, 1, 1), pad=3),
        "depthwise, channels last": Geometry(
            2, 19, 1, (1, 9, 20), (1, 3, 3), (0, 1, 1), (0, 1, 1), (1, 2, 1), pad=4,
            order=channels_last,
        ),
        "depthwise, strided and dilated": Geometry(
            2, 3, 1, (3, 13, 17), (2, 3, 4), (1, 1, 3), (0, 2, 1), (2, 2, 3), (1, 3, 2), pad=1
        ),
        "depthwise, large": Geometry(1, 2, 1, (1, 20, 30), (1, 3, 3), (0, 1, 1), (0, 1, 1)),
        "depthwise, images together": Geometry(
            5, 4, 1, (1, 6, 7), (1, 3, 3), (0, 1, 1), (0, 1, 1), pad=3
        ),
        "depthwise, images apart": Geometry(
            5, 4, 1, (1, 2, 32), (1, 7, 1), (0, 3, 0), (0, 3, 0), pad=5, order=channels_last
        ),
        "many channels": Geometry(1, 1, 24, (1, 6, 30), (1, 3, 3), order=channels_last),
        "channels last": Geometry(
            2, 2, 7, (1, 9, 5), (1, 2, 3), (0, 1, 0), (0, 0, 2), pad=128, order=channels_last
        ),
        "strided": Geometry(
            3, 1, 4, (1, 11, 13), (1, 3, 2), (0, 2, 1), (0, 1, 2), (1, 2, 3), pad=77
        ),
        "strided, channels last": Geometry(
            2, 1, 9, (1, 20, 21), (1, 3, 3), (0, 1, 1), (0, 1, 1), (1, 2, 2), pad=9,
            order=channels_last,
        ),
        "stride past the kernel": Geometry(2, 1, 3, (1, 10, 10), stride=(1, 3, 4)),
        "dilated": Geometry(
            1, 2, 3, (1, 12, 15), (1, 3, 3), (0, 2, 4), (0, 2, 4), ONE, (1, 2, 4), pad=255
        ),
        "strided and dilated": Geometry(
            2, 1, 2, (1, 13, 17), (1, 3, 4), (0, 1, 3), (0, 2, 1), (1, 2, 3), (1, 3, 2), pad=1
        ),
        "one dimension": Geometry(3, 2, 2, (1, 1, 300), (1, 1, 5), (0, 0, 2), (0, 0, 1), pad=5),
        "three dimensions": Geometry(
            2, 1, 3, (5, 6, 7), (2, 3, 2), (1, 0, 1), (0, 1, 1), (2, 1, 2), (1, 2, 1), pad=90
        ),
        "gaps": Geometry(2, 1, 4, (1, 6, 6), (1, 2, 2), gap=3),
        "nothing but padding": Geometry(1, 1, 3, (1, 1, 0), (1, 1, 2), (0, 0, 2), (0, 0, 1), pad=6),
    }  # fmt: skip
    for (name, g), planes in itertools.product(shapes.items(), (0, 1, 2)):
        for out_order, row_order in (((0, 1, 2, 3, 4), (0, 1, 2)), (channels_last, (0, 2, 1))):
            yield _case(
                rng, f"{name}, {planes} planes", g, 5, planes, out_order=out_order,
                row_order=row_order, out_gap=1 + (row_order[1] == 2), wide=planes == 2,
            )  # fmt: skip
    for name in (
        "plain",
        "channels last",
        "strided",
        "one dimension",
        "three dimensions",
        "depthwise",
    ):
        for out_order in ((0, 1, 2, 3, 4), channels_last):
            yield _case(rng, f"{name}, many rows", shapes[name], 57, 0, out_order=out_order)


def _random(rng: np.random.Generator, number: int) -> Iterator[Case]:
    """Any shapes, layouts and tables of one to three dimensions."""

    def three(low: int, high: int, dimensions: int, rest: int) -> tuple[int, int, int]:
        drawn = [int(i) for i in rng.integers(low, high, dimensions)]
        a, b, c = [rest] * (3 - dimensions) + drawn
        return a, b, c

    made = 0
    while made < number:
        n = int(rng.integers(1, 4))
        g = Geometry(
            images=int(rng.integers(1, 4)),
            groups=int(rng.integers(1, 4)),
            channels=int(rng.choice([1, *range(1, 10)])),
            size=three(1, 40 // n**2 + 3, n, 1),
            kernel=three(1, 5, n, 1),
            before=three(0, 4, n, 0),
            after=three(0, 4, n, 0),
            stride=three(1, 4, n, 1),
            dilation=three(1, 4, n, 1),
            order=(0, *rng.permutation([1, 2, 3, 4]).tolist()),
            gap=int(rng.integers(1, 3)),
            pad=int(rng.integers(0, 256)),
        )
        if min(g.out) < 1:
            continue
        made += 1
        yield _case(
            rng, f"random {made}", g, int(rng.integers(1, 20)), int(rng.integers(0, 4)),
            out_order=tuple(rng.permutation(5).tolist()),
            row_order=(0, *rng.permutation([1, 2]).tolist()),
            out_gap=int(rng.integers(1, 3)), wide=bool(rng.integers(0, 2)),
        )  # fmt: skip


def cases(random: int, *, named: bool = True, long: bool = True) -> Iterator[Case]:
    """All named cases, or but for the long ones, and a number of random ones; always the same."""
    rng = np.random.default_rng(4)
    if named:
        yield from _matrices(rng)
    if named and long:
        yield from _long_sums(rng)
    if named:
        yield from _convolutions(rng)
    yield from _random(rng, random)


@pytest.fixture
def geometry() -> type[Geometry]:
    """The class of geometries, for a test of its own."""
    return Geometry


@pytest.fixture
def write_vectors(tmp_path: Path) -> Callable[..., Path]:
    """Write a file of vectors with a number of random cases: ``write_vectors(40)``; see `cases`."""

    def write(random: int, **others: bool) -> Path:
        all_cases = list(cases(random, **others))
        path = tmp_path / "vectors.bin"
        with path.open("wb") as file:
            file.write(struct.pack("<q", len(all_cases)))
            file.writelines(case.bytes() for case in all_cases)
        return path

    return write
