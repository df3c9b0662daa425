"""Databases of schema versions 1 to 5: read, checked, exported, gone on with, and no less guarded than those of now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
import rfc8785
from langgraph.types import Command

from specreason_graph import create_specreason, find_runs
from specreason_graph.audit.ask.whatif import what_if
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.keep.export import to_jsonl
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.show.report import render_run
from specreason_graph.errors import ThreadError
from specreason_graph.record.records import SCHEMA_VERSION
from tests.support.audited import meddling, recorded
from tests.support.databases import opened
from tests.support.old_runs import FIRST, TOLD, VERSIONS, copied, pair_of_then
from tests.support.pages import Page

RUNS = [(version, thread) for version in VERSIONS for thread in TOLD[version]]


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Where each version's database is, for reading."""
    folder = tmp_path_factory.mktemp("old")
    return {version: copied(version, folder) for version in (1, *VERSIONS)}


@pytest.fixture(params=RUNS, ids=lambda run: f"{run[1]}-{run[0]}")
def old(request: pytest.FixtureRequest, databases: dict[int, str]) -> tuple[RecordedRun, Any]:
    """A run, and what the package of its time said of it."""
    version, thread = request.param
    return recorded(databases[version], thread), TOLD[version][thread]


def test_every_earlier_version_is_tested() -> None:
    assert (1, *VERSIONS) == tuple(range(1, SCHEMA_VERSION))
    for version in VERSIONS:
        assert {told["finished"] for told in TOLD[version].values()} == {True, False}


def test_a_run_is_verified_and_computed_as_it_was_then(old: tuple[RecordedRun, Any]) -> None:
    run, told = old
    found = verify(run)
    assert (found.ok, found.head, found.entries, found.finished) == (
        told["ok"], told["head"], told["entries"], told["finished"],
    )  # fmt: skip
    again = recompute(run)
    assert (again.steps, len(again.differences)) == (told["steps"], told["differences"]) == (len(run.trace), 0)
    assert [step.decision.reason for step in run.steps] == told["reasons"]
    assert run.stop_reason == told["stop_reason"]
    assert what_if(run).changed == []


def test_a_run_is_found_with_all_its_steps(old: tuple[RecordedRun, Any], databases: dict[int, str]) -> None:
    run, told = old
    with opened(databases[run.manifest["schema_version"]]) as saver:
        (found,) = find_runs(saver, run.thread_id)
    assert (found.run, found.question, found.stop_reason) == (run.run, "What is it?", told["stop_reason"])
    assert found.steps == run.steps
    assert found.answer == ("The answer." if told["finished"] else None)


def test_a_run_is_shown(old: tuple[RecordedRun, Any]) -> None:
    run, told = old
    page = Page(render_run(run, verify(run)))
    assert ("Verified." in page.words) is told["finished"]
    assert [f"step-{number + 1}" in page.ids for number in range(told["steps"] + 1)] == [True] * told["steps"] + [False]
    assert all(step.text.strip() in page.words for step in run.steps)
    assert told["head"] in page.words
    assert ("waits for a human" in page.words) is (run.thread_id == "waiting")


def test_anybody_can_compute_the_chain_of_a_run(old: tuple[RecordedRun, Any]) -> None:
    run, told = old
    head, lines = None, list(to_jsonl([run]))
    for line in lines:
        content = json.loads(line)["entry"]
        stored = content.pop("hash")
        assert content["previous"] == head
        head = hashlib.sha256(rfc8785.dumps(content)).hexdigest()
        assert head == stored
    assert (head, len(lines)) == (told["head"], told["entries"])


