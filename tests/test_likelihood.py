"""Log-probabilities: of the tokens that an engine generates, and of a continuation that it is given."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from specreason_graph import EnginePair, open_pair
from specreason_graph.engines.base import Engine, Generation, Likelihood, Sampling, continuations, entropy_of
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.engines.likelihood import READ_CACHE, computed, likelihood_of
from specreason_graph.engines.options import CallOptions
from specreason_graph.engines.vllm.scheduler import cut_cached_rows, let_read_cache
from specreason_graph.errors import ContextLimitError, EngineAnswerError, EngineError, EngineRequestError
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.record.records import Usage
from specreason_graph.settings import EngineOptions
from tests.support.answering import LOGPROB, Asked, Reply, Server, serving
from tests.support.embedded import on_the_base, prompt
from tests.support.served import Served, serve

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
STOP = Sampling(max_tokens=60, stop=("\n\n",))
BLOCK = 32
"""Tokens of a KV block on CPU."""


def steps(engine: Engine, count: int) -> Iterator[tuple[list[int], list[int]]]:
    """Prompts and the steps behind them; every second step has a wrong number in it."""
    rng = random.Random(1)
    for problem in held_out():
        ids = prompt(engine, problem.question)
        for text in problem.steps:
            if not count:
                return
            step = engine.vocabulary.encode(text)
            wrong = engine.vocabulary.encode(text.replace(text[-4], str(rng.randrange(10))))
            yield ids, step if count % 2 else wrong
            ids, count = ids + step, count - 1


async def full_distribution(engine: Engine, ids: Sequence[int]) -> list[float]:
    """Log-probabilities of all tokens, as only the embedded engine gives them."""
    every = range(engine.vocabulary.size)  # type: ignore[attr-defined]
    return list((await engine.next_token(ids, every)).logprobs.values())


# ---- the embedded engine


@on_the_base
async def test_the_likelihood_of_a_step_is_that_of_its_tokens_one_by_one(engine: Any) -> None:
    for ids, step in steps(engine, 30):
        found = await engine.likelihood(ids, step)
        single = [
            (await engine.next_token(ids + step[:place], [token])).logprobs[token] for place, token in enumerate(step)
        ]
        assert found.logprobs == pytest.approx(single, abs=1e-3)
        assert sum(found.logprobs) == pytest.approx(sum(single), abs=1e-3)


@on_the_base
async def test_generated_tokens_are_as_likely_as_when_they_are_given(engine: Any) -> None:
    ids = prompt(engine)
    for more in ({}, {"temperature": 1.5, "top_p": 0.7, "repetition_penalty": 1.2, "n": 2, "seed": 3}):
        done = await engine.generate(ids, Sampling(max_tokens=40, logprobs=3, **more))  # type: ignore[arg-type]
        for made in done.generations:
            given = await engine.likelihood(ids, made.token_ids)
            assert made.logprobs == pytest.approx(given.logprobs, abs=1e-3)
            assert made.entropies is not None
            assert len(made.entropies) == len(made.token_ids)
    plain = (await engine.generate(ids, STOP)).generations[0]
    assert (plain.logprobs, plain.entropies) == (None, None)


@on_the_base
async def test_an_entropy_is_that_of_the_likeliest_tokens_and_one_more_outcome(engine: Any) -> None:
    ids = prompt(engine)
    sampling = Sampling(max_tokens=8, logprobs=4, temperature=2.0)
    made = (await engine.generate(ids, sampling)).generations[0]
    for place in (0, 7):
        every = await full_distribution(engine, ids + made.token_ids[:place])
        likeliest = [math.exp(each) for each in sorted(every)[-4:]]
        outcomes = [*likeliest, 1 - sum(likeliest)]
        assert made.entropies
        assert made.entropies[place] == pytest.approx(-sum(p * math.log(p) for p in outcomes if p > 0), abs=1e-6)
        assert made.entropies[place] <= -sum(math.exp(each) * each for each in every) + 1e-9


@on_the_base
async def test_a_step_that_was_judged_is_in_the_cache(engine: Any) -> None:
    ids = prompt(engine)
    step = (await engine.generate(ids, STOP)).generations[0].token_ids
    await engine.reset_prefix_cache()
    await engine.next_token(ids, [0])
    judged = (await engine.likelihood(ids, step)).usage
    assert (judged.calls, judged.generated_tokens) == (1, 0)
    assert (judged.prompt_tokens, judged.cached_tokens) == (len(ids) + len(step), len(ids) - 1)
    after = (await engine.generate(ids + step, Sampling(max_tokens=2))).usage
    assert after.prompt_tokens - after.cached_tokens == 1
    asked = (await engine.next_token([*ids, *step, 5, 6], [0])).usage
    assert asked.prompt_tokens - asked.cached_tokens == 2
    again = await engine.likelihood(ids, step)  # the prefix is read, and the step computed anew
    assert again.usage.cached_tokens == len(ids) - 1


@on_the_base
async def test_a_likelihood_goes_between_the_tokens_of_a_generation(engine: Any) -> None:
    ids = prompt(engine)
    step = (await engine.generate(ids, STOP)).generations[0].token_ids
    alone = await engine.likelihood(ids, step)
    writing = asyncio.ensure_future(engine.generate(ids, Sampling(max_tokens=400)))
    await asyncio.sleep(0.05)
    between = await engine.likelihood(ids, step)
    assert not writing.done()
    assert between.logprobs == pytest.approx(alone.logprobs, abs=1e-6)
    await writing


@on_the_base
async def test_what_does_not_fit_is_refused(engine: Any) -> None:
    with pytest.raises(ContextLimitError, match="leaves no room in a context of 1024"):
        await engine.likelihood([5] * 1000, [6] * 25)
    assert len((await engine.likelihood([5] * 1000, [6] * 24)).logprobs) == 24
    with pytest.raises(ValueError, match="the continuation of a likelihood is empty"):
        await engine.likelihood([5], [])
    with pytest.raises(ValueError, match="the prompt of a likelihood is empty"):
        await engine.likelihood([], [5])


# ---- what every engine must give


def test_only_what_engines_can_give_is_asked_for() -> None:
    with pytest.raises(ValueError, match="logprobs = 21 is not allowed: None, or 0 to 20"):
        Sampling(max_tokens=1, logprobs=21)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({}, "gave no log-probabilities for 2 tokens"),
        ({"logprobs": [-1.0]}, "gave 1 log-probabilities for 2 tokens"),
        ({"logprobs": [-1.0, math.nan]}, "gave nan as a log-probability"),
        ({"logprobs": [-1.0, 0.1]}, r"gave 0\.1 as a log-probability"),
        ({"logprobs": [-1.0, True]}, "gave True as a log-probability"),
        ({"logprobs": [-1.0, -1.0]}, "did not give an entropy for each token"),
        ({"logprobs": [-1.0, -1.0], "entropies": [0.0]}, "did not give an entropy for each token"),
        ({"logprobs": [-1.0, -1.0], "entropies": [0.0, 1.2]}, r"gave 1\.2 as an entropy .* it is 0 to 1\.099"),
        ({"logprobs": [-1.0, -1.0], "entropies": [0.0, -1.0]}, r"gave -1\.0 as an entropy"),
    ],
)
async def test_evidence_that_is_none_is_refused(made: Any, message: str) -> None:
    class Odd(FakeEngine):
        async def generate(self, *given: Any) -> Any:
            done = await super().generate(*given)
            return SimpleNamespace(generations=[Generation([5, 6], "length", **made)], usage=done.usage)

    with pytest.raises(EngineAnswerError, match=message):
        await continuations(Odd(["ab"]), [1], Sampling(max_tokens=2, logprobs=2))


async def test_evidence_is_cut_with_the_tokens() -> None:
    class Beyond(FakeEngine):
        async def generate(self, *given: Any) -> Any:
            done = await super().generate(*given)
            made = Generation([5, 6, 7], "stop_token", [-0.1, -0.2, -0.3], [0.1, 0.2, 0.3])
            return type(done)([made], done.usage)

    sampling = Sampling(max_tokens=3, stop_token_ids=frozenset({6}), logprobs=1)
    made = (await continuations(Beyond(["abc"]), [1], sampling)).generations[0]
    assert made == Generation([5, 6], "stop_token", [-0.1, -0.2], [0.1, 0.2])


def test_an_entropy_has_bounds() -> None:
    assert entropy_of([math.log(0.25)] * 3) == pytest.approx(math.log(4))
    assert entropy_of([0.0]) == entropy_of([0.0005]) == 0.0


# ---- the scripted engine


async def test_a_script_says_how_likely_a_step_is() -> None:
    engine = FakeEngine(likelihoods=[[-1.0, -2.0], -3.0])
    assert (await engine.likelihood([1, 2], [3, 4])).logprobs == [-1.0, -2.0]
    found = await engine.likelihood(list(b"ab"), list(b"cde"))
    assert found.logprobs == [-1.0] * 3
    assert (found.usage.prompt_tokens, found.usage.generated_tokens) == (5, 0)
    assert [(call.kind, call.prompt_ids, call.continuation_ids) for call in engine.calls] == [
        ("likelihood", [1, 2], [3, 4]), ("likelihood", list(b"ab"), list(b"cde")),
    ]  # fmt: skip
    assert engine.order_dependent
    with pytest.raises(EngineError, match="no likelihood left"):
        await engine.likelihood([1], [2])
    told = FakeEngine(likelihoods=lambda before, text: -float(len(before)) if text == "x" else 0.0)
    assert (await told.likelihood(list(b"abc"), list(b"x"))).logprobs == [-3.0]
    assert not told.order_dependent


async def test_a_script_says_how_sure_the_writer_is() -> None:
    sampling = Sampling(max_tokens=2, logprobs=5)
    made = (await FakeEngine(lambda _: "ab").generate([1], sampling)).generations[0]
    assert (made.logprobs, made.entropies) == ([-0.1, -0.1], [0.0, 0.0])
    sure = FakeEngine(
        lambda _: "abc", confidences=lambda text: -1.0 if text == "ab" else 0.0, entropies=lambda _: [0.5, 0.25]
    )
    made = (await sure.generate([1], sampling)).generations[0]
    assert (made.logprobs, made.entropies) == ([-0.5, -0.5], [0.5, 0.25])
    in_order = FakeEngine(lambda _: "ab", confidences=[[-1.0, -2.0]], entropies=[0.7])
    made = (await in_order.generate([1], Sampling(max_tokens=2, logprobs=1))).generations[0]
    assert (made.logprobs, made.entropies) == ([-1.0, -2.0], [0.7, 0.7])
    assert (await sure.generate([1], Sampling(max_tokens=2))).generations[0].logprobs is None


# ---- an engine that tells of computed tokens only


class Blocks:
    """Gives the log-probabilities of what is not in its cache, which holds whole blocks, as vLLM does."""

    def __init__(self, cached: int, size: int) -> None:
        self.cached, self.size, self.computed = cached, size, 0

    async def ask(self, ids: list[int], following: int | None) -> Likelihood:
        found = min(self.cached, len(ids) - 1) // self.size * self.size
        self.cached, self.computed = max(self.cached, len(ids)), self.computed + len(ids) - found
        known = [-float(token) for token in ids[found + 1 :]] + ([] if following is None else [-float(following)])
        return Likelihood(known, Usage(calls=1))


@pytest.mark.parametrize("size", [1, 4, 16])
async def test_what_is_cached_is_asked_for_from_the_end_on(size: int) -> None:
    room = FakeEngine()
    for before in range(1, 20):
        for count in range(1, 20):
            for cached in range(before + count + 1):
                engine, ids = Blocks(cached, size), list(range(before + count))
                found = await likelihood_of(room, engine.ask, ids[:before], ids[before:], CallOptions())
                assert found.logprobs == [-float(token) for token in ids[before:]]
                prefix = min(cached, before - 1) // size * size  # what an engine that keeps logits would read
                assert engine.computed <= len(ids) - prefix + size
                assert found.usage.calls <= 2 + count // size


def test_rows_of_cached_tokens_are_not_read() -> None:
    rows = [None, "garbage", "garbage", "c", "d"]
    assert computed(rows, [1, 2, 3, 4, 5], 2, "m") == [("c", 4), ("d", 5)]
    assert computed([None, "c", "d"], [1, 2, 3, 4, 5], 2, "m") == [("c", 4), ("d", 5)]
    assert computed(None, [1, 2], 1, "m") == []
    with pytest.raises(EngineAnswerError, match="m gave 1 log-probabilities of the 4 tokens that it computed"):
        computed([None, "b"], [1, 2, 3, 4, 5], 0, "m")


class Tensors(NamedTuple):
    """vLLM's, as lists."""

    logprob_token_ids: list[list[int]]
    logprobs: list[list[float]]
    selected_token_ranks: list[int]
    cu_num_generated_tokens: list[int] | None = None


