"""vLLM in process, on real engines: the same answers as the embedded engine, and what happens when engines die."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.starts import measure_starts
from specreason_graph import ChatSpecReason, EnginePair, open_pair
from specreason_graph.bench.run import reset_prefix_caches
from specreason_graph.config import make_config
from specreason_graph.engines.base import Sampling
from specreason_graph.errors import (
    ConfigError,
    ContextLimitError,
    EngineBusyError,
    EngineDeadError,
    EngineRequestError,
    ModelError,
)
from specreason_graph.models.abacus.problems import held_out, parse_answer
from specreason_graph.prompting.engine_prompts import EnginePrompts
from specreason_graph.settings import EngineOptions
from tests.support.many import assert_all_others_are_right
from tests.support.traces import NGRAM, PROBLEMS, STAGES, Struck, Watched, around, assert_same, counted, solve, tokens

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

OPTIONS: EngineOptions = {"timeout_seconds": 60, "restarts": 20}  # the pair is shared by tests that kill it


@pytest.fixture(scope="module")
def pair() -> Iterator[EnginePair]:
    with open_pair("abacus-base", "abacus-draft", kind="vllm", base_options=OPTIONS, draft_options=OPTIONS) as pair:
        yield pair


def ids(pair: EnginePair) -> list[int]:
    return ids_of(pair, PROBLEMS[0].question)


def ids_of(pair: EnginePair, question: str) -> list[int]:
    return EnginePrompts(pair.base.vocabulary, make_config()).question_ids(question)


def core(engine: Any) -> int:
    """Process id of an engine's core."""
    return int(engine.pid)


def test_traces_and_scores_are_those_of_the_embedded_engine(pair: EnginePair, abacus: EnginePair) -> None:
    for problem in PROBLEMS:
        assert_same(solve(pair, problem.question), solve(abacus, problem.question))


@pytest.mark.smollm2
def test_sixty_steps_find_what_each_engine_has_seen(smollm2: Path) -> None:
    options: EngineOptions = {"context": 4096, "sequences": 2}
    twins = str(smollm2), f"{smollm2}/"  # two engines of one model
    with open_pair(*twins, kind="vllm", base_options=options, draft_options=options) as pair:
        base, draft = Watched(pair.base), Watched(pair.draft)
        outcome = solve(
            around(pair, base=base, draft=draft), "Tell me a long story about a fox.", max_steps=60, max_step_tokens=24,
            repetition_limit=1000, threshold=2.3, answer_tokens=10, think_open="<think>", think_close="</think>",
        )  # fmt: skip
    assert len(outcome["trace"]) == 60
    assert {step["author"] for step in outcome["trace"]} == {"base", "draft"}
    for engine in (base, draft):
        assert engine.excess <= 0.05 * engine.prompts


def test_what_was_cached_is_forgotten_when_asked(pair: EnginePair) -> None:
    async def ask() -> list[int]:
        cached = []
        for forgotten in (False, False, True):
            if forgotten:
                await reset_prefix_caches(pair)
            cached.append((await pair.base.next_token(ids(pair) * 2, [0])).usage.cached_tokens)
        return cached

    found = pair.run(ask)
    assert found[1] > 0
    assert found[2] == 0


def test_next_token_is_a_distribution(pair: EnginePair) -> None:
    found = pair.run(lambda: pair.base.next_token(ids(pair), range(20)))
    assert len(found.logprobs) == 20
    assert sum(map(math.exp, found.logprobs.values())) + found.other_mass == pytest.approx(1, abs=1e-5)


def test_seeds_decide_the_samples_and_tokens_arrive_as_they_come(pair: EnginePair) -> None:
    async def sample() -> None:
        hot = Sampling(max_tokens=30, temperature=2, seed=3, n=3)
        together = [g.token_ids for g in (await pair.base.generate(ids(pair), hot)).generations]
        seen: list[int] = []
        fifth = Sampling(max_tokens=30, temperature=2, seed=5)
        single = (await pair.base.generate(ids(pair), fifth, seen.append)).generations[0]
        assert together[2] == single.token_ids == seen
        assert together[0] != together[1]
        greedy = (await pair.base.generate(ids(pair), Sampling(max_tokens=5, n=2))).generations
        assert greedy[0] == greedy[1]

    pair.run(sample)


