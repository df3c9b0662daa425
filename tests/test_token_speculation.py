"""Counts of token-level speculation inside an engine: how they are taken, added up, kept and shown. No vLLM needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from specreason_graph import create_specreason
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.show.report import render_run
from specreason_graph.cli.documents import run_document
from specreason_graph.cli.live_view import LiveView
from specreason_graph.engines.base import Sampling, speculation_of
from specreason_graph.engines.vllm.scheduler import attach_counts, counting
from specreason_graph.record.records import Answer, Step, Usage
from specreason_graph.record.summary import summarise
from tests.support.audited import scripted
from tests.support.traces import Before, around
from tests.support.vllm_client import Client, engine_on

THREAD: Any = {"configurable": {"thread_id": "t"}}


class Guessing(Before):
    """An engine that says it guessed five tokens in each call, and two were right."""

    async def generate(self, *arguments: Any) -> Any:
        done = await self.engine.generate(*arguments)
        return replace(done, usage=done.usage + Usage(speculated_tokens=5, speculated_accepted=2))


@pytest.fixture(params=[True, False], ids=["guessing", "plain"])
def run(request: Any) -> Iterator[tuple[Any, Any]]:
    """A recorded run whose base model guesses, and one whose base model does not; its state, and how it is read."""
    saver = InMemorySaver()
    with scripted(4) as pair:
        base = Guessing(pair.base) if request.param else pair.base
        graph = create_specreason(around(pair, base=base)).compile(checkpointer=saver)
        graph.invoke({"question": "What?"}, THREAD)
        yield graph.get_state(THREAD).values, saver


def test_counts_add_up_and_are_none_where_nothing_was_told() -> None:
    told = speculation_of({"num_draft_tokens": 12, "num_accepted_draft_tokens": 5, "num_spec_tokens": 3})
    assert told == Usage(speculated_tokens=12, speculated_accepted=5)
    assert told + Usage(calls=1) + told == Usage(calls=1, speculated_tokens=24, speculated_accepted=10)
    assert speculation_of(None) == speculation_of({}) == Usage()
    assert Usage.load({"calls": 1, "generated_tokens": 3}).speculated_tokens == 0


def test_counts_are_kept_and_shown_only_where_there_are_any(
    run: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    values, saver = run
    steps, answer = [Step.load(step) for step in values["trace"]], Answer.load(values["result"])
    totals = summarise(steps, answer)
    by_base = sum(cost.usage.calls for cost in totals.costs if cost.engine == "base" and cost.purpose != "score")
    guessed = totals.work.speculated_tokens
    assert guessed in (0, 5 * by_base)
    assert totals.work.speculated_accepted == guessed // 5 * 2
    told = [cost.usage.speculated_tokens for cost in run_document("t", values).usage.costs]
    assert sum(told) == guessed
    LiveView().closing(answer, values["stop_reason"], totals)
    line = f"  token-level speculation: {guessed // 5 * 2} of {guessed} tokens accepted\n"
    assert (line in capsys.readouterr().out) is bool(guessed)
    (recorded,) = read_runs(saver, "t")
    assert ("Token-level speculation" in render_run(recorded)) is bool(guessed)
    assert verify(recorded).ok


@dataclass
class Counts:
    """As vLLM's own."""

    histogram: list[int] = field(default_factory=lambda: [0, 0])

    def to_dict(self) -> dict[str, int]:
        return {"num_draft_tokens": sum(self.histogram), "num_accepted_draft_tokens": self.histogram[1]}


def part(index: int, histogram: list[int] | None, reason: str | None = "length") -> Any:
    counts = Counts(histogram) if histogram else None
    return SimpleNamespace(
        index=index, token_ids=[1], finish_reason=reason, stop_reason=None, spec_decode_metrics=counts
    )


@pytest.mark.parametrize(
    ("made", "counts"),
    [
        ([[part(0, [3, 1]), part(1, [2, 2])]], (8, 3)),
        ([[part(0, None, None)], [part(1, [2, 2])], [part(0, [3, 1])]], (8, 3)),
        ([[part(0, None), part(1, None)]], (0, 0)),
    ],
)
async def test_the_guesses_for_all_continuations_of_a_call_are_counted(
    made: Any, counts: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(SimpleNamespace(outputs=parts, num_cached_tokens=7) for parts in made)
    async with engine_on(client, monkeypatch) as engine:
        seen: list[int] = []
        done = await engine.generate([1], Sampling(max_tokens=1, temperature=1, n=2), seen.append)
    assert seen == done.generations[0].token_ids
    assert (len(done.generations), done.usage.cached_tokens) == (2, 7)
    assert (done.usage.speculated_tokens, done.usage.speculated_accepted) == counts


def outputs(*names: str) -> Any:
    return {0: SimpleNamespace(outputs=[SimpleNamespace(request_id=name, spec_decode_metrics=None) for name in names])}


def test_the_counts_of_a_request_go_with_each_of_its_outputs() -> None:
    requests = {"a": SimpleNamespace(spec_decode_metrics=Counts()), "b": SimpleNamespace(spec_decode_metrics=None)}
    made = outputs("a", "b", "gone")
    attach_counts(requests, made)
    requests["a"].spec_decode_metrics.histogram[1] += 1
    assert [each.spec_decode_metrics for each in made[0].outputs] == [Counts([0, 0]), None, None]
    final = made[0].outputs[0].spec_decode_metrics
    attach_counts(requests, made)
    assert made[0].outputs[0].spec_decode_metrics is final


def test_the_scheduler_is_the_one_that_vllm_would_choose() -> None:
    class Scheduler:
        def __init__(self, vllm_config: Any, log_stats: bool) -> None:
            self.given = vllm_config, log_stats
            self.requests = {"a": SimpleNamespace(spec_decode_metrics=Counts([1, 2]))}

        def update_from_output(self, scheduled: Any, result: Any) -> Any:
            return outputs(scheduled + result)

    class Config:
        scheduler_cls: str | None = "ours"

        def get_scheduler_cls(self) -> Any:
            return Scheduler if self.scheduler_cls is None else counting

    config = SimpleNamespace(scheduler_config=Config())
    scheduler = counting(vllm_config=config, log_stats=False)
    assert scheduler.given == (config, False)
    assert config.scheduler_config.scheduler_cls == "ours"
    assert scheduler.update_from_output("", "a")[0].outputs[0].spec_decode_metrics == Counts([1, 2])
