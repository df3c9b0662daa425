"""What a run is asked: a question, or the messages of a conversation, as plain turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any
from uuid import uuid4

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.prompt_values import PromptValue

from specreason_graph.engines import BUILT_IN
from specreason_graph.engines.redaction import shown
from specreason_graph.errors import QuestionError
from specreason_graph.json_values import why_not_kept
from specreason_graph.models.abacus.problems import NAMES, OBJECTS, beyond, knows, unknown_words
from specreason_graph.record.manifest import ToolCall, Turn

MEND = "take it out, or write it as a text that says it"
"""What to do about something that cannot be kept."""
KEYS = ("question", "messages")
"""Keys of an input under which something is asked."""
ASK = 'write {"question": ...} or {"messages": [...]}'
REAL_MODELS = "real models with --base MODEL --draft MODEL or open_pair(base, draft), by folder or hub name"
TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "text-plain": "text", "refusal": "refusal"}
"""Kinds of content blocks that are texts, and the field that has the text."""
THOUGHTS = ("reasoning", "thinking", "reasoning_content")
"""Fields in which blocks have what an assistant thought; what is not a text there may have one in ``text``."""
MEDIA = (
    "image", "image_url", "input_image", "image_file", "audio", "input_audio", "output_audio", "video", "video_url",
    "file", "input_file", "document", "media",
)  # fmt: skip
"""Kinds of content blocks that hold what no text says; models here read none of them."""


def read_conversation(question: object, messages: object) -> list[Turn]:
    """The turns to answer, from a question or else from messages; `QuestionError` for what cannot be answered."""
    if question:
        if not isinstance(question, str):
            raise QuestionError(f"the question is a {type(question).__name__}", hint="give a text")
        refuse_unkept(question)
        turns = [Turn(speaker="user", text=question)]
    else:
        turns = read_turns(as_messages(messages))
    _check(turns, asked=bool(messages))
    return turns


def read_turns(messages: Sequence[BaseMessage]) -> list[Turn]:
    """Messages as turns, which need not be a whole conversation; `QuestionError` for one that cannot be read."""
    turns = [_turn(index, message) for index, message in enumerate(messages)]
    # a template takes the reasoning between the calls of one turn; what was thought in earlier turns is left out
    asked = max((index for index, turn in enumerate(turns) if turn.speaker == "user"), default=0)
    return [*(turn.model_copy(update={"reasoning": ""}) for turn in turns[:asked]), *turns[asked:]]


def as_messages(given: Any) -> list[BaseMessage]:
    """Messages in any form that LangChain takes; `QuestionError` for what is none."""
    if isinstance(given, PromptValue):
        return given.to_messages()
    try:
        each = [given] if isinstance(given, str | BaseMessage | Mapping) else list(given or [])
    except TypeError:
        problem = f"the messages are a {type(given).__name__}"
        raise QuestionError(problem, hint="give a list of LangChain messages") from None
    return [_as_message(index, message) for index, message in enumerate(each)]


def _as_message(index: int, given: Any) -> BaseMessage:
    try:
        (message,) = convert_to_messages([given])
    except KeyError as error:
        problem = f"message {index} lacks {error.args[0]!r}"
        raise QuestionError(problem, hint="a tool's message names its tool_call_id, a call its name and id") from None
    # LangChain looks into messages unchecked, and raises what Python does there
    except (TypeError, ValueError, AttributeError, LookupError, NotImplementedError, RecursionError) as error:
        cause = shown(" ".join(str(error).split()) or type(error).__name__)
        raise QuestionError(f"message {index} cannot be read: {cause}", hint="give LangChain messages") from None
    return message


def with_ids(messages: Any) -> list[BaseMessage]:
    """The messages, each with an id, by which the conversation knows it when it comes again."""
    known = [_as_known(each) for each in as_messages(messages)]
    return [each if each.id else each.model_copy(update={"id": str(uuid4())}) for each in known]


def _as_known(message: BaseMessage) -> BaseMessage:
    """A message of LangChain's own class: one of a caller's own would come out of a database as something else."""
    kinds = type(message).__mro__
    own: type[BaseMessage] = next(kind for kind in kinds if kind.__module__.startswith("langchain_core.messages."))
    return message if own is kinds[0] else own(**{name: getattr(message, name) for name in own.model_fields})


def messages_of(turns: Sequence[Turn]) -> list[BaseMessage]:
    """The turns as messages, for a conversation that goes on elsewhere."""
    return [_message(turn) for turn in turns]


def _message(turn: Turn) -> BaseMessage:
    match turn.speaker:
        case "system":
            return SystemMessage(turn.text, name=turn.name)
        case "user":
            return HumanMessage(turn.text, name=turn.name)
        case "tool":
            return ToolMessage(turn.text, tool_call_id=turn.call_id or "", name=turn.name)
    thought: list[Any] = [{"type": "reasoning", "reasoning": turn.reasoning}] if turn.reasoning else []
    said: list[Any] = [{"type": "text", "text": turn.text}] if turn.text else []
    calls = [{"name": call.name, "args": call.arguments, "id": call.id} for call in turn.calls]
    return AIMessage([*thought, *said], tool_calls=calls, name=turn.name)


def asked_last(turns: Sequence[Turn]) -> str:
    """What the user said last."""
    return next(turn.text for turn in reversed(turns) if turn.speaker == "user")


def check_known(base: str, question: str, turns: Sequence[Turn] = ()) -> None:
    """`QuestionError` when the built-in models are asked what they never learnt; ``turns``: where it stands last."""
    if base not in BUILT_IN:
        return
    if not knows(question):
        words = ", ".join(dict.fromkeys(word[:20] for word in unknown_words(question)[:5]))
        raise QuestionError(
            "the built-in models only do arithmetic word problems of the kind `specreason solve --example` draws"
            f"{words and f', which have no such words as {words}'}",
            hint=f"ask of {', '.join(NAMES[:4])}, who buy and sell {', '.join(OBJECTS[:4])}, or name {REAL_MODELS}",
        )
    if number := beyond(question):
        raise QuestionError(
            f"the built-in models never learnt to calculate with {number}",
            hint=f"ask with smaller numbers, or name {REAL_MODELS}",
        )
    if any(turn.speaker == "system" for turn in turns):
        raise QuestionError(
            "the built-in models know no system message, and would answer wrongly behind one",
            hint=f"leave it out, or name {REAL_MODELS}",
        )
    if (asked := sum(turn.speaker == "user" for turn in turns)) > 1:
        raise QuestionError(
            f"the built-in models solve one problem in a conversation, and this one has {asked} messages of the user",
            hint=f"begin a new thread, or name {REAL_MODELS}",
        )


def check_asked(asked: Any) -> None:
    """`QuestionError` for an input in which there is neither a question nor messages, or that cannot be kept."""
    if not isinstance(asked, Mapping):
        raise QuestionError(f"the input is a {type(asked).__name__}", hint=ASK)
    if not asked.keys() & set(KEYS):
        meant = [(name, key) for name in asked for key in get_close_matches(str(name), KEYS, n=1)]
        given = ", ".join(map(repr, asked)) or "nothing"
        hint = f"write {meant[0][1]!r} for {meant[0][0]!r}" if meant else ASK
        raise QuestionError(f"nothing is asked: the input holds {given}", hint=hint)
    question, messages = asked.get("question"), asked.get("messages")
    refuse_unkept(question)
    for index, message in enumerate([] if question else as_messages(messages)):
        if not isinstance(message, RemoveMessage):
            _turn(index, message)


def last_question(asked: Mapping[str, Any]) -> str | None:
    """What the user says last in an input; None where nothing is new but the results of tools."""
    if question := asked.get("question"):
        return str(question)
    messages = enumerate(as_messages(asked.get("messages")))
    texts = [_text(index, each) for index, each in messages if isinstance(each, HumanMessage)]
    return texts[-1] if texts else None


def refuse_unkept(question: object) -> None:
    """`QuestionError` for a question with something in it that no record gives back as it was."""
    if problem := why_not_kept(question, "the question") if isinstance(question, str) else None:
        raise QuestionError(problem, hint=MEND)


def _refuse_unkept_in(number: int, message: BaseMessage) -> None:
    texts: dict[str, Any] = {"text": _text(number, message), "name": message.name, "id": message.id}
    if isinstance(message, AIMessage):
        texts["reasoning"] = _reasoning(message)
        for index, call in enumerate(message.tool_calls):
            texts |= {f"tool_calls[{index}].{name}": call[name] for name in ("name", "id", "args")}
    if isinstance(message, ToolMessage):
        texts["tool_call_id"] = message.tool_call_id
    if problem := next(filter(None, (why_not_kept(text, name) for name, text in texts.items())), None):
        raise QuestionError(f"message {number}: {problem}", hint=MEND)


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
            return Turn(speaker="system", text=text, name=message.name)
        case HumanMessage():
            return Turn(speaker="user", text=text, name=message.name)
        case ToolMessage():
            return Turn(speaker="tool", text=text, call_id=message.tool_call_id, name=message.name)
        case AIMessage():
            calls = [ToolCall(id=c["id"] or "", name=c["name"], arguments=c["args"]) for c in message.tool_calls]
            return Turn(speaker="assistant", text=text, calls=calls, reasoning=_reasoning(message), name=message.name)
    raise QuestionError(
        f"message {index} is a {type(message).__name__}", hint="give system, user, assistant and tool messages"
    )


def _reasoning(message: AIMessage) -> str:
    """What the assistant thought, from this package or another, where the message has it."""
    thought = "".join(map(_thought, _blocks(message))) or _thought(message.additional_kwargs)
    return thought.strip("\n") if thought.strip() else ""  # templates put line ends of their own around it


def _thought(block: Mapping[str, Any]) -> str:
    found = next((block[name] for name in THOUGHTS if block.get(name)), block)
    if isinstance(found, str):
        return found
    if not isinstance(found, Mapping):
        return ""
    if found is not block and isinstance(text := found.get("text"), str):  # Bedrock's
        return text
    summary = found.get("summary")  # OpenAI's
    parts = [part for part in summary if isinstance(part, dict)] if isinstance(summary, list) else []
    return "\n\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))


def _text(index: int, message: BaseMessage) -> str:
    """The text of a message: of an assistant's whatever is neither text nor media is passed over, else refused."""
    if isinstance(message.content, str):
        return message.content
    texts = []
    for block in message.content:
        kind = "text" if isinstance(block, str) else str(block.get("type", "text" if "text" in block else None))
        text = block if isinstance(block, str) else block.get(TEXTS.get(kind, ""))
        if kind in MEDIA or (not isinstance(message, AIMessage) and not isinstance(text, str)):
            raise QuestionError(f"message {index} holds {kind!r}, and only text can be read", hint="leave it out")
        texts.append(text if isinstance(text, str) else "")
    return "".join(texts)


def _blocks(message: BaseMessage) -> list[dict[str, Any]]:
    content = message.content if isinstance(message.content, list) else []
    return [block for block in content if isinstance(block, dict)]
