"""The checked program: typed nodes, each of which can run on a machine.

Built by :mod:`approxhub.cmodel.lowering`; every conversion that C makes is a node of its own
or part of one. Imports numpy and its sibling modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from approxhub.cmodel import lanes
from approxhub.cmodel.lanes import Condition, Data, Lanes
from approxhub.cmodel.machine import CArray, Machine, Slot
from approxhub.cmodel.types import BOOL, INT, ArrayType, CType, PointerType
from approxhub.errors import CModelError

__all__ = [
    "Allocate",
    "ArrayPlace",
    "Assign",
    "Binary",
    "Block",
    "Break",
    "Call",
    "Comma",
    "Compare",
    "Conditional",
    "Constant",
    "Continue",
    "Convert",
    "Counter",
    "Declare",
    "DeclareArray",
    "Divide",
    "ElementPlace",
    "Expression",
    "ExpressionStatement",
    "Function",
    "If",
    "Invert",
    "IsNull",
    "LocalPlace",
    "Logical",
    "Loop",
    "Node",
    "Not",
    "NullPointer",
    "Place",
    "PointerAssign",
    "PointerExpression",
    "PointerRead",
    "Read",
    "Return",
    "Shift",
    "Statement",
    "Static",
    "StaticPlace",
    "StepBack",
    "VectorLoop",
]

_BLOCK = 1 << 16  # lanes of a vectorised loop that are evaluated at once


class Node:
    """Anything of a program that has a line."""

    __slots__ = ("line",)

    def __init__(self, line: int) -> None:
        self.line = line


# --- expressions ------------------------------------------------------------


class Expression(Node):
    """Something with an integer type and a value."""

    __slots__ = ("effect", "type")

    def __init__(self, line: int, ctype: CType, effect: bool = False) -> None:
        super().__init__(line)
        self.type = ctype
        #: Whether evaluating it changes a variable.
        self.effect = effect

    def run(self, m: Machine) -> Data:
        """Value for every operand pair; only those of active pairs mean anything."""
        raise NotImplementedError

    def low(self, m: Machine, narrow: CType) -> Data:
        """Value converted to a narrower type; an operator may work in that type from the start."""
        return lanes.convert(self.run(m), narrow)

    def condition(self, m: Machine) -> Condition:
        """Whether the value is not zero."""
        return lanes.truth(self.run(m))


class Constant(Expression):
    """A number known when the program is read."""

    __slots__ = ("value",)

    def __init__(self, line: int, ctype: CType, value: int) -> None:
        super().__init__(line, ctype)
        self.value = value

    def run(self, m: Machine) -> Data:
        return self.value


class Convert(Expression):
    """A cast, written or implied."""

    __slots__ = ("operand",)

    def __init__(self, operand: Expression, ctype: CType) -> None:
        super().__init__(operand.line, ctype, operand.effect)
        self.operand = operand

    def run(self, m: Machine) -> Data:
        if self.type.bits < self.operand.type.bits and self.type is not BOOL:
            return self.operand.low(m, self.type)
        return lanes.convert(self.operand.run(m), self.type)


class Binary(Expression):
    """``+ - * & | ^``, both operands already of the result's type."""

    __slots__ = ("left", "operator", "right")

    def __init__(
        self,
        line: int,
        ctype: CType,
        operator: Callable[[Data, Data, CType], Data],
        left: Expression,
        right: Expression,
    ) -> None:
        super().__init__(line, ctype, left.effect or right.effect)
        self.operator = operator
        self.left = left
        self.right = right

    def run(self, m: Machine) -> Data:
        m.tick(self.line)
        return self.operator(self.left.run(m), self.right.run(m), self.type)

    def low(self, m: Machine, narrow: CType) -> Data:
        # Low bits of these operators' results depend on the operands' low bits only.
        m.tick(self.line)
        return self.operator(self.left.low(m, narrow), self.right.low(m, narrow), narrow)


class Divide(Binary):
    """``/`` and ``%``."""

    __slots__ = ()

    def low(self, m: Machine, narrow: CType) -> Data:
        return lanes.convert(self.run(m), narrow)

    def run(self, m: Machine) -> Data:
        m.tick(self.line)
        x, y = self.left.run(m), self.right.run(m)
        zero = lanes.compare("==", y, 0)
        if zero is not False:
            if m.any_active(zero):
                raise CModelError(
                    f"line {self.line}: division by zero for some operands; guard it", self.line
                )
            y = lanes.select(zero, 1, y)
        return self.operator(x, y, self.type)