def test_our_servers_read_the_cache_and_send_no_garbage() -> None:
    asking, other = [
        SimpleNamespace(
            sampling_params=SimpleNamespace(extra_args=args, skip_reading_prefix_cache=True),
            skip_reading_prefix_cache=True,
        )
        for args in ({READ_CACHE: 1}, None)
    ]
    for request in (asking, other, SimpleNamespace(sampling_params=None)):
        let_read_cache(request)
    assert not asking.skip_reading_prefix_cache
    assert not asking.sampling_params.skip_reading_prefix_cache
    assert other.skip_reading_prefix_cache
    tensors = Tensors([[9], [9], [3], [4]], [[7.0], [7.0], [-1.0], [-2.0]], [0, 0, 1, 1])
    outputs = [
        SimpleNamespace(new_prompt_logprobs_tensors=given, prefill_stats=stats)
        for given, stats in (
            (tensors, SimpleNamespace(num_computed_tokens=3)), (tensors, SimpleNamespace(num_computed_tokens=5)),
            (tensors, SimpleNamespace(num_computed_tokens=1)), (tensors, None), (None, None),
        )
    ]  # fmt: skip
    cut_cached_rows({0: SimpleNamespace(outputs=outputs)})
    assert outputs[0].new_prompt_logprobs_tensors == Tensors([[3], [4]], [[-1.0], [-2.0]], [1, 1])
    assert outputs[1].new_prompt_logprobs_tensors is tensors
    assert outputs[2].new_prompt_logprobs_tensors.logprobs == []
    assert outputs[3].new_prompt_logprobs_tensors is tensors


