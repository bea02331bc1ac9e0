"""``Formula``: arithmetic written as a text, in a declaration or a window. Parsed once, never passed to ``eval``."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_CONSTANTS = {"pi": np.pi, "e": np.e}


def _rms(values: Any) -> Any:
    return np.sqrt(np.mean(np.square(values)))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(np, name) for name in ("sqrt", "exp", "log", "log10", "sin", "cos", "tan", "arctan2", "hypot")},
    **{name: getattr(np, name) for name in ("mean", "median", "std", "sum", "abs", "minimum", "maximum", "clip")},
    "min": min,
    "max": max,
    "rms": _rms,
}


class Formula:
    """A formula over named values: ``Formula("sqrt(x * y)", {"x", "y"})(x=1.0, y=4.0)``.

    :param text: numbers, names, ``+ - * / // % **``, comparisons, ``a if b else c``, and calls of ``FUNCTIONS``.
    :param names: the values that it may use.
    :raises ValueError: naming what is not allowed in it.
    """

    def __init__(self, text: str, names: Collection[str]) -> None:
        """Parse the text; nothing of it is evaluated."""
        if not isinstance(text, str):
            raise ValueError(f"a formula must be a text, not {text!r}")
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except SyntaxError as error:
            raise ValueError(f"{text!r} is not a formula: {error.msg}") from None
        nodes = list(ast.walk(self._tree))
        # A name that is called is a function; elsewhere the same name may be a value.
        called = [node.func for node in nodes if isinstance(node, ast.Call)]
        values = [n for n in nodes if isinstance(n, ast.Name) and not (n in called and n.id in FUNCTIONS)]
        self.names = {node.id for node in values}
        if unknown := self.names - set(names) - _CONSTANTS.keys():
            known = ", ".join(sorted(names)) or "none"
            raise ValueError(f"formula {text!r}: unknown name {', '.join(sorted(unknown))} (known: {known})")
        self._check(self._tree)

    def __repr__(self) -> str:
        return f"Formula({self.text!r})"

    def __call__(self, **values: Any) -> Any:
        """Return its value.

        :raises ArithmeticError: as Python's own arithmetic.
        """
        return self._value(self._tree, values)

    def _check(self, node: ast.expr) -> None:
        for part in ast.walk(node):
            if isinstance(part, ast.Call):
                if not isinstance(part.func, ast.Name) or part.func.id not in FUNCTIONS or part.keywords:
                    raise ValueError(
                        f"formula {self.text!r}: {ast.unparse(part)} is not a call of {', '.join(sorted(FUNCTIONS))}"
                    )
            elif isinstance(part, ast.Constant):
                if not isinstance(part.value, int | float):
                    raise ValueError(f"formula {self.text!r}: {part.value!r} is not a number")
            elif not isinstance(part, _ALLOWED):
                raise ValueError(f"formula {self.text!r}: {type(part).__name__} is not allowed in a formula")

    def _value(self, node: ast.expr, values: Mapping[str, Any]) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return values[name] if name in values else _CONSTANTS[name]
            case ast.BinOp(left=left, op=op, right=right):
                return _BINARY[type(op)](self._value(left, values), self._value(right, values))
            case ast.UnaryOp(op=sign, operand=operand):
                return _UNARY[type(sign)](self._value(operand, values))
            case ast.Call(func=ast.Name(id=name), args=args):
                return FUNCTIONS[name](*(self._value(arg, values) for arg in args))
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self._value(body if self._value(test, values) else orelse, values)
            case ast.Compare(left=left, ops=[comparison], comparators=[right]):
                return _COMPARE[type(comparison)](self._value(left, values), self._value(right, values))
        raise ValueError(f"formula {self.text!r}: {ast.unparse(node)} is not allowed in a formula")


_ALLOWED = (
    ast.Name,
    ast.Load,
    ast.BinOp,
    ast.UnaryOp,
    ast.IfExp,
    ast.Compare,
    *_BINARY,
    *_UNARY,
    *_COMPARE,
)
