"""Steps that are taken back when a later score collapses; with scripted engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from itertools import count
from typing import Any, Literal

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from specreason_graph import ChatSpecReason, EnginePair, create_specreason, read_event
from specreason_graph.audit.ask.whatif import what_if
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.rerun import rerun
from specreason_graph.audit.check.rescore import rescore
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.fork import fork, plan_fork
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.show.report import render_run
from specreason_graph.cli.live_view import LiveView
from specreason_graph.cli.options import parse_settings
from specreason_graph.config import make_config
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import ConfigError, EngineError
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.policies.rollback import Collapse, Never
from specreason_graph.record.records import Review
from specreason_graph.record.seal import entries
from specreason_graph.record.standing import standing
from specreason_graph.strategy import PastStep, Rollback, register
from tests.support.parents import parent
from tests.support.reseal import resealed
from tests.support.scripts import CLOSE, done, is_closed, writing
from tests.support.traces import solve

STEPS = 8
ASTRAY = "Step 2 of the draft."
QUESTION: Any = {"question": "What is it?"}
THREAD: Any = {"configurable": {"thread_id": "back"}}
TRACE = [
    "0 draft", "1 draft", "2 draft", "3 base", "1 base", "2 draft", "3 base", "2 base", "3 draft", "4 draft", "5 draft",
    "6 draft", "7 draft", "8 base",
]  # fmt: skip
"""Places and authors of a run that goes back twice, with the rule as it is: the first time a step too far."""
TAKEN_BACK = {4: [1, 2, 3], 7: [5, 6]}


def judge(prompt: str) -> int:
    """Whatever stands behind the draft's wrong step is bad."""
    return 1 if ASTRAY in prompt and done(prompt) > prompt.rpartition(ASTRAY)[0].count("\n\n") + 1 else 9


def pair(**base: Any) -> EnginePair:
    """A pair whose draft goes astray at its step 2, which nobody sees until the steps behind it are scored."""
    return EnginePair(
        FakeEngine(writing("draft", STEPS), name="draft"),
        FakeEngine(**{"replies": writing("base", STEPS), "scores": judge, "name": "base", **base}),
    )


def assert_audited(run: RecordedRun) -> None:
    assert (verify(run).findings, recompute(run).differences, what_if(run).changed) == ([], [], [])


def ran(engines: EnginePair | None = None, **settings: Any) -> RecordedRun:
    """A run that is verified and recomputed."""
    saver = InMemorySaver()
    with engines or pair() as opened:
        create_specreason(opened, **{"rollback": "collapse", **settings}).compile(checkpointer=saver).invoke(
            QUESTION, THREAD
        )
    (run,) = read_runs(saver, "back")
    assert_audited(run)
    return run


def told(run: RecordedRun) -> list[str]:
    """The places of the steps and who wrote them; the last one is empty."""
    return [f"{step.text.split()[1] if step.text else STEPS} {step.author}" for step in run.steps]


def taken_back(run: RecordedRun) -> dict[int, list[int]]:
    return {step.index: step.taken_back for step in run.steps if step.taken_back}


def test_steps_are_taken_back_and_the_base_writes_from_there() -> None:
    engines = pair()
    run = ran(engines)
    assert (told(run), taken_back(run), run.stop_reason) == (TRACE, TAKEN_BACK, "answered")
    again = run.steps[4]
    assert (again.decision.rollback, again.decision.reason) == ("collapse", "score_below_threshold")
    assert again.decision.number == pytest.approx(1)
    assert again.discarded is not None
    assert again.discarded.text == "Step 4 of the draft.\n\n"
    assert [step.text.strip() for step in standing(run.steps)] == [
        "Step 0 of the draft.", "Step 1 of the base.", "Step 2 of the base.",
        *(f"Step {place} of the draft." for place in range(3, STEPS)), "",
    ]  # fmt: skip
    assert run.answer is not None
    (answering,) = [
        text for call in engines.base.calls  # type: ignore[attr-defined]
        if call.kind == "generate" and is_closed(text := engines.base.vocabulary.decode(call.prompt_ids))
    ]  # fmt: skip
    assert ASTRAY not in answering
    assert run.steps[-1].tokens_left is not None
    steps = standing(run.steps)
    assert run.steps[-1].tokens_left - run.steps[0].tokens_left == -sum(len(step.token_ids) for step in steps[1:])  # type: ignore[operator]