# ---- servers of others


@pytest.fixture
def opened() -> Iterator[tuple[Server, EnginePair]]:
    once: EngineOptions = {"retry_seconds": 0}
    with (
        serving("abacus-base") as (server,),
        open_pair("abacus-base", kind="server", base_url=server.url, base_options=once) as pair,
    ):
        yield server, pair


def test_a_server_is_asked_once_for_the_whole_prompt(opened: tuple[Server, EnginePair]) -> None:
    server, pair = opened
    found = pair.run(lambda: pair.base.likelihood([5, 6, 7], [8, 9]))
    assert found.logprobs == [LOGPROB] * 2
    assert (found.usage.calls, found.usage.prompt_tokens, found.usage.generated_tokens) == (1, 5, 1)
    body = server.asked[-1].body
    assert (body["prompt"], body["prompt_logprobs"], body["max_tokens"]) == ([5, 6, 7, 8, 9], 0, 1)
    with pytest.raises(ContextLimitError):
        pair.run(lambda: pair.base.likelihood([5] * 1000, [6] * 24))  # no room for the token that vLLM generates


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_gives_log_probabilities_of_what_it_generates(opened: Any, stream: bool) -> None:
    pair = opened[1]
    seen: list[int] = []
    for top in (None, 0, 3):
        sampling = Sampling(max_tokens=20, stop=("\n\n",), logprobs=top)
        made = pair.run(partial(pair.base.generate, [5], sampling, seen.append if stream else None)).generations[0]
        assert made.logprobs == (None if top is None else [LOGPROB] * len(made.token_ids))
        entropy = entropy_of([LOGPROB, -3.0, -3.0])
        assert made.entropies == ([entropy] * len(made.token_ids) if top else None)


