"""State of one evaluation: variables, arrays, active operand pairs, and the work done so far.

Where a condition differs between operand pairs, both ways are walked and `active` says which
pairs the present way is for; assignments, returns and faults concern those only.
Imports numpy, the errors and the arithmetic of lanes.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from approxhub.cmodel import lanes
from approxhub.cmodel.lanes import Condition, Data, Lanes
from approxhub.cmodel.limits import Limits
from approxhub.cmodel.types import CType
from approxhub.errors import CModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CArray", "Frame", "Machine", "Slot"]

# Where operands choose among array cells that depend on operands, all cells are walked over.
_MAX_SELECTED_CELLS = 1024

_CLOCK = 64  # operations between two looks at the clock: under a second of the slowest ones


class CArray:
    """One C array. A cell is one number, or lanes where it depends on the operands."""

    __slots__ = ("element", "filled", "lanes", "length", "values")

    def __init__(self, element: CType, length: int, zeroed: bool = False) -> None:
        self.element = element
        self.length = length
        self.values: npt.NDArray[Any] = np.zeros(
            length, dtype=np.uint64 if element.max > (1 << 63) else np.int64
        )
        self.filled = np.full(length, zeroed, dtype=np.bool_)
        self.lanes: dict[int, Lanes] = {}


Slot = Data | CArray | None


class Frame:
    """Variables of one call."""

    __slots__ = ("partial", "returned", "slots")

    def __init__(self, size: int) -> None:
        self.slots: list[Slot] = [None] * size
        # Slots that have a value for some operand pairs only, and for which.
        self.partial: dict[int, npt.NDArray[np.bool_]] = {}
        self.returned: Data | None = None


class Machine:
    """What one evaluation of a program carries along.

    Parameters
    ----------
    limits : Limits
    statics : list of Slot
        Variables that outlive the call.
    until : float
        Processor time of this thread at which the evaluation is given up.
    """

    def __init__(self, limits: Limits, statics: list[Slot], until: float = math.inf) -> None:
        self.limits = limits
        self.statics = statics
        self.until = until
        self.frame = Frame(0)
        self.active: Condition = True
        self.breaking: Condition = False
        self.continuing: Condition = False
        self.operations = 0
        self.iterations = 0
        self.array_bytes = 0

    # --- caps ---------------------------------------------------------------

    def tick(self, line: int) -> None:
        """Count one operation."""
        self.operations += 1
        if self.operations > self.limits.operations:
            raise CModelError(
                f"line {line}: more than {self.limits.operations} operations; "
                "simplify the model, or give its table instead",
                line,
            )
        if not self.operations % _CLOCK:
            self.look_at_clock(line)

    def look_at_clock(self, line: int) -> None:
        """Refuse to go on once the time is up."""
        # Of this thread alone: what else the machine does must not make a model a bad one.
        if time.thread_time() > self.until:
            raise CModelError(
                f"line {line}: it has taken more than {self.limits.seconds:g} s of processor time "
                "per 2**20 operand pairs; simplify the model, or give its table instead",
                line,
            )

    def iterate(self, count: int, line: int) -> None:
        """Count loop iterations."""
        self.iterations += count
        if self.iterations > self.limits.iterations:
            raise CModelError(
                f"line {line}: more than {self.limits.iterations} loop iterations; "
                "shorten the loop, or give the multiplier's table instead",
                line,
            )
        if self.iterations % _CLOCK < count:
            self.look_at_clock(line)

    def allocate(self, element: CType, length: int, line: int, zeroed: bool = False) -> CArray:
        """Create an array within the caps."""
        if not 0 < length <= self.limits.array_elements:
            raise CModelError(
                f"line {line}: an array of {length} elements; "
                f"1 to {self.limits.array_elements} are allowed, so use a smaller one",
                line,
            )
        self.array_bytes += length * 8
        if self.array_bytes > self.limits.array_bytes:
            raise CModelError(
                f"line {line}: the arrays need more than {self.limits.array_bytes} bytes; "
                "use fewer or smaller ones",
                line,
            )
        return CArray(element, length, zeroed)

    # --- variables ----------------------------------------------------------

    def store(self, slot: int, value: Data) -> None:
        """Assign to a local variable, for the active operand pairs."""
        frame = self.frame
        if self.active is True:
            frame.slots[slot] = value
            if frame.partial:
                frame.partial.pop(slot, None)
            return
        assert not isinstance(self.active, bool)
        old = frame.slots[slot]
        if old is None:
            frame.slots[slot] = value
            frame.partial[slot] = self.active
            return
        assert not isinstance(old, CArray)
        frame.slots[slot] = lanes.select(self.active, value, old)
        if slot in frame.partial:
            filled = lanes.any_of(frame.partial[slot], self.active)
            if isinstance(filled, bool):
                del frame.partial[slot]
            else:
                frame.partial[slot] = filled

    def load(self, slot: int, name: str, line: int) -> Data:
        """Read a local variable."""
        self.tick(line)
        value = self.frame.slots[slot]
        if value is None or (
            self.frame.partial
            and slot in self.frame.partial
            and self.any_active(~self.frame.partial[slot])
        ):
            raise CModelError(
                f"line {line}: {name!r} is read before it has a value; initialise it", line
            )
        assert not isinstance(value, CArray)
        return value

    def any_active(self, condition: Condition) -> bool:
        """Whether a condition holds for an active operand pair."""
        return lanes.all_of(condition, self.active) is not False

    # --- arrays -------------------------------------------------------------

    def _check_index(self, array: CArray, index: Data, line: int) -> Data:
        low, high = (index, index) if isinstance(index, int) else (index.lo, index.hi)
        if low >= 0 and high < array.length:
            return index
        outside = lanes.any_of(
            lanes.compare("<", index, 0), lanes.compare(">=", index, array.length)
        )
        if not self.any_active(outside):
            # Only pairs that are not on this way are outside; any cell will do for them.
            return lanes.select(outside, 0, index)
        shown = index if isinstance(index, int) else f"{low}..{high}"
        raise CModelError(
            f"line {line}: index {shown} is outside the array's 0..{array.length - 1}", line
        )

    def read(self, array: CArray, index: Data, line: int) -> Data:
        """``array[index]``."""
        self.tick(line)
        index = self._check_index(array, index, line)
        if isinstance(index, int):
            if index in array.lanes:
                return array.lanes[index]
            if not array.filled[index]:
                raise self._unfilled(line)
            return int(array.values[index])
        positions = np.clip(index.data.astype(np.int64), 0, array.length - 1)
        if self.any_active(lanes.uniform(~array.filled[positions])):
            raise self._unfilled(line)
        cells = array.values
        found: Data = lanes.from_array(cells[positions], int(cells.min()), int(cells.max()))
        if array.lanes:
            self._check_selected(len(array.lanes), line)
            for k, cell in array.lanes.items():
                self.look_at_clock(line)
                found = lanes.select(lanes.uniform(positions == k), cell, found)
        return found

    @staticmethod
    def _unfilled(line: int) -> CModelError:
        return CModelError(
            f"line {line}: an array element is read before it has a value; initialise it", line
        )

    def write(self, array: CArray, index: Data, value: Data, static: bool, line: int) -> None:
        """``array[index] = value`` for the active operand pairs."""
        index = self._check_index(array, index, line)
        value = lanes.convert(value, array.element)
        if static and (self.active is not True or not isinstance(index, int)):
            raise self.static_depends(line)
        if isinstance(index, int):
            self._write_cell(array, index, value, self.active, line)
        else:
            self._check_selected(array.length, line)
            positions = np.clip(index.data.astype(np.int64), 0, array.length - 1)
            for k in range(max(0, index.lo), min(array.length, index.hi + 1)):
                self.look_at_clock(line)
                where = lanes.all_of(self.active, lanes.uniform(positions == k))
                if where is not False:
                    self._write_cell(array, k, value, where, line)
        if static and index in array.lanes:
            raise self.static_depends(line)

    def _write_cell(
        self, array: CArray, index: int, value: Data, where: Condition, line: int
    ) -> None:
        if where is not True:
            if not array.filled[index]:
                raise CModelError(
                    f"line {line}: an array element is first stored under a condition that "
                    "depends on the operands; initialise it before",
                    line,
                )
            value = lanes.select(where, value, self.read(array, index, line))
        array.filled[index] = True
        if isinstance(value, int):
            array.values[index] = value
            array.lanes.pop(index, None)
        else:
            array.lanes[index] = value

    @staticmethod
    def _check_selected(cells: int, line: int) -> None:
        if cells > _MAX_SELECTED_CELLS:
            raise CModelError(
                f"line {line}: an operand chooses among more than {_MAX_SELECTED_CELLS} cells "
                "that depend on operands; use a smaller array",
                line,
            )

    def scatter(
        self, array: CArray, index: Data, value: Data, shape: Sequence[int], line: int
    ) -> None:
        """``array[index] = value`` for every iteration of a loop nest of that `shape`."""
        index = self._check_index(array, index, line)
        value = lanes.convert(value, array.element)
        # C order is the order of the loops: where an index repeats, the last store stays, as in C.
        positions = np.broadcast_to(index if isinstance(index, int) else index.data, shape)
        values = np.broadcast_to(value if isinstance(value, int) else value.data, shape)
        flat = positions.ravel().astype(np.int64)
        array.values[flat] = values.ravel().astype(array.values.dtype)
        array.filled[flat] = True

    @staticmethod
    def static_depends(line: int) -> CModelError:
        """Error: state that outlives the call would depend on the operands."""
        return CModelError(
            f"line {line}: a static variable takes a value that depends on the operands; "
            "a multiplier must not remember earlier calls",
            line,
        )

    # --- calls --------------------------------------------------------------

    def enter(self, size: int, arguments: Sequence[Data]) -> Frame:
        """Open a frame for a call; returns the caller's."""
        caller = self.frame
        self.frame = Frame(size)
        self.frame.slots[: len(arguments)] = arguments
        return caller

    def give_back(self, value: Data) -> None:
        """``return value`` for the active operand pairs, which then are done."""
        frame = self.frame
        if frame.returned is None:
            frame.returned = value
        else:
            frame.returned = lanes.select(self.active, value, frame.returned)
        self.active = False
