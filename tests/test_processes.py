"""Processes: what a fork finds of its parent's pair, and what a program that is killed leaves of its engines."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz.kills import kills

START = """
import asyncio, gc, multiprocessing, os, signal, sys
from concurrent.futures import ThreadPoolExecutor
from specreason_graph import EnginePair, create_specreason, open_pair
from specreason_graph.errors import SpecReasonError
from tests.support.scripts import stepwise

signal.alarm(500)  # who hangs is ended
QUESTION = {"question": "Zoe has 12 pens. Zoe buys 6 pens. Zoe gives 3 pens to Tom. How many pens does Zoe have?"}


def make(kind):
    return stepwise(8, draft=0.002, base=0.004) if kind == "scripted" else open_pair("abacus-base", "abacus-draft")


def told(use):
    try:
        return use()
    except SpecReasonError as error:
        return str(error)


def enter(pair):
    with pair:
        return "entered"


def use_everything(pair, graph):
    signal.alarm(400)  # a fork inherits none
    with ThreadPoolExecutor(1) as pool:
        in_thread = told(lambda: pool.submit(graph.invoke, QUESTION).result())
    tries = [
        told(lambda: graph.invoke(QUESTION)), told(lambda: list(graph.stream(QUESTION))),
        told(lambda: asyncio.run(graph.ainvoke(QUESTION))), told(lambda: enter(pair)), in_thread,
    ]
    refused = ["the pair was opened before this process was forked" in each for each in tries]
    print("child:", all(refused), pair.is_open, pair.close(), pair.__exit__(None, None, None), flush=True)


def wait_for(child):
    print("child ended with", os.waitpid(child, 0)[1], flush=True)
