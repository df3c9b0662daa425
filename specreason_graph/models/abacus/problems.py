"""The word problems that the abacus pair knows: how they are drawn, solved and judged.

A problem is a story about one quantity. Its solution is a list of operations, each of which renders one reasoning
step, so the gold trace, the training documents and the verdict on a step somebody else wrote share one source.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache

HELD_OUT_SEED = 20250410
HELD_OUT_SIZE = 500
SHORT_SIZE = 200
SMALL = 20
"""Largest number in a short problem, and in a sum without a story."""
FIRST, FACTOR, CHANGE = 400, 25, 99
"""Largest number that a story opens with, of groups or in a group, and of any other kind."""
BLANK_LINE = "\n\n"

NAMES = ("Mia", "Leo", "Ana", "Ben", "Eva", "Tom", "Zoe", "Sam", "Ida", "Max")
OBJECTS = ("pens", "cups", "coins", "books", "cards", "eggs", "toys", "shells", "stamps", "beads")
CONTAINERS = (("boxes", "box"), ("bags", "bag"), ("jars", "jar"), ("crates", "crate"))

_RESULT = re.compile(r"(\d+)\.\s*$")


@dataclass(frozen=True)
class Operation:
    """One step of a solution: a label, and a result computed from earlier results or from constants."""

    label: str
    """Text in front of the arithmetic; for a copy step the whole text up to its number."""
    sign: str
    """One of ``+ - *``, or ``=`` for a step that only copies a number out of the question."""
    left: int
    """Left operand, or the index of an earlier step when ``left_is_step``."""
    right: int = 0
    """Right operand, or the index of an earlier step when ``right_is_step``."""
    left_is_step: bool = False
    """Whether ``left`` names an earlier step."""
    right_is_step: bool = False
    """Whether ``right`` names an earlier step."""

    @property
    def is_hard(self) -> bool:
        """Whether it multiplies two-digit numbers."""
        return self.sign == "*" and min(self.left, self.right) > 9

    def operands(self, results: list[int]) -> tuple[int, int]:
        """Both operands, given the results of the steps before this one."""
        left = results[self.left] if self.left_is_step else self.left
        right = results[self.right] if self.right_is_step else self.right
        return left, right

    def result(self, results: list[int]) -> int:
        """The number this step arrives at."""
        left, right = self.operands(results)
        return {"+": left + right, "-": left - right, "*": left * right, "=": left}[self.sign]

    def render(self, results: list[int], result: int | None = None) -> str:
        """The text of the step, its blank line included; ``result`` overrides the right number."""
        left, right = self.operands(results)
        value = self.result(results) if result is None else result
        if self.sign == "=":
            return f"{self.label} {value}.{BLANK_LINE}"
        return f"{self.label}: {left}{self.sign}{right}={value}.{BLANK_LINE}"


@dataclass(frozen=True)
class Problem:
    """A word problem with its solution."""

    question: str
    """What the user asks."""
    operations: tuple[Operation, ...]
    """The solution, one operation a reasoning step."""

    @property
    def steps(self) -> list[str]:
        """The gold reasoning steps, each ending in a blank line."""
        results = self.results
        return [operation.render(results) for operation in self.operations]

    @property
    def results(self) -> list[int]:
        """The number each gold step arrives at."""
        results: list[int] = []
        for operation in self.operations:
            results.append(operation.result(results))
        return results

    @property
    def answer(self) -> int:
        """The number asked for."""
        return self.results[-1]

    def expected_step(self, written: list[str]) -> str | None:
        """The right next step after the steps ``written``, wrong or not; None when the thinking should end.

        A step is judged by the arithmetic in its own context: numbers are taken from what was written, not from the
        gold trace, so one accepted error does not make every later step wrong.
        """
        if len(written) >= len(self.operations):
            return None
        gold = self.results
        results = [_written_result(text, gold[i]) for i, text in enumerate(written)]
        return self.operations[len(written)].render(results)

    def is_right(self, step: str, written: list[str]) -> bool:
        """Whether ``step`` is the right one to write after the steps ``written``."""
        return step == self.expected_step(written)


def _written_result(text: str, fallback: int) -> int:
    found = _RESULT.search(text)
    return int(found.group(1)) if found else fallback


def parse_answer(text: str) -> int | None:
    r"""The number in the last ``\boxed{...}`` of an answer, or None."""
    found = re.findall(r"\\boxed\{(-?\d+)\}", text)
    return int(found[-1]) if found else None


@dataclass(frozen=True)
class Theme:
    """The words of one kind of story; ``{s}`` is the subject, ``{o}`` the objects, ``{n}`` a number."""

    subjects: tuple[str, ...]
    """Who or what holds the quantity."""
    objects: tuple[str, ...]
    """What is counted."""
    groups: tuple[tuple[str, str], ...]
    """Plural and singular of what the objects come in."""
    start: str
    """The story opens with a plain number."""
    bulk: str
    """The story opens with ``{a}`` groups of ``{b}``."""
    more: tuple[tuple[str, str], ...]
    """Sentence and step label of events that add."""
    less: tuple[tuple[str, str], ...]
    """Sentence and step label of events that take away."""
    gain: str
    """An event that adds ``{a}`` groups of ``{b}``."""
    ask: str
    """The question."""


THEMES = (
    Theme(
        NAMES, OBJECTS, CONTAINERS,
        "{s} has {n} {o}.", "{s} has {a} {g} with {b} {o} in each {h}.",
        (("{s} buys {n} more {o}.", "{s} buys"), ("{s} finds {n} {o}.", "{s} finds"),
         ("{t} gives {s} {n} {o}.", "{t} gives")),
        (("{s} gives {n} {o} to {t}.", "{s} gives"), ("{s} loses {n} {o}.", "{s} loses"),
         ("{s} sells {n} {o}.", "{s} sells")),
        "{s} buys {a} {g} with {b} {o} in each {h}.", "How many {o} does {s} have now?",
    ),
    Theme(
        ("The garden", "The park", "The farm"), ("trees", "roses", "plants"), (("rows", "row"), ("beds", "bed")),
        "{s} has {n} {o}.", "{s} has {a} {g} with {b} {o} in each {h}.",
        (("{t} plants {n} more {o}.", "{t} plants"),),
        (("A storm breaks {n} {o}.", "A storm breaks"), ("{t} cuts {n} {o}.", "{t} cuts")),
        "{t} plants {a} {g} with {b} {o} in each {h}.", "How many {o} are there now?",
    ),
    Theme(
        NAMES, ("coins", "points", "tickets"), (("days", "day"), ("weeks", "week")),
        "{s} starts with {n} {o}.", "For {a} {g} {s} earns {b} {o} every {h}.",
        (("{s} wins {n} {o}.", "{s} wins"),),
        (("{s} spends {n} {o}.", "{s} spends"), ("{s} pays {t} {n} {o}.", "{s} pays")),
        "Then for {a} {g} {s} earns {b} {o} every {h}.", "How many {o} does {s} have in the end?",
    ),
)  # fmt: skip


class _Story:
    """A problem being written: sentences and operations so far."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.theme = rng.choice(THEMES)
        self.subject = rng.choice(self.theme.subjects)
        self.other = rng.choice([name for name in NAMES if name != self.subject])
        self.objects = rng.choice(self.theme.objects)
        self.sentences: list[str] = []
        self.operations: list[Operation] = []
        self.current = 0
        """Value of the quantity."""
        self.holder = -1
        """Index of the step that holds it."""

    def say(self, sentence: str, **words: object) -> None:
        self.sentences.append(self.fill(sentence, **words))

    def fill(self, text: str, **words: object) -> str:
        return text.format(s=self.subject, t=self.other, o=self.objects, **words)

    def add(self, operation: Operation) -> int:
        self.operations.append(operation)
        return len(self.operations) - 1

    def open(self) -> None:
        if self.rng.random() < 0.35:
            number = self.rng.randint(40, FIRST)
            self.say(self.theme.start, n=number)
            self.holder, self.current = self.add(Operation(self.fill("{s} has"), "=", number)), number
        else:
            self.holder, self.current = self.product(self.theme.bulk, hard=True)

    def product(self, sentence: str, *, hard: bool) -> tuple[int, int]:
        low, high = (11, FACTOR) if hard else (2, 9)
        a, b = self.rng.randint(low, high), self.rng.randint(low, high)
        plural, singular = self.rng.choice(self.theme.groups)
        self.say(sentence, a=a, b=b, g=plural, h=singular)
        return self.add(Operation(f"{a} {plural} of {b}", "*", a, b)), a * b

    def change(self) -> None:
        if self.rng.random() < 0.2:
            self.gain()
            return
        shrink = self.current > 60 and self.rng.random() < 0.55
        sentence, label = self.rng.choice(self.theme.less if shrink else self.theme.more)
        number = self.rng.randint(3, CHANGE if not shrink else min(CHANGE, self.current - 5))
        self.say(sentence, n=number)
        sign = "-" if shrink else "+"
        self.holder = self.add(Operation(self.fill(label), sign, self.holder, number, left_is_step=True))
        self.current += -number if shrink else number

    def gain(self) -> None:
        holder = self.holder
        step, value = self.product(self.theme.gain, hard=self.rng.random() < 0.6)
        self.holder = self.add(Operation("In all", "+", holder, step, left_is_step=True, right_is_step=True))
        self.current += value

    def distract(self) -> None:
        number = self.rng.randint(3, CHANGE)
        other = self.rng.choice([thing for thing in OBJECTS if thing != self.objects])
        self.sentences.append(
            self.rng.choice((f"{self.other} is {number} years old.", f"{self.other} has {number} {other}."))
        )

    def close(self) -> None:
        if self.theme.subjects is not NAMES or self.rng.random() < 0.75:
            self.say(self.theme.ask)
            return
        number = self.rng.randint(11, CHANGE)
        self.say("{t} has {n} {o}.", n=number)
        self.say("How many {o} do {s} and {t} have together?")
        self.add(Operation("Together", "+", self.holder, number, left_is_step=True))


