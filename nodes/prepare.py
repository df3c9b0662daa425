"""Start a run: check the question, write the manifest, clear what an earlier run left on the thread."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from langgraph.types import Overwrite

from specreason_graph.nodes.stage import ROLES, Stage
from specreason_graph.policies import Progress
from specreason_graph.records import SCHEMA_VERSION
from specreason_graph.state import State


class Prepare(Stage):
    """The first node."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Reset every channel and record what holds for the whole run."""
        question = state.get("question", "")
        self.prompts.check_question(question)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "package_version": version("specreason-graph"),
            "question": question,
            "config": self.config.model_dump(mode="json"),
            "engines": {"base": self.pair.base.describe().dump(), "draft": self.pair.draft.describe().dump()},
            "shares_vocabulary": self.pair.shares_vocabulary,
            "judge_ids": self.prompts.base.judge_ids,
            "head_ids": {role: self.prompts.prompter(role).question_ids(question) for role in ROLES},
        }
        progress = {**asdict(Progress()), "stop_reason": None}
        return {
            "manifest": manifest,
            "steps": Overwrite([]),
            "pending": {},
            "progress": progress,
            "result": {},
            "answer": "",
            "stop_reason": "",
        }
