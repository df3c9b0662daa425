"""Whole graphs on scripted engines: who writes what, why, and when the thinking ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langgraph.checkpoint.memory import InMemorySaver

from specreason_graph import EnginePair, create_specreason
from specreason_graph.engines.fake import ByteVocabulary, FakeEngine, Opinion
from specreason_graph.errors import EngineError, QuestionError
from specreason_graph.judging import DigitJudge
from specreason_graph.policies.acceptance import decide
from specreason_graph.record.records import Decision, Score

QUESTION: Any = {"question": "What is it?"}
CLOSE = "</think>"


def play(drafts: Any, bases: Any, scores: list[Opinion] | Any, **settings: Any) -> tuple[Any, FakeEngine, FakeEngine]:
    draft, base = FakeEngine(drafts, name="draft"), FakeEngine(bases, scores, name="base")
    with EnginePair(draft, base) as pair:
        graph = create_specreason(pair, **settings).compile()
        return graph.invoke(QUESTION), draft, base


def authors(outcome: Any) -> list[tuple[str, str]]:
    return [(step["author"], step["text"]) for step in outcome["trace"]]


def test_good_steps_are_kept_and_bad_ones_rewritten() -> None:
    outcome, draft, base = play(
        ["one is fine.\n\n", "two is bad.\n\n", CLOSE], ["TWO by base.\n\n", CLOSE, "It is 3."], [9, 2]
    )
    assert authors(outcome) == [("draft", "one is fine.\n\n"), ("base", "TWO by base.\n\n"), ("base", "")]
    assert (outcome["answer"], outcome["stop_reason"]) == ("It is 3.", "answered")
    assert [call.kind for call in base.calls] == ["next_token", "next_token", "generate", "generate", "generate"]
    assert len(draft.calls) == 3


def test_rejected_work_stays_in_the_evidence() -> None:
    outcome, _, _ = play(["two is bad.\n\n", CLOSE], ["TWO by base.\n\n", CLOSE, "It is 3."], [2])
    first = outcome["trace"][0]
    assert first["discarded"]["text"] == "two is bad.\n\n"
    assert first["decision"] == {
        "accepted": False, "reason": "score_below_threshold", "number": pytest.approx(2), "score_reduction": "mean",
        "threshold": 7.0, "error": None, "review": None, "goodput": None,
    }  # fmt: skip
    assert [(cost["engine"], cost["purpose"]) for cost in first["costs"]] == [
        ("draft", "draft"), ("base", "score"), ("base", "regenerate"),
    ]  # fmt: skip


def test_decision_follows_from_the_stored_score() -> None:
    outcome, _, _ = play(
        ["a fine step.\n\n", "a bad step.\n\n", CLOSE],
        ["by the base.\n\n", CLOSE, "x"],
        [[0.0] * 8 + [0.5, 0.4], [0.3] * 3 + [0.0] * 7],
    )
    for step in outcome["trace"][:2]:
        stored = Decision.load(step["decision"])
        assert decide(Score.load(step["score"]), DigitJudge(threshold=stored.threshold)) == stored
    assert outcome["trace"][0]["score"]["other_mass"] == pytest.approx(0.1)
    assert outcome["trace"][0]["score"]["mean"] == pytest.approx((8 * 0.5 + 9 * 0.4) / 0.9)


@pytest.mark.parametrize(("score_reduction", "author"), [("greedy", "draft"), ("mean", "base")])
def test_the_score_reduction_decides_a_split_opinion(score_reduction: str, author: str) -> None:
    split = [0.4] + [0.0] * 8 + [0.6]
    outcome, _, _ = play(
        ["a disputed step.\n\n", CLOSE],
        ["by the base.\n\n", CLOSE, "x", "x"][author == "draft" :],
        [split],
        judge=DigitJudge(reduction=score_reduction),
    )
    assert outcome["trace"][0]["author"] == author


def test_first_steps_by_base_are_not_drafted() -> None:
    outcome, draft, _ = play(
        ["a draft step.\n\n", CLOSE], ["plan one.\n\n", "plan two.\n\n", CLOSE, "x"], [9], first_steps_by_base=2
    )
    assert [author for author, _ in authors(outcome)] == ["base", "base", "draft", "base"]
    assert outcome["trace"][0]["decision"]["reason"] == "first_steps_by_base"
    assert len(draft.calls) == 2


def test_draft_that_would_stop_is_overruled_by_the_base() -> None:
    outcome, _, base = play([CLOSE, CLOSE], ["not yet done.\n\n", CLOSE, "x"], [])
    assert authors(outcome) == [("base", "not yet done.\n\n"), ("base", "")]
    assert {step["decision"]["reason"] for step in outcome["trace"]} == {"proposal_ends_thinking"}
    assert all(call.kind == "generate" for call in base.calls)


def test_step_that_closes_the_thinking_is_scored_and_ends_it() -> None:
    outcome, _, _ = play(["so it is three" + CLOSE], ["x"], [9])
    assert authors(outcome) == [("draft", "so it is three")]
    assert outcome["stop_reason"] == "answered"


def test_a_blank_line_does_not_end_a_tiny_step() -> None:
    outcome, draft, _ = play(["Hm.\n\n", "So it goes on.\n\n", CLOSE], [CLOSE, "x"], [9], min_step_tokens=6)
    assert outcome["trace"][0]["text"] == "Hm.\n\nSo it goes on.\n\n"
    assert outcome["trace"][0]["costs"][0]["usage"]["calls"] == 2
    assert draft.calls[1].prompt_ids == draft.calls[0].prompt_ids + list(b"Hm.\n\n")


LIMITS = [
    ({"max_steps": 2}, "step_limit", 2),
    ({"thinking_tokens": 20}, "token_budget", 2),
    ({"max_step_tokens": 9, "max_steps": 3}, "step_limit", 3),
]


@pytest.mark.parametrize(("settings", "reason", "count"), LIMITS)
def test_a_budget_ends_the_thinking_and_still_gets_an_answer(settings: dict[str, Any], reason: str, count: int) -> None:
    numbers = iter(range(100))
    outcome, _, base = play(lambda _: f"step nr {next(numbers)}.\n\n", ["forced."], lambda _: 9, **settings)
    assert (outcome["stop_reason"], len(outcome["trace"]), outcome["answer"]) == (reason, count, "forced.")
    assert base.vocabulary.decode(base.calls[-1].prompt_ids).endswith("</think>\n\n")


def test_repetition_ends_the_thinking() -> None:
    outcome, _, _ = play(lambda _: "wait, again.\n\n", ["x"], lambda _: 9, repetition_limit=4)
    assert (outcome["stop_reason"], len(outcome["trace"])) == ("repetition", 4)


def test_deadline_ends_the_thinking() -> None:
    draft = FakeEngine(lambda prompt: f"step {len(prompt)}.\n\n", name="draft", delay=0.02)
    with EnginePair(draft, FakeEngine(["late."], lambda _: 9, name="base")) as pair:
        outcome = create_specreason(pair, deadline_seconds=0.05).compile().invoke(QUESTION)
    assert (outcome["stop_reason"], outcome["answer"]) == ("deadline", "late.")
    assert 1 <= len(outcome["trace"]) <= 3


def test_full_context_ends_the_thinking_by_name() -> None:
    draft = FakeEngine(lambda prompt: f"step {len(prompt)}.\n\n", name="draft", context=400)
    base = FakeEngine(["short."], lambda _: 9, name="base", context=400)
    with EnginePair(draft, base) as pair:
        outcome = create_specreason(pair).compile().invoke(QUESTION)
    assert (outcome["stop_reason"], outcome["answer"]) == ("context_limit", "short.")
    assert max(len(call.prompt_ids) for call in base.calls) < 400


def test_a_reused_thread_starts_afresh() -> None:
    draft, base = FakeEngine(["one step.\n\n", CLOSE] * 2), FakeEngine([CLOSE, "x", CLOSE, "y"], [9, 9])
    with EnginePair(draft, base) as pair:
        graph = create_specreason(pair).compile(checkpointer=InMemorySaver())
        config: Any = {"configurable": {"thread_id": "t"}}
        first, second = graph.invoke(QUESTION, config), graph.invoke(QUESTION, config)
    assert authors(first) == authors(second) == [("draft", "one step.\n\n"), ("base", "")]
    assert [step["index"] for step in second["trace"]] == [0, 1]
    assert (first["answer"], second["answer"]) == ("x", "y")


async def test_async_callers_get_the_same() -> None:
    async with EnginePair(FakeEngine(["one step.\n\n", CLOSE]), FakeEngine([CLOSE, "x"], [9])) as pair:
        outcome = await create_specreason(pair).compile().ainvoke(QUESTION)
    assert authors(outcome) == [("draft", "one step.\n\n"), ("base", "")]


async def test_sync_invoke_works_inside_a_running_loop() -> None:
    with EnginePair(FakeEngine(["one step.\n\n", CLOSE]), FakeEngine([CLOSE, "x"], [9])) as pair:
        assert create_specreason(pair).compile().invoke(QUESTION)["answer"] == "x"


@pytest.mark.parametrize("concurrent", [False, True])
def test_tracers_are_told_of_each_node_once(*, concurrent: bool) -> None:
    class Tracer(BaseCallbackHandler):
        def __init__(self) -> None:
            self.told: list[str] = []

        def on_chain_start(self, *_: Any, **more: Any) -> None:
            self.told.append(more["name"])

    tracer = Tracer()
    draft, base = FakeEngine(["a fine step.\n\n"], name="draft"), FakeEngine([CLOSE, "It is 3."], [9], name="base")
    with EnginePair(draft, base) as pair:
        graph = create_specreason(pair, max_steps=1).compile()
        config: Any = {"callbacks": [tracer]}
        asyncio.run(graph.ainvoke(QUESTION, config)) if concurrent else graph.invoke(QUESTION, config)
    assert tracer.told == ["specreason", "prepare", "draft", "score", "accept", "finalize"]


def test_draft_may_write_the_answer() -> None:
    outcome, draft, _ = play([CLOSE, "the draft's answer"], [CLOSE], [], answer_by="draft")
    assert outcome["answer"] == "the draft's answer"
    assert len(draft.calls) == 2


@pytest.mark.parametrize("question", ["", "   \n"])
def test_empty_question(question: str) -> None:
    with EnginePair(FakeEngine(), FakeEngine()) as pair, pytest.raises(QuestionError, match="the question is empty"):
        create_specreason(pair).compile().invoke({"question": question})


def test_question_longer_than_the_context() -> None:
    with (
        EnginePair(FakeEngine(), FakeEngine(context=500)) as pair,
        pytest.raises(QuestionError, match="context of 500"),
    ):
        create_specreason(pair).compile().invoke({"question": "why? " * 200})


class Wide(ByteVocabulary):
    """Another vocabulary, of two tokens for each letter of plain text."""

    def __init__(self) -> None:
        super().__init__()
        self.fingerprint = "wide"

    def encode(self, text: str) -> list[int]:
        return [i for byte in text.encode() for i in ((byte, 0) if chr(byte).isalpha() else (byte,))]


def test_a_step_too_long_for_the_judge_is_rewritten() -> None:
    draft = FakeEngine(["long " * 60 + "\n\n", CLOSE], name="draft")
    base = FakeEngine(["short one.\n\n", CLOSE, "x"], name="base", context=700, vocabulary=Wide())
    with EnginePair(draft, base) as pair:
        outcome = create_specreason(pair, answer_tokens=10).compile().invoke(QUESTION)
    assert outcome["trace"][0]["decision"]["reason"] == "proposal_too_long"
    assert (outcome["trace"][0]["author"], outcome["stop_reason"], outcome["answer"]) == ("base", "answered", "x")


def test_a_base_that_writes_a_control_token_and_nothing_else_has_ended_its_thinking() -> None:
    outcome, _, base = play(
        lambda _: "<|user|>", lambda prompt: "" if prompt.endswith("</think>\n\n") else "<|user|>", []
    )
    assert (outcome["stop_reason"], len(outcome["trace"])) == ("answered", 1)
    assert len(base.calls) == 2


def test_unequal_contexts_end_by_name() -> None:
    draft = FakeEngine(lambda prompt: "word " * 20 + f"{len(prompt)}.\n\n", name="draft", context=10_000)
    base = FakeEngine(["short."], lambda _: 9, name="base", context=600)
    with EnginePair(draft, base) as pair:
        outcome = create_specreason(pair).compile().invoke(QUESTION)
    assert (outcome["stop_reason"], outcome["answer"]) == ("context_limit", "short.")


def test_an_answer_the_chosen_model_has_no_room_for_is_written_by_the_base() -> None:
    draft = FakeEngine(name="draft", context=700, vocabulary=Wide())
    base = FakeEngine(lambda prompt: "word " * 40 + f"{len(prompt)}.\n\n", name="base", context=10_000)
    with EnginePair(draft, base) as pair:
        settings = {"answer_by": "draft", "first_steps_by_base": 99, "answer_tokens": 50}
        outcome = create_specreason(pair, **settings).compile().invoke(QUESTION)  # type: ignore[arg-type]
    assert outcome["stop_reason"] == "context_limit"
    assert outcome["answer"].startswith("word")


def test_the_base_goes_on_alone_when_the_draft_fails() -> None:
    outcome, draft, _ = play(["one is fine.\n\n"], ["two by base.\n\n", "three by base.\n\n", CLOSE, "It is 3."], [9])
    assert [step["author"] for step in outcome["trace"]] == ["draft", "base", "base", "base"]
    decisions = [step["decision"] for step in outcome["trace"][1:]]
    assert [decision["reason"] for decision in decisions] == ["draft_failed"] * 3
    first, *others = [decision["error"] for decision in decisions]
    assert first.startswith("draft: no reply left for ")
    assert first.endswith("<think>\\none is fine.\\n\\n'; add to its script")
    assert others == [None, None]
    assert (outcome["answer"], outcome["stop_reason"]) == ("It is 3.", "answered")
    assert len(draft.calls) == 2


def test_the_base_also_answers_when_the_draft_that_should_has_failed() -> None:
    outcome, _, _ = play([], ["one by base.\n\n", CLOSE, "It is 3."], [], answer_by="draft")
    assert (outcome["answer"], outcome["stop_reason"]) == ("It is 3.", "answered")


def test_a_failed_draft_stops_the_run_where_that_is_asked_for() -> None:
    with pytest.raises(EngineError, match="draft: no reply left"):
        play(["one is fine.\n\n"], [], [9], continue_without_draft=False)


def test_a_failed_base_leaves_a_run_that_goes_on() -> None:
    draft, base = FakeEngine(["a first step.\n\n", "a second.\n\n", CLOSE]), FakeEngine([], [9])
    saver = InMemorySaver()
    config: Any = {"configurable": {"thread_id": "1"}}
    with EnginePair(draft, base) as pair, pytest.raises(EngineError, match="no score left"):
        create_specreason(pair).compile(checkpointer=saver).invoke(QUESTION, config)
    again = FakeEngine([CLOSE, "It is 3."], [9])
    with EnginePair(draft, again) as pair:
        outcome = create_specreason(pair).compile(checkpointer=saver).invoke(None, config)
    assert [step["text"] for step in outcome["trace"]] == ["a first step.\n\n", "a second.\n\n", ""]
