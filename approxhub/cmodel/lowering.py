"""Parsed tree to checked program: names, types, conversions, and what is refused.

Every construct is either turned into a node that means the same, or refused by name with its
line. Only functions that the chosen one reaches are looked at. Imports pycparser's node classes,
the errors and the sibling modules.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pycparser import c_ast

from approxhub.cmodel import lanes, nodes
from approxhub.cmodel.lanes import Data
from approxhub.cmodel.limits import Limits
from approxhub.cmodel.machine import Machine
from approxhub.cmodel.types import (
    INT,
    LONG,
    STDINT,
    UINT,
    ULONG,
    ArrayType,
    CType,
    PointerType,
    common,
    from_words,
    promote,
)
from approxhub.errors import CModelError

__all__ = ["lower"]

AnyType = CType | PointerType | ArrayType

_ARITHMETIC: dict[str, Callable[[Data, Data, CType], Data]] = {
    "+": lanes.add,
    "-": lanes.subtract,
    "*": lanes.multiply,
    "&": lanes.bit_and,
    "|": lanes.bit_or,
    "^": lanes.bit_xor,
}
_DIVISIONS = {"/": lanes.divide, "%": lanes.modulo}
_SHIFTS = {"<<": lanes.shift_left, ">>": lanes.shift_right}
_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")

_INTEGER = re.compile(r"(0[xX][0-9a-fA-F]+|0[bB][01]+|0[0-7]*|[1-9][0-9]*)([uUlL]*)")
_MAX_DIGITS = 128
_SHOWN = 40  # characters of a constant in an error
_SUFFIXES = ("", "u", "l", "ul", "lu", "ll", "ull", "llu")
_CHARACTERS = {"n": 10, "t": 9, "0": 0, "r": 13, "\\": 92, "'": 39, '"': 34}

_NAMES = {
    "Goto": "goto",
    "Label": "a label",
    "Switch": "switch",
    "Case": "case",
    "Default": "default",
    "Struct": "a struct",
    "StructRef": "a struct member",
    "Union": "a union",
    "Enum": "an enum",
    "CompoundLiteral": "a compound literal",
    "NamedInitializer": "a designated initializer",
    "FuncDecl": "a function pointer",
    "Pragma": "#pragma",
    "Alignas": "_Alignas",
    "StaticAssert": "_Static_assert",
    "Compound": "a statement expression",
    "EllipsisParam": "a variable number of arguments",
    "Typename": "a type in place of a value",
}


def _line(node: Any) -> int:
    pending = [node] if node is not None else []
    while pending:  # a few kinds of node have no place themselves, but their parts do
        item = pending.pop(0)
        if item.coord is not None and item.coord.line:
            return int(item.coord.line)
        pending.extend(child for _, child in item.children())
    return 1


def refuse(node: Any, what: str, instead: str = "") -> CModelError:
    """Error that names a construct and its line."""
    line = _line(node)
    end = f"; {instead}" if instead else ""
    return CModelError(f"line {line}: {what} is not supported in a C model{end}", line)


def _refuse_kind(node: Any) -> CModelError:
    kind = type(node).__name__
    return refuse(node, _NAMES.get(kind, kind))


class _Variable:
    __slots__ = ("const", "name", "slot", "static", "type")

    def __init__(self, name: str, ctype: AnyType, slot: int, static: bool, const: bool) -> None:
        self.name = name
        self.type = ctype
        self.slot = slot
        self.static = static
        self.const = const


class _Lowering:
    """Lowers the functions of one file."""

    def __init__(self, declarations: list[Any], limits: Limits) -> None:
        self.limits = limits
        self.definitions: dict[str, Any] = {}
        self.prototypes: dict[str, Any] = {}
        self.typedefs: dict[str, Any] = {}
        self.globals: dict[str, _Variable] = {}
        self.global_declarations: dict[str, Any] = {}
        self.statics: list[nodes.Static] = []
        self.functions: dict[str, nodes.Function] = {}
        self.open: list[str] = []
        for declaration in declarations:
            self._top(declaration)

    def _top(self, node: Any) -> None:
        if isinstance(node, c_ast.FuncDef):
            name = node.decl.name
            line = _line(node.decl)
            if not isinstance(node.decl.type, c_ast.FuncDecl):  # pycparser takes `f { ... }`
                raise CModelError(f"line {line}: {name!r} has a body and no parameter list", line)
            if name in self.definitions:
                raise CModelError(f"line {line}: function {name!r} is defined twice", line)
            self.definitions[name] = node
        elif isinstance(node, c_ast.Typedef):
            self.typedefs[node.name] = node
        elif isinstance(node, c_ast.Decl) and isinstance(node.type, c_ast.FuncDecl):
            self.prototypes[node.name] = node
        elif isinstance(node, c_ast.Decl) and node.name is not None:
            self.global_declarations[node.name] = node
        # Anything else (a struct that nobody uses, say) is refused where it is used.

    # --- types ----------------------------------------------------------------

    def type_of(self, node: Any, pointers: bool = True) -> AnyType:
        """Type that a declarator names."""
        if isinstance(node, (c_ast.Typename, c_ast.Typedef)):
            return self.type_of(node.type, pointers)
        if isinstance(node, c_ast.TypeDecl):
            return self._named(node.type)
        if isinstance(node, c_ast.PtrDecl) and pointers:
            if isinstance(node.type, c_ast.FuncDecl):
                raise refuse(node.type, "a function pointer")
            element = self.type_of(node.type)
            if not isinstance(element, CType):
                raise refuse(node, "a pointer to a pointer or to an array")
            return PointerType(element)
        if isinstance(node, c_ast.PtrDecl):
            raise refuse(node, "a pointer here", "pass and return integers")
        raise _refuse_kind(node)

    def _named(self, node: Any) -> AnyType:
        if not isinstance(node, c_ast.IdentifierType):
            raise _refuse_kind(node)
        names = list(node.names)
        if len(names) == 1 and names[0] in self.typedefs:
            definition = self.typedefs[names[0]]
            del self.typedefs[names[0]]  # a typedef of itself would never end
            try:
                return self.type_of(definition)
            finally:
                self.typedefs[names[0]] = definition
        if len(names) == 1 and names[0] in STDINT:
            return STDINT[names[0]]
        found = from_words(names)
        if found is None:
            words = " ".join(names)
            raise refuse(node, f"the type {words!r}", "use integer types")
        return found

    def integer_type(self, node: Any) -> CType:
        """Type that must be an integer's."""
        found = self.type_of(node, pointers=False)
        if not isinstance(found, CType):
            raise refuse(node, "a pointer or array here", "use an integer")
        return found

    def declared(self, node: Any, initial: Any) -> AnyType:
        """Type of a declared variable; an array's length may come from its initializer."""
        if not isinstance(node, c_ast.ArrayDecl):
            return self.type_of(node)
        if isinstance(node.type, c_ast.ArrayDecl):
            raise refuse(node, "an array of arrays", "compute the index of a flat one")
        if node.dim_quals:
            raise refuse(node, "a qualifier in an array's brackets")
        element = self.type_of(node.type)
        if not isinstance(element, CType):
            raise refuse(node, "an array of pointers")
        if node.dim is None:
            if not isinstance(initial, c_ast.InitList):
                raise refuse(node, "an array without a length", "give its length")
            return ArrayType(element, max(1, len(initial.exprs)))
        length = self.constant(node.dim, "a variable-length array", "give a constant length")
        if not 0 < length <= self.limits.array_elements:
            line = _line(node)
            raise CModelError(
                f"line {line}: an array of {length} elements; "
                f"1 to {self.limits.array_elements} are allowed, so use a smaller one",
                line,
            )
        return ArrayType(element, length)

    def constant(self, node: Any, what: str, instead: str) -> int:
        """Value of a constant expression."""
        found = _Body(self, nodes.Function(_line(node), ""), constants_only=True).value(node)
        if not isinstance(found, nodes.Constant):
            raise refuse(node, what, instead)
        return found.value

    # --- functions and file-level variables -----------------------------------------

    def signature(self, name: str) -> tuple[CType, list[tuple[str, CType]]]:
        """Return type and parameters of a defined function."""
        definition = self.definitions[name]
        head = definition.decl
        if definition.param_decls:
            raise refuse(head, "an old-style parameter list", "write the types in the brackets")
        declarator = head.type
        returned = declarator.type
        words = getattr(getattr(returned, "type", None), "names", None)
        if words == ["void"] and isinstance(returned, c_ast.TypeDecl):
            raise refuse(head, "a function that returns nothing", "return the value")
        returns = self.integer_type(returned)
        parameters: list[tuple[str, CType]] = []
        for p in declarator.args.params if declarator.args else ():
            if isinstance(p, c_ast.Typename):
                if getattr(p.type, "type", None) is not None:
                    names = getattr(p.type.type, "names", None)
                    if names == ["void"] and isinstance(p.type, c_ast.TypeDecl):
                        continue
                raise refuse(p, "a parameter without a name", "name it")
            if not isinstance(p, c_ast.Decl):
                raise _refuse_kind(p)
            if isinstance(p.type, c_ast.ArrayDecl):
                raise refuse(p, "an array as a parameter", "pass integers")
            parameters.append((p.name, self.integer_type(p.type)))
        return returns, parameters

    def function(self, name: str, node: Any) -> nodes.Function:
        """The lowered function, lowering it first where need be."""
        if name in self.functions:
            return self.functions[name]
        if name not in self.definitions:
            raise refuse(node, f"a call of {name!r}, which the file does not define")
        if name in self.open:
            raise refuse(node, f"recursion (through {name!r})", "write it as a loop")
        definition = self.definitions[name]
        self.open.append(name)
        function = nodes.Function(_line(definition.decl), name)
        returns, parameters = self.signature(name)
        function.returns, function.parameters = returns, tuple(parameters)
        body = _Body(self, function)
        for p in definition.decl.type.args.params if definition.decl.type.args else ():
            if isinstance(p, c_ast.Decl):
                body.declare(p.name, self.integer_type(p.type), "const" in p.quals, p)
        function.body = body.block(definition.body)
        function.size = body.size
        self.open.pop()
        self.functions[name] = function
        return function

    def static(self, node: Any, ctype: AnyType) -> int:
        """Add a variable that outlives calls; returns its slot."""
        line = _line(node)
        values: list[int] = []
        what, instead = "a static initial value that is not a constant", "use a number"
        if isinstance(ctype, PointerType):
            if node.init is not None:
                pointer = _Body(self, nodes.Function(line, "")).expression(node.init)
                if not isinstance(pointer, nodes.NullPointer) and not (
                    isinstance(pointer, nodes.Constant) and pointer.value == 0
                ):
                    raise refuse(node, "a static pointer that does not start as NULL")
        elif isinstance(ctype, ArrayType):
            for item in self.items(node, ctype):
                value = lanes.convert(self.constant(item, what, instead), ctype.element)
                assert isinstance(value, int)
                values.append(value)
        elif node.init is not None:
            value = lanes.convert(self.constant(node.init, what, instead), ctype)
            assert isinstance(value, int)
            values.append(value)
        self.statics.append(nodes.Static(line, ctype, values))
        return len(self.statics) - 1

    def items(self, node: Any, ctype: ArrayType) -> list[Any]:
        """Expressions of an array's initializer."""
        if node.init is None:
            return []
        if not isinstance(node.init, c_ast.InitList):
            raise refuse(node, "this initial value of an array", "use {...}")
        found = list(node.init.exprs)
        for item in found:
            if isinstance(item, (c_ast.InitList, c_ast.NamedInitializer)):
                raise refuse(item, "a nested or designated initializer", "list plain values")
        if len(found) > ctype.length:
            line = _line(node)
            raise CModelError(f"line {line}: more initial values than array elements", line)
        return found

    def global_variable(self, name: str, node: Any) -> _Variable | None:
        """A file-level variable, which must be constant."""
        if name in self.globals or name not in self.global_declarations:
            return self.globals.get(name)
        declaration = self.global_declarations[name]
        ctype = self.declared(declaration.type, declaration.init)
        if "const" not in declaration.quals or isinstance(ctype, PointerType):
            raise refuse(declaration, f"the file-level variable {name!r}", "make it const or local")
        slot = self.static(declaration, ctype)
        self.globals[name] = _Variable(name, ctype, slot, True, True)
        return self.globals[name]


