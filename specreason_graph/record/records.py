"""The records of a run: typed views of the plain dictionaries in the state.

Every record goes into a checkpoint as ``model_dump()`` and comes back with ``model_validate()``.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field

from specreason_graph.record.base import Engine as Engine
from specreason_graph.record.base import Plain as Plain
from specreason_graph.record.base import Record as Record
from specreason_graph.record.base import Sparse
from specreason_graph.record.base import formerly as formerly
from specreason_graph.record.setup import Setup

SCHEMA_VERSION = 7
"""Version of the form of records.

7: judges, and their evidence; 6: changes of the set-up, and what a deadline cut short; 5: thinking formats; 4: the
names of now; 3: work ahead and elapsed time; 2: the ledger, which 1 does not have. All of them are read.
"""

StopReason = Literal[
    "answered",
    "answer_settled",
    "stopping_rule",
    "step_limit",
    "token_budget",
    "context_limit",
    "repetition",
    "deadline",
    "engine_error",
]
Ending = Literal[
    "blank_line", "think_end", "end_of_sequence", "special_token", "length", "tool_call", "stop_string"
]  # fmt: skip
Reason = Literal[
    "score_reaches_threshold",
    "score_below_threshold",
    "first_steps_by_base",
    "writer_chose_base",
    "proposal_ends_thinking",
    "proposal_is_blank",
    "proposal_too_long",
    "draft_failed",
    "drafting_does_not_pay",
    "base_is_timed",
    "accepted_by_reviewer",
    "rejected_by_reviewer",
    "written_by_reviewer",
]
UNASKED: tuple[Reason, ...] = (
    "first_steps_by_base", "writer_chose_base", "drafting_does_not_pay", "base_is_timed", "draft_failed",
)  # fmt: skip
"""Reasons of decisions for which the draft was not asked."""
CLOSING: tuple[Ending, ...] = ("think_end", "end_of_sequence", "tool_call", "stop_string")
"""Endings with which an author ends the thinking; the last two only where the reply itself is the trace."""
Purpose = Literal["draft", "score", "regenerate", "probe", "answer"]
Author = Literal["base", "draft", "human"]
Verdict = Literal["accept", "reject", "edit"]


class Usage(Record):
    """What engine calls cost."""

    calls: int = 0
    """Number of engine calls."""
    prompt_tokens: int = 0
    """Tokens of the prompts, cached ones included."""
    cached_tokens: int = 0
    """Prompt tokens whose work was found in the engine's prefix cache."""
    generated_tokens: int = 0
    """Tokens the engine wrote, thrown-away ones included."""
    speculated_tokens: int = 0
    """Tokens that the engine's own token-level speculation guessed; 0 where it has none or does not tell."""
    speculated_accepted: int = 0
    """Guessed tokens that the engine found right, those behind the end of the step included."""
    seconds: float = 0.0
    """Seconds from call to answer."""
    started: float | None = None
    """When the first call began, seconds since 1970; None when there was none or it was not recorded."""

    @property
    def seconds_per_token(self) -> float:
        """Seconds from call to answer for each token written; 0 where none was."""
        return self.seconds / self.generated_tokens if self.generated_tokens else 0.0

    def __add__(self, other: Usage) -> Usage:
        sums = {name: getattr(self, name) + getattr(other, name) for name in Usage.model_fields if name != "started"}
        begun = [usage.started for usage in (self, other) if usage.started is not None]
        return Usage(**sums, started=min(begun, default=None))


class Cost(Record):
    """What one part of a step cost, and on which engine."""

    engine: Engine
    """Which engine did the work."""
    purpose: Purpose
    """What for."""
    usage: Usage
    """Tokens and seconds."""
    wasted: bool = Field(default=False, validation_alias=formerly("wasted", "lost"))
    """Whether it was speculative work that was thrown away unseen; of a call that was cut short only the seconds are
    known."""


class Proposal(Sparse):
    """A step that a model wrote, before anybody scored it."""

    without_empty: ClassVar = ("logprobs", "entropies")

    author: Author
    """Who wrote it."""
    token_ids: list[int]
    """The step in its author's vocabulary (a human's in the base's), blank line included, closing tag and special
    tokens left out."""
    text: str
    """The token ids decoded."""
    ending: Ending
    """Why the step ends where it does."""
    seed: int
    """Seed of the sampling."""
    usage: Usage
    """Cost of writing it."""
    logprobs: list[float] | None = None
    """Log-probability of each of its tokens under its author, in nats, before temperature and nucleus; None where no
    judge or writer needs it, and where it stands in the score."""
    entropies: list[float] | None = None
    """Entropy, in nats, of the distribution each token was drawn from, likewise."""

    @property
    def closes_thinking(self) -> bool:
        """Whether the author ended the thinking with this step."""
        return self.ending in CLOSING

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing in it to score."""
        return not self.text.strip()


class StepLike(Protocol):
    """A step as far as prompts are concerned."""

    @property
    def author(self) -> Author:
        """Who wrote it."""

    @property
    def token_ids(self) -> list[int]:
        """Its tokens, in its author's vocabulary."""

    @property
    def text(self) -> str:
        """Its text."""


