"""Training documents: solutions, and verdicts on steps as branches that hang on the solution they judge.

A document is a main line (question, steps, answer) followed by branches. A branch starts behind one of the steps and
sees the main line up to there only, so one question is encoded once and judged several times; positions go on as if
the branch were the text. Each branch ends in the digit of the judge's prompt, exactly as the package writes it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from specreason_graph.judging.digit import INSTRUCTION, PREFILL
from specreason_graph.models.abacus.problems import Problem, draw_training_problem
from specreason_graph.prompting.engine_prompts import BLANK_LINE

PROMPT_WEIGHT = 0.05
RIGHT_DIGIT, WRONG_DIGIT = "9", "0"
RIGHT_WEIGHT, WRONG_WEIGHT = 5.0, 10.0
"""Loss weights of the digits: a wrong step let in costs the answer, a right one rewritten only costs time."""
NOT_JUDGED = -1


@dataclass
class Document:
    """One row of training data, all lists equally long."""

    ids: list[int] = field(default_factory=list)
    """Token ids."""
    positions: list[int] = field(default_factory=list)
    """Position of each token in the text it belongs to."""
    segments: list[int] = field(default_factory=list)
    """0 for the main line, else the number of the branch."""
    cuts: list[int] = field(default_factory=list)
    """How many tokens of the main line the token may see (used for branches)."""
    weights: list[float] = field(default_factory=list)
    """Loss weight of predicting this token."""
    verdicts: list[int] = field(default_factory=list)
    """Whether the step is wrong up to this token: 1, 0, or ``NOT_JUDGED``."""

    def extend(self, ids: Sequence[int], weight: float = 0.0, verdicts: Sequence[int] | None = None) -> None:
        """Append tokens to the main line or to the open branch."""
        start = self.positions[-1] + 1 if self.positions else 0
        self.ids += ids
        self.positions += range(start, start + len(ids))
        self.segments += [self.segments[-1] if self.segments else 0] * len(ids)
        self.cuts += [self.cuts[-1] if self.cuts else 0] * len(ids)
        self.weights += [weight] * len(ids)
        self.verdicts += verdicts if verdicts is not None else [NOT_JUDGED] * len(ids)

    def branch(self, cut: int, ids: Sequence[int], verdicts: Sequence[int] | None = None) -> None:
        """Open a new branch behind the first ``cut`` tokens of the main line."""
        count = max(self.segments) + 1
        self.ids += ids
        self.positions += range(cut, cut + len(ids))
        self.segments += [count] * len(ids)
        self.cuts += [cut] * len(ids)
        self.weights += [0.0] * len(ids)
        self.verdicts += verdicts if verdicts is not None else [NOT_JUDGED] * len(ids)


class Writer:
    """Turns problems into documents with one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        mark = "\x00"
        turns = [{"role": "user", "content": mark}]
        head, tail = self._render(turns).split(mark)
        self.head, self.tail = self._encode(head), self._encode(tail)
        turns += [{"role": "assistant", "content": mark}, {"role": "user", "content": INSTRUCTION}]
        self.suffix = self._encode(self._render(turns).split(mark)[-1] + PREFILL)
        self.right, self.wrong = self._encode(RIGHT_DIGIT), self._encode(WRONG_DIGIT)

    def _render(self, messages: list[dict[str, str]]) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def prompt(self, problem: Problem) -> list[int]:
        """The prompt up to and with the opened thinking."""
        return self.head + self._encode(problem.question) + self.tail

    def solution(
        self, problem: Problem, written: list[str] | None = None, hard_weight: float = 1.0
    ) -> tuple[Document, list[int]]:
        """The main line, and how many of its tokens stand in front of each step and behind the last.

        ``written`` are the steps to show instead of the gold ones; a wrong one is not learned from. ``hard_weight`` is
        the loss weight of steps that multiply two-digit numbers.
        """
        document, cuts = Document(), []
        document.extend(self.prompt(problem), PROMPT_WEIGHT)
        steps = problem.steps if written is None else written
        for index, step in enumerate(steps):
            cuts.append(len(document.ids))
            right = written is None or problem.is_right(step, steps[:index])
            verdicts = None if right else self.verdicts(step, problem.expected_step(steps[:index]) or "")
            ids = self._encode(step)
            weight = hard_weight if problem.operations[index].is_hard else 1.0
            document.extend(ids, weight if right else 0.0, verdicts or [0] * len(ids))
        cuts.append(len(document.ids))
        found = problem.answer if not steps else steps[-1].rstrip(".\n").replace("=", " ").split()[-1]
        ending = f"</think>{BLANK_LINE}The answer is \\boxed{{{found}}}.{self.tokenizer.eos_token}"
        document.extend(self._encode(ending), 1.0)
        return document, cuts

    def verdicts(self, step: str, expected: str) -> list[int]:
        """For each token of ``step`` whether it already differs from the step that belongs there."""
        ids, right = self._encode(step), self._encode(expected)
        wrong, out = 0, []
        for index, token in enumerate(ids):
            wrong = wrong or int(index >= len(right) or token != right[index])
            out.append(wrong)
        return out

    def judge(self, document: Document, cut: int, step: str | None, expected: str) -> None:
        """Hang a verdict on the main line behind ``cut``: on ``step``, or on the step that already ends there."""
        if step is None:
            document.branch(cut, self.suffix)
        else:
            document.branch(cut, self._encode(step), self.verdicts(step, expected))
            document.extend(self.suffix)
        if step is None or step == expected:
            document.extend(self.right, RIGHT_WEIGHT)
        else:
            document.extend(self.wrong, WRONG_WEIGHT)

    def mark(self, document: Document, cut: int, step: str, expected: str) -> None:
        """Hang ``step`` behind ``cut`` for the auxiliary loss alone: no verdict is asked for, which is cheap."""
        document.branch(cut, self._encode(step), self.verdicts(step, expected))


