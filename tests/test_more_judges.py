"""More judges: arithmetic that is checked, sampling, and comparing; rules, evidence and audit on scripted engines."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from specreason_graph import EnginePair, create_specreason
from specreason_graph.audit.ask.sampled import at_most, unasked
from specreason_graph.audit.ask.whatif import what_if
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.rescore import rescore
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.cli.app import run as command
from specreason_graph.cli.vocabulary import with_keys
from specreason_graph.config import make_config
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.engines.slots import CallSlots
from specreason_graph.errors import ConfigError, EngineAnswerError, EngineRequestError
from specreason_graph.judging import (
    AllOf,
    Cascade,
    CheckJudge,
    CompareJudge,
    ConfidenceJudge,
    LikelihoodJudge,
    RewardJudge,
    Sample,
)
from specreason_graph.judging.compare import plain
from specreason_graph.policies.seeds import uniform
from specreason_graph.record.records import Score, Step, Usage
from tests.support.answering import DEEP, Asked, Reply, Server, serving
from tests.support.scripts import CLOSE, done, is_closed

THREAD: Any = {"configurable": {"thread_id": "judged"}}


def trace_of(outcome: Any) -> list[tuple[Any, ...]]:
    """What was decided and on what evidence, without times and wasted work."""
    return [
        (step["text"], step["author"], (step["score"] or {}).get("found"), step["decision"])
        for step in outcome["trace"]
    ]


class Ran:
    """A run under a judge, without lookahead and with it, and what its engines were asked."""

    def __init__(self, engines: Any, judge: Any, **settings: Any) -> None:
        traces = []
        for lookahead in (4, 0):
            saver = InMemorySaver()
            with engines() as self.engines:
                graph = create_specreason(self.engines, judge=judge, lookahead=lookahead, **settings)
                outcome = graph.compile(checkpointer=saver).invoke({"question": "What is it?"}, THREAD)
                self.calls = [call.kind for call in self.engines.base.calls]
                (self.run,) = read_runs(saver, "judged")
                self.rescored = rescore(self.run, self.engines)
            traces.append(trace_of(outcome))
        assert traces[0] == traces[1]
        assert_audited(self.run)
        assert self.rescored.flipped == []
        assert self.run.typed_manifest.config.judge.kind == getattr(judge, "kind", judge)

    @property
    def authors(self) -> str:
        """Who wrote each step, as initials; the last one, which ends the thinking, is left out."""
        return "".join(step.author[0] for step in self.run.steps[:-1])

    @property
    def steps(self) -> list[Step]:
        """The record."""
        return self.run.steps


def evidence(found: Ran) -> list[Score]:
    """The scores of the steps that have one."""
    return [step.score for step in found.steps if step.score]


def assert_audited(run: RecordedRun) -> None:
    """The record is whole, and every decision follows from it."""
    assert (verify(run).ok, verify(run).findings) == (True, [])
    assert recompute(run).differences == []
    assert what_if(run).changed == []


def pair_of(draft: list[str], base: list[str], **more: Any) -> EnginePair:
    """Engines that write these steps, one after the other, and then answer."""

    def write(steps: list[str]) -> Any:
        def next_of(prompt: str) -> str:
            if is_closed(prompt):
                return "The answer."
            return f"{steps[done(prompt)]}\n\n" if done(prompt) < len(steps) else CLOSE

        return next_of

    return EnginePair(
        FakeEngine(write(draft), name="draft", **more.pop("of_draft", {})), FakeEngine(write(base), name="base", **more)
    )


SUMS = ["3 + 4 = 7.", "7 * 6 = 43.", "The answer is near."]
RIGHT = ["3 + 4 = 7.", "7 * 6 = 42.", "The answer is 42."]


def test_check_rejects_only_what_is_wrong() -> None:
    found = Ran(lambda: pair_of(SUMS, RIGHT), CheckJudge())
    assert found.authors == "dbd"
    first, second, third = evidence(found)
    assert first.found == {"check": [{"statement": "3 + 4 = 7", "holds": True}]}
    assert second.found == {"check": [{"statement": "7 * 6 = 43", "holds": False}]}
    assert third.found == {"check": []}
    assert [step.decision.number for step in found.steps[:3]] == [1, 0, 0.5]
    assert first.usage == Usage()
    assert set(found.calls) == {"generate"}
    assert Ran(lambda: pair_of(SUMS, RIGHT), CheckJudge(threshold=1)).authors == "dbb"


def test_what_is_wrong_is_not_shown_to_the_next_judge() -> None:
    judge = AllOf(judges=(CheckJudge(), LikelihoodJudge()))
    found = Ran(lambda: pair_of(SUMS, RIGHT, likelihoods=lambda prompt, _: -1.0), judge)
    assert (found.authors, found.calls.count("likelihood")) == ("dbd", 2)


LONG = 40
SAMPLE = Sample(first=ConfidenceJudge(), sure=-5, one_in=4, then=LikelihoodJudge())


def sampled_pair() -> EnginePair:
    """Engines of which the draft is sure of four steps in five, and the base rejects each third step."""
    return pair_of(
        [f"Draft {number}." for number in range(LONG)], [f"Base {number}." for number in range(LONG)],
        of_draft={"confidences": lambda text: -20.0 if number_in(text) % 5 == 4 else -1.0},
        likelihoods=lambda _, step: -20.0 if number_in(step) % 3 == 2 else -1.0,
    )  # fmt: skip


def number_in(text: str) -> int:
    """Which step a text is of; the closing tag counts as the first."""
    return int("".join(filter(str.isdigit, text)) or 0)


@pytest.fixture(scope="module")
def sampled() -> Ran:
    """A long run under a sampling judge."""
    return Ran(sampled_pair, SAMPLE, seed=7, max_steps=LONG + 1, repetition_limit=LONG)


def test_one_in_n_of_the_sure_steps_is_asked_about_all_the_same(sampled: Ran) -> None:
    asked = 0
    for index, step in enumerate(sampled.steps[:LONG]):
        draw = uniform(7, index)
        sure, rejects = index % 5 != 4, index % 3 == 2
        asked += not sure or draw < 1 / 4
        assert step.score is not None
        assert step.score.found == ({"sample": draw} if sure else {})
        assert step.score.has("likelihood") is (not sure or draw < 1 / 4)
        assert step.author == ("base" if step.score.has("likelihood") and rejects else "draft")
        assert step.decision.judge == ("likelihood" if step.score.has("likelihood") else "confidence")
    assert sampled.calls.count("likelihood") == asked < LONG / 2


def test_the_draw_depends_on_seed_and_step_alone_and_an_auditor_draws_it_again(sampled: Ran) -> None:
    draws = [uniform(seed, index) for seed in range(100) for index in range(100)]
    assert all(0 <= draw < 1 for draw in draws)
    assert sum(draw < 0.1 for draw in draws) == pytest.approx(1000, abs=100)
    trace = [dict(step) for step in sampled.run.trace]
    trace[0]["score"] = {**trace[0]["score"], "found": {"sample": 0.9}}
    changed = replace(sampled.run, trace=trace, values={**sampled.run.values, "trace": trace})
    assert not verify(changed).ok
    problems = [each.problem for each in recompute(changed).differences]
    assert f"draw: recorded {{0.9}}, computed {{{{{uniform(7, 0)}}}}}".replace("{{", "{").replace("}}", "}") in problems


def test_the_bound_of_a_run(sampled: Ran) -> None:
    found = unasked([sampled.run])
    assert found is not None
    sure = [index for index in range(LONG) if index % 5 != 4]
    drawn = [index for index in sure if uniform(7, index) < 1 / 4]
    assert (found.sure, found.sampled, found.unasked) == (len(sure), len(drawn), len(sure) - len(drawn))
    assert found.rejected == sum(index % 3 == 2 for index in drawn)
    assert found.rejected / found.sampled < found.share_at_most < 1
    assert unasked([sampled.run] * 20).share_at_most < found.share_at_most  # type: ignore[union-attr]
    assert unasked([Ran(sampled_pair, "confidence").run]) is None
    with pytest.raises(ConfigError, match="confidence = 1 is not allowed"):
        unasked([sampled.run], confidence=1)


@pytest.mark.parametrize(("events", "trials", "bound"), [
    (0, 10, 1 - 0.05 ** (1 / 10)), (0, 1, 0.95), (10, 10, 1), (0, 0, 1), (1, 10, 0.3941633), (5, 100, 0.1022534),
    (3, 100_000, 7.7536e-5),
])  # fmt: skip
def test_the_bound_is_clopper_and_pearsons(events: int, trials: int, bound: float) -> None:
    assert at_most(events, trials, 0.95) == pytest.approx(bound, rel=1e-4)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.4])
def test_the_bound_holds_as_often_as_it_says(share: float) -> None:
    rng, held, realised = random.Random(3), 0, 0
    for _ in range(1_000):
        steps = [(rng.random() < share, rng.random() < 1 / 5) for _ in range(300)]
        asked = [rejected for rejected, drawn in steps if drawn]
        others = [rejected for rejected, drawn in steps if not drawn]
        bound = at_most(sum(asked), len(asked), 0.95)
        held += share <= bound
        realised += sum(others) / len(others) <= bound
    assert held >= 950 - 20  # three standard errors
    assert realised >= 950 - 30


def test_the_command_line_tells_the_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "runs.sqlite")
    with sampled_pair() as engines, SqliteSaver.from_conn_string(file) as saver:
        graph = create_specreason(engines, judge=SAMPLE, max_steps=20).compile(checkpointer=saver)
        graph.invoke({"question": "What is it?"}, THREAD)
        found = unasked(read_runs(saver, "judged"), confidence=0.9)
    assert found is not None
    told = f"{found.unasked} steps were let in unasked; of {found.sampled} sampled ones {found.rejected} were rejected"
    for thread in (["judged"], []):
        assert command(["audit", "whatif", *thread, "--confidence", "0.9", "--db", file]) == 0
        printed = capsys.readouterr().out
        assert told in printed
        assert f"of such steps at most {found.share_at_most:.1%} would be (90% confidence)" in printed
    assert command(["audit", "whatif", "judged", "--confidence", "0.9", "--json", "--db", file]) == 0
    assert json.loads(capsys.readouterr().out)["unasked"] == with_keys(found)


def test_laws_and_settings_of_a_sample() -> None:
    always, never = SAMPLE.model_copy(update={"one_in": 1}), SAMPLE.model_copy(update={"one_in": 1_000_000})
    assert Ran(sampled_pair, always, max_steps=9).authors == Ran(sampled_pair, "likelihood", max_steps=9).authors
    assert Ran(sampled_pair, never, max_steps=5).authors.startswith("dddd")
    assert make_config(judge=SAMPLE, threshold=-3).judge_in_force == SAMPLE.with_threshold(-3)
    with pytest.raises(ConfigError, match="a sample of a sample"):
        make_config(judge={"kind": "sample", "first": "confidence", "sure": -5, "then": SAMPLE.model_dump()})


DRAFTED = ["14 *  23 = 322", "So he has 1,200.50 left.", "Take 57 away.", "It is near 7.", "Then stop."]
WRITTEN = ["14*23 = 322.", "so he has 1200.5 left", "Subtract 57.", "It is 9.", "Then go on."]
ANSWERS = {"Subtract 57.": {"s": 0.6, "d": 0.2}, "It is 9.": {"s": 0.1, "d": 0.8}, "Then go on.": {"x": 1.0}}


def comparing(**more: Any) -> EnginePair:
    """Engines that write the same in other words, or not; the base says what means the same."""

    def answer(prompt: str) -> Any:
        return next(
            answer
            for version, answer in ANSWERS.items()
            if f"Another version of the last reasoning step: {version}\n" in prompt
        )

    return pair_of(DRAFTED, WRITTEN, scores=answer, **more)


def test_compare_goes_by_the_text_and_asks_the_base_about_others() -> None:
    found = Ran(comparing, CompareJudge())
    assert found.authors == "dddbd"  # nothing told of the last one: both answers are as likely
    assert found.calls.count("next_token") == 3
    assert found.calls.count("generate") == len(found.steps) + 1  # each step once, and the answer
    told = [score.found["compare"] for score in evidence(found)]
    assert [each["version"] for each in told] == [f"{text}\n\n" for text in WRITTEN]
    assert [each["exact"] for each in told] == [True, True, False, False, False]
    assert told[0] == {"version": f"{WRITTEN[0]}\n\n", "exact": True}
    assert set(told[2]) == {"version", "exact", "logprobs", "other_mass"}
    assert [step.decision.number for step in found.steps[:5]] == pytest.approx([1, 1, 0.75, 1 / 9, 0.5])
    assert Ran(comparing, CompareJudge(threshold=0.8)).authors == "ddbbb"


def test_texts_alone_are_compared_where_nobody_is_asked() -> None:
    found = Ran(comparing, CompareJudge(by="exact"))
    assert (found.authors, found.calls.count("next_token")) == ("ddbbb", 0)


@pytest.mark.parametrize("slots", [1, 2, None])
@pytest.mark.parametrize("lookahead", [0, 1, 4, None])
def test_the_version_is_written_once_and_taken_where_the_step_is_rejected(slots: Any, lookahead: Any) -> None:
    with comparing(max_concurrency=slots, delay=0.001) as engines:
        graph = create_specreason(engines, judge=CompareJudge(), lookahead=lookahead).compile()
        outcome = graph.invoke({"question": "What is it?"})
        prompts = [tuple(call.prompt_ids) for call in engines.base.calls if call.kind == "generate"]  # type: ignore[attr-defined]
    assert len(prompts) == len(set(prompts))  # nothing twice
    for step in outcome["trace"][:5]:
        written = [cost for cost in step["costs"] if cost["purpose"] == "regenerate"]
        assert [cost["wasted"] for cost in written].count(False) == (step["author"] == "base")
        if lookahead == 0:  # else versions of steps behind a rejected one are wasted as well
            assert len(written) == 1
        assert step["score"]["usage"]["calls"] == ("logprobs" in step["score"]["found"]["compare"])
    assert [step["author"][0] for step in outcome["trace"][:5]] == list("dddbd")


def test_a_version_is_written_only_for_a_judge_that_wants_it() -> None:
    judge = Cascade(first=ConfidenceJudge(), low=-10, high=-2, then=CompareJudge(by="exact"))
    confident = {"confidences": lambda text: -1.0 if "*" in text else -5.0}
    found = Ran(lambda: comparing(of_draft=confident), judge)
    assert found.authors == "ddbbb"
    assert [score.has("compare") for score in evidence(found)] == [False, True, True, True, True]


def test_a_question_that_has_no_room_is_not_asked() -> None:
    judge = CompareJudge(instruction="Is this the same? {version}" + "x" * 100_000)
    found = Ran(comparing, judge)
    assert (found.authors, found.calls.count("next_token")) == ("ddbbb", 0)
    assert evidence(found)[2].found["compare"]["logprobs"] is None


def test_the_settings_of_compare() -> None:
    with pytest.raises(ConfigError, match=r"the instruction has no \{version\}"):
        make_config(judge={"kind": "compare", "instruction": "Same?"})
    with pytest.raises(ConfigError, match="begin the same"):
        make_config(judge={"kind": "compare", "same": " same", "different": " sameish"})


@pytest.mark.parametrize(("one", "other", "same"), [
    ("14 * 23 = 322.", "14*23=322", True), ("1,200.50", "1200.5", True), ("7.00 pens", "7 Pens", True),
    ("1,20", "120", False), ("14*23=322", "14*23=323", False), ("a b", "ab", False), ("0.50", "0.05", False),
])  # fmt: skip
def test_texts_that_are_the_same(one: str, other: str, same: bool) -> None:
    assert (plain(one) == plain(other)) is same


async def test_a_slot_that_is_lent_comes_back_or_is_let_go() -> None:
    slots, order = CallSlots(1), list[str]()

    async def other(name: str) -> None:
        async with slots.slot(lambda: 1.0):
            order.append(name)
            await asyncio.sleep(0)

    async def lending(name: str, seconds: float = 0.0) -> None:
        async with slots.slot(lambda: 0.0):
            order.append(f"{name} holds")
            async with slots.lent(lambda: 0.0):
                await asyncio.gather(other(f"{name} lends"), asyncio.sleep(seconds))
            order.append(f"{name} again")

    async with asyncio.timeout(10):
        await asyncio.gather(lending("a"), lending("b"))
        assert len(order) == 6
        for delay in range(6):  # left at each moment, it is not held twice and not lost
            order.clear()
            task = asyncio.create_task(lending("a", 0.001))
            waiting = [asyncio.create_task(other(name)) for name in "xyz"]
            for _ in range(delay):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, *waiting, return_exceptions=True)
            assert order[-3:].count("x") + len(order) >= 3
            await other("last")
            both = [asyncio.create_task(hold(slots, order)) for _ in range(3)]
            await asyncio.gather(*both)
            assert order[-6:] == ["in", "out"] * 3


async def hold(slots: CallSlots, order: list[str]) -> None:
    """Take a slot, and say when it is held."""
    async with slots.slot(lambda: 1.0):
        order.append("in")
        await asyncio.sleep(0)
        order.append("out")


@pytest.fixture
def rewarding() -> Iterator[Server]:
    """A server that finds little good in the first step of each three, and is asked with a key."""
    with serving("a-prm") as (server,), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECREASON_REWARD_KEY", "reward-key-1")
        patch.setenv("SPECREASON_API_KEY", "key-of-the-base")

        def rate(asked: Asked, reply: Reply) -> Reply:
            steps = asked.body["messages"][1]["content"].split("<extra_0>")[:-1]
            rows = [[1 - good, good] for good in (0.9 if index % 3 else 0.2 for index in range(len(steps)))]
            entry = {"data": rows} if asked.kind == "pooling" else {"probs": rows[-1]}
            return Reply([{"object": "list", "model": "a-prm", "data": [{"index": 0, **entry}]}])

        server.change = rate
        yield server


SHORT = [f"Step {number} <extra_0>." for number in range(4)]


@pytest.mark.parametrize("endpoint", ["pooling", "classify"])
def test_a_reward_model_rates_the_step_behind_the_others(rewarding: Server, endpoint: Any) -> None:
    judge = RewardJudge(url=rewarding.url, endpoint=endpoint, model="a-prm")
    found = Ran(lambda: pair_of(SHORT, SHORT), judge)
    assert found.authors == "bddb"
    assert [score.found["reward"] for score in evidence(found)[:2]] == [[0.8, 0.2], [0.1, 0.9]]
    assert all(score.usage.calls == 0 < score.usage.seconds for score in evidence(found))
    asked = [each for each in rewarding.asked if len(each.body["messages"][1]["content"]) < 60]
    assert {each.path for each in asked} == {f"/{endpoint}"}
    assert {each.headers["authorization"] for each in asked} == {"Bearer reward-key-1"}
    bodies = [each.body for each in asked]
    assert {
        "model": "a-prm",
        "messages": [
            {"role": "user", "content": "What is it?"},
            {"role": "assistant", "content": "Step 0 .<extra_0>Step 1 .<extra_0>"},  # a step cannot end itself
        ],
    } in bodies
    assert "reward-key-1" not in json.dumps([found.run.manifest, found.run.trace])


NO_REWARDS: list[Any] = [
    {}, {"data": []}, {"data": [{}]}, {"data": [{"data": []}]}, {"data": [{"data": [[]]}]}, {"data": [{"probs": []}]},
    {"data": [{"data": "AAAA"}]}, {"data": [{"data": [[0.1, True]]}]}, {"data": [{"data": [[0.1, None]]}]},
    {"data": [{"data": [["0.1"]]}]}, {"data": [{"data": [[0.1]]}, {"data": [[0.1]]}]}, [], DEEP, "text", {"data": DEEP},
    {"data": [{"data": [[float("nan")]]}]}, {"data": [{"data": [float("inf")]}]},
]  # fmt: skip


@pytest.mark.parametrize("answer", NO_REWARDS, ids=range(len(NO_REWARDS)))
def test_what_is_no_reward_is_refused_at_the_door(rewarding: Server, answer: Any) -> None:
    rewarding.change = lambda _, reply: Reply([answer])
    with pytest.raises(EngineAnswerError, match="reward model"):
        ask_once(rewarding)


def ask_once(server: Server, **more: Any) -> None:
    """A run that is not tried again."""
    with pair_of(SHORT, SHORT) as engines:
        judge = RewardJudge(url=server.url, retry_seconds=0, **more)
        create_specreason(engines, judge=judge, lookahead=0).compile().invoke({"question": "What is it?"})


def test_what_goes_wrong_with_a_reward_server(rewarding: Server) -> None:
    with pytest.raises(EngineAnswerError, match="gave 2 classes, and label = 2"):
        ask_once(rewarding, label=2)
    rewarding.change = lambda _, reply: Reply([{"error": "no entry with reward-key-1"}], status=401)
    with pytest.raises(EngineRequestError, match=r"no entry with \*\*\*; set SPECREASON_REWARD_KEY") as refused:
        ask_once(rewarding)
    assert "reward-key-1" not in str(refused.value)
    for url in ("http://me:secret@host:1", "http://host:1/?key=secret"):
        with pytest.raises(ConfigError, match="SPECREASON_REWARD_KEY"):
            make_config(judge={"kind": "reward", "url": url})


def test_a_busy_reward_server_is_asked_again(rewarding: Server) -> None:
    sane, refused = rewarding.change, list[int]()

    def busy(asked: Asked, reply: Reply) -> Reply:
        if not refused:
            refused.append(1)
            return Reply([{"error": "busy"}], status=503)
        return sane(asked, reply)

    rewarding.change = busy
    assert Ran(lambda: pair_of(SHORT, SHORT), RewardJudge(url=rewarding.url)).authors == "bddb"
    assert refused
