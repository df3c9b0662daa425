"""The ledger: whoever changes what is stored is found out, and whoever does not is not accused."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from specreason_graph import create_specreason
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.fork import fork, plan_fork
from specreason_graph.audit.read.reader import aread_runs, read_runs
from specreason_graph.audit.read.recorded import RecordedRun, check_readable
from specreason_graph.errors import ConfigError, ThreadError
from specreason_graph.record.seal import entries, head_of, seal_answer, seal_manifest, seal_step
from specreason_graph.record.signing import Signer, read_public_key
from tests.support.audited import Meddler, meddling, recorded, scripted, think
from tests.support.databases import opened

FLIPS = int(os.environ.get("SPECREASON_FLIPS", "100"))
STEPS = 8


@pytest.fixture
def thread(place: str, request: pytest.FixtureRequest) -> str:
    """A thread with a finished run, in either database."""
    name = request.node.name
    with opened(place) as saver:
        think(saver, name, STEPS)
    return str(name)


def found_steps(place: str, thread: str) -> list[int | None]:
    return [finding.step for finding in verify(recorded(place, thread)).findings]


def test_a_clean_run_is_as_written_and_its_entries_are_told(place: str, thread: str) -> None:
    run = recorded(place, thread)
    found = verify(run)
    assert found.ok
    assert found.finished
    kinds = [entry.kind for entry in entries(run.manifest, run.trace, run.result, run.stop_reason)]
    lost = sum(step["discarded"] is not None for step in run.trace)
    assert kinds[0] == "manifest"
    assert kinds[-1] == "answer"
    assert (kinds.count("step"), kinds.count("proposal")) == (len(run.trace), lost)
    assert found.entries == len(run.trace) + lost + 2
    assert found.head == run.result["hash"]


def test_every_flipped_byte_of_a_step_record_is_found_and_the_step_named(place: str, thread: str) -> None:
    rng = random.Random(11)
    with meddling(place) as meddler:
        rows = meddler.steps(thread)
        assert len(rows) == STEPS + 1
        for _ in range(FLIPS):
            at = rng.randrange(len(rows))
            changed = bytearray(rows[at][3])
            spot = rng.randrange(len(changed))
            changed[spot] ^= rng.randrange(1, 256)
            meddler.write(thread, rows[at], bytes(changed))
            assert at in found_steps(place, thread), f"byte {spot} of step {at}"
            meddler.write(thread, rows[at], bytes(rows[at][3]))
    assert verify(recorded(place, thread)).ok


@pytest.mark.parametrize("at", [0, 3, STEPS])
def test_deleted_inserted_moved_and_cut_off_entries_are_found(place: str, thread: str, at: int) -> None:
    with meddling(place) as meddler:
        rows = meddler.steps(thread)
        meddler.delete(thread, rows[at])
        assert at in found_steps(place, thread) or None in found_steps(place, thread)
        meddler.insert(thread, rows[at], bytes(rows[at][3]))
        assert verify(recorded(place, thread)).ok  # put back as it was, under another number
        meddler.insert(thread, (*rows[at][:2], rows[at][2] + 100, b""), bytes(rows[at][3]))
        assert at + 1 in found_steps(place, thread)


def test_steps_that_changed_places_are_found(place: str, thread: str) -> None:
    with meddling(place) as meddler:
        rows = meddler.steps(thread)
        meddler.write(thread, rows[2], bytes(rows[5][3]))
        meddler.write(thread, rows[5], bytes(rows[2][3]))
        assert {2, 5} <= set(found_steps(place, thread))


def test_a_finished_run_that_is_cut_short_is_found(place: str, thread: str) -> None:
    with meddling(place) as meddler:
        for row in meddler.steps(thread)[-3:]:
            meddler.delete(thread, row)
        assert not verify(recorded(place, thread)).ok


def test_a_flipped_byte_in_the_copy_that_a_fork_holds_is_found(place: str, thread: str) -> None:
    run = recorded(place, thread)
    with opened(place) as saver, scripted(STEPS) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        fork(graph, thread + "-fork", plan_fork(run, pair, at=4))
    forked = recorded(place, thread + "-fork")
    assert verify(forked).ok
    assert [step["text"] for step in forked.trace] == [step["text"] for step in run.trace[:4]]
    rng = random.Random(5)
    with meddling(place) as meddler:
        for _ in range(FLIPS // 4):
            _flip_in_copy(meddler, thread + "-fork", forked.trace[rng.randrange(4)], rng)
            found = verify(recorded(place, thread + "-fork"))
            assert not found.ok
            _restore(meddler, thread + "-fork")
    assert verify(recorded(place, thread + "-fork")).ok


KEPT: dict[str, Any] = {}


def _flip_in_copy(meddler: Meddler, thread: str, step: dict[str, Any], rng: random.Random) -> None:
    """Flip a byte of a step inside a snapshot of the whole trace."""
    postgres, sqlite = ("checkpoint_blobs", "blob", "version"), ("checkpoints", "checkpoint", "checkpoint_id")
    table, value, key = postgres if meddler.postgres else sqlite
    needle = ormsgpack.packb(step)
    for name, blob in meddler.do(f"select {key}, {value} from {table} where thread_id = ?", thread):  # noqa: S608
        if blob and (start := bytes(blob).find(needle)) >= 0:
            changed = bytearray(blob)
            changed[start + rng.randrange(len(needle))] ^= rng.randrange(1, 256)
            sql = f"update {table} set {value} = ? where thread_id = ? and {key} = ? and length({value}) = ?"  # noqa: S608
            KEPT.update(sql=sql, back=(bytes(blob), thread, name, len(blob)))
            meddler.do(sql, bytes(changed), thread, name, len(blob))
            return
    raise AssertionError("no copy of the step was found")


def _restore(meddler: Meddler, thread: str) -> None:
    meddler.do(KEPT["sql"], *KEPT["back"])


def test_no_clean_run_is_accused() -> None:
    saver = InMemorySaver()
    for number in range(65):
        think(saver, str(number), number % 13, seed=number)
        (run,) = read_runs(saver, str(number))
        assert verify(run).ok


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_asynchronous_savers_and_every_durability_give_the_same_record(tmp_path: Path, durability: Any) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "runs.sqlite")) as saver:
        with scripted(5) as pair:
            graph = create_specreason(pair).compile(checkpointer=saver)
            config: Any = {"configurable": {"thread_id": "one"}}
            outcome = await graph.ainvoke({"question": "What?"}, config, durability=durability)
        (run,) = await aread_runs(saver, "one")
    assert run.trace == outcome["trace"]
    assert verify(run).ok


def test_several_questions_on_one_thread_are_several_ledgers() -> None:
    saver = InMemorySaver()
    outcomes = [think(saver, "talk", steps) for steps in (3, 5, 2)]
    runs = read_runs(saver, "talk")
    assert [run.trace for run in runs] == [outcome["trace"] for outcome in reversed(outcomes)]
    assert len({run.run for run in runs}) == 3
    assert all(verify(run).ok for run in runs)


def test_an_unfinished_run_is_verified_as_far_as_it_goes(tmp_path: Path) -> None:
    with SqliteSaver.from_conn_string(str(tmp_path / "runs.sqlite")) as saver:
        with scripted(6) as pair:
            graph = create_specreason(pair).compile(checkpointer=saver, interrupt_after=["regenerate"])
            graph.invoke({"question": "What?"}, {"configurable": {"thread_id": "half"}})
        (run,) = read_runs(saver, "half")
    found = verify(run)
    assert found.ok
    assert not found.finished
    assert len(run.trace) == 1


def test_a_manifest_that_was_emptied_is_found() -> None:
    saver = InMemorySaver()
    think(saver, "one", 4)
    (run,) = read_runs(saver, "one")
    found = verify(replace(run, manifest={}), head=run.head)
    assert [finding.problem for finding in found.findings] == ["the manifest is not what was written"]


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("values", {"result": {}}), ("values", {"result": [1]}), ("values", {"answer": "999"}),
        ("values", {"pending": {"proposal": None}}), ("values", {"stop_reason": ""}),
        ("values", {"progress": {"run": "deadbeef"}}), ("manifest", {"schema_version": 1}), ("manifest", {"more": 1}),
        ("manifest", {"run": "deadbeef"}), ("result", {"seed": 1.0}), ("result", {"hash": None}),
    ],
)  # fmt: skip
def test_what_stands_beside_the_steps_is_looked_at_too(part: str, change: dict[str, Any]) -> None:
    saver = InMemorySaver()
    think(saver, "one", 4)
    (run,) = read_runs(saver, "one")
    if change == {"seed": 1.0}:
        change = {"seed": float(run.result["seed"])}
    if part == "result":
        part, change = "values", {"result": {**run.result, **change}}
    changed = replace(run)
    setattr(changed, part, {**getattr(run, part), **change})
    assert not verify(changed).ok


FORMS: list[dict[str, Any]] = [
    {"signature": "x"},
    {"discarded": []},
    {"score": "high"},
    {"index": 1.0},
    {"tokens_left": True},
]


@pytest.mark.parametrize("change", FORMS)
def test_a_step_in_another_form_is_found(change: dict[str, Any]) -> None:
    saver = InMemorySaver()
    think(saver, "one", 4)
    (run,) = read_runs(saver, "one")
    changed = replace(run, trace=[run.trace[0], {**run.trace[1], **change}, *run.trace[2:]])
    assert 1 in [finding.step for finding in verify(changed).findings]
    less = {name: value for name, value in run.trace[1].items() if name != "discarded"}
    assert not verify(replace(run, trace=[run.trace[0], less, *run.trace[2:]])).ok
    if change in FORMS[:3]:
        with pytest.raises(ThreadError, match="verify it first"):
            check_readable(changed)


@pytest.mark.parametrize(
    "sql",
    [
        "update checkpoints set parent_checkpoint_id = checkpoint_id where parent_checkpoint_id is null",
        "update checkpoints set parent_checkpoint_id = checkpoint_id",
        "update checkpoints set metadata = 'x'",
        "update checkpoints set checkpoint = x'80'",
        "update checkpoints set checkpoint = x'a16f'",
    ],
)
def test_a_database_that_was_spoilt_ends_in_a_finding_or_an_error(tmp_path: Path, sql: str) -> None:
    place = str(tmp_path / "runs.sqlite")
    with opened(place) as saver:
        think(saver, "one", 3)
    with meddling(place) as meddler:
        meddler.do(sql)
    with opened(place) as saver:
        try:
            runs = read_runs(saver, "one")
        except ThreadError:
            return
    assert all(verify(run).findings for run in runs)


@pytest.fixture(scope="module")
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def signer(key: Ed25519PrivateKey) -> Signer:
    return Signer.read(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def test_an_owner_who_rebuilds_the_chain_is_caught_by_the_signature(
    place: str, key: Ed25519PrivateKey, signer: Signer
) -> None:
    public = read_public_key(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())
    with opened(place) as saver:
        think(saver, "signed", 5, signer)
    run = recorded(place, "signed")
    assert verify(run, public_key=public).signed_by == public
    forged = _rebuilt(run, run.result["signature"])
    assert forged.head != run.head
    assert verify(_rebuilt(run, None)).ok  # without a key nobody can tell
    another = Ed25519PrivateKey.generate()
    other = Signer.read(another.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
    for signature in (None, run.result["signature"], other.sign(str(forged.head)).dump()):
        (finding,) = verify(_rebuilt(run, signature), public_key=public).findings
        assert finding.problem.startswith("the head is not signed")
    assert not verify(_rebuilt(run, None), head=run.head).ok


def _rebuilt(run: RecordedRun, signature: Any) -> RecordedRun:
    """The run with a changed step, and all hashes made good again."""
    manifest, trace = seal_manifest(run.manifest), list(run.trace)
    trace[1] = {**trace[1], "text": "Something else.\n\n"}
    for index, step in enumerate(trace):
        trace[index] = seal_step(step, head_of(manifest, trace[:index]))
    result = seal_answer({**run.result, "signature": signature}, str(run.stop_reason), head_of(manifest, trace))
    return replace(run, manifest=manifest, trace=trace, values={**run.values, "result": result})


def test_what_is_no_key_is_named(tmp_path: Path) -> None:
    for given, problem in [("nowhere.pem", "cannot read the key file"), ("-----BEGIN nonsense", "cannot be read")]:
        with pytest.raises(ConfigError, match=problem):
            Signer.read(given)
    with pytest.raises(ConfigError, match="no Ed25519 public key"):
        read_public_key("-----BEGIN nonsense")