def test_what_was_taken_back_stays_in_the_ledger_and_is_counted_as_wasted() -> None:
    run = ran(lookahead=0)
    kinds = [(entry.kind, entry.step) for entry in entries(run.manifest, run.trace, run.result, run.stop_reason)]
    assert [step for kind, step in kinds if kind == "step"] == list(range(len(TRACE)))
    summary = run.values["trace_summary"]
    gone = {1, 2, 3, 5, 6}
    assert (summary["taken_back"], summary["steps"]) == (len(gone), len(TRACE))
    wasted = sum(cost.usage.calls for step in run.steps if step.index in gone for cost in step.costs)
    assert summary["wasted"]["calls"] == wasted
    assert run.values["progress"]["steps"] == len(TRACE)


@pytest.mark.parametrize("lookahead", [4, None])
def test_the_trace_does_not_depend_on_work_ahead(lookahead: int | None) -> None:
    turns, ahead = ran(lookahead=0), ran(lookahead=lookahead)
    assert told(turns) == told(ahead)
    assert taken_back(turns) == taken_back(ahead)
    assert [step.token_ids for step in turns.steps] == [step.token_ids for step in ahead.steps]
    assert [step.seed for step in turns.steps] == [step.seed for step in ahead.steps]


@pytest.mark.parametrize(("lookahead", "first", "every"), [(0, 1, 2), (4, 2, 4)])
def test_a_run_that_is_left_at_any_stage_goes_on_to_the_same_end(lookahead: int, first: int, every: int) -> None:
    for stages in count(first, every):
        saver = InMemorySaver()
        with pair() as engines:
            graph = create_specreason(engines, rollback="collapse", lookahead=lookahead).compile(checkpointer=saver)
            stream = graph.stream(QUESTION, THREAD, stream_mode="values")
            seen = [state for state, _ in zip(stream, range(stages), strict=False)]
            stream.close()  # type: ignore[attr-defined]
        with pair() as engines:
            graph = create_specreason(engines).compile(checkpointer=saver)
            if not graph.get_state(THREAD).next:
                break
            graph.invoke(None, THREAD)
        (run,) = read_runs(saver, "back")
        assert_audited(run)
        assert (told(run), taken_back(run)) == (TRACE, TAKEN_BACK), stages
        assert len(seen) == stages
    assert stages > 30


def test_a_base_that_fails_where_it_goes_back_to_loses_nothing() -> None:
    broken = [True]

    def fails(prompt: str) -> Exception | None:
        back = "Step 0 of the draft" in prompt and done(prompt) == 1 and prompt.endswith("\n\n")
        return EngineError("gone", engine="base") if back and broken[0] else None

    saver = InMemorySaver()
    with pair(failure=fails) as engines:
        graph = create_specreason(engines, rollback="collapse").compile(checkpointer=saver)
        with pytest.raises(EngineError, match="gone"):
            graph.invoke(QUESTION, THREAD)
        (cut,) = read_runs(saver, "back")
        assert (verify(cut).findings, len(cut.trace), cut.values["pending"]["decision"]["taken_back"]) == (
            [], 4, [1, 2, 3],
        )  # fmt: skip
        broken[0] = False
        graph.invoke(None, THREAD)
    (run,) = read_runs(saver, "back")
    assert_audited(run)
    assert told(run) == TRACE


def test_time_travel_from_before_the_steps_were_taken_back() -> None:
    saver = InMemorySaver()
    with pair() as engines:
        graph = create_specreason(engines, rollback="collapse").compile(checkpointer=saver)
        stream = graph.stream(QUESTION, THREAD, stream_mode="custom")
        next(part for part in stream if part["event"] == "rolled_back")  # the stage is in the middle of going back
        before = next(each for each in graph.get_state_history(THREAD) if each.next == ("draft",))
        stream.close()  # type: ignore[attr-defined]
        graph.invoke(None, before.config)
    ends = read_runs(saver, "back")
    assert [told(run) for run in ends if run.finished] == [TRACE]


