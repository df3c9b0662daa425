"""Servers that answer wrongly, in kinds that are made of the protocol's own types.

One question of a batch of three gets wrong answers. Whatever they are, no traceback comes out, the other questions are
answered, what is kept fits what was asked for, and against a sane server the run goes on and verifies.

    python -m tests.fuzz.answers --count 1000 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import logging
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.engines import locate
from specreason_graph.engines.base import Sampling, continuations
from specreason_graph.engines.options import ServerOptions
from specreason_graph.engines.server import ServerEngine, engine
from specreason_graph.engines.server.answers import Answer, Models, Version
from specreason_graph.errors import ConfigError, EngineError, SpecReasonError
from specreason_graph.runs.batch import Asked as Question
from specreason_graph.runs.batch import Result, answer_all, read_questions
from specreason_graph.runs.launch import Launch
from specreason_graph.runs.store import RunStore
from tests.support.answering import DEEP, HUGE, SURROGATE, Asked, Reply, Server, serving, words
from tests.support.traces import PROBLEMS

KINDS = ("models", "version", "score", "likelihood", "plain", "stream")
QUESTIONS = [problem.question for problem in PROBLEMS[:3]]
STRUCK = QUESTIONS[1]
"""The question whose answers are wrong."""
MOST = 24
"""Tokens of a step."""
Path_ = tuple[str | int, ...]
Operation = Literal["set", "drop", "wrap", "repeat"]


def fields_of(kind: Any, here: Path_ = ()) -> Iterator[Path_]:
    """Where in an answer a field of the protocol stands, also one that a sane answer lacks."""
    if get_origin(kind) in (Union, UnionType, Annotated):
        for part in get_args(kind):
            yield from fields_of(part, here)
    elif get_origin(kind) is list:
        yield (*here, 0)
        yield from fields_of(get_args(kind)[0], (*here, 0))
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            yield (*here, name)
            yield from fields_of(field.annotation, (*here, name))


WHERE: dict[str, list[Path_]] = {
    "models": sorted(set(fields_of(Models)), key=repr), "version": sorted(set(fields_of(Version)), key=repr),
    "plain": sorted(set(fields_of(Answer)), key=repr),
}  # fmt: skip
TOKENS: Path_ = ("choices", 0, "token_ids")
TOP: Path_ = ("choices", 0, "logprobs", "top_logprobs", 0)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=8),
    st.sampled_from([-1, 2**31, 2**63, 2**64, 10**30, 1e308, DEEP, SURROGATE, HUGE, "\x1b[2J", "token_id:x", "length"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
IDS = st.one_of(
    st.lists(st.integers(0, 534), max_size=8),  # of the vocabulary, control tokens among them
    st.lists(st.sampled_from([0, 5, 529, 533, 534, 535, 536, 600, -1, 2**31, 2**70, True, None, 1.5]), max_size=6),
    st.integers(0, 3000).map(lambda count: [5] * count),
)
LOGPROBS = st.dictionaries(
    st.sampled_from([*(f"token_id:{token}" for token in (0, 5, 17, 18, 534, 10**12)), "9", "token_id:-1", ""]),
    st.one_of(st.floats(), st.sampled_from([None, 0.0005, 1000, "x", True, -1e300, HUGE])),
)
ROWS: Path_ = ("choices", 0, "prompt_logprobs")
PROMPT_ROWS = st.lists(
    st.none() | st.dictionaries(
        st.sampled_from(["0", "5", "534", "-1", "x", ""]),
        st.fixed_dictionaries({"logprob": st.one_of(st.floats(), SCALARS)}) | SCALARS,
        max_size=2,
    ),
    max_size=4,
)  # fmt: skip
PAGES = [
    b"",
    b"null",
    b"[]",
    b"<html>",
    b'"x"',
    b"\xff\xfe\x00",
    b"{}",
    b'{"choices": []}',
    b"data: x\n\n",
    b"\x1f\x8b\x08",
]
PACKED = [{}, {"content-encoding": "gzip"}, {"content-encoding": "br"}, {"content-type": "text/plain; charset=zlib"}]


@dataclass(frozen=True)
class Change:
    """One kind of wrong answer."""

    role: int
    """Whose: 0 the base's, 1 the draft's."""
    kind: str
    """To what."""
    operation: str
    """What is done to the sane answer."""
    where: Path_ = ()
    """At which field."""
    value: Any = None
    """With what."""
    event: int = 0
    """In which event, where it is a stream."""

    def of(self, asked: Asked, reply: Reply) -> Reply:
        """The wrong answer."""
        if asked.kind != self.kind or ("prompt" in asked.body and STRUCK not in asked.text):
            return reply
        if self.operation == "page":
            return Reply([], reply.is_stream, headers=self.value[1], raw=self.value[0])
        if self.operation == "status":
            return Reply([], status=self.value[0], raw=json.dumps(self.value[1]).encode())
        if self.operation == "bytes":
            place, inserted = self.value
            raw = reply.body
            place %= len(raw) + 1
            return Reply([], reply.is_stream, raw=raw[:place] + inserted + (raw[place:] if inserted else b""))
        documents = copy.deepcopy(reply.documents)
        put(documents, (self.event % len(documents), *self.where), self.operation, self.value)
        return Reply(documents, reply.is_stream)


def put(document: Any, where: Path_, operation: str, value: Any) -> None:
    """Change one place in a document; what is missing on the way there is made."""
    here: Any = document
    for step, following in pairwise(where):
        empty: Any = [] if isinstance(following, int) else {}
        if isinstance(here, dict):
            here.setdefault(step, empty)
        elif not isinstance(here, list) or not isinstance(step, int):
            return
        elif step >= len(here):
            here.append(empty)
        here[step] = empty if here[step] is None else here[step]
        here = here[step]
    last: Any = where[-1]
    is_there = last in here if isinstance(here, dict) else isinstance(here, list) and last in range(len(here))
    if operation == "drop" and is_there:
        here.pop(last)
    elif operation != "drop" and (is_there or isinstance(here, dict)):
        found = here[last] if is_there else None
        twice = [*found, *found] if isinstance(found, list) else found
        here[last] = {"set": value, "wrap": [found], "repeat": twice}[operation]


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """All kinds."""
    role, kind = draw(st.integers(0, 1)), draw(st.sampled_from(KINDS))
    event = draw(st.integers(0, 3))
    operation = draw(
        st.sampled_from(["set"] * 4 + ["drop", "wrap", "repeat", "ids", "ids", "logprobs", "page", "status", "bytes"])
    )
    if operation == "page":
        return Change(role, kind, operation, value=(draw(st.sampled_from(PAGES)), draw(st.sampled_from(PACKED))))
    if operation == "status":
        code = draw(st.sampled_from([201, 204, 301, 400, 401, 404, 418, 429, 500, 503, 599, 999]))
        return Change(role, kind, operation, value=(code, json.loads(json.dumps(draw(VALUES)))))
    if operation == "bytes":
        return Change(role, kind, operation, value=(draw(st.integers(0, 2000)), draw(st.binary(max_size=3))))
    if operation == "ids" and kind in ("score", "plain", "stream"):
        return Change(role, kind, "set", TOKENS, draw(IDS), event)
    if operation == "logprobs" and kind == "likelihood":
        return Change(role, kind, "set", ROWS, draw(PROMPT_ROWS), event)
    if operation == "logprobs" and kind == "score":
        return Change(role, kind, "set", TOP, draw(LOGPROBS), event)
    where = draw(st.sampled_from(WHERE.get(kind, WHERE["plain"])))
    operation = operation if operation in ("drop", "wrap", "repeat") else "set"
    return Change(role, kind, operation, where, draw(VALUES) if operation == "set" else None, event)


def launch(servers: list[Server]) -> Launch:
    """A run over the servers that tries each call twice: a wrong answer may spoil a connection for the next call."""
    options = {"retry_seconds": 0.01, "timeout_seconds": 20}
    return Launch(
        question="", base="abacus-base", draft="abacus-draft", engine="server", base_url=servers[0].url,
        draft_url=servers[1].url, base_options=options, draft_options=options,
        settings={"temperature": 0, "max_step_tokens": MOST, "max_steps": 5, "answer_tokens": 20, "lookahead": 1},
    )  # fmt: skip


def try_out(change: Change, servers: list[Server]) -> str:
    """Ask servers of which one answers wrongly, then sane ones, and assert what must hold; how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        file, database = Path(folder, "questions.jsonl"), Path(folder, "runs.sqlite")
        file.write_text("\n".join(json.dumps({"question": question}) for question in QUESTIONS))
        questions = read_questions(file, launch(servers))
        servers[change.role].change = change.of
        try:
            ended = ask(questions, database)
        finally:
            servers[change.role].change = lambda _, reply: reply
        results: list[Result] = []
        answer_all(questions, database, results.append)
        assert [result.error for result in results] == [None] * len(QUESTIONS), results
        with RunStore.open(database) as runs:
            for question in questions:
                (run,) = read_runs(runs.saver, question.thread)
                assert verify(run).ok, verify(run)
                for step in run.steps:
                    check_step(step.token_ids)
                    assert not step.decision.error or step.decision.error.isprintable()
    return ended


