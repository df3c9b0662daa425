"""The types of the public surface, as a user's type checker sees them. This file is checked and never run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, assert_type

from langchain_core.language_models import ModelProfile
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command

from specreason_graph import (
    Answer,
    ChatSpecReason,
    EnginePair,
    SpecReasonConfig,
    SpecReasonError,
    Step,
    afind_runs,
    create_specreason,
    find_runs,
    open_pair,
    read_event,
)
from specreason_graph.audit.ask.whatif import WhatIf, what_if
from specreason_graph.audit.check.recompute import Replay, recompute
from specreason_graph.audit.check.rerun import Rerun, rerun
from specreason_graph.audit.check.rescore import Rescoring, rescore
from specreason_graph.audit.check.verify import Verification, verify
from specreason_graph.audit.fork import afork, fork, plan_fork
from specreason_graph.audit.read.reader import aread_runs, read_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.config import Band
from specreason_graph.engines.base import Engine
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.graph import CompiledSpecReason, SpecReasonGraph
from specreason_graph.record.events import (
    Accepted,
    AnswerToken,
    Drafted,
    Finished,
    Regenerated,
    Rejected,
    RolledBack,
    Scored,
    Started,
    StepToken,
)
from specreason_graph.record.records import Cost, Decision, Proposal, Review, Score, Usage
from specreason_graph.record.signing import Signer
from specreason_graph.record.state import Outcome, Question, State
from specreason_graph.runs.find import FoundRun
from specreason_graph.strategy import Judge, Writer

THREAD: RunnableConfig = {"configurable": {"thread_id": "t"}}


def engines(mine: Engine) -> None:
    pair = open_pair("abacus-base", "abacus-draft", kind="vllm", base_options={"context": 512})
    assert_type(pair, EnginePair)
    assert_type(EnginePair(FakeEngine(["a"], [9]), FakeEngine(lambda prompt: prompt)), EnginePair)
    assert_type(EnginePair(draft=mine, base=mine), EnginePair)
    with pair as opened:
        assert_type(opened, EnginePair)
    assert_type(pair.base, Engine)
    assert_type(pair.shares_vocabulary, bool)
    pair.engine("judge")  # type: ignore[arg-type]
    EnginePair("abacus-draft", mine)  # type: ignore[arg-type]
    EnginePair(mine)  # type: ignore[call-arg]
    open_pair(1, 2)  # type: ignore[arg-type]
    open_pair("a", "b", "vllm")  # type: ignore[call-arg]
    open_pair("a", "b", engine="vllm")  # type: ignore[call-arg]
    open_pair("a", "b", kind="vlm")  # type: ignore[arg-type]
    open_pair("a", "b", kind="vllm", base_options={"contxt": 512})  # type: ignore[arg-type]


async def engines_of_coroutines(pair: EnginePair) -> None:
    async with pair as opened:
        assert_type(opened, EnginePair)


def loop(pair: EnginePair, saver: BaseCheckpointSaver[Any], signer: Signer) -> None:
    graph = create_specreason(pair, config=SpecReasonConfig(threshold=5), signer=signer, lookahead=4)
    assert_type(graph, SpecReasonGraph)
    compiled = graph.compile(checkpointer=saver)
    assert_type(compiled, CompiledSpecReason)
    base: CompiledStateGraph[State, SpecReasonConfig, Question, Outcome] = compiled
    chained: Runnable[Any, Any] = base | (lambda outcome: outcome["answer"])
    assert_type(compiled.as_tool(name="think"), BaseTool)
    compiled.invoke({"question": "What?"}, THREAD, context=SpecReasonConfig(max_steps=3))
    compiled.invoke({"messages": [HumanMessage("What?")]})
    compiled.invoke(Command(resume="accept"), THREAD)
    chained.invoke({"question": "What?"})
    create_specreason(FakeEngine())  # type: ignore[arg-type]
    create_specreason()  # type: ignore[call-arg]
    create_specreason(pair, SpecReasonConfig())  # type: ignore[call-arg]
    create_specreason(pair, config={"threshold": 5})  # type: ignore[arg-type]
    create_specreason(pair, strategy="paper", judge={"kind": "likelihood"}, review={"low": 4, "high": 7.5})
    create_specreason(pair, judge="likelihood", review=Band(low=4, high=7.5), lookahead=None, threshold=-2)
    create_specreason(pair, treshold=5)  # type: ignore[call-arg]
    create_specreason(pair, threshold="seven")  # type: ignore[arg-type]
    create_specreason(pair, answer_by="judge")  # type: ignore[arg-type]


def settings() -> None:
    config = SpecReasonConfig(review=Band(low=4, high=7.5), lookahead=None)
    assert_type(config.threshold, float | None)
    assert_type(config.lookahead, int | None)
    assert_type(config.review, Band | None)
    assert_type(config.judge, Judge)
    assert_type(config.writer, Writer)
    config.threshold = 3  # type: ignore[misc]


async def chat(pair: EnginePair) -> None:
    model = ChatSpecReason(pair, threshold=5)
    assert_type(model, ChatSpecReason)
    assert_type(model.invoke("What?"), AIMessage)
    assert_type(await model.ainvoke("What?"), AIMessage)
    ChatSpecReason(pair, max_tokens=50, timeout=3.5, response_format={"type": "text"}, tags=["mine"], config_file=None)
    ChatSpecReason(pair, treshold=5)  # type: ignore[call-arg]
    ChatSpecReason(pair, threshold="seven")  # type: ignore[arg-type]
    model.tresholds  # type: ignore[attr-defined]  # noqa: B018 - no attribute is made up
    assert_type(model.get_num_tokens("What?"), int)
    assert_type(model.profile, ModelProfile | None)
    ChatSpecReason()  # type: ignore[call-arg]
    ChatSpecReason("abacus-base")  # type: ignore[arg-type]


async def found(saver: BaseCheckpointSaver[Any]) -> None:
    runs = find_runs(saver, "t")
    assert_type(runs, list[FoundRun])
    assert_type(await afind_runs(saver, "t"), list[FoundRun])
    assert_type(runs[0].steps, list[Step])
    assert_type(runs[0].answer, str | None)
    find_runs(saver)  # type: ignore[call-arg]
    find_runs("runs.sqlite", "t")  # type: ignore[arg-type]


def events(part: object) -> None:
    event = read_event(part)
    assert_type(
        event,
        Started
        | StepToken
        | Drafted
        | Scored
        | Rejected
        | RolledBack
        | Accepted
        | Regenerated
        | AnswerToken
        | Finished
        | None,
    )
    if isinstance(event, Accepted | Regenerated):
        assert_type(event.step, Step)
    if isinstance(event, Finished):
        assert_type(event.answer, Answer)
    if event and event.event == "answer_token":
        assert_type(event, AnswerToken)


def records(step: Step, answer: Answer, error: SpecReasonError) -> None:
    assert_type(step.author, Literal["draft", "base", "human"])
    assert_type(step.decision, Decision)
    assert_type(step.score, Score | None)
    assert_type(step.discarded, Proposal | None)
    assert_type(step.costs, list[Cost])
    assert_type(step.tokens_left, int | None)
    assert_type(step.elapsed, float | None)
    assert_type(answer.usage, Usage)
    assert_type(answer.author, Literal["draft", "base"])
    assert_type(error.hint, str)
    step.text = "another"  # type: ignore[misc]
    step.room  # type: ignore[attr-defined]  # noqa: B018 - its name of version 3


def audit(saver: BaseCheckpointSaver[Any], pair: EnginePair, graph: CompiledSpecReason) -> None:
    runs = read_runs(saver, "t")
    assert_type(runs, list[RecordedRun])
    (run,) = runs
    assert_type(run.steps, list[Step])
    assert_type(run.answer, Answer | None)
    assert_type(verify(run, public_key="ab", head="cd"), Verification)
    assert_type(verify(run).ok, bool)
    assert_type(recompute(run), Replay)
    assert_type(rerun(run, pair), Rerun)
    assert_type(rescore(run, pair), Rescoring)
    assert_type(what_if(run, threshold=5, judge="digit"), WhatIf)
    channels = plan_fork(run, pair, at=2, edit=Review(verdict="edit", text="Mine."), threshold=5)
    assert_type(channels, dict[str, Any])
    assert_type(fork(graph, "other", channels), RunnableConfig)
    verify(runs)  # type: ignore[arg-type]
    verify(run, "ab")  # type: ignore[call-arg]
    recompute(run, pair)  # type: ignore[call-arg]
    rerun(run)  # type: ignore[call-arg]
    rescore(pair, run)  # type: ignore[arg-type]
    what_if(run, 5)  # type: ignore[call-arg]
    what_if(run, reading="greedy")  # type: ignore[call-arg]
    plan_fork(run, pair)  # type: ignore[call-arg]
    plan_fork(run, pair, at="2")  # type: ignore[arg-type]
    fork(graph, channels)  # type: ignore[call-arg]


async def audit_of_coroutines(saver: BaseCheckpointSaver[Any], graph: CompiledSpecReason) -> None:
    runs: Sequence[RecordedRun] = await aread_runs(saver, "t")
    assert_type(await afork(graph, "other", runs[0].values), RunnableConfig)
