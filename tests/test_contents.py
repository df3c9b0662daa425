"""What is put in comes out: contents are kept with their white space, and what no record keeps is refused or text."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.base import BaseMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command
from pydantic import ValidationError

from specreason_graph import ChatSpecReason, EnginePair, create_specreason
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.fork import fork, plan_fork
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.cli.options import read_question
from specreason_graph.config import make_config
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import ConfigError, QuestionError, ThreadError
from specreason_graph.record.events import AnswerToken, read_event
from specreason_graph.record.records import Review
from tests.support.reviewed import BAND
from tests.support.reviewed import pair as doubtful
from tests.support.scripts import CLOSE, done, is_closed

THREAD: Any = {"configurable": {"thread_id": "t"}}
HALF = "\ud83d"
SPACED = "        x = 1\n    y = 2\n\n"
PARAMETERS = {"type": "object", "properties": {"place": {"type": "string"}, "x": {}}}
LOOK: Any = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": PARAMETERS}}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def pair_of(answer: str) -> EnginePair:
    """A pair that thinks one step, and then answers."""

    def think(prompt: str) -> str:
        return CLOSE if done(prompt) else "A step of it.\n\n"

    return EnginePair(FakeEngine(think), FakeEngine(lambda prompt: answer if is_closed(prompt) else CLOSE, lambda _: 9))


def runs_of(saver: Any, thread: str = "t") -> list[RecordedRun]:
    """The runs of a thread, all of which are sound; none where no manifest exists."""
    try:
        runs = read_runs(saver, thread)
    except ThreadError:
        return []
    for run in runs:
        assert verify(run).ok, verify(run)
        assert not recompute(run).differences
    return runs


def answered(asked: Any, answer: str = "It is 3.", **settings: Any) -> tuple[Any, RecordedRun, list[str]]:
    """The outcome, the run as it is kept in a file, and the pieces of the answer that were streamed."""
    with pair_of(answer) as pair, SqliteSaver.from_conn_string(":memory:") as saver:
        graph = create_specreason(pair, **settings).compile(checkpointer=saver)
        parts = graph.stream(asked, THREAD, stream_mode="custom")
        events = [event for part in parts if (event := read_event(part))]
        (run,) = runs_of(saver)
        outcome = graph.get_state(THREAD).values
    return outcome, run, [event.text for event in events if isinstance(event, AnswerToken)]


# -- white space ------------------------------------------------------------------------------------------------------


def test_contents_are_kept_with_their_white_space_and_shown_so() -> None:
    call: Any = {"name": "look", "args": {"place": SPACED}, "id": "1", "type": "tool_call"}
    messages: list[BaseMessage] = [
        SystemMessage(f"system{SPACED}"), HumanMessage(SPACED), AIMessage(f"{SPACED}said ", tool_calls=[call]),
        ToolMessage(SPACED, tool_call_id="1", name="look"), HumanMessage(f"\n{SPACED}"),
    ]  # fmt: skip
    _, run, _ = answered({"messages": messages}, tools=[LOOK])
    turns = run.typed_manifest.turns
    assert [turn.text for turn in turns] == [message.text for message in messages]
    assert turns[2].calls[0].arguments == {"place": SPACED}
    assert run.question == f"\n{SPACED}"
    with pair_of("") as pair:
        shown = pair.base.vocabulary.decode(run.typed_manifest.head_ids["base"])
    assert f"<|user|>{SPACED}<|end|>" in shown
    assert f"<tool_response>\n{SPACED}\n</tool_response>" in shown
    assert f"<|user|>\n{SPACED}<|end|>" in shown


def test_a_question_is_kept_as_it_is() -> None:
    _, run, _ = answered({"question": f"  What?{SPACED}"})
    assert (run.question, run.typed_manifest.turns[0].text) == (f"  What?{SPACED}", f"  What?{SPACED}")


@pytest.mark.parametrize("empty", ["", " ", "\n\t\n"])
def test_white_space_alone_is_no_question(empty: str) -> None:
    for asked in ({"question": empty}, {"messages": [HumanMessage(empty)]}):
        with pytest.raises(QuestionError, match="the question is empty"):
            answered(asked)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("    x = 1\n    y = 2", "    x = 1\n    y = 2"),
        ("\n\n    x = 1\n\n\n    y = 2", "    x = 1\n\n\n    y = 2"),
        (" \n \n\tx", "\tx"),
        ("It is 3.\n\n", "It is 3."),
        ("\n\n", ""),
    ],
)
def test_an_answer_keeps_its_indentation_and_is_streamed_as_it_is(written: str, told: str) -> None:
    outcome, run, pieces = answered({"messages": [HumanMessage("What?")]}, written)
    assert (outcome["answer"], run.answer and run.answer.text, "".join(pieces)) == (told, told, told)
    assert outcome["messages"][-1].text == told
    with pair_of(written) as pair:
        chat = ChatSpecReason(pair)
        assert chat.invoke("What?").text == told
        assert "".join(chunk.text for chunk in chat.stream("What?")) == told


def test_a_plain_reply_keeps_its_indentation() -> None:
    def write(prompt: str) -> str:
        return "\tend" if "x = 1" in prompt else "    x = 1\n\n"

    with EnginePair(FakeEngine(write), FakeEngine(write, lambda _: 9)) as pair:
        graph = create_specreason(pair, thinking="none", template={"base": {}, "draft": {}}).compile()
        parts = list(graph.stream({"question": "What?"}, stream_mode=["custom", "values"]))
    events = [event for mode, part in parts if mode == "custom" and (event := read_event(part))]
    assert parts[-1][1]["answer"] == "    x = 1\n\n\tend"
    assert "".join(event.text for event in events if isinstance(event, AnswerToken)) == "    x = 1\n\n\tend"


def test_white_space_around_a_call_is_the_calls_and_all_else_is_text() -> None:
    written = (
        '  I look:\n\n    now\n\n<tool_call>\n{"name": "look", "arguments": {"place": "  Rome\\n"}}\n</tool_call>\n'
    )
    outcome, run, pieces = answered({"messages": [HumanMessage("Where?")]}, written, tools=[LOOK])
    assert outcome["answer"] == "".join(pieces) == "  I look:\n\n    now"
    assert run.answer
    assert run.answer.tool_calls[0]["args"] == {"place": "  Rome\n"}


@pytest.mark.parametrize("text", [SPACED, "  - a point", "\tone\n\ttwo  \n"])
def test_a_humans_step_keeps_its_indentation(text: str) -> None:
    saver = InMemorySaver()
    with doubtful() as pair:
        graph = create_specreason(pair, review=BAND).compile(checkpointer=saver)
        graph.invoke({"question": "What?"}, THREAD)
        graph.invoke(Command(resume={"verdict": "edit", "text": text}), THREAD)
        (run,) = runs_of(saver)
        assert run.steps[1].text == text.rstrip("\n") + "\n\n"
        assert pair.base.vocabulary.decode(run.steps[1].token_ids) == run.steps[1].text
        plain = create_specreason(pair).compile(checkpointer=saver)
        channels = plan_fork(run, pair, at=1, edit=Review(verdict="edit", text=text), review=None)
        plain.invoke(None, fork(plain, "f", channels))
        (forked,) = runs_of(saver, "f")
    assert forked.steps[0].text == text.rstrip("\n") + "\n\n"


def test_a_question_from_a_file_or_standard_input_loses_one_line_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "question.txt"
    file.write_text("  What?\n\n", encoding="utf-8")
    assert read_question(None, file) == "  What?\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("  What?\n"))
    assert read_question(None, None) == "  What?"
    assert read_question(" What?\n", None) == " What?\n"


# -- what JSON allows, and no record keeps ----------------------------------------------------------------------------

NASTY = {
    "an integer of 65 bits": ("18446744073709551616", "integer beyond 64 bits"),
    "a long integer": ("-" + "9" * 400, "integer beyond 64 bits"),
    "half a pair": (f'"{HALF.encode("unicode_escape").decode()}"', "half of a surrogate pair"),
    "half a pair as a key": ('{"\\udfff": 1}', "half of a surrogate pair"),
    "not a number": ("NaN", "nan, which is no number"),
    "infinity": ("[-Infinity]", "-inf, which is no number"),
    "a large exponent": ("1e999", "inf, which is no number"),
    "deep": ('{"a":' * 200 + "1" + "}" * 200, "nested deeper than 100 levels"),
    "deeper": ("[" * 5000 + "]" * 5000, ""),
}
KEPT: dict[str, Any] = {
    "the largest": 2**64 - 1, "the smallest": -(2**63), "beyond a double": 2**53 + 1, "minus zero": -0.0,
    "a small float": 5e-324, "a whole float": 1e22,
    "a pair": "\U0001f600", "controls": "\x00\x1b[2J\u2028", "null": None,
    "an odd key": {"": 1, "a b": [], "$": {}}, "as deep as may be": nested(99), "long": "x" * 20_000,
}  # fmt: skip


def called(value: str) -> str:
    return f'<tool_call>\n{{"name": "look", "arguments": {{"x": {value}}}}}\n</tool_call>'


@pytest.mark.parametrize("name", NASTY)
def test_a_call_that_cannot_be_kept_is_invalid_and_says_why(name: str) -> None:
    value, why = NASTY[name]
    outcome, run, _ = answered(
        {"messages": [HumanMessage("Where?")]}, called(value), tools=[LOOK], answer_tokens=50_000
    )
    assert run.answer
    assert run.answer.tool_calls == []
    (invalid,) = run.answer.invalid_tool_calls
    assert why in invalid["error"]
    assert value in invalid["args"]
    assert outcome["messages"][-1].invalid_tool_calls == run.answer.invalid_tool_calls
    with pair_of(called(value)) as pair:
        chat = ChatSpecReason(pair, tools=[LOOK], answer_tokens=50_000)
        for message in (chat.invoke("Where?"), sum_of(chat.stream("Where?"))):
            assert (message.tool_calls, len(message.invalid_tool_calls)) == ([], 1)


def sum_of(chunks: Any) -> Any:
    first, *rest = chunks
    for chunk in rest:
        first += chunk
    return first


@pytest.mark.parametrize("name", KEPT)
def test_a_call_that_can_be_kept_is_kept_as_it_is(name: str) -> None:
    arguments = {"x": KEPT[name]}
    written = f'<tool_call>\n{{"name": "look", "arguments": {json.dumps(arguments)}}}\n</tool_call>'
    outcome, run, _ = answered({"messages": [HumanMessage("Where?")]}, written, tools=[LOOK], answer_tokens=50_000)
    assert run.answer
    (call,) = run.answer.tool_calls
    assert json.dumps(call["args"]) == json.dumps(arguments)
    reply = outcome["messages"][-1]
    result = ToolMessage("There.", tool_call_id=call["id"], name="look")
    _, again, _ = answered({"messages": [HumanMessage("Where?"), reply, result]}, tools=[LOOK])
    assert json.dumps(again.typed_manifest.turns[1].calls[0].arguments) == json.dumps(arguments)


def test_an_unknown_tools_arguments_are_kept_as_text() -> None:
    written = '<tool_call>\n{"name": "jump", "arguments": {"x": "\\ud83d"}}\n</tool_call>'
    _, run, _ = answered({"question": "Where?"}, written, tools=[LOOK])
    assert run.answer
    (invalid,) = run.answer.invalid_tool_calls
    assert "\\ud83d" in invalid["args"]


BAD: dict[str, tuple[Any, str]] = {
    "an integer of 65 bits": (2**64, "integer beyond 64 bits"),
    "half a pair": (HALF, "half of a surrogate pair"),
    "a key": ({HALF: 1}, "half of a surrogate pair"),
    "not a number": (float("nan"), "no number in JSON"),
    "infinity": ([float("inf")], "no number in JSON"),
    "deep": (nested(5000), "nested deeper"),
    "bytes": (b"x", "no JSON value"),
    "an integer as a key": ({1: 2}, "has the key 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_earlier_calls_and_settings_that_cannot_be_kept_are_refused_by_name(name: str) -> None:
    value, why = BAD[name]
    call: Any = {"name": "look", "args": {"x": value}, "id": "1", "type": "tool_call"}
    messages: Any = [HumanMessage("Where?"), AIMessage("", tool_calls=[call]), ToolMessage("x", tool_call_id="1")]
    saver = InMemorySaver()
    with pair_of("It is 3.") as pair:
        graph = create_specreason(pair, tools=[LOOK]).compile(checkpointer=saver)
        with pytest.raises(QuestionError, match=r"message 1: .*tool_calls\[0\]\.args\.x.*" + why):
            graph.invoke({"messages": messages}, THREAD)
        with pytest.raises(QuestionError, match=why):
            ChatSpecReason(pair, tools=[LOOK]).invoke(messages)
        function = {**LOOK["function"], "parameters": {"type": "object", "properties": {"x": {"enum": [value]}}}}
        for setting in (
            {"tools": [{**LOOK, "function": function}]}, {"template": {"base": {"x": value}}},
            {"answer_schema": {"x": value}},
        ):  # fmt: skip
            (place,) = setting
            with pytest.raises(ConfigError, match=f"{place}.*{why}"):
                create_specreason(pair, **setting)
            with pytest.raises(ConfigError, match=why):
                graph.invoke({"question": "What?"}, {"configurable": {"thread_id": "t", "specreason": setting}})
            with pytest.raises(ConfigError, match=why):
                ChatSpecReason(pair).invoke("What?", **setting)
    assert runs_of(saver) == []


TEXTS: list[Any] = [
    {"question": f"What{HALF}?"}, {"messages": [SystemMessage(HALF), HumanMessage("What?")]},
    {"messages": [HumanMessage(f"What{HALF}?")]}, {"messages": [HumanMessage("What?", name=HALF)]},
    {"messages": [HumanMessage("What?"), AIMessage(HALF), HumanMessage("And?")]},
    {"messages": [HumanMessage("What?"), AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "1"}]),
                  ToolMessage(HALF, tool_call_id="1")]},
    {"messages": [{"role": "user", "content": HALF}]},
]  # fmt: skip


@pytest.mark.parametrize("asked", TEXTS, ids=range(len(TEXTS)))
async def test_half_a_character_is_refused_at_every_door_before_anything_is_kept(asked: Any) -> None:
    saver = InMemorySaver()
    with pair_of("It is 3.") as pair:
        graph = create_specreason(pair, tools=[LOOK]).compile(checkpointer=saver)
        with pytest.raises(QuestionError, match=r"'\\ud83d', half of a surrogate pair"):
            graph.invoke(asked, THREAD)
        with pytest.raises(QuestionError, match="half of a surrogate pair"):
            await graph.ainvoke(asked, THREAD)
        assert list(saver.list(None)) == []
        if "messages" in asked:
            with pytest.raises(QuestionError, match="half of a surrogate pair"):
                ChatSpecReason(pair, tools=[LOOK]).invoke(asked["messages"])
        else:
            with pytest.raises((QuestionError, ValidationError), match=r"surrogate|unicode"):
                graph.as_tool().invoke(asked)


@pytest.mark.parametrize("name", ["think_open", "tool_choice"])
def test_half_a_character_in_a_setting_is_refused(name: str) -> None:
    with pair_of("It is 3.") as pair, pytest.raises(ConfigError, match=f"{name} holds"):
        create_specreason(pair, config=make_config(**{name: HALF}))
    with pair_of("It is 3.") as pair, pytest.raises(ConfigError, match=r"stop\[1\] holds"):
        ChatSpecReason(pair).invoke("What?", stop=["x", HALF])


@pytest.mark.parametrize("field", ["text", "note", "reviewer"])
def test_half_a_character_in_a_review_is_asked_for_again(field: str, tmp_path: Path) -> None:
    with doubtful() as pair, SqliteSaver.from_conn_string(str(tmp_path / "runs.sqlite")) as saver:
        graph = create_specreason(pair, review=BAND).compile(checkpointer=saver)
        graph.invoke({"question": "What?"}, THREAD)
        answer: Any = Command(resume={"verdict": "edit", "text": "Mine.", field: f"Mine{HALF}."})
        (again,) = graph.invoke(answer, THREAD)["__interrupt__"]
        assert "half of a surrogate pair" in again.value["problem"]
        with SqliteSaver.from_conn_string(str(tmp_path / "runs.sqlite")) as other:  # as another process would
            graph = create_specreason(pair, review=BAND).compile(checkpointer=other)
            graph.invoke(Command(resume={"verdict": "edit", "text": "Yours."}), THREAD)
            (run,) = runs_of(other)
        assert run.steps[1].text == "Yours.\n\n"
        assert run.steps[1].decision.review == Review(verdict="edit", text="Yours.")
        with pytest.raises(ThreadError, match="half of a surrogate pair"):
            plan_fork(run, pair, at=1, edit=Review(**{"verdict": "edit", "text": "x", field: HALF}))


def test_batches_and_the_command_line_refuse_in_one_line(here: Any, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    deep = '{"question": "Zoe has 2 pens.", "settings": ' + "[" * 5000 + "]" * 5000 + "}"
    lines = [
        '{"question": "What\\ud83d?"}',
        deep,
        '{"question": "Zoe has 2 pens.", "settings": {"deadline_seconds": 1e999}}',
    ]
    for line, why in zip(lines, ("is not allowed", "nested too deep", "no number in JSON"), strict=True):
        file.write_text(f"{line}\n", encoding="utf-8")
        done = here("solve", "-f", str(file))
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert why in done.stderr
    for arguments in (("solve", f"What{HALF}?"), ("solve", "What?", "--set", f"think_open={HALF}")):
        done = here(*arguments)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "is not UTF-8 text" in done.stderr


def test_bytes_that_are_no_text_as_an_argument_are_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "specreason_graph", "solve", b"What\xff?"], capture_output=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: the argument")
    assert done.stderr.count(b"\n") == 1
