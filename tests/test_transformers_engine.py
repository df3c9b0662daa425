"""The embedded engine on the reference base: its process, caches, sampling, stopping, cancelling."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

from specreason_graph import EnginePair, open_pair
from specreason_graph.config import make_config
from specreason_graph.engines import open_engine
from specreason_graph.engines.base import Engine, Sampling
from specreason_graph.engines.transformers import TransformersEngine
from specreason_graph.engines.transformers.kv_caches import CachePool
from specreason_graph.engines.transformers.model import Model, branch
from specreason_graph.engines.transformers.pipe import Load
from specreason_graph.errors import ContextLimitError, EngineDeadError, EngineError, ModelError
from specreason_graph.judging.digit_judge import DigitJudge
from specreason_graph.models.abacus import FOLDER
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.prompting.engine_prompts import EnginePrompts
from tests.support.waiting import until

QUESTION = held_out()[4].question
LONG = Sampling(max_tokens=300)
PAIR = "abacus-base", "abacus-draft"


def fresh() -> TransformersEngine:
    return TransformersEngine(str(FOLDER / "base"))


def prompt(engine: Engine, question: str = QUESTION) -> list[int]:
    return EnginePrompts(engine.vocabulary, make_config()).question_ids(question)


def judge(engine: Engine) -> DigitJudge:
    return DigitJudge(EnginePrompts(engine.vocabulary, make_config()))


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def on_the_base(work: Callable[[Engine], Coroutine[Any, Any, None]]) -> Callable[[EnginePair], None]:
    """Make a test of what is done with the reference base, whose caches are empty, on the loop that it lives on."""

    def test(abacus: EnginePair) -> None:
        base: Any = abacus.base

        async def afresh() -> None:
            await base.reset_prefix_cache()
            await work(base)

        abacus.run(afresh)

    test.__name__ = work.__name__
    return test


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
async def test_a_judging_goes_between_the_tokens_of_a_writing_and_neither_changes(engine: Engine) -> None:
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
async def test_writings_come_one_after_the_other(engine: Engine) -> None:
    first: list[int] = []
    before: list[int] = []  # tokens of the first writing at each token of the second
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
    # a writing waits for those before it, and a judging goes between their tokens: this one is next at once
    short = asyncio.create_task(engine.generate(prompt(engine, "What?"), Sampling(max_tokens=1)))
    judged = 0
    while not short.done():
        await engine.next_token(prompt(engine), [0])
        judged += 1
    assert judged < 20
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


async def test_a_process_that_is_killed_is_started_again_and_the_call_made_again() -> None:
    before = children()
    async with fresh() as engine:
        seen: list[int] = []
        call = asyncio.create_task(engine.generate(prompt(engine), LONG, seen.append))
        await until(lambda: len(seen) >= 3)
        (pid,) = children() - before
        psutil.Process(pid).kill()
        done = await call
        assert seen == done.generations[0].token_ids
        (other,) = children() - before
        assert other != pid
    assert children() == before


def test_it_is_started_again_after_each_death_on_whatever_loop_it_was_opened() -> None:
    engine = fresh()

    async def killed_under_two_calls() -> None:
        before = children()
        async with engine:
            calls = [asyncio.create_task(engine.next_token(prompt(engine), [0])) for _ in range(2)]
            psutil.Process((children() - before).pop()).kill()
            await asyncio.gather(*calls)

    for _ in range(2):
        asyncio.run(killed_under_two_calls())


async def test_a_process_that_keeps_dying_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specreason_graph.engines.transformers.engine.RESTARTS", 0)
    before = children()
    async with fresh() as engine:
        psutil.Process((children() - before).pop()).kill()
        with pytest.raises(EngineDeadError, match="has died 1 times"):
            await engine.next_token([5], [0])
        with pytest.raises(EngineDeadError, match="has died 1 times"):
            await engine.next_token([5], [0])
    assert children() == before


async def test_a_model_that_is_gone_when_its_process_is_started_again_is_a_failure_of_the_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("specreason_graph.engines.transformers.engine.RESTARTS", 1)
    folder = tmp_path / "model"
    shutil.copytree(FOLDER / "draft", folder)
    before = children()
    async with TransformersEngine(str(folder)) as engine:
        (folder / "model.safetensors").unlink()
        psutil.Process((children() - before).pop()).kill()
        with pytest.raises(EngineDeadError, match="cannot be loaded"):
            await engine.next_token([5], [0])
    assert children() == before


@on_the_base
async def test_what_was_cached_is_forgotten_when_asked(engine: Any) -> None:
    ids = prompt(engine)
    await engine.next_token(ids, [0])
    assert (await engine.next_token(ids, [0])).usage.cached_tokens == len(ids) - 1
    await engine.reset_prefix_cache()
    assert (await engine.next_token(ids, [0])).usage.cached_tokens == 0


async def test_a_process_that_is_started_again_with_other_weights_is_not_used(tmp_path: Path) -> None:
    before, folder = children(), tmp_path / "model"
    shutil.copytree(FOLDER / "base", folder)
    engine = TransformersEngine(str(folder))
    async with engine:
        opened = engine.describe()
        shutil.copytree(FOLDER / "draft", folder, dirs_exist_ok=True)
        psutil.Process((children() - before).pop()).kill()
        for _ in range(2):
            with pytest.raises(EngineError, match="changed while it was open"):
                await engine.next_token([5], [0])
        assert engine.describe() == opened
    async with engine:
        assert engine.describe() != opened
    assert children() == before


async def test_what_start_up_files_print_is_no_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('hello', flush=True)")
    monkeypatch.syspath_prepend(tmp_path)
    async with asyncio.timeout(60), fresh() as engine:
        assert (await engine.next_token(prompt(engine), [0])).logprobs


async def test_who_leaves_in_a_hurry_leaves_no_process_behind() -> None:
    before, engine = children(), fresh()
    await engine.__aenter__()
    leaving = asyncio.create_task(engine.__aexit__())
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert children() == before


async def test_no_process_is_started_for_who_has_left() -> None:
    before, engine = children(), fresh()
    async with engine:
        psutil.Process((children() - before).pop()).kill()
        call = asyncio.create_task(engine.next_token([5], [0]))
        await asyncio.sleep(0)
    with pytest.raises(EngineError):
        await call
    assert children() == before


@on_the_base
async def test_a_callback_that_fails_fails_its_call_only(engine: Any) -> None:
    def refuse(token: int) -> None:
        raise RuntimeError(f"not {token}")

    with pytest.raises(RuntimeError, match="not"):
        await engine.generate(prompt(engine), LONG, refuse)
    assert (await engine.next_token(prompt(engine), [0])).logprobs


@pytest.mark.parametrize(
    ("settings", "told"), [({"device": "cuda:9"}, "cannot be loaded"), ({"dtype": "float99"}, "float99")]
)
def test_what_cannot_be_is_told_in_one_line(
    settings: dict[str, str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = children()
    with pytest.raises(ModelError, match=told), open_pair(*PAIR, **settings):  # type: ignore[arg-type]
        pass
    assert children() == before
    assert "Fatal" not in capfd.readouterr().err


async def test_nothing_is_left_behind_and_it_opens_again() -> None:
    before, engine = children(), fresh()
    handles = psutil.Process().num_fds()
    for _ in range(2):
        async with engine:
            told = engine.describe()
            assert len(children() - before) == 1
        assert children() == before
        with pytest.raises(EngineError, match="is not open; use it inside a with block"):
            await engine.next_token([5], [0])
    assert told.engine == "transformers"
    assert psutil.Process().num_fds() == handles


def test_the_processes_end_with_the_one_that_started_them() -> None:
    code = """
