"""How far `specreason plan` is off: predicted and measured times of the same strategies on the same machine.

The machine is calibrated with calls of its own: seconds a token, a prompt's token, a call, a stage of this package.
The runs that are predicted give no seconds to that. Steps, lengths and decisions are those of recorded runs, once of
other problems, as a user would have them, and once of the same ones, which leaves the error of the costs alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, median
from typing import Any, Literal

from benchmarks.workload import FinishedRun, parts, run_all
from specreason_graph import EnginePair, create_specreason
from specreason_graph.bench.run import reset_prefix_caches
from specreason_graph.bench.strategies import NAMED, Strategy, rotated
from specreason_graph.config import NEVER, make_config
from specreason_graph.engines.base import Engine, Sampling, Vocabulary
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.models.abacus.problems import Problem, held_out
from specreason_graph.planning.descriptions import Described, describe
from specreason_graph.planning.profile import QuestionProfile, question_profile
from specreason_graph.planning.simulation import simulate
from specreason_graph.planning.strategies import STEPWISE, Planned
from specreason_graph.record.records import Engine as Role
from specreason_graph.record.records import Record

LIKELY = {"kind": "likelihood", "threshold": -1.0}
CASCADE = {
    "kind": "cascade", "first": {"kind": "confidence"}, "low": -3.0, "high": -0.001, "then": LIKELY,
}  # fmt: skip
BASE = Strategy(name="base", settings={"first_steps_by_base": NEVER})
STRATEGIES: tuple[tuple[Strategy, Planned], ...] = (
    (NAMED["sequential"], Planned(name="sequential", lookahead=0)),
    (Strategy(name="digit"), Planned(name="digit")),
    (Strategy(name="likelihood", settings={"judge": LIKELY}), Planned(name="likelihood", judge="likelihood")),
    (Strategy(name="cascade", settings={"judge": CASCADE}), Planned(name="cascade", judge="cascade")),
)
"""What is predicted and measured; thresholds are those that separate right steps from wrong ones on other problems."""
SHARED: dict[str, Any] = {"temperature": 0.0}
"""Settings of all runs: the same traces each time."""
TOKENS, REPEATS = 48, 7
"""Tokens of a timed generation, and how often each figure is taken; medians count."""
SHORT, LONG = 8, 72
"""Tokens of two prompts' ends, whose difference in seconds is that of their tokens."""
SIZES = (4, 16)
"""Sequences at once in an engine that batches."""
FEW, MANY = 4, 24
"""Steps of two scripted runs, whose difference in seconds is that of this package's stages."""
NEVER_WRITTEN = "\x00"
"""A stop string that no model writes: each token is looked at as in a run."""


async def calibrate_engine(engine: Engine, prompts: Sequence[Sequence[int]], sizes: Sequence[int]) -> dict[str, Any]:
    """Measure one engine that nothing else works on: a table ``measured`` of a description.

    ``prompts``: token ids of at least as many prompts as the largest of ``sizes``.
    """
    token = await _difference(engine, prompts[:1])
    passes = {1: token, **{size: await _difference(engine, prompts[:size]) for size in sizes}}
    short, long = [await _middle(partial(_read, engine, prompts[0], count)) for count in (SHORT, LONG)]
    prefill = max(0.0, (long - short) / (LONG - SHORT))
    judged = await _middle(partial(_judge, engine, prompts[0], LONG))
    reading = await _middle(partial(_read, engine, prompts[0], SHORT), time.process_time)
    writing = await _middle(partial(_write, engine, prompts[:1], TOKENS), time.process_time)
    return {
        "passes": passes, "prefill": prefill, "call_seconds": max(0.0, short - token - prefill * (SHORT - 1)),
        "logprobs": max(0.0, await _difference(engine, prompts[:1], logprobs=0) - token),
        "likelihood": max(0.0, judged - long),
        "host_call": reading, "host_token": max(0.0, (writing - reading) / TOKENS),
    }  # fmt: skip


