"""Python in the text of a step: whether it parses, and whether its expressions have the values that the step says.

Code of a model is never run. It is parsed by `ast` and followed as long as its statements are assignments, assertions,
and expressions that have a value by themselves; what comes behind any other one is passed over.
"""

from __future__ import annotations

import ast
import doctest
import math
import re
import warnings
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

from specreason_graph.judging.expressions import FUNCTIONS, NotFollowedError, Values
from specreason_graph.judging.statements import Statement, stating

LONGEST_CODE = 10_000
"""Characters of a block that is looked at."""
_PYTHON, _OUTPUT = ("python", "python3", "py", "pycon"), ("", "text", "txt", "console")
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*(\w*)[^`]*")
_LABEL = re.compile(r"\W*(?:output|result)s?\W*", re.IGNORECASE)
_FRAGMENT = re.compile(r"\A\s*(?:elif|else|except|finally|case)\b|^[ \t]*[%!]", re.MULTILINE)
"""Code that goes on from other code, or is not for Python alone."""
_REMARK = re.compile(r"\s*#\s*(?:->|=>|→|==?|(?:outputs?|prints|returns|gives)\b:?)?\s*(\S.{0,200}?)\s*", re.IGNORECASE)
_SAID = re.compile(
    r"`([^`\n]{1,200})`\s*(?:returns|gives|yields|is|equals|evaluates to|outputs|prints|results in|==?|->|=>|→)\s*"
    r"(?:`([^`\n]{1,200})`|(-?(?:\d{1,3}(?:,\d{3})+|\d{1,40})(?:\.\d{1,40})?)(?![\w,]))"
)


def code_statements(text: str) -> tuple[list[Statement], str]:
    """What ``text`` states of Python code and its values, and the text without the code."""
    values, prose, found = Values(), list[str](), list[Statement]()
    printed, label = list[str](), ""
    for language, part in _parts(text):
        if language is None:
            found += _examples(part, values)
            label, rest = part, re.sub(r"^[ \t]*(?:>>>|\.\.\.).*$", "", part, flags=re.MULTILINE)
            said = list(_inline(rest, values))
            found += said
            prose.append(_SAID.sub(" ", rest) if said else rest)
        elif language in _PYTHON:
            block = _Block(part, values)
            found += block.statements()
            printed = block.printed
        elif language == "output" or (language in _OUTPUT and _LABEL.fullmatch(label)):
            if printed and len(lines := part.strip().splitlines()) == len(printed):
                found.append(Statement(_short(f"it prints {part}"), lines == printed))
            printed = []
        else:
            prose.append(part)
    return found, "\n".join(prose)


def _parts(text: str) -> Iterator[tuple[str | None, str]]:
    """The text between code, under None, and fenced code under its language; what is not closed is left out."""
    lines, fence, language = list[str](), None, ""
    for line in text.splitlines():
        match = _FENCE.fullmatch(line)
        if fence is None and match:
            yield None, "\n".join(lines)
            fence, language, lines = match[1], match[2].lower(), []
        elif fence is not None and line.strip(" \t" + fence[0]) == "" and line.count(fence[0]) >= len(fence):
            yield language, dedent("\n".join(lines))
            fence, lines = None, []
        else:
            lines.append(line)
    if fence is None:
        yield None, "\n".join(lines)


_COMPUTES = (ast.BinOp, ast.Call, ast.Compare, ast.Subscript)
_PASSED_OVER = (NotFollowedError, ValueError, RecursionError, MemoryError)


class _Block:
    """Fenced Python: read statement by statement, as far as it can be followed."""

    def __init__(self, source: str, values: Values) -> None:
        self._source, self._values = source, values
        self.printed: list[str] = []
        """The lines that it prints; none where that is not known."""

    def statements(self) -> Iterator[Statement]:
        """Whether it parses, and what it says of values."""
        if len(self._source) > LONGEST_CODE or _FRAGMENT.search(self._source):
            return
        if ">>>" in self._source:
            yield from _examples(self._source, self._values)
            return
        try:
            tree = _parsed(self._source)
            yield Statement("Python that parses", holds=True)
            names: dict[str, Any] = {}
            for node in tree.body:
                yield from self._of(node, names)
        except SyntaxError as error:
            yield Statement(_short(f"Python that parses: line {error.lineno}, {error.msg}"), holds=False)
        except _PASSED_OVER:
            self.printed = []

    def _of(self, node: ast.stmt, names: dict[str, Any]) -> Iterator[Statement]:
        match node:
            case ast.Import():  # what is done with a module is not followed
                return
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name not in FUNCTIONS:
                names[name] = self._values.of(value, names)
            case ast.Assert(test=test):
                holds = bool(self._values.of(test, names))
                yield Statement(_short(ast.get_source_segment(self._source, node) or ""), holds)
            case ast.Expr(value=ast.Call(func=ast.Name(id="print"), args=arguments, keywords=[])):
                told = [self._values.of(each, names) for each in arguments]
                self.printed += " ".join(map(str, told)).splitlines()
                yield from self._remarked(node, told[0] if len(told) == 1 else " ".join(map(str, told)))
            case ast.Expr(value=value):
                yield from self._remarked(node, self._values.of(value, names))
            case _:
                raise NotFollowedError

    def _remarked(self, node: ast.stmt, value: Any) -> Iterator[Statement]:
        """Whether a value is what the remark behind it says."""
        line = self._source.splitlines()[(node.end_lineno or 1) - 1]
        remark = _REMARK.fullmatch(line.encode()[node.end_col_offset :].decode())
        if remark and (holds := _is_told(value, remark[1])) is not None:
            source = ast.get_source_segment(self._source, node)
            yield Statement(_short(f"{source} gives {remark[1]}"), holds)


def _examples(text: str, values: Values) -> Iterator[Statement]:
    """Sessions of an interpreter, as doctest reads them."""
    if ">>>" not in text or len(text) > LONGEST_CODE:
        return
    names: dict[str, Any] = {}
    try:
        for example in doctest.DocTestParser().get_examples(text):
            (node,) = _parsed(example.source).body
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if name not in FUNCTIONS:
                    names[name] = values.of(value, names)
                case ast.Expr(value=ast.Call(func=ast.Name(id="print"), args=[value]) | value):
                    holds = _is_told(values.of(value, names), example.want.strip())
                    if holds is not None:
                        yield Statement(_short(f"{example.source.strip()} gives {example.want.strip()}"), holds)
                case _:
                    return
    except (SyntaxError, *_PASSED_OVER):
        return


def _inline(prose: str, values: Values) -> Iterator[Statement]:
    """Code within a sentence that says its value; nobody knows for sure that it is Python."""
    for sentence in stating(prose) if "`" in prose else ():
        for match in _SAID.finditer(sentence):
            code, claim = match[1], (match[2] or match[3].replace(",", ""))
            try:
                tree = ast.Expr(_parsed(code, "eval").body)
                if not any(
                    isinstance(each, ast.BinOp | ast.Call | ast.Compare | ast.Subscript) for each in ast.walk(tree)
                ):
                    continue
                holds = _is_told(values.of(tree.value, {}), claim)
            except (SyntaxError, *_PASSED_OVER):
                continue
            if holds or (holds is False and "/" not in code):  # other languages divide in whole numbers
                yield Statement(_short(match.group()), holds)


def _is_told(value: Any, claim: str) -> bool | None:
    """Whether a text says a value; None where it says nothing that can be read."""
    if claim in (str(value), repr(value)):
        return True
    try:
        told = ast.literal_eval(claim[:300])
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    numbers = (int, float)
    if isinstance(value, numbers) and isinstance(told, numbers):
        decimals = len(claim.partition(".")[2]) if re.fullmatch(r"-?\d+\.\d+", claim) else None
        rounded = decimals is not None and abs(value - told) <= 0.5000001 / 10**decimals
        return bool(value == told or rounded or math.isclose(value, told, rel_tol=1e-9))
    return bool(value == told)


def _parsed(source: str, mode: Any = "exec") -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in a model's strings
        return ast.parse(source.strip() if mode == "eval" else source, mode=mode)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:199] + "…"