class Shift(Binary):
    """``<<`` and ``>>``; the count keeps its own type."""

    __slots__ = ()

    def low(self, m: Machine, narrow: CType) -> Data:
        return lanes.convert(self.run(m), narrow)

    def run(self, m: Machine) -> Data:
        m.tick(self.line)
        x, n = self.left.run(m), self.right.run(m)
        low, high = (n, n) if isinstance(n, int) else (n.lo, n.hi)
        if low < 0 or high >= self.type.bits:
            outside = lanes.any_of(lanes.compare("<", n, 0), lanes.compare(">=", n, self.type.bits))
            if m.any_active(outside):
                raise CModelError(
                    f"line {self.line}: shift of a {self.type.name} by a count outside "
                    f"0..{self.type.bits - 1}, which C leaves undefined",
                    self.line,
                )
            n = lanes.select(outside, 0, n)
            if isinstance(n, Lanes):
                # No entry is outside any more, so the interval may say so too.
                n = Lanes(n.data, max(n.lo, 0), min(n.hi, self.type.bits - 1))
        return self.operator(x, n, self.type)


class Invert(Expression):
    """``~``, the operand already promoted."""

    __slots__ = ("operand",)

    def __init__(self, line: int, operand: Expression) -> None:
        super().__init__(line, operand.type, operand.effect)
        self.operand = operand

    def run(self, m: Machine) -> Data:
        m.tick(self.line)
        return lanes.invert(self.operand.run(m), self.type)

    def low(self, m: Machine, narrow: CType) -> Data:
        m.tick(self.line)
        return lanes.invert(self.operand.low(m, narrow), narrow)


class Truth(Expression):
    """An expression whose value is 0 or 1."""

    __slots__ = ()

    def __init__(self, line: int, effect: bool) -> None:
        super().__init__(line, INT, effect)

    def run(self, m: Machine) -> Data:
        return lanes.as_data(self.condition(m))

    def condition(self, m: Machine) -> Condition:
        raise NotImplementedError


class Compare(Truth):
    """The six comparisons, both operands of one type."""

    __slots__ = ("left", "operator", "right")

    def __init__(self, line: int, operator: str, left: Expression, right: Expression) -> None:
        super().__init__(line, left.effect or right.effect)
        self.operator = operator
        self.left = left
        self.right = right

    def condition(self, m: Machine) -> Condition:
        m.tick(self.line)
        return lanes.compare(self.operator, self.left.run(m), self.right.run(m))


class Not(Truth):
    """``!``."""

    __slots__ = ("operand",)

    def __init__(self, line: int, operand: Expression) -> None:
        super().__init__(line, operand.effect)
        self.operand = operand

    def condition(self, m: Machine) -> Condition:
        m.tick(self.line)
        return lanes.inverse_of(self.operand.condition(m))


class Logical(Truth):
    """``&&`` and ``||``: the right side is evaluated for those pairs only that need it."""

    __slots__ = ("conjunction", "left", "right")

    def __init__(self, line: int, conjunction: bool, left: Expression, right: Expression) -> None:
        super().__init__(line, left.effect or right.effect)
        self.conjunction = conjunction
        self.left = left
        self.right = right

    def condition(self, m: Machine) -> Condition:
        m.tick(self.line)
        left = self.left.condition(m)
        if isinstance(left, bool) and left != self.conjunction:
            return left
        before = m.active
        m.active = lanes.all_of(before, left if self.conjunction else lanes.inverse_of(left))
        right = self.right.condition(m) if m.active is not False else not self.conjunction
        m.active = before
        return lanes.all_of(left, right) if self.conjunction else lanes.any_of(left, right)


class Conditional(Expression):
    """``? :``, both ways already of the result's type."""

    __slots__ = ("chosen", "no", "yes")

    def __init__(self, line: int, chosen: Expression, yes: Expression, no: Expression) -> None:
        super().__init__(line, yes.type, chosen.effect or yes.effect or no.effect)
        self.chosen = chosen
        self.yes = yes
        self.no = no

    def run(self, m: Machine) -> Data:
        m.tick(self.line)
        chosen = self.chosen.condition(m)
        if isinstance(chosen, bool):
            return (self.yes if chosen else self.no).run(m)
        before = m.active
        m.active = lanes.all_of(before, chosen)
        yes: Data = self.yes.run(m) if m.active is not False else 0
        m.active = lanes.all_of(before, lanes.inverse_of(chosen))
        no: Data = self.no.run(m) if m.active is not False else 0
        m.active = before
        return lanes.select(chosen, yes, no)


