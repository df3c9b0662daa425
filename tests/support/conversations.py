"""Twenty conversations, as LangChain has them and as a chat template takes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

PLACE = {"type": "string", "description": "A place."}
LOOK: Any = {
    "type": "function",
    "function": {
        "name": "look", "description": "Looks something up.",
        "parameters": {"type": "object", "properties": {"place": PLACE}, "required": ["place"]},
    },
}  # fmt: skip
CODE = "def f(x):\n    return x * 2\n\nprint(f(21))"


@dataclass(frozen=True)
class Conversation:
    """What is said, twice."""

    messages: list[BaseMessage]
    """As LangChain has it."""
    rendered: list[dict[str, Any]]
    """As a chat template takes it."""
    tools: list[Any] = field(default_factory=list)
    """Tools that the assistant has."""


def _system(text: str) -> tuple[BaseMessage, dict[str, Any]]:
    return SystemMessage(text), {"role": "system", "content": text}


def _user(text: str, **more: Any) -> tuple[BaseMessage, dict[str, Any]]:
    return HumanMessage(text, **more), {"role": "user", "content": text, **more}


def _blocks(*texts: str) -> tuple[BaseMessage, dict[str, Any]]:
    return HumanMessage([{"type": "text", "text": text} for text in texts]), {"role": "user", "content": "".join(texts)}


def _said(text: str, *blocks: Any) -> tuple[BaseMessage, dict[str, Any]]:
    return AIMessage([*blocks, {"type": "text", "text": text}]), {"role": "assistant", "content": text}


def _calls(*places: str, text: str = "") -> tuple[BaseMessage, dict[str, Any]]:
    given = [("look", {"place": place}, f"abcdefgh{index}") for index, place in enumerate(places)]
    calls: Any = [{"name": name, "args": args, "id": call} for name, args, call in given]
    shown = [
        {"id": call, "type": "function", "function": {"name": name, "arguments": args}} for name, args, call in given
    ]
    return AIMessage(text, tool_calls=calls), {"role": "assistant", "content": text, "tool_calls": shown}


def _result(text: str, index: int = 0) -> tuple[BaseMessage, dict[str, Any]]:
    call = f"abcdefgh{index}"
    shown = {"role": "tool", "content": text, "tool_call_id": call, "name": "look"}
    return ToolMessage(text, tool_call_id=call, name="look"), shown


THOUGHT = {"type": "reasoning", "reasoning": "A thought of an earlier turn, which no prompt has.\n\n"}
FOREIGN = (
    {"type": "redacted_thinking", "data": "gAAAA"},
    {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    {"type": "non_standard", "value": {"type": "what"}},
)
_ALL: list[tuple[list[tuple[BaseMessage, dict[str, Any]]], list[Any]]] = [
    ([_user("Hi.")], []),
    ([_user("What is 17 times 23?")], []),
    ([_user("Grüße! 你好 \N{WAVING HAND SIGN} — naïve?")], []),
    ([_user(CODE)], []),
    ([_user("word " * 500 + "end")], []),
    ([_user("1 2 3\t4\n5\n\n6")], []),
    ([_system("Be brief."), _user("Why?")], []),
    ([_system(CODE), _user(CODE)], []),
    ([_user("One?"), _said("Two."), _user("Three?")], []),
    ([_system("Be brief."), _user("One?"), _said("Two."), _user("Three?"), _said("Four."), _user("Five?")], []),
    ([_user("One?"), _said("Two.", THOUGHT), _user("Three?")], []),
    ([_user("One?"), _said("Two.", *FOREIGN), _user("Three?")], []),
    ([_blocks("One", " and two?")], []),
    ([each for turn in range(10) for each in (_user(f"Q{turn}?"), _said(f"A{turn}."))] + [_user("So?")], []),
    ([_user("Where?")], [LOOK]),
    ([_system("Be brief."), _user("Where?")], [LOOK]),
    ([_user("Where?"), _calls("Rome"), _result("It rains.")], [LOOK]),
    ([_user("Where?"), _calls("Rome"), _result("It rains."), _said("In Rome."), _user("And now?")], [LOOK]),
    ([_user("Where?"), _calls("Rome", "Oslo"), _result("It rains."), _result("It snows.", 1)], [LOOK]),
    ([_user("Where?"), _calls("Rome", text="I look."), _result('{"rain": true}')], [LOOK]),
]  # fmt: skip
CONVERSATIONS = [
    Conversation([message for message, _ in turns], [shown for _, shown in turns], tools) for turns, tools in _ALL
]
"""The conversations; the last six have tools."""
