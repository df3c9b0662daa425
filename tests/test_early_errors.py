"""What is given wrongly is said at once, in words that name it and the way out."""

from __future__ import annotations

import time
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from specreason_graph import EnginePair, SpecReasonConfig, create_specreason, open_pair
from specreason_graph.config import STRATEGIES, make_config
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.engines.options import ServerOptions, VLLMOptions
from specreason_graph.errors import ConfigError, ModelError, QuestionError
from specreason_graph.settings import EngineOptions, RunSettings
from tests.support.scripts import stepwise


@pytest.mark.parametrize("given", ["abacus-base", None, ("abacus-base", "abacus-draft"), FakeEngine()])
def test_a_graph_needs_a_pair(given: Any) -> None:
    with pytest.raises(ConfigError, match=rf"needs a pair of engines, and got a {type(given).__name__}; .*open_pair"):
        create_specreason(given)


def test_a_pair_needs_engines() -> None:
    with pytest.raises(ConfigError, match=r"the base engine is a str; .*open_pair\(base, draft\)"):
        EnginePair(FakeEngine(), "abacus-base")  # type: ignore[arg-type]


def test_a_config_is_not_a_mapping() -> None:
    with pytest.raises(ConfigError, match="config is a dict; write SpecReasonConfig"):
        create_specreason(stepwise(1), config={"threshold": 5})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("models", "told"),
    [
        (("nope",), "no draft model is named"),
        (("nope", "nope"), "model 'nope' cannot be found: it is no folder"),
        (("Nobody/nope", "abacus-draft"), "model 'Nobody/nope' cannot be found: it is no folder"),
        (("abacus-base", "no such model/x"), "model 'no such model/x' cannot be found: .*no model of that name"),
        (("abacus-base", "./nowhere"), "model './nowhere' is not a folder; check the path"),
        ((1, 2), "the base model is a int"),
    ],
)
def test_models_that_cannot_be_found_are_named_before_the_first_use(models: Any, told: str) -> None:
    begun = time.monotonic()
    with pytest.raises((ConfigError, ModelError), match=told):
        open_pair(*models)
    assert time.monotonic() - begun < 15, "the hub is asked once, and briefly"


def test_models_of_servers_are_looked_for_as_well() -> None:
    with pytest.raises(ModelError, match="model 'nope' cannot be found"):
        open_pair("nope", kind="server", base_url="http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"quesiton": "How far?"}, "nothing is asked: the input holds 'quesiton'; write 'question' for 'quesiton'"),
        ({"message": []}, "write 'messages' for 'message'"),
        ({"input": "How far?"}, "nothing is asked: the input holds 'input'; write {\"question\": ...} or"),
        ({}, "nothing is asked: the input holds nothing"),
        ("How far?", "the input is a str"),
        (["How far?"], "the input is a list"),
        ({"question": ""}, "the question is empty"),
        ({"question": 5}, "the question is a int"),
    ],
)
@pytest.mark.parametrize("concurrent", [False, True], ids=["sync", "async"])
async def test_an_input_without_a_question_says_what_it_holds(asked: Any, told: str, concurrent: bool) -> None:
    with stepwise(1) as pair:
        graph = create_specreason(pair).compile()
        with pytest.raises(QuestionError, match=told):
            await graph.ainvoke(asked) if concurrent else graph.invoke(asked)


def test_a_parent_whose_state_asks_nothing_is_told_what_it_has() -> None:
    class Task(TypedDict, total=False):
        quesiton: str

    with stepwise(1) as pair:
        builder = StateGraph(Task)
        builder.add_node("think", create_specreason(pair).compile())
        builder.add_edge(START, "think")
        with pytest.raises(QuestionError, match="write 'question' for 'quesiton'"):
            builder.compile().invoke({"quesiton": "How far?"})


@pytest.mark.parametrize(
    ("context", "told"),
    [
        ({"treshold": 9}, "unknown setting 'treshold'; known settings: judge, threshold"),
        ({"threshold": 11}, "threshold = 11 is not allowed: the scale of the digit judge is 0 to 9"),
        ({"judge": "oracle"}, "there is no judge 'oracle' here"),
    ],
)
def test_settings_of_a_call_are_refused_in_our_words(context: Any, told: str) -> None:
    with stepwise(1) as pair, pytest.raises(ConfigError, match=told):
        create_specreason(pair).compile().invoke({"question": "How far?"}, context=context)


def test_settings_of_a_call_may_be_a_mapping() -> None:
    with stepwise(5) as pair:
        graph = create_specreason(pair, temperature=0).compile()
        asked: Any = {"question": "How far?"}
        context: Any = {"max_steps": 2}
        outcome = graph.invoke(asked, context=context)
    assert (len(outcome["trace"]), outcome["stop_reason"]) == (2, "step_limit")


def test_typed_settings_are_those_that_are_checked() -> None:
    assert set(RunSettings.__annotations__) == {*SpecReasonConfig.model_fields, "strategy"}
    assert set(EngineOptions.__annotations__) == set(VLLMOptions.model_fields) | set(ServerOptions.model_fields)
    for name in STRATEGIES:
        assert make_config(strategy=name)
