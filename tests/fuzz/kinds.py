"""Runs of all kinds, of scripted engines: each a function of a checkpointer, a thread and a signer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from specreason_graph import create_specreason
from specreason_graph.audit.fork import fork, plan_fork
from specreason_graph.audit.keep.prune import prune
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.errors import EngineError
from specreason_graph.record.signing import Signer
from tests.support.audited import scripted, think
from tests.support.counting import Counting
from tests.support.parents import nested, parent, three_sends, twice
from tests.support.scripts import stepwise

Kind = Callable[[Any, str, Any], None]
"""Makes a run in a thread."""
QUESTION: Any = {"question": "What?"}


def new_key() -> tuple[Signer, str]:
    """A signer, and its public key."""
    private = Ed25519PrivateKey.generate()
    return Signer(private), private.public_key().public_bytes_raw().hex()


def config(thread: str) -> Any:
    """Where a run is kept."""
    return {"configurable": {"thread_id": thread}}


def plain(saver: Any, thread: str, signer: Any, **settings: Any) -> None:
    """Eight steps, of which every third is rejected."""
    think(saver, thread, 8, signer, **settings)


def reviewed(saver: Any, thread: str, signer: Any) -> None:
    """A human accepts one step, rejects one and writes one."""
    said = iter([{"verdict": "accept", "reviewer": "Ada"}, "reject", {"verdict": "edit", "text": "Mine.", "note": "n"}])
    with stepwise(4, (5, 9, 5, 5)) as pair:
        graph = create_specreason(pair, signer=signer, review={"low": 4, "high": 6}).compile(checkpointer=saver)
        outcome = graph.invoke(QUESTION, config(thread))
        while "__interrupt__" in outcome:
            outcome = graph.invoke(Command(resume=next(said, "accept")), config(thread))


def forked(saver: Any, thread: str, signer: Any) -> None:
    """Goes on from step 2 of another run with other settings."""
    think(saver, f"{thread}-before", 4, signer)
    (run,) = read_runs(saver, f"{thread}-before")
    with stepwise(4, (9, 2)) as pair:
        graph = create_specreason(pair, signer=signer).compile(checkpointer=saver)
        graph.invoke(None, fork(graph, thread, plan_fork(run, pair, at=2, threshold=5)))


def several(saver: Any, thread: str, signer: Any) -> None:
    """Three proposals for each step."""
    with stepwise(4, (9, 2, 7)) as pair:
        graph = create_specreason(pair, signer=signer, proposals=3, temperature=1.0).compile(checkpointer=saver)
        graph.invoke(QUESTION, config(thread))


def cut(saver: Any, thread: str, signer: Any) -> None:
    """The deadline passes while the base model rewrites a step that a human rejected."""

    def slow(prompt: str) -> Any:
        return None if prompt.endswith("Score: ") or "</think>" in prompt else asyncio.sleep(60)

    made = stepwise(6, (5,), engine=Counting)
    base: Any = made.base
    base.at_call = slow
    with made as pair:
        settings: Any = {"review": {"low": 4, "high": 6}, "deadline_seconds": 0.4}
        graph = create_specreason(pair, signer=signer, **settings).compile(checkpointer=saver)
        if "__interrupt__" in graph.invoke(QUESTION, config(thread)):
            graph.invoke(Command(resume={"verdict": "reject", "note": "no"}), config(thread))


def late(saver: Any, thread: str, signer: Any) -> None:
    """Has to be ready at a time, and is."""
    with stepwise(4, (9, 2)) as pair:
        graph = create_specreason(pair, signer=signer, deadline_seconds=30).compile(checkpointer=saver)
        graph.invoke(QUESTION, config(thread))


def stopped(after: str) -> Kind:
    """Not finished: it stopped behind a stage."""

    def half(saver: Any, thread: str, signer: Any) -> None:
        with stepwise(6, (9, 2)) as pair:
            graph = create_specreason(pair, signer=signer).compile(checkpointer=saver)
            graph.invoke(QUESTION, config(thread), interrupt_after=[after])

    return half


def asking(saver: Any, thread: str, signer: Any) -> None:
    """Not finished: it waits for a human."""
    with stepwise(4, (9, 5)) as pair:
        graph = create_specreason(pair, signer=signer, review={"low": 4, "high": 6}).compile(checkpointer=saver)
        graph.invoke(QUESTION, config(thread))


def within(wrap: Callable[[Any, Any], Any]) -> Kind:
    """In a subgraph."""

    def inside(saver: Any, thread: str, signer: Any) -> None:
        with stepwise(4, (9, 2)) as pair:
            wrap(create_specreason(pair, signer=signer).compile(), saver).invoke(QUESTION, config(thread))

    return inside


def two_questions(saver: Any, thread: str, signer: Any) -> None:
    """Two runs on one thread."""
    with stepwise(3, (9, 2)) as pair:
        graph = create_specreason(pair, signer=signer).compile(checkpointer=saver)
        graph.invoke(QUESTION, config(thread))
        graph.invoke({"question": "And then?"}, config(thread))


def messages(saver: Any, thread: str, signer: Any) -> None:
    """Asked by messages, and answered with one."""
    with stepwise(3, (9, 2)) as pair:
        graph = create_specreason(pair, signer=signer).compile(checkpointer=saver)
        asked: Any = {"messages": [("user", "What?")]}
        graph.invoke(asked, config(thread))


def conversation(saver: Any, thread: str, signer: Any) -> None:
    """Two turns, with a question between them that is no part of the conversation."""
    turns: Any = ({"messages": [("system", "Short."), ("user", "What?")]}, QUESTION, {"messages": [("user", "So?")]})
    for asked in turns:
        with stepwise(2, (9, 2)) as pair:
            graph = create_specreason(pair, signer=signer).compile(checkpointer=saver)
            graph.invoke(asked, config(thread))


def in_a_chat(saver: Any, thread: str, signer: Any) -> None:
    """Two turns of a chat, in which it is a node."""
    for asked in ("What?", "So?"):
        with stepwise(2, (9, 2)) as pair:
            chat = StateGraph(MessagesState).add_node("think", create_specreason(pair, signer=signer).compile())
            begin: Any = {"messages": [("user", asked)]}
            chat.add_edge(START, "think").compile(checkpointer=saver).invoke(begin, config(thread))


def travelled(saver: Any, thread: str, signer: Any) -> None:
    """LangGraph's time travel made another branch."""
    with stepwise(5, (9, 2)) as pair:
        graph = create_specreason(pair, signer=signer).compile(checkpointer=saver)
        graph.invoke(QUESTION, config(thread))
        middle = next(each for each in graph.get_state_history(config(thread)) if len(each.values["trace"]) == 2)
        graph.invoke(None, middle.config)


