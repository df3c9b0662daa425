"""What all stages share: their collaborators, seeds, and how a step is committed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from langgraph.config import get_stream_writer

from specreason_graph.audit.ledger import head_of, seal_step
from specreason_graph.audit.signing import Signer
from specreason_graph.config import SpecReasonConfig
from specreason_graph.engines.pair import EnginePair
from specreason_graph.events import Event
from specreason_graph.policies import Progress, seconds_of, stop_reason
from specreason_graph.policies.deadlines import answer_reserve, lateness
from specreason_graph.prompting import Prompts
from specreason_graph.records import Alternative, Cost, Decision, Proposal, Score, Step
from specreason_graph.state import Plain, State
from specreason_graph.window import Window
from specreason_graph.windows import Windows, windows_of
from specreason_graph.writer import Writer


@dataclass(frozen=True)
class Stage:
    """A node: called with the state, it returns the channels it changes."""

    pair: EnginePair
    """The engines."""
    config: SpecReasonConfig
    """Settings of the run."""
    prompts: Prompts
    """How the engines are asked."""
    signer: Signer | None = None
    """Signs the ledger of a run that is finished."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Do the stage's work on the engines' loop."""
        raise NotImplementedError

    @cached_property
    def writer(self) -> Writer:
        """Makes the engine calls of steps."""
        return Writer(self.pair, self.config, self.prompts)

    @property
    def windows(self) -> Windows:
        """The work on all runs over the pair."""
        return windows_of(self.pair)

    def window(self, state: State) -> Window:
        """The work on the run, as far as it has come."""
        return self.windows.find(state, self.writer)

    def tell(self, event: Event) -> None:
        """Send an event down the custom stream."""
        get_stream_writer()(event.dump())

    def commit(
        self, state: State, proposal: Proposal, score: Score | None, decision: Decision
    ) -> tuple[Step, dict[str, Any]]:
        """The next step, and the changes that append it: the only way in, for ``accept`` and ``regenerate`` alike."""
        pending = state.get("pending") or {}
        drafted = Proposal.load(pending["proposal"]) if pending.get("proposal") else None
        others = [Alternative.load(each) for each in pending.get("alternatives", ())]
        window = self.window(state)
        lost, elapsed = window.settle(proposal)
        step = Step(
            index=window.at.index, author=proposal.author, text=proposal.text, token_ids=proposal.token_ids,
            ending=proposal.ending, seed=proposal.seed, decision=decision, score=score,
            discarded=None if decision.accepted else drafted, alternatives=others,
            costs=[*_costs(drafted, score, others, proposal), *lost],
            elapsed=elapsed, reserve=self.reserve(window), room=self.writer.after(window.at, proposal).room,
        )  # fmt: skip
        plain = seal_step(step.dump(), head_of(state["manifest"], state["trace"]))
        step = step.model_copy(update={"hash": plain["hash"]})
        progress = self._progress(state, step, window)
        alone = bool(progress["goodput"] or progress["draft_failed"])
        window.commit(step, alone=alone, lateness=progress["lateness"])
        return step, {"trace": [plain], "pending": {}, "progress": progress}

    def _progress(self, state: State, step: Step, window: Window) -> Plain:
        before, steps = state["progress"], step.index + 1
        seconds = before["seconds"] + seconds_of(step)
        progress = Progress(
            steps=steps,
            thinking_tokens=before["thinking_tokens"] + len(step.token_ids),
            seconds=seconds,
            reserve=step.reserve or 0.0,
            lateness=lateness(self.config, window.pace, seconds, steps, self.windows.steps),
            repeats=1 + window.repeats(step.text),
            room=step.room or 0,
            draft_failed=step.decision.reason == "draft_failed",
        )
        stop = stop_reason(step, progress, self.config)
        asks = not (stop or progress.draft_failed) and steps >= self.config.first_steps_by_base
        return {**before, **asdict(progress), "goodput": self._goodput(step, window, asks=asks), "stop_reason": stop}

    def reserve(self, window: Window) -> float | None:
        """Seconds that are kept for the answer, where there is a deadline."""
        return None if self.config.deadline_seconds is None else answer_reserve(window.pace)

    def _goodput(self, step: Step, window: Window, *, asks: bool) -> Plain | None:
        """The figures for which the base writes the next step alone, where the guard is on and there is a choice."""
        if not self.config.guard:
            return None
        windows = self.windows
        windows.guard.add(step, window.own, windows.runs)
        verdict = windows.guard.verdict(window.own, windows.runs) if asks else None
        return verdict.dump() if verdict else None


def _costs(drafted: Proposal | None, score: Score | None, others: list[Alternative], committed: Proposal) -> list[Cost]:
    costs = []
    if drafted:
        usage = sum((each.proposal.usage for each in others), drafted.usage)
        costs.append(Cost(engine="draft", purpose="draft", usage=usage))
    if score:
        usage = sum((each.score.usage for each in others if each.score), score.usage)
        costs.append(Cost(engine="base", purpose="score", usage=usage))
    if committed.author == "base":
        costs.append(Cost(engine="base", purpose="regenerate", usage=committed.usage))
    return costs
