"""Tasks: questions with reference answers, read from JSONL files as data sets are published, or built in.

A task is checked wholly before any engine starts: the first bad line raises `QuestionError` with its number and a fix.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from specreason_graph.errors import QuestionError
from specreason_graph.json_values import why_not_kept
from specreason_graph.models.abacus.problems import Problem, held_out, held_out_short
from specreason_graph.record.records import Record

LONGEST = 1_000_000
"""Most bytes of a line."""
QUESTION_KEYS = ("question", "problem", "prompt", "query", "input", "instruction")
"""Keys that are looked for where nobody names that of the question; the first one there is taken."""
ANSWER_KEYS = ("answer", "final_answer", "target", "expected_answer", "label", "output", "solution", "answerKey")
"""Keys that are looked for where nobody names that of the reference answer."""
CHOICES_KEYS = ("choices", "options")
"""Keys that are looked for where nobody names that of the choices."""
ID_KEYS = ("id", "unique_id", "question_id", "task_id", "uid")
"""Keys that are looked for where nobody names that of the id."""
ASKED = "\n\nPlease reason step by step, put a blank line between the steps, and put {} within \\boxed{{}}."
STEPS = ASKED.format("your final answer")
"""What a question of a file is followed by, unless a template says else."""
STEPS_TO_A_LETTER = ASKED.format("the letter of your answer")
"""The same where there are choices."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""What choices are called."""
MARK = "#### "
"""What stands before the final answer in the solutions of GSM8K."""


class Question(Record):
    """A question of a task."""

    id: str
    """Names it within the task."""
    text: str
    """What the models are asked, the template filled in."""
    reference: str | None = None
    """The right answer; None where the task gives none. The letter of the right choice where there are choices."""
    choices: list[str] = Field(default_factory=list)
    """Texts of the choices in the order in which they are shown; empty where it is no multiple choice."""
    order: list[int] = Field(default_factory=list)
    """Place in the data set of each choice shown, from 0: how they were shuffled."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """All other keys of the line, as they stand there."""


class Task(Record):
    """Questions, and what was found out about their form."""

    name: str
    """The built-in name, or the file's name without its ending."""
    questions: list[Question]
    """The questions, in the order of the file."""
    notes: list[str] = Field(default_factory=list)
    """What was taken for granted, such as guessed keys; one sentence each, for people."""

    @property
    def has_references(self) -> bool:
        """Whether every question has a right answer."""
        return all(question.reference is not None for question in self.questions)

    @property
    def has_choices(self) -> bool:
        """Whether it is multiple choice."""
        return bool(self.questions[0].choices)

    @property
    def digest(self) -> str:
        """SHA-256 of the questions: results of another task are not gone on with."""
        plain = [question.model_dump(mode="json", exclude={"extra"}) for question in self.questions]
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def first(self, count: int | None) -> Task:
        """The task with its first ``count`` questions; all of them for None."""
        return self.model_copy(update={"questions": self.questions[:count]})


def read_task(
    name: str | Path,
    *,
    question_key: str | None = None,
    answer_key: str | None = None,
    choices_key: str | None = None,
    id_key: str | None = None,
    template: str | None = None,
    seed: int = 0,
) -> Task:
    """Read a task: a built-in name (``abacus``, ``abacus-short``) or a JSONL file with one object a line.

    Keys that are not named are guessed from common ones; a dot goes into nested objects, as in ``extra.answer``.
    ``template``: text of the prompt, in which ``{KEY}`` stands for a value and ``{choices}`` for the choices; None
    asks for steps and a boxed answer. ``choices_key``: a list of texts, an object of letters and texts, or several
    keys with commas in between. Choices are shuffled by ``seed`` and the question's id.

    Raises `QuestionError` for a file that cannot be read, the first bad line, and a name that is not known.
    """
    if str(name) in BUILT_IN and not Path(name).exists():
        return _built_in(str(name))
    file = Path(name)
    lines = list(_read(file))
    if not lines:
        raise QuestionError(f"{file} holds no question", hint='write one JSON object a line: {"question": "..."}')
    reader = _Reader(file, lines[0], question_key, answer_key, choices_key, id_key, template, seed)
    return Task(name=file.stem, questions=reader.questions(lines), notes=reader.notes)


BUILT_IN: dict[str, Callable[[], Sequence[Problem]]] = {"abacus": held_out, "abacus-short": held_out_short}
"""Tasks by name: problems that no training of the built-in models has seen, long and short ones."""


def _built_in(name: str) -> Task:
    problems = enumerate(BUILT_IN[name]())
    questions = [Question(id=str(number), text=each.question, reference=str(each.answer)) for number, each in problems]
    return Task(name=name, questions=questions)


