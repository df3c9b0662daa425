"""Start a run: check what is asked, write the manifest, clear what an earlier run left on the thread."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from specreason_graph.conversation import read_conversation
from specreason_graph.errors import ConfigError
from specreason_graph.manifest import Manifest
from specreason_graph.nodes.stage import Stage
from specreason_graph.records import SCHEMA_VERSION
from specreason_graph.state import State, begin


class Prepare(Stage):
    """The first node."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Reset every channel and record what holds for the whole run."""
        self._check_schema()
        question, messages = state.get("question"), state.get("messages")
        turns = read_conversation(question, messages)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            package_version=await asyncio.to_thread(version, "specreason-graph"),  # reads files
            run=uuid4().hex,
            started=datetime.now(UTC).isoformat(),
            question=next(turn.text for turn in reversed(turns) if turn.speaker == "user"),
            turns=turns,
            asked_by_messages=not question,
            config=self.config,
            engines=self.pair.describe(),
            shares_vocabulary=self.pair.shares_vocabulary,
            head_ids=self.prompts.check(turns),
            judge_ids=self.prompts.base.judge_ids,
            digit_ids=self.prompts.base.digit_ids,
        )
        return begin(manifest)

    def _check_schema(self) -> None:
        engine = self.pair.engine(self.config.answer_by)
        if self.config.answer_schema and not engine.constrains:
            raise ConfigError(
                f"{engine.name!r} runs on an engine that cannot make an answer follow a JSON schema",
                hint="use vLLM, or with_structured_output(..., method='function_calling')",
            )
