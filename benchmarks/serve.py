"""What the server costs: the same questions over the same pair, by turns from Python and from OpenAI's client.

The clients are a process of their own, as they are in use: ``python -m benchmarks.serve URL MODEL [stream]`` reads a
JSON list of questions, asks all of them at once, and prints the seconds and the answers.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import uvicorn

from specreason_graph.config import make_config
from specreason_graph.engines.pair import EnginePair
from specreason_graph.langchain.chat_model import ChatSpecReason
from specreason_graph.record.records import Record
from specreason_graph.serving import ServeOptions, create_app
from specreason_graph.serving.options import Durability
from specreason_graph.serving.server import listen

WAYS = ("abatch", "whole replies", "streams")
"""From Python, and from a client that waits for whole replies or reads streams."""


class Round(Record):
    """All questions, asked once in one way."""

    way: str
    """One of `WAYS`."""
    seconds: float
    """From the first request to the last reply, in seconds."""
    cpu: float
    """CPU seconds meanwhile of this process, the engines' processes and the client; other work on a machine changes
    it less than the seconds."""
    answers: list[str]
    """The replies, in the order of the questions."""


def measure_server(
    pair: EnginePair, questions: Sequence[str], repeats: int, durability: Durability
) -> Iterator[Round]:  # fmt: skip
    """Ask all questions at once, ``repeats`` times in each way by turns, behind one turn that fills the caches."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "runs.sqlite")
        with _served(pair, file, durability, len(questions)) as url:
            yield from _by_turns(pair, url, questions, repeats)


def _by_turns(pair: EnginePair, url: str, questions: Sequence[str], repeats: int) -> Iterator[Round]:
    ask: dict[str, Callable[[], Round]] = {
        "abatch": lambda: _batch(pair, questions),
        "whole replies": lambda: _from_client(url, pair.base.name, questions, "whole replies"),
        "streams": lambda: _from_client(url, pair.base.name, questions, "streams", "stream"),
    }
    for turn in range(repeats + 1):
        for way in WAYS:
            found = ask[way]()
            if turn:
                yield found


def lines(rounds: Sequence[Round]) -> list[str]:
    """A line a way: its median, its range, and what it takes more than ``abatch``."""
    told, base = [], [each for each in rounds if each.way == "abatch"]
    usual, usual_cpu = median(each.seconds for each in base), median(each.cpu for each in base)
    for way in WAYS:
        own = [each for each in rounds if each.way == way]
        seconds, cpu = [each.seconds for each in own], median(each.cpu for each in own)
        pairs = [(mine, theirs) for each in own for mine, theirs in zip(each.answers, base[0].answers, strict=True)]
        same = sum(mine == theirs for mine, theirs in pairs) / len(pairs)
        middle = median(seconds)
        told.append(
            f"{way:14} {middle:7.2f} s ({min(seconds):.2f} to {max(seconds):.2f}) {middle / usual - 1:+.1%}"
            f"   {cpu:.1f} CPU seconds {cpu / usual_cpu - 1:+.1%}   {same:.0%} of the answers are those of abatch"
        )
    return told


def _batch(pair: EnginePair, questions: Sequence[str]) -> Round:
    chat = ChatSpecReason(pair, temperature=0, config_file=None)
    begun, before = time.perf_counter(), _cpu()
    replies = asyncio.run(chat.abatch(list(questions)))
    answers = [str(reply.text) for reply in replies]
    return Round(way="abatch", seconds=time.perf_counter() - begun, cpu=_cpu() - before, answers=answers)


def _from_client(url: str, model: str, questions: Sequence[str], way: str, *how: str) -> Round:
    command, before = [sys.executable, "-m", "benchmarks.serve", url, model, *how], _cpu()
    ended = subprocess.run(command, input=json.dumps(list(questions)), capture_output=True, text=True, check=True)  # noqa: S603 - this module
    found = json.loads(ended.stdout)
    return Round(way=way, **{**found, "cpu": found["cpu"] + _cpu() - before})


def _cpu() -> float:
    """CPU seconds so far of this process and of those that the engines run in."""
    import psutil

    here = psutil.Process()
    times = [each.cpu_times() for each in (here, *here.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


@contextmanager
def _served(pair: EnginePair, database: Path, durability: Durability, concurrency: int) -> Iterator[str]:
    options = ServeOptions(database=database, durability=durability, concurrency=concurrency)
    app = create_app(pair, config=make_config(temperature=0), options=options)
    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        thread = Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join()


async def _ask_all(url: str, model: str, questions: Sequence[str], *, stream: bool) -> dict[str, object]:
    from openai import AsyncOpenAI

    async def ask(client: AsyncOpenAI, question: str) -> str:
        asked: Any = {"model": model, "messages": [{"role": "user", "content": question}], "stream": stream}
        reply: Any = await client.chat.completions.create(**asked)
        if not stream:
            return str(reply.choices[0].message.content)
        return "".join([piece.choices[0].delta.content or "" async for piece in reply])

    async with AsyncOpenAI(base_url=url, api_key="none", timeout=3600, max_retries=0) as client:
        begun, before = time.perf_counter(), time.process_time()
        answers = await asyncio.gather(*(ask(client, question) for question in questions))
        used = {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - before}
        return {**used, "answers": answers}


if __name__ == "__main__":
    told = _ask_all(sys.argv[1], sys.argv[2], json.load(sys.stdin), stream=len(sys.argv) > 3)
    print(json.dumps(asyncio.run(told)))