def test_a_run_of_the_first_version_is_read_and_has_no_ledger(databases: dict[int, str]) -> None:
    run = recorded(databases[1], FIRST)
    assert recompute(run).differences == []
    assert what_if(run).changed == []
    with opened(databases[1]) as saver:
        (found,) = find_runs(saver, FIRST)
    assert (found.run, found.steps, found.stop_reason) == (run.run, run.steps, "answered")
    words = Page(render_run(run)).words
    assert all(step.text.strip() in words for step in run.steps)
    assert "385" in words
    for told in (verify, lambda run: list(to_jsonl([run]))):
        with pytest.raises(ThreadError, match="no ledger"):
            told(run)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("thread", "asked", "whole"), [("unfinished", None, "plain"), ("waiting", Command(resume="accept"), None)]
)
def test_a_run_that_was_not_finished_goes_on_to_its_end(
    version: int, thread: str, asked: Any, whole: str | None, tmp_path: Path
) -> None:
    place = copied(version, tmp_path)
    config: Any = {"configurable": {"thread_id": thread}}
    before = recorded(place, thread)
    with pair_of_then() as pair, opened(place) as saver:
        graph = create_specreason(pair).compile(checkpointer=saver)
        outcome = graph.invoke(asked, config)
        while "__interrupt__" in outcome:
            outcome = graph.invoke(asked, config)
        (run,) = read_runs(saver, thread)
    assert (run.run, run.stop_reason, outcome["answer"]) == (before.run, "answered", "The answer.")
    assert run.manifest == before.manifest
    assert run.trace[: len(before.trace)] == before.trace
    assert [step.index for step in run.steps] == list(range(7))
    found = verify(run)
    assert (found.findings, found.finished) == ([], True)
    assert found.entries > TOLD[version][thread]["entries"]
    assert recompute(run).differences == []
    assert len(list(to_jsonl([run]))) == found.entries
    if whole:
        expected = recorded(place, whole)
        assert [(step.author, step.text, step.decision.reason) for step in run.steps] == [
            (step.author, step.text, step.decision.reason) for step in expected.steps
        ]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_thread_takes_new_questions(version: int, tmp_path: Path) -> None:
    place = copied(version, tmp_path)
    with pair_of_then() as pair, opened(place) as saver:
        graph = create_specreason(pair).compile(checkpointer=saver)
        graph.invoke({"question": "And now?"}, {"configurable": {"thread_id": "plain"}})
        new, old = read_runs(saver, "plain")
    assert (new.manifest["schema_version"], old.manifest["schema_version"]) == (SCHEMA_VERSION, version)
    assert verify(new).ok
    assert (verify(old).ok, verify(old).head) == (True, TOLD[version]["plain"]["head"])


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """All mappings in a record."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from mappings(each)


@pytest.mark.parametrize(
    ("version", "then", "now"),
    [
        (2, "room", "tokens_left"), (2, "reading", "score_reduction"),
        (3, "room", "tokens_left"), (3, "reading", "score_reduction"), (3, "lost", "wasted"),
    ],
)  # fmt: skip
def test_a_field_under_its_name_of_now_in_an_old_run_is_found(
    version: int, then: str, now: str, tmp_path: Path
) -> None:
    place, at = copied(version, tmp_path), 2
    with meddling(place) as meddler:
        rows = meddler.steps("plain")
        (step,) = ormsgpack.unpackb(rows[at][3])
        holders = [mapping for mapping in mappings(step) if then in mapping]
        assert holders
        for mapping in holders:
            mapping[now] = mapping.pop(then)
        meddler.write("plain", rows[at], ormsgpack.packb([step]))
    run = recorded(place, "plain")
    assert run.steps[at].index == at  # it can be read, and is not what was written
    assert at in [finding.step for finding in verify(run).findings]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_changed_byte_in_an_old_run_is_found(version: int, tmp_path: Path) -> None:
    place = copied(version, tmp_path)
    with meddling(place) as meddler:
        rows = meddler.steps("plain")
        for at, row in enumerate(rows):
            for spot in range(0, len(row[3]), 97):
                changed = bytearray(row[3])
                changed[spot] ^= 1
                meddler.write("plain", row, bytes(changed))
                assert at in [each.step for each in verify(recorded(place, "plain")).findings], f"byte {spot} of {at}"
            meddler.write("plain", row, row[3])
    assert verify(recorded(place, "plain")).ok