class Comma(Expression):
    """``x, y``."""

    __slots__ = ("first", "second")

    def __init__(self, line: int, first: Expression, second: Expression) -> None:
        super().__init__(line, second.type, first.effect or second.effect)
        self.first = first
        self.second = second

    def run(self, m: Machine) -> Data:
        self.first.run(m)
        return self.second.run(m)


class Call(Expression):
    """A call of a function of the same file, arguments already converted."""

    __slots__ = ("arguments", "function")

    def __init__(self, line: int, function: Function, arguments: Sequence[Expression]) -> None:
        effect = any(a.effect for a in arguments) or not function.pure
        super().__init__(line, function.returns, effect)
        self.function = function
        self.arguments = tuple(arguments)

    def run(self, m: Machine) -> Data:
        m.tick(self.line)
        return self.function.call(m, [a.run(m) for a in self.arguments])


# --- places: what can be read and assigned to -----------------------------------


class Place(Node):
    """A variable or an array element."""

    __slots__ = ("name", "type")

    def __init__(self, line: int, ctype: CType, name: str) -> None:
        super().__init__(line)
        self.type = ctype
        self.name = name

    def load(self, m: Machine) -> Data:
        raise NotImplementedError

    def store(self, m: Machine, value: Data) -> None:
        raise NotImplementedError


class LocalPlace(Place):
    """A parameter or a variable of the function."""

    __slots__ = ("slot",)

    def __init__(self, line: int, ctype: CType, name: str, slot: int) -> None:
        super().__init__(line, ctype, name)
        self.slot = slot

    def load(self, m: Machine) -> Data:
        return m.load(self.slot, self.name, self.line)

    def store(self, m: Machine, value: Data) -> None:
        m.store(self.slot, value)


class StaticPlace(Place):
    """A static or file-level variable."""

    __slots__ = ("slot",)

    def __init__(self, line: int, ctype: CType, name: str, slot: int) -> None:
        super().__init__(line, ctype, name)
        self.slot = slot

    def load(self, m: Machine) -> Data:
        value = m.statics[self.slot]
        assert isinstance(value, int)
        return value

    def store(self, m: Machine, value: Data) -> None:
        if m.active is not True or not isinstance(value, int):
            raise Machine.static_depends(self.line)
        m.statics[self.slot] = value


class ArrayPlace(Node):
    """A variable that stands for an array: an array itself, or a pointer to an allocated one."""

    __slots__ = ("element", "name", "pointer", "slot", "static")

    def __init__(
        self, line: int, element: CType, name: str, slot: int, static: bool, pointer: bool
    ) -> None:
        super().__init__(line)
        self.element = element
        self.name = name
        self.slot = slot
        self.static = static
        self.pointer = pointer

    def peek(self, m: Machine) -> CArray | None:
        """The array, or None for a null or unset pointer."""
        value = (m.statics if self.static else m.frame.slots)[self.slot]
        return value if isinstance(value, CArray) else None

    def array(self, m: Machine) -> CArray:
        found = self.peek(m)
        if found is None:
            raise CModelError(
                f"line {self.line}: {self.name!r} points to nothing; allocate it before", self.line
            )
        return found


class ElementPlace(Place):
    """``array[index]``."""

    __slots__ = ("index", "of")

    def __init__(self, line: int, of: ArrayPlace, index: Expression) -> None:
        super().__init__(line, of.element, of.name)
        self.of = of
        self.index = index

    def load(self, m: Machine) -> Data:
        return m.read(self.of.array(m), self.index.run(m), self.line)

    def store(self, m: Machine, value: Data) -> None:
        m.write(self.of.array(m), self.index.run(m), value, self.of.static, self.line)


class Read(Expression):
    """Value of a place."""

    __slots__ = ("place",)

    def __init__(self, place: Place) -> None:
        effect = isinstance(place, ElementPlace) and place.index.effect
        super().__init__(place.line, place.type, effect)
        self.place = place

    def run(self, m: Machine) -> Data:
        return self.place.load(m)