"""
KINDS = ("scripted", "transformers")
ENDS = {
    "normally": "sys.exit(0)",  # so the with block is left, and the interpreter cleans up
    "at once": "os._exit(0)",
    "after collecting": "del graph, pair; gc.collect(); sys.exit(0)",
}


def run(program: str, *arguments: str) -> list[str]:
    """What a program prints; nothing may be printed to standard error."""
    code = START + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=600,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout.splitlines()


REFUSED = ["child: True False None None", "child ended with 0"]


@pytest.mark.parametrize(("kind", "end"), [*(("scripted", end) for end in ENDS), ("transformers", "normally")])
def test_a_fork_is_told_that_the_pair_is_its_parents_who_goes_on(kind: str, end: str) -> None:
    program = f"""
    with make(sys.argv[1]) as pair:
        graph = create_specreason(pair).compile()
        answer = graph.invoke(QUESTION)["answer"]
        pids = [getattr(engine, "pid", None) for engine in (pair.base, pair.draft)]
        child = os.fork()
        if not child:
            use_everything(pair, graph)
            {ENDS[end]}
        wait_for(child)
        print(graph.invoke(QUESTION)["answer"] == answer)
        print([getattr(engine, "pid", None) for engine in (pair.base, pair.draft)] == pids)
    """
    assert run(program, kind) == [*REFUSED, "True", "True"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_forked_worker_of_multiprocessing_is_told_as_well(kind: str) -> None:
    program = """
    with make(sys.argv[1]) as pair:
        graph = create_specreason(pair).compile()
        answer = graph.invoke(QUESTION)["answer"]
        parts = graph.stream(QUESTION, stream_mode="custom")
        next(parts)  # a stream of the parent is under way
        child = multiprocessing.get_context("fork").Process(target=use_everything, args=(pair, graph))
        child.start()
        child.join()
        print("child ended with", child.exitcode)
        print(len(list(parts)) > 5, graph.invoke(QUESTION)["answer"] == answer)
    """
    assert run(program, kind) == [*REFUSED, "True True"]


@pytest.mark.parametrize(("kind", "workers", "used_before"), [("scripted", 2, True), ("transformers", 1, False)])
def test_a_pair_that_is_closed_when_a_server_forks_opens_in_each_worker(
    kind: str, workers: int, used_before: bool
) -> None:
    program = """
    pair = make(sys.argv[1])
    graph = create_specreason(pair).compile()
    if sys.argv[2] == "True":
        with pair:
            graph.invoke(QUESTION)
    children = []
    for _ in range(int(sys.argv[3])):
        children.append(os.fork())
        if not children[-1]:
            with pair:
                said = f"{bool(graph.invoke(QUESTION)['answer'])} {pair.is_open}"
                os.write(1, (said + os.linesep).encode())  # at once: the workers share the output
            sys.exit(0)
    for child in children:
        wait_for(child)
    with pair:
        print(bool(graph.invoke(QUESTION)["answer"]))
    """
    lines = run(program, kind, str(used_before), str(workers))
    assert sorted(lines[:-1]) == ["True True"] * workers + ["child ended with 0"] * workers
    assert lines[-1] == "True"


def test_a_fork_while_another_thread_opens_the_pair_neither_hangs_nor_opens_it() -> None:
    program = """
    import threading
    from specreason_graph.engines.fake import FakeEngine

    begun, goes_on = threading.Event(), threading.Event()

    class Slow(FakeEngine):
        async def __aenter__(self):
            begun.set()
            await asyncio.to_thread(goes_on.wait)
            return self

    slow = Slow(lambda _: "</think>", name="slow")
    pair = EnginePair(slow, slow)
    graph = create_specreason(pair).compile()
    opening = threading.Thread(target=pair.__enter__)
    opening.start()
    begun.wait()
    child = os.fork()
    if not child:
        use_everything(pair, graph)
        os._exit(0)
    wait_for(child)
    goes_on.set()
    opening.join()
    print(pair.is_open)
    pair.close()
    """
    assert run(program) == [*REFUSED, "True"]


def test_a_model_ends_with_the_program_although_a_fork_lives_on() -> None:
    import psutil

    program = """
    import time
    pair = make("transformers").__enter__()
    if not os.fork():
        os.setsid()
        time.sleep(90)
        os._exit(0)
    print(pair.base.pid, pair.draft.pid, flush=True)
    time.sleep(90)
    """
    code = START + textwrap.dedent(program)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        models = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        forks = [each for each in psutil.Process(parent.pid).children() if each not in models]
        parent.kill()
        assert psutil.wait_procs(models, timeout=5)[1] == []
        for fork in forks:
            fork.kill()


@pytest.mark.parametrize(
    ("kind", "state"),
    [("scripted", "open"), ("scripted", "closed"), ("scripted", "never opened"), ("transformers", "open")],
)
def test_a_pair_that_is_closed_while_the_interpreter_ends_is_closed(kind: str, state: str) -> None:
    program = """
    import atexit
    pair = make(sys.argv[1])
    graph = create_specreason(pair).compile()

    def late():
        try:
            graph.invoke(QUESTION)
        except RuntimeError as error:
            print("shutdown" in str(error))
        print(pair.close(), pair.close(), pair.is_open)

    atexit.register(late)
    if sys.argv[2] != "never opened":
        graph.invoke(QUESTION)
    if sys.argv[2] == "closed":
        pair.close()
    """
    assert run(program, kind, state) == ["True", "None None False"]


def test_models_that_are_killed_with_their_program_leave_nothing_behind() -> None:
    found = list(kills("transformers", 3))
    assert [kill.left for kill in found] == [[]] * 3
    assert any(kill.processes for kill in found)
    assert not any("Traceback" in kill.printed for kill in found)


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("kind", ["vllm", "serve"])
def test_vllm_that_is_killed_while_it_starts_leaves_nothing_behind(kind: str) -> None:
    found = list(kills(kind, 3))
    assert [kill.left for kill in found] == [[]] * 3
    assert any(kill.processes and not kill.ready for kill in found)
