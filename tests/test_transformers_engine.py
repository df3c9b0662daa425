"""The embedded engine on the reference base: caches, sampling, stopping, cancelling, and its vocabulary."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from specreason_graph import EnginePair, create_specreason, open_pair
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.config import make_config
from specreason_graph.engines.base import Engine, Sampling
from specreason_graph.engines.transformers.kv_caches import CachePool
from specreason_graph.engines.transformers.model import Model, branch, check_device, check_dtype
from specreason_graph.engines.transformers.pipe import Load
from specreason_graph.errors import ContextLimitError, EngineError, ModelError
from specreason_graph.judging.digit import DigitJudge, DigitQuestion
from specreason_graph.models.abacus import FOLDER
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.prompting.engine_prompts import EnginePrompts
from tests.support.embedded import LONG, fresh, on_the_base, prompt
from tests.support.waiting import until


def judge(engine: Engine) -> DigitQuestion:
    return DigitQuestion(DigitJudge(), EnginePrompts(engine.vocabulary, make_config()))


@on_the_base
async def test_cached_work_gives_what_fresh_work_gives(engine: Any) -> None:
    ids, digits = prompt(engine), judge(engine).digit_ids
    step = (await engine.generate(ids, Sampling(max_tokens=40, stop=("\n\n",)))).generations[0]
    judged = ids + step.token_ids + judge(engine).suffix_ids
    cached = await engine.next_token(judged, digits)
    after = await engine.generate(ids + step.token_ids, Sampling(max_tokens=5))
    assert cached.usage.cached_tokens == after.usage.cached_tokens == len(ids) + len(step.token_ids) - 1
    await engine.reset_prefix_cache()
    anew = await engine.next_token(judged, digits)
    assert anew.usage.cached_tokens == 0
    assert list(cached.logprobs.values()) == pytest.approx(list(anew.logprobs.values()), abs=1e-3)
    await engine.reset_prefix_cache()
    assert (await engine.generate(ids + step.token_ids, Sampling(max_tokens=5))).generations == after.generations


@on_the_base
async def test_a_score_goes_between_the_tokens_of_a_generation_and_neither_changes(engine: Engine) -> None:
    ids, digits = prompt(engine), judge(engine).digit_ids
    alone = await engine.generate(ids, LONG)
    judged = ids + alone.generations[0].token_ids[:20] + judge(engine).suffix_ids
    opinion = await engine.next_token(judged, digits)
    seen: list[int] = []
    writing = asyncio.create_task(engine.generate(ids, LONG, seen.append))
    await until(lambda: len(seen) > 40)
    between = await engine.next_token(judged, digits)
    assert not writing.done()
    assert between.logprobs == pytest.approx(opinion.logprobs, abs=1e-3)
    assert (await writing).generations == alone.generations


@on_the_base
async def test_generations_come_one_after_the_other(engine: Engine) -> None:
    first: list[int] = []
    before: list[int] = []  # tokens of the first at each token of the second
    takes = first.append, lambda _: before.append(len(first))
    done = await asyncio.gather(*(engine.generate(prompt(engine), Sampling(max_tokens=60), take) for take in takes))
    assert set(before) == {60}
    assert done[0].generations == done[1].generations


@on_the_base
async def test_next_token_is_a_distribution(engine: Engine) -> None:
    every = await engine.next_token(prompt(engine), range(len(engine.vocabulary.encode("a")) + 100))
    assert sum(map(math.exp, every.logprobs.values())) + every.other_mass == pytest.approx(1)


@pytest.mark.parametrize(("small", "threads"), [(50_000_000, 1), (1_000_000, 2)])
def test_a_small_model_works_on_one_thread(monkeypatch: pytest.MonkeyPatch, small: int, threads: int) -> None:
    import torch

    before = torch.get_num_threads()
    monkeypatch.setattr("specreason_graph.engines.transformers.model.SMALL", small)
    try:
        Model(Load(str(FOLDER / "base"), "base", device=None, dtype=None, context=None, threads=2))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@on_the_base
async def test_two_sequences_keep_their_caches_and_seeds_decide_the_samples(engine: Any) -> None:
    one, two = prompt(engine), prompt(engine, "A park has 85 trees." * 3)
    await engine.next_token(one, [0])
    await engine.next_token(two, [0])
    assert (await engine.next_token([*one, 5], [0])).usage.cached_tokens == len(one)
    assert (await engine.next_token([*two, 5], [0])).usage.cached_tokens == len(two)
    hot = Sampling(max_tokens=30, temperature=20, seed=3, n=3)
    together = [g.token_ids for g in (await engine.generate(one, hot)).generations]
    again = [g.token_ids for g in (await engine.generate(one, hot)).generations]
    single = (await engine.generate(one, Sampling(max_tokens=30, temperature=20, seed=5))).generations[0]
    assert together == again
    assert together[2] == single.token_ids
    assert together[0] != together[1]


@on_the_base
async def test_tokens_arrive_one_by_one_and_the_stopping_one_is_kept(engine: Any) -> None:
    seen: list[int] = []
    done = await engine.generate(prompt(engine), Sampling(max_tokens=60, stop=("\n\n",)), seen.append)
    generation = done.generations[0]
    assert seen == generation.token_ids
    assert generation.finish == "stop_string"
    assert engine.vocabulary.decode(generation.token_ids).endswith(".\n\n")
    assert done.usage.generated_tokens == len(seen)
    stop = generation.token_ids[2]
    short = await engine.generate(prompt(engine), Sampling(max_tokens=60, stop_token_ids=frozenset({stop})))
    assert short.generations[0].token_ids[-1] == stop
    assert short.generations[0].finish == "stop_token"


@on_the_base
async def test_a_cancelled_call_stops_working(engine: Any) -> None:
    seen: list[int] = []
    call = asyncio.create_task(engine.generate(prompt(engine), LONG, seen.append))
    await until(lambda: len(seen) >= 3)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    # a generation waits for those before it, and a score goes between their tokens: this one is next at once
    short = asyncio.create_task(engine.generate(prompt(engine, "What?"), Sampling(max_tokens=1)))
    scored = 0
    while not short.done():
        await engine.next_token(prompt(engine), [0])
        scored += 1
    assert scored < LONG.max_tokens / 4  # on a busy machine more scores go before than on an idle one
    assert len(seen) < LONG.max_tokens


@on_the_base
async def test_prompt_over_the_context(engine: Any) -> None:
    with pytest.raises(ContextLimitError, match="1024 tokens leaves no room in a context of 1024"):
        await engine.next_token([5] * 1024, [0])
    almost = await engine.generate([5] * 1020, Sampling(max_tokens=50))
    assert (len(almost.generations[0].token_ids), almost.generations[0].finish) == (4, "length")


@on_the_base
async def test_what_fails_in_the_process_fails_one_call_only(engine: Any) -> None:
    writing = asyncio.create_task(engine.generate(prompt(engine), Sampling(max_tokens=60)))
    with pytest.raises(EngineError, match="IndexError"):
        await engine.next_token([5, 10**6], [0])
    assert len((await writing).generations[0].token_ids) == 60


@on_the_base
async def test_what_was_cached_is_forgotten_when_asked(engine: Any) -> None:
    ids = prompt(engine)
    await engine.next_token(ids, [0])
    assert (await engine.next_token(ids, [0])).usage.cached_tokens == len(ids) - 1
    await engine.reset_prefix_cache()
    assert (await engine.next_token(ids, [0])).usage.cached_tokens == 0


@on_the_base
async def test_a_callback_that_fails_fails_its_call_only(engine: Any) -> None:
    def refuse(token: int) -> None:
        raise RuntimeError(f"not {token}")

    with pytest.raises(RuntimeError, match="not"):
        await engine.generate(prompt(engine), LONG, refuse)
    assert (await engine.next_token(prompt(engine), [0])).logprobs


@pytest.mark.parametrize("text", ["<think>", "</think>", "<|end|>", "a <|user|> b", "x.\n\ny", "é ü 漢"])
def test_plain_text_never_becomes_special(text: str) -> None:
    vocabulary = fresh().vocabulary
    ids = vocabulary.encode(text)
    assert not vocabulary.special_ids & set(ids)
    assert vocabulary.decode(ids) == text


def test_description_tells_models_apart(abacus: EnginePair) -> None:
    told = abacus.describe()
    assert len(told["base"].weights) == 64
    assert told["base"].weights != told["draft"].weights
    assert told["base"].vocabulary == told["draft"].vocabulary == abacus.base.vocabulary.fingerprint
    assert told["base"].context == abacus.base.context == 1024


def filled(pool: CachePool, ids: list[int]) -> None:
    with pool.take(ids) as slot:
        slot.ids[:] = ids


def kept(pool: CachePool, ids: list[int]) -> list[int]:
    with pool.take(ids) as slot:
        return list(slot.ids)


def copied(cache: list[Any]) -> list[Any]:
    return list(cache)


def test_least_recently_used_slot_goes_first() -> None:
    pool = CachePool(list, copied, fewest=2, most=2)
    for ids in ([1, 2], [3, 4], [5, 6]):
        filled(pool, ids)
    assert kept(pool, [3, 4, 9]) == [3, 4]
    assert kept(pool, [1, 2, 9]) == []


@pytest.mark.parametrize(("length", "many"), [(5, 4), (10, 2)])
def test_there_are_many_slots_while_they_are_short(length: int, many: int) -> None:
    pool = CachePool(list, copied, fewest=2, most=4, tokens=20)
    for start in range(6):
        filled(pool, [start] * length)
    assert sum(bool(kept(pool, [start] * (length + 1))) for start in range(5, 5 - many, -1)) == many
    assert not kept(pool, [5 - many] * (length + 1))


def test_a_slot_at_work_is_left_as_it_is() -> None:
    pool = CachePool(list, copied, fewest=1, most=1)
    filled(pool, [1, 2, 3])
    with pool.take([1, 2, 3, 4]) as busy:
        with pool.take([1, 2, 3, 5]) as other:
            assert other is not busy
            assert other.ids == busy.ids == [1, 2, 3]
        busy.ids.append(4)
    with pool.take([1, 2, 3, 4, 6]) as again:
        assert again.ids == [1, 2, 3, 4]


def test_a_cache_that_cannot_branch_is_made_anew() -> None:
    class Rolling:
        layers = (object(),)

    assert branch(Rolling()) is None
    pool = CachePool(list, lambda _cache: None)
    filled(pool, [1, 2, 3])
    with pool.take([1, 2, 3, 4]) as busy, pool.take([1, 2, 3, 5]) as other:
        assert busy.ids == [1, 2, 3]
        assert other.ids == []


def test_recommended_sampling_is_used_when_asked_and_recorded(tmp_path: Path) -> None:
    """A generation config with a strong repetition penalty changes the tokens when it is asked for."""
    for role in ("base", "draft"):
        shutil.copytree(FOLDER / role, tmp_path / role)
        config = json.loads((tmp_path / role / "generation_config.json").read_text())
        config |= {"do_sample": True, "repetition_penalty": 3.0, "top_k": 5, "temperature": 0.2, "top_p": 0.9}
        (tmp_path / role / "generation_config.json").write_text(json.dumps(config))
    question: Any = {"question": held_out()[0].question}
    saver = InMemorySaver()
    traces = {}
    with open_pair(str(tmp_path / "base"), str(tmp_path / "draft")) as pair:
        for sampling in ("settings", "model"):
            graph = create_specreason(pair, sampling=sampling, temperature=0, max_steps=4).compile(checkpointer=saver)
            outcome = graph.invoke(question, {"configurable": {"thread_id": sampling}})
            traces[sampling] = [step["text"] for step in outcome["trace"]]
    (by_settings,), (by_model,) = read_runs(saver, "settings"), read_runs(saver, "model")
    assert traces["settings"] != traces["model"]
    assert by_settings.typed_manifest.sampling["base"] == {"temperature": 0, "top_p": 0.95}
    assert by_model.typed_manifest.sampling["draft"] == {
        "temperature": 0.2,
        "top_p": 0.9,
        "top_k": 5,
        "repetition_penalty": 3.0,
    }


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", r"device 'gpu' is unknown; write cpu, cuda"), ("cpu:x", "device 'cpu:x' is unknown"),
        ("cuda:99", "device 'cuda:99' is not there"), ("xpu", "device 'xpu' is not there"),
    ],
)  # fmt: skip
def test_a_device_that_torch_has_not_got_is_named(device: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        check_device(device)
    assert "folder" not in str(caught.value)


def test_a_device_and_a_number_format_that_are_there_pass() -> None:
    for device in (None, "cpu", "cpu:0"):
        check_device(device)
    for dtype in (None, "auto", "float32", "bfloat16"):
        check_dtype(dtype)
    for dtype in ("float99", "int8", "Tensor", "int64"):
        with pytest.raises(ModelError, match=f"dtype '{dtype}' is unknown; write float32"):
            check_dtype(dtype)