class _ShortStory(_Story):
    """A story in numbers up to `SMALL`, in the fewer words that people type."""

    def open(self) -> None:
        if self.rng.random() < 0.65:
            number = self.rng.randint(1, SMALL)
            self.say(self.theme.start, n=number)
            self.holder, self.current = self.add(Operation(self.fill("{s} has"), "=", number)), number
        else:
            self.holder, self.current = self.product(self.theme.bulk, hard=self.rng.random() < 0.5)

    def product(self, sentence: str, *, hard: bool) -> tuple[int, int]:
        a, b = self.rng.randint(2, SMALL), self.rng.randint(2, SMALL if hard else 9)
        plural, singular = self.rng.choice(self.theme.groups)
        self.say(sentence, a=a, b=b, g=plural, h=singular)
        return self.add(Operation(f"{a} {plural} of {b}", "*", a, b)), a * b

    def change(self) -> None:
        shrink = self.current > 1 and self.rng.random() < 0.5
        sentence, label = self.rng.choice(self.theme.less if shrink else self.theme.more)
        number = self.rng.randint(1, min(SMALL, self.current - 1) if shrink else SMALL)
        self.say(sentence.replace(" more ", self.rng.choice((" ", " more "))), n=number)
        self.holder = self.add(
            Operation(self.fill(label), "-" if shrink else "+", self.holder, number, left_is_step=True)
        )
        self.current += -number if shrink else number

    def close(self) -> None:
        if self.theme.subjects is NAMES and len(self.operations) < 3 and self.rng.random() < 0.25:
            number = self.rng.randint(1, SMALL)
            self.say("{t} has {n} {o}.", n=number)
            self.say("How many {o} do {s} and {t} have together?")
            self.add(Operation("Together", "+", self.holder, number, left_is_step=True))
            return
        self.say(re.sub(r" (now|in the end)\?", self.rng.choice(("?", r" \1?", " left?")), self.theme.ask))


