"""Recorded replay: recompute every decision, total and stop reason from the stored evidence, with no engine."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from specreason_graph.audit.check.state_check import at_the_end
from specreason_graph.audit.check.totals import Totals
from specreason_graph.audit.read.recorded import Finding, RecordedRun, check_readable
from specreason_graph.config import SpecReasonConfig
from specreason_graph.judging.digit_judge import read_score
from specreason_graph.policies.acceptance import asks_human, decide, decide_reviewed, decide_unscored
from specreason_graph.policies.seeds import call_seed
from specreason_graph.record.records import Decision, Purpose, Record, Score, Step


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
    """Recompute all decisions of a run; raise `ThreadError` when the record is damaged."""
    check_readable(run)
    found = list(chain(_steps(run), _ending(run)))
    return Replay(steps=len(run.steps), decisions=len(run.steps) + 1, differences=found)


def _steps(run: RecordedRun) -> Iterator[Finding]:
    config, totals = run.typed_manifest.config, Totals(run)
    # Steps that a fork took over were decided under the settings of the forked run, which are not in this record.
    taken_over = run.typed_manifest.taken_over
    if not run.steps:
        for what, recorded, again in totals.without_steps():
            if recorded != again:
                yield Finding(step=None, problem=f"{what}: recorded {recorded!r}, computed {again!r}")
    for step in run.steps:
        own = step.index >= taken_over
        for what, recorded, again in chain(_of_step(step, config, own=own), totals.take(step, own=own)):
            if recorded != again:
                yield Finding(step=step.index, problem=f"{what}: recorded {recorded!r}, computed {again!r}")


def _of_step(step: Step, config: SpecReasonConfig, *, own: bool) -> Iterator[tuple[str, object, object]]:
    """Yield what follows from the evidence of a step: a name, the recorded value and the recomputed one."""
    if own:
        lowest, threshold = config.threshold_floor, step.decision.threshold
        # How late a run was is not in the record, so any threshold that lateness allows is right.
        eased = lowest is not None and lowest <= threshold <= config.threshold
        yield "threshold", threshold, threshold if eased else config.threshold
        yield "score_reduction", step.decision.score_reduction, config.score_reduction
        if step.author != "human":
            purpose: Purpose = "draft" if step.author == "draft" else "regenerate"
            first = call_seed(config.seed, purpose, step.index)
            # Version i of a step is sampled with seed + i, and any of them may be the committed one.
            several = config.proposals if step.author == "draft" else 1
            yield "seed", step.seed, step.seed if 0 <= step.seed - first < several else first
    yield "decision", step.decision, decide_again(step, config)
    if step.score:
        again = _read(step.score)
        yield "score", (step.score.greedy, step.score.mean), (again.greedy, again.mean)
        yield "better proposals", _better(step), []
        if own:
            asked = asks_human(
                decide(step.score, threshold=config.threshold, score_reduction=config.score_reduction), config.review
            )
            yield "human was asked", step.decision.review is not None, asked
    by_human = step.decision.reason == "written_by_reviewer"
    author = "human" if by_human else "draft" if step.decision.accepted else "base"
    yield "author", step.author, author
    if by_human and step.decision.review:
        yield "text", step.text.strip(), (step.decision.review.text or "").strip()


def _better(step: Step) -> list[float]:
    """Return the scores of alternatives that are higher than the score of the version that was decided on."""
    mine, score_reduction = step.decision.number or 0.0, step.decision.score_reduction
    scores = [_read(each.score) for each in step.alternatives if each.score]
    numbers = [decide(score, threshold=0, score_reduction=score_reduction).number or 0.0 for score in scores]
    return [number for number in numbers if number > mine]


def decide_again(step: Step, config: SpecReasonConfig) -> Decision:
    """Return the decision that follows from the evidence of a step."""
    recorded = step.decision
    if step.score is None:
        asked = config.model_copy(update={"threshold": recorded.threshold, "score_reduction": recorded.score_reduction})
        failed = recorded.error or "" if recorded.reason == "draft_failed" else recorded.error
        decision = decide_unscored(step.discarded, asked, failed, recorded.goodput)
    else:
        decision = decide(_read(step.score), threshold=recorded.threshold, score_reduction=recorded.score_reduction)
    return decide_reviewed(decision, recorded.review) if recorded.review else decision


def _read(score: Score) -> Score:
    return read_score(score.digit_logprobs, score.other_mass, score.prompt_tokens, score.usage)


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