def test_generation_stops_where_it_is_told_to(pair: EnginePair) -> None:
    async def stop() -> None:
        step = (await pair.base.generate(ids(pair), Sampling(max_tokens=60, stop=("\n\n",)))).generations[0]
        assert step.finish == "stop_string"
        assert pair.base.vocabulary.decode(step.token_ids).endswith(".\n\n")
        third = step.token_ids[2]
        cut = await pair.base.generate(ids(pair), Sampling(max_tokens=60, stop_token_ids=frozenset({third})))
        assert cut.generations[0].token_ids == step.token_ids[: step.token_ids.index(third) + 1]
        assert cut.generations[0].finish == "stop_token"
        long = (await pair.base.generate(ids(pair), Sampling(max_tokens=5))).generations[0]
        assert (len(long.token_ids), long.finish) == (5, "length")

    pair.run(stop)


def test_a_prompt_over_the_context_is_refused(pair: EnginePair) -> None:
    with pytest.raises(ContextLimitError, match="leaves no room in a context of 1024"):
        pair.run(lambda: pair.base.generate([5] * 1024, Sampling(max_tokens=1)))
    end = pair.run(lambda: pair.base.generate([5] * 1020, Sampling(max_tokens=50))).generations[0]
    assert (len(end.token_ids), end.finish) == (4, "length")


def test_a_request_that_is_refused_leaves_the_engine_alive(pair: EnginePair) -> None:
    with pytest.raises(EngineRequestError):
        pair.run(lambda: pair.base.generate([10**9], Sampling(max_tokens=1)))
    assert pair.run(lambda: pair.base.generate(ids(pair), Sampling(max_tokens=1))).generations


def test_a_cancelled_call_frees_the_engine(pair: EnginePair) -> None:
    async def cancel() -> None:
        call = asyncio.ensure_future(pair.base.generate(ids(pair), Sampling(max_tokens=800)))
        await asyncio.sleep(0.3)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(0.1)
        assert pair.base.unfinished == 0  # type: ignore[attr-defined]

    pair.run(cancel)


def test_seeded_prompts_that_do_not_fit_one_batch_wait_for_the_next(pair: EnginePair) -> None:
    vocabulary = pair.base.vocabulary
    prompts = [vocabulary.encode(f"{number} is what Zoe has. " * 12) for number in range(64)]
    assert sum(map(len, prompts)) > 2 * 2048  # tokens that vLLM takes into one batch
    sampling = Sampling(max_tokens=2, temperature=0.6, top_p=0.95, seed=1)

    async def write() -> list[int]:
        made = await asyncio.gather(*(pair.base.generate(prompt, sampling) for prompt in prompts))
        return [len(each.generations[0].token_ids) for each in made]

    assert pair.run(write) == [2] * 64


def test_many_runs_at_once(pair: EnginePair) -> None:
    problems = held_out()[:64]
    with ThreadPoolExecutor(64) as pool:
        outcomes = list(pool.map(lambda problem: solve(pair, problem.question), problems))
    right = sum(parse_answer(o["answer"]) == p.answer for o, p in zip(outcomes, problems, strict=True))
    assert right >= 55
    for engine in (pair.base, pair.draft):
        assert engine.unfinished == 0  # type: ignore[attr-defined]


def test_many_runs_live_through_cancellations_failures_and_a_restart(pair: EnginePair) -> None:
    assert_all_others_are_right(pair, lambda: os.kill(core(pair.base), signal.SIGKILL))
    for engine in (pair.base, pair.draft):
        assert engine.unfinished == 0  # type: ignore[attr-defined]


