"""Pruning: the runs of a thread read as before from one checkpoint each, and nothing goes that could be missed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from typing_extensions import TypedDict

from specreason_graph import EnginePair, create_specreason
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.keep import prune as module
from specreason_graph.audit.keep.prune import prune
from specreason_graph.audit.keep.tables import tables_of
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import ConfigError, EngineError, ThreadError
from specreason_graph.runs.find import find_runs
from tests.support.databases import TABLES, connected, opened, rows, stored
from tests.support.encryption import Aes
from tests.support.old_runs import FIRST, copied
from tests.support.parents import WRAPS, parent
from tests.support.scripts import ANSWER, stepwise, writing

STEPS = 120
"""More than the hundred after which a delta channel takes a snapshot by itself."""


OPINIONS = [2 if number == 3 else 9 for number in range(STEPS)]


@pytest.fixture(scope="module")
def pair() -> Iterator[EnginePair]:
    with stepwise(STEPS, OPINIONS, context=10**6) as pair:
        yield pair


def build(pair: EnginePair, saver: Any, *, max_steps: int = 12, **settings: Any) -> Any:
    graph = create_specreason(pair, max_steps=max_steps, thinking_tokens=10**6, **settings)
    return graph.compile(checkpointer=saver)


def at(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


def count(place: str, thread: str) -> dict[str, int]:
    return {name: len(rows(place, name, thread)) for name in TABLES["postgres" if "://" in place else "sqlite"]}


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_runs_one_after_the_other_keep_their_last_checkpoints(pair: EnginePair, place: str, durability: Any) -> None:
    thread = f"three-{durability}"
    with opened(place) as saver:
        graph, briefly = build(pair, saver, max_steps=200), at(thread)
        briefly["configurable"]["specreason"] = {"max_steps": 12}
        graph.invoke({"question": "One?"}, at(thread), durability=durability)
        graph.invoke({"question": "Two?"}, briefly, durability=durability)
        graph.invoke({"messages": [("user", "Three?")]}, briefly, durability=durability)
        runs, found, state = read_runs(saver, thread), find_runs(saver, thread), graph.get_state(at(thread))
        assert [(run.question, len(run.trace)) for run in runs] == [("Three?", 12), ("Two?", 12), ("One?", 121)]
        before = count(place, thread)
        pruned = prune(saver, thread)
        assert (pruned.runs, pruned.kept, pruned.dry_run) == ([run.run for run in runs], 3, False)
        after = count(place, thread)
        assert after["checkpoints"] == 3
        assert after[TABLES["postgres" if "://" in place else "sqlite"][1]] == 0
        assert pruned.checkpoints == before["checkpoints"] - 3
        assert read_runs(saver, thread) == runs
        assert all(verify(run).ok for run in read_runs(saver, thread))
        assert find_runs(saver, thread) == found
        again = graph.get_state(at(thread))
        assert (again.values, again.next, again.config) == (state.values, (), state.config)
        for run in runs:
            old = graph.get_state({"configurable": {"thread_id": thread, "checkpoint_id": run.checkpoint_id}})
            assert (old.values["manifest"], old.values["trace"]) == (run.manifest, run.trace)
        graph.invoke({"question": "Four?"}, briefly, durability=durability)
        four, *earlier = read_runs(saver, thread)
        assert (four.question, len(four.trace), four.findings, earlier) == ("Four?", 12, [], runs)
        assert prune(saver, thread).kept == 4
        assert read_runs(saver, thread) == [four, *runs]


def test_little_is_left_and_a_second_time_nothing_goes(pair: EnginePair, place: str) -> None:
    with opened(place) as saver:
        build(pair, saver, max_steps=200).invoke({"question": "What?"}, at("little"))
        planned, pruned, again = prune(saver, "little", dry_run=True), prune(saver, "little"), prune(saver, "little")
        assert pruned.checkpoints > 3 * STEPS
        assert pruned.writes > pruned.checkpoints
        assert (pruned.blobs > 0) == ("://" in place)
        assert pruned.bytes_after < pruned.bytes_before / 4
        assert planned.dry_run
        for name in ("runs", "kept", "checkpoints", "writes", "blobs", "bytes_before"):
            assert getattr(planned, name) == getattr(pruned, name)
        assert planned.bytes_after == pytest.approx(pruned.bytes_after, rel=0.05)
        assert again == pruned.model_copy(
            update={"checkpoints": 0, "writes": 0, "blobs": 0, "bytes_before": pruned.bytes_after}
        )


def test_a_dry_run_changes_nothing(pair: EnginePair, place: str) -> None:
    with opened(place) as saver:
        build(pair, saver).invoke({"question": "What?"}, at("dry"))
        before = stored(place, "dry")
        assert prune(saver, "dry", dry_run=True).checkpoints > 0
        assert {name: sorted(raw) for name, raw in stored(place, "dry").items()} == {
            name: sorted(raw) for name, raw in before.items()
        }


@pytest.mark.parametrize("way", WRAPS)
def test_in_a_graph_of_others_only_our_namespaces_are_touched(pair: EnginePair, place: str, way: str) -> None:
    (wrap, questions), thread = WRAPS[way], way
    with opened(place) as saver:
        app = wrap(create_specreason(pair, max_steps=12, thinking_tokens=10**6).compile(), saver)
        app.invoke({"question": "What?"}, at(thread))
        before = read_runs(saver, thread)
        theirs = others(place, thread, before)
        found, history = find_runs(saver, thread), list(app.get_state_history(at(thread)))
        assert theirs
        assert prune(saver, thread).kept == len(before) == len(questions)
        assert read_runs(saver, thread) == before
        assert find_runs(saver, thread) == found
        assert others(place, thread, before) == theirs
        assert list(app.get_state_history(at(thread))) == history
        assert app.invoke({"question": "Again?"}, at(thread))["answer" if way == "nested" else "answers"]
        assert len(read_runs(saver, thread)) == 2 * len(questions)


def others(place: str, thread: str, runs: list[RecordedRun]) -> list[str]:
    """The rows of a thread outside our namespaces."""
    tables, ours = TABLES["postgres" if "://" in place else "sqlite"], {run.namespace for run in runs}
    kept = [row for table in tables for row in rows(place, table, thread) if row["checkpoint_ns"] not in ours]
    return sorted(map(repr, kept))


def test_a_parent_that_broke_off_behind_our_run_goes_on(pair: EnginePair, place: str) -> None:
    class State(TypedDict, total=False):
        question: str
        answer: str
        report: str

    healthy: list[bool] = []

    def report(state: State) -> Any:
        if not healthy:
            raise RuntimeError("broke off")
        return {"report": state["answer"] + "!"}

    graph = StateGraph(State)
    graph.add_node("think", create_specreason(pair, max_steps=12, thinking_tokens=10**6).compile())
    graph.add_node("report", report)
    graph.add_edge(START, "think")
    graph.add_edge("think", "report")
    with opened(place) as saver:
        app = graph.compile(checkpointer=saver)
        with pytest.raises(RuntimeError, match="broke off"):
            app.invoke({"question": "What?"}, at("broke"))
        prune(saver, "broke")
        healthy.append(True)
        assert app.invoke(None, at("broke"))["report"] == f"{ANSWER}!"


def test_a_crash_between_writing_and_removing_loses_nothing(
    pair: EnginePair, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(place) as saver:
        graph = build(pair, saver)
        for question in ("One?", "Two?"):
            graph.invoke({"question": question}, at("crash"))
        runs, before = read_runs(saver, "crash"), count(place, "crash")
        completed = module.complete_run

        def fails_at_the_second(*arguments: Any, **more: Any) -> int:
            if arguments[1].question == "One?":
                raise KeyboardInterrupt
            return completed(*arguments, **more)

        monkeypatch.setattr(module, "complete_run", fails_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            prune(saver, "crash")
        monkeypatch.setattr(module, "complete_run", completed)
        assert read_runs(saver, "crash") == runs
        assert count(place, "crash")["checkpoints"] == before["checkpoints"]
        tables: Any = type(tables_of(saver))
        real = tables.remove_rows

        def fails_when_all_is_removed(*arguments: Any) -> Any:
            real(*arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(tables, "remove_rows", fails_when_all_is_removed)
        with pytest.raises(KeyboardInterrupt):
            prune(saver, "crash")
        monkeypatch.setattr(tables, "remove_rows", real)
        assert read_runs(saver, "crash") == runs
        assert all(verify(run).ok for run in read_runs(saver, "crash"))
        assert len(list(graph.get_state_history(at("crash")))) == before["checkpoints"]
        assert prune(saver, "crash").kept == 2
        assert read_runs(saver, "crash") == runs


def test_branches_that_are_finished_are_all_kept(pair: EnginePair, place: str) -> None:
    with opened(place) as saver:
        graph = build(pair, saver)
        graph.invoke({"question": "What?"}, at("branch"))
        middle = next(each for each in graph.get_state_history(at("branch")) if len(each.values["trace"]) == 6)
        graph.invoke(None, middle.config)
        runs = read_runs(saver, "branch")
        assert len(runs) == 2
        assert prune(saver, "branch").kept == 2
        assert read_runs(saver, "branch") == runs


def test_an_encrypted_thread_stays_encrypted(pair: EnginePair, place: str) -> None:
    with opened(place, EncryptedSerializer(Aes(AESGCM.generate_key(256)))) as saver:
        build(pair, saver).invoke({"question": "What of zebras?"}, at("secret"))
        runs = read_runs(saver, "secret")
        prune(saver, "secret")
        assert read_runs(saver, "secret") == runs
    raw = b"".join(stored(place, "secret").values())
    assert not [text for text in (b"zebras", b"of the draft", ANSWER.encode()) if text in raw]


def unchanged(saver: Any, place: str, thread: str, match: str) -> None:
    """Pruning is refused, and the database is as before."""
    before = stored(place, thread)
    for dry_run in (True, False):
        with pytest.raises(ThreadError, match=match):
            prune(saver, thread, dry_run=dry_run)
    assert stored(place, thread) == before


def test_a_run_that_is_not_finished_is_refused(pair: EnginePair, place: str) -> None:
    with opened(place) as saver:
        graph = build(pair, saver)
        graph.invoke({"question": "One?"}, at("open"))
        graph.invoke({"question": "Two?"}, at("open"), interrupt_after=["score"])
        unchanged(saver, place, "open", r"run '\w+' is not finished; resume it to its end first")
        graph.invoke(None, at("open"))
        assert prune(saver, "open").kept == 2


def test_a_question_that_waits_is_refused(pair: EnginePair, place: str) -> None:
    with opened(place) as saver:
        graph = build(pair, saver)
        graph.invoke({"question": "One?"}, at("waits"))
        graph.invoke({"question": "Two?"}, at("waits"), interrupt_before=["prepare"])
        unchanged(saver, place, "waits", "something was begun behind its last run")


def test_a_branch_that_is_not_finished_is_refused(pair: EnginePair, place: str) -> None:
    with opened(place) as saver:
        graph = build(pair, saver)
        graph.invoke({"question": "What?"}, at("half"))
        middle = next(each for each in graph.get_state_history(at("half")) if len(each.values["trace"]) == 6)
        graph.invoke(None, middle.config, interrupt_after=["score"])
        unchanged(saver, place, "half", "is not finished")


def test_a_reviewer_who_was_not_answered_is_refused(pair: EnginePair, place: str) -> None:
    with opened(place) as saver:
        graph = build(pair, saver, review={"low": 1, "high": 3})
        graph.invoke({"question": "What?"}, at("asked"))
        unchanged(saver, place, "asked", "is not finished")
        graph.invoke(Command(resume="reject"), at("asked"))
        runs = read_runs(saver, "asked")
        assert prune(saver, "asked").kept == 1
        assert read_runs(saver, "asked") == runs


def test_a_run_that_failed_is_refused(place: str) -> None:
    def fails(prompt: str) -> str:
        if prompt.count("A step") > 1:
            raise EngineError("gone", engine="draft")
        return f"A step behind {prompt.count(chr(10))}.\n\n"

    with EnginePair(FakeEngine(fails), FakeEngine(writing("base", STEPS), lambda _: 9)) as pair, opened(place) as saver:
        graph = build(pair, saver, continue_without_draft=False)
        with pytest.raises(EngineError, match="gone"):
            graph.invoke({"question": "What?"}, at("failed"))
        unchanged(saver, place, "failed", "is not finished")


def test_damage_is_refused(pair: EnginePair, place: str) -> None:
    with opened(place) as saver:
        build(pair, saver).invoke({"question": "What?"}, at("damage"))
    column, table = ("blob", "checkpoint_writes") if "://" in place else ("value", "writes")
    mark = "%s" if "://" in place else "?"
    with connected(place) as connection:
        found = rows(place, table, "damage")
        victim = next(row for row in found if row["channel"] == "trace" and b"Step 6 of the draft" in row[column])
        raw = victim[column].replace(b"Step 6", b"Step 7")
        names = ("thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx")
        where = " and ".join(f"{name} = {mark}" for name in names)
        connection.execute(
            f"update {table} set {column} = {mark} where {where}",  # noqa: S608
            [raw, *(victim[name] for name in names)],
        )
    with opened(place) as saver:
        unchanged(saver, place, "damage", "damaged|not as it was written")


def test_another_graph_in_the_same_namespace_is_refused(pair: EnginePair, place: str) -> None:
    with opened(place) as saver:
        build(pair, saver).invoke({"question": "What?"}, at("shared"))
        parent(lambda _: {"answers": ["theirs"]}).compile(checkpointer=saver).invoke({"question": "?"}, at("shared"))
        unchanged(saver, place, "shared", "also holds another graph")


def test_a_thread_of_another_graph_or_of_none_is_refused(place: str) -> None:
    with opened(place) as saver:
        parent(lambda _: {"answer": "x"}).compile(checkpointer=saver).invoke({"question": "?"}, at("other"))
        unchanged(saver, place, "other", "holds no run of specreason")
        unchanged(saver, place, "nothing", "no thread 'nothing'")


def test_other_savers_are_refused(pair: EnginePair) -> None:
    saver = InMemorySaver()
    build(pair, saver).invoke({"question": "What?"}, at("memory"))
    with pytest.raises(ConfigError, match="InMemorySaver cannot be pruned; open its database with SqliteSaver or"):
        prune(cast("Any", saver), "memory")


@pytest.mark.parametrize(("version", "thread"), [(1, FIRST), (2, "plain"), (3, "plain"), (3, "forked")])
def test_a_run_of_an_earlier_schema_version_is_pruned_too(version: int, thread: str, tmp_path: Path) -> None:
    with opened(copied(version, tmp_path)) as saver:
        runs, found = read_runs(saver, thread), find_runs(saver, thread)
        assert prune(saver, thread).checkpoints > 0
        assert read_runs(saver, thread) == runs
        assert find_runs(saver, thread) == found
