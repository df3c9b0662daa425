"""Start a run: check what is asked, write the manifest, clear what an earlier run left on the thread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from langchain_core.messages import BaseMessage

from specreason_graph.errors import ConfigError
from specreason_graph.lookahead.registry import LookaheadRegistry
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.nodes.review import refuse_exit
from specreason_graph.nodes.stage import emit
from specreason_graph.policies.handover import handover
from specreason_graph.policies.speculation import is_controlled
from specreason_graph.prompting.conversation import asked_last, check_known, read_conversation
from specreason_graph.record.events import Started
from specreason_graph.record.manifest import Lineage, Manifest, Turn
from specreason_graph.record.records import SCHEMA_VERSION
from specreason_graph.record.seal import hash_of_messages
from specreason_graph.record.state import State, begin

installed = cache(version)
"""The version of a package, read from its files once and not in every run."""


@dataclass(frozen=True)
class Prepare:
    """The first node; there is no lookahead yet that it could be given, as other stages are."""

    sampler: StepSampler
    """How the engines are asked, under the settings of the run."""
    registry: LookaheadRegistry
    """The work on all runs over the pair."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Reset every channel and record what holds for the whole run."""
        question, messages = state.get("question"), state.get("messages")
        turns = read_conversation(question, messages)
        check_known(self.sampler.pair.base.name, asked_last(turns), turns)
        config, registry = self.sampler.config, self.registry
        if config.review:
            refuse_exit()
        with registry.starting():
            # in a thread: templates and tokenizers take milliseconds, and the loop serves all runs of the pair
            made = await asyncio.to_thread(
                make_manifest, self.sampler, turns, messages=messages or (), asked_by_messages=not question
            )
            self._check_answer()
            handed = handover(config, ())
            chooses = is_controlled(config, registry.runs) and not (config.first_steps_by_base or handed)
            goodput = registry.controller.figures_for_base(registry.runs) if chooses else None
            emit(Started(thinking=made.thinking))
            return begin(made, goodput, handover=handed, at_once=self.sampler.prompts.answers_at_once)

    def _check_answer(self) -> None:
        """Whether the answer can be as it is wanted: known before the thinking, not behind it."""
        config, prompts = self.sampler.config, self.sampler.prompts
        engine = self.sampler.pair.engine(config.answer_by)
        forced = prompts.of(config.answer_by).answer_start
        if config.answer_schema and forced:
            raise ConfigError(
                f"tool_choice = {config.tool_choice!r} wants a call, and answer_schema an answer",
                hint="leave one of them out",
            )
        if config.answer_schema and not engine.supports_json_schema:
            raise ConfigError(
                f"{engine.name!r} runs on an engine that cannot make an answer follow a JSON schema",
                hint="use vLLM, or have a tool called: with_structured_output(..., method='function_calling'), "
                "response_format=ToolStrategy(...) of create_agent",
            )


def make_manifest(
    sampler: StepSampler, turns: Sequence[Turn], *, messages: Sequence[BaseMessage], asked_by_messages: bool,
    forked_from: Lineage | None = None,
) -> Manifest:  # fmt: skip
    """What holds for a run that begins now; `QuestionError` unless the conversation fits both models.

    ``messages``: those that its thread keeps.
    """
    pair, heads = sampler.pair, sampler.check(turns)
    return Manifest(
        schema_version=SCHEMA_VERSION, package_version=installed("specreason-graph"), run=uuid4().hex,
        started=datetime.now(UTC).isoformat(),
        question=asked_last(turns), turns=list(turns),
        asked_by_messages=asked_by_messages, config=sampler.config, shares_vocabulary=pair.shares_vocabulary,
        head_ids=heads, forked_from=forked_from, conversation=hash_of_messages(messages), **dict(sampler.setup),
    )  # fmt: skip
