"""Graders: whether a reply gives the right answer."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import re
import sys
from collections.abc import Callable
from concurrent.futures import TimeoutError as TookTooLong
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from specreason_graph.bench.tasks import LETTERS, Question, Task
from specreason_graph.errors import ConfigError
from specreason_graph.record.records import Record

SECONDS = 20.0
"""Longest that one answer is compared, in seconds; what takes longer is wrong."""
TAIL = 4000
"""Characters at the end of a reply in which an answer outside of a box is looked for."""
NUMBER = re.compile(r"[-\N{MINUS SIGN}]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE)
SAID = re.compile(r"answer(?:\s+is|\s*:)\s*:?\s*\**\s*(.+)", re.IGNORECASE)
"""Words before an answer that is in no box."""


class Grade(Record):
    """What a grader says of a reply."""

    answer: str | None
    """The answer that was found in the reply; None where there is none."""
    right: bool | None
    """Whether it is right; None where nothing says what is right."""


class Grader:
    """Says whether a reply is right; a context manager, because some have a process of their own."""

    name: ClassVar[str] = ""
    is_agreement: ClassVar[bool] = False
    """Whether a reply is held against that of the base alone, and not against the task's answer."""

    def find(self, reply: str, question: Question) -> str | None:  # noqa: ARG002
        """The answer in a reply: what is in the last box, else what is said to be the answer, else the last line."""
        if (boxed := last_boxed(reply)) is not None:
            return boxed.strip()
        said = SAID.findall(reply[-TAIL:])
        lines = said if said else reply.split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), None)

    def same(self, answer: str, reference: str, question: Question) -> bool:
        """Whether an answer is the same as the reference."""
        raise NotImplementedError

    def grade(self, reply: str, question: Question, reference: str | None = None) -> Grade:
        """Grade a reply by the question's reference, or by another one."""
        answer, right = self.find(reply, question), question.reference if reference is None else reference
        if right is None:
            return Grade(answer=answer, right=None)
        return Grade(answer=answer, right=answer is not None and self.same(answer, right, question))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        return None


class ExactGrader(Grader):
    """The answer is the reference, but for spaces, upper and lower case and a full stop at the end."""

    name = "exact"

    def same(self, answer: str, reference: str, question: Question) -> bool:  # noqa: ARG002
        """Whether both are the same words."""
        return _words(answer) == _words(reference)


class NumberGrader(Grader):
    """The last number in the box, else in the reply, is that of the reference."""

    name = "number"

    def find(self, reply: str, question: Question) -> str | None:  # noqa: ARG002
        """The last number of the box that holds one, else of the reply."""
        boxed = NUMBER.findall(last_boxed(reply) or "")
        return next(reversed(boxed or NUMBER.findall(reply)), None)

    def same(self, answer: str, reference: str, question: Question) -> bool:  # noqa: ARG002
        """Whether both are the same number, to one part in a thousand million."""
        right = NUMBER.findall(reference)
        return bool(right) and abs(_number(answer) - _number(right[-1])) <= 1e-9 * max(1.0, abs(_number(right[-1])))


class ChoiceGrader(Grader):
    """The letter of the right choice; the text of a choice counts as its letter."""

    name = "choice"

    def find(self, reply: str, question: Question) -> str | None:
        """The letter in the last box, else the one that is said to be the answer, else the last that stands alone."""
        letters = LETTERS[: len(question.choices)]
        boxed = last_boxed(reply)
        for place in [boxed] if boxed else reversed(SAID.findall(reply[-TAIL:])):
            if letter := _letter(place, letters, question.choices):
                return letter
        return None if boxed else _last_alone(reply[-TAIL:], letters)

    def same(self, answer: str, reference: str, question: Question) -> bool:  # noqa: ARG002
        """Whether both are the same letter."""
        return answer == reference