class _Body:
    """Lowers the body of one function."""

    def __init__(
        self, file: _Lowering, function: nodes.Function, constants_only: bool = False
    ) -> None:
        self.file = file
        self.function = function
        self.constants_only = constants_only
        self.scopes: list[dict[str, _Variable]] = [{}]
        self.size = 0
        self.loops = 0

    # --- names ------------------------------------------------------------------

    def declare(self, name: str, ctype: AnyType, const: bool, node: Any) -> _Variable:
        """A new local variable."""
        self._new_name(name, node)
        variable = _Variable(name, ctype, self.size, False, const)
        self.size += 1
        self.scopes[-1][name] = variable
        return variable

    def _new_name(self, name: str, node: Any) -> None:
        if name in self.scopes[-1]:
            line = _line(node)
            raise CModelError(f"line {line}: {name!r} is declared twice", line)

    def lookup(self, node: Any) -> _Variable:
        """The variable that an identifier names."""
        for scope in reversed(self.scopes):
            if node.name in scope:
                return scope[str(node.name)]
        found = self.file.global_variable(node.name, node)
        if found is not None:
            return found
        line = _line(node)
        if node.name in self.file.definitions or node.name in self.file.prototypes:
            raise refuse(node, f"the function {node.name!r} used as a value (a function pointer)")
        raise CModelError(f"line {line}: {node.name!r} is not declared", line)

    # --- statements -------------------------------------------------------------

    def block(self, node: Any) -> nodes.Block:
        """``{...}`` with its own scope."""
        self.scopes.append({})
        found: list[nodes.Statement] = []
        for item in node.block_items or ():
            self._into(found, item)
        self.scopes.pop()
        return nodes.Block(_line(node), found)

    def _into(self, found: list[nodes.Statement], item: Any) -> None:
        statement = self.statement(item)
        last = found[-1] if found else None
        # `int a, b, c;` is one declaration per name: keep them one statement.
        if isinstance(statement, nodes.Declare) and isinstance(last, nodes.Declare):
            last.slots.extend(statement.slots)
        else:
            found.append(statement)

    def statement(self, node: Any) -> nodes.Statement:
        """One statement."""
        name = "statement_" + type(node).__name__
        method: Callable[[Any], nodes.Statement] | None = getattr(self, name, None)
        if method is not None:
            return method(node)
        found = self.expression(node)
        if isinstance(found, nodes.PointerExpression):
            raise refuse(node, "a pointer as a statement", "assign it")
        return nodes.ExpressionStatement(found)

    def statement_Compound(self, node: Any) -> nodes.Statement:
        return self.block(node)

    def statement_EmptyStatement(self, node: Any) -> nodes.Statement:
        return nodes.Block(_line(node), ())

    def statement_DeclList(self, node: Any) -> nodes.Statement:
        found: list[nodes.Statement] = []
        for declaration in node.decls:
            self._into(found, declaration)
        return found[0] if len(found) == 1 else nodes.Block(_line(node), found)

    def statement_Decl(self, node: Any) -> nodes.Statement:
        line = _line(node)
        if node.name is None or isinstance(node.type, (c_ast.Struct, c_ast.Union, c_ast.Enum)):
            raise _refuse_kind(node.type)
        if isinstance(node.type, c_ast.FuncDecl):
            raise refuse(node, "a function declared inside a function", "declare it outside")
        for word in node.storage:
            if word not in ("static", "register", "auto"):
                raise refuse(node, f"the storage class {word!r}")
        if node.bitsize is not None or node.align:
            raise refuse(node, "this declaration")
        const = "const" in node.quals
        ctype = self.file.declared(node.type, node.init)
        if "static" in node.storage:
            if not const:
                self.function.pure = False
            self._new_name(node.name, node)
            slot = self.file.static(node, ctype)
            self.scopes[-1][node.name] = _Variable(node.name, ctype, slot, True, const)
            return nodes.Block(line, ())
        if isinstance(ctype, ArrayType):
            values: list[nodes.Expression] | None = None
            if node.init is not None:
                items = self.file.items(node, ctype)
                values = [self.converted(self.value(item), ctype.element) for item in items]
            variable = self.declare(node.name, ctype, const, node)
            return nodes.DeclareArray(line, variable.slot, ctype, values)
        if isinstance(ctype, PointerType):
            variable = self.declare(node.name, ctype, False, node)
            place = self._array(variable, node)
            start = self._pointer(node.init, place) if node.init is not None else None
            return nodes.PointerAssign(line, place, start or nodes.NullPointer(line, None))
        if node.init is None:
            return nodes.Declare(line, [self.declare(node.name, ctype, const, node).slot])
        if isinstance(node.init, c_ast.InitList):
            raise refuse(node, "an initializer list of a scalar", "write the value")
        # The name is in scope in its own initial value, without a value yet.
        variable = self.declare(node.name, ctype, const, node)
        place_ = nodes.LocalPlace(line, ctype, node.name, variable.slot)
        value = self.converted(self.value(node.init), ctype)
        assign = nodes.ExpressionStatement(nodes.Assign(line, place_, value))
        if not self.loops:
            return assign
        return nodes.Block(line, (nodes.Declare(line, [variable.slot]), assign))

    def statement_If(self, node: Any) -> nodes.Statement:
        chosen = self.condition(node.cond)
        yes = self._scoped(node.iftrue)
        no = self._scoped(node.iffalse) if node.iffalse is not None else None
        return nodes.If(_line(node), chosen, yes, no)

    def _scoped(self, node: Any) -> nodes.Statement:
        self.scopes.append({})
        found = self.statement(node)
        self.scopes.pop()
        return found

    def _body(self, node: Any) -> nodes.Statement:
        self.loops += 1
        found = self._scoped(node)
        self.loops -= 1
        return found

    def statement_For(self, node: Any) -> nodes.Statement:
        self.scopes.append({})
        first = self.statement(node.init) if node.init is not None else None
        chosen = self.condition(node.cond) if node.cond is not None else None
        step = self.value(node.next) if node.next is not None else None
        body = self._body(node.stmt)
        self.scopes.pop()
        loop = nodes.Loop(_line(node), first, chosen, step, body, True)
        return vectorised(loop) or loop

    def statement_While(self, node: Any) -> nodes.Statement:
        chosen = self.condition(node.cond)
        return nodes.Loop(_line(node), None, chosen, None, self._body(node.stmt), True)

    def statement_DoWhile(self, node: Any) -> nodes.Statement:
        body = self._body(node.stmt)
        return nodes.Loop(_line(node), None, self.condition(node.cond), None, body, False)

    def statement_Break(self, node: Any) -> nodes.Statement:
        if not self.loops:
            raise refuse(node, "break outside a loop")
        return nodes.Break(_line(node))

    def statement_Continue(self, node: Any) -> nodes.Statement:
        if not self.loops:
            raise refuse(node, "continue outside a loop")
        return nodes.Continue(_line(node))

    def statement_Return(self, node: Any) -> nodes.Statement:
        if node.expr is None:
            raise refuse(node, "return without a value", "return the product")
        value = self.converted(self.value(node.expr), self.function.returns)
        return nodes.Return(_line(node), value)

    def statement_Assignment(self, node: Any) -> nodes.Statement:
        if node.op == "=" and isinstance(node.lvalue, c_ast.ID):
            variable = self.lookup(node.lvalue)
            if isinstance(variable.type, PointerType):
                place = self._array(variable, node)
                return nodes.PointerAssign(_line(node), place, self._pointer(node.rvalue, place))
        return nodes.ExpressionStatement(self.value(node))

    def statement_Cast(self, node: Any) -> nodes.Statement:
        words = getattr(getattr(node.to_type.type, "type", None), "names", None)
        if words == ["void"]:  # (void)x; marks x as unused
            return nodes.ExpressionStatement(self.value(node.expr))
        return nodes.ExpressionStatement(self.value(node))

    # --- pointers ------------------------------------------------------------------

    def _array(self, variable: _Variable, node: Any) -> nodes.ArrayPlace:
        assert not isinstance(variable.type, CType)
        pointer = isinstance(variable.type, PointerType)
        return nodes.ArrayPlace(
            _line(node),
            variable.type.element,
            variable.name,
            variable.slot,
            variable.static,
            pointer,
        )

    def _pointer(self, node: Any, place: nodes.ArrayPlace) -> nodes.PointerExpression:
        found = self.expression(node)
        if isinstance(found, nodes.Constant) and found.value == 0:
            return nodes.NullPointer(found.line, None)
        if not isinstance(found, nodes.PointerExpression):
            raise refuse(node, "an integer assigned to a pointer", "use malloc or NULL")
        if found.element is not None and found.element is not place.element:
            raise refuse(node, "a pointer assigned to one of another type")
        if found.element is None:
            found.element = place.element
        return found

    # --- expressions -------------------------------------------------------------

    def value(self, node: Any) -> nodes.Expression:
        """An expression that must be an integer."""
        found = self.expression(node)
        if isinstance(found, nodes.PointerExpression):
            raise refuse(node, "a pointer as a number", "index it")
        return found

    def condition(self, node: Any) -> nodes.Expression:
        """An expression that is only asked whether it is zero."""
        found = self.expression(node)
        if isinstance(found, nodes.PointerExpression):
            return nodes.IsNull(found.line, found, False)
        return found

    def expression(self, node: Any) -> nodes.Expression | nodes.PointerExpression:
        """Any expression."""
        name = "expression_" + type(node).__name__
        method: Callable[[Any], nodes.Expression | nodes.PointerExpression] | None
        method = getattr(self, name, None)
        if method is None:
            raise _refuse_kind(node)
        found: nodes.Expression | nodes.PointerExpression = method(node)
        return found

    def folded(self, node: nodes.Expression, *parts: nodes.Expression) -> nodes.Expression:
        """A constant, where all parts are."""
        if all(isinstance(p, nodes.Constant) for p in parts):
            value = node.run(Machine(self.file.limits, []))
            assert isinstance(value, int)
            return nodes.Constant(node.line, node.type, value)
        return node

    def converted(self, value: nodes.Expression, ctype: CType) -> nodes.Expression:
        """A value in the type that it is needed in."""
        if value.type is ctype:
            return value
        if isinstance(value, nodes.Constant):
            number = lanes.convert(value.value, ctype)
            assert isinstance(number, int)
            return nodes.Constant(value.line, ctype, number)
        return nodes.Convert(value, ctype)

    def operand(self, value: nodes.Expression, ctype: CType) -> nodes.Expression:
        """A value as an operand of an operation in `ctype`."""
        # Without a change of value there is nothing to do: the operation brings its own type.
        return value if ctype.holds(value.type) else self.converted(value, ctype)

    def expression_Constant(self, node: Any) -> nodes.Expression:
        line = _line(node)
        text = node.value
        if node.type == "string":
            raise refuse(node, "a string literal")
        if node.type == "char":
            inner = text[1:-1]
            if len(inner) == 1 and inner.isascii():
                return nodes.Constant(line, INT, ord(inner))
            if len(inner) == 2 and inner[0] == "\\" and inner[1] in _CHARACTERS:
                return nodes.Constant(line, INT, _CHARACTERS[inner[1]])
            raise refuse(node, f"the character constant {text}")
        match = _INTEGER.fullmatch(text)
        if match is None:
            raise refuse(node, f"the floating-point constant {text[:_SHOWN]}", "use integers")
        digits, suffix = match[1], match[2].lower()
        if suffix not in _SUFFIXES:
            raise refuse(node, f"the constant {text[:_SHOWN]}")
        if len(digits) > _MAX_DIGITS:  # Python itself refuses to read a decimal of thousands
            raise CModelError(f"line {line}: the constant {text[:_SHOWN]}... is too long", line)
        decimal = digits[0] != "0"
        if decimal:
            value = int(digits)
        elif digits[:2] in ("0x", "0X"):
            value = int(digits, 16)
        elif digits[:2] in ("0b", "0B"):
            value = int(digits, 2)
        else:
            value = int(digits, 8)
        candidates = [INT, UINT, LONG, ULONG]
        if "u" in suffix:
            candidates = [t for t in candidates if not t.signed]
        elif decimal:
            candidates = [t for t in candidates if t.signed]
        if "l" in suffix:
            candidates = [t for t in candidates if t.bits == 64]
        for ctype in candidates:
            if value <= ctype.max:
                return nodes.Constant(line, ctype, value)
        raise CModelError(f"line {line}: the constant {text} does not fit 64 bits", line)

    def expression_ID(self, node: Any) -> nodes.Expression | nodes.PointerExpression:
        line = _line(node)
        if node.name == "NULL":
            return nodes.NullPointer(line, None)
        if node.name in ("true", "false"):
            return nodes.Constant(line, INT, int(node.name == "true"))
        if self.constants_only:
            raise refuse(node, f"the variable {node.name!r} in a constant", "write the number")
        variable = self.lookup(node)
        if isinstance(variable.type, PointerType):
            return nodes.PointerRead(self._array(variable, node))
        if isinstance(variable.type, ArrayType):
            raise refuse(node, f"the array {node.name!r} as a value", "index it")
        return nodes.Read(self._place(variable, node))

    def _place(self, variable: _Variable, node: Any) -> nodes.Place:
        assert isinstance(variable.type, CType)
        kind = nodes.StaticPlace if variable.static else nodes.LocalPlace
        return kind(_line(node), variable.type, variable.name, variable.slot)

    def expression_ArrayRef(self, node: Any) -> nodes.Expression:
        return nodes.Read(self._element(node))

    def _element(self, node: Any) -> nodes.ElementPlace:
        if not isinstance(node.name, c_ast.ID):
            raise refuse(node, "an index into something that is no array variable")
        variable = self.lookup(node.name)
        if isinstance(variable.type, CType):
            raise refuse(node, f"an index into {variable.name!r}, which is no array")
        return nodes.ElementPlace(
            _line(node), self._array(variable, node), self.value(node.subscript)
        )

    def target(self, node: Any) -> nodes.Place:
        """What stands left of an assignment."""
        if isinstance(node, c_ast.ArrayRef):
            element = self._element(node)
            if self.lookup(node.name).const:
                raise refuse(node, f"an assignment to the constant {node.name.name!r}")
            return element
        if isinstance(node, c_ast.ID):
            variable = self.lookup(node)
            if variable.const:
                raise refuse(node, f"an assignment to the constant {node.name!r}")
            if isinstance(variable.type, CType):
                return self._place(variable, node)
            raise refuse(node, "an assignment of a pointer or array inside an expression")
        if isinstance(node, c_ast.UnaryOp) and node.op == "*":
            raise refuse(node, "dereferencing a pointer with *", "index it with []")
        raise refuse(node, "an assignment to this")

    def expression_Assignment(self, node: Any) -> nodes.Expression:
        line = _line(node)
        place = self.target(node.lvalue)
        if node.op == "=":
            value = self.value(node.rvalue)
        else:
            operator = node.op[:-1]
            self._changeable(place, node)
            value = self.binary(line, operator, nodes.Read(place), self.value(node.rvalue), node)
        return nodes.Assign(line, place, self.converted(value, place.type))

    def _changeable(self, place: nodes.Place, node: Any) -> None:
        if isinstance(place, nodes.ElementPlace) and place.index.effect:
            raise refuse(node, "an index that changes a variable", "compute it before")
        if isinstance(place, nodes.StaticPlace):
            raise refuse(
                node,
                f"the static counter {place.name!r}",
                "a multiplier must not remember earlier calls",
            )

    def expression_UnaryOp(self, node: Any) -> nodes.Expression | nodes.PointerExpression:
        line = _line(node)
        op = node.op
        if op == "sizeof":
            return self._sizeof(node)
        if op in ("++", "--", "p++", "p--"):
            place = self.target(node.expr)
            self._changeable(place, node)
            one = nodes.Constant(line, INT, 1)
            value = self.binary(line, op[-1], nodes.Read(place), one, node)
            step = nodes.Assign(line, place, self.converted(value, place.type))
            return nodes.StepBack(line, place, step) if op[0] == "p" else step
        if op == "*":
            raise refuse(node, "dereferencing a pointer with *", "index it with []")
        if op == "&":
            raise refuse(node, "the address of a variable")
        if op == "!":
            operand = self.expression(node.expr)
            if isinstance(operand, nodes.PointerExpression):
                return nodes.IsNull(line, operand, True)
            return self.folded(nodes.Not(line, operand), operand)
        value = self.value(node.expr)
        ctype = promote(value.type)
        value = self.converted(value, ctype)
        if op == "+":
            return value
        if op == "-":
            zero = nodes.Constant(line, ctype, 0)
            return self.folded(nodes.Binary(line, ctype, lanes.subtract, zero, value), value)
        if op == "~":
            return self.folded(nodes.Invert(line, value), value)
        raise refuse(node, f"the operator {op}")

    def _sizeof(self, node: Any) -> nodes.Expression:
        line = _line(node)
        inner = node.expr
        if isinstance(inner, c_ast.Typename):
            ctype = self.file.declared(inner.type, None)
        elif isinstance(inner, c_ast.ID) and inner.name != "NULL":
            ctype = self.lookup(inner).type
        else:
            ctype = self.value(inner).type
        size = 8 if isinstance(ctype, PointerType) else ctype.size
        return nodes.Constant(line, ULONG, size)

    def expression_BinaryOp(self, node: Any) -> nodes.Expression:
        line = _line(node)
        if node.op in ("&&", "||"):
            left, right = self.condition(node.left), self.condition(node.right)
            return self.folded(nodes.Logical(line, node.op == "&&", left, right), left, right)
        x, y = self.expression(node.left), self.expression(node.right)
        if isinstance(x, nodes.PointerExpression) or isinstance(y, nodes.PointerExpression):
            return self._null_test(node, x, y)
        return self.binary(line, node.op, x, y, node)

    def _null_test(
        self,
        node: Any,
        x: nodes.Expression | nodes.PointerExpression,
        y: nodes.Expression | nodes.PointerExpression,
    ) -> nodes.Expression:
        if node.op not in ("==", "!="):
            raise refuse(node, f"pointer arithmetic with {node.op}", "index the pointer with []")
        for pointer, other in ((x, y), (y, x)):
            null = isinstance(other, nodes.NullPointer) or (
                isinstance(other, nodes.Constant) and other.value == 0
            )
            if null and isinstance(pointer, nodes.PointerExpression):
                return nodes.IsNull(_line(node), pointer, node.op == "==")
        raise refuse(node, "a comparison of two pointers")

    def binary(
        self, line: int, op: str, x: nodes.Expression, y: nodes.Expression, node: Any
    ) -> nodes.Expression:
        """``x op y`` under C's conversions."""
        found: nodes.Expression
        if op in _SHIFTS:
            ctype = promote(x.type)
            x = self.operand(x, ctype)
            found = nodes.Shift(line, ctype, _SHIFTS[op], x, y)
            return self.folded(found, x, y)
        ctype = common(x.type, y.type)
        x, y = self.operand(x, ctype), self.operand(y, ctype)
        if op in _ARITHMETIC:
            found = nodes.Binary(line, ctype, _ARITHMETIC[op], x, y)
        elif op in _DIVISIONS:
            # A constant zero may stand where nobody gets: it is a fault only when reached.
            found = nodes.Divide(line, ctype, _DIVISIONS[op], x, y)
            if isinstance(y, nodes.Constant) and y.value == 0:
                return found
        elif op in _COMPARISONS:
            found = nodes.Compare(line, op, x, y)
        else:
            raise refuse(node, f"the operator {op}")
        return self.folded(found, x, y)

    def expression_Cast(self, node: Any) -> nodes.Expression | nodes.PointerExpression:
        found = self.expression(node.expr)
        ctype = self.file.type_of(node.to_type)
        if isinstance(ctype, PointerType):
            if isinstance(found, nodes.Constant) and found.value == 0:
                return nodes.NullPointer(found.line, ctype.element)
            if not isinstance(found, nodes.PointerExpression):
                raise refuse(node, "an integer cast to a pointer")
            if found.element is not None and found.element is not ctype.element:
                raise refuse(node, "a pointer cast to another type")
            if found.element is None:
                found.element = ctype.element
            return found
        if isinstance(found, nodes.PointerExpression) or not isinstance(ctype, CType):
            raise refuse(node, "a pointer cast to an integer")
        return self.converted(found, ctype)

    def expression_TernaryOp(self, node: Any) -> nodes.Expression:
        chosen = self.condition(node.cond)
        yes, no = self.value(node.iftrue), self.value(node.iffalse)
        ctype = common(yes.type, no.type)
        yes, no = self.converted(yes, ctype), self.converted(no, ctype)
        return self.folded(nodes.Conditional(_line(node), chosen, yes, no), chosen, yes, no)

    def expression_ExprList(self, node: Any) -> nodes.Expression:
        found = self.value(node.exprs[0])
        for item in node.exprs[1:]:
            found = nodes.Comma(_line(item), found, self.value(item))
        return found

    def expression_FuncCall(self, node: Any) -> nodes.Expression | nodes.PointerExpression:
        line = _line(node)
        if not isinstance(node.name, c_ast.ID):
            raise refuse(node, "a call through a pointer")
        name = node.name.name
        written = list(node.args.exprs) if node.args is not None else []
        if any(name in scope for scope in self.scopes):
            raise refuse(node, f"a call through the variable {name!r} (a function pointer)")
        if name in ("malloc", "calloc") and name not in self.file.definitions:
            sizes = [self.converted(self.value(a), ULONG) for a in written]
            if len(sizes) != (1 if name == "malloc" else 2):
                raise refuse(node, f"{name} with {len(sizes)} arguments")
            size = sizes[0]
            if name == "calloc":
                size = self.binary(line, "*", sizes[0], sizes[1], node)
            return nodes.Allocate(line, None, size, name == "calloc")
        if self.constants_only:
            raise refuse(node, "a call in a constant", "write the number")
        function = self.file.function(name, node)
        if len(written) != len(function.parameters):
            raise CModelError(
                f"line {line}: {name!r} takes {len(function.parameters)} arguments, "
                f"not {len(written)}",
                line,
            )
        if not function.pure:
            self.function.pure = False
        arguments = [
            self.converted(self.value(a), ctype)
            for a, (_, ctype) in zip(written, function.parameters, strict=True)
        ]
        return nodes.Call(line, function, arguments)


