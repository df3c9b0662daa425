"""The view of a run for its page: typed records where they can be read, and the problems where they cannot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeVar

from markupsafe import Markup
from pydantic import ValidationError

from specreason_graph.audit.ask.advice import Advice, advise
from specreason_graph.audit.read.recorded import Finding, RecordedRun
from specreason_graph.audit.show.labels import STOPS, duration
from specreason_graph.audit.show.markup import rendered
from specreason_graph.audit.show.place import Links
from specreason_graph.audit.show.prompts import judge_words, prompts_before, prompts_of
from specreason_graph.audit.show.step_view import StepView
from specreason_graph.audit.show.timeline import Timeline, draw_timeline
from specreason_graph.audit.show.tokens import Decode, decoders
from specreason_graph.audit.show.visible import visible
from specreason_graph.config import SpecReasonConfig
from specreason_graph.record.manifest import Lineage, Manifest
from specreason_graph.record.records import Answer, Engine, Plain, Proposal, Record, Score, Step, Unfinished
from specreason_graph.record.summary import Summary, summarise
from specreason_graph.strategy import Strategy

R = TypeVar("R", bound=Record)
LONGEST_TITLE = 240
"""Most characters of a question as a title."""


class Verified(Protocol):
    """The result of verifying a run, as `verify` returns it."""

    @property
    def entries(self) -> int:
        """Number of entries in the ledger."""

    @property
    def head(self) -> str | None:
        """Recomputed hash of the last entry."""

    @property
    def signed_by(self) -> str | None:
        """The public key whose signature of the head is valid; None without a valid signature."""

    @property
    def finished(self) -> bool:
        """Whether the ledger ends with an answer."""

    @property
    def findings(self) -> list[Finding]:
        """What is wrong."""

    @property
    def changes(self) -> list[Finding]:
        """Steps from which on the run went on with other engines or prompts."""

    @property
    def ok(self) -> bool:
        """Whether there are no findings."""


class StepMemory:
    """The typed steps of a run that is shown again and again while it goes on."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Plain, Step | None]] = {}

    def typed(self, plain: Plain) -> Step | None:
        """Return a step; None where it is damaged. The same dictionary gives the same step."""
        known = self._known.get(id(plain))
        if known is None or known[0] is not plain:
            known = self._known[id(plain)] = plain, _typed(Step, plain)
        return known[1]