class Assign(Expression):
    """``place = value``, the value already converted."""

    __slots__ = ("place", "value")

    def __init__(self, line: int, place: Place, value: Expression) -> None:
        super().__init__(line, place.type, True)
        self.place = place
        self.value = value

    def run(self, m: Machine) -> Data:
        m.tick(self.line)
        value = self.value.run(m)
        self.place.store(m, value)
        return value


class StepBack(Expression):
    """``place++`` and ``place--``: the value is the one before."""

    __slots__ = ("place", "step")

    def __init__(self, line: int, place: Place, step: Assign) -> None:
        super().__init__(line, place.type, True)
        self.place = place
        self.step = step

    def run(self, m: Machine) -> Data:
        before = self.place.load(m)
        self.step.run(m)
        return before


# --- pointers -----------------------------------------------------------------


class PointerExpression(Node):
    """Something of pointer type; `element` is None while the type is still open."""

    __slots__ = ("element",)

    def __init__(self, line: int, element: CType | None) -> None:
        super().__init__(line)
        self.element = element

    def run(self, m: Machine) -> CArray | None:
        raise NotImplementedError


class NullPointer(PointerExpression):
    """``NULL``."""

    __slots__ = ()

    def run(self, m: Machine) -> CArray | None:
        return None


class PointerRead(PointerExpression):
    """Value of a pointer variable."""

    __slots__ = ("place",)

    def __init__(self, place: ArrayPlace) -> None:
        super().__init__(place.line, place.element)
        self.place = place

    def run(self, m: Machine) -> CArray | None:
        return self.place.peek(m)