def changed(change: Callable[[Any], None]) -> Callable[[Asked, Reply], Reply]:
    """Answers whose first choice is changed."""

    def changing(asked: Asked, reply: Reply) -> Reply:
        if asked.kind in ("likelihood", "plain"):
            change(reply.documents[0]["choices"][0])
        return reply

    return changing


def test_a_server_without_log_probabilities_of_prompts_names_other_judges(opened: Any) -> None:
    server, pair = opened
    server.change = changed(lambda choice: choice.pop("prompt_logprobs"))
    with pytest.raises(
        EngineError, match=r"no log-probabilities of a prompt's tokens; .*: confidence or digit"
    ) as caught:
        pair.run(lambda: pair.base.likelihood([5, 6], [7]))
    assert not caught.value.retryable
    server.change = lambda asked, reply: Reply([{}], status=400) if asked.kind == "likelihood" else reply
    with pytest.raises(EngineRequestError, match=r"400 Bad Request; .*: confidence or digit"):
        pair.run(lambda: pair.base.likelihood([5, 6], [7]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda choice: choice["prompt_logprobs"].pop(), "gave 1 log-probabilities of the 2 tokens"),
        (lambda choice: choice["prompt_logprobs"].append({"9": {"logprob": -1}}), "gave None as a log-prob"),
        (lambda choice: choice["prompt_logprobs"].__setitem__(2, {"7": {"logprob": 0.5}}), r"gave 0\.5 as a log-prob"),
        (lambda choice: choice["prompt_logprobs"].__setitem__(2, {"7": 1}), r"prompt_logprobs\.2\.7 = 1"),
        (lambda choice: choice.update(prompt_logprobs="x"), "prompt_logprobs = x"),
    ],
)
def test_log_probabilities_of_a_prompt_that_are_none_are_refused(opened: Any, change: Any, message: str) -> None:
    server, pair = opened
    server.change = changed(change)
    with pytest.raises(EngineAnswerError, match=message):
        pair.run(lambda: pair.base.likelihood([5, 6], [7]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told["tokens"].pop(), "log-probabilities of other tokens"),
        (lambda told: told["tokens"].__setitem__(0, "a"), "by their texts"),
        (lambda told: told["token_logprobs"].pop(), "gave 11 log-probabilities for 12 tokens"),
        (lambda told: told["token_logprobs"].__setitem__(0, None), "gave None as a log-prob"),
        (lambda told: told["top_logprobs"].pop(), "an entropy for each token"),
        (lambda told: told["top_logprobs"][0].update({"token_id:3": "x"}), "gave x as a log-prob"),
    ],
)
def test_log_probabilities_of_generated_tokens_that_are_none_are_refused(
    opened: Any, change: Any, message: str
) -> None:  # fmt: skip
    server, pair = opened
    server.change = changed(lambda choice: change(choice["logprobs"]))
    with pytest.raises(EngineAnswerError, match=message):
        pair.run(lambda: pair.base.generate([5], Sampling(max_tokens=20, stop=("\n\n",), logprobs=2)))


