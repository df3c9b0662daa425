"""The engine calls a step is made of: proposed by the draft, judged by the base, rewritten by the base."""

from __future__ import annotations

from dataclasses import dataclass

from specreason_graph.config import SpecReasonConfig
from specreason_graph.engines.pair import EnginePair
from specreason_graph.policies import call_seed, read_score
from specreason_graph.positions import Position, Written
from specreason_graph.prompting import Prompts
from specreason_graph.records import Engine, Proposal, Purpose, Score
from specreason_graph.steps import write_steps

AUTHORS: dict[Purpose, Engine] = {"draft": "draft", "score": "base", "regenerate": "base"}
"""Which engine a call is made to, by its purpose."""


@dataclass(frozen=True)
class Writer:
    """Makes the calls; what comes out depends on the position, the settings and nothing else."""

    pair: EnginePair
    """The engines."""
    config: SpecReasonConfig
    """Settings of the run."""
    prompts: Prompts
    """How the engines are asked."""

    async def propose(self, at: Position, count: int) -> list[Proposal]:
        """Let the draft model write a step, in ``count`` versions of which those that are the same are given once."""
        return await self._write("draft", at, count)

    async def rewrite(self, at: Position) -> Proposal:
        """Let the base model write it."""
        (written,) = await self._write("regenerate", at, 1)
        return written

    async def _write(self, purpose: Purpose, at: Position, count: int) -> list[Proposal]:
        role = AUTHORS[purpose]
        return await write_steps(
            self.pair.engine(role), self.prompts.prompter(role), role, at.prompts[role], count=count,
            limit=max(1, min(self.config.max_step_tokens, at.room)),
            seed=call_seed(self.config.seed, purpose, at.index), tags=self.prompts.tags(),
        )  # fmt: skip

    async def judge(self, at: Position, proposal: Proposal) -> Score:
        """Ask the base model for its opinion on a proposal, as one token."""
        digits = self.prompts.base.digit_ids
        prompt = self.after(at, proposal).prompts["base"].extended(self.prompts.base.judge_ids)
        found = await self.pair.base.next_token(prompt, digits)
        logprobs = [found.logprobs[token] for token in digits]
        return read_score(logprobs, found.other_mass, len(prompt), found.usage)

    def after(self, at: Position, step: Written) -> Position:
        """The place behind a step."""
        return at.after(self.prompts, step)

    def can_judge(self, at: Position, proposal: Proposal) -> bool:
        """Whether there is something to judge, and room to do it in."""
        return not proposal.is_blank and self.after(at, proposal).rooms["base"] >= 0
