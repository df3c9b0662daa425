"""How far a run has come: the lookahead moves it, and all that works ahead of it goes by it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from specreason_graph.config import SpecReasonConfig
from specreason_graph.lookahead.estimates import CostEstimates
from specreason_graph.lookahead.tree import SpeculationNode
from specreason_graph.record.progress import Pending, Progress
from specreason_graph.record.records import Cost, Plain, Step

PATIENCE = 60.0
"""Seconds in which a step is due in a run that has no deadline."""
LATER = 10.0
"""Seconds by which a call's priority is lower for each step that it is ahead."""


class CommitPoint:
    """The node behind the last committed step, the clock of the run, and what was wasted since."""

    def __init__(
        self, node: SpeculationNode, config: SpecReasonConfig, estimates: CostEstimates, progress: Progress,
        pending: Pending, trace: Sequence[Plain],
    ) -> None:  # fmt: skip
        self.config, self.estimates = config, estimates
        self.stand(node)
        self.base_only = progress.base_only
        """Whether the base writes the next step and the draft is not asked."""
        self.slo_ratio = progress.slo_ratio
        """How late the run is; above 1 it eases its demands."""
        self.rollbacks = sum(bool(step["decision"].get("taken_back")) for step in trace)
        """How often steps were taken back."""
        self.wasted: defaultdict[int, list[Cost]] = defaultdict(list, {progress.steps: list(pending.wasted)})
        """Cost of speculative work that was thrown away, by the step that made it so."""
        self.changed = asyncio.Event()
        """Set, and replaced, whenever something is committed or decided."""
        self._seconds = progress.seconds
        self._committed = time.perf_counter() - pending.seconds

    def stand(self, node: SpeculationNode) -> None:
        """Stand at a place, ``texts`` being how often each step's text is before it."""
        self.node, self.texts = node, Counter(past.text for past in node.trail)

    def move(self, node: SpeculationNode, step: Step) -> None:
        """Stand behind one more committed step."""
        node.commit()
        self.node = node
        self.texts[node.text] += 1
        self.rollbacks += bool(step.taken_back)

    def announce(self) -> None:
        """Wake all that wait for a change."""
        self.changed.set()
        self.changed = asyncio.Event()  # who waits from now on waits for the next change

    def end_step(self) -> float:
        """Count the step in flight as over; the seconds it took."""
        before, self._committed = self._committed, time.perf_counter()
        elapsed = self._committed - before
        self._seconds += elapsed
        return elapsed

    @property
    def step_seconds(self) -> float:
        """Wall-clock seconds since the last commit."""
        return time.perf_counter() - self._committed

    @property
    def seconds_used(self) -> float:
        """Wall-clock seconds that the run has taken."""
        return self._seconds + self.step_seconds

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the answer is due; None where there is no deadline."""
        deadline = self.config.deadline_seconds
        return None if deadline is None else deadline - self.seconds_used

    @property
    def thinking_seconds_left(self) -> float | None:
        """The same without what is kept for the answer."""
        left = self.seconds_left
        return None if left is None else left - self.estimates.answer_seconds

    def priority(self, node: SpeculationNode) -> Callable[[], float]:
        """When a call at a node should begin, on the monotonic clock: later while it is ahead of the commit point."""
        patience = self.config.step_seconds or PATIENCE
        if self.thinking_seconds_left is not None:
            patience = min(patience, self.thinking_seconds_left)
        due = time.monotonic() + patience
        # a function and no number: the commit point comes nearer while the call waits for its slot
        return lambda: due + LATER * (node.index - self.node.index)
