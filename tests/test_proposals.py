"""Several proposals for a step: the best is taken, and all stay in the evidence."""

from __future__ import annotations

from typing import Any

import pytest

from specreason_graph import EnginePair, Step, create_specreason
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.keep.export import to_jsonl
from specreason_graph.audit.show.report import render_run
from specreason_graph.engines.base import Completion, Generation, Sampling
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import ConfigError
from specreason_graph.models.abacus.problems import held_out
from tests.support.recording import record
from tests.support.scripts import CLOSE, done, writing


class Varied(FakeEngine):
    """Writes another version for each sample: the script's reply with the sample's number in it."""

    async def generate(self, prompt_ids: Any, sampling: Sampling, on_token: Any = None) -> Completion:
        first = await super().generate(prompt_ids, sampling, on_token)
        text = self.vocabulary.decode(first.generations[0].token_ids)
        versions = [text.replace("#", str(self.shown(number))) for number in range(sampling.n)]
        written = [Generation(self.vocabulary.encode_template(each), first.generations[0].finish) for each in versions]
        usage = first.usage.model_copy(update={"generated_tokens": sum(len(each.token_ids) for each in written)})
        return Completion(written, usage)

    def shown(self, number: int) -> int:
        return number


def varied(kind: type[Varied] = Varied, best: tuple[int, ...] = (3, 9, 5)) -> EnginePair:
    """A pair whose draft writes versions 0, 1, 2, ..., which the base scores with ``best``."""

    def draft(prompt: str) -> str:
        return f"Version # of step {done(prompt)}.\n\n" if done(prompt) < 3 else CLOSE

    def judge(prompt: str) -> int:
        version = prompt.rpartition("Version ")[2]
        return best[int(version[0])]

    return EnginePair(kind(draft, name="draft"), FakeEngine(writing("base", 3), judge, name="base"))


def solved(pair: EnginePair, **settings: Any) -> Any:
    return record(pair, proposals=3, **settings)


@pytest.mark.parametrize("lookahead", [0, 4, None])
def test_the_best_is_taken_and_all_stay_in_the_evidence(lookahead: int | None) -> None:
    with varied() as pair:
        run = solved(pair, lookahead=lookahead)
    *steps, last = run.steps
    assert [step.text.strip() for step in steps] == [f"Version 1 of step {number}." for number in range(3)]
    for step in steps:
        assert [each.proposal.text[:9] for each in step.alternatives] == ["Version 0", "Version 2"]
        assert [each.score.greedy for each in step.alternatives] == [3, 5]
        costs = {cost.purpose: cost.usage for cost in step.costs}
        assert costs["draft"].generated_tokens == 3 * len(step.token_ids)
        assert (costs["draft"].calls, costs["score"].calls) == (1, 3)
        assert step.seed == step.alternatives[0].proposal.seed + 1
    assert last.alternatives == []  # three times the closing tag is one proposal
    assert verify(run).ok
    assert recompute(run).differences == []


def test_the_best_of_those_that_are_not_good_enough_is_rejected() -> None:
    with varied(best=(3, 6, 5)) as pair:
        run = solved(pair)
    first = run.steps[0]
    assert (first.author, first.discarded.text.strip()) == ("base", "Version 1 of step 0.")
    assert len(first.alternatives) == 2
    spoilt = run.values["trace_summary"]["discarded"]
    assert spoilt["generated_tokens"] >= 9 * len(first.discarded.token_ids)
    assert recompute(run).differences == []


def test_versions_that_are_the_same_are_judged_once() -> None:
    class Alike(Varied):
        def shown(self, number: int) -> int:
            return 1

    with varied(Alike) as pair:
        run = solved(pair)
        scored = [call for call in pair.base.calls if call.kind == "next_token"]  # type: ignore[attr-defined]
    assert len(scored) == 3
    assert all(step.alternatives == [] for step in run.steps)
    assert run.steps[0].costs[0].usage.generated_tokens == 3 * len(run.steps[0].token_ids)


def test_a_version_that_was_better_and_not_taken_is_found() -> None:
    with varied(best=(3, 8, 5)) as pair:
        run = solved(pair)
    run.trace[1]["alternatives"][0]["score"] |= {"digit_logprobs": [-69.0] * 9 + [0.0], "greedy": 9, "mean": 9.0}
    assert [(found.step, found.problem.partition(":")[0]) for found in recompute(run).differences] == [
        (1, "better proposals")
    ]
    assert [found.step for found in verify(run).findings] == [1]


def test_alternatives_are_entries_of_the_ledger_and_on_the_page() -> None:
    with varied() as pair:
        run = solved(pair)
    lines = list(to_jsonl([run]))
    assert sum('"kind": "alternative"' in line for line in lines) == 6
    assert verify(run).entries == len(lines)
    assert "Version 2 of step 0." in render_run(run)


def test_greedy_versions_would_all_be_the_same() -> None:
    with pytest.raises(ConfigError, match="proposals = 2 would all be the same at temperature = 0"), varied() as pair:
        create_specreason(pair, proposals=2, temperature=0)


def test_the_reference_pair_gets_more_in_with_more_versions(abacus: EnginePair) -> None:
    graph = create_specreason(abacus, temperature=1.0).compile()

    def accepted(proposals: int) -> int:
        knobs: Any = {"configurable": {"specreason": {"proposals": proposals, "seed": 1}}}
        runs = [graph.invoke({"question": problem.question}, knobs) for problem in held_out()[:6]]
        return sum(Step.load(step).author == "draft" for run in runs for step in run["trace"])

    assert accepted(4) > accepted(1)
