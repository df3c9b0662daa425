"""Exact arithmetic on a text of numbers and signs, within limits.

Text of a model is never evaluated by Python: it is parsed by `ast` and computed as fractions, which lose nothing. So no
library is used here: what is at hand computes in floats, or evaluates the text.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

MOST_BITS = 4_096
"""Bits of any result on the way: 9**9**9 has no value here."""
_FINE = 10**30

_BINARY: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: lambda one, other: Fraction(one // other), ast.Pow: lambda one, other: Fraction(one**other),
}  # fmt: skip


def computed(source: str) -> Fraction | None:
    """The value of numbers, signs, parentheses and ``sqrt``; None where there is none, or it grows too large.

    A root that is no fraction is cut off behind 30 digits.
    """
    try:
        return _value(ast.parse(source, mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() as number):
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            return -_value(operand) if isinstance(sign, ast.USub) else _value(operand)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            one, other = _value(left), _value(right)
            if isinstance(sign, ast.Pow) and (other.denominator > 1 or abs(other) * _bits(one) > MOST_BITS):
                raise ValueError("the power is too large, or a root")
            result = Fraction(_BINARY[type(sign)](one, other))
            if _bits(result) > MOST_BITS:
                raise ValueError("the number is too large")
            return result
        case ast.Call(func=ast.Name(id="sqrt"), args=[under], keywords=[]):
            return _root(_value(under))
    raise ValueError("there is more than numbers and signs")


def _root(value: Fraction) -> Fraction:
    """The square root, exact where it is a fraction; ``ValueError`` for a negative number."""
    over, under = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if over**2 == value.numerator and under**2 == value.denominator:
        return Fraction(over, under)
    return Fraction(math.isqrt(value.numerator * _FINE**2 // value.denominator), _FINE)


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())
