"""What a run gained or lost against the base alone, and the one setting that would have done better.

All of it is estimated from the record: the base alone is taken to write the same tokens at the speed that it wrote at
in this run, and another setting to go on with the recorded steps.
"""

from __future__ import annotations

from collections.abc import Iterator

from specreason_graph.audit.ask.whatif import what_if
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.errors import SpecReasonError
from specreason_graph.record.records import Record, Step
from specreason_graph.record.summary import summarise

WORTH = 0.9
"""Share of the time that another setting may take at most to be worth a word: below that it may be noise."""


class Better(Record):
    """Another setting, and what it would have taken."""

    option: str
    """The setting, as an option of the command line."""
    seconds: float
    """Seconds that the steps would have taken."""
    why: str
    """Where the time is saved, in a few words."""


class Advice(Record):
    """What speculation brought in one run; every figure of another setting is an estimate."""

    seconds: float
    """Wall-clock seconds of the run's steps."""
    base_only_seconds: float
    """Seconds in which the base alone would have written the same tokens."""
    better: Better | None
    """The setting that would have been clearly faster; None where the record tells of none."""

    @property
    def gain(self) -> float:
        """Seconds of the base alone for each second of the run; above 1 speculation was faster."""
        return self.base_only_seconds / self.seconds

    @property
    def sentences(self) -> list[str]:
        """It in words: what was gained or lost, and what would have been better."""
        times = f"{self.gain:.2f} times as fast" if self.gain >= 1 else f"{1 / self.gain:.2f} times as long"
        was = "was" if self.gain >= 1 else "took"
        alone = f"the base alone about {self.base_only_seconds:.2f} s"
        found = [f"steps took {self.seconds:.2f} s, {alone}: speculation {was} {times} (estimate)"]
        if self.better:
            took = f"{self.better.option} would have taken about {self.better.seconds:.2f} s (estimate)"
            found.append(f"better: {took}; {self.better.why}")
        return found


def advise(run: RecordedRun) -> Advice | None:
    """Say what a run gained, and what would have done better.

    None for a run that is not finished, is damaged or of an older form, in which the draft was not asked, or in which
    the base wrote nothing that could be timed.
    """
    try:
        return _advise(run) if run.finished and not run.findings else None
    except SpecReasonError:  # a later version wrote it
        return None


def _advise(run: RecordedRun) -> Advice | None:
    totals = summarise(run.steps, run.answer)
    alone, seconds = totals.base_only_seconds, totals.elapsed
    if not seconds or not alone or not totals.proposals:
        return None
    steps = run.typed_manifest.config.max_steps
    lost = f"{totals.accepted} of {totals.proposals} drafted steps got in"
    found = [Better(option=f"the base alone (--first-steps-by-base {steps})", seconds=alone, why=lost)]
    found += [*_looser(run, seconds), *_ahead(run, seconds)]
    best = min(found, key=lambda each: each.seconds)
    return Advice(seconds=seconds, base_only_seconds=alone, better=best if best.seconds <= WORTH * seconds else None)


def _looser(run: RecordedRun, seconds: float) -> Iterator[Better]:
    """Yield the loosest threshold that lets in nothing but what the base, asked instead, wrote in the same words."""
    judge = run.typed_manifest.config.judge_in_force
    for threshold in sorted(each for each in judge.trials_in_force if each < judge.accepts_from):
        other = what_if(run, threshold=threshold)
        steps = [run.steps[change.step] for change in other.changed]
        if steps and other.recorded_seconds and all(map(_in_vain, steps)):
            took = seconds * other.seconds / other.recorded_seconds
            why = f"{len(steps)} rejected {'step' if len(steps) == 1 else 'steps'} the base wrote in the same words"
            yield Better(option=f"--threshold {threshold:.4g}", seconds=took, why=why)
            return


def _in_vain(step: Step) -> bool:
    """Whether a step was rejected and then written again as it was."""
    return step.author == "base" and step.discarded is not None and step.discarded.text == step.text


def _ahead(run: RecordedRun, seconds: float) -> Iterator[Better]:
    """Yield work ahead, where the run had none."""
    if run.typed_manifest.config.lookahead == 0:
        saved = sum(min(_took(step, "draft"), _took(step, "score")) for step in run.steps if step.decision.accepted)
        why = "a step is then scored while the next one is drafted"
        yield Better(option="--lookahead 4", seconds=max(0.0, seconds - saved), why=why)


def _took(step: Step, purpose: str) -> float:
    return sum(cost.usage.seconds for cost in step.costs if cost.purpose == purpose and not cost.wasted)