def pruned(saver: Any, thread: str, signer: Any) -> None:
    """Without the checkpoints that audits do not need."""
    think(saver, thread, 6, signer)
    prune(saver, thread)


def controlled(saver: Any, thread: str, signer: Any) -> None:
    """Speculation is switched off and on by what it costs."""
    with stepwise(8, (9, 2), draft=0.001, base=0.001) as pair:
        graph = create_specreason(pair, signer=signer, speculation_control=True).compile(checkpointer=saver)
        graph.invoke(QUESTION, config(thread))


def durable(how: Any) -> Kind:
    """Checkpoints are written so often."""

    def kept(saver: Any, thread: str, signer: Any) -> None:
        with scripted(5) as pair:
            graph = create_specreason(pair, signer=signer).compile(checkpointer=saver)
            graph.invoke(QUESTION, config(thread), durability=how)

    return kept


def failed(saver: Any, thread: str, signer: Any) -> None:
    """The base engine fails in the middle, and the run goes on later."""
    calls = iter(range(100))
    with stepwise(5, (9, 2)) as pair:
        base: Any = pair.base
        base.failure = lambda _: EngineError("gone", engine="base") if 3 <= next(calls) < 8 else None
        graph = create_specreason(pair, signer=signer).compile(checkpointer=saver)
        for given in (QUESTION, None, None, None):
            with suppress(EngineError):
                graph.invoke(given, config(thread), durability="sync")
                break


def undrafted(saver: Any, thread: str, signer: Any) -> None:
    """The draft engine fails for good, and the base model goes on alone."""
    calls = iter(range(100))
    with stepwise(5, (9, 2)) as pair:
        draft: Any = pair.draft
        draft.failure = lambda _: EngineError("gone", engine="draft") if next(calls) >= 2 else None
        graph = create_specreason(pair, signer=signer).compile(checkpointer=saver)
        graph.invoke(QUESTION, config(thread))


def limited(saver: Any, thread: str, signer: Any) -> None:
    """Ends because of its budget, and its answer is forced."""
    think(saver, thread, 8, signer, max_steps=4)


UNFINISHED: dict[str, Kind] = {
    "stopped after a step": stopped("regenerate"), "stopped after a proposal": stopped("draft"),
    "stopped after a score": stopped("score"), "stopped at the start": stopped("prepare"), "asking": asking,
}  # fmt: skip
"""Runs without an answer."""
FINISHED: dict[str, Kind] = {
    "plain": plain, "reviewed": reviewed, "forked": forked, "several proposals": several, "cut": cut, "late": late,
    "subgraph": within(lambda graph, saver: parent(graph).compile(checkpointer=saver)),
    "nested": within(lambda graph, saver: nested(graph, checkpointer=saver)),
    "called twice": within(lambda graph, saver: twice(graph).compile(checkpointer=saver)),
    "sends": within(lambda graph, saver: three_sends(graph).compile(checkpointer=saver)),
    "two questions": two_questions, "messages": messages, "conversation": conversation, "in a chat": in_a_chat,
    "time travel": travelled, "pruned": pruned,
    "controlled": controlled, "async durability": durable("async"), "exit durability": durable("exit"),
    "failed": failed, "no draft": undrafted, "limited": limited,
}  # fmt: skip
"""Runs with an answer."""