# ---- vLLM, in process and behind our servers


@pytest.fixture(scope="module")
def in_vllm() -> Iterator[EnginePair]:
    with open_pair("abacus-base", "abacus-base", kind="vllm") as pair:
        yield pair


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    served = serve()
    yield served
    assert served.stop() == 0


@pytest.fixture(params=["in_vllm", "served"])
def vllm_pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[EnginePair]:
    """The base in vLLM, in this process and behind a server."""
    monkeypatch.setenv("SPECREASON_API_KEY", "sesame")
    given = request.getfixturevalue(request.param)
    if isinstance(given, EnginePair):
        yield given
    else:
        with given.open_pair() as pair:
            yield pair


@needs_vllm
def test_vllm_finds_steps_as_likely_as_the_embedded_engine(vllm_pair: EnginePair, abacus: EnginePair) -> None:
    async def all_of(engine: Engine) -> list[Likelihood]:
        return [await engine.likelihood(ids, step) for ids, step in steps(engine, 200)]

    found = vllm_pair.run(lambda: all_of(vllm_pair.base))
    usual = abacus.run(lambda: all_of(abacus.base))
    for mine, theirs in zip(found, usual, strict=True):
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-3)
    assert min(sum(each.logprobs) for each in usual) < -5  # steps with a wrong number are among them
    spent = sum((each.usage for each in found), Usage())
    assert spent.cached_tokens > spent.prompt_tokens / 2