# --- loops that only fill arrays --------------------------------------------------


class _NotVector(Exception):
    """The loop has to run as written."""


def vectorised(loop: nodes.Loop) -> nodes.VectorLoop | None:
    """The loop with all its iterations at once, where the text shows them independent."""
    try:
        counters, stores = _nest(loop)
        return _independent(loop, counters, stores)
    except _NotVector:
        return None


def _single(statement: nodes.Statement | None) -> nodes.Statement | None:
    while isinstance(statement, nodes.Block) and len(statement.statements) == 1:
        statement = statement.statements[0]
    return statement


def _nest(loop: nodes.Loop) -> tuple[list[nodes.Counter], list[nodes.Assign]]:
    counters = [_counter(loop)]
    body = _single(loop.body)
    if isinstance(body, nodes.VectorLoop):
        body = body.plain
    if isinstance(body, nodes.Loop):
        inner, stores = _nest(body)
        return counters + inner, stores
    statements = body.statements if isinstance(body, nodes.Block) else (body,)
    stores = []
    for statement in statements:
        if not isinstance(statement, nodes.ExpressionStatement):
            raise _NotVector
        assign = statement.expression
        if not isinstance(assign, nodes.Assign) or not isinstance(assign.place, nodes.ElementPlace):
            raise _NotVector
        stores.append(assign)
    if not stores:
        raise _NotVector
    return counters, stores


