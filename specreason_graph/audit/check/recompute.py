"""Recorded replay: recompute every decision, total and stop reason from the stored evidence, with no engine."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from specreason_graph.audit.check.state_check import at_the_end
from specreason_graph.audit.check.totals import Recomputed, Totals
from specreason_graph.audit.read.recorded import Finding, RecordedRun, check_readable
from specreason_graph.config import SpecReasonConfig
from specreason_graph.errors import ConfigError
from specreason_graph.judging.digit import DigitJudge, read_digits
from specreason_graph.policies.acceptance import asks_human, decide, decide_reviewed, decide_unscored, rank
from specreason_graph.policies.deadlines import judge_at
from specreason_graph.policies.seeds import call_seed, uniform
from specreason_graph.policies.speculation import is_controlled
from specreason_graph.record.manifest import Manifest
from specreason_graph.record.records import Decision, Purpose, Record, Score, Step
from specreason_graph.strategy import Judge, MissingStopping


class Replay(Record):
    """The result of a recorded replay."""

    steps: int
    """Committed steps of the run."""
    decisions: int
    """Decisions that were recomputed."""
    differences: list[Finding]
    """Where the record differs from what was recomputed; later ones may follow from the first."""

    @property
    def ok(self) -> bool:
        """Whether everything was recomputed as recorded."""
        return not self.differences


def recompute(run: RecordedRun) -> Replay:
    """Recompute all decisions of a run; raise `ThreadError` when the record is damaged.

    Raises `ConfigError` for a judge, writer or rule of a class that is not known here.
    """
    rule = check_readable(run).typed_manifest.config.stopping
    if isinstance(rule, MissingStopping):
        raise ConfigError(f"there is no stopping rule {rule.kind!r} here", hint="register the class that the run had")
    found = list(chain(_steps(run), _ending(run)))
    return Replay(steps=len(run.steps), decisions=len(run.steps) + 1, differences=found)


def _steps(run: RecordedRun) -> Iterator[Finding]:
    manifest, totals = run.typed_manifest, Totals(run)
    # Steps that a fork took over were decided under the settings of the forked run, which are not in this record.
    taken_over = manifest.taken_over
    if not run.steps:
        for what, recorded, again in totals.without_steps():
            if recorded != again:
                yield Finding(step=None, problem=f"{what}: recorded {recorded!r}, computed {again!r}")
    for step in run.steps:
        own = step.index >= taken_over
        found = _of_step(step, manifest, totals, own=own)
        for what, recorded, again in chain(found, totals.take(step, own=own)):
            if recorded != again:
                yield Finding(step=step.index, problem=f"{what}: recorded {recorded!r}, computed {again!r}")


def _of_step(step: Step, manifest: Manifest, totals: Totals, *, own: bool) -> Iterator[Recomputed]:
    """Yield what follows from the evidence of a step, and from the ``totals`` before it."""
    config, recorded = manifest.config, step.decision
    judge = judge_at(config, recorded.threshold) if own else judge_before(step, manifest)
    again = decide_again(step, config, judge, totals.handover if own else recorded.writer)
    kept = {"rollback": recorded.rollback, "taken_back": recorded.taken_back}
    again = totals.trail.doubted(again, step) if own else again.model_copy(update=kept)
    if own and step.author != "human":
        purpose: Purpose = "draft" if step.author == "draft" else "regenerate"
        first = call_seed(config.seed, purpose, step.index)
        # Version i of a step is sampled with seed + i, and any of them may be the committed one.
        several = config.proposals if step.author == "draft" else 1
        yield "seed", step.seed, step.seed if 0 <= step.seed - first < several else first
    if own:
        yield "threshold", step.decision.threshold, again.threshold
        yield "score_reduction", step.decision.score_reduction, again.score_reduction
        if recorded.goodput:
            yield "speculation control", True, is_controlled(config, recorded.goodput.runs)
    if not own and step.score is None:  # the settings that it was decided under are not in this record
        same = {name: getattr(step.decision, name) for name in ("threshold", "score_reduction")}
        again = again.model_copy(update=same)
    yield "decision", step.decision, again
    if step.score:
        if step.score.digit_logprobs is not None:
            read = _read(step.score)
            yield "score", (step.score.greedy, step.score.mean), (read.greedy, read.mean)
        drawn = {each.found["sample"] for each in step.scores if "sample" in each.found}
        if own and drawn:
            yield "draw", drawn, {uniform(config.seed, step.index)}
        yield "better proposals", _better(step, judge), []
        if own:
            asked = asks_human(decide(step.score, config.judge_in_force), config.review)
            yield "human was asked", step.decision.review is not None, asked
    by_human = step.decision.reason == "written_by_reviewer"
    author = "human" if by_human else "draft" if step.decision.accepted else "base"
    yield "author", step.author, author
    if by_human and step.decision.review:
        yield "text", step.text.strip(), (step.decision.review.text or "").strip()


def _better(step: Step, judge: Judge) -> list[float]:
    """Return by how much alternatives are better than the version that was decided on."""
    assert step.score is not None  # noqa: S101 - the caller passes only steps that have a score
    mine, others = rank(step.score, judge), [rank(each.score, judge) for each in step.alternatives if each.score]
    return [number for accepted, number in others if (accepted, number) > mine]


def judge_before(step: Step, manifest: Manifest) -> Judge:
    """Return the judge of a step that a fork took over, as far as the record tells it."""
    recorded, before = step.decision, manifest.forked_from
    judged = (each.judge for each in (before.judges if before else ()) if step.index < each.until)
    judge = next(judged, None) or DigitJudge()
    if isinstance(judge, DigitJudge):
        judge = judge.model_copy(update={"reduction": recorded.score_reduction or judge.reduction})
    return judge if judge.is_combined else judge.with_threshold(recorded.threshold)


def decide_again(step: Step, config: SpecReasonConfig, judge: Judge, handover: str | None = None) -> Decision:
    """Return the decision that follows from the evidence of a step; ``handover``: what the writer said of it."""
    recorded = step.decision
    if step.score is None:
        failed = recorded.error or "" if recorded.reason == "draft_failed" else recorded.error
        again = decide_unscored(step.discarded, config, failed, recorded.goodput, handover)
        decision = again.model_copy(update={"threshold": judge.accepts_from})
    else:
        decision = decide(step.score, judge).model_copy(update={"writer": handover})
    return decide_reviewed(decision, recorded.review) if recorded.review else decision


def _read(score: Score) -> Score:
    assert score.digit_logprobs is not None  # noqa: S101 - the caller has looked
    return read_digits(score.digit_logprobs, score.other_mass or 0.0, score.prompt_tokens, score.usage)


def _ending(run: RecordedRun) -> Iterator[Finding]:
    """Yield the differences in the answer and in the totals that callers got."""
    if run.answer is None:
        return
    kept = run.values
    expected = [
        ("answer", kept.get("answer"), run.answer.text),
        ("answer's seed", run.answer.seed, call_seed(run.typed_manifest.config.seed, "answer", 0)),
        ("closed by force", run.answer.forced_close, kept.get("stop_reason") != "answered"),
    ]
    expected += at_the_end(run)
    for what, recorded, again in expected:
        if recorded != again:
            yield Finding(step=None, problem=f"{what}: recorded {recorded!r}, computed {again!r}")
