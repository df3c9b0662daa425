"""Ask a human about a proposal whose score lies in the uncertain band."""

from __future__ import annotations

from typing import Any

from langgraph.types import interrupt
from pydantic import ValidationError

from specreason_graph.nodes.stage import Stage
from specreason_graph.policies import decide_reviewed
from specreason_graph.records import Decision, Proposal, Review, Usage
from specreason_graph.state import State

ALLOWED = 'answer "accept", "reject", or {"verdict": "edit", "text": ...}; "reviewer" and "note" may go with each'


class AskHuman(Stage):
    """Interrupts the run until a human has settled the step; resumed with ``Command(resume=...)``."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Put the human's decision into ``pending``; an answer that cannot be read is asked for again."""
        pending, trace = state["pending"], state["trace"]
        asked = {
            "kind": "specreason_review",
            "index": len(trace),
            "question": state["manifest"]["question"],
            "before": trace[-1]["text"] if trace else "",
            "proposal": pending["proposal"]["text"],
            "score": pending["score"],
            "decision": pending["decision"],
            "allowed": ALLOWED,
        }
        review = interrupt(asked)
        while isinstance(found := self._read(review, state), str):
            review = interrupt({**asked, "problem": found})
        decision = decide_reviewed(Decision.load(pending["decision"]), found)
        return {"pending": {**pending, "decision": decision.dump(), "uncertain": False}}

    def _read(self, answer: Any, state: State) -> Review | str:
        """What a human said, or what is wrong with it."""
        try:
            review = Review.load({"verdict": answer} if isinstance(answer, str) else answer)
        except ValidationError as error:
            first = error.errors()[0]
            return f"{'.'.join(map(str, first['loc'])) or 'the answer'}: {first['msg']}; {ALLOWED}"
        if (review.verdict == "edit") != bool(review.text and review.text.strip()):
            return 'a text belongs to "edit", and only to it; ' + ALLOWED
        if review.text and (excess := self._excess(review.text, state)) > 0:
            return f"the text is {excess} tokens too long for what is left of the context; shorten it"
        return review

    def _excess(self, text: str, state: State) -> int:
        """Tokens that a human's step has too many."""
        ids = self.prompts.base.vocabulary.encode(text)
        step = Proposal(author="human", token_ids=ids, text=text, ending="blank_line", seed=0, usage=Usage())
        return -self.writer.after(self.window(state).at, step).room