def ask(questions: list[Question], database: Path) -> str:
    """Ask under the wrong answers; how the one struck ended."""
    results: list[Result] = []
    try:
        answer_all(questions, database, results.append)
    except ConfigError as error:  # the servers could not be opened, which concerns all questions
        return refused(error)
    assert len(results) == len(questions)
    (struck,) = [result for result in results if result.asked.launch.question == STRUCK]
    others = [repr(result.error) for result in results if result.error and result is not struck]
    assert not others, others
    if struck.error is None:
        failed = any(step["decision"]["reason"] == "draft_failed" for step in struck.values["trace"])
        return "the base alone" if failed else "answered"
    assert isinstance(struck.error, SpecReasonError)
    assert str(struck.error).isprintable(), struck.error
    assert len(str(struck.error)) < 1000
    return "the run failed"


def refused(error: ConfigError) -> str:
    assert str(error).isprintable(), error
    return "refused when opened"


def check_step(ids: list[int]) -> None:
    """A kept step fits what was asked for."""
    assert len(ids) <= MOST
    assert all(type(token) is int and 0 <= token < words().size for token in ids)
    assert not words().special_ids & set(ids)


def check_logprobs(found: list[float] | None, wanted: int) -> None:
    """As many numbers as tokens, none above 0."""
    assert found is not None
    assert len(found) == wanted
    assert all(-sys.float_info.max <= value <= 0 for value in found)


