"""Close the thinking and write the answer."""

from __future__ import annotations

from typing import Any

from specreason_graph.engines.base import Sampling
from specreason_graph.nodes.stage import Stage
from specreason_graph.records import Answer, Engine
from specreason_graph.state import State


class Finalize(Stage):
    """Writes the answer; a thinking that a budget ended is closed by force first."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Set the answer and the stop reason."""
        role = self._author(state)
        engine, prompter = self.pair.engine(role), self.prompts.prompter(role)
        prompt = self.thinking_ids(role, state) + prompter.closing_ids()
        seed = self.seed("answer", 0)
        sampling = Sampling(
            max_tokens=min(self.config.answer_tokens, engine.context - len(prompt)),
            temperature=self.config.temperature, top_p=self.config.top_p, seed=seed,
            stop_token_ids=prompter.vocabulary.special_ids | prompter.vocabulary.eos_ids,
        )  # fmt: skip
        completion = await engine.generate(prompt, sampling)
        generation = completion.generations[0]
        stopped = generation.finish == "stop_token"
        complete = stopped and generation.token_ids[-1] in prompter.vocabulary.eos_ids
        ids = generation.token_ids[:-1] if stopped else generation.token_ids
        reason = state["progress"]["stop_reason"]
        answer = Answer(
            author=role, text=prompter.vocabulary.decode(ids).strip(), token_ids=ids, forced_close=reason != "answered",
            complete=complete, seed=seed, usage=completion.usage,
        )  # fmt: skip
        return {"result": answer.dump(), "answer": answer.text, "stop_reason": reason}

    def _author(self, state: State) -> Engine:
        """Who writes the answer: the base where the one chosen has failed or has no room."""
        chosen = self.config.answer_by
        failed = chosen == "draft" and state["progress"]["draft_failed"]
        return "base" if failed or self.room(chosen, state) < 0 else chosen