@pytest.mark.usefixtures("intel_threads")
def test_speculation_inside_the_base_is_counted_and_changes_no_token(abacus: EnginePair) -> None:
    questions = [problem.question for problem in PROBLEMS[:8]]
    think = partial(solve, lookahead=0)  # how far it works ahead depends on the clock
    with open_pair(
        "abacus-base",
        "abacus-draft",
        kind="vllm",
        base_options={**OPTIONS, "speculative": NGRAM},
        draft_options=OPTIONS,
    ) as guessing:
        alone = [think(guessing, question) for question in questions]
        with ThreadPoolExecutor(len(questions)) as pool:
            together = list(pool.map(partial(think, guessing), questions))
        with pytest.raises(EngineRequestError, match="draws wrong tokens while it speculates; set temperature = 0"):
            guessing.run(lambda: guessing.base.generate(ids(guessing), Sampling(max_tokens=1, temperature=0.6)))
        told = guessing.base.describe()
        assert (told.options["speculative"], told.scoring) == (NGRAM, "top")
    for question, *mine in zip(questions, alone, together, strict=True):
        usual = think(abacus, question)
        for outcome in mine:
            assert (tokens(outcome), outcome["answer"]) == (tokens(usual), usual["answer"])
        assert counted(mine[0]) == counted(mine[1])  # each call's own counts, whoever else is asking
    assert sum(counted(outcome)[1] for outcome in alone) > 0


@pytest.mark.parametrize(("role", "method"), STAGES)
def test_an_engine_killed_at_work_is_started_again_and_the_trace_is_the_same(
    pair: EnginePair, abacus: EnginePair, role: Any, method: str
) -> None:
    question = PROBLEMS[4].question
    engine: Any = pair.engine(role)
    before = engine.deaths
    struck = Struck(engine, method, lambda: os.kill(core(engine), signal.SIGKILL))
    assert_same(solve(around(pair, **{role: struck}), question), solve(abacus, question))
    assert engine.deaths == before + 1


def test_a_hung_engine_is_noticed_and_started_again(pair: EnginePair) -> None:
    engine: Any = pair.base
    before = engine.deaths
    usual = engine.options
    engine.options = usual.model_copy(update={"timeout_seconds": 3.0})
    try:
        os.kill(core(engine), signal.SIGSTOP)
        engine_call = pair.run(lambda: engine.generate(ids(pair), Sampling(max_tokens=2)))
        assert len(engine_call.generations[0].token_ids) == 2
        assert engine.deaths == before + 1
    finally:
        engine.options = usual


def test_an_answer_may_take_longer_than_the_limit_while_its_tokens_come(pair: EnginePair) -> None:
    engine: Any = pair.base
    usual, before = engine.options, engine.deaths
    engine.options = usual.model_copy(update={"timeout_seconds": 0.4})
    try:
        wanted = Sampling(max_tokens=900, n=8, temperature=1.0)
        answer = pair.run(lambda: engine.generate(ids(pair), wanted))
    finally:
        engine.options = usual
    assert [len(each.token_ids) for each in answer.generations] == [900] * 8
    assert answer.usage.seconds > 0.4
    assert engine.deaths == before


def test_an_engine_that_keeps_dying_stops_the_run_by_name() -> None:
    options: EngineOptions = {**OPTIONS, "restarts": 0}
    with open_pair("abacus-draft", "abacus-draft", kind="vllm", base_options=options) as pair:
        os.kill(core(pair.base), signal.SIGKILL)
        with pytest.raises(EngineDeadError, match=r"abacus-draft.* has died") as caught:
            pair.run(lambda: pair.base.generate(ids(pair), Sampling(max_tokens=2)))
        assert not caught.value.retryable


def test_a_full_queue_is_back_pressure() -> None:
    options: EngineOptions = {**OPTIONS, "queue": 2, "sequences": 2}
    with open_pair("abacus-draft", "abacus-draft", kind="vllm", base_options=options) as pair:

        async def flood() -> list[Any]:
            calls = [pair.base.generate(ids(pair), Sampling(max_tokens=20)) for _ in range(10)]
            return await asyncio.gather(*calls)

        assert len(pair.run(flood)) == 10  # refused ones come again
        patient: Any = pair.base
        patient.options = patient.options.model_copy(update={"retry_seconds": 0.0})
        with pytest.raises(EngineBusyError, match="busy"):
            pair.run(flood)