class Allocate(PointerExpression):
    """``malloc(size)`` and ``calloc(count, size)``."""

    __slots__ = ("size", "zeroed")

    def __init__(self, line: int, element: CType | None, size: Expression, zeroed: bool) -> None:
        super().__init__(line, element)
        self.size = size
        self.zeroed = zeroed

    def run(self, m: Machine) -> CArray | None:
        m.tick(self.line)
        size = self.size.run(m)
        assert self.element is not None
        if not isinstance(size, int):
            raise CModelError(
                f"line {self.line}: the size of an allocation depends on the operands", self.line
            )
        return m.allocate(self.element, size // self.element.size, self.line, self.zeroed)


class IsNull(Truth):
    """``pointer == NULL``, or a pointer used as a condition."""

    __slots__ = ("expected", "pointer")

    def __init__(self, line: int, pointer: PointerExpression, expected: bool) -> None:
        super().__init__(line, isinstance(pointer, Allocate))
        self.pointer = pointer
        self.expected = expected

    def condition(self, m: Machine) -> Condition:
        m.tick(self.line)
        return (self.pointer.run(m) is None) == self.expected


# --- statements ---------------------------------------------------------------


class Statement(Node):
    """Something that is executed."""

    __slots__ = ()

    def run(self, m: Machine) -> None:
        raise NotImplementedError


class ExpressionStatement(Statement):
    """An expression followed by a semicolon."""

    __slots__ = ("expression",)

    def __init__(self, expression: Expression) -> None:
        super().__init__(expression.line)
        self.expression = expression

    def run(self, m: Machine) -> None:
        self.expression.run(m)


class PointerAssign(Statement):
    """``pointer = malloc(...)`` and the like."""

    __slots__ = ("place", "value")

    def __init__(self, line: int, place: ArrayPlace, value: PointerExpression) -> None:
        super().__init__(line)
        self.place = place
        self.value = value

    def run(self, m: Machine) -> None:
        m.tick(self.line)
        if m.active is not True:
            raise CModelError(
                f"line {self.line}: a pointer changes under a condition that depends on the "
                "operands; allocate before",
                self.line,
            )
        (m.statics if self.place.static else m.frame.slots)[self.place.slot] = self.value.run(m)


class Declare(Statement):
    """A local variable comes into being, without a value."""

    __slots__ = ("slots",)

    def __init__(self, line: int, slots: Sequence[int]) -> None:
        super().__init__(line)
        self.slots = list(slots)

    def run(self, m: Machine) -> None:
        for slot in self.slots:
            m.frame.slots[slot] = None
            m.frame.partial.pop(slot, None)


class DeclareArray(Statement):
    """A local array comes into being, with or without values."""

    __slots__ = ("slot", "type", "values")

    def __init__(
        self, line: int, slot: int, ctype: ArrayType, values: Sequence[Expression] | None
    ) -> None:
        super().__init__(line)
        self.slot = slot
        self.type = ctype
        self.values = values

    def run(self, m: Machine) -> None:
        m.tick(self.line)
        array = m.allocate(self.type.element, self.type.length, self.line, self.values is not None)
        m.frame.slots[self.slot] = array
        for k, value in enumerate(self.values or ()):
            m.write(array, k, value.run(m), False, self.line)


class Block(Statement):
    """Statements one after another."""

    __slots__ = ("statements",)

    def __init__(self, line: int, statements: Sequence[Statement]) -> None:
        super().__init__(line)
        self.statements = tuple(statements)

    def run(self, m: Machine) -> None:
        for statement in self.statements:
            statement.run(m)
            if m.active is False:
                break


class If(Statement):
    """``if`` and ``else``, each way for the operand pairs that take it."""

    __slots__ = ("chosen", "no", "yes")

    def __init__(self, line: int, chosen: Expression, yes: Statement, no: Statement | None) -> None:
        super().__init__(line)
        self.chosen = chosen
        self.yes = yes
        self.no = no

    def run(self, m: Machine) -> None:
        m.tick(self.line)
        chosen = self.chosen.condition(m)
        before = m.active
        after: Condition = False
        for way, mask in ((self.yes, chosen), (self.no, lanes.inverse_of(chosen))):
            m.active = lanes.all_of(before, mask)
            if way is not None and m.active is not False:
                way.run(m)
            after = lanes.any_of(after, m.active)
        m.active = after


class Loop(Statement):
    """``for``, ``while`` and ``do``."""

    __slots__ = ("body", "chosen", "first", "step", "test_first")

    def __init__(
        self,
        line: int,
        first: Statement | None,
        chosen: Expression | None,
        step: Expression | None,
        body: Statement,
        test_first: bool,
    ) -> None:
        super().__init__(line)
        self.first = first
        self.chosen = chosen
        self.step = step
        self.body = body
        self.test_first = test_first

    def run(self, m: Machine) -> None:
        if self.first is not None:
            self.first.run(m)
        self.iterate(m)

    def iterate(self, m: Machine) -> None:
        """Everything after the initialisation."""
        outer = m.breaking, m.continuing
        m.breaking = False
        left: Condition = False
        test = self.test_first
        while m.active is not False:
            m.iterate(1, self.line)
            if test and self.chosen is not None:
                chosen = self.chosen.condition(m)
                left = lanes.any_of(left, lanes.all_of(m.active, lanes.inverse_of(chosen)))
                m.active = lanes.all_of(m.active, chosen)
                if m.active is False:
                    break
            test = True
            m.continuing = False
            self.body.run(m)
            m.active = lanes.any_of(m.active, m.continuing)
            if m.active is not False and self.step is not None:
                self.step.run(m)
        m.active = lanes.any_of(left, m.breaking)
        m.breaking, m.continuing = outer


class Break(Statement):
    """``break``."""

    __slots__ = ()

    def run(self, m: Machine) -> None:
        m.breaking = lanes.any_of(m.breaking, m.active)
        m.active = False


class Continue(Statement):
    """``continue``."""

    __slots__ = ()

    def run(self, m: Machine) -> None:
        m.continuing = lanes.any_of(m.continuing, m.active)
        m.active = False


class Return(Statement):
    """``return value``, the value already converted."""

    __slots__ = ("value",)

    def __init__(self, line: int, value: Expression) -> None:
        super().__init__(line)
        self.value = value

    def run(self, m: Machine) -> None:
        m.give_back(self.value.run(m))


class Counter:
    """The counting of one loop of a nest: from `start` up to `stop`, by one."""

    __slots__ = ("inclusive", "place", "start", "stop")

    def __init__(
        self, place: LocalPlace, start: Expression, stop: Expression, inclusive: bool
    ) -> None:
        self.place = place
        self.start = start
        self.stop = stop
        self.inclusive = inclusive


class VectorLoop(Statement):
    """A nest of counting loops that only fills arrays: all iterations are done at once.

    Whether iterations are independent was decided from the text; what only the values can tell
    is looked at here, and where it is not so the loops run one by one.
    """

    __slots__ = ("arrays", "counters", "plain", "scalars", "stores")

    def __init__(
        self,
        plain: Loop,
        counters: Sequence[Counter],
        stores: Sequence[Assign],
        scalars: Sequence[LocalPlace],
        arrays: Sequence[ArrayPlace],
    ) -> None:
        super().__init__(plain.line)
        self.plain = plain
        self.counters = tuple(counters)
        self.stores = tuple(stores)
        self.scalars = tuple(scalars)
        self.arrays = tuple(arrays)

    def _ready(self, m: Machine) -> bool:
        if m.active is not True:
            return False
        for place in self.scalars:
            if not isinstance(m.frame.slots[place.slot], int):
                return False
        targets = [s.place.of.peek(m) for s in self.stores if isinstance(s.place, ElementPlace)]
        others = [a.peek(m) for a in self.arrays]
        if any(a is None or a.lanes for a in (*targets, *others)):
            return False
        # Through two names for one array, one store could be another's operand.
        ids = [id(a) for a in targets]
        return len(set(ids)) == len(ids) and not set(ids) & {id(a) for a in others}

    def run(self, m: Machine) -> None:
        if not self._ready(m):
            self.plain.run(m)
            return
        starts, counts = [], []
        total = 1
        for counter in self.counters:
            start, stop = counter.start.run(m), counter.stop.run(m)
            if not (isinstance(start, int) and isinstance(stop, int)):
                self.plain.run(m)
                return
            stop += counter.inclusive
            if start < 0 or not 0 <= stop <= counter.place.type.max:
                self.plain.run(m)  # C's wrap-around or its mixed comparisons decide here
                return
            starts.append(start)
            counts.append(max(0, stop - start))
            total *= counts[-1]
        m.iterate(total, self.line)
        if total:
            self._fill(m, starts, counts)
        for counter, start, count in zip(self.counters, starts, counts, strict=True):
            m.frame.slots[counter.place.slot] = start + count
            if not count:
                break

    def _fill(self, m: Machine, starts: list[int], counts: list[int]) -> None:
        # A counter is an axis, so what depends on one counter only is evaluated along one axis.
        inner = 1
        for count in counts[1:]:
            inner *= count
        rows = max(1, _BLOCK // inner)
        for row in range(0, counts[0], rows):
            shape = [min(rows, counts[0] - row), *counts[1:]]
            for k, counter in enumerate(self.counters):
                first = starts[k] + (row if k == 0 else 0)
                axis = [1] * len(shape)
                axis[k] = shape[k]
                values = np.arange(first, first + shape[k], dtype=np.int64).reshape(axis)
                m.frame.slots[counter.place.slot] = (
                    lanes.from_array(values, first, first + shape[k] - 1) if shape[k] > 1 else first
                )
            for store in self.stores:
                place = store.place
                assert isinstance(place, ElementPlace)
                value = store.value.run(m)
                m.scatter(place.of.array(m), place.index.run(m), value, shape, store.line)


# --- functions ----------------------------------------------------------------


class Static:
    """A variable that outlives the call, with the values that it starts with."""

    __slots__ = ("line", "type", "values")

    def __init__(
        self, line: int, ctype: CType | PointerType | ArrayType, values: Sequence[int]
    ) -> None:
        self.line = line
        self.type = ctype
        self.values = tuple(values)

    def create(self, m: Machine) -> Slot:
        """The variable as the program starts."""
        if isinstance(self.type, PointerType):
            return None
        if isinstance(self.type, CType):
            return self.values[0] if self.values else 0
        array = m.allocate(self.type.element, self.type.length, self.line, True)
        for k, value in enumerate(self.values):
            array.values[k] = value
        return array


class Function:
    """One function of the file."""

    __slots__ = ("body", "line", "name", "parameters", "pure", "returns", "size")

    def __init__(self, line: int, name: str) -> None:
        self.line = line
        self.name = name
        self.parameters: tuple[tuple[str, CType], ...] = ()
        self.returns: CType = INT
        self.size = 0
        #: Whether it remembers nothing between calls.
        self.pure = True
        self.body: Statement = Block(line, ())

    def call(self, m: Machine, arguments: list[Data]) -> Data:
        """Value for converted arguments."""
        before = m.active
        loops = m.breaking, m.continuing
        caller = m.enter(self.size, arguments)
        self.body.run(m)
        frame = m.frame
        if m.active is not False or frame.returned is None:
            raise CModelError(
                f"line {self.line}: {self.name!r} can end without a return value; add a return",
                self.line,
            )
        m.frame = caller
        m.active = before
        m.breaking, m.continuing = loops
        return frame.returned