def _counter(loop: nodes.Loop) -> nodes.Counter:
    """``for (i = start; i < stop; i++)``, or a miss."""
    first = _single(loop.first)
    if isinstance(first, nodes.Block) and isinstance(first.statements[0], nodes.Declare):
        first = first.statements[-1]  # `int i = 0` inside an outer loop
    if not isinstance(first, nodes.ExpressionStatement) or not loop.test_first:
        raise _NotVector
    start, test, step = first.expression, loop.chosen, loop.step
    if isinstance(step, nodes.StepBack):
        step = step.step
    if not (
        isinstance(start, nodes.Assign)
        and isinstance(start.place, nodes.LocalPlace)
        and isinstance(test, nodes.Compare)
        and test.operator in ("<", "<=")
        and isinstance(step, nodes.Assign)
        and isinstance(step.place, nodes.LocalPlace)
    ):
        raise _NotVector
    slot = start.place.slot
    counted = step.value.operand if isinstance(step.value, nodes.Convert) else step.value
    if not (
        _reads(test.left, slot)
        and step.place.slot == slot
        and isinstance(counted, nodes.Binary)
        and counted.operator is lanes.add
        and _reads(counted.left, slot)
        and isinstance(counted.right, nodes.Constant)
        and counted.right.value == 1
    ):
        raise _NotVector
    return nodes.Counter(start.place, start.value, test.right, test.operator == "<=")