class MathGrader(Grader):
    """Mathematical equality by the library math-verify: fractions, sets, intervals, units, LaTeX.

    The library measures its time with signals, which only work in the main thread, and some expressions keep the
    processor busy where no signal reaches. So it works in a child process, which is killed when it takes too long.
    """

    name = "math"

    def __init__(self) -> None:
        if not all(map(find_spec, ("pebble", "math_verify"))):
            raise ConfigError(
                "the grader 'math' needs the library math-verify", hint="pip install 'specreason-graph[bench]'"
            )
        from pebble import ProcessPool

        self._pool: Any = ProcessPool(max_workers=1, context=multiprocessing.get_context("spawn"))

    def find(self, reply: str, question: Question) -> str | None:  # noqa: ARG002
        """What is in the last box, else the end of the reply, in which the library looks for an expression."""
        boxed = last_boxed(reply)
        return (reply[-TAIL:] if boxed is None else boxed).strip() or None

    def same(self, answer: str, reference: str, question: Question) -> bool:  # noqa: ARG002
        """Whether both are the same by mathematics."""
        work = self._pool.schedule(_equal, args=(answer, reference), timeout=SECONDS)
        try:
            return bool(work.result())
        except TookTooLong:
            return False

    def grade(self, reply: str, question: Question, reference: str | None = None) -> Grade:
        """Grade a reply; an answer that is in no box is shown shortened."""
        found = super().grade(reply, question, reference)
        if found.answer is None or last_boxed(reply) is not None:
            return found
        return found.model_copy(update={"answer": super().find(reply, question)})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """End the child process."""
        self._pool.stop()
        self._pool.join()


class CallableGrader(Grader):
    """A function of the caller's own, which is given the reply and the `Question`, and says whether it is right."""

    name = "callable"

    def __init__(self, function: Callable[[str, Question], Any]) -> None:
        self._function = function

    def grade(self, reply: str, question: Question, reference: str | None = None) -> Grade:
        """Ask the function; whatever it says is taken for true or false."""
        asked = question if reference is None else question.model_copy(update={"reference": reference})
        return Grade(answer=self.find(reply, question), right=bool(self._function(reply, asked)))


class AgreementGrader(Grader):
    """The answer is that of the base alone to the same question; for tasks without reference answers."""

    name = "agreement"
    is_agreement = True

    def __init__(self, inner: Grader) -> None:
        self._inner = inner

    def find(self, reply: str, question: Question) -> str | None:
        """The answer as the grader finds it that compares."""
        return self._inner.find(reply, question)

    def grade(self, reply: str, question: Question, reference: str | None = None) -> Grade:
        """Grade a reply by the answer of the base alone, given as ``reference``; that of the task is left aside."""
        asked = question.model_copy(update={"reference": reference})
        return self._inner.grade(reply, asked)

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """End what the grader has begun that compares."""
        self._inner.__exit__(kind, error, where)


KINDS: dict[str, Callable[[], Grader]] = {
    "math": MathGrader, "exact": ExactGrader, "number": NumberGrader, "choice": ChoiceGrader,
}  # fmt: skip
"""Graders by name; besides there is ``MODULE:FUNCTION``."""


def make_grader(name: str | None, task: Task) -> Grader:
    """The grader of a task by its name: one of `KINDS`, ``agreement``, ``agreement:KIND`` or ``MODULE:FUNCTION``.

    None chooses: ``choice`` where there are choices, ``number`` where each reference is one, else ``math``; and
    agreement by one of these where there are no references.
    Raises `ConfigError` for a name that is not known and a function that cannot be imported.
    """
    if name is None:
        name = default_grader(task)
    if name == AgreementGrader.name:
        name += f":{'choice' if task.has_choices else 'math'}"
    first, colon, rest = name.partition(":")
    if first == AgreementGrader.name:
        return AgreementGrader(make_grader(rest, task))
    if colon:
        return CallableGrader(_import(name))
    if name not in KINDS:
        known = ", ".join([*KINDS, AgreementGrader.name])
        raise ConfigError(f"there is no grader {name!r}", hint=f"write one of {known}, or MODULE:FUNCTION of your own")
    if name == ChoiceGrader.name and not task.has_choices:
        raise ConfigError(f"the grader 'choice' needs choices, and {task.name} has none", hint="give --choices-key")
    return KINDS[name]()