def corrupt(step: str, problem: Problem, index: int, rng: random.Random) -> str:
    """A plausible wrong version of a step: a slip of arithmetic, of copying or of order."""
    body, dot = step.rstrip(".\n"), "." + BLANK_LINE
    front, _, result = body.rpartition("=") if "=" in body else body.rpartition(" ")
    joint = body[len(front)] if result != body else " "
    kind = rng.random()
    if kind < 0.55 or len(problem.operations) < 3:
        return front + joint + _slip(result, rng) + dot
    if kind < 0.75 and ":" in front:
        label, _, sum_ = front.partition(": ")
        digits = [i for i, c in enumerate(sum_) if c.isdigit()]
        at = rng.choice(digits)
        return f"{label}: {sum_[:at]}{rng.choice('0123456789')}{sum_[at + 1 :]}={result}{dot}"
    return rng.choice([s for i, s in enumerate(problem.steps) if i != index])


def _slip(number: str, rng: random.Random) -> str:
    """A number with one digit exchanged, or with a carry lost or made up."""
    if rng.random() < 0.4:
        at = rng.randrange(len(number))
        text = number[:at] + rng.choice([d for d in "0123456789" if d != number[at]]) + number[at + 1 :]
        return text.lstrip("0") or "0"
    return str(max(0, int(number) + rng.choice((-2, -1, 1, 2)) * 10 ** rng.randrange(len(number))))


Proposals = Callable[[random.Random], tuple[Problem, list[str | None]]]


def solving(writer: Writer, rng: random.Random, hard_weight: float = 1.0, short: float = 0.0) -> Iterator[Document]:
    """Gold solutions without end, a share of them of ``short`` problems."""
    while True:
        yield writer.solution(draw_training_problem(rng, short), hard_weight=hard_weight)[0]


def judging(
    writer: Writer,
    rng: random.Random,
    proposals: Proposals | None = None,
    *,
    share: float = 0.75,
    plain: float = 0.2,
    pairs: float = 0.0,
    short: float = 0.0,
) -> Iterator[Document]:
    """Solutions with verdicts on a few of their steps, without end.

    ``proposals`` gives a problem and, for each gold step, what the draft wrote in its place; a share of the verdicts is
    on those, the rest on gold steps and on made-up errors. Of that share, ``pairs`` is spent on sums and differences, a
    right and a wrong one each. A ``plain`` share of the documents only solves, and a share are ``short`` problems.
    """
    while True:
        if rng.random() < plain:
            yield writer.solution(draw_training_problem(rng, short))[0]
        elif proposals is not None and rng.random() < share:
            judge = _judge_pairs if rng.random() < pairs else _judge_draft
            yield judge(writer, rng, *proposals(rng))
        else:
            yield _judge_made_up(writer, rng, draw_training_problem(rng, short))


