"""How many tokens of the base model's context messages take: as many as a call with them would send."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from langchain_core.messages import AIMessage, BaseMessage, SystemMessage, ToolMessage

from specreason_graph.errors import ModelError
from specreason_graph.prompting.conversation import read_turns
from specreason_graph.prompting.engine_prompts import EnginePrompts
from specreason_graph.record.manifest import Turn


@dataclass(frozen=True)
class TokenCounter:
    """Counts with the base model's own vocabulary and chat template."""

    prompts: EnginePrompts
    """The prompts of the base model."""

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, in which nothing is a control token."""
        return self.prompts.vocabulary.encode(text)

    def count(self, messages: Sequence[BaseMessage]) -> int:
        """The tokens of a prompt with these messages, up to and with the opened thinking.

        Where the template refuses them, as some do with parts of a conversation, it is slightly more than they take.
        """
        turns = _as_sent(read_turns(_in_order(messages)))
        if not turns:
            return 0
        try:
            return len(self.prompts.head_ids(turns))
        except ModelError:
            return self._estimate(turns)

    def _estimate(self, turns: Sequence[Turn]) -> int:
        """The texts, and around each as much as the template puts around those of a user and an assistant."""
        probe = [Turn(speaker=speaker, text="x") for speaker in ("user", "assistant", "user")]
        alone, together = len(self.prompts.head_ids(probe[:1])), len(self.prompts.head_ids(probe))
        said = sum(len(self.ids(text)) for turn in turns for text in _texts(turn))
        return alone + said + len(turns) * ceil((together - alone) / 2)


def _in_order(messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    """The messages from first to last: who keeps the end of a conversation, asks about it from its last one on."""
    calls = {
        call["id"]: place
        for place, each in enumerate(messages) if isinstance(each, AIMessage) for call in each.tool_calls
    }  # fmt: skip
    before_call = any(
        isinstance(each, ToolMessage) and calls.get(each.tool_call_id, -1) > place
        for place, each in enumerate(messages)
    )
    ends_with_system = len(messages) > 1 and isinstance(messages[-1], SystemMessage)
    return messages[::-1] if before_call or ends_with_system else messages


def _as_sent(turns: Sequence[Turn]) -> Sequence[Turn]:
    """The turns without a reasoning that is sent no more: behind a reply only the user can go on."""
    if turns and turns[-1].speaker == "assistant" and not turns[-1].calls:
        return [turn.model_copy(update={"reasoning": ""}) for turn in turns]
    return turns


def _texts(turn: Turn) -> list[str]:
    calls = [json.dumps({"name": call.name, "arguments": call.arguments}) for call in turn.calls]
    return [turn.text, turn.reasoning, *calls]
