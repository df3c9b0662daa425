"""Start a run: check what is asked, write the manifest, clear what an earlier run left on the thread."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from specreason_graph.conversation import Turn, read_conversation
from specreason_graph.errors import ConfigError
from specreason_graph.manifest import Lineage, Manifest
from specreason_graph.nodes.stage import Stage
from specreason_graph.prompting import Prompts
from specreason_graph.records import SCHEMA_VERSION
from specreason_graph.state import State, begin
from specreason_graph.tool_calls import plan_calls

installed = cache(version)
"""The version of a package, read from its files once and not in every run."""


class Prepare(Stage):
    """The first node."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Reset every channel and record what holds for the whole run."""
        question, messages = state.get("question"), state.get("messages")
        turns = read_conversation(question, messages)
        with self.windows.beginning():
            made = await asyncio.to_thread(make_manifest, self.prompts, turns, asked_by_messages=not question)
            self._check_answer()
            guard, asked = self.windows.guard, self.config.guard and not self.config.first_steps_by_base
            verdict = guard.verdict(guard.own(), self.windows.runs) if asked else None
        return begin(made, verdict.dump() if verdict else None)

    def _check_answer(self) -> None:
        """Whether the answer can be as it is wanted: known before the thinking, not behind it."""
        engine = self.pair.engine(self.config.answer_by)
        plan_calls(engine.vocabulary, engine.name, self.config)
        if self.config.answer_schema and not engine.constrains:
            raise ConfigError(
                f"{engine.name!r} runs on an engine that cannot make an answer follow a JSON schema",
                hint="use vLLM, or with_structured_output(..., method='function_calling')",
            )


def make_manifest(
    prompts: Prompts, turns: list[Turn], *, asked_by_messages: bool, forked_from: Lineage | None = None
) -> Manifest:
    """What holds for a run that begins now; `QuestionError` unless the conversation fits both models."""
    return Manifest(
        schema_version=SCHEMA_VERSION, package_version=installed("specreason-graph"), run=uuid4().hex,
        started=datetime.now(UTC).isoformat(),
        question=next(turn.text for turn in reversed(turns) if turn.speaker == "user"), turns=turns,
        asked_by_messages=asked_by_messages, config=prompts.config, engines=prompts.pair.describe(),
        shares_vocabulary=prompts.pair.shares_vocabulary, head_ids=prompts.check(turns),
        judge_ids=prompts.base.judge_ids, digit_ids=prompts.base.digit_ids, forked_from=forked_from,
    )  # fmt: skip
