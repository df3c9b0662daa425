"""Steps while they are written: told to callers that ask, and of no effect on what is written."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from langgraph.graph import END, START, StateGraph

from specreason_graph import EnginePair, create_specreason, read_event
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.record.events import Drafted, Event, Regenerated, StepToken
from tests.support.scripts import CLOSE

PROBLEM = held_out()[4].question
ASKED = {"configurable": {"thread_id": "1", "specreason_stream_steps": True}}


def events(graph: Any, config: Any, **more: Any) -> list[Event]:
    parts = graph.stream({"question": PROBLEM}, config, stream_mode="custom", **more)
    found = [read_event(part[1] if isinstance(part, tuple) else part) for part in parts]
    return [each for each in found if each]


def written(told: list[Event]) -> dict[tuple[int, str], str]:
    """The texts of steps as they were told, by position and author."""
    texts: dict[tuple[int, str], str] = defaultdict(str)
    for each in told:
        if isinstance(each, StepToken):
            key = each.index, each.author
            texts[key] = texts[key][: each.start] + each.text
            assert len(texts[key]) == each.start + len(each.text)
    return dict(texts)


def check(told: list[Event]) -> None:
    """What was told while steps were written is what they came to."""
    texts = written(told)
    for each in told:
        if isinstance(each, Drafted):
            assert texts.get((each.index, "draft"), "").strip() == each.proposal.text.strip()
        elif isinstance(each, Regenerated):
            assert texts.get((each.step.index, "base"), "").strip() == each.step.text.strip()


@pytest.mark.parametrize("lookahead", [0, 4])
def test_steps_are_told_while_they_are_written(abacus: EnginePair, lookahead: int) -> None:
    graph = create_specreason(abacus, seed=1, lookahead=lookahead).compile()
    told = events(graph, ASKED)
    assert any(isinstance(each, StepToken) for each in told)
    check(told)
    for place, each in enumerate(told):
        if isinstance(each, Drafted):  # before it is whole, and not behind
            before = [one for one in told[:place] if isinstance(one, StepToken) and one.index == each.index]
            assert before or not each.proposal.text.strip()


def test_nobody_is_told_who_did_not_ask_and_no_token_depends_on_it(abacus: EnginePair) -> None:
    graph = create_specreason(abacus, seed=4, temperature=1.5).compile()
    told = events(graph, {"configurable": {"thread_id": "1"}})
    assert not any(isinstance(each, StepToken) for each in told)

    def steps(config: Any) -> list[list[int]]:
        return [step["token_ids"] for step in graph.invoke({"question": PROBLEM}, config)["trace"]]

    assert steps(ASKED) == steps({})


def test_steps_are_told_in_a_subgraph(abacus: EnginePair) -> None:
    inner = create_specreason(abacus, seed=1)
    around: Any = StateGraph(inner.state_schema)
    around.add_node("think", inner.compile())
    around.add_edge(START, "think")
    around.add_edge("think", END)
    check(told := events(around.compile(), ASKED, subgraphs=True))
    assert any(isinstance(each, StepToken) for each in told)


def test_what_ends_a_step_is_not_told() -> None:
    def reply(prompt: str) -> str:
        return "So it is." if CLOSE in prompt else f"One thing.\n\n{CLOSE}" if "One" not in prompt else CLOSE

    engine = FakeEngine(reply, lambda _: 9)
    with EnginePair(engine, engine) as pair:
        told = events(create_specreason(pair, lookahead=0, min_step_tokens=1).compile(), ASKED)
    check(told)
    assert CLOSE not in "".join(each.text for each in told if isinstance(each, StepToken))