@needs_vllm
def test_a_prefix_that_ends_with_a_block_costs_one_more(vllm_pair: EnginePair, abacus: EnginePair) -> None:
    engine = vllm_pair.base
    for blocks, count in ((3, 5), (4, BLOCK - 1), (2, BLOCK)):
        ids = engine.vocabulary.encode(f"{blocks} Zoe counts 71 pens and then the boxes. " * 20)
        before, step = ids[: blocks * BLOCK], ids[blocks * BLOCK : blocks * BLOCK + count]
        vllm_pair.run(partial(engine.generate, [*before, blocks], Sampling(max_tokens=1)))
        found = vllm_pair.run(partial(engine.likelihood, before, step))
        usual = abacus.run(partial(abacus.base.likelihood, before, step))
        assert found.logprobs == pytest.approx(usual.logprobs, abs=1e-3)
        assert found.usage.calls == found.usage.generated_tokens == 2
        assert found.usage.prompt_tokens - found.usage.cached_tokens == count + BLOCK


@needs_vllm
def test_a_step_that_is_cached_is_computed_again_and_no_more(vllm_pair: EnginePair) -> None:
    engine = vllm_pair.base
    ids = engine.vocabulary.encode("Max has 9 boxes, and 12 pens in each of the boxes. " * 20)
    before, step = ids[:100], ids[100:190]
    first = vllm_pair.run(lambda: engine.likelihood(before, step))
    again = vllm_pair.run(lambda: engine.likelihood(before, step))
    assert again.logprobs == pytest.approx(first.logprobs, abs=1e-3)
    assert (first.usage.calls, again.usage.calls) == (1, 3)
    assert again.usage.prompt_tokens - again.usage.cached_tokens == 190 - 96
    assert vllm_pair.run(lambda: engine.next_token([*ids[:190], 5, 6], [0])).usage.cached_tokens == 160


@needs_vllm
def test_vllm_tells_of_what_it_generates(vllm_pair: EnginePair, abacus: EnginePair) -> None:
    ids = prompt(vllm_pair.base)
    for more in ({}, {"temperature": 1.3, "top_p": 0.8, "n": 2}):
        sampling = Sampling(max_tokens=30, stop=("\n\n",), logprobs=3, **more)  # type: ignore[arg-type]
        whole = vllm_pair.run(partial(vllm_pair.base.generate, ids, sampling)).generations
        streamed = vllm_pair.run(partial(vllm_pair.base.generate, ids, sampling, lambda _: None)).generations
        for made, same in zip(whole, streamed, strict=True):
            assert made.token_ids == same.token_ids
            assert made.logprobs == pytest.approx(same.logprobs, abs=1e-3)
            assert made.entropies == pytest.approx(same.entropies, abs=1e-3)
            given = abacus.run(partial(abacus.base.likelihood, ids, made.token_ids))
            assert made.logprobs == pytest.approx(given.logprobs, abs=1e-3)
    alike = Sampling(max_tokens=30, logprobs=3)
    here = vllm_pair.run(lambda: vllm_pair.base.generate(ids, alike)).generations[0]
    there = abacus.run(lambda: abacus.base.generate(ids, alike)).generations[0]
    assert here.entropies == pytest.approx(there.entropies, abs=1e-3)


@needs_vllm
def test_there_must_be_room_for_the_token_that_vllm_generates(vllm_pair: EnginePair) -> None:
    engine = vllm_pair.base
    with pytest.raises(ContextLimitError):
        vllm_pair.run(lambda: engine.likelihood([5] * 1000, [6] * 24))
    assert len(vllm_pair.run(lambda: engine.likelihood([5] * 1000, [6] * 23)).logprobs) == 23
