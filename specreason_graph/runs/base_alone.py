"""The base model alone on the question of a run: what speculation brought, measured and not estimated."""

from __future__ import annotations

from specreason_graph.config import NEVER, make_config, overridden
from specreason_graph.engines.pair import EnginePair
from specreason_graph.graph import create_specreason
from specreason_graph.record.records import Record
from specreason_graph.record.summary import Summary
from specreason_graph.runs.launch import Launch


class BaseAlone(Record):
    """What the base model took without a draft, with the same settings and engines, right after the run."""

    answer: str
    """Its text for the user."""
    step_count: int
    """Steps that it wrote."""
    seconds: float
    """Wall-clock seconds of them."""
    gain: float
    """Its seconds for each second of the run's steps; above 1 speculation was faster."""
    is_same_answer: bool
    """Whether the run has the same answer."""

    @property
    def sentence(self) -> str:
        """It in words."""
        times = f"was {self.gain:.2f}" if self.gain >= 1 else f"took {1 / max(self.gain, 1e-9):.2f}"
        times += " times as fast" if self.gain >= 1 else " times as long"
        gave = "the same answer" if self.is_same_answer else f"the answer {' '.join(self.answer.split())[:60]!r}"
        return f"measured: the base alone took {self.seconds:.2f} s and gave {gave}: speculation {times}"


def answer_alone(launch: Launch, pair: EnginePair, summary: Summary, answer: str) -> BaseAlone | None:
    """Let the base model answer the question of a run by itself, and compare it with what the run took and answered.

    Nothing of it is kept. The base finds its prompt in the cache, as the run did not. None for a run without steps.
    """
    if not summary.elapsed:
        return None
    config = overridden(make_config(**launch.settings), {"first_steps_by_base": NEVER})
    outcome = create_specreason(pair, config=config).compile().invoke({"question": launch.question})
    took = Summary.load(outcome["trace_summary"])
    seconds = took.elapsed or 0.0
    return BaseAlone(
        answer=outcome["answer"], step_count=took.steps, seconds=seconds, gain=seconds / summary.elapsed,
        is_same_answer=outcome["answer"] == answer,
    )  # fmt: skip