SUMS = {
    "+": ("{a}+{b}", "{a} + {b}", "{a} plus {b}"),
    "-": ("{a}-{b}", "{a} - {b}", "{a} minus {b}"),
    "*": ("{a}*{b}", "{a} * {b}", "{a} times {b}"),
}
"""Spellings of a question without a story, by its sign."""


def draw_short_problem(rng: random.Random, bare: float = 0.15) -> Problem:
    """Draw one problem of 1 to 3 steps with numbers up to `SMALL`: a story, or a bare sum in a share of ``bare``."""
    if rng.random() < bare:
        sign, spellings = rng.choice(list(SUMS.items()))
        a, b = rng.randint(1, SMALL), rng.randint(1, SMALL)
        a, b = (max(a, b), min(a, b)) if sign == "-" else (a, b)
        question = f"What is {rng.choice(spellings).format(a=a, b=b)}?"
        return Problem(question, (Operation("That is", sign, a, b),))
    story = _ShortStory(rng)
    story.open()
    for _ in range(rng.randint(0, 2)):
        story.change()
    story.close()
    return Problem(" ".join(story.sentences), tuple(story.operations))


def draw_problem(rng: random.Random) -> Problem:
    """Draw one problem of 2 to 9 steps."""
    story = _Story(rng)
    story.open()
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.15:
            story.distract()
        story.change()
    story.close()
    return Problem(" ".join(story.sentences), tuple(story.operations))