def test_a_deadline_on_the_way_back_leaves_the_steps_where_they_are() -> None:
    def write(prompt: str) -> str:
        return writing("base", STEPS)(prompt)

    class Slow(FakeEngine):
        async def generate(self, prompt: Any, *arguments: Any) -> Any:
            text = self.vocabulary.decode(prompt)
            if done(text) == 1 and not is_closed(text):
                await asyncio.sleep(60)
            return await super().generate(prompt, *arguments)

    saver = InMemorySaver()
    engines = EnginePair(FakeEngine(writing("draft", STEPS), name="draft"), Slow(write, judge, name="base"))
    with engines:
        graph = create_specreason(engines, rollback="collapse", deadline_seconds=1.5, lookahead=0)
        graph.compile(checkpointer=saver).invoke(QUESTION, THREAD)
        (run,) = read_runs(saver, "back")
        last = engines.base.vocabulary.decode(engines.base.calls[-1].prompt_ids)  # type: ignore[attr-defined]
    assert (run.stop_reason, told(run)) == ("deadline", TRACE[:4])
    assert_audited(run)
    assert is_closed(last)
    assert done(last.partition(CLOSE)[0]) >= 4
    assert run.answer is not None
    assert run.answer.unfinished is not None
    assert run.answer.unfinished.decision is not None
    assert run.answer.unfinished.decision.taken_back == [1, 2, 3]


def test_a_real_pair_goes_back(abacus: EnginePair) -> None:
    rule = Collapse(drop=1.0, in_a_row=1)  # that the trace is the same with work ahead: test_judges.py
    runs = [solve(abacus, each.question, judge="likelihood", rollback=rule) for each in held_out()[:2]]
    assert any(step["decision"].get("taken_back") for run in runs for step in run["trace"])


def changed(record: Any, path: tuple[Any, ...] = ()) -> Any:
    """Where numbers and texts stand in a record."""
    for key, value in record.items() if isinstance(record, dict) else enumerate(record):
        if isinstance(value, dict | list):
            yield from changed(value, (*path, key))
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            yield (*path, key)


def test_every_changed_value_of_a_rollback_is_found() -> None:
    run = ran()
    decision = run.trace[4]["decision"]
    places = list(changed(decision))
    assert {("rollback",), ("taken_back", 0), ("number",)} <= set(places)
    for *path, last in places:
        holder = decision
        for key in path:
            holder = holder[key]
        before = holder[last]
        holder[last] = "x" if isinstance(before, str) else before + 1
        assert not verify(run).ok, (path, last)
        holder[last] = before
    for gone in ("rollback", "taken_back"):
        del decision[gone]
        assert not verify(run).ok
        decision.update({"rollback": "collapse", "taken_back": [1, 2, 3]})
    assert verify(run).ok


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"taken_back": [1, 2, 3]', '"taken_back": [2, 3]'),
        ('"taken_back": [5, 6]', '"taken_back": [1, 99]'),
        ('"rollback": "collapse", "taken_back": [1, 2, 3]', '"rollback": null, "taken_back": []'),
    ],
)
def test_steps_that_were_taken_back_without_a_reason_are_found(old: str, new: str) -> None:
    run = ran()
    assert json.dumps(run.trace).count(old) == 1
    assert any("decision" in each.problem for each in recompute(resealed(run, old, new)).differences)


def past(author: Any = "draft", number: float | None = 9.0, judge: str = "digit", **more: Any) -> PastStep:
    return PastStep(author, asked=True, text="A step.", number=number, judge=judge, **more)


LED = (past(number=8), past(number=6))
FELL = past("base", 2.0)


