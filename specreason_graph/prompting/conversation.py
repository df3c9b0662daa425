"""What a run is asked: a question, or the messages of a conversation, as plain turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)

from specreason_graph.engines import BUILT_IN
from specreason_graph.errors import QuestionError
from specreason_graph.json_values import why_not_kept
from specreason_graph.models.abacus.problems import knows
from specreason_graph.record.manifest import ToolCall, Turn

MEND = "take it out, or write it as a text that says it"
"""What to do about something that cannot be kept."""
KEYS = ("question", "messages")
"""Keys of an input under which something is asked."""
ASK = 'write {"question": ...} or {"messages": [...]}'
TEXTS = ("text", "reasoning", "thinking", "tool_call", "tool_use", "function_call", "refusal")
"""Kinds of content blocks that are let through; only ``text`` ones are shown to the models."""


def read_conversation(question: object, messages: object) -> list[Turn]:
    """The turns to answer, from a question or else from messages; `QuestionError` for what cannot be answered."""
    if question:
        if not isinstance(question, str):
            raise QuestionError(f"the question is a {type(question).__name__}", hint="give a text")
        refuse_unkept({"question": question})
        turns = [Turn(speaker="user", text=question)]
    else:
        turns = [_turn(index, message) for index, message in enumerate(_messages(messages))]
    _check(turns, asked=bool(messages))
    # a template takes the reasoning between the calls of one turn; what was thought in earlier turns is left out
    asked = max(index for index, turn in enumerate(turns) if turn.speaker == "user")
    return [*(turn.model_copy(update={"reasoning": ""}) for turn in turns[:asked]), *turns[asked:]]


def asked_last(turns: Sequence[Turn]) -> str:
    """What the user said last."""
    return next(turn.text for turn in reversed(turns) if turn.speaker == "user")


def check_known(base: str, question: str) -> None:
    """`QuestionError` when the built-in models are asked what they never learnt."""
    if base in BUILT_IN and not knows(question):
        raise QuestionError(
            "the built-in models only do arithmetic word problems of the kind `specreason solve --example` draws",
            hint="name real models with --base MODEL --draft MODEL or open_pair(base, draft), by folder or hub name",
        )


def check_asked(asked: Any) -> None:
    """`QuestionError` for an input in which there is neither a question nor messages, whatever they hold."""
    if not isinstance(asked, Mapping):
        raise QuestionError(f"the input is a {type(asked).__name__}", hint=ASK)
    if not asked.keys() & set(KEYS):
        meant = [(name, key) for name in asked for key in get_close_matches(str(name), KEYS, n=1)]
        given = ", ".join(map(repr, asked)) or "nothing"
        hint = f"write {meant[0][1]!r} for {meant[0][0]!r}" if meant else ASK
        raise QuestionError(f"nothing is asked: the input holds {given}", hint=hint)


def refuse_unkept(asked: Mapping[str, Any]) -> None:
    """`QuestionError` for a question or messages with something in them that no record gives back as it was."""
    question, messages = asked.get("question"), asked.get("messages")
    if problem := why_not_kept(question, "the question") if isinstance(question, str) else None:
        raise QuestionError(problem, hint=MEND)
    for index, message in enumerate([] if question else _messages(messages)):
        _refuse_unkept_in(index, message)


def _refuse_unkept_in(number: int, message: BaseMessage) -> None:
    texts: dict[str, Any] = {"text": str(message.text), "name": message.name, "id": message.id}
    if isinstance(message, AIMessage):
        texts["reasoning"] = _reasoning(message)
        for index, call in enumerate(message.tool_calls):
            texts |= {f"tool_calls[{index}].{name}": call[name] for name in ("name", "id", "args")}
    if isinstance(message, ToolMessage):
        texts["tool_call_id"] = message.tool_call_id
    if problem := next(filter(None, (why_not_kept(text, name) for name, text in texts.items())), None):
        raise QuestionError(f"message {number}: {problem}", hint=MEND)


def _messages(messages: Any) -> list[BaseMessage]:
    try:
        return convert_to_messages([messages] if isinstance(messages, str | BaseMessage) else messages or [])
    except (TypeError, ValueError, NotImplementedError) as error:
        raise QuestionError(f"the messages cannot be read: {error}", hint="give LangChain messages") from None


def _check(turns: Sequence[Turn], *, asked: bool) -> None:
    if not turns and asked:
        raise QuestionError("there are no messages", hint="give at least one user message")
    if not any(turn.text.strip() for turn in turns if turn.speaker == "user"):
        if any(turn.speaker == "system" for turn in turns):
            raise QuestionError("there is a system message and no user message", hint="add a user message")
        raise QuestionError("the question is empty", hint="ask something")
    if turns[-1].speaker not in ("user", "tool"):
        raise QuestionError(f"the last message is the {turns[-1].speaker}'s", hint="end with a user or tool message")


def _turn(index: int, message: BaseMessage) -> Turn:
    text = _text(index, message)
    _refuse_unkept_in(index, message)
    match message:
        case SystemMessage():
            return Turn(speaker="system", text=text)
        case HumanMessage():
            return Turn(speaker="user", text=text)
        case ToolMessage():
            return Turn(speaker="tool", text=text, call_id=message.tool_call_id, name=message.name)
        case AIMessage():
            calls = [ToolCall(id=c["id"] or "", name=c["name"], arguments=c["args"]) for c in message.tool_calls]
            return Turn(speaker="assistant", text=text, calls=calls, reasoning=_reasoning(message))
    raise QuestionError(
        f"message {index} is a {type(message).__name__}", hint="give system, user, assistant and tool messages"
    )


def _reasoning(message: AIMessage) -> str:
    """What the assistant thought, from this package or another, where the message has it."""
    blocks = (
        [block for block in message.content if isinstance(block, dict)] if isinstance(message.content, list) else []
    )
    texts = [str(block.get("reasoning") or block.get("thinking") or "") for block in blocks]
    thought = "".join(texts) or str(message.additional_kwargs.get("reasoning_content") or "")
    return thought.strip("\n") if thought.strip() else ""  # templates put line ends of their own around it


def _text(index: int, message: BaseMessage) -> str:
    """The text of a message; other kinds of content are refused."""
    for block in message.content if isinstance(message.content, list) else ():
        kind = "text" if isinstance(block, str) else str(block.get("type"))
        if kind not in TEXTS:
            raise QuestionError(f"message {index} holds {kind!r}, and only text can be read", hint="leave it out")
    return str(message.text)