@cache
def held_out() -> tuple[Problem, ...]:
    """The 500 problems that no training run sees."""
    rng = random.Random(HELD_OUT_SEED)
    return tuple(draw_problem(rng) for _ in range(HELD_OUT_SIZE))


@cache
def held_out_short() -> tuple[Problem, ...]:
    """The 200 short problems that no training run sees."""
    rng = random.Random(HELD_OUT_SEED)
    found: dict[str, Problem] = {}
    while len(found) < SHORT_SIZE:
        problem = draw_short_problem(rng)
        found[problem.question] = problem
    return tuple(found.values())


@cache
def _held_out_questions() -> frozenset[str]:
    return frozenset(problem.question for problem in (*held_out(), *held_out_short()))


def draw_training_problem(rng: random.Random, short: float = 0.0) -> Problem:
    """Draw a problem that is not among the held-out ones; ``short``: the share of short ones, 0 to 1."""
    while (problem := _draw(rng, short)).question in _held_out_questions():
        pass
    return problem


def _draw(rng: random.Random, short: float) -> Problem:
    # no random number is drawn where none is short: the stages before draw what they always drew
    return draw_short_problem(rng, bare=0.3) if short and rng.random() < short else draw_problem(rng)


def knows(question: str) -> bool:
    """Whether there are words and a number in a question, and the words, but for one in ten, those of problems here."""
    words = _words(question)
    return bool(words and re.search(r"\d", question)) and len(unknown_words(question)) <= len(words) / 10


def unknown_words(question: str) -> list[str]:
    """The words of a question that no problem here has, as often as they come."""
    return [word for word in _words(question) if word not in _vocabulary()]


def beyond(question: str) -> str | None:
    """The first number of a question that is none of those in problems here, with what they go up to; None if all are.

    Products are told by their two numbers in one sentence, and a sum without a story by its first words.
    """
    if odd := re.search(r"\d+(?:[.,/]\d+)+|(?<=\s)-\d+", question):
        return f"{odd.group()[:20]}, and they know whole numbers from 0 on, written in digits alone"
    sentences = [re.findall(r"\d+", sentence) for sentence in re.split(r"[.?!]", question)]
    numbers, bare = [found for found in sentences if found], question.lower().lstrip().startswith("what is")
    for place, found in enumerate(numbers):
        most = SMALL if bare else FACTOR if len(found) > 1 else FIRST if place == 0 else CHANGE
        if large := next((number for number in found if len(number) > 4 or int(number) > most), None):
            return f"{large[:20]}, and they know numbers up to {most} there"
    return None


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


@cache
def _vocabulary() -> frozenset[str]:
    problems = (*held_out(), *held_out_short())
    return frozenset(word for problem in problems for word in _words(problem.question))