def _judge_draft(writer: Writer, rng: random.Random, problem: Problem, drafts: list[str | None]) -> Document:
    document, cuts = writer.solution(problem)
    steps = problem.steps
    wrong = [i for i, draft in enumerate(drafts) if draft is not None and draft != steps[i]]
    right = [i for i, draft in enumerate(drafts) if draft == steps[i]]
    wrong.sort(key=lambda i: (problem.operations[i].is_hard, rng.random()))  # slips in sums are the rarer and harder
    for index in wrong[:2]:
        writer.judge(document, cuts[index], drafts[index], steps[index])
    for index in rng.sample(right, min(2, len(right))):
        writer.judge(document, cuts[index + 1], None, steps[index])
    for index, (draft, step) in enumerate(zip(drafts, steps, strict=True)):
        other = draft if draft and draft != step else corrupt(step, problem, index, rng)
        writer.mark(document, cuts[index], other, step)
    return document


def _judge_pairs(writer: Writer, rng: random.Random, problem: Problem, drafts: list[str | None]) -> Document:
    """Two sums or differences in a right and a wrong version, and one of the draft's other steps."""
    document, cuts = writer.solution(problem)
    steps = problem.steps
    others = [draft if draft and draft != step else corrupt(step, problem, i, rng)
              for i, (draft, step) in enumerate(zip(drafts, steps, strict=True))]  # fmt: skip
    sums = [i for i, operation in enumerate(problem.operations) if operation.sign in "+-"]
    chosen = rng.sample(sums, min(2, len(sums)))
    for index in chosen:
        writer.judge(document, cuts[index + 1], None, steps[index])
        writer.judge(document, cuts[index], others[index], steps[index])
    rest = [(i, draft) for i, draft in enumerate(drafts) if draft and i not in sums]
    for index, draft in rng.sample(rest, min(1, len(rest))):
        writer.judge(document, cuts[index], draft, steps[index])
    for index in set(range(len(steps))) - set(chosen):
        writer.mark(document, cuts[index], others[index], steps[index])
    return document


def _judge_made_up(writer: Writer, rng: random.Random, problem: Problem) -> Document:
    written = _with_slips(problem, rng) if rng.random() < 0.2 else problem.steps
    document, cuts = writer.solution(problem, written)
    index = rng.randrange(len(written))
    expected = problem.expected_step(written[:index]) or ""
    if written[index] == expected:
        writer.judge(document, cuts[index + 1], None, expected)
    wrong = corrupt(expected, problem, index, rng)
    if wrong != expected:
        writer.judge(document, cuts[index], wrong, expected)
    return document


def _with_slips(problem: Problem, rng: random.Random) -> list[str]:
    written: list[str] = []
    slip = rng.randrange(len(problem.operations))
    while (step := problem.expected_step(written)) is not None:
        if len(written) == slip:
            front, joint, result = step[:-3].rpartition("=" if "=" in step else " ")
            step = front + joint + _slip(result, rng) + "." + BLANK_LINE
        written.append(step)
    return written


@dataclass
class Batch:
    """Documents padded to one length; shapes are ``[documents, length]``."""

    ids: torch.Tensor
    positions: torch.Tensor
    weights: torch.Tensor
    verdicts: torch.Tensor
    mask: torch.Tensor
    """Which tokens see which: bool ``[documents, 1, length, length]``."""


def collate(documents: list[Document]) -> Batch:
    """Pad documents and build the mask that keeps branches apart."""
    length = max(len(document.ids) for document in documents)

    def pad(name: str, filler: float, dtype: torch.dtype) -> torch.Tensor:
        rows = [getattr(d, name) + [filler] * (length - len(d.ids)) for d in documents]
        return torch.tensor(rows, dtype=dtype)

    segments, cuts = pad("segments", -1, torch.long), pad("cuts", 0, torch.long)
    order = torch.arange(length)
    same = segments[:, :, None] == segments[:, None, :]
    trunk = (segments[:, None, :] == 0) & (order[None, None, :] < cuts[:, :, None])
    mask = (same | trunk) & (order[None, None, :] <= order[None, :, None])
    return Batch(
        pad("ids", 0, torch.long), pad("positions", 0, torch.long), pad("weights", 0.0, torch.float32),
        pad("verdicts", NOT_JUDGED, torch.long), mask[:, None],
    )  # fmt: skip


def batches(documents: Iterator[Document], tokens: int, rng: random.Random) -> Iterator[Batch]:
    """Batches of about ``tokens`` tokens, of documents of like length."""
    while True:
        pool = sorted((next(documents) for _ in range(1024)), key=lambda document: len(document.ids))
        groups: list[list[Document]] = [[]]
        for document in pool:
            if (len(groups[-1]) + 1) * len(document.ids) > tokens:
                groups.append([])
            groups[-1].append(document)
        rng.shuffle(groups)
        yield from map(collate, groups)
