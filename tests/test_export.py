"""Exports: lines of JSON that anybody can check, and logs that the loader of `inspect view` reads."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from inspect_ai.event import InfoEvent, ModelEvent, SpanBeginEvent
from inspect_ai.log import EvalLog, read_eval_log, read_eval_log_sample_summaries
from langgraph.types import Command

from specreason_graph import EnginePair, create_specreason
from specreason_graph.audit.keep import export
from specreason_graph.audit.keep.export import ledger_schema, to_inspect, to_jsonl
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import ConfigError, ThreadError
from specreason_graph.record.records import Signature
from specreason_graph.record.signing import Signer, is_signed_by
from tests.support.databases import opened
from tests.support.ports import free_port
from tests.support.scripts import CLOSE

STEPS = 5
SIGNER = Signer(Ed25519PrivateKey.generate())


@pytest.fixture
def pair() -> Iterator[EnginePair]:
    def think(prompt: str) -> str:
        done = prompt.rpartition("<think>\n")[2].count("\n\n")
        return f"Thought {done}.\u2028\n\n" if done < STEPS else CLOSE

    def base(prompt: str) -> str:
        thinking = prompt.rpartition("<think>\n")[2]
        return "The <b>end</b>." if CLOSE in thinking else "Rethought.\n\n" if thinking.count("\n\n") == 1 else CLOSE

    def judge(prompt: str) -> int:
        return 1 if "Thought 1" in prompt and "Rethought" not in prompt else 4 if "Thought 3" in prompt else 9

    draft = FakeEngine(think, name="small", delay=0.001)
    with EnginePair(draft, FakeEngine(base, judge, name="large", delay=0.001)) as pair:
        yield pair


@pytest.fixture
def runs(pair: EnginePair, place: str) -> list[RecordedRun]:
    """The latest first: one that waits for its reviewer, one that was reviewed and signed, asked by messages."""
    config: Any = {"configurable": {"thread_id": "t"}}
    with opened(place) as saver:
        saver.setup()
        saver.delete_thread("t")
        graph: Any = create_specreason(pair, review={"low": 3, "high": 5}, signer=SIGNER).compile(checkpointer=saver)
        conversation = [("system", "Be brief."), ("user", "Hi."), ("assistant", "Hello."), ("user", "Why?")]
        graph.invoke({"messages": conversation}, config)
        resumed: Command[Any] = Command(resume={"verdict": "edit", "text": "As a human has it.", "reviewer": "Ada"})
        while graph.get_state(config).next:
            graph.invoke(resumed, config)
        graph.invoke({"question": "And how?"}, config)
        return read_runs(saver, "t")


def test_the_lines_of_a_ledger_hold_all_of_it_in_order(runs: list[RecordedRun]) -> None:
    lines = [json.loads(line) for line in to_jsonl(reversed(runs))]
    assert [run.finished for run in runs] == [False, True]
    whole, broken = ([line for line in lines if line["run"] == run.run] for run in reversed(runs))
    assert lines == whole + broken
    kinds = [line["entry"]["kind"] for line in whole]
    assert (kinds[0], kinds[-1], set(kinds)) == (
        "manifest", "answer", {"manifest", "proposal", "review", "step", "answer"}
    )  # fmt: skip
    assert kinds.count("step") == len(runs[1].trace)
    assert "answer" not in [line["entry"]["kind"] for line in broken]
    assert {(line["thread_id"], line["namespace"]) for line in lines} == {("t", "")}


def test_anybody_can_compute_the_chain_from_the_lines(runs: list[RecordedRun]) -> None:
    for run in runs:
        head = None
        for line in to_jsonl([run]):
            assert len(line.splitlines()) == 1
            content = json.loads(line)["entry"]
            stored = content.pop("hash")
            assert content["previous"] == head
            head = hashlib.sha256(rfc8785.dumps(content)).hexdigest()
            assert head == stored
        assert head == run.head


def test_the_last_line_carries_the_signature(runs: list[RecordedRun]) -> None:
    *before, last = (json.loads(line) for line in to_jsonl(runs[1:]))
    assert not any(line["signature"] for line in before)
    signature = Signature.load(last["signature"])
    assert is_signed_by(last["entry"]["hash"], signature, signature.key)


def test_lines_follow_the_schema_and_what_is_none_does_not(runs: list[RecordedRun]) -> None:
    schema = ledger_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    lines = [json.loads(line) for line in to_jsonl(runs)]
    for line in lines:
        check.validate(line)
    spoilt = [json.loads(json.dumps(line)) for line in lines]
    for line in spoilt:
        body = line["entry"]["body"]
        del body["question" if line["entry"]["kind"] == "manifest" else "verdict" if "verdict" in body else "text"]
        assert not check.is_valid(line), line["entry"]["kind"]


def test_a_run_that_was_changed_is_not_made_into_a_chain_that_fits(runs: list[RecordedRun], tmp_path: Path) -> None:
    runs[1].trace[0] = {**runs[1].trace[0], "text": "something else"}
    with pytest.raises(ThreadError, match="is not as it was written"):
        list(to_jsonl(runs))
    with pytest.raises(ThreadError, match="is not as it was written"):
        to_inspect(runs, tmp_path / "log.eval")
    assert list(tmp_path.glob("*.eval")) == []


def test_a_run_without_a_ledger_has_no_lines(runs: list[RecordedRun], tmp_path: Path) -> None:
    old = runs[1]
    old.manifest = {name: value for name, value in old.manifest.items() if name != "hash"} | {"schema_version": 1}
    old.trace = [{**step, "hash": None} for step in old.trace]
    old.values["result"] = {**old.result, "hash": None}
    with pytest.raises(ThreadError, match="has no ledger; it was made with schema version 1"):
        list(to_jsonl([old]))
    to_inspect([old], tmp_path / "old.eval")
    assert read_eval_log(tmp_path / "old.eval").status == "success"


@pytest.mark.parametrize("ending", ["eval", "json"])
def test_inspect_reads_the_log(runs: list[RecordedRun], ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"runs.{ending}"
    to_inspect(runs[1:], file)
    to_inspect(runs, file)  # in the place of what was there
    log = read_eval_log(file, resolve_attachments=True)
    assert log.status == "cancelled"
    assert log.eval.model == "large"
    assert log.samples
    samples = {sample.id: sample for sample in log.samples}
    whole, broken = samples[runs[1].run], samples[runs[0].run]
    assert [message.role for message in whole.messages] == ["system", "user", "assistant", "user", "assistant"]
    blocks: Any = whole.messages[-1].content
    assert [block.reasoning for block in blocks[:-1]] == [step["text"] for step in runs[1].trace if step["text"]]
    assert blocks[-1].text == whole.output.completion == "The <b>end</b>."
    assert broken.input == "And how?"
    assert (broken.output.completion, broken.scores, whole.scores) == ("", None, None)
    assert whole.metadata["head"] == runs[1].head
    assert whole.metadata["config"] == runs[1].manifest["config"]
    assert (whole.metadata["stop_reason"], broken.metadata["stop_reason"]) == ("answered", None)
    assert whole.metadata["signature"]["key"]
    assert {summary.id for summary in read_eval_log_sample_summaries(file)} == samples.keys()


def test_the_transcript_has_every_call_and_decision(runs: list[RecordedRun], tmp_path: Path) -> None:
    to_inspect(runs[1:], tmp_path / "runs.eval")
    log = read_eval_log(tmp_path / "runs.eval", resolve_attachments=True)
    assert log.status == "success"
    assert log.samples
    (sample,) = log.samples
    (run,) = runs[1:]
    spans = [event.name for event in sample.events if isinstance(event, SpanBeginEvent)]
    assert spans == [*(f"step {number + 1}" for number in range(len(run.trace))), "answer"]
    told = [event.data for event in sample.events if isinstance(event, InfoEvent)]
    for data, step in zip(told, run.trace, strict=True):
        assert isinstance(data, dict)
        assert {name: step[name] for name in data} == data
        assert {"score", "decision", "discarded"} < data.keys()
    calls = [event for event in sample.events if isinstance(event, ModelEvent)]
    costs = [(step.index, cost) for step in run.steps for cost in step.costs]
    expected = [(index, cost.engine, cost.purpose, cost.wasted) for index, cost in costs]
    assert sorted(map(about, calls)) == sorted([*expected, (len(run.trace), "base", "answer", False)])
    within = [(about(call)[0], call.timestamp) for call in calls]  # what was done ahead began before the step's turn
    assert within == sorted(within)
    for role, model in (("draft", "small"), ("base", "large")):
        written = sum(call.output.usage.output_tokens for call in calls if call.role == role and call.output.usage)
        assert sample.model_usage[model].output_tokens == sample.role_usage[role].output_tokens == written > 0
    assert [call.output.completion for call in calls if about(call)[2:] == ("regenerate", False)] == [
        step["text"] for step in run.trace if step["author"] == "base"
    ]


def about(call: ModelEvent) -> tuple[Any, ...]:
    """Step, engine, purpose, and whether it was done in vain."""
    found = call.metadata or {}
    return found["steps_before"], call.role, found["purpose"], found["wasted"]


@contextmanager
def viewed(folder: Path) -> Iterator[httpx.Client]:
    """``inspect view`` at work on a folder of logs."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("inspect")), "view", "start", "--log-dir", str(folder)]
    with subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout
            assert any("Running on" in line for line in process.stdout), "inspect view ended before it served anything"
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=60) as client:
                yield client
        finally:
            process.terminate()


