"""The process of an embedded engine: started once, again when it dies, and gone with whoever uses it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from specreason_graph import open_pair
from specreason_graph.engines import open_engine
from specreason_graph.engines.transformers import TransformersEngine
from specreason_graph.errors import EngineDeadError, EngineError, ModelError
from specreason_graph.models.abacus import FOLDER
from tests.support.embedded import LONG, fresh, prompt
from tests.support.waiting import until

PAIR = "abacus-base", "abacus-draft"


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


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


@pytest.mark.parametrize(
    ("settings", "told"), [({"device": "cuda:9"}, "is not there"), ({"dtype": "float99"}, "float99")]
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
