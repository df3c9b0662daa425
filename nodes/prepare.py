"""Start a run: check what is asked, write the manifest, clear what an earlier run left on the thread."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from langgraph.types import Overwrite

from specreason_graph.conversation import read_conversation
from specreason_graph.errors import ConfigError
from specreason_graph.nodes.stage import Stage
from specreason_graph.policies import Progress
from specreason_graph.records import SCHEMA_VERSION
from specreason_graph.state import State


class Prepare(Stage):
    """The first node."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Reset every channel and record what holds for the whole run."""
        self._check_schema()
        question, messages = state.get("question"), state.get("messages")
        turns = read_conversation(question, messages)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "package_version": await asyncio.to_thread(version, "specreason-graph"),  # reads files
            "question": next(turn.text for turn in reversed(turns) if turn.speaker == "user"),
            "turns": [turn.dump() for turn in turns],
            "asked_by_messages": not question,
            "config": self.config.model_dump(mode="json"),
            "engines": {"base": self.pair.base.describe().dump(), "draft": self.pair.draft.describe().dump()},
            "shares_vocabulary": self.pair.shares_vocabulary,
            "head_ids": self.prompts.check(turns),
            "judge_ids": self.prompts.base.judge_ids,
        }
        return {
            "manifest": manifest,
            "trace": Overwrite([]),
            "pending": {},
            "progress": {**asdict(Progress()), "stop_reason": None, "run": uuid4().hex},
            "result": {},
            "answer": "",
            "stop_reason": "",
            "trace_summary": {},
        }

    def _check_schema(self) -> None:
        engine = self.pair.engine(self.config.answer_by)
        if self.config.answer_schema and not engine.constrains:
            raise ConfigError(
                f"{engine.name!r} runs on an engine that cannot make an answer follow a JSON schema",
                hint="use vLLM, or with_structured_output(..., method='function_calling')",
            )
