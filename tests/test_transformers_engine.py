"""The embedded engine on the reference base: caches, sampling, stopping, cancelling."""

from __future__ import annotations

import asyncio
import math

import pytest

from specreason_graph.config import make_config
from specreason_graph.engines import open_engine
from specreason_graph.engines.base import Engine, Sampling
from specreason_graph.engines.slots import Slots
from specreason_graph.engines.transformers import TransformersEngine
from specreason_graph.errors import ContextLimitError, ModelError
from specreason_graph.models.abacus import FOLDER
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.prompting import Prompter

QUESTION = held_out()[4].question


def fresh() -> Engine:
    return open_engine("abacus-base")


def prompt(engine: Engine) -> list[int]:
    return Prompter(engine.vocabulary, make_config()).question_ids(QUESTION)


async def test_cached_work_gives_what_fresh_work_gives() -> None:
    async with fresh() as warm, fresh() as cold:
        ids = prompt(warm)
        step = (await warm.generate(ids, Sampling(max_tokens=40, stop=("\n\n",)))).generations[0]
        digits = Prompter(warm.vocabulary, make_config()).digit_ids
        judged = ids + step.token_ids + Prompter(warm.vocabulary, make_config()).judge_ids
        cached = await warm.next_token(judged, digits)
        anew = await cold.next_token(judged, digits)
        assert cached.usage.cached_tokens == len(ids) + len(step.token_ids) - 1
        assert anew.usage.cached_tokens == 0
        assert list(cached.logprobs.values()) == pytest.approx(list(anew.logprobs.values()), abs=1e-3)
        after = await warm.generate(ids + step.token_ids, Sampling(max_tokens=5))
        assert after.usage.cached_tokens == len(ids) + len(step.token_ids) - 1


async def test_next_token_is_a_distribution() -> None:
    async with fresh() as engine:
        every = await engine.next_token(prompt(engine), range(len(engine.vocabulary.encode("a")) + 100))
        assert sum(map(math.exp, every.logprobs.values())) + every.other_mass == pytest.approx(1)


@pytest.mark.parametrize(("small", "threads"), [(50_000_000, 1), (1_000_000, 2)])
async def test_a_small_model_works_on_one_thread_and_leaves_others_theirs(
    monkeypatch: pytest.MonkeyPatch, small: int, threads: int
) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr("specreason_graph.engines.transformers.SMALL", small)
    try:
        async with TransformersEngine(str(FOLDER / "base")) as engine:
            assert await engine._run(lambda _gone: torch.get_num_threads()) == threads
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


async def test_two_sequences_keep_their_caches() -> None:
    async with fresh() as engine:
        one, two = prompt(engine), Prompter(engine.vocabulary, make_config()).question_ids("A park has 85 trees." * 3)
        await engine.next_token(one, [0])
        await engine.next_token(two, [0])
        assert (await engine.next_token([*one, 5], [0])).usage.cached_tokens == len(one)
        assert (await engine.next_token([*two, 5], [0])).usage.cached_tokens == len(two)


async def test_seeds_decide_the_samples() -> None:
    async with fresh() as engine:
        hot = Sampling(max_tokens=30, temperature=20, seed=3, n=3)
        together = [g.token_ids for g in (await engine.generate(prompt(engine), hot)).generations]
        again = [g.token_ids for g in (await engine.generate(prompt(engine), hot)).generations]
        single = (await engine.generate(prompt(engine), Sampling(max_tokens=30, temperature=20, seed=5))).generations[0]
        assert together == again
        assert together[2] == single.token_ids
        assert together[0] != together[1]


async def test_tokens_arrive_one_by_one_and_the_stopping_one_is_kept() -> None:
    async with fresh() as engine:
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


async def test_a_cancelled_call_stops_working() -> None:
    async with fresh() as engine:
        seen: list[int] = []
        call = asyncio.create_task(engine.generate(prompt(engine), Sampling(max_tokens=900), seen.append))
        while len(seen) < 3:
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await engine.next_token(prompt(engine), [0])
        count = len(seen)
        await asyncio.sleep(0.1)
        assert len(seen) == count < 900


async def test_prompt_over_the_context() -> None:
    async with fresh() as engine:
        with pytest.raises(ContextLimitError, match="1024 tokens leaves no room in a context of 1024"):
            await engine.next_token([5] * 1024, [0])
        almost = await engine.generate([5] * 1020, Sampling(max_tokens=50))
        assert (len(almost.generations[0].token_ids), almost.generations[0].finish) == (4, "length")


@pytest.mark.parametrize("text", ["<think>", "</think>", "<|end|>", "a <|user|> b", "x.\n\ny", "é ü 漢"])
def test_plain_text_never_becomes_special(text: str) -> None:
    vocabulary = fresh().vocabulary
    ids = vocabulary.encode(text)
    assert not vocabulary.special_ids & set(ids)
    assert vocabulary.decode(ids) == text


def test_description_tells_models_apart() -> None:
    base, draft = fresh().describe(), open_engine("abacus-draft").describe()
    assert len(base.weights) == 64
    assert base.weights != draft.weights
    assert base.vocabulary == draft.vocabulary


def test_unsafe_weights_are_not_loaded(tmp_path: object) -> None:
    import shutil
    from pathlib import Path

    folder = Path(str(tmp_path)) / "pickled"
    shutil.copytree(FOLDER / "draft", folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_engine(str(folder))


def test_least_recently_used_slot_goes_first() -> None:
    slots = Slots(list, fewest=2, most=2)
    for prompt_ids in ([1, 2], [3, 4], [5, 6]):
        slot = slots.take(prompt_ids)
        slot.ids += prompt_ids
    assert slots.take([3, 4, 9]).ids == [3, 4]
    assert slots.take([1, 2, 9]).ids == []


@pytest.mark.parametrize(("length", "kept"), [(5, 4), (10, 2)])
def test_there_are_many_slots_while_they_are_short(length: int, kept: int) -> None:
    slots = Slots(list, fewest=2, most=4, tokens=20)
    for start in range(6):
        slots.take([start]).ids.extend([start] * length)
    assert sum(bool(slots.take([start] * (length + 1)).ids) for start in range(5, 5 - kept, -1)) == kept
    assert not slots.take([5 - kept] * (length + 1)).ids
