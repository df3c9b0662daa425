"""Ask a human about a proposal whose score lies in the uncertain band."""

from __future__ import annotations

from typing import Any

from langgraph.config import get_config
from langgraph.types import interrupt
from pydantic import ValidationError

from specreason_graph.errors import ConfigError
from specreason_graph.json_values import why_not_kept
from specreason_graph.lookahead.lookahead import Lookahead
from specreason_graph.nodes.stage import Stage, is_nested
from specreason_graph.policies.acceptance import decide_reviewed
from specreason_graph.prompting.engine_prompts import as_step
from specreason_graph.record.progress import Pending
from specreason_graph.record.records import Proposal, Review, Usage
from specreason_graph.record.state import State

ALLOWED = 'answer "accept", "reject", or {"verdict": "edit", "text": ...}; "reviewer" and "note" may go with each'


def refuse_exit() -> None:
    """`ConfigError` in a subgraph of which only the end is kept: what humans answered in between would be lost."""
    durability = get_config()["configurable"].get("__pregel_durability")  # LangGraph tells it in no other way
    if is_nested() and durability == "exit":
        raise ConfigError(
            'a subgraph that asks a human cannot run with durability="exit"', hint='use "sync" or "async"'
        )


class AskHuman(Stage):
    """Interrupts the run until a human has answered; resumed with ``Command(resume=...)``."""

    async def __call__(self, state: State, lookahead: Lookahead, /) -> dict[str, Any]:
        """Put the human's decision into ``pending``, or what is wrong with it: then the human is asked again."""
        refuse_exit()
        pending, trace = Pending.load(state["pending"]), state["trace"]
        assert pending.proposal is not None  # noqa: S101 - the route here is behind score
        assert pending.score is not None  # noqa: S101
        assert pending.decision is not None  # noqa: S101
        asked = {
            "kind": "specreason_review",
            "index": len(trace),
            "question": state["manifest"]["question"],
            "before": trace[-1]["text"] if trace else "",
            "proposal": pending.proposal.text,
            "score": pending.score.dump(),
            "decision": pending.decision.dump(),
            "allowed": ALLOWED,
            "checkpoint_ns": get_config()["configurable"]["checkpoint_ns"],  # by it a nested call is found again
        }
        found = self._read(interrupt(asked | ({"problem": pending.problem} if pending.problem else {})), lookahead)
        if isinstance(found, str):
            # The stage ends here, and is not asked again within it: LangGraph stores an answer before it is read, and
            # what it cannot store it alters, so that another process would find an answer that nobody gave.
            return {"pending": pending.model_copy(update={"problem": found}).dump()}
        settled = {"decision": decide_reviewed(pending.decision, found), "needs_review": False, "problem": ""}
        return {"pending": pending.model_copy(update=settled).dump()}

    def _read(self, answer: Any, lookahead: Lookahead) -> Review | str:
        """What a human said, or what is wrong with it."""
        try:
            review = Review.load({"verdict": answer} if isinstance(answer, str) else answer)
        except ValidationError as error:
            first = error.errors()[0]
            return f"{'.'.join(map(str, first['loc'])) or 'the answer'}: {first['msg']}; {ALLOWED}"
        if problem := why_not_kept(dict(review), "the answer"):
            return problem
        if (review.verdict == "edit") != bool(review.text and review.text.strip()):
            return 'a text belongs to "edit", and only to it; ' + ALLOWED
        if review.text and (excess := self._excess(as_step(review.text), lookahead)) > 0:
            return f"the text is {excess} tokens too long for what is left of the context; shorten it"
        return review

    def _excess(self, text: str, lookahead: Lookahead) -> int:
        """Tokens that a human's step has too many."""
        ids = self.sampler.prompts.base.vocabulary.encode(text)
        step = Proposal(author="human", token_ids=ids, text=text, ending="blank_line", seed=0, usage=Usage())
        return -self.sampler.after(lookahead.node, step).tokens_left