@pytest.mark.parametrize(
    ("rule", "trail", "number", "earlier", "back"),
    [
        (Collapse(), [*LED, FELL], 3.0, 0, 3),
        (Collapse(), [*LED, FELL], 3.0, 1, 3),
        (Collapse(), [*LED, FELL], 3.0, 2, 0),  # often enough
        (Collapse(at_most=3), [*LED, FELL], 3.0, 2, 3),
        (Collapse(), [*LED, FELL], 3.1, 0, 0),
        (Collapse(drop=4.5), [*LED, FELL], 3.0, 0, 0),
        (Collapse(), LED, 0.0, 0, 0),  # the first score that falls
        (Collapse(in_a_row=1), LED, 3.0, 0, 2),
        (Collapse(in_a_row=3), [*LED, FELL], 3.0, 0, 0),
        (Collapse(steps=2), [*LED, FELL], 2.0, 0, 2),
        (Collapse(steps=1), [*LED, FELL], 0.0, 0, 0),  # none of the draft's among them
        (Collapse(steps=5), [past(number=0), *LED, past("base", None), FELL], 0.0, 0, 0),
        (Collapse(steps=5), [past(number=8), *LED, past("base", None), FELL], 3.0, 0, 5),
        (Collapse(), [past(number=8, judge="likelihood"), past("base", 2.0)], 0.0, 0, 0),  # another scale
        (Collapse(), [], 0.0, 0, 0),
        (Never(), [*LED, FELL], 0.0, 0, 0),
    ],
)
def test_the_rule(rule: Rollback, trail: list[PastStep], number: float, earlier: int, back: int) -> None:
    assert rule.steps_back(trail, past(number=number), earlier) == back


@pytest.mark.parametrize(
    ("settings", "gone"),
    [
        ({"at_most": 1}, {4: [1, 2, 3]}),
        ({"steps": 2}, {4: [2, 3]}),
        ({"in_a_row": 1}, {3: [0, 1, 2], 6: [4, 5]}),
        ({"drop": 8.5}, {}),
    ],
)
def test_knobs(settings: dict[str, Any], gone: dict[int, list[int]]) -> None:
    assert taken_back(ran(rollback={"kind": "collapse", **settings})) == gone


@register
class EveryTime(Rollback):
    """Goes back to the beginning on each rejection."""

    kind: Literal["every_time"] = "every_time"
    gives: Any = 1000

    def steps_back(self, trail: Sequence[PastStep], rejected: PastStep, earlier: int) -> int:
        """Whatever it is told to."""
        return self.gives  # type: ignore[no-any-return]


def test_a_rule_of_the_callers_own_ends_and_is_named_where_it_is_missing() -> None:
    run = ran(rollback="every_time")
    assert (taken_back(run), run.stop_reason) == ({3: [0, 1, 2], 6: [4, 5], 8: [7]}, "answered")
    other = resealed(run, "every_time", "forgotten")
    assert (verify(other).findings, what_if(other).changed) == ([], [])
    with pytest.raises(ConfigError, match="there is no rollback 'forgotten' here; register the class that the run had"):
        recompute(other)
    for wrong in (-1, "two", None):
        with pytest.raises(ConfigError, match=f"the rollback 'every_time' gives {wrong!r}; return how many"):
            ran(rollback=EveryTime(gives=wrong))


def test_a_step_that_a_human_decided_on_is_not_taken_back() -> None:
    saver = InMemorySaver()
    with pair() as engines:
        graph = create_specreason(engines, rollback="collapse", review={"low": 8, "high": 9}).compile(
            checkpointer=saver
        )
        outcome = graph.invoke(QUESTION, THREAD)
        while "__interrupt__" in outcome:
            outcome = graph.invoke(Command(resume="accept"), THREAD)
    (run,) = read_runs(saver, "back")
    assert_audited(run)
    assert (taken_back(run), "2 draft" in told(run)) == ({}, True)


def test_a_settled_answer_is_counted_anew_behind_a_rollback() -> None:
    def answering(prompt: str) -> str:
        return "42\nSo." if is_closed(prompt) else writing("base", STEPS)(prompt)

    run = ran(pair(replies=answering), stopping={"kind": "settled", "agree": 5})
    assert run.stop_reason == "answer_settled"
    assert len(run.steps) == 4 + 3 + 5  # the fifth probe would have been at the place of the second
    assert run.values["progress"]["settled"] == 5