def _reads(node: nodes.Expression, slot: int) -> bool:
    if isinstance(node, nodes.Convert):
        node = node.operand
    return (
        isinstance(node, nodes.Read)
        and isinstance(node.place, nodes.LocalPlace)
        and node.place.slot == slot
    )


def _independent(
    loop: nodes.Loop, counters: list[nodes.Counter], stores: list[nodes.Assign]
) -> nodes.VectorLoop:
    counting = {c.place.slot for c in counters}
    if len(counting) != len(counters):
        raise _NotVector
    scalars: list[nodes.LocalPlace] = []
    arrays: list[nodes.ArrayPlace] = []
    for counter in counters:
        for bound in (counter.start, counter.stop):
            _survey(bound, scalars, arrays)
    if arrays or any(p.slot in counting for p in scalars):
        raise _NotVector  # an inner bound follows an outer counter, or comes from an array
    for store in stores:
        assert isinstance(store.place, nodes.ElementPlace)
        _survey(store.value, scalars, arrays)
        _survey(store.place.index, scalars, arrays)
    outside = [p for p in scalars if p.slot not in counting]
    return nodes.VectorLoop(loop, counters, stores, outside, arrays)


def _survey(
    node: nodes.Expression, scalars: list[nodes.LocalPlace], arrays: list[nodes.ArrayPlace]
) -> None:
    """Collect what an expression reads; a miss if it does more than read."""
    if node.effect:
        raise _NotVector
    if isinstance(node, nodes.Read):
        if isinstance(node.place, nodes.LocalPlace):
            scalars.append(node.place)
        elif isinstance(node.place, nodes.ElementPlace):
            arrays.append(node.place.of)
            _survey(node.place.index, scalars, arrays)
        return
    parts: tuple[nodes.Expression, ...]
    if isinstance(node, nodes.Constant):
        parts = ()
    elif isinstance(node, (nodes.Binary, nodes.Compare, nodes.Logical)):
        parts = (node.left, node.right)
    elif isinstance(node, (nodes.Convert, nodes.Invert, nodes.Not)):
        parts = (node.operand,)
    elif isinstance(node, nodes.Conditional):
        parts = (node.chosen, node.yes, node.no)
    elif isinstance(node, nodes.Call):
        parts = node.arguments
    else:
        raise _NotVector
    for part in parts:
        _survey(part, scalars, arrays)


