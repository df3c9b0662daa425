"""Checkpoints under LangGraph's encryption: what is kept can be read with the key, and what is not hidden is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from specreason_graph import EnginePair, create_specreason
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import ThreadError
from specreason_graph.runs.find import find_runs
from tests.support.databases import TABLES, connected, opened, rows, stored
from tests.support.encryption import Aes
from tests.support.scripts import CLOSE

QUESTION, THOUGHT, REJECTED, ANSWER = "Is zebra one?", "Zebra two.", "Zebra three.", "Zebra four."
SECRETS = [text.encode() for text in (QUESTION, THOUGHT, REJECTED, ANSWER)]
STEPS = 6


KEY = AESGCM.generate_key(256)


def serde(key: bytes = KEY) -> EncryptedSerializer:
    return EncryptedSerializer(Aes(key))


@pytest.fixture
def pair() -> Iterator[EnginePair]:
    def think(prompt: str) -> str:
        done = prompt.rpartition("<think>\n")[2].count("\n\n")
        return f"{REJECTED if done == 1 else THOUGHT} {done}\n\n" if done < STEPS else CLOSE

    def base(prompt: str) -> str:
        thinking = prompt.rpartition("<think>\n")[2]
        done = thinking.count("\n\n")
        return ANSWER if CLOSE in thinking else f"{THOUGHT} {done} anew\n\n" if done < STEPS else CLOSE

    with EnginePair(FakeEngine(think), FakeEngine(base, lambda p: 0 if REJECTED in p else 9)) as pair:
        yield pair


def ask(pair: EnginePair, place: str, thread: str, question: Any = None, **more: Any) -> Any:
    config: Any = {"configurable": {"thread_id": thread}}
    with opened(place, more.pop("serde", serde())) as saver:
        graph: Any = create_specreason(pair).compile(checkpointer=saver, **more)
        return graph.invoke(question or {"question": QUESTION}, config, durability="sync")


@pytest.mark.parametrize("question", [{"question": QUESTION}, {"messages": [("user", QUESTION)]}], ids=list)
def test_nothing_that_was_said_is_in_clear(pair: EnginePair, place: str, question: Any) -> None:
    thread = f"hidden-{next(iter(question))}"
    outcome = ask(pair, place, thread, question)
    assert outcome["answer"] == ANSWER
    assert any(step["discarded"] for step in outcome["trace"])
    for column, raw in stored(place, thread).items():
        assert not [secret for secret in SECRETS if secret in raw], column
        assert b"ebra" not in raw, column


def test_without_encryption_all_of_it_is_in_clear(pair: EnginePair, place: str) -> None:
    ask(pair, place, "clear", serde=JsonPlusSerializer())
    raw = b"".join(stored(place, "clear").values())
    assert all(secret in raw for secret in SECRETS)


def test_with_the_key_it_is_read_and_verified(pair: EnginePair, place: str) -> None:
    outcome = ask(pair, place, "read")
    with opened(place, serde()) as saver:
        (run,) = read_runs(saver, "read")
        (found,) = find_runs(saver, "read")
    assert run.findings == []
    assert (run.question, run.trace, run.values["answer"]) == (QUESTION, outcome["trace"], ANSWER)
    assert verify(run).ok
    assert (found.answer, [step.dump() for step in found.steps]) == (ANSWER, run.trace)


@pytest.mark.parametrize("other", [serde(AESGCM.generate_key(256)), JsonPlusSerializer()], ids=["wrong key", "no key"])
def test_without_the_key_nothing_is_read(pair: EnginePair, place: str, other: Any) -> None:
    thread = f"locked-{type(other).__name__}"
    ask(pair, place, thread)
    with opened(place, other) as saver, pytest.raises(ThreadError, match=r"crypted.*; give the checkpointer"):
        read_runs(saver, thread)


@pytest.mark.parametrize("part", ["trace", "manifest", "result"])
def test_a_flipped_byte_of_the_ciphertext_is_a_finding(pair: EnginePair, place: str, part: str) -> None:
    thread = f"flipped-{part}"
    ask(pair, place, thread)
    flip(place, thread, part)
    with opened(place, serde()) as saver:
        (run,) = read_runs(saver, thread)
    assert any("cannot be decrypted: InvalidTag" in finding.problem for finding in run.findings), run.findings
    assert not verify(run).ok


def flip(place: str, thread: str, part: str) -> None:
    """Change a bit of what is stored of a channel last, or of the last checkpoint where values are stored in it."""
    postgres = "://" in place
    mark = "%s" if postgres else "?"
    table, column = ("checkpoint_writes", "blob") if postgres else ("writes", "value")
    where, arguments = f"thread_id = {mark} and channel = {mark}", [thread, part]
    if part == "result":
        table, column = ("checkpoint_blobs", "blob") if postgres else ("checkpoints", "checkpoint")
        if not postgres:
            where, arguments = f"thread_id = {mark}", [thread]
    key = "version" if table == "checkpoint_blobs" else "checkpoint_id"
    with connected(place) as connection:
        last = connection.execute(
            f"select {key}, {column} from {table} where {where} order by {key} desc limit 1",  # noqa: S608
            arguments,
        ).fetchone()
        spoilt = bytearray(last[1])
        spoilt[len(spoilt) // 2] ^= 1
        done = connection.execute(
            f"update {table} set {column} = {mark} where {where} and {key} = {mark}",  # noqa: S608
            [bytes(spoilt), *arguments, last[0]],
        )
        assert done.rowcount == 1


def test_what_is_in_clear_is_what_the_page_says(pair: EnginePair, place: str) -> None:
    ask(pair, place, "known")
    postgres = "://" in place
    for row in rows(place, "checkpoints", "known"):
        if not postgres:
            assert row["type"] == "msgpack+aes-gcm"
            continue
        clear = {name: value for name, value in row["checkpoint"]["channel_values"].items() if value is not None}
        assert clear.keys() <= {"stop_reason", "trace", "manifest"}
        assert clear.get("stop_reason") in (None, "", "answered")
        assert clear.get("trace") in (None, True)
    for row in (
        row for table in TABLES["postgres" if postgres else "sqlite"][1:] for row in rows(place, table, "known")
    ):
        assert row["type"].endswith("+aes-gcm"), row


def test_what_the_caller_puts_into_the_config_is_in_clear(pair: EnginePair, place: str) -> None:
    config: Any = {"configurable": {"thread_id": "told", "user": "zed"}, "metadata": {"note": "Zounds"}}
    with opened(place, serde()) as saver:
        create_specreason(pair).compile(checkpointer=saver).invoke({"question": QUESTION}, config)
    raw = stored(place, "told")
    assert all(word in raw["checkpoints.metadata"] for word in (b"zed", b"Zounds"))
