"""A multiplier given as C text, and its values.

Imports numpy, the operand formats, the errors and the sibling modules.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from approxhub.cmodel import lanes, lowering, reader
from approxhub.cmodel.limits import LIMITS
from approxhub.cmodel.lowering import Program
from approxhub.cmodel.machine import Machine, Slot
from approxhub.errors import CModelError
from approxhub.operands import OperandFormat

__all__ = ["MAX_TABLE_BITS", "CModel"]

MAX_TABLE_BITS = 24

# Blocks that keep a circuit's wires in the processor's cache; more only costs memory.
_MAX_BLOCK = 1 << 18
_MIN_BLOCK = 1 << 12

_TIMED_PAIRS = 1 << 20  # operand pairs that `Limits.seconds` is for


@lru_cache(maxsize=16)
def _program(source: str, function: str | None) -> Program:
    declarations, _ = reader.parse(source, LIMITS)
    return lowering.lower(declarations, function, LIMITS)


@dataclass(frozen=True, slots=True)
class CModel:
    """A C function of two integers, read and evaluated without a compiler.

    Made by :meth:`parse`. The first C argument is always operand `a`, whatever its name.
    Operands are passed sign-extended; of the result the low ``a.bits + b.bits`` bits count,
    sign-extended if either operand is signed.

    Attributes
    ----------
    source : str
        The C text.
    source_sha256 : str
        SHA-256 of the bytes that were given.
    function : str
        Name of the function that multiplies.
    parameters : tuple of str
        What the C text calls its two arguments.
    returns : str
        C type of the result.
    a, b : OperandFormat
        Operand formats.

    Examples
    --------
    >>> u2 = OperandFormat(2, signed=False)
    >>> m = CModel.parse("int f(int x, int y) { return x * (y | 1); }", a=u2, b=u2)
    >>> m.function, m.parameters
    ('f', ('x', 'y'))
    >>> int(m.evaluate(3, 2))
    9
    >>> m.tabulate()[3].tolist()
    [3, 3, 9, 9]
    """

    source: str = field(repr=False)
    source_sha256: str = field(compare=False)
    function: str
    parameters: tuple[str, ...] = field(compare=False)
    returns: str = field(compare=False)
    a: OperandFormat
    b: OperandFormat

    @classmethod
    def parse(
        cls,
        source: bytes | str,
        *,
        a: OperandFormat,
        b: OperandFormat,
        function: str | None = None,
    ) -> CModel:
        """Read a C file.

        Parameters
        ----------
        source : bytes or str
            The C text; bytes are what the hash is taken of.
        a, b : OperandFormat
            Widths and signs of the first and the second argument, which C does not tell.
        function : str, optional
            The function that multiplies. Needed only where several could.

        Raises
        ------
        CModelError
            If the text is outside the grammar that is read; says the line.

        Examples
        --------
        >>> u4 = OperandFormat(4, signed=False)
        >>> CModel.parse("int f(int x, int y) { goto end; }", a=u4, b=u4)
        Traceback (most recent call last):
        ...
        approxhub.errors.CModelError: line 1: goto is not supported in a C model
        """
        text = reader.decode(source, LIMITS)
        raw = source if isinstance(source, bytes) else source.encode("utf-8", "surrogatepass")
        program = _program(text, function)
        chosen = program.function
        for operand, (name, ctype) in zip((a, b), chosen.parameters, strict=True):
            if ctype.bits < operand.bits:
                raise CModelError(
                    f"line {chosen.line}: parameter {name!r} of {chosen.name!r} is of type "
                    f"{ctype.name}, too narrow for the operand {operand}; "
                    "check the operand formats",
                    chosen.line,
                )
        return cls(
            source=text,
            source_sha256=hashlib.sha256(raw).hexdigest(),
            function=chosen.name,
            parameters=tuple(name for name, _ in chosen.parameters),
            returns=chosen.returns.name,
            a=a,
            b=b,
        )

    def evaluate(self, a_values: npt.ArrayLike, b_values: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Products of operand values.

        Parameters
        ----------
        a_values, b_values : array_like of int
            Values (not bit patterns), broadcast against each other.

        Returns
        -------
        ndarray of int64
            The circuit's products.

        Raises
        ------
        OperandRangeError
            If an operand cannot hold a value.
        CModelError
            If the model does what C leaves undefined, or exceeds a cap.
        """
        left = self.a.check(a_values, "a")
        right = self.b.check(b_values, "b")
        shape = np.broadcast_shapes(left.shape, right.shape)
        depth = max(1, len(shape))
        left = left.reshape((1,) * (depth - left.ndim) + left.shape)
        right = right.reshape((1,) * (depth - right.ndim) + right.shape)
        out = np.empty((1,) * (depth - len(shape)) + shape, dtype=np.int64)
        self._fill(out, left, right)
        return out.reshape(shape)

    def tabulate(self) -> npt.NDArray[np.int32]:
        """All products, ``T[a, b]`` by two's-complement bit pattern.

        Returns
        -------
        ndarray of int32
            Shape ``(2**a.bits, 2**b.bits)``, C order.

        Raises
        ------
        CModelError
            If the operands have more than 24 bits together.
        """
        if self.a.bits + self.b.bits > MAX_TABLE_BITS:
            raise CModelError(
                f"{self.function!r} has {self.a} and {self.b} operands, more than the "
                f"{MAX_TABLE_BITS} bits that a table may have; use evaluate on what you need"
            )
        table = np.empty((self.a.size, self.b.size), dtype=np.int32)
        left = self.a.values().reshape(-1, 1)
        right = self.b.values().reshape(1, -1)
        self._fill(table, left, right)
        return table

    def _fill(
        self,
        out: npt.NDArray[np.int64] | npt.NDArray[np.int32],
        left: npt.NDArray[np.int64],
        right: npt.NDArray[np.int64],
    ) -> None:
        """Evaluate in blocks; the arrays have equally many axes."""
        program = _program(self.source, self.function)
        block = LIMITS.live_bytes // (4 * program.size)
        block = max(_MIN_BLOCK, min(_MAX_BLOCK, block))
        bits = self.a.bits + self.b.bits
        half = 1 << (bits - 1) if self.a.signed or self.b.signed else 0
        allowed = LIMITS.seconds * max(1, -(-out.size // _TIMED_PAIRS))
        until = time.thread_time() + allowed
        try:
            # A signal instead of a warning, were numpy ever to have a reason.
            with np.errstate(all="raise"):
                statics = self._statics(program)
                for cut in _blocks(out.shape, block):
                    x, y = _cut(left, cut), _cut(right, cut)
                    machine = Machine(LIMITS, statics, until)
                    value = _call(program, machine, x, y)
                    machine.look_at_clock(program.function.line)
                    value &= (1 << bits) - 1
                    out[cut] = (value ^ half) - half
        except RecursionError:
            raise CModelError(
                f"{self.function!r}: expressions are nested too deeply; split them"
            ) from None
        except (ArithmeticError, MemoryError) as error:
            raise CModelError(f"{self.function!r}: numpy failed ({error!r})") from error

    @staticmethod
    def _statics(program: Program) -> list[Slot]:
        statics: list[Slot] = []
        machine = Machine(LIMITS, statics)
        statics.extend(s.create(machine) for s in program.statics)
        return statics


def _call(
    program: Program,
    machine: Machine,
    x: npt.NDArray[np.int64],
    y: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    arguments = [
        lanes.convert(_lanes(values), ctype)
        for values, (_, ctype) in zip((x, y), program.function.parameters, strict=True)
    ]
    result = program.function.call(machine, arguments)
    if isinstance(result, int):
        return np.full((1,) * x.ndim, _signed64(result), dtype=np.int64)
    if result.data.dtype == np.uint64:
        result = lanes.Lanes(result.data.view(np.int64), result.lo, result.hi)
    # A copy: the caller changes it, and a circuit may give back its operand.
    return np.array(result.data, dtype=np.int64)


def _signed64(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _lanes(values: npt.NDArray[np.int64]) -> lanes.Data:
    if not values.size:
        return 0
    low, high = int(values.min()), int(values.max())
    return low if low == high else lanes.from_array(values, low, high)


def _blocks(shape: tuple[int, ...], limit: int) -> Iterator[tuple[slice, ...]]:
    """Cuts of an array of that shape into pieces of at most `limit` entries, in C order."""
    if not all(shape):
        return
    lengths = []
    inner = 1
    for length in reversed(shape):
        step = max(1, min(length, limit // inner))
        lengths.append(step)
        # A cut axis means that every axis outside it goes one by one.
        inner = inner * length if step == length else limit
    ranges = [range(0, n, step) for n, step in zip(shape, reversed(lengths), strict=True)]
    for start in itertools.product(*ranges):
        yield tuple(slice(s, s + step) for s, step in zip(start, reversed(lengths), strict=True))


def _cut(values: npt.NDArray[np.int64], cut: tuple[slice, ...]) -> npt.NDArray[np.int64]:
    return values[
        tuple(slice(None) if n == 1 else c for n, c in zip(values.shape, cut, strict=True))
    ]
