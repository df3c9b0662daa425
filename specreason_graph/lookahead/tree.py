"""Where a run stands, and where it may stand soon: a tree of steps that may be committed.

Calls hang on the node that they were made at. A node is equal only to itself, so a stage finds a call only if it would
have made exactly that call itself: this is why no token depends on work ahead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from specreason_graph.lookahead.calls import InFlightCall
from specreason_graph.prompting.open_blocks import open_block
from specreason_graph.prompting.pair_prompts import PairPrompts
from specreason_graph.record.records import Engine as Role
from specreason_graph.record.records import StepLike
from specreason_graph.strategy import PastStep


class SpeculationNode:
    """The place behind some steps."""

    __slots__ = (
        "block", "calls", "children", "decided", "head", "index", "parent", "prefetch", "prompts", "question",
        "text", "tokens", "tokens_left_on", "trail", "verified",
    )  # fmt: skip

    def __init__(
        self, prompts: dict[Role, list[int]], tokens_left_on: dict[Role, int], parent: SpeculationNode | None = None
    ) -> None:
        self.prompts, self.parent = prompts, parent
        self.tokens_left_on = tokens_left_on
        """Tokens left in the context of each engine, without what is kept for judge and answer."""
        self.index: int = parent.index + 1 if parent else 0
        """Steps that were committed before this place, those that were taken back among them."""
        self.question: str = parent.question if parent else ""
        """What is thought about."""
        self.head: int = parent.head if parent else len(prompts["base"])
        """Tokens of the base's prompt in front of the first step."""
        self.tokens = 0
        """Tokens of those."""
        self.text = ""
        """The last of them."""
        self.trail: tuple[PastStep, ...] = ()
        """What rules go by: all steps before this place, as far as they are known."""
        self.block = ""
        """The code fence or LaTeX environment that is open behind it."""
        self.verified = True
        """Whether the last step will be committed; False while nobody knows."""
        self.decided = False
        """Whether it is known who writes the next step."""
        self.children: dict[tuple[Any, ...], SpeculationNode] = {}
        """The places behind each step that may come next."""
        self.calls: dict[Any, InFlightCall] = {}
        """Engine calls that were started here."""
        self.prefetch: asyncio.Task[None] | None = None
        """The work ahead that goes on from here."""

    @classmethod
    def root(cls, prompts: PairPrompts, heads: dict[Role, list[int]], question: str = "") -> SpeculationNode:
        """The place where the thinking begins."""
        root = cls(
            {role: list(head) for role, head in heads.items()},
            {role: prompts.capacities[role] - len(head) for role, head in heads.items()},
        )
        root.question = question
        return root

    def child(self, prompts: PairPrompts, step: StepLike) -> SpeculationNode:
        """The place behind one more step."""
        key = (step.author, *step.token_ids)
        if key not in self.children:
            ids = {role: prompts.step_ids(role, step) for role in self.prompts}
            left = {role: self.tokens_left_on[role] - len(ids[role]) for role in ids}
            node = SpeculationNode({role: self.prompts[role] + ids[role] for role in ids}, left, self)
            node.text = step.text.strip()
            node.tokens = self.tokens + len(step.token_ids)
            node.block = open_block(step.text, self.block)
            self.children[key] = node  # found again by whoever asks for the same step: stages, prefetcher, commit
        return self.children[key]

    @property
    def unverified_depth(self) -> int:
        """Steps before this place of which nobody knows yet whether they will be committed."""
        return (not self.verified) + (self.parent.unverified_depth if self.parent else 0)

    @property
    def tokens_left(self) -> int:
        """Tokens left for steps, on both engines."""
        return min(self.tokens_left_on.values())

    @property
    def follows_rejection(self) -> bool:
        """Whether the draft did not get in when it was asked last: what it writes next is then rejected more often."""
        last = next((past for past in reversed(self.trail) if past.asked), None)
        return last is not None and last.author != "draft"

    def commit(self) -> None:
        """Take the last step for committed; the places before are forgotten."""
        if self.parent:
            self.parent.children.clear()
            if self.parent.prefetch:
                self.parent.prefetch.cancel()  # what it began from now on would hang on a place that nobody returns to
            self.parent.prefetch = None
        self.parent, self.verified = None, True

    def prune(self) -> None:
        """Forget all places behind this one.

        Parents and children hold each other, and their prompts are long: the garbage collector would come too late.
        """
        for node in list(self.subtree()):
            node.children.clear()
            node.prefetch = None  # a cancelled task holds the frames that it was cancelled in
            node.parent = None if node is not self else node.parent

    def subtree(self) -> Iterator[SpeculationNode]:
        """Itself and all places that may come behind it."""
        yield self
        for node in self.children.values():
            yield from node.subtree()
