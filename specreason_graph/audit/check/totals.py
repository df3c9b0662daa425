"""Recomputes the running totals of a recorded run, and when it should have ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.config import SpecReasonConfig
from specreason_graph.policies.end_of_thinking import stop_reason
from specreason_graph.policies.handover import handover, past_step, rejected_step
from specreason_graph.policies.rollback import steps_back
from specreason_graph.record.progress import Progress, settled_with
from specreason_graph.record.records import Decision, ProbedAnswer, Step
from specreason_graph.record.summary import seconds_of
from specreason_graph.strategy import MissingStopping, MissingWriter, PastStep

Recomputed = tuple[str, object, object]
"""A name, the recorded value and the recomputed one."""


class Trail:
    """The steps that stand, as the rules of a run know them."""

    def __init__(self, config: SpecReasonConfig) -> None:
        self._config, self._rollbacks = config, 0
        self.steps: list[PastStep] = []
        """What is known of them."""
        self.texts = Counter[str]()
        """How often each text is among them."""
        self._positions: list[int] = []

    def take(self, step: Step) -> None:
        """Add a step, in the place of those that it took back."""
        if step.taken_back:
            stand = [at for at, position in enumerate(self._positions) if position not in step.taken_back]
            self.steps, self._positions = [self.steps[at] for at in stand], [self._positions[at] for at in stand]
            self.texts = Counter(past.text for past in self.steps)
            self._rollbacks += 1
        self.steps.append(past_step(step))
        self._positions.append(step.index)
        self.texts[step.text.strip()] += 1

    def doubted(self, decision: Decision, step: Step) -> Decision:
        """The decision on the next step, with those before it that are taken back on its score."""
        if step.discarded is None or step.score is None:
            return decision
        rejected = rejected_step(step.discarded, step.score, decision)
        back = steps_back(self._config, self.steps, rejected, decision, self._rollbacks)
        rule, gone = (self._config.rollback.kind, self._positions[-back:]) if back else (None, [])
        return decision.model_copy(update={"rollback": rule, "taken_back": gone})


class Totals:
    """Adds up the steps as the run did, and recomputes when it should have ended."""

    def __init__(self, run: RecordedRun) -> None:
        self._run, self._config = run, run.typed_manifest.config
        self._progress = Progress()
        self._probe: ProbedAnswer | None = None
        self.trail = Trail(self._config)
        """The steps so far that stand."""

    @property
    def handover(self) -> str | None:
        """Why the writer has the base write the next step; None where the draft is asked, or has failed."""
        return None if self._progress.draft_failed else handover(self._config, self.trail.steps)

    def last(self) -> Iterator[Recomputed]:
        """Yield the stop reason and the totals behind the last step."""
        steps, taken_over = self._run.steps, self._run.typed_manifest.taken_over
        if not steps:
            yield from self.without_steps()
        for step in steps:
            found = list(self.take(step, own=step.index >= taken_over))
            if step is steps[-1]:
                yield from found

    def without_steps(self) -> Iterator[Recomputed]:
        """Yield the stop reason of a run that has no steps."""
        recorded, config = self._run.progress.get("stop_reason"), self._config
        forced = config.answer_schema is not None or config.tool_choice not in (None, "auto", "none")
        at_once = "answered" if self._run.typed_manifest.is_plain and forced else None
        yield from self._next_writer()
        yield "stop reason", recorded, recorded if at_once is None and self._was_cut_short() else at_once

    def take(self, step: Step, *, own: bool) -> Iterator[Recomputed]:
        """Yield the stop reason and the totals after a step."""
        self.trail.take(step)
        before = self._progress
        self._progress = Progress(
            steps=step.index + 1, thinking_tokens=before.thinking_tokens + len(step.token_ids),
            seconds=before.seconds + seconds_of(step), reserve=step.reserve or 0.0,
            repeats=self.trail.texts[step.text.strip()],
            settled=settled_with(step, self._probe, before.settled), tokens_left=step.tokens_left or 0,
            draft_failed=step.decision.reason == "draft_failed",
        )  # fmt: skip
        self._probe = step.probe
        last = step.index + 1 == len(self._run.trace)
        recorded = self._run.progress.get("stop_reason") if last else None
        manifest = self._run.typed_manifest
        if own and step.tokens_left is not None:  # schema version 1 lacks it, and the stop reason depends on it
            reply = [each.text for each in self._run.steps[: step.index + 1]] if manifest.is_plain else None
            again = stop_reason(
                step, self._progress, self._config, reply=reply, ends_at_control=bool(manifest.thinking)
            )
            unseen = last and (self._was_cut_short() or self._by_missing_rule())
            yield "stop reason", recorded, recorded if again is None and unseen else again
        if last:
            kept = self._run.progress
            for name in ("steps", "thinking_tokens", "repeats", "settled", "draft_failed"):
                yield name, kept.get(name, getattr(Progress(), name)), getattr(self._progress, name)
            yield from self._next_writer()

    def _next_writer(self) -> Iterator[Recomputed]:
        """Yield the writer's choice while there is a next step; a writer that is not known here chooses nothing."""
        kept = self._run.progress
        if not kept.get("stop_reason") and not isinstance(self._config.writer, MissingWriter):
            yield "handover", kept.get("handover"), self.handover

    def _by_missing_rule(self) -> bool:
        """Whether a stopping rule that is not known here ended the thinking."""
        reason = self._run.progress.get("stop_reason")
        return isinstance(self._config.stopping, MissingStopping) and reason in ("stopping_rule", "answer_settled")

    def _was_cut_short(self) -> bool:
        """Whether the deadline passed during the step after the last committed one, which leaves no record."""
        deadline, answer = self._config.deadline_seconds, self._run.answer
        if deadline is None or self._run.progress.get("stop_reason") != "deadline":
            return False
        return answer is None or (answer.begun or 0.0) + (answer.reserve or 0.0) >= deadline