@pytest.mark.smollm2
@pytest.mark.parametrize("role", ["base", "draft"])
def test_a_real_chat_model_beside_one_with_another_vocabulary(smollm2: Path, role: str) -> None:
    models = {"base": "abacus-base", "draft": "abacus-draft", role: str(smollm2)}
    options = {f"{role}_options": {"context": 1024, "sequences": 4}}
    with open_pair(kind="vllm", **models, **options) as pair:  # type: ignore[arg-type]
        assert not pair.shares_vocabulary
        outcome = solve(pair, PROBLEMS[0].question, max_steps=3, max_step_tokens=40, answer_tokens=20, threshold=5)
        if role == "base":
            chat = ChatSpecReason(pair, max_steps=1, max_step_tokens=20, answer_tokens=60, temperature=0)
            schema = {
                "title": "box",
                "type": "object",
                "properties": {"pens": {"type": "integer"}},
                "required": ["pens"],
            }
            box = chat.with_structured_output(schema).invoke("How many pens are 2 and 3 pens?")
            assert isinstance(box["pens"], int)
    assert outcome["stop_reason"] in ("step_limit", "answered")
    assert outcome["answer"]
    assert all(step["score"] for step in outcome["trace"] if step["author"] == "draft")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_engines_do_not_outlive_their_parent(number: signal.Signals, tmp_path: Path) -> None:
    import psutil

    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
        import time
        from specreason_graph import open_pair
        if __name__ == "__main__":
            with open_pair("abacus-base", "abacus-draft", kind="vllm"):
                print("open", flush=True)
                time.sleep(600)
        """)
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    assert parent.stdout.readline() == "open\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) >= 2
    parent.send_signal(number)
    parent.wait(10)
    parent.stdout.close()
    assert psutil.wait_procs(children, timeout=5)[1] == []


def test_a_script_that_opens_engines_wherever_it_is_read_is_told_what_to_write(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from specreason_graph import open_pair\n"
        'with open_pair("abacus-draft", "abacus-draft", kind="vllm"):\n    print("open")\n'
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode != 0
    assert 'put what the script does under `if __name__ == "__main__":`' in run.stderr
    assert "open\n" not in run.stdout


def test_every_error_of_vllm_has_a_name_here() -> None:
    from vllm import exceptions
    from vllm.v1.engine import exceptions as engine_exceptions

    from specreason_graph.engines.vllm.requests import translated

    classes = {
        value
        for module in (exceptions, engine_exceptions)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert len(classes) > 10
    for each in classes:
        error = each.__new__(each)
        Exception.__init__(error, "cause")
        error.__dict__.update(parameter=None, value=None, message="cause")
        found = translated(error, "m", may_restart=True)
        again = exceptions.VLLMServerError, exceptions.QueueOverflowError, exceptions.MaxQueuedTokensError
        assert found.retryable is issubclass(each, again)
        assert isinstance(found, EngineRequestError) is (
            issubclass(each, exceptions.VLLMClientError | exceptions.GracefulHTTPError) and not issubclass(each, again)
        )
    assert not translated(engine_exceptions.EngineDeadError(), "m", may_restart=False).retryable


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"base": "/no/such/model"}, ModelError, "model '/no/such/model' is not a folder"),
        ({"base_options": {"tensor_parallel": 2}}, ConfigError, "needs 2 devices, and vLLM sees 1"),
        ({"base_options": {"kv_bytes": 10**15}}, ConfigError, "the pair does not fit"),
        ({"base_options": {"kv_byte": 1}}, ConfigError, "unknown engine option 'kv_byte'; known options: .*kv_bytes"),
        ({"base_options": {"threads": 0}}, ConfigError, "engine option threads = 0 is not allowed"),
        ({"draft_options": {"quantization": "none9"}}, ModelError, "vLLM cannot start 'abacus-draft'.*none9"),
        ({"draft_options": {"arguments": {"dtype": "half"}}}, ConfigError, "dtype is set by the option dtype"),
    ],
)
def test_bad_input_is_one_line(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with (
        pytest.raises(error, match=message) as caught,
        open_pair(**{"base": "abacus-base", "draft": "abacus-draft", "kind": "vllm", **settings}),
    ):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # as an error inside zmq's destructor it would end that half-way
def test_a_pair_that_is_opened_and_closed_leaves_nothing_behind() -> None:
    first, *later = measure_starts(lambda: open_pair("abacus-base", "abacus-draft", kind="vllm"), 3)
    for cycle in later:
        assert cycle.processes <= first.processes
        assert cycle.handles <= first.handles
        assert cycle.threads <= first.threads
        assert cycle.megabytes < first.megabytes + 20