class RunView:
    """Everything that a page shows of one run."""

    def __init__(
        self,
        run: RecordedRun,
        verification: Verified | None = None,
        links: Links | None = None,
        memory: StepMemory | None = None,
    ) -> None:
        self.run, self.verification, self.links = run, verification, links or Links()
        self._memory = memory or StepMemory()
        self.findings = run.findings if verification is None else verification.findings
        self.manifest = _typed(Manifest, run.manifest)
        self.answer = _typed(Answer, run.result)

    @property
    def name(self) -> str:
        """The beginning of the run's name, enough to identify it."""
        return self.run.run[:12] or self.run.checkpoint_id[:12]

    @property
    def question(self) -> str:
        """The question."""
        return self.run.question.strip() or "(the question cannot be read)"

    @property
    def title(self) -> str:
        """The question in one line, cut where it is long."""
        line = " ".join(self.question.split())
        return line if len(line) <= LONGEST_TITLE else f"{line[:LONGEST_TITLE].rstrip()}…"

    @property
    def question_html(self) -> Markup | None:
        """The question rendered; None where it has no markup."""
        return rendered(visible(self.question))

    @property
    def answer_html(self) -> Markup | None:
        """The answer rendered; None where it has no markup, or there is none."""
        return rendered(visible(self.answer.text)) if self.answer else None

    @property
    def state(self) -> str:
        """Where the run stands: ``finished``, ``waiting``, ``abandoned`` or ``unfinished``."""
        if self.run.finished:
            return "finished"
        if self.run.abandoned:
            return "abandoned"
        return "waiting" if self.pending and self.pending[2] else "unfinished"

    @cached_property
    def decoders(self) -> Mapping[Engine, Decode]:
        """How token ids are read, by role, where the tokenizer is at hand."""
        return decoders(self.manifest)

    def decoded(self, engine: Engine, ids: Sequence[int]) -> str | None:
        """Return the text of token ids of a role; None where its tokenizer is not at hand."""
        decode = self.decoders.get(engine)
        return decode(ids) if decode and ids else None

    @property
    def judge_words(self) -> tuple[str, str] | None:
        """The digit judge's instruction and the start of its reply; None where no digit is asked for."""
        return judge_words(self.manifest) if self.manifest else None

    @property
    def gain(self) -> str:
        """How fast the steps were against the base alone, in words; an estimate from the run's own figures."""
        took, alone = self.summary.elapsed, self.summary.base_only_seconds
        if not self.summary.proposals:
            return "no step was drafted"
        if not took or not alone or not math.isfinite(took) or not math.isfinite(alone):
            return "not known: the base was not timed"
        if alone >= took:
            return f"{alone / took:.2f} times as fast as the base alone (estimate)"
        return f"{took / alone:.2f} times as long as the base alone (estimate)"

    @property
    def against_base(self) -> list[tuple[str, str, float]]:
        """The run and the base alone: kind, words, and share of the longer one; empty where that is not known."""
        took, alone = self.summary.elapsed, self.summary.base_only_seconds
        if not took or not alone or not math.isfinite(took + alone):
            return []
        rows = (("draft", "steps of this run", took), ("base", "the base alone, estimate", alone))
        return [(kind, f"{label}: {duration(each)}", each / max(took, alone)) for kind, label, each in rows]

    @cached_property
    def steps(self) -> list[StepView]:
        """All steps, including those that cannot be read."""
        problems: dict[int | None, list[str]] = {}
        for finding in self.findings:
            problems.setdefault(finding.step, []).append(finding.problem)
        found = self.verification.changes if self.verification else []
        changes = {each.step: each.problem for each in found}
        typed = [self._memory.typed(plain) for plain in self.run.trace]
        gone = {position: step.index for step in typed if step for position in step.taken_back}
        before = list(prompts_before(typed))
        return [
            StepView(
                index,
                step,
                tuple(problems.get(index, ())),
                change=changes.get(index, ""),
                inherited=index < self.inherited,
                gone_at=gone.get(index),
                prompts=tuple(prompts_of(step, before[index], typed)) if step else (),
                decoders=self.decoders,
                shares_vocabulary=self.manifest is not None and self.manifest.shares_vocabulary,
            )
            for index, step in enumerate(typed)
        ]

    @property
    def records(self) -> list[Step]:
        """The steps that can be read."""
        return [view.step for view in self.steps if view.step]

    @property
    def ended(self) -> str:
        """Why the thinking ended, as a text for people."""
        stored: Any = self.run.values.get("stop_reason")
        if isinstance(stored, str) or stored is None:
            return str(STOPS.get(stored, stored)) if stored else "Not finished"  # type: ignore[call-overload]
        return "Cannot be read"

    @property
    def lineage(self) -> Lineage | None:
        """The run that this one was forked from; None if it is no fork."""
        return self.manifest.forked_from if self.manifest else None

    @property
    def inherited(self) -> int:
        """How many steps were taken over from the forked run."""
        return self.lineage.step if self.lineage else 0

    @property
    def threshold(self) -> float:
        """The acceptance threshold of the run."""
        config = self.manifest.config if self.manifest else SpecReasonConfig()
        return config.judge_in_force.accepts_from

    @property
    def judge(self) -> str:
        """Kind of the judge that decides."""
        return self.manifest.config.judge_in_force.kind if self.manifest else "unknown"

    @cached_property
    def summary(self) -> Summary:
        """Totals and costs of the run, as far as they can be read."""
        return summarise(self.records, self.answer)

    @cached_property
    def advice(self) -> Advice | None:
        """What speculation brought; None where the record does not tell."""
        return None if self.findings else advise(self.run)

    @cached_property
    def timeline(self) -> Timeline:
        """The engine calls of the run on a timeline."""
        return draw_timeline(self.records, self.answer)

    @property
    def authors(self) -> dict[str, int]:
        """How many steps each author wrote."""
        written = [step.author for step in self.records]
        return {author: written.count(author) for author in ("draft", "base", "human") if author in written}

    @property
    def tokens(self) -> int:
        """Generated tokens, discarded ones included."""
        return sum(cost.usage.generated_tokens for cost in self.summary.costs)

    @property
    def unfinished(self) -> Unfinished | None:
        """The step that a deadline cut short; None without one."""
        return self.answer.unfinished if self.answer else None

    @property
    def reviewed(self) -> list[StepView]:
        """The steps that a human decided or wrote."""
        return [view for view in self.steps if view.step and "human" in view.tags]

    def model(self, engine: str) -> str:
        """Return the name of the model that plays a role."""
        found = {str(role): engine.model for role, engine in self.manifest.engines.items()} if self.manifest else {}
        return found.get(engine, "unknown")

    def share(self, seconds: float) -> float:
        """Return ``seconds`` as a fraction of the run's engine time, 0 to 1."""
        whole = self.summary.seconds
        return min(1.0, seconds / whole) if whole > 0 and math.isfinite(whole) else 0.0

    def settings(self) -> Iterator[tuple[str, Any, bool, str]]:
        """Yield the settings: name, value, whether it differs from the default, and description."""
        if self.manifest is None:
            return
        defaults = SpecReasonConfig()
        for name, field in SpecReasonConfig.model_fields.items():
            value = _setting(self.manifest.config, name)
            yield name, value, value != _setting(defaults, name), (field.description or "").replace("``", "")

    @cached_property
    def pending(self) -> tuple[Proposal, Score | None, bool] | None:
        """The proposal that is not decided yet, its score, and whether the run waits for a human; None without one."""
        waiting = self.run.values.get("pending")
        if self.run.finished or not isinstance(waiting, dict) or not waiting.get("proposal"):
            return None
        proposal = _typed(Proposal, waiting["proposal"])
        score = _typed(Score, waiting.get("score"))
        needs_review = bool(waiting.get("needs_review") or waiting.get("uncertain"))  # the name before schema 4
        return (proposal, score, needs_review) if proposal else None


def _setting(config: SpecReasonConfig, name: str) -> Any:
    """A setting as it is shown: the threshold in force, and of a strategy what is not at its default."""
    value = getattr(config, name)
    if name == "threshold":
        return config.judge_in_force.accepts_from
    if isinstance(value, Strategy):
        own = value.model_dump(exclude_defaults=True)
        return {"kind": value.kind, **own} if own else value.kind
    return value


def _typed(kind: type[R], plain: Any) -> R | None:
    """Return the typed record, or None where there is none or it is damaged."""
    if not plain:
        return None
    try:
        return kind.load(plain)
    except ValidationError:
        return None
