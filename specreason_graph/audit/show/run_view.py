"""The view of a run for its page: typed records where they can be read, and the problems where they cannot."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from specreason_graph.audit.ask.advice import Advice, advise
from specreason_graph.audit.read.recorded import Finding, RecordedRun
from specreason_graph.audit.show.labels import STOPS
from specreason_graph.audit.show.step_view import StepView
from specreason_graph.audit.show.timeline import Timeline, draw_timeline
from specreason_graph.config import SpecReasonConfig
from specreason_graph.record.manifest import Lineage, Manifest
from specreason_graph.record.records import Answer, Proposal, Record, Score, Step, Unfinished
from specreason_graph.record.summary import Summary, summarise
from specreason_graph.strategy import Strategy

R = TypeVar("R", bound=Record)


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


class RunView:
    """Everything that a page shows of one run."""

    def __init__(self, run: RecordedRun, verification: Verified | None = None) -> None:
        self.run, self.verification = run, verification
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

    @cached_property
    def steps(self) -> list[StepView]:
        """All steps, including those that cannot be read."""
        problems: dict[int | None, list[str]] = {}
        for finding in self.findings:
            problems.setdefault(finding.step, []).append(finding.problem)
        found = self.verification.changes if self.verification else []
        changes = {each.step: each.problem for each in found}
        typed = [_typed(Step, plain) for plain in self.run.trace]
        gone = {position: step.index for step in typed if step for position in step.taken_back}
        return [
            StepView(
                index,
                step,
                tuple(problems.get(index, ())),
                change=changes.get(index, ""),
                inherited=index < self.inherited,
                gone_at=gone.get(index),
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