async def _difference(engine: Engine, prompts: Sequence[Sequence[int]], logprobs: int | None = None) -> float:
    """Seconds of a decoding pass: that of a long generation less that of a short one."""
    await _write(engine, prompts, 2)  # prompts are in the cache from now on
    short, long = [await _middle(partial(_write, engine, prompts, count, logprobs)) for count in (2, TOKENS)]
    return (long - short) / (TOKENS - 2)


async def _write(engine: Engine, prompts: Sequence[Sequence[int]], tokens: int, logprobs: int | None = None) -> None:
    sampling = Sampling(max_tokens=tokens, stop=(NEVER_WRITTEN,), logprobs=logprobs)
    await asyncio.gather(*(engine.generate(list(each), sampling) for each in prompts))


_FRESH = iter(range(10**9))


async def _read(engine: Engine, prompt: Sequence[int], tokens: int) -> None:
    """Have a prompt read whose end is in no cache."""
    end = _unseen(engine, tokens)
    await engine.next_token([*prompt, *end], end[:1])


async def _judge(engine: Engine, prompt: Sequence[int], tokens: int) -> None:
    """Ask for the likelihood of an end that is in no cache."""
    await engine.likelihood(list(prompt), _unseen(engine, tokens))


def _unseen(engine: Engine, tokens: int) -> list[int]:
    """Tokens that were not asked about before."""
    ids, number = engine.vocabulary.encode("0123456789"), next(_FRESH)
    return [ids[(number // len(ids) ** (place % 6) + place) % len(ids)] for place in range(tokens)]


async def _middle(work: Callable[[], Awaitable[None]], clock: Callable[[], float] = time.perf_counter) -> float:
    seconds = []
    for _ in range(REPEATS):
        begun = clock()
        await work()
        seconds.append(clock() - begun)
    return median(seconds)


async def calibrate_slowdown(pair: EnginePair, prompts: dict[Role, list[int]], alone: dict[Role, float]) -> float:
    """How many times as long passes take while the other model writes as well."""
    found: dict[Role, list[float]] = {"base": [], "draft": []}
    both = asyncio.Event()

    async def write(role: Role) -> None:
        other: Role = "draft" if role == "base" else "base"
        while len(found[role]) < REPEATS or len(found[other]) < REPEATS:
            begun = time.perf_counter()
            await _write(pair.engine(role), [prompts[role]], TOKENS)
            found[role].append((time.perf_counter() - begun) / TOKENS)
        both.set()

    await asyncio.gather(write("base"), write("draft"))
    return max(1.0, fmean(median(found[role]) / alone[role] for role in ("base", "draft")))


def calibrate_stages(vocabulary: Vocabulary) -> dict[str, float]:
    """Seconds of this package for a stage and for a run, with scripted engines that take no time."""
    seconds = {count: _scripted_seconds(vocabulary, count) for count in (FEW, MANY)}
    stage = (seconds[MANY] - seconds[FEW]) / (MANY - FEW) / 3
    return {"stage_seconds": stage, "start_seconds": max(0.0, seconds[FEW] - (3 * FEW + 2) * stage)}


def _scripted_seconds(vocabulary: Vocabulary, steps: int) -> float:
    step, close = "She now has 25 boxes and 18 coins left.\n\n", "</think>"

    def write(prompt: str) -> str:
        thinking = prompt.rpartition("<think>")[2]
        if close in thinking:
            return "The answer is 450."
        return step if thinking.count("\n\n") < steps else close

    draft, base = (
        FakeEngine(write, lambda _: 9, name=name, vocabulary=vocabulary, context=10**6) for name in ("draft", "base")
    )
    seconds = []
    with EnginePair(draft, base) as pair:
        graph = create_specreason(pair, repetition_limit=10**6, **SHARED).compile()
        for number in range(REPEATS):
            begun = time.perf_counter()
            outcome = graph.invoke({"question": f"Which of {number}?"})
            seconds.append(time.perf_counter() - begun)
            if not steps <= len(outcome["trace"]) <= steps + 1:
                raise RuntimeError(f"the scripted run took {len(outcome['trace'])} steps and not {steps}")
    return median(seconds)


def calibrate(pair: EnginePair, engine: str, cores: int, problems: Sequence[Problem]) -> Described:
    """Describe the reference pair on this machine by short measurements, on prompts of these problems."""
    batches = engine != "transformers"
    sampler = StepSampler.create(pair, make_config())
    prompts: dict[Role, list[list[int]]] = {
        role: [sampler.prompts.of(role).question_ids(each.question) for each in problems] for role in ("base", "draft")
    }
    measured: dict[Role, dict[str, Any]] = {}
    for role in prompts:
        work = partial(calibrate_engine, pair.engine(role), prompts[role], SIZES if batches else ())
        measured[role] = pair.run(work)
    alone = {role: found["passes"][1] for role, found in measured.items()}
    slowdown = pair.run(partial(calibrate_slowdown, pair, {role: found[0] for role, found in prompts.items()}, alone))
    found = describe(hardware="cpu2", base="abacus-base", draft="abacus-draft")
    hardware = {
        "name": "this machine", "cores": cores, "batching": batches, "slots": None if batches else 2,
        "block": 32 if batches else 1, "slowdown": slowdown, **calibrate_stages(pair.base.vocabulary),
    }  # fmt: skip
    return Described.model_validate({
        "hardware": {**found.hardware.model_dump(), **hardware},
        **{role: {**getattr(found, role).model_dump(), "measured": measured[role]} for role in ("base", "draft")},
        "speculation": found.speculation.model_dump(),
    })  # fmt: skip


class Error(Record):
    """A strategy at one concurrency: predicted and measured times of the base alone."""

    kind: Literal["plan_error"] = "plan_error"
    """Kind of this JSON line."""
    strategy: str
    """Name of the strategy."""
    concurrency: int
    """Problems at the same time."""
    measured: float
    """Wall seconds of the base alone over those of the strategy, measured."""
    from_others: float
    """The same, predicted from runs on other problems."""
    from_same: float
    """The same, predicted from the steps and decisions of the measured runs."""
    seconds: float
    """Measured wall seconds of the strategy."""
    predicted_seconds: float
    """Predicted wall seconds, from the steps and decisions of the measured runs."""

    @property
    def error(self) -> float:
        """How far the ratio predicted from other problems is off, as a share of the measured one."""
        return self.from_others / self.measured - 1

    @property
    def error_of_costs(self) -> float:
        """How far the ratio predicted from the same runs is off."""
        return self.from_same / self.measured - 1


@dataclass
class _Measured:
    """What was measured of one strategy."""

    repeats: list[float] = field(default_factory=list)
    """Wall seconds of each repeat."""
    parts: list[list[QuestionProfile]] = field(default_factory=list)
    """The runs of a repeat, in the parts that they were run in."""


def compare(
    pair: EnginePair, described: Described, count: int, concurrency: int, repeats: int = 3,
    report: Callable[[str], None] = lambda _line: None,
) -> list[Error]:  # fmt: skip
    """Measure the strategies on ``count`` problems, predict them, and return the errors."""
    theirs, ours = held_out()[-2 * count : -count], held_out()[-count:]
    planned = {BASE.name: STEPWISE, **{each.name: plan for each, plan in STRATEGIES}}
    planned = {name: _with_judge(pair, each) for name, each in planned.items()}
    recorded = _measure(pair, theirs, concurrency, 1, report)
    measured = _measure(pair, ours, concurrency, repeats, report)

    def seconds(of: dict[str, _Measured], name: str) -> float:
        return sum(simulate(described, part, planned[name], concurrency).seconds for part in of[name].parts)

    base = measured[BASE.name].repeats
    return [
        Error(
            strategy=name, concurrency=concurrency, seconds=median(measured[name].repeats),
            measured=median(b / s for b, s in zip(base, measured[name].repeats, strict=True)),
            from_others=seconds(recorded, BASE.name) / seconds(recorded, name),
            from_same=seconds(measured, BASE.name) / seconds(measured, name),
            predicted_seconds=seconds(measured, name),
        )
        for name in planned
    ]  # fmt: skip


def _with_judge(pair: EnginePair, planned: Planned) -> Planned:
    """A strategy with the length of the instruction that this pair's digit judge has."""
    suffix = len(StepSampler.create(pair, make_config()).setup.judge_ids)
    return planned.model_copy(update={"judge_tokens": suffix})


def _measure(
    pair: EnginePair, problems: Sequence[Problem], concurrency: int, repeats: int, report: Callable[[str], None]
) -> dict[str, _Measured]:
    """Run all strategies over the problems, in parts by turns and with empty prefix caches."""
    strategies = [BASE, *(each for each, _ in STRATEGIES)]
    graphs = {
        each.name: create_specreason(each.view(pair), **{**SHARED, **each.settings}).compile() for each in strategies
    }
    found, sampler = {each.name: _Measured() for each in strategies}, StepSampler.create(pair, make_config())
    for repeat in range(repeats):
        seconds = dict.fromkeys(found, 0.0)
        for number, (first, part) in enumerate(parts(problems, concurrency)):
            for strategy in rotated(strategies, number + repeat):
                pair.run(partial(reset_prefix_caches, pair))
                took, runs = run_all(graphs[strategy.name], part, concurrency, first)
                seconds[strategy.name] += took
                if not repeat:
                    found[strategy.name].parts.append(
                        [_profile(sampler, *each) for each in zip(part, runs, strict=True)]
                    )
        for name, took in seconds.items():
            found[name].repeats.append(took)
        report(f"{concurrency} at once: " + ", ".join(f"{name} {took:.2f} s" for name, took in seconds.items()))
    return found


def _profile(sampler: StepSampler, problem: Problem, run: FinishedRun) -> QuestionProfile:
    prompt = sampler.prompts.base.question_ids(problem.question)
    answer = next((cost.usage.generated_tokens for cost in run.total.costs if cost.purpose == "answer"), 0)
    return question_profile(run.steps, len(prompt), answer)


def lines(errors: Sequence[Error]) -> Iterator[str]:
    """The table, in Markdown."""
    yield "| strategy | at once | seconds | predicted | times base | from the same runs | error | from others | error |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for each in errors:
        yield (
            f"| {each.strategy} | {each.concurrency} | {each.seconds:.2f} | {each.predicted_seconds:.2f} | "
            f"{each.measured:.2f} | {each.from_same:.2f} | {each.error_of_costs:+.0%} | {each.from_others:.2f} | "
            f"{each.error:+.0%} |"
        )


def calibration_lines(described: Described) -> Iterator[str]:
    """The calibration, for people."""
    hardware = described.hardware
    for role in ("base", "draft"):
        measured = getattr(described, role).measured
        passes = ", ".join(f"{1000 * each:.2f} ms with {size}" for size, each in measured.passes.items())
        yield (
            f"{role}: a pass {passes}; {1000 * measured.prefill:.3f} ms a token of a prompt, "
            f"{1000 * measured.call_seconds:.2f} ms a call; more: {1000 * measured.logprobs:.2f} ms a token that tells "
            f"its log-probability, {1000 * measured.likelihood:.2f} ms a likelihood; CPU here: "
            f"{1000 * measured.host_call:.2f} ms a call, {1000 * measured.host_token:.3f} ms a token"
        )
    yield (
        f"both at once {hardware.slowdown:.2f} times as long; {1000 * hardware.stage_seconds:.2f} ms a stage and "
        f"{1000 * hardware.start_seconds:.1f} ms a run besides"
    )