def _read(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file with where each stands; empty lines are passed over."""
    hint = f"name a JSONL file, or one of the tasks {', '.join(BUILT_IN)}"
    try:
        with file.open("rb") as opened:
            number = 0
            while line := opened.readline(LONGEST + 1):  # never more of a line in memory than that
                number += 1
                where = f"{file}, line {number}"
                if len(line) > LONGEST:
                    raise QuestionError(f"{where}: it is longer than {LONGEST:,} bytes", hint="shorten or remove it")
                if line.strip():
                    yield where, _parse(where, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
    except OSError as error:
        raise QuestionError(f"cannot read the task {str(file)!r}: {error.strerror}", hint=hint) from None


def _parse(where: str, line: bytes) -> dict[str, Any]:
    hint = 'write one JSON object a line: {"question": "...", "answer": "..."}'
    try:
        found = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise QuestionError(f"{where}: it is not UTF-8 text (byte {error.start + 1})", hint="convert it") from None
    except RecursionError:
        raise QuestionError(f"{where}: it is nested too deep", hint=hint) from None
    except ValueError as error:
        raise QuestionError(f"{where}: it is not JSON: {error}", hint=hint) from None
    if not isinstance(found, dict):
        raise QuestionError(f"{where}: it is no object but a {type(found).__name__}", hint=hint)
    if problem := why_not_kept(found, "it"):
        raise QuestionError(f"{where}: {problem}", hint="remove or mend it")
    return found


class _Reader:
    """Makes questions from lines; the keys are settled by the first line."""

    def __init__(
        self, file: Path, first: tuple[str, dict[str, Any]], question: str | None, answer: str | None,
        choices: str | None, id_key: str | None, template: str | None, seed: int,
    ) -> None:  # fmt: skip
        self.file, self.template, self.seed = file, template, seed
        self.notes: list[str] = []
        where, line = first
        found = self._guess("question", question, QUESTION_KEYS, line)
        if found is None:
            raise _missing(where, "the question", QUESTION_KEYS, line, "--question-key")
        self.question: str = found
        self.choices = self._guess("choices", choices, CHOICES_KEYS, line)
        self.id = self._guess("id", id_key, ID_KEYS, line)
        taken = {self.question, self.id}
        # An answer key of multiple choice stands beside the text of the answer in some sets: the key says which it is.
        order = ANSWER_KEYS if not self.choices else ("answerKey", "answer_idx", *ANSWER_KEYS)
        self.answer = self._guess("answer", answer, [key for key in order if key not in taken], line)
        if self.answer is None:
            self.notes.append("there are no reference answers: agreement with the base alone stands for accuracy")

    def _guess(self, what: str, named: str | None, known: Sequence[str], line: Mapping[str, Any]) -> str | None:
        if named is not None:
            return named
        if key := next((key for key in known if key in line), None):
            if key != what:
                self.notes.append(f"the {what} is taken from {key!r}")
            return key
        return None

    def questions(self, lines: Sequence[tuple[str, dict[str, Any]]]) -> list[Question]:
        """All questions; no id stands twice."""
        found: dict[str, tuple[str, Question]] = {}
        for number, (where, line) in enumerate(lines, 1):
            question = self._question(where, line, number)
            if question.id in found:
                raise QuestionError(
                    f"{where}: id {question.id!r} is that of {found[question.id][0]} too",
                    hint="give each line another, or name another key with --id-key",
                )
            found[question.id] = where, question
        if shortened := sum(self._is_solution(line) for _, line in lines):
            self.notes.append(f"of {shortened} answers only what follows {MARK.strip()!r} is taken")
        return [question for _, question in found.values()]

    def _question(self, where: str, line: dict[str, Any], number: int) -> Question:
        text = self._value(where, line, self.question, "the question", "--question-key")
        if not isinstance(text, str) or not text.strip():
            raise QuestionError(
                f"{where}: {self.question} = {_shown(text)} is not allowed", hint="write a text that is not empty"
            )
        name = self._id(where, line, number)
        shown, order, reference = self._answers(where, line, name)
        known = [key for key in (self.question, self.answer, self.choices, self.id) if key]
        extra = {key: value for key, value in line.items() if key not in known}
        asked = self._filled(where, line, text, shown)
        return Question(id=name, text=asked, reference=reference, choices=shown, order=order, extra=extra)

    def _id(self, where: str, line: Mapping[str, Any], number: int) -> str:
        if self.id is None:
            return str(number)
        name = self._value(where, line, self.id, "the id", "--id-key")
        if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
            raise QuestionError(
                f"{where}: {self.id} = {_shown(name)} is not allowed", hint="write a text or a whole number"
            )
        return str(name)

    def _answers(self, where: str, line: Mapping[str, Any], name: str) -> tuple[list[str], list[int], str | None]:
        """The choices as shown, how they were shuffled, and the reference answer."""
        answer = None if self.answer is None else self._value(where, line, self.answer, "the answer", "--answer-key")
        if answer is not None and (isinstance(answer, bool) or not isinstance(answer, str | int | float)):
            raise QuestionError(
                f"{where}: {self.answer} = {_shown(answer)} is not allowed",
                hint="write a text or a number, or name another key with --answer-key",
            )
        if isinstance(answer, str) and not answer.strip():
            raise QuestionError(f"{where}: {self.answer} is empty", hint="write the right answer, or remove the line")
        if self.choices is None:
            return [], [], None if answer is None else _final(str(answer))
        labels, texts = self._choices(where, line)
        order = list(range(len(texts)))
        random.Random(f"{self.seed}/{name}").shuffle(order)
        shown = [texts[place] for place in order]
        if answer is None:
            return shown, order, None
        right = _place(answer, labels, texts)
        if right is None:
            raise QuestionError(
                f"{where}: {self.answer} = {_shown(answer)} is none of the choices {', '.join(labels)}",
                hint="write the letter, the place from 0 or the text of a choice",
            )
        return shown, order, LETTERS[order.index(right)]

    def _choices(self, where: str, line: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """Labels and texts of the choices in the order of the data set."""
        keys = str(self.choices).split(",")
        values = [self._value(where, line, key.strip(), "the choices", "--choices-key") for key in keys]
        found: Any = values if len(keys) > 1 else values[0]
        labels: Any = None
        if isinstance(found, dict) and isinstance(found.get("text"), list):  # as in ARC
            found, labels = found["text"], found.get("label")
        elif isinstance(found, dict):
            found, labels = list(found.values()), list(found)
        labels = labels if isinstance(labels, list) and labels else list(LETTERS)[: len(found)] if found else []
        if (
            not isinstance(found, list) or not 2 <= len(found) <= len(LETTERS) or len(labels) != len(found)
            or not all(isinstance(each, str | int | float) and str(each).strip() for each in found)
        ):  # fmt: skip
            raise QuestionError(
                f"{where}: {self.choices} = {_shown(found)} is not allowed",
                hint=f"write a list of 2 to {len(LETTERS)} texts, or an object of letters and texts",
            )
        return [str(each) for each in labels], [str(each) for each in found]

    def _filled(self, where: str, line: Mapping[str, Any], text: str, choices: Sequence[str]) -> str:
        listed = "\n".join(f"{letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
        if self.template is None:
            return f"{text}\n\n{listed}{STEPS_TO_A_LETTER}" if choices else text + STEPS
        values = {"choices": listed} if choices else {}
        unknown: list[str] = []

        def value(found: re.Match[str]) -> str:
            key = found[1]
            if key in values:
                return values[key]
            if (given := _look_up(line, key)) is not _ABSENT:
                return str(given)
            unknown.append(key)
            return found[0]

        filled = re.sub(r"(?<!\\boxed)\{([A-Za-z_][\w .-]*)\}", value, self.template)
        if unknown or self.template == filled:
            wrong = f"has no key {unknown[0]!r}" if unknown else "has no {KEY} in it"
            raise QuestionError(
                f"{where}: the template {wrong}" if not unknown else f"{where}: it {wrong}, which the template names",
                hint=f"write {{{self.question}}} where the question belongs; keys: {', '.join(line)}",
            )
        return filled

    def _value(self, where: str, line: Mapping[str, Any], key: str, what: str, option: str) -> Any:
        found = _look_up(line, key)
        if found is _ABSENT or found is None:
            raise _missing(where, what, (key,), line, option)
        return found

    def _is_solution(self, line: Mapping[str, Any]) -> bool:
        found = "" if self.answer is None else _look_up(line, self.answer)
        return not self.choices and isinstance(found, str) and MARK in found


_ABSENT = object()


def _look_up(line: Mapping[str, Any], key: str) -> Any:
    """The value of a key, which may go into nested objects with dots."""
    if key in line:
        return line[key]
    found: Any = line
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _ABSENT
        found = found[part]
    return found


def _final(answer: str) -> str:
    """The reference answer: of a worked solution as in GSM8K only its end."""
    return answer.rpartition(MARK)[2].strip()


def _place(answer: str | float, labels: Sequence[str], texts: Sequence[str]) -> int | None:
    """Which choice is right, from 0: by label, by place or by text."""
    if isinstance(answer, int) and 0 <= answer < len(texts):
        return answer
    named = str(answer).strip()
    for known in (labels, texts):
        if named in known:
            return list(known).index(named)
    return int(named) if named.isdecimal() and int(named) < len(texts) else None


def _missing(where: str, what: str, keys: Sequence[str], line: Mapping[str, Any], option: str) -> QuestionError:
    wanted = f"no key {keys[0]!r}" if len(keys) == 1 else f"none of the keys {', '.join(keys)}"
    has = ", ".join(map(str, line)) or "no keys"
    return QuestionError(
        f"{where}: there is {wanted} for {what}; the line has {has[:200]}", hint=f"name the key with {option}"
    )


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + "..."
