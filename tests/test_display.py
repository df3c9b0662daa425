"""What a notebook shows of a run, and that an outcome is the mapping that it was before."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from typing_extensions import TypedDict

from specreason_graph import EnginePair, create_specreason, find_runs
from specreason_graph.engines.fake import FakeEngine
from tests.support.reviewed import BAND
from tests.support.reviewed import pair as doubtful
from tests.support.scripts import CLOSE, done, is_closed, stepwise

HOSTILE = "<script>alert('1')</script> & <img src=x onerror=alert(2)>"
THREAD: Any = {"configurable": {"thread_id": "t"}}


class Tags(HTMLParser):
    """Collects the tags of a page, each of which must be closed, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(outcome: Any) -> Tags:
    return Tags(outcome._repr_html_())


def test_an_outcome_is_shown_as_a_table_of_its_steps() -> None:
    with stepwise(3) as pair:
        page = shown(create_specreason(pair).compile().invoke({"question": "What?"}))
    assert page.seen == {"div", "p", "b", "table", "thead", "tbody", "tr", "th", "td"}
    assert re.search(r"answered . 4 steps . 3 of 3 proposals accepted", page.text)
    assert page.text.count("score reaches threshold") == 3
    assert page.text.startswith("The answer.")


def test_model_text_is_escaped() -> None:
    def write(prompt: str) -> str:
        return HOSTILE if is_closed(prompt) else CLOSE if done(prompt) else f"{HOSTILE}\n\n"

    with EnginePair(FakeEngine(write), FakeEngine(write, lambda _: 9)) as pair:
        graph = create_specreason(pair).compile(checkpointer=(saver := InMemorySaver()))
        outcome = graph.invoke({"question": HOSTILE}, THREAD)
        (run,) = find_runs(saver, "t")
    for page in (shown(outcome), shown(run)):
        assert not page.seen & {"script", "img"}
        assert page.text.count(HOSTILE) >= 2
    assert shown(run).text.startswith(HOSTILE)


def test_a_long_trace_is_shown_by_its_ends() -> None:
    with stepwise(40) as pair:
        page = shown(create_specreason(pair, max_steps=40).compile().invoke({"question": "What?"}))
    assert "29 more steps" in page.text
    assert page.text.count("score reaches threshold") == 11


def test_a_run_that_waits_for_a_human_is_shown_too() -> None:
    with doubtful() as pair:
        graph = create_specreason(pair, review=BAND).compile(checkpointer=InMemorySaver())
        outcome = graph.invoke({"question": "What?"}, THREAD)
        assert "__interrupt__" in outcome
        assert "not finished" in shown(outcome).text
        while "__interrupt__" in outcome:
            outcome = graph.invoke(Command(resume="accept"), THREAD)
    assert "accepted by reviewer" in shown(outcome).text


class Parent(TypedDict, total=False):
    question: str
    outcome: dict[str, Any]
    answer: str


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_an_outcome_is_a_mapping_as_before(version: Any) -> None:
    with stepwise(2) as pair:
        loop = create_specreason(pair, temperature=0).compile()
        outcome = await loop.ainvoke({"question": "What?"}, version=version)
        values: Any = getattr(outcome, "value", outcome)
        assert json.loads(json.dumps(values)) == values == {**values}
        assert list(loop.stream({"question": "What?"}, stream_mode="values"))[-1].keys() >= {"answer", "trace"}
        assert isinstance(loop.invoke({"question": "What?"}, stream_mode="updates"), list)


def test_an_outcome_may_be_kept_whole_in_the_state_of_a_parent() -> None:
    with stepwise(2) as pair:
        loop = create_specreason(pair).compile()
        builder = StateGraph(Parent)
        builder.add_node("think", lambda state: {"outcome": loop.invoke({"question": state["question"]})})
        builder.add_node("again", loop)
        builder.add_edge(START, "think")
        builder.add_edge("think", "again")
        builder.add_edge("again", END)
        graph = builder.compile(checkpointer=InMemorySaver())
        graph.invoke({"question": "What?"}, THREAD)
        kept = graph.get_state(THREAD).values
    assert kept["answer"] == kept["outcome"]["answer"] == "The answer."