# --- the program ------------------------------------------------------------------


class Program:
    """The chosen function with everything that it reaches."""

    def __init__(self, function: nodes.Function, statics: list[nodes.Static]) -> None:
        self.function = function
        self.statics = statics

    @property
    def size(self) -> int:
        """Number of the widest function's variables, a measure of the memory of a run."""
        return max(1, self.function.size)


def lower(declarations: list[Any], function: str | None, limits: Limits) -> Program:
    """Check a file's declarations and lower the function that is asked for.

    Raises
    ------
    CModelError
        If the function is not there or not the only candidate, or for a refused construct.
    """
    try:
        file = _Lowering(declarations, limits)
        name = _choose(file, function)
        if len(file.signature(name)[1]) != 2:
            line = _line(file.definitions[name].decl)
            raise CModelError(
                f"line {line}: {name!r} must take the two operands and nothing else", line
            )
        return Program(file.function(name, None), file.statics)
    except RecursionError:
        raise CModelError(
            "expressions or blocks are nested too deeply; split them into several statements"
        ) from None


def _choose(file: _Lowering, function: str | None) -> str:
    if function is not None:
        if function not in file.definitions:
            have = ", ".join(file.definitions) or "none"
            raise CModelError(f"the file defines no function {function!r} (it has: {have})")
        return function
    candidates = []
    for name, definition in file.definitions.items():
        args = definition.decl.type.args
        if "static" in definition.decl.storage or args is None or len(args.params) != 2:
            continue
        try:
            file.signature(name)
        except CModelError:
            continue
        candidates.append(name)
    if len(candidates) > 1:
        called = set()
        for name, definition in file.definitions.items():
            called |= _called(definition.body) - {name}
        candidates = [name for name in candidates if name not in called]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        names = ", ".join(candidates)
        raise CModelError(f"several functions may be the multiplier ({names}); name one")
    raise CModelError(
        "no function takes two integers and returns one; the multiplier must be such a function"
    )


def _called(node: Any) -> set[str]:
    found = set()
    pending = [node]
    while pending:
        item = pending.pop()
        if isinstance(item, c_ast.FuncCall) and isinstance(item.name, c_ast.ID):
            found.add(item.name.name)
        pending.extend(child for _, child in item.children())
    return found