def test_forks_go_on_from_any_step() -> None:
    saver = InMemorySaver()
    with pair() as engines:
        graph = create_specreason(engines, rollback="collapse").compile(checkpointer=saver)
        graph.invoke(QUESTION, THREAD)
        (run,) = read_runs(saver, "back")
        for at in range(len(run.steps)):
            graph.invoke(None, fork(graph, f"from {at}", plan_fork(run, engines, at=at)))
            (forked,) = read_runs(saver, f"from {at}")
            assert_audited(forked)
            assert (told(forked), taken_back(forked)) == (TRACE, TAKEN_BACK), at
        edit = Review(verdict="edit", text="Another start.")
        graph.invoke(None, fork(graph, "edited", plan_fork(run, engines, at=5, edit=edit, rollback="never")))
        (edited,) = read_runs(saver, "edited")
        assert (verify(edited).findings, recompute(edited).differences) == ([], [])
        assert [step.text.strip() for step in standing(edited.steps)][:3] == [
            "Step 0 of the draft.", "Another start.", ASTRAY,
        ]  # fmt: skip
        (once,) = read_runs(saver, "from 6")
        for each in (run, once):
            assert rescore(each, engines).drift < 1e-9
            assert rerun(each, engines).ok


def test_another_policy_would_go_back_elsewhere() -> None:
    run = ran()
    assert what_if(run, threshold=8).changed == []
    changed = what_if(run, judge={"reduction": "greedy"}).changed
    assert changed == []
    found = what_if(ran(pair(scores=lambda prompt: 4 if judge(prompt) == 1 else 9)), threshold=3).changed
    assert (found[0].step, found[0].would_be, found[0].goes_back) == (3, True, False)
    torn = [0.6, *[0] * 8, 0.4]  # 3.6 on average, and 0 by the likeliest digit
    run = ran(pair(scores=lambda prompt: torn if judge(prompt) == 1 else 9), rollback={"kind": "collapse", "drop": 6})
    assert taken_back(run) == {}
    found = what_if(run, judge={"reduction": "greedy"}).changed
    assert [(each.step, each.recorded, each.would_be, each.goes_back) for each in found] == [(4, False, False, True)]


def test_events_report_and_terminal_tell_it(capsys: pytest.CaptureFixture[str]) -> None:
    saver = InMemorySaver()
    with pair() as engines:
        graph = create_specreason(engines, rollback="collapse").compile(checkpointer=saver)
        view, events = LiveView(), []
        for part in graph.stream(QUESTION, THREAD, stream_mode="custom"):
            events.append(read_event(part))
            view.show(events[-1])
    back = [(each.index, each.steps) for each in events if each and each.event == "rolled_back"]
    assert dict(back) == TAKEN_BACK
    printed = capsys.readouterr().out
    assert "takes the place of 2, 3, 4; draft rejected: " in printed
    assert "in 14 steps, 5 of them taken back" in printed
    (run,) = read_runs(saver, "back")
    page = render_run(run, verify(run))
    for text in ("5 taken back", "taken back by step 5", "were taken back (collapse)", 'data-tags="taken-back"'):
        assert text in page


def test_chat_model_and_subgraph() -> None:
    with pair() as engines:
        model = ChatSpecReason(pair=engines, settings={"rollback": "collapse"})
        reply = model.invoke([HumanMessage("What is it?")])
        blocks: Any = [block for block in reply.content if block["type"] == "reasoning"]  # type: ignore[index]
        assert [block["extras"]["taken_back"] for block in blocks if "taken_back" in block["extras"]] == [
            [1, 2, 3], [5, 6],
        ]  # fmt: skip
        whole = None
        for chunk in model.stream([HumanMessage("What is it?")]):
            whole = chunk if whole is None else whole + chunk
        assert whole is not None
        assert whole.content == reply.content
        saver = InMemorySaver()
        graph = create_specreason(engines, rollback="collapse").compile()
        parent(graph).compile(checkpointer=saver).invoke(QUESTION, THREAD)
    (run,) = read_runs(saver, "back")
    assert_audited(run)
    assert told(run) == TRACE


def test_on_the_command_line_and_where_it_cannot_be() -> None:
    config = make_config(**parse_settings(["rollback.kind=collapse", "rollback.steps=5"]))
    assert config.rollback == Collapse(steps=5)
    assert make_config(**parse_settings(["rollback=collapse"])).rollback == Collapse()
    assert make_config().rollback == Never()
    with pytest.raises(ConfigError, match=r"rollback\.drop = 0 is not allowed"):
        make_config(rollback={"kind": "collapse", "drop": 0})
    with pair() as engines, pytest.raises(ConfigError, match="rollback = collapse takes steps back"):
        create_specreason(engines, rollback="collapse", thinking="none").compile().invoke(QUESTION)
