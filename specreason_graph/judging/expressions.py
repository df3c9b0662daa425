"""Pure expressions of Python: their values, within limits, by simpleeval.

Nothing of a model's text is run: there are no names but those given, no attributes but a few methods, and no functions
but those below. What is done is counted by the size of what is computed and not by the clock, so an expression has the
same value, or none, everywhere.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from simpleeval import EvalWithCompoundTypes, FeatureNotAvailable, IterableTooLong

from specreason_graph.judging.arithmetic import MOST_BITS

MOST_NODES, BUDGET = 300, 50_000
"""Nodes of an expression, and what all expressions together may take: nodes that are evaluated, and elements, 64 bits
or 16 characters of their values."""


class NotFollowedError(Exception):
    """What has no value here."""


class Values:
    """Gives values until the budget is used up."""

    def __init__(self) -> None:
        self._left = BUDGET
        functions = {name: self._within(function) for name, function in FUNCTIONS.items()}
        self._evaluator = EvalWithCompoundTypes(operators=dict(_OPERATORS), allowed_attrs=dict(_METHODS))
        self._evaluator.functions = functions  # without those that simpleeval adds
        nodes = {kind: handler for kind, handler in self._evaluator.nodes.items() if kind not in _LEFT_OUT}
        nodes[ast.FormattedValue] = _plainly(nodes[ast.FormattedValue])
        self._evaluator.nodes = {kind: self._charged(handler) for kind, handler in nodes.items()}

    def of(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        """The value of an expression; raises `NotFollowedError` where it has none, or takes too much."""
        if sum(1 for _ in ast.walk(node)) > MOST_NODES:
            raise NotFollowedError
        self._evaluator.names = {"True": True, "False": False, "None": None, **names}
        try:
            return self._evaluator.eval("", previously_parsed=node)
        except Exception as error:  # whatever an expression does wrong
            raise NotFollowedError from error

    def _charged(self, handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def evaluated(node: Any) -> Any:
            result = handler(node)
            self._charge(result)
            return result

        return evaluated

    def _within(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            self._charge(arguments)
            return function(*arguments, **named)

        return called

    def _charge(self, value: Any) -> None:
        self._left -= 1 + _size(value, self._left)
        if self._left < 0 or _bits(value) > MOST_BITS:
            raise IterableTooLong("that is too much")


def _size(value: Any, most: int) -> int:
    """How large a value is, or more than ``most``."""
    waiting, size = [value], 0
    while waiting and size <= most:
        each = waiting.pop()
        if isinstance(each, str | bytes):
            size += len(each) // 16
        elif isinstance(each, Mapping | list | tuple | set | range):
            size += len(each)
            waiting += () if isinstance(each, range) else each.values() if isinstance(each, Mapping) else each
        else:
            size += _bits(each) // 64
    return size


def _bits(number: Any) -> int:
    return number.bit_length() if isinstance(number, int) else 0


def _limited(size: float, most: int) -> None:
    if size > most:
        raise IterableTooLong("that is too much")


def _product(one: Any, other: Any) -> Any:
    for part, times in ((one, other), (other, one)):
        if isinstance(part, str | bytes | list | tuple):
            _limited(times * (len(part) + _size(part, BUDGET)), BUDGET)
    return one * other


def _power(one: float, other: float) -> float:
    _limited(_bits(one) * abs(other), MOST_BITS)
    return float(one**other) if isinstance(one, float) else one**other


def _shift(one: int, other: int) -> int:
    _limited(_bits(one) + other, MOST_BITS)
    return one << other


def _remainder(one: Any, other: Any) -> Any:
    if isinstance(one, str | bytes):
        raise FeatureNotAvailable("a text of any width")
    return one % other


def _round(number: float, digits: int | None = None) -> float:
    _limited(abs(digits or 0), 100)
    return round(number, digits)


def _set(values: Iterable[Any] = ()) -> set[Any]:
    found = set(values)
    if not all(isinstance(each, int | float) for each in found):
        raise FeatureNotAvailable("the order of texts in a set differs from process to process")
    return found


def _plainly(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A value in an f-string, unless its format may be of any width."""

    def formatted(node: Any) -> Any:
        form = [getattr(each, "value", None) for each in getattr(node.format_spec, "values", ())]
        if node.conversion != -1 or not all(isinstance(each, str) and _FORM.fullmatch(each) for each in form):
            raise FeatureNotAvailable("a format of any width")
        return handler(node)

    return formatted


_FORM = re.compile(r",?(?:\.\d{1,2})?[defgn%]?")
_LEFT_OUT = (ast.Assign, ast.AugAssign, ast.Import, ast.Set)
_OPERATORS: Mapping[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: _product, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: _remainder, ast.Pow: _power, ast.LShift: _shift,
    ast.RShift: operator.rshift, ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_,
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda one, other: one in other, ast.NotIn: lambda one, other: one not in other,
}  # fmt: skip
_METHODS: Mapping[type, set[str]] = {
    str: {
        "capitalize", "count", "endswith", "find", "index", "isalpha", "isdigit", "islower", "isupper", "lower",
        "lstrip", "rfind", "rstrip", "split", "startswith", "strip", "swapcase", "title", "upper",
    },
    list: {"count", "index"}, tuple: {"count", "index"},
}  # fmt: skip
"""Methods that change nothing, and give nothing longer than what they are given."""
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": abs, "all": all, "any": any, "bool": bool, "chr": chr, "dict": dict, "divmod": divmod,
    "enumerate": lambda values, start=0: list(enumerate(values, start)), "float": float, "int": int, "len": len,
    "list": list, "max": max, "min": min, "ord": ord, "range": range, "reversed": lambda values: list(reversed(values)),
    "round": _round, "set": _set, "sorted": lambda values, reverse=False: sorted(values, reverse=reverse), "str": str,
    "sum": lambda values: sum(values), "tuple": tuple, "zip": lambda *values: list(zip(*values, strict=False)),
}  # fmt: skip
"""Functions of Python that expressions may call."""