class Score(Sparse):
    """What was found about a proposal: the evidence that a judge's number follows from, as far as it was asked for."""

    without_empty: ClassVar = (
        "digit_logprobs", "other_mass", "greedy", "mean", "prompt_tokens", "base_logprobs", "draft_logprobs",
        "draft_entropies", "found",
    )  # fmt: skip
    digit_logprobs: list[float] | None = None
    """Log-probability of each digit token, 0 to 9, behind the digit judge's prompt, over the whole vocabulary."""
    other_mass: float | None = None
    """Probability of everything that is not a digit, 0 to 1; near 1 means the judge did not answer in form."""
    greedy: int | None = None
    """The likeliest digit."""
    mean: float | None = None
    """The digits weighed by their probabilities, 0 to 9, renormalised over the digits."""
    prompt_tokens: int | None = None
    """Length of the prompt that the digit judge saw."""
    base_logprobs: list[float] | None = None
    """Log-probability of each token of the proposal under the base model, in nats; tokens of the base's vocabulary."""
    draft_logprobs: list[float] | None = None
    """The same under the draft model that wrote it; tokens of the draft's vocabulary."""
    draft_entropies: list[float] | None = None
    """Entropy, in nats, of the distribution that the draft drew each token from."""
    found: dict[str, Any] = Field(default_factory=dict)
    """What other judges measured, by their kinds, as JSON values."""
    usage: Usage
    """Cost of asking."""

    def has(self, name: str) -> bool:
        """Whether evidence is there: ``digit``, ``likelihood``, ``confidence``, ``entropy`` or a judge's own kind."""
        field = _EVIDENCE.get(name)
        return name in self.found if field is None else getattr(self, field) is not None

    def with_more(self, other: Score) -> Score:
        """The evidence of both, and what both cost."""
        more = {name: value for name in other.model_fields_set if (value := getattr(other, name)) is not None}
        return self.model_copy(update={**more, "found": self.found | other.found, "usage": self.usage + other.usage})


_EVIDENCE = {
    "digit": "digit_logprobs", "likelihood": "base_logprobs", "confidence": "draft_logprobs",
    "entropy": "draft_entropies",
}  # fmt: skip


class Review(Record):
    """What a human said of a proposal."""

    verdict: Verdict
    """``accept`` it, ``reject`` it, or ``edit``: commit ``text`` instead."""
    text: str | None = None
    """The step as the human wants it; only with ``edit``."""
    reviewer: str | None = None
    """Who said so."""
    note: str | None = None
    """Why."""


class Goodput(Record):
    """What a committed token took lately in each of the two arms, wall-clock seconds of all runs together."""

    drafting: float | None = Field(validation_alias=formerly("drafting", "drafted"))
    """Seconds a token of steps for which the draft was asked; None while nobody knows."""
    base_only: float | None = Field(validation_alias=formerly("base_only", "alone"))
    """Seconds a token of steps that the base model wrote without asking the draft; None while nobody knows."""
    runs: int
    """How many runs were under way over the same engines."""
    probe: bool = Field(default=False, validation_alias=formerly("probe", "trial"))
    """Whether the base wrote the step whatever the figures say, to measure how fast it is."""


def figure_of(number: float, threshold: float) -> str:
    """A score in as few decimals as show on which side of the threshold it is: 9.0 above 7, 8.98 below 9."""
    written = (f"{number:.{decimals}f}" for decimals in range(1, 17))
    return next((each for each in written if (float(each) < threshold) == (number < threshold)), str(number))


class Decision(Sparse):
    """Whether a proposal was let in, and all that is needed to decide it again."""

    without_empty: ClassVar = ("judge", "writer", "rollback", "taken_back")

    accepted: bool
    """Whether the proposal entered the trace."""
    reason: Reason
    """Why."""
    number: float | None
    """The score as one number, on the judge's scale; None when there was no score."""
    score_reduction: Literal["mean", "greedy"] | None = Field(validation_alias=formerly("score_reduction", "reading"))
    """How the ten digits became that number; None where another judge decided."""
    threshold: float
    """The threshold in force."""
    judge: str | None = None
    """Kind of the judge that decided, a part where judges are combined; None for the digit, and where none did."""
    writer: str | None = None
    """Kind of the writer that had the base write, and its words for why; None where another reason decided."""
    rollback: str | None = None
    """Kind of the rule that took steps back on this score; None where none did."""
    taken_back: list[int] = Field(default_factory=list)
    """Positions of the steps, from 0, that stood until then and no longer do; the base writes from before them."""
    error: str | None = None
    """What the draft engine failed with, in the step where it did."""
    review: Review | None = None
    """What a human said, where one was asked."""
    goodput: Goodput | None = None
    """The figures by which the draft was not asked."""

    @property
    def figure(self) -> str:
        """The number as people read it beside its threshold; empty where there was no score."""
        return "" if self.number is None else figure_of(self.number, self.threshold)