import time
from specreason_graph import open_pair
open_pair("abacus-base", "abacus-draft").__enter__(); print('open', flush=True); time.sleep(99)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "open\n"
        hosts = psutil.Process(parent.pid).children(recursive=True)
        assert len(hosts) == 2
        parent.kill()
    assert psutil.wait_procs(hosts, timeout=10)[1] == []


def test_one_model_in_both_roles_is_one_process() -> None:
    before = children()
    with open_pair("abacus-base", "abacus-base"):
        assert len(children() - before) == 1


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


def test_unsafe_weights_are_not_loaded(tmp_path: Path) -> None:
    before, folder = children(), tmp_path / "pickled"
    shutil.copytree(FOLDER / "draft", folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"cannot be loaded.*safetensors"), open_pair("abacus-base", str(folder)):
        pass
    assert children() == before


def test_a_folder_that_is_no_model_is_told_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        open_engine(str(tmp_path))


def test_it_is_found_where_the_caller_found_it(tmp_path: Path) -> None:
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r}); os.chdir({str(tmp_path)!r})
from specreason_graph import open_pair
with open_pair("abacus-base", "abacus-draft") as pair: print(pair.describe()["base"].engine)
"""
    told = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, env=os.environ)
    assert told.stdout == "transformers\n", told.stderr


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
