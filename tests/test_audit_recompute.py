"""Replays, what-if and forks: what follows from a record, what engines make of it, and how to go on from it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from specreason_graph import EnginePair, create_specreason
from specreason_graph.audit.ask.diff import compare
from specreason_graph.audit.ask.thresholds import curve, suggest
from specreason_graph.audit.ask.whatif import what_if
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.rerun import rerun
from specreason_graph.audit.check.rescore import rescore
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.fork import fork, plan_fork
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.config import Band
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import ConfigError, ThreadError
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.record.records import Review
from tests.support.audited import by_prompt, meddling, recorded, scripted, think
from tests.support.databases import opened
from tests.support.parents import parent
from tests.support.recording import record

RUNS = int(os.environ.get("SPECREASON_RUNS", "5"))
PROBLEMS = held_out()[100 : 100 + RUNS]
THRESHOLDS = (3.0, 5.0, 7.0, 9.0)


@pytest.fixture(scope="module")
def runs(abacus: EnginePair) -> list[RecordedRun]:
    """Runs of the reference pair, sampled."""
    return [record(abacus, problem.question, seed=number) for number, problem in enumerate(PROBLEMS)]


def test_decisions_totals_and_stop_reasons_follow_from_the_record(runs: list[RecordedRun]) -> None:
    for run in runs:
        assert recompute(run).differences == []
        assert verify(run).ok


def test_running_again_gives_the_same_tokens(runs: list[RecordedRun], abacus: EnginePair) -> None:
    for run in runs:
        found = rerun(run, abacus)
        assert found.difference is None
        assert found.changed_engines == found.caveats == []
        assert found.tokens == sum(len(step.token_ids) for step in run.steps) + len(run.result["token_ids"])


def test_the_judge_says_the_same_again(runs: list[RecordedRun], abacus: EnginePair) -> None:
    for run in runs:
        found = rescore(run, abacus)
        assert [step.step for step in found.steps] == [step.index for step in run.steps if step.score]
        assert found.drift < 1e-5
        assert found.flipped == []


def test_another_threshold_parts_where_a_real_run_with_it_does(runs: list[RecordedRun], abacus: EnginePair) -> None:
    parted = 0
    for number, run in enumerate(runs):
        for threshold in THRESHOLDS:
            truth = compare(run, record(abacus, run.question, seed=number, threshold=threshold))
            predicted = what_if(run, threshold=threshold)
            assert predicted.first_divergence == truth.first_divergence
            parted += truth.first_divergence is not None
    assert parted


def test_a_record_that_says_otherwise_is_told_at_the_step() -> None:
    saver = InMemorySaver()
    think(saver, "one")
    (run,) = read_runs(saver, "one")
    changes: list[tuple[str, Any]] = [
        ("decision", {**run.trace[4]["decision"], "accepted": False}), ("seed", 5), ("author", "base"),
        ("tokens_left", 0),
        ("score", {**run.trace[4]["score"], "mean": 1.0}),
    ]  # fmt: skip
    for name, value in changes:
        trace = [*run.trace[:4], {**run.trace[4], name: value}, *run.trace[5:]]
        changed = RecordedRun(run.thread_id, "", manifest=run.manifest, trace=trace, values=run.values)
        assert recompute(changed).differences[0].step == 4, name
    short = RecordedRun(run.thread_id, "", manifest=run.manifest, trace=run.trace[:-1], values=run.values)
    assert not recompute(short).ok


@pytest.mark.parametrize("totals", [{}, {"stepz": 3}, [1], None])
def test_totals_that_are_none_are_told(totals: Any) -> None:
    saver = InMemorySaver()
    think(saver, "one", 3)
    (run,) = read_runs(saver, "one")
    run.values["trace_summary"] = totals
    (found,) = recompute(run).differences
    assert found.problem.startswith(f"summary: recorded {totals!r}, computed ")


def test_settings_of_every_kind_replay() -> None:
    for settings in (
        {"first_steps_by_base": 3}, {"max_steps": 4}, {"thinking_tokens": 40}, {"judge": {"reduction": "greedy"}},
        {"repetition_limit": 2}, {"threshold": 9}, {"max_step_tokens": 7},
    ):  # fmt: skip
        saver = InMemorySaver()
        think(saver, "one", **settings)
        (run,) = read_runs(saver, "one")
        assert recompute(run).differences == [], settings


def test_regenerating_tells_the_first_token_that_differs() -> None:
    saver = InMemorySaver()
    think(saver, "one", 6)
    (run,) = read_runs(saver, "one")
    with scripted(6) as pair:
        assert rerun(run, pair).ok
    with scripted(6, "otherwise") as pair:
        found = rerun(run, pair).difference
    assert found is not None
    assert (found.step, found.part, found.token) == (0, "proposal", len("Step 0 "))


def test_a_reviewed_run_is_replayed_with_what_the_human_said() -> None:
    saver = InMemorySaver()
    with by_prompt(6) as pair:
        graph = create_specreason(pair, review=Band(low=2, high=8)).compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "one"}}
        outcome = graph.invoke({"question": "What?"}, config)
        edit = {"verdict": "edit", "text": "As I say.", "reviewer": "Ann", "note": "why"}
        words: Any = iter(["accept", edit, "reject", "accept", "reject", "accept"])
        while "__interrupt__" in outcome:
            outcome = graph.invoke(Command(resume=next(words)), config)
    (run,) = read_runs(saver, "one")
    assert [step.author for step in run.steps].count("human") == 1
    assert verify(run).ok
    assert recompute(run).differences == []
    with by_prompt(6) as again:
        assert rerun(run, again).ok
    assert what_if(run, threshold=9).changed == []  # what a human settled stays so


def test_forks_at_every_step_keep_the_prefix_and_touch_nothing(place: str) -> None:
    with opened(place) as saver, meddling(place) as meddler:
        think(saver, "whole", 7)
        before = meddler.fingerprint("whole")
        (run,) = read_runs(saver, "whole")
        for at in range(len(run.trace) + 1):
            with scripted(20, "again") as pair:
                graph = create_specreason(pair).compile(checkpointer=saver)
                config = fork(graph, f"at-{at}", plan_fork(run, pair, at=at, threshold=9, max_steps=12))
                graph.invoke(None, config, durability="sync")
            (forked,) = read_runs(saver, f"at-{at}")
            assert [_bare(step) for step in forked.trace[:at]] == [_bare(step) for step in run.trace[:at]]
            lineage = forked.manifest["forked_from"]
            assert lineage["head"] == (run.trace[at - 1] if at else run.manifest)["hash"]
            assert (lineage["thread_id"], lineage["run"], lineage["step"]) == ("whole", run.run, at)
            assert forked.finished
            assert verify(forked).ok
            assert recompute(forked).differences == []
        assert meddler.fingerprint("whole") == before


def _bare(step: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in step.items() if name != "hash"}


def test_a_run_inside_a_subgraph_is_forked_and_the_original_is_not_touched(place: str) -> None:
    with opened(place) as saver, meddling(place) as meddler:
        with scripted(6) as pair:
            app = parent(create_specreason(pair).compile()).compile(checkpointer=saver)
            app.invoke({"question": "What?"}, {"configurable": {"thread_id": "inner"}})
        (run,) = read_runs(saver, "inner")
        assert run.namespace.startswith("think:")
        assert verify(run).ok
        before = meddler.fingerprint("inner")
        for at in range(len(run.trace) + 1):
            with scripted(20, "again") as pair:
                graph = create_specreason(pair).compile(checkpointer=saver)
                graph.invoke(None, fork(graph, f"inner-{at}", plan_fork(run, pair, at=at, threshold=9, max_steps=9)))
            (forked,) = read_runs(saver, f"inner-{at}")
            assert [_bare(step) for step in forked.trace[:at]] == [_bare(step) for step in run.trace[:at]]
            assert forked.manifest["forked_from"]["namespace"] == run.namespace
            assert verify(forked).ok
        assert meddler.fingerprint("inner") == before


def test_a_step_is_written_anew_by_a_human(place: str) -> None:
    with opened(place) as saver, by_prompt(6) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        graph.invoke({"question": "What?"}, {"configurable": {"thread_id": "mine"}})
    run = recorded(place, "mine")
    edit = Review(verdict="edit", text="I know better.", reviewer="Ann", note="seen it")
    with opened(place) as saver, by_prompt(6) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        for at in (1, 2, len(run.trace)):
            graph.invoke(None, fork(graph, f"mine-{at}", plan_fork(run, pair, at=at, edit=edit)))
    for at in (1, 2, len(run.trace)):
        forked = recorded(place, f"mine-{at}")
        step = forked.steps[at - 1]
        assert (step.author, step.text, step.decision.review) == ("human", "I know better.\n\n", edit)
        assert forked.manifest["forked_from"]["edited"]
        assert verify(forked).ok
        assert recompute(forked).differences == []
        with by_prompt(6) as pair:
            assert rerun(forked, pair).ok


def test_a_fork_into_other_vocabularies_keeps_the_text(runs: list[RecordedRun]) -> None:
    saver = InMemorySaver()
    with scripted(3) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        graph.invoke(None, fork(graph, "other", plan_fork(runs[0], pair, at=1)))
    (forked,) = read_runs(saver, "other")
    assert forked.steps[0].text == runs[0].steps[0].text
    assert forked.steps[0].token_ids == list(runs[0].steps[0].text.encode())
    assert verify(forked).ok
    with scripted(3) as pair, pytest.raises(ThreadError, match="mean something else"):
        rescore(runs[0], pair)


def test_what_a_fork_took_over_is_not_judged_again_by_its_own_judge() -> None:
    saver = InMemorySaver()
    with by_prompt(6) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        graph.invoke({"question": "What?"}, {"configurable": {"thread_id": "one"}})
        (run,) = read_runs(saver, "one")
        graph.invoke(None, fork(graph, "other", plan_fork(run, pair, at=2, judge={"instruction": "Is it right?"})))
        (forked,) = read_runs(saver, "other")
        again = rescore(forked, pair)
    assert [each.step for each in again.steps] == [step.index for step in forked.steps[2:] if step.score]
    assert again.drift == 0


def test_what_cannot_be_forked_or_run_again_is_said() -> None:
    saver = InMemorySaver()
    think(saver, "one", 3)
    (run,) = read_runs(saver, "one")
    with scripted(3) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        with pytest.raises(ThreadError, match="choose 0 to 4"):
            plan_fork(run, pair, at=5)
        with pytest.raises(ThreadError, match="an edit needs"):
            plan_fork(run, pair, at=0, edit=Review(verdict="edit", text="x"))
        with pytest.raises(ThreadError, match="exists; name a new one"):
            fork(graph, "one", plan_fork(run, pair, at=1))
        with pytest.raises(ConfigError, match="threshold"):
            plan_fork(run, pair, at=1, threshold=12)
        half = RecordedRun("one", "", manifest=run.manifest, trace=run.trace[:1], values={"progress": {"run": "x"}})
        with pytest.raises(ThreadError, match="not finished; resume it first"):
            rerun(half, pair)


def judged(scores: list[int]) -> RecordedRun:
    """A run whose proposals got these scores."""
    saver = InMemorySaver()
    draft = FakeEngine([*(f"Step {number} of it.\n\n" for number in range(len(scores))), "</think>"])
    base = FakeEngine(
        [*(f"Better step {number}.\n\n" for number, score in enumerate(scores) if score < 7), "</think>", "So."], scores
    )
    with EnginePair(draft, base) as pair:
        create_specreason(pair).compile(checkpointer=saver).invoke(
            {"question": "?"}, {"configurable": {"thread_id": "one"}}
        )
    (run,) = read_runs(saver, "one")
    return run


def test_another_policy_is_exact_up_to_the_first_change() -> None:
    run = judged([9, 8, 3, 7, 9, 5])
    for threshold, first, acceptance in [(7, None, 4 / 6), (8.5, 1, 2 / 6), (4, 5, 5 / 6), (0, 2, 1), (9, 1, 2 / 6)]:
        found = what_if(run, threshold=threshold)
        assert found.first_divergence == first, threshold
        assert found.acceptance == pytest.approx(acceptance)
    assert what_if(run, first_steps_by_base=1).changed[0].would_be is False
    with pytest.raises(ConfigError, match="threshold = 10"):
        what_if(run, threshold=10)


def test_another_reading_may_be_about_another_version() -> None:
    run = judged([9, 6, 9])
    for step in run.trace[:2]:
        other = {**step["score"], "mean": step["score"]["mean"] - 0.1, "greedy": 9}
        step["score"]["greedy"] = 6
        step["alternatives"] = [{"proposal": step["discarded"] or run.trace[1]["discarded"], "score": other}]
    assert what_if(run).changed == []
    changed = what_if(run, judge={"reduction": "greedy"}).changed
    assert [(each.step, each.recorded, each.would_be, each.number) for each in changed] == [
        (0, True, True, 9), (1, False, True, 9),
    ]  # fmt: skip
    assert all(each.another for each in changed)


def test_a_step_of_a_late_run_keeps_the_threshold_it_had() -> None:
    run = judged([9, 9, 9])
    run.trace[1]["score"]["mean"], run.trace[1]["decision"]["threshold"] = 6.0, 5.0
    assert what_if(run).changed == []
    assert what_if(run, threshold=7).first_divergence == 1


def test_first_steps_that_the_base_wrote_tell_nothing_of_the_draft() -> None:
    saver = InMemorySaver()
    think(saver, "one", first_steps_by_base=2)
    (run,) = read_runs(saver, "one")
    found = what_if(run, first_steps_by_base=1)
    assert [(change.step, change.would_be) for change in found.changed] == [(1, None)]


def test_a_threshold_is_suggested_that_holds_for_many_runs() -> None:
    many = [judged([9, 9, 9, 4]) for _ in range(60)] + [judged([9, 6, 9, 4]) for _ in range(20)]
    points = {point.threshold: point for point in curve(many)}
    assert points[9.0].acceptance == pytest.approx((60 * 3 + 20 * 2) / 320)
    assert points[0.0].acceptance == 1
    assert points[7.0].same == 80
    accepts = [points[threshold].acceptance for threshold in sorted(points)]
    assert accepts == sorted(accepts, reverse=True)
    found = suggest(many, 0.5)
    assert found.threshold == 9
    assert found.acceptance_at_least == 0.5
    assert found.acceptance == pytest.approx(points[9.0].acceptance)
    eager = suggest(many, 0.8)
    assert eager.threshold is not None
    assert eager.threshold <= 4
    assert eager.let_in == pytest.approx((60 * 0.25 + 20 * 0.5) / 80)
    assert eager.let_in_at_most is not None
    assert eager.let_in_at_most > eager.let_in  # type: ignore[operator]
    assert suggest(many[:2], 0.8).threshold is None
    for target in (0, 1.5):
        with pytest.raises(ConfigError, match="target"):
            suggest(many, target)


def test_two_runs_are_compared() -> None:
    one, other = judged([9, 8, 3, 9]), judged([9, 3, 3, 9])
    found = compare(one, other)
    assert found.first_divergence == 1
    assert not found.same
    assert found.rows[0].same
    assert (found.one.by_draft, found.other.by_draft) == (3, 2)
    assert compare(one, one).same
    assert compare(one, judged([9, 8, 3, 9])).first_divergence is None


def test_a_record_is_read_without_an_engine_library(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from specreason_graph.audit.ask import diff, thresholds, whatif\n"
        "from specreason_graph.audit.check import recompute, verify\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
