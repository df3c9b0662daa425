"""What all stages share: their collaborators, seeds, and how a step is committed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from langgraph.config import get_stream_writer

from specreason_graph.audit.ledger import head_of, seal_step
from specreason_graph.audit.signing import Signer
from specreason_graph.config import SpecReasonConfig
from specreason_graph.engines.pair import EnginePair
from specreason_graph.events import Event
from specreason_graph.policies import Progress, call_seed, stop_reason
from specreason_graph.prompting import ROLES, Prompts
from specreason_graph.records import Cost, Decision, Engine, Proposal, Purpose, Score, Step
from specreason_graph.state import Plain, State
from specreason_graph.steps import write_step


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

    def seed(self, purpose: Purpose, index: int) -> int:
        """The seed of one call: depends on the run's seed, what the call is for and the step, and on nothing else."""
        return call_seed(self.config.seed, purpose, index)

    def thinking_ids(self, role: Engine, state: State, *more: Plain) -> list[int]:
        """The prompt of ``role`` behind the committed steps and ``more``."""
        return self.prompts.thinking_ids(role, state["manifest"]["head_ids"][role], [*state["trace"], *more])

    def room(self, role: Engine, state: State, *more: Plain) -> int:
        """Tokens of the context of ``role`` left behind the committed steps and ``more``."""
        prompt = self.thinking_ids(role, state, *more)
        return self.pair.engine(role).context - self.prompts.reserve(role) - len(prompt)

    async def write(self, role: Engine, purpose: Purpose, state: State) -> Proposal:
        """Let ``role`` write the next step, as long as both engines have room for it."""
        limit = min(self.config.max_step_tokens, *(self.room(each, state) for each in ROLES))
        return await write_step(
            self.pair.engine(role), self.prompts.prompter(role), role, self.thinking_ids(role, state),
            limit=max(1, limit), seed=self.seed(purpose, state["progress"]["steps"]), tags=self.prompts.tags(),
        )  # fmt: skip

    def tell(self, event: Event) -> None:
        """Send an event down the custom stream."""
        get_stream_writer()(event.dump())

    def commit(
        self, state: State, proposal: Proposal, score: Score | None, decision: Decision
    ) -> tuple[Step, dict[str, Any]]:
        """The next step, and the changes that append it: the only way in, for ``accept`` and ``regenerate`` alike."""
        pending = state.get("pending") or {}
        drafted = Proposal.load(pending["proposal"]) if pending.get("proposal") else None
        room = min(self.room(role, state, proposal.dump()) for role in ROLES)
        step = Step(
            index=len(state["trace"]), author=proposal.author, text=proposal.text, token_ids=proposal.token_ids,
            ending=proposal.ending, seed=proposal.seed, decision=decision, score=score,
            discarded=None if decision.accepted else drafted, costs=_costs(drafted, score, proposal), room=room,
        )  # fmt: skip
        plain = seal_step(step.dump(), head_of(state["manifest"], state["trace"]))
        changes = {"trace": [plain], "pending": {}, "progress": self._progress(state, step)}
        return step.model_copy(update={"hash": plain["hash"]}), changes

    def _progress(self, state: State, step: Step) -> Plain:
        before = state["progress"]
        progress = Progress(
            steps=step.index + 1,
            thinking_tokens=before["thinking_tokens"] + len(step.token_ids),
            seconds=before["seconds"] + sum(cost.usage.seconds for cost in step.costs),
            repeats=1 + sum(earlier["text"].strip() == step.text.strip() for earlier in state["trace"]),
            room=step.room or 0,
            draft_failed=step.decision.reason == "draft_failed",
        )
        return {**before, **asdict(progress), "stop_reason": stop_reason(step, progress, self.config)}


def _costs(drafted: Proposal | None, score: Score | None, committed: Proposal) -> list[Cost]:
    costs = []
    if drafted:
        costs.append(Cost(engine="draft", purpose="draft", usage=drafted.usage))
    if score:
        costs.append(Cost(engine="base", purpose="score", usage=score.usage))
    if committed.author == "base":
        costs.append(Cost(engine="base", purpose="regenerate", usage=committed.usage))
    return costs
