"""A run as its page shows it: records typed where they can be, and what is wrong where they cannot."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from specreason_graph.audit.read.recorded import Finding, RecordedRun
from specreason_graph.audit.show.labels import STOPS
from specreason_graph.audit.show.step_view import StepView
from specreason_graph.audit.show.timeline import Timeline, draw_timeline
from specreason_graph.config import SpecReasonConfig
from specreason_graph.record.manifest import Lineage, Manifest
from specreason_graph.record.records import Answer, Proposal, Record, Score, Step
from specreason_graph.record.summary import Summary, summarise

R = TypeVar("R", bound=Record)


class Verified(Protocol):
    """What came out when somebody checked a run; see `verify`."""

    @property
    def entries(self) -> int:
        """Entries of the ledger."""

    @property
    def head(self) -> str | None:
        """Hash of the last entry, computed again."""

    @property
    def signed_by(self) -> str | None:
        """The public key whose signature of the head holds."""

    @property
    def finished(self) -> bool:
        """Whether the ledger ends with an answer."""

    @property
    def findings(self) -> list[Finding]:
        """What is wrong."""

    @property
    def ok(self) -> bool:
        """Whether nothing is."""


class RunView:
    """Everything that a page says of one run."""

    def __init__(self, run: RecordedRun, verification: Verified | None = None) -> None:
        self.run, self.verification = run, verification
        self.findings = run.findings if verification is None else verification.findings
        self.manifest = _typed(Manifest, run.manifest)
        self.answer = _typed(Answer, run.result)

    @property
    def name(self) -> str:
        """Enough of the run's name to tell it."""
        return self.run.run[:12] or self.run.checkpoint_id[:12]

    @property
    def question(self) -> str:
        """What was asked."""
        return self.run.question.strip() or "(the question cannot be read)"

    @cached_property
    def steps(self) -> list[StepView]:
        """The steps, those that cannot be read among them."""
        problems: dict[int | None, list[str]] = {}
        for finding in self.findings:
            problems.setdefault(finding.step, []).append(finding.problem)
        return [
            StepView(index, _typed(Step, plain), tuple(problems.get(index, ())), inherited=index < self.inherited)
            for index, plain in enumerate(self.run.trace)
        ]

    @property
    def records(self) -> list[Step]:
        """The steps that can be read."""
        return [view.step for view in self.steps if view.step]

    @property
    def ended(self) -> str:
        """Why the thinking ended, in words."""
        stored: Any = self.run.values.get("stop_reason")
        if isinstance(stored, str) or stored is None:
            return str(STOPS.get(stored, stored)) if stored else "Not finished"  # type: ignore[call-overload]
        return "Cannot be read"

    @property
    def lineage(self) -> Lineage | None:
        """The run that it was forked from."""
        return self.manifest.forked_from if self.manifest else None

    @property
    def inherited(self) -> int:
        """How many steps were taken over from that."""
        return self.lineage.step if self.lineage else 0

    @property
    def threshold(self) -> float:
        """The score that was enough."""
        return self.manifest.config.threshold if self.manifest else SpecReasonConfig().threshold

    @cached_property
    def summary(self) -> Summary:
        """What it took, as far as it can be read."""
        return summarise(self.records, self.answer)

    @cached_property
    def timeline(self) -> Timeline:
        """Who worked when."""
        return draw_timeline(self.records, self.answer)

    @property
    def authors(self) -> dict[str, int]:
        """How many of the steps each author wrote."""
        written = [step.author for step in self.records]
        return {author: written.count(author) for author in ("draft", "base", "human") if author in written}

    @property
    def tokens(self) -> int:
        """Tokens written, discarded ones included."""
        return sum(cost.usage.generated_tokens for cost in self.summary.costs)

    @property
    def reviewed(self) -> list[StepView]:
        """The steps that a human settled."""
        return [view for view in self.steps if view.step and "human" in view.tags]

    def model(self, engine: str) -> str:
        """The name of a model."""
        found = {str(role): engine.model for role, engine in self.manifest.engines.items()} if self.manifest else {}
        return found.get(engine, "unknown")

    def share(self, seconds: float) -> float:
        """The part of the engines' working time that ``seconds`` are, 0 to 1."""
        whole = self.summary.seconds
        return min(1.0, seconds / whole) if whole > 0 and math.isfinite(whole) else 0.0

    def settings(self) -> Iterator[tuple[str, Any, bool, str]]:
        """Name, value, whether it is not the default, and meaning of each setting."""
        if self.manifest is None:
            return
        usual = SpecReasonConfig()
        for name, field in SpecReasonConfig.model_fields.items():
            value = getattr(self.manifest.config, name)
            yield name, value, value != getattr(usual, name), (field.description or "").replace("``", "")

    @cached_property
    def pending(self) -> tuple[Proposal, Score | None, bool] | None:
        """The proposal that nobody has settled, its score, and whether a human is waited for."""
        waiting = self.run.values.get("pending")
        if self.run.finished or not isinstance(waiting, dict) or not waiting.get("proposal"):
            return None
        proposal = _typed(Proposal, waiting["proposal"])
        score = _typed(Score, waiting.get("score"))
        return (proposal, score, bool(waiting.get("uncertain"))) if proposal else None


def _typed(kind: type[R], plain: Any) -> R | None:
    """The record, or None where there is none or it is damaged."""
    if not plain:
        return None
    try:
        return kind.load(plain)
    except ValidationError:
        return None
