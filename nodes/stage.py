"""What all stages share: their collaborators, seeds, and how a step is committed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from specreason_graph.config import SpecReasonConfig
from specreason_graph.engines.pair import EnginePair
from specreason_graph.policies import stop_reason
from specreason_graph.prompting import Prompts
from specreason_graph.records import Cost, Decision, Engine, Proposal, Purpose, Score, Step
from specreason_graph.state import Plain, State


@dataclass(frozen=True)
class Stage:
    """A node: called with the state, it returns the channels it changes."""

    pair: EnginePair
    """The engines."""
    config: SpecReasonConfig
    """Settings of the run."""
    prompts: Prompts
    """How the engines are asked."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Do the stage's work on the engines' loop."""
        raise NotImplementedError

    def trace(self, state: State) -> list[Step]:
        """The committed steps."""
        return [Step.load(step) for step in state.get("steps", [])]

    def seed(self, purpose: Purpose, index: int) -> int:
        """The seed of one call: depends on the run's seed, what the call is for and the step, and on nothing else."""
        digest = hashlib.sha256(f"{self.config.seed}/{purpose}/{index}".encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 2

    def thinking_ids(self, role: Engine, state: State, *more: Proposal) -> list[int]:
        """The prompt of ``role`` behind the committed steps and ``more``."""
        return self.prompts.thinking_ids(role, state["manifest"]["question"], [*self.trace(state), *more])

    def room(self, role: Engine, prompt: list[int]) -> int:
        """Tokens a step may still have: within the step limit, the thinking budget's rest aside, and the context."""
        free = self.pair.engine(role).context - self.prompts.reserve(role) - len(prompt)
        return max(1, min(self.config.max_step_tokens, free))

    @cached_property
    def _roles(self) -> tuple[Engine, ...]:
        return ("base", "draft")

    def commit(self, state: State, proposal: Proposal, score: Score | None, decision: Decision) -> dict[str, Any]:
        """Append one step to the trace: the only way in, for ``accept`` and ``regenerate`` alike."""
        pending = state.get("pending") or {}
        drafted = Proposal.load(pending["proposal"]) if pending.get("proposal") else None
        steps = self.trace(state)
        step = Step(
            index=len(steps), author=proposal.author, text=proposal.text, token_ids=proposal.token_ids,
            ending=proposal.ending, seed=proposal.seed, decision=decision, score=score,
            discarded=None if decision.accepted else drafted, costs=_costs(drafted, score, proposal),
        )  # fmt: skip
        return {"steps": [step.dump()], "pending": {}, "progress": self._progress(state, [*steps, step])}

    def _progress(self, state: State, steps: list[Step]) -> Plain:
        before, last = state["progress"], steps[-1]
        tokens = before["thinking_tokens"] + len(last.token_ids)
        seconds = before["seconds"] + sum(cost.usage.seconds for cost in last.costs)
        room = min(self._free(role, state, steps) for role in self._roles)
        reason = stop_reason(steps, self.config, thinking_tokens=tokens, seconds=seconds, room=room)
        return {"steps": len(steps), "thinking_tokens": tokens, "seconds": seconds, "stop_reason": reason}

    def _free(self, role: Engine, state: State, steps: list[Step]) -> int:
        prompt = self.prompts.thinking_ids(role, state["manifest"]["question"], steps)
        return self.pair.engine(role).context - self.prompts.reserve(role) - len(prompt)


def _costs(drafted: Proposal | None, score: Score | None, committed: Proposal) -> list[Cost]:
    costs = []
    if drafted:
        costs.append(Cost(engine="draft", purpose="draft", usage=drafted.usage))
    if score:
        costs.append(Cost(engine="base", purpose="score", usage=score.usage))
    if committed.author == "base":
        costs.append(Cost(engine="base", purpose="regenerate", usage=committed.usage))
    return costs