class Alternative(Record):
    """A version of a step that another version of the draft model's was better than."""

    proposal: Proposal
    """The version."""
    score: Score | None
    """The judge's evidence; None where there was nothing to score, or the judge's prompt did not fit."""


class ProbedAnswer(Record):
    """What the base would have answered in front of a step."""

    text: str
    """The answer, as far as it was asked for."""
    token_ids: list[int]
    """Its tokens, in the base's vocabulary."""
    usage: Usage
    """Cost of asking."""


class Step(Sparse):
    """One committed step with its evidence."""

    without_empty: ClassVar = ("change", "probe")

    index: int
    """Position in the trace, from 0."""
    author: Author
    """Who wrote the committed text."""
    text: str
    """The committed text, decoded from the token ids."""
    token_ids: list[int]
    """The committed tokens in the author's vocabulary; a human's are in the base's."""
    ending: Ending
    """Why the step ends where it does."""
    seed: int
    """Seed that the committed text was sampled from."""
    decision: Decision
    """What decided on the author."""
    score: Score | None
    """The judge's evidence; None when nothing was scored."""
    discarded: Proposal | None
    """The proposal that was rejected in favour of this step; None when there was none."""
    alternatives: list[Alternative] = Field(default_factory=list)
    """The other versions that the draft model wrote, where it wrote several; the best was decided on."""
    costs: list[Cost]
    """Engine work for this step, rejected work included."""
    elapsed: float | None = None
    """Wall-clock seconds from the commit before to this one, without the time in which nobody worked on the run; None
    in runs of schema versions 1 and 2."""
    reserve: float | None = None
    """Seconds that were kept for the answer behind it, where there is a deadline."""
    tokens_left: int | None = Field(default=None, validation_alias=formerly("tokens_left", "room"))
    """Tokens left for steps behind this one, before the context of either engine is full."""
    probe: ProbedAnswer | None = None
    """What the base would have answered in front of it; None where the stopping rule does not ask."""
    change: Setup | None = None
    """The set-up from this step on, where the run was resumed with another one; None where nothing changed."""
    hash: str | None = None
    """Hash of the ledger up to and with this step; None in runs that have no ledger."""

    @property
    def taken_back(self) -> list[int]:
        """Positions of the steps that it takes the place of; they are in no prompt from then on."""
        return self.decision.taken_back

    @property
    def scores(self) -> list[Score]:
        """The evidence of all versions, that of the one which was decided on first."""
        return [score for score in (self.score, *(each.score for each in self.alternatives)) if score]

    @property
    def closes_thinking(self) -> bool:
        """Whether the author ended the thinking with this step."""
        return self.ending in CLOSING


class Unfinished(Record):
    """A step that a deadline cut short; its cost is in the answer's ``wasted``."""

    proposal: Proposal | None
    """What the draft wrote; None where it wrote nothing."""
    alternatives: list[Alternative] = Field(default_factory=list)
    """The other versions that it wrote."""
    score: Score | None
    """The judge's evidence; None where it was not scored."""
    decision: Decision | None
    """What followed from it, with what a human said; None where nothing was decided."""


class Signature(Record):
    """Ed25519 signature of a ledger's head."""

    key: str
    """The signer's public key, raw, in hexadecimal: 32 bytes."""
    value: str
    """The signature in hexadecimal: 64 bytes."""


class Answer(Sparse):
    """The text behind the thinking."""

    without_empty: ClassVar = ("change", "unfinished", "conversation")

    author: Engine
    """Which model wrote it."""
    text: str
    """The answer for the user."""
    tool_calls: list[dict[str, Any]] = Field(default_factory=list)
    """Calls of tools, as LangChain has them."""
    invalid_tool_calls: list[dict[str, Any]] = Field(default_factory=list)
    """What looks like a call and cannot be read."""
    token_ids: list[int]
    """The answer in its author's vocabulary, without the end of sequence."""
    forced_close: bool
    """Whether the thinking was closed by a budget and not by a model."""
    complete: bool
    """Whether the model ended the answer itself; False when a limit or a control token cut it."""
    seed: int
    """Seed of the sampling."""
    usage: Usage
    """Cost of writing it."""
    wasted: list[Cost] = Field(default_factory=list, validation_alias=formerly("wasted", "lost"))
    """Work on steps that did not come to be: a deadline cut them short, or they were behind the end."""
    begun: float | None = None
    """Wall-clock seconds the run had taken when its answer was begun, where there is a deadline."""
    reserve: float | None = None
    """Seconds that were kept for it then."""
    unfinished: Unfinished | None = None
    """The step that a deadline cut short; None where none was in flight."""
    change: Setup | None = None
    """The set-up of the answer, where the run was resumed with another one behind the last step; else None."""
    conversation: str | None = None
    """SHA-256 of the messages of the thread with the reply behind them; None where a question was asked."""
    hash: str | None = None
    """Hash of the whole ledger; None in runs that have none."""
    signature: Signature | None = None
    """Signature of the hash, where the run was given a key."""
