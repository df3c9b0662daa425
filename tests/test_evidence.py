"""Whoever writes into the database, or resumes with something else: readers show what was sealed, or refuse."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
from langchain_core.messages import HumanMessage, RemoveMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, RetryPolicy

from specreason_graph import EnginePair, create_specreason, find_runs
from specreason_graph.audit.check.anchor import check_timestamp, make_anchor, read_anchor, timestamp_request
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.verify import NOT_COVERED, check_whole, verify
from specreason_graph.audit.fork import fork, plan_fork
from specreason_graph.audit.keep.prune import prune
from specreason_graph.audit.read.reader import read_all_runs, read_runs
from specreason_graph.audit.read.recorded import choose_run
from specreason_graph.audit.show.report import render_run
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import EngineError, RecordError, ThreadError, UsageError
from specreason_graph.runs.find import FoundRun, read_values
from specreason_graph.runs.launch import BUILT_IN, Launch, make_launch, with_callers_word
from tests.support.audited import meddling, recorded, scripted, think
from tests.support.counting import Counting
from tests.support.databases import opened
from tests.support.pages import Page
from tests.support.parents import Parent, parent
from tests.support.scripts import ANSWER, judging, stepwise, writing

FORGED: dict[str, Any] = {
    "answer": "999", "stop_reason": "answered", "trace": [{"index": 99, "text": "forged"}],
    "manifest": {"question": "x"}, "result": {"text": "999"}, "progress": {"run": "x"}, "pending": {"error": "x"},
    "trace_summary": {"steps": 1}, "branch:to:finalize": None,
}  # fmt: skip
"""Values that somebody puts behind the last checkpoint of a run, by channel."""
CHANGED = "the conversation of the thread is not the one that was sealed"
FOUND_IN_PLAIN = ("question", "steps", "stop_reason", "answer", "next")


def config(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


def tells_nothing(found: FoundRun) -> bool:
    return found.problem is not None and not any(getattr(found, name) for name in FOUND_IN_PLAIN)


def read_in_vain(place: str, thread: str) -> str:
    """What all readers refuse with."""
    with opened(place) as saver:
        (found,) = find_runs(saver, thread)
        assert tells_nothing(found)
        with pytest.raises(RecordError, match=r"not as it was written|damaged") as refused:
            next(read_values(saver, [thread]))
    return str(refused.value)


# --- Somebody writes into the database


@pytest.mark.parametrize("channel", FORGED)
def test_a_write_behind_the_end_of_a_run_is_found_and_read_by_nobody(place: str, channel: str) -> None:
    thread = f"forged-{channel}"
    with opened(place) as saver:
        think(saver, thread, 4)
    assert verify(recorded(place, thread)).ok
    with meddling(place) as meddler:
        meddler.forge(thread, channel, FORGED[channel])
    (finding,) = verify(recorded(place, thread)).findings
    assert finding.problem == f"something was written behind its end: {channel}"
    assert "behind its end" in read_in_vain(place, thread)


@pytest.mark.parametrize("channel", FORGED)
def test_a_write_behind_an_unfinished_run_is_no_part_of_it(place: str, channel: str) -> None:
    thread = f"half-{channel}"
    with opened(place) as saver, scripted(6) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        graph.invoke({"question": "What?"}, config(thread), interrupt_after=["regenerate"])
    assert verify(recorded(place, thread)).ok
    with meddling(place) as meddler:
        meddler.forge(thread, channel, FORGED[channel])
    assert any("begun behind its last checkpoint" in each.problem for each in verify(recorded(place, thread)).findings)
    read_in_vain(place, thread)


def test_a_forged_question_that_waits_shows_no_other_answer(tmp_path: Path) -> None:
    place = str(tmp_path / "runs.sqlite")
    with opened(place) as saver:
        think(saver, "one", 4)
    with closing(sqlite3.connect(place)) as connection:
        name, kind, stored, metadata = connection.execute(
            "select checkpoint_id, type, checkpoint, metadata from checkpoints order by checkpoint_id desc"
        ).fetchone()
        forged = JsonPlusSerializer().loads_typed((kind, stored))
        forged["id"] = "1fffffff" + name[8:]
        forged["channel_values"] |= {"answer": ["999"], "__start__": {"question": "next"}}
        row = (forged["id"], name, *JsonPlusSerializer().dumps_typed(forged), metadata)
        connection.execute(
            "insert into checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, "
            "metadata) values ('one', '', ?, ?, ?, ?, ?)", row,
        )  # fmt: skip
        connection.commit()
    (finding,) = verify(recorded(place, "one")).findings
    assert finding.problem == "a checkpoint that holds the next question has another answer"
    read_in_vain(place, "one")


@pytest.mark.parametrize(
    ("channel", "value"),
    [
        ("result", lambda old: [old]), ("progress", lambda old: [old]), ("answer", lambda old: [old]),
        ("pending", lambda _: [1]), ("trace_summary", lambda old: {**old, "steps": float(old["steps"])}),
        ("trace_summary", lambda old: {**old, "accepted": 99}), ("progress", lambda old: {**old, "seconds": 0.125}),
        ("progress", lambda old: {**old, "tokens_left": 1}), ("progress", lambda old: {**old, "slo_ratio": 0.5}),
        ("progress", lambda old: {**old, "thinking_tokens": 1.0 * old["thinking_tokens"]}),
        ("stop_reason", lambda _: "deadline"), ("stop_reason", lambda _: {"answered": 1}),
    ],
)  # fmt: skip
def test_values_beside_the_ledger_that_are_changed_or_wrapped_are_found(
    tmp_path: Path, channel: str, value: Callable[[Any], Any]
) -> None:
    place = str(tmp_path / "runs.sqlite")
    with opened(place) as saver:
        think(saver, "one", 4)
    with closing(sqlite3.connect(place)) as connection:
        name, kind, stored = connection.execute(
            "select checkpoint_id, type, checkpoint from checkpoints order by checkpoint_id desc"
        ).fetchone()
        changed = JsonPlusSerializer().loads_typed((kind, stored))
        changed["channel_values"][channel] = value(changed["channel_values"][channel])
        kept = JsonPlusSerializer().dumps_typed(changed)[1]
        connection.execute("update checkpoints set checkpoint = ? where checkpoint_id = ?", (kept, name))
        connection.commit()
    assert not verify(recorded(place, "one")).ok
    read_in_vain(place, "one")


def test_an_unfinished_run_goes_on_with_no_other_stage_than_its_own(tmp_path: Path) -> None:
    place = str(tmp_path / "runs.sqlite")
    with opened(place) as saver, scripted(6) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        graph.invoke({"question": "What?"}, config("one"), interrupt_after=["regenerate"])
    (run,) = [recorded(place, "one")]
    assert run.stages == ("draft",)
    assert not verify(replace(run, stages=("finalize",))).ok
    stopped = {**run.values, "progress": {**run.progress, "stop_reason": "answered"}}
    assert not verify(replace(run, values=stopped, stages=("finalize",))).ok


def test_a_database_that_runs_code_when_its_values_are_built_runs_none(tmp_path: Path) -> None:
    place, mark = str(tmp_path / "runs.sqlite"), tmp_path / "it-ran"
    with opened(place) as saver:
        think(saver, "one", 4)
    # what LangGraph's serializer builds by importing a module and calling a function in it
    call = ormsgpack.packb(["os", "system", f"touch {mark}"])
    with closing(sqlite3.connect(place)) as connection:
        (stored,) = connection.execute("select checkpoint from checkpoints order by checkpoint_id desc").fetchone()
        checkpoint = JsonPlusSerializer().loads_typed(("msgpack", stored))
        checkpoint["channel_values"]["result"] = ormsgpack.Ext(0, call)
        connection.execute("update checkpoints set checkpoint = ?", (ormsgpack.packb(checkpoint),))
        connection.execute("update writes set value = ?", (ormsgpack.packb(ormsgpack.Ext(0, call)),))
        connection.commit()
    with opened(place) as saver:
        assert all(not verify(run).ok for run in read_all_runs(saver))
        assert all(tells_nothing(found) for found in find_runs(saver, "one"))
    with closing(sqlite3.connect(place)) as connection:
        connection.execute(
            "update checkpoints set type = 'json', checkpoint = ?", (b'{"lc": 2, "type": "constructor"}',)
        )
        connection.commit()
    with opened(place) as saver:
        assert all("stored as 'json'" in str(run.findings) for run in read_all_runs(saver))
    assert not mark.exists()


HOSTILE: dict[str, tuple[str, Any]] = {
    "an integer as key of the manifest": ("manifest", {1: 2}),
    "an overwrite that holds a number": ("trace", "Overwrite(5)"),
    "a manifest that is a list": ("manifest", [1]),
    "a record that is a text": ("trace", "x"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_one_hostile_run_does_not_hide_the_others(tmp_path: Path, how: str) -> None:
    place = str(tmp_path / "runs.sqlite")
    with opened(place) as saver:
        think(saver, "good", 3)
        think(saver, "bad", 3)
    channel, value = HOSTILE[how]
    packed = ormsgpack.packb(value, option=ormsgpack.OPT_NON_STR_KEYS)
    if value == "Overwrite(5)":
        inner = ormsgpack.packb(["langgraph.types", "Overwrite", {"value": 5, "type": "__overwrite__"}])
        packed = ormsgpack.packb(ormsgpack.Ext(2, inner))
    with closing(sqlite3.connect(place)) as connection:
        connection.execute(
            "update writes set value = ? where thread_id = 'bad' and channel = ?", (packed, channel)
        )  # fmt: skip
        connection.commit()
    check_others(place)


@pytest.mark.parametrize(
    "sql",
    [
        "update checkpoints set checkpoint_id = cast(checkpoint_id as blob) where thread_id = 'bad'",
        "update checkpoints set parent_checkpoint_id = x'ff' where thread_id = 'bad'",
        "update checkpoints set metadata = '{' where thread_id = 'bad'",
        "update checkpoints set metadata = replace(hex(zeroblob(20000)), '00', '[') where thread_id = 'bad'",
        "update checkpoints set type = 5 where thread_id = 'bad'",
        "update checkpoints set type = null, checkpoint = null where thread_id = 'bad'",
        "update writes set type = x'00', channel = x'00' where thread_id = 'bad'",
        "update writes set idx = 'x' || idx where thread_id = 'bad'",
        "update checkpoints set checkpoint = x'93010203' where thread_id = 'bad'",
        "update checkpoints set checkpoint_ns = x'fffe' where thread_id = 'bad'",
    ],
)
def test_one_spoilt_thread_does_not_hide_the_others(tmp_path: Path, sql: str) -> None:
    place = str(tmp_path / "runs.sqlite")
    with opened(place) as saver:
        think(saver, "good", 3)
        think(saver, "bad", 3)
    with closing(sqlite3.connect(place)) as connection:
        connection.execute(sql)
        connection.commit()
    check_others(place, may_be_well="set idx" in sql or "parent" in sql)


def check_others(place: str, *, may_be_well: bool = False) -> None:
    with opened(place) as saver:
        runs = read_all_runs(saver)
        good = [run for run in runs if run.thread_id == "good"]
        assert [verify(run).ok for run in good] == [True]
        assert may_be_well or not any(verify(run).ok for run in runs if run.thread_id == "bad")
        (found,) = find_runs(saver, "good")
        assert (found.answer, found.problem) == (ANSWER, None)


def test_nobody_forks_prunes_or_exports_a_run_that_was_changed(tmp_path: Path) -> None:
    place = str(tmp_path / "runs.sqlite")
    with opened(place) as saver, scripted(4) as pair:
        think(saver, "one", 4)
        with meddling(place) as meddler:
            meddler.forge("one", "answer", "999")
        (run,) = read_runs(saver, "one")
        with pytest.raises(RecordError, match="not as it was written"):
            plan_fork(run, pair, at=1)
        with pytest.raises(RecordError, match="not as it was written"):
            prune(saver, "one")


def test_what_a_verification_does_not_cover_is_listed_in_the_documents() -> None:
    words = " ".join((Path(__file__).parents[1] / "docs" / "audit.md").read_text().split())
    assert [line for line in NOT_COVERED if line not in words] == []
    saver = InMemorySaver()
    think(saver, "one", 2)
    assert verify(read_runs(saver, "one")[0]).dump()["not_covered"] == list(NOT_COVERED)


def test_an_anchor_finds_a_ledger_that_was_cut_back_or_rebuilt(tmp_path: Path) -> None:
    saver = InMemorySaver()
    with scripted(6) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        graph.invoke({"question": "What?"}, config("one"), interrupt_after=["regenerate"])
        anchor = make_anchor(read_runs(saver, "one"))
        content = anchor.model_dump_json().encode()
        graph.invoke(None, config("one"))
    (run,) = read_runs(saver, "one")
    assert verify(run, anchor=read_anchor(content, "a.json")).ok
    later = make_anchor([run])
    cut = replace(run, values={**run.values, "result": {}, "answer": "", "stop_reason": "", "trace_summary": {}})
    assert "entry" in verify(cut, anchor=later).findings[-1].problem
    think(saver, "two", 6)
    (other,) = read_runs(saver, "two")
    assert any("does not name run" in each.problem for each in verify(other, anchor=later).findings)
    with pytest.raises(UsageError, match=r"a\.json is no anchor"):
        read_anchor(b"{}", "a.json")


def test_an_anchor_is_stamped_by_an_authority(tmp_path: Path) -> None:
    content = make_anchor([]).model_dump_json().encode()
    (tmp_path / "a.tsq").write_bytes(timestamp_request(content))
    (tmp_path / "tsa.cnf").write_text(
        "[tsa]\ndefault_tsa = one\n[one]\nserial = serial\nsigner_digest = sha256\ndefault_policy = 1.2.3\n"
        "digests = sha256, sha512\n[req]\ndistinguished_name = dn\n[dn]\n"
        "[v3]\nextendedKeyUsage = critical,timeStamping\nkeyUsage = critical,digitalSignature\n"
        "basicConstraints = critical,CA:false\n[ca]\nbasicConstraints = critical,CA:true\nkeyUsage = keyCertSign\n"
    )

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    key = ("-newkey", "rsa:2048", "-nodes", "-config", "tsa.cnf")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=root", "-extensions", "ca")
    openssl("req", *key, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", "/CN=stamps")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "tsa.cnf", "-extensions", "v3")
    openssl("x509", "-req", "-in", "tsa.csr", "-out", "tsa.pem", *signed)
    reply = ("-queryfile", "a.tsq", "-config", "tsa.cnf", "-signer", "tsa.pem", "-inkey", "tsa.key", "-out", "a.tsr")
    openssl("ts", "-reply", *reply)
    root = (tmp_path / "ca.pem").read_bytes()
    assert check_timestamp(content, (tmp_path / "a.tsr").read_bytes(), root).year >= 2026
    with pytest.raises(UsageError, match="not one of this anchor"):
        check_timestamp(content + b" ", (tmp_path / "a.tsr").read_bytes(), root)


# --- A run goes on with something else


def half_a_run(saver: Any, thread: str, **settings: Any) -> None:
    with stepwise(6, (9, 2)) as pair:
        graph = create_specreason(pair, **settings).compile(checkpointer=saver)
        graph.invoke({"question": "What?"}, config(thread), interrupt_after=["regenerate"])


class Other(FakeEngine):
    """A scripted engine with other weights."""

    def describe(self) -> Any:
        return super().describe().model_copy(update={"weights": "f" * 64})


def other_pair() -> EnginePair:
    base = FakeEngine(writing("base", 6), judging((9, 2)), name="base")
    return EnginePair(Other(writing("draft", 6), name="draft"), base)


def test_a_run_resumed_with_other_weights_is_refused() -> None:
    saver = InMemorySaver()
    half_a_run(saver, "one")
    before = read_runs(saver, "one")
    with other_pair() as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        with pytest.raises(ThreadError, match=r"began with another draft model: its weights were .* accept_changes"):
            graph.invoke(None, config("one"))
    assert [run.trace for run in read_runs(saver, "one")] == [run.trace for run in before]


def test_a_change_of_engines_that_was_asked_for_is_sealed_and_shown() -> None:
    saver = InMemorySaver()
    half_a_run(saver, "one")
    kept = len(read_runs(saver, "one")[0].trace)
    with other_pair() as pair:
        graph = create_specreason(pair, accept_changes=True).compile(checkpointer=saver)
        assert graph.invoke(None, config("one"))["answer"] == ANSWER
    (run,) = read_runs(saver, "one")
    found = verify(run)
    assert found.ok
    assert [change.step for change in found.changes] == [kept]
    assert "another draft model: its weights were" in found.changes[0].problem
    assert [step.change is not None for step in run.steps] == [index == kept for index in range(len(run.steps))]
    assert recompute(run).ok
    assert "went on with another draft model" in Page(render_run(run, found)).words
    changed = [*run.trace[:kept], {**run.trace[kept], "change": None}, *run.trace[kept + 1 :]]
    assert not verify(replace(run, trace=changed)).ok


def test_a_run_that_changed_its_engines_is_held_to_the_new_ones() -> None:
    saver = InMemorySaver()
    half_a_run(saver, "one")
    with other_pair() as pair:
        graph = create_specreason(pair, accept_changes=True).compile(checkpointer=saver)
        graph.invoke(None, config("one"), interrupt_after=["accept"])
    with other_pair() as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        graph.invoke(None, config("one"), interrupt_after=["accept"])
    with stepwise(6, (9, 2)) as pair, pytest.raises(ThreadError, match="another draft model"):
        create_specreason(pair).compile(checkpointer=saver).invoke(None, config("one"))


def test_a_run_is_not_judged_with_the_prompt_of_another_template() -> None:
    saver = InMemorySaver()
    half_a_run(saver, "one")
    with stepwise(6, (9, 2)) as pair:
        base: Any = pair.base
        render = base.vocabulary.render
        base.vocabulary.render = lambda messages, *rest, **more: render(messages, *rest, **more) + "Well: "
        with pytest.raises(ThreadError, match=r"another judge's prompt|thinking format"):
            create_specreason(pair).compile(checkpointer=saver).invoke(None, config("one"))


def test_steps_that_were_changed_are_not_gone_on_from(place: str) -> None:
    with opened(place) as saver:
        half_a_run(saver, "changed")
        with meddling(place) as meddler:
            row = meddler.steps("changed")[0]
            step = ormsgpack.unpackb(row[3])
            step[0]["text"] = "Another text.\n\n"
            meddler.write("changed", row, ormsgpack.packb(step))
        with stepwise(6, (9, 2)) as pair, pytest.raises(RecordError, match="not as it was written"):
            create_specreason(pair).compile(checkpointer=saver).invoke(None, config("changed"))


@pytest.mark.parametrize("again", [False, True], ids=["at once", "resumed"])
def test_a_verdict_that_the_deadline_overtakes_stays_in_the_record(again: bool) -> None:
    saver, said = InMemorySaver(), {"verdict": "reject", "note": "wrong sum", "reviewer": "Ada"}

    def slow(prompt: str) -> Any:
        return None if prompt.endswith("Score: ") or "</think>" in prompt else asyncio.sleep(60)

    def pair() -> EnginePair:
        made = stepwise(6, (5,), engine=Counting)
        base: Any = made.base
        base.at_call = slow
        return made

    settings: Any = {"review": {"low": 4, "high": 6}, "deadline_seconds": 1.5}
    first = pair()
    with first:
        graph = create_specreason(first, **settings).compile(checkpointer=saver)
        assert "__interrupt__" in graph.invoke({"question": "What?"}, config("one"))
        if not again:
            outcome = graph.invoke(Command(resume=said), config("one"))
    if again:
        with pair() as second:
            graph = create_specreason(second, **settings).compile(checkpointer=saver)
            outcome = graph.invoke(Command(resume=said), config("one"))
    assert outcome["stop_reason"] == "deadline"
    (run,) = read_runs(saver, "one")
    assert run.answer
    cut = run.answer.unfinished
    assert cut
    assert cut.decision
    assert cut.decision.review
    assert (cut.decision.review.note, cut.decision.review.reviewer) == ("wrong sum", "Ada")
    assert cut.proposal
    assert cut.score
    costs = {(cost.engine, cost.purpose, cost.wasted): cost.usage.calls for cost in run.answer.wasted}
    assert (costs["draft", "draft", True], costs["base", "score", True]) == (1, 1)
    assert verify(run).ok
    assert recompute(run).ok
    assert "wrong sum" in Page(render_run(run, verify(run))).words
    forged = {**run.result, "unfinished": None}
    assert not verify(replace(run, values={**run.values, "result": forged})).ok


# --- What a thread holds


def test_a_new_setting_of_a_release_answers_no_file_again() -> None:
    launch = make_launch("", settings={"seed": 3})
    older = {name: value for name, value in launch.settings.items() if name not in ("lookahead", "threshold")}
    assert launch.model_copy(update={"settings": older}).identity == launch.identity
    assert Launch(**BUILT_IN, question="", settings={"seed": 3}).identity == launch.identity
    assert make_launch("", settings={"seed": 4}).identity != launch.identity
    assert make_launch("", settings={"seed": 3, "threshold": 7}).identity == launch.identity


@pytest.mark.parametrize("how", ["retried", "given up"])
def test_what_a_failure_left_behind_may_be_pruned(tmp_path: Path, how: str) -> None:
    calls = iter(range(100))
    with SqliteSaver.from_conn_string(str(tmp_path / "runs.sqlite")) as saver, stepwise(3) as pair:
        draft: Any = pair.draft
        draft.failure = lambda _: EngineError("gone", engine="draft") if next(calls) == 1 else None
        loop = create_specreason(pair, continue_without_draft=False, lookahead=0).compile()

        def ask(state: Parent) -> Any:
            try:
                return {"answer": loop.invoke({"question": state["question"]})["answer"]}
            except EngineError:
                if how == "retried":
                    raise
                return {"answer": "I give up."}

        builder = StateGraph(Parent)
        policy = RetryPolicy(max_attempts=3, initial_interval=0.01, retry_on=EngineError)
        builder.add_node("think", ask, retry_policy=policy)
        builder.add_edge(START, "think")
        builder.add_edge("think", END)
        app = builder.compile(checkpointer=saver)
        app.invoke({"question": "What?"}, config("t"), durability="sync")
        runs = find_runs(saver, "t")
        ended: Any = ("answered", False, []) if how == "retried" else (None, True, [])
        assert [(run.stop_reason, run.abandoned, run.next) for run in runs] == [ended]
        assert prune(saver, "t").kept == 1
        again = find_runs(saver, "t")
        assert [(run.run, run.abandoned, run.problem) for run in again] == [(runs[0].run, ended[1], None)]
        assert prune(saver, "t").checkpoints == 0


def test_a_run_whose_graph_went_on_without_its_end_is_not_called_unfinished() -> None:
    saver = InMemorySaver()
    with stepwise(3) as pair:
        app = parent(create_specreason(pair).compile()).compile(checkpointer=saver)
        app.invoke({"question": "What?"}, config("t"), durability="sync")
        last = max(key[1] for key in saver.storage["t"] if key) if False else None
        assert last is None
        (run,) = find_runs(saver, "t")
        place = saver.storage["t"][run.namespace]
        for name in sorted(place)[6:]:  # as durability="exit" leaves it when the run was interrupted before
            del place[name]
        (left,) = find_runs(saver, "t")
    assert (left.stop_reason, left.abandoned, left.next, left.problem) == (None, True, [], None)


def test_a_total_that_is_missing_is_found_also_where_it_would_be_nought() -> None:
    saver = InMemorySaver()
    with stepwise(3) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        stream = graph.stream({"question": "What?"}, config("t"), stream_mode="updates")
        next(stream), next(stream)
        stream.close()  # type: ignore[attr-defined]
    (run,) = read_runs(saver, "t")
    assert verify(run).ok
    del run.values["progress"]["thinking_tokens"]
    assert "the channel progress has values of other types" in str(verify(run).findings)


def test_the_stage_that_comes_next_is_told_also_where_a_node_ended_and_its_checkpoint_is_missing() -> None:
    saver = InMemorySaver()
    with stepwise(3) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        graph.invoke({"question": "What?"}, config("t"), durability="sync")
        places = saver.storage["t"][""]
        for name in sorted(places)[5:]:
            del places[name]
        (run,) = find_runs(saver, "t")
        assert saver.writes["t", "", run.checkpoint_id]  # what the node wrote is there
        assert (run.next, run.stop_reason, run.problem) == (["accept"], None, None)
        assert graph.invoke(None, config("t"))["answer"] == ANSWER
    assert verify(read_runs(saver, "t")[0]).ok


def test_the_ends_of_a_run_are_shown_by_checkpoint(place: str) -> None:
    thread = "torn"
    with opened(place) as saver, scripted(4) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        graph.invoke({"question": "What?"}, config(thread))
    with meddling(place) as meddler:
        rows = meddler.do("select checkpoint_id from checkpoints where thread_id = ? order by checkpoint_id", thread)
        fork_point, last = rows[-3][0], rows[-1][0]
        meddler.do(
            "update checkpoints set parent_checkpoint_id = ? where thread_id = ? and checkpoint_id = ?",
            fork_point, thread, last,
        )  # fmt: skip
    with opened(place) as saver:
        runs = read_runs(saver, thread)
        assert len(runs) == 2
        assert {run.other_ends for run in runs} == {(runs[1].checkpoint_id,), (runs[0].checkpoint_id,)}
        assert all(any("2 ends, at checkpoints" in each.problem for each in verify(run).findings) for run in runs)
        with pytest.raises(ThreadError, match=f"2 ends.*{runs[1].checkpoint_id}"):
            choose_run(runs)
        assert choose_run(runs, runs[1].checkpoint_id) is runs[1]
        assert [found.checkpoint_id for found in find_runs(saver, thread)] == [run.checkpoint_id for run in runs]


def test_a_branch_of_time_travel_is_shown_and_no_finding(place: str) -> None:
    with opened(place) as saver, stepwise(6) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        graph.invoke({"question": "What?"}, config("travel"))
        middle = next(each for each in graph.get_state_history(config("travel")) if len(each.values["trace"]) == 3)
        graph.invoke(None, middle.config)
        runs = read_runs(saver, "travel")
        assert [(verify(run).ok, len(verify(run).other_ends)) for run in runs] == [(True, 1)] * 2


# --- What a record may not choose


SERVED = Launch(
    question="What?", base="b", draft="d", engine="server", base_url="http://a.example", draft_url="http://b.example"
)


def test_the_address_of_a_record_is_used_only_when_the_caller_names_it() -> None:
    with pytest.raises(UsageError, match=r"--base-url http://a\.example --draft-url http://b\.example"):
        with_callers_word(SERVED, {}, {})
    with pytest.raises(UsageError, match=r"--draft-url http://b\.example"):
        with_callers_word(SERVED, {"base_url": "http://mine.example"}, {})
    named = {"base_url": "http://mine.example", "draft_url": "http://mine.example:1"}
    assert with_callers_word(SERVED, named, {}).base_url == "http://mine.example"
    local = with_callers_word(SERVED, {"engine": "transformers"}, {})
    assert (local.base_url, local.draft_url) == (None, None)


def test_options_of_a_record_that_load_code_are_used_only_when_the_caller_names_them() -> None:
    vllm = Launch(question="What?", base="b", draft="d", engine="vllm", base_options={"sequences": 4})
    assert with_callers_word(vllm, {}, {}).base_options == {"sequences": 4}
    hostile = vllm.model_copy(update={"base_options": {"arguments": {"trust_remote_code": True}}})
    with pytest.raises(UsageError, match=r"base\.arguments="):
        with_callers_word(hostile, {}, {})
    named = {"base_options": {"arguments": {"max_num_batched_tokens": 1}}, "draft_options": {}}
    assert with_callers_word(hostile, {}, named).base_options["arguments"] == {"max_num_batched_tokens": 1}


def test_forks_of_a_run_verify_and_tell_where_they_come_from() -> None:
    saver = InMemorySaver()
    think(saver, "one", 4)
    (run,) = read_runs(saver, "one")
    with scripted(4) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        fork(graph, "two", plan_fork(run, pair, at=2))
    (forked,) = read_runs(saver, "two")
    assert verify(forked).ok


def chat(saver: Any, thread: str, *asked: Any) -> None:
    with stepwise(2, (9, 2)) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        for each in asked:
            graph.invoke({"messages": each}, config(thread))


def test_the_conversation_that_the_next_turn_reads_is_sealed(place: str) -> None:
    def put_in(message: Any) -> None:
        with opened(place) as saver, stepwise(2) as pair:
            graph = create_specreason(pair).compile(checkpointer=saver)
            graph.update_state(config("chat"), {"messages": [message]})

    with opened(place) as saver:
        chat(saver, "chat", [("user", "What?")])
        chat(saver, "chat", [("user", "So?")])
        last, first = read_runs(saver, "chat")
        assert (len(first.said.messages()), len(last.said.messages())) == (2, 4)
        assert all(verify(run).ok for run in (first, last))
        reply = last.said.messages()[-1]
    put_in(reply.model_copy(update={"content": "The answer is 999."}))
    with opened(place) as saver:
        last, first = read_runs(saver, "chat")
        assert verify(first).ok
        assert [each.problem for each in verify(last).findings] == [CHANGED]
        chat(saver, "chat", [("user", "Sure?")])  # the run says itself what it was asked
        assert "The answer is 999." in str(read_runs(saver, "chat")[0].manifest["turns"])
        assert verify(read_runs(saver, "chat")[0]).ok
        with pytest.raises(RecordError, match="conversation of the thread"):
            check_whole(read_runs(saver, "chat")[1])


@pytest.mark.parametrize("change", [b"What?", b"HumanMessage", ANSWER.encode()])
def test_what_is_written_to_the_conversation_is_read_as_it_is_stored(tmp_path: Path, change: bytes) -> None:
    place = str(tmp_path / "runs.sqlite")
    with opened(place) as saver:
        chat(saver, "chat", [("user", "What?")])
    with closing(sqlite3.connect(place)) as connection, connection:
        rows = connection.execute("select rowid, value from writes where channel = 'messages'").fetchall()
        changed = [(value.replace(change, change.swapcase()), row) for row, value in rows if change in value]
        assert changed
        connection.executemany("update writes set value = ? where rowid = ?", changed)
    with opened(place) as saver:
        (run,) = read_runs(saver, "chat")
        assert CHANGED in [each.problem for each in verify(run).findings]


def test_a_message_that_is_asked_anew_from_an_earlier_checkpoint_is_no_second_end() -> None:
    saver = InMemorySaver()
    chat(saver, "anew", [("user", "What?")])
    with stepwise(2, (9, 2)) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        first = graph.get_state(config("anew")).config
    chat(saver, "anew", [("user", "So?")])
    with stepwise(2, (9, 2)) as pair:  # as front ends do when a message is edited
        graph = create_specreason(pair).compile(checkpointer=saver)
        anew: Any = {"messages": [("user", "Why?")]}
        graph.invoke(anew, first)
        before = next(each for each in graph.get_state_history(config("anew")) if each.next == ("finalize",))
    with stepwise(2, (9, 2)) as pair:
        create_specreason(pair).compile(checkpointer=saver).invoke(None, before.config)
    runs = read_runs(saver, "anew")
    assert [[each.text for each in run.said.messages()][2::4] for run in runs] == [["Why?"], ["Why?"], ["So?"], []]
    assert [verify(run).findings for run in runs] == [[]] * 4
    assert [len(run.other_ends) for run in runs] == [1, 1, 0, 0]


def test_messages_that_callers_change_through_the_input_are_no_findings(place: str) -> None:
    class Mine(HumanMessage):
        """A message of a caller's own class."""

        colour: str = "blue"

    with opened(place) as saver:
        chat(saver, "edited", [Mine(content="What?", id="1", additional_kwargs={"set": {1}, "at": (1, 2.5)})])
        chat(saver, "edited", [HumanMessage("What else?", id="1"), HumanMessage("And?", id="2")])
        chat(saver, "edited", [RemoveMessage("1"), HumanMessage("Well?")])
        with stepwise(2) as pair:
            create_specreason(pair).compile(checkpointer=saver).invoke({"question": "What?"}, config("edited"))
        runs = read_runs(saver, "edited")
        assert [len(run.said.messages()) for run in runs] == [5, 5, 4, 2]
        assert [verify(run).findings for run in runs] == [[]] * 4
        if place != "memory":
            prune(saver, "edited")
            assert [verify(run).findings for run in read_runs(saver, "edited")] == [[]] * 4
            chat(saver, "edited", [("user", "Then?")])
            assert verify(read_runs(saver, "edited")[0]).ok