def default_grader(task: Task) -> str:
    """The name of the grader that suits a task."""
    if not task.has_references:
        return AgreementGrader.name
    if task.has_choices:
        return ChoiceGrader.name
    references = [str(question.reference) for question in task.questions]
    return NumberGrader.name if all(NUMBER.fullmatch(each.strip()) for each in references) else MathGrader.name


def last_boxed(text: str) -> str | None:
    r"""What is in the last ``\boxed{...}`` of a text whose braces are closed; None where there is none."""
    end = len(text)
    while (start := text.rfind("\\boxed{", 0, end)) >= 0:
        begin = start + len("\\boxed{")
        depth, at = 1, begin
        while at < len(text) and depth:
            if text[at] == "\\":
                at += 1  # an escaped brace is a character of a set
            elif text[at] in "{}":
                depth += 1 if text[at] == "{" else -1
            at += 1
        if not depth:
            return text[begin : at - 1]
        end = start
    return None


def _equal(answer: str, reference: str) -> bool:
    """Whether two answers are the same; works in the child process."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    if _is_wording(answer) or _is_wording(reference):  # the library takes a word for a product of its letters
        return _words(answer) == _words(reference)
    right = parse(_in_box(reference))
    return bool(verify(right, parse(_in_box(answer))) or verify(right, parse(answer)))


def _in_box(text: str) -> str:
    """The text where the library looks for LaTeX."""
    return text if "$" in text.replace("\\$", "") or "\\boxed" in text else f"\\boxed{{{_mixed(text)}}}"


def _mixed(text: str) -> str:
    """Mixed numbers as LaTeX has them: ``2 1/2`` is read as a product otherwise."""
    return re.sub(r"(?<![\d./])(\d+)\s+(\d+)/(\d+)(?![\d/])", r"\1\\frac{\2}{\3}", text)


def _is_wording(text: str) -> bool:
    bare = re.sub(r"\\(?:text|mathrm|textbf|operatorname)\s*\{([^{}]*)\}", r"\1", text).strip(" .$")
    return bool(re.fullmatch(r"[^\W\d_]{2,}(?:[\s'-]+[^\W\d_]+)*", bare))


def _words(text: str) -> str:
    bare = re.sub(r"\\(?:text|mathrm|textbf|operatorname)\s*\{([^{}]*)\}", r"\1", text)
    return " ".join(bare.strip().strip("$*").rstrip(".").lower().split())


def _number(text: str) -> float:
    return float(text.replace(",", "").replace("\N{MINUS SIGN}", "-"))


def _letter(place: str, letters: str, choices: list[str]) -> str | None:
    bare = re.sub(r"\\(?:text|mathrm|textbf)\s*\{([^{}]*)\}", r"\1", place).strip().strip("*$. ")
    found = re.match(rf"\(?([{letters}{letters.lower()}])\)?(?:[).:\s]|$)", bare)
    if found and (found[1] in letters or len(bare.strip("()")) == 1):  # a small "a" may be an article
        return found[1].upper()
    if same := [letter for letter, text in zip(letters, choices, strict=True) if _words(text) == _words(bare)]:
        return same[0]
    return _last_alone(bare, letters)


def _last_alone(text: str, letters: str) -> str | None:
    alone = re.findall(rf"(?<![\w'])([{letters}])(?![\w'])", text)
    return alone[-1] if alone else None


def _import(name: str) -> Callable[[str, Question], Any]:
    module, _, function = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:  # a file of the caller's beside the task
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"the grader {name!r} cannot be imported: {error}", hint="write MODULE:FUNCTION") from None
    if not callable(found):
        raise ConfigError(f"the grader {name!r} is no function", hint="write MODULE:FUNCTION")
    return found  # type: ignore[no-any-return]