def test_inspect_view_serves_it(runs: list[RecordedRun], tmp_path: Path) -> None:
    files = [tmp_path / f"2026-01-01T00-00-00_runs_t.{ending}" for ending in ("eval", "json")]
    for file in files:
        to_inspect(runs, file)
    with viewed(tmp_path) as client:
        listed = client.get("/logs").raise_for_status().json()
        shown = [client.get(f"/logs/{file}").raise_for_status().json() for file in files]
        headers = client.get("/log-headers", params={"file": [str(file) for file in files]}).raise_for_status().json()
    assert sorted(Path(each["name"]).name for each in listed["files"]) == [file.name for file in files]
    for log in map(EvalLog.model_validate, shown):
        assert {sample.id for sample in log.samples or []} == {run.run for run in runs}
    told = [(header["status"], header["results"]["completed_samples"]) for header in headers]
    assert told == [("cancelled", 1)] * 2


def test_bad_requests_say_what_to_do(runs: list[RecordedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'runs.txt' is no name of an Inspect log; end it with .eval or .json"):
        to_inspect(runs, tmp_path / "runs.txt")
    with pytest.raises(ThreadError, match="no run"):
        to_inspect([], tmp_path / "runs.eval")
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r'install it with pip install "specreason-graph\[inspect\]"'):
        to_inspect(runs, tmp_path / "runs.eval")
