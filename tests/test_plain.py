"""Models that do not think: the reply itself is the trace, and its paragraphs are the steps."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver

from specreason_graph import ChatSpecReason, EnginePair, create_specreason
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.rerun import rerun
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.show.report import render_run
from specreason_graph.engines.fake import ByteVocabulary, FakeEngine
from specreason_graph.errors import EngineError, ModelError
from specreason_graph.record.records import Step
from tests.support.pages import Page

HEAD = "<|user|>What is it?<|end|><|assistant|>"
WHOLE = "First, six sevens.\n\nTo be sure, I add them up.\n\nIt is 42."
LOOK: Any = {"type": "function", "function": {"name": "look", "parameters": {"properties": {"at": {"type": "string"}}}}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "x"}}\n</tool_call>'


class Plain(ByteVocabulary):
    """A chat template that knows of no thinking."""

    def render(self, messages: Any, tools: Any = (), **_: Any) -> str:
        kept = [{**message, "content": (message["content"] or "").replace("</think>", "\0")} for message in messages]
        return super().render(kept, tools).removesuffix("<think>\n").replace("\0", "</think>")


def pair_of(drafts: list[str], bases: list[str], scores: list[int]) -> EnginePair:
    draft = FakeEngine(drafts, name="draft", vocabulary=Plain())
    return EnginePair(draft, FakeEngine(bases, scores, name="base", vocabulary=Plain()))


def run_of(pair: EnginePair, **settings: Any) -> tuple[dict[str, Any], RecordedRun]:
    saver = InMemorySaver()
    graph = create_specreason(pair, **settings).compile(checkpointer=saver)
    outcome = graph.invoke({"question": "What is it?"}, {"configurable": {"thread_id": "t"}})
    (run,) = read_runs(saver, "t")
    return outcome, run


def sound(run: RecordedRun) -> bool:
    return verify(run).ok and recompute(run).ok


def test_the_reply_is_the_trace() -> None:
    with pair_of(
        ["First, six sevens.\n\n", "It may be 43.\n\n", "It is 42."], ["To be sure, I add them up.\n\n"], [9, 2, 9]
    ) as pair:
        outcome, run = run_of(pair)
        asked = [pair.draft.vocabulary.decode(call.prompt_ids) for call in pair.draft.calls]  # type: ignore[attr-defined]
        written = [call.kind for call in pair.base.calls]  # type: ignore[attr-defined]
    assert (outcome["answer"], outcome["stop_reason"]) == (WHOLE, "answered")
    assert [(step.author, step.text, step.ending) for step in run.steps] == [
        ("draft", "First, six sevens.\n\n", "blank_line"), ("base", "To be sure, I add them up.\n\n", "blank_line"),
        ("draft", "It is 42.", "end_of_sequence"),
    ]  # fmt: skip
    assert asked[0] == HEAD
    assert asked[2] == HEAD + "First, six sevens.\n\nTo be sure, I add them up.\n\n"
    assert written == ["next_token", "next_token", "generate", "next_token"]  # no answer behind it
    assert run.answer
    assert (run.answer.complete, run.answer.token_ids, run.answer.usage.calls) == (True, [], 0)
    assert run.typed_manifest.thinking["base"].kind == "none"
    assert sound(run)
    words = Page(render_run(run, verify(run))).words
    assert "Verified." in words
    assert all(step.text.strip() in words for step in run.steps)


def test_a_reply_is_run_again_and_audited() -> None:
    def write(prompt: str) -> str:
        return ["One is here.\n\n", "Two is here.\n\n", "It is 3."][prompt.partition("<|assistant|>")[2].count("\n\n")]

    engines = [FakeEngine(write, lambda _: 8, name=name, vocabulary=Plain()) for name in ("draft", "base")]
    with EnginePair(*engines) as pair:
        outcome, run = run_of(pair)
        again = rerun(run, pair)
    assert outcome["answer"] == "One is here.\n\nTwo is here.\n\nIt is 3."
    assert (again.ok, again.steps) == (True, 3)


def test_a_chat_model_gives_the_reply_as_its_content() -> None:
    with pair_of(["First, six sevens.\n\n", "It is 42."] * 2, [], [9] * 4) as pair:
        chat = ChatSpecReason(pair)
        message = chat.invoke("What is it?")
        chunks = list(chat.stream("What is it?"))
    assert message.content == [{"type": "text", "text": "First, six sevens.\n\nIt is 42.", "index": 0}]
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.usage_metadata
    assert message.usage_metadata["output_token_details"] == {"reasoning": 0}
    assert message.usage_metadata["output_tokens"] == len("First, six sevens.\n\nIt is 42.")
    texts = [chunk.text for chunk in chunks if chunk.text]
    assert texts == ["First, six sevens.", "\n\nIt is 42."]
    assert not any(block["type"] == "reasoning" for chunk in chunks for block in chunk.content_blocks)


@pytest.mark.parametrize(
    ("settings", "text", "finish"),
    [
        ({"max_tokens": 12}, "First, six s", "length"), ({"max_tokens": 25}, "First, six sevens.\n\nIt is", "length"),
        ({"stop": ["sevens"]}, "First, six", "stop"), ({"stop": ["is 4"]}, "First, six sevens.\n\nIt", "stop"),
        ({"stop": ["sevens", "six"]}, "First,", "stop"),
    ],
)  # fmt: skip
def test_limits_and_stops_end_the_reply(settings: Any, text: str, finish: str) -> None:
    with pair_of(["First, six sevens.\n\n", "It is 42."], [], [9] * 4) as pair:
        message = ChatSpecReason(pair).invoke("What is it?", **settings)
        streamed = "".join(chunk.text for chunk in ChatSpecReason(pair_of(
            ["First, six sevens.\n\n", "It is 42."], [], [9] * 4)).stream("What is it?", **settings))  # fmt: skip
    assert (message.text, message.response_metadata["finish_reason"]) == (text, finish)
    assert streamed == text


def test_calls_at_the_end_of_a_reply_are_read_and_not_streamed() -> None:
    drafts = ["I will look it up.\n\n", CALL]
    with pair_of(drafts * 2, [], [9] * 4) as pair:
        chat = ChatSpecReason(pair).bind_tools([LOOK])
        message = chat.invoke("What is it?")
        texts = "".join(chunk.text for chunk in chat.stream("What is it?"))
    assert (message.text, texts) == ("I will look it up.", "I will look it up.")
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("look", {"at": "x"})]
    assert message.response_metadata["finish_reason"] == "tool_calls"


class Called(Plain):
    """A vocabulary in which a call begins with a control token."""

    control_texts = frozenset({*Plain.control_texts, "<tool_call>"})

    def encode_template(self, text: str) -> list[int]:
        head, *rest = text.split("<tool_call>")
        return [
            *super().encode_template(head),
            *(i for part in rest for i in (300, *super(Called, self).encode_template(part))),
        ]

    def decode(self, ids: Any) -> str:
        text, part = "", list[int]()
        for token in ids:
            if token == 300:
                text, part = text + super().decode(part) + "<tool_call>", []
            else:
                part.append(token)
        return text + super().decode(part)


def test_a_call_that_a_control_token_begins_is_written_by_the_base() -> None:
    vocabulary = Called()
    draft = FakeEngine(["I will look it up.\n\n", CALL], name="draft", vocabulary=vocabulary)
    base = FakeEngine([CALL, CALL.removeprefix("<tool_call>")], [9], name="base", vocabulary=vocabulary)
    with EnginePair(draft, base) as pair:
        outcome, run = run_of(pair, tools=[LOOK])
    assert [(step.author, step.text, step.ending) for step in run.steps] == [
        ("draft", "I will look it up.\n\n", "blank_line"), ("base", "", "tool_call"),
    ]  # fmt: skip
    assert vocabulary.decode(base.calls[-1].prompt_ids).endswith("I will look it up.\n\n<tool_call>")
    assert outcome["answer"] == "I will look it up."
    assert run.answer
    assert [call["args"] for call in run.answer.tool_calls] == [{"at": "x"}]
    assert sound(run)


@pytest.mark.parametrize(
    ("settings", "reply"),
    [
        ({"tools": [LOOK], "tool_choice": "look"}, '{"at": "x"}}\n</tool_call>'),
        ({"answer_schema": {"type": "object"}}, '{"a": 1}'),
    ],
)
def test_a_forced_call_and_a_schema_have_no_steps_before_them(settings: Any, reply: str) -> None:
    with pair_of([], [reply], []) as pair:
        outcome, run = run_of(pair, **settings)
    assert (outcome["trace"], outcome["stop_reason"]) == ([], "answered")
    assert run.answer
    assert run.answer.text == "" if run.answer.tool_calls else reply
    assert sound(run)


def test_a_conversation_with_a_call_goes_on() -> None:
    asked = [HumanMessage("What is it?"), AIMessage("", tool_calls=[{"name": "look", "args": {"at": "x"}, "id": "1"}])]
    with pair_of(["It is 42."], [], [9]) as pair:
        chat = ChatSpecReason(pair).bind_tools([LOOK])
        assert chat.invoke([*asked, ToolMessage("42", tool_call_id="1")]).text == "It is 42."


def test_a_thinking_is_asked_for_by_name() -> None:
    with pair_of(["Hm, it is.\n\n", "</think>"], ["</think>", "It is 42."], [9]) as pair:
        outcome, run = run_of(pair, thinking="tags")
        assert outcome["answer"] == "It is 42."
    assert [step.text for step in run.steps] == ["Hm, it is.\n\n", ""]


def test_the_draft_thinks_if_the_base_does() -> None:
    draft = FakeEngine(["It is here.\n\n", "</think>"], name="draft", vocabulary=Plain())
    with EnginePair(draft, FakeEngine(["</think>", "It is 42."], [9], name="base")) as pair:
        outcome, run = run_of(pair)
    assert draft.vocabulary.decode(draft.calls[0].prompt_ids) == HEAD + "<think>\n"
    assert outcome["answer"] == "It is 42."
    assert run.typed_manifest.thinking["draft"].source == "the base thinks, and the draft must"


def test_a_thinking_draft_answers_at_once_where_the_base_does() -> None:
    draft = FakeEngine(["It is 42."], name="draft")
    with EnginePair(draft, FakeEngine([], [9], name="base", vocabulary=Plain())) as pair:
        outcome, _ = run_of(pair)
    assert draft.vocabulary.decode(draft.calls[0].prompt_ids) == HEAD + "<think>\n</think>\n\n"
    assert outcome["answer"] == "It is 42."


BLOCKS = [
    "Here is code:\n```python\na = 1\n\nb = 2\n```\n\n",
    "Here is code:\n~~~~\na\n\n~~~\n\nb\n~~~~\n\n",
    "It follows\n\\begin{align}\na &= 1\n\nb &= 2\n\\end{align}\n\n",
    "It follows\n\\[\na = 1\n\n\\]\n\n",
    "It follows\n$$\na = 1\n\n$$\n\n",
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_blank_line_inside_a_block_does_not_end_a_step(block: str) -> None:
    paragraphs = block.split("\n\n")[:-1]
    drafts = [f"{part}\n\n" for part in paragraphs]
    with pair_of([*drafts, "Done it is."], [], [9, 9]) as pair:
        outcome, run = run_of(pair)
    assert [step.text for step in run.steps] == [block, "Done it is."]
    assert outcome["answer"] == f"{block}Done it is."


def test_a_block_that_the_limit_of_a_step_cuts_is_still_open_in_the_next() -> None:
    begun = "```\nlong = 1\n\n"
    with pair_of([begun, "a\n\n", "b\n```\n\n", "It is all."], [], [9] * 3) as pair:
        _, run = run_of(pair, max_step_tokens=len(begun), min_step_tokens=1)
    assert [step.text for step in run.steps] == [begun, "a\n\nb\n```\n\n", "It is all."]


def test_inline_code_opens_no_block() -> None:
    with pair_of(["Use ```x``` or $x$ here.\n\n", "It is done."], [], [9, 9]) as pair:
        _, run = run_of(pair)
    assert [step.text for step in run.steps] == ["Use ```x``` or $x$ here.\n\n", "It is done."]
    assert all(isinstance(step, Step) for step in run.steps)


def test_a_control_token_and_nothing_else_ends_the_reply_and_is_asked_for_once() -> None:
    with pair_of(["It is here.\n\n", "<|system|>"], ["<|system|>"], [9]) as pair:
        outcome, run = run_of(pair)
    assert [step.text for step in run.steps] == ["It is here.\n\n", ""]
    assert (outcome["answer"], outcome["stop_reason"]) == ("It is here.", "answered")
    assert run.answer
    assert not run.answer.complete
    assert sound(run)


def test_a_reply_that_begins_with_an_unknown_control_token_is_an_error_that_says_what_to_do() -> None:
    with pair_of(["<think>"], ["<think>"], []) as pair, pytest.raises(ModelError, match="set thinking=tags"):
        run_of(pair)


@pytest.mark.parametrize("stop", ["\n\nHuman:", "\nHuman:"])
def test_a_stop_string_across_a_blank_line_ends_the_reply(stop: str) -> None:
    with pair_of(["It is 42 now.\n\n", "Human: and then?\n\n"], [], [9] * 3) as pair:
        outcome, run = run_of(pair, stop=[stop])
    assert (outcome["answer"], outcome["stop_reason"], len(run.steps)) == ("It is 42 now.", "answered", 2)
    assert run.answer
    assert run.answer.complete
    assert sound(run)


def test_a_refrain_is_no_loop_and_a_loop_is() -> None:
    verses = [text for number in range(4) for text in (f"Verse {number} is here.\n\n", "And the refrain.\n\n")]
    with pair_of([*verses, "It ends."], [], [9] * 9) as pair:
        outcome, run = run_of(pair)
    assert (outcome["stop_reason"], len(run.steps)) == ("answered", 9)
    assert sound(run)
    with pair_of(["One is here.\n\n", "Two is here.\n\n"] * 9, [], [9] * 20) as pair:
        outcome, run = run_of(pair)
    assert (outcome["stop_reason"], len(run.steps)) == ("repetition", 6)
    assert sound(run)


def test_the_call_at_the_end_of_a_reply_keeps_to_its_limit() -> None:
    vocabulary = Called()
    draft = FakeEngine(["Hello there friend.\n\n", CALL], name="draft", vocabulary=vocabulary)
    base = FakeEngine([CALL, CALL.removeprefix("<tool_call>")], [9], name="base", vocabulary=vocabulary)
    with EnginePair(draft, base) as pair:
        _, run = run_of(pair, tools=[LOOK], answer_tokens=40)
    assert run.answer
    assert sum(len(step.token_ids) for step in run.steps) + len(run.answer.token_ids) == 40


def test_what_is_held_back_as_a_stop_is_streamed_once() -> None:
    reply = f"Answer: A{CALL}"
    engines = [
        FakeEngine([reply], name="draft", vocabulary=Plain()),
        FakeEngine([], [9], name="base", vocabulary=Plain()),
    ]
    with EnginePair(*engines) as pair:
        chunks = list(ChatSpecReason(pair, stop=["A:"], max_step_tokens=200).bind_tools([LOOK]).stream("What is it?"))
    assert "".join(chunk.text for chunk in chunks) == "Answer: A"


def test_the_base_answers_where_the_draft_dies() -> None:
    draft = FakeEngine(["It is here.\n\n", "</think>"], name="draft")
    draft.failure = lambda prompt: EngineError("gone", engine="draft") if prompt.endswith("</think>\n\n") else None
    with EnginePair(draft, FakeEngine(["</think>", "It is 42."], [9], name="base")) as pair:
        outcome, run = run_of(pair, answer_by="draft")
    assert outcome["answer"] == "It is 42."
    assert run.answer
    assert run.answer.author == "base"


PROSE = [
    "In shell `$$` is the pid.\n\n", "Write `\\begin{align}` first.\n\n", "Use \\[ in LaTeX.\n\n",
    "It costs \\$$ here.\n\n",
]  # fmt: skip


@pytest.mark.parametrize("prose", PROSE)
def test_signs_in_prose_open_no_block(prose: str) -> None:
    with pair_of([prose, "It is done."], [], [9, 9]) as pair:
        _, run = run_of(pair)
    assert [step.text for step in run.steps] == [prose, "It is done."]


def test_a_fence_in_a_list_is_one_block() -> None:
    block = "1. Do this:\n     ```\n     a = 1\n\n     b = 2\n     ```\n\n"
    first, second = block.split("\n\n")[:2]
    with pair_of([f"{first}\n\n", f"{second}\n\n", "It is done."], [], [9, 9]) as pair:
        _, run = run_of(pair)
    assert [step.text for step in run.steps] == [block, "It is done."]