def call_alone(change: Change, servers: list[Server]) -> str:
    """Make one call of each kind to a server that answers wrongly: what comes out fits the request, or is an error."""
    server = servers[change.role]
    asked = ServerEngine(server.url, locate(server.model), ServerOptions(retry_seconds=0), name=server.model)
    prompt = words().encode_template(f"{STRUCK}<think>\n")
    sampling = Sampling(max_tokens=MOST, stop=("\n\n",), stop_token_ids=words().special_ids, logprobs=2)
    seen: list[int] = []

    async def calls() -> str:
        server.change = change.of
        async with asked as opened:
            for on_token in (None, seen.append):
                with suppress(EngineError):
                    (made,) = (await continuations(opened, prompt, sampling, on_token)).generations
                    check_step(made.token_ids[:-1])
                    check_logprobs(made.logprobs, len(made.token_ids))
                    assert not on_token or seen[: len(made.token_ids)] == made.token_ids
            with suppress(EngineError):
                found = await opened.next_token(prompt, [5, 6])
                assert all(-sys.float_info.max <= value <= 0 for value in found.logprobs.values())
            with suppress(EngineError):
                check_logprobs((await opened.likelihood(prompt, [5, 6])).logprobs, 2)
            described = opened.describe()
            assert described.dump() == json.loads(json.dumps(described.dump()))
            return "opened"

    try:
        return asyncio.run(calls())
    except ConfigError as error:
        return refused(error)
    finally:
        server.change = lambda _, reply: reply


def run(count: int, start: int, trial: Callable[[Change, list[Server]], str] = try_out) -> Counter[str]:
    """Try so many kinds; how they ended."""
    ends: Counter[str] = Counter()
    with serving("abacus-base", "abacus-draft") as servers, pytest.MonkeyPatch.context() as patch:
        # files that do not change between the kinds are read once
        for name in ("load_vocabulary", "load_config", "recommended_sampling", "weights_hash"):
            patch.setattr(engine, name, cache(getattr(engine, name)))

        @seed(start)
        @settings(
            max_examples=count, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(changes())
        def every_kind(change: Change) -> None:
            ends[trial(change, servers)] += 1

        every_kind()
    return ends


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(description="Try servers that answer wrongly.")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    given_ = parser.parse_args()
    logging.disable(logging.CRITICAL)
    sys.stdout.write(f"seed {given_.seed}\n")
    for end, count in run(given_.count, given_.seed).most_common():
        sys.stdout.write(f"{count:6} {end}\n")


if __name__ == "__main__":
    main()
