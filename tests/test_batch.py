"""Many questions at once: their lines, results as they come, and what is left of them when something goes wrong."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from specreason_graph import EnginePair, create_specreason
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.cli.app import run
from specreason_graph.cli.batch import answer_file
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import EngineError, QuestionError, UsageError
from specreason_graph.models.abacus.problems import held_out, parse_answer
from specreason_graph.runs.batch import Asked, Result, answer_all, read_questions
from specreason_graph.runs.find import read_values
from specreason_graph.runs.launch import Launch, make_launch
from specreason_graph.runs.lock import exclusive
from specreason_graph.runs.store import RunStore
from tests.support.commands import work_on
from tests.support.counting import Counting

PROBLEMS = sorted(held_out()[:40], key=lambda problem: len(problem.operations))
EASY, HARD = PROBLEMS[:3], PROBLEMS[-6:]
FAKE = Launch(question="", base="fake", draft="fake", settings={"lookahead": 0})


def think(prompt: str) -> str:
    """As many steps as the question says, then the answer."""
    if "</think>" in prompt:
        return "Done."
    wanted, written = int(re.findall(r"Think (\d+)", prompt)[0]), prompt.count("Step ")
    return f"Step {written}.\n\n" if written < wanted else "</think>"


class Thinking(Counting):
    """Thinks as many steps as it is asked to; ``at_call`` may do something at each of its calls."""

    def __init__(self, *, at_call: Callable[[str], Any] = lambda _: None, score: int = 9, **more: Any) -> None:
        super().__init__(think, lambda _: score, **{"delay": 0.005, **more})
        self.at_call = at_call


def use(monkeypatch: pytest.MonkeyPatch, engine: FakeEngine | None) -> None:
    """Have every launch work with ``engine`` in both roles."""
    monkeypatch.setattr(Launch, "open_pair", lambda _: EnginePair(engine, engine) if engine else None)


def written(folder: Path, *lines: Any) -> Path:
    """A file with the lines, as they are or as JSON."""
    file = folder / "questions.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return file


def thinking(folder: Path, *steps: int) -> list[Asked]:
    """Questions that take so many steps."""
    return read_questions(written(folder, *({"question": f"Think {count}"} for count in steps)), FAKE)


def answered(questions: list[Asked], database: Path, max_concurrency: int = 8) -> list[Result]:
    results: list[Result] = []
    answer_all(questions, database, results.append, max_concurrency)
    return results


def kept(database: Path, questions: list[Asked]) -> list[list[Any]]:
    with RunStore.open(database) as runs:
        return [values.get("trace", []) for values in read_values(runs.saver, (each.thread for each in questions))]


def test_results_come_in_the_order_they_are_finished(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, Thinking(delay=0.02))
    results = answered(thinking(tmp_path, 12, 8, 4, 1), tmp_path / "runs.sqlite")
    assert [result.asked.id for result in results] == [4, 3, 2, 1]
    assert [result.summary.steps for result in results] == [2, 5, 9, 13]
    assert {result.values["answer"] for result in results} == {"Done."}


def together(count: int) -> Callable[[str], Any]:
    """Calls that wait until so many of them are under way, and then no longer."""
    waiting, enough = [0], asyncio.Event()

    def wait(_: str) -> Any:
        waiting[0] += 1
        if waiting[0] >= count:
            enough.set()
        return asyncio.wait_for(enough.wait(), 10)

    return wait


@pytest.mark.parametrize("max_concurrency", [1, 3])
def test_so_many_at_once_and_never_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, max_concurrency: int) -> None:
    engine = Thinking(at_call=together(max_concurrency))
    use(monkeypatch, engine)
    results = answered(thinking(tmp_path, *[2] * 6), tmp_path / "runs.sqlite", max_concurrency)
    assert [result.error for result in results] == [None] * 6
    assert engine.most == max_concurrency


def test_abatch_is_the_same_in_python() -> None:
    engine = Thinking(at_call=together(3))
    with EnginePair(engine, engine) as pair:
        graph = create_specreason(pair, lookahead=0).compile()
        asked: list[Any] = [{"question": f"Think {count}"} for count in (3, 2, 1, 2, 3, 1)]
        outcomes = asyncio.run(graph.abatch(asked, config={"max_concurrency": 3}))
    assert [len(outcome["trace"]) for outcome in outcomes] == [4, 3, 2, 3, 4, 2]
    assert engine.most == 3


def test_what_is_finished_is_not_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engine, database = Thinking(), tmp_path / "runs.sqlite"
    use(monkeypatch, engine)
    first = answered(thinking(tmp_path, 3, 2), database)
    asked = len(engine.calls)
    use(monkeypatch, None)
    again = answered(thinking(tmp_path, 3, 2), database)
    assert len(engine.calls) == asked > 0
    assert sorted(result.asked.thread for result in again) == sorted(result.asked.thread for result in first)
    assert [result.summary.steps for result in again] == [4, 3]
    use(monkeypatch, engine)
    (_, more) = answered(thinking(tmp_path, 3, 5), database)
    assert more.summary.steps == 6
    assert all("Think 5" in engine.vocabulary.decode(call.prompt_ids) for call in engine.calls[asked:])


def test_a_failure_stops_nothing_else_and_goes_on_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, database = threading.Event(), tmp_path / "runs.sqlite"
    broken.set()

    def fail(prompt: str) -> None:
        if broken.is_set() and "Think 4" in prompt and "Step 2" in prompt:
            raise EngineError("the judge is ill", engine="fake")

    engine = Thinking(at_call=fail)
    use(monkeypatch, engine)
    questions = thinking(tmp_path, 2, 4, 3)
    arguments = ["solve", "-f", str(tmp_path / "questions.jsonl"), "--set", "lookahead=0", "--set", "seed=0"]
    arguments += ["--db", str(database), "--base", "fake", "--draft", "fake"]
    assert run(arguments) == 1
    output = capsys.readouterr()
    lines = {line["id"]: line for line in map(json.loads, output.out.splitlines())}
    assert [("error" in lines[number], lines[number].get("answer")) for number in (1, 2, 3)] == [
        (False, "Done."), (True, None), (False, "Done.")
    ]  # fmt: skip
    assert "the judge is ill" in lines[2]["error"]
    assert "2 done, 1 failed, 3 in all; run the same command again for the rest" in output.err
    before, asked = kept(database, questions), len(engine.calls)
    assert len(before[1]) == lines[2]["step_count"] > 0
    broken.clear()
    assert run([*arguments, "--json"]) == 0
    documents = {line["id"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert [len(documents[number]["steps"]) for number in (1, 2, 3)] == [3, 5, 4]
    assert documents[2]["steps"][: len(before[1])] == before[1]
    assert all(f"Step {len(before[1]) - 1}" in engine.vocabulary.decode(c.prompt_ids) for c in engine.calls[asked:])


def test_an_interrupt_says_that_it_can_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(prompt: str) -> None:
        if "Think 9" in prompt and "Step 5" in prompt:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    use(monkeypatch, Thinking(at_call=interrupt))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        questions, database = thinking(tmp_path, 1, 9, 9), tmp_path / "runs.sqlite"
        code = run(["solve", "-f", str(tmp_path / "questions.jsonl"), "--db", str(database), "--base", "fake",
                    "--draft", "fake", "--set", "lookahead=0"])  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    output = capsys.readouterr()
    assert code == 130
    assert "1 done, 0 failed, 3 in all; run the same command again for the rest" in output.err
    steps = [len(trace) for trace in kept(database, questions)]
    assert steps[0] == 2
    assert 0 < max(steps[1:]) < 10
    use(monkeypatch, Thinking())
    assert [result.summary.steps for result in answered(questions, database)] == [2, 10, 10]


def test_kill_and_go_on(abacus: EnginePair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    database = tmp_path / "runs.sqlite"
    file = written(tmp_path, *({"question": problem.question, "id": f"p{n}"} for n, problem in enumerate(HARD)))
    command = [sys.executable, "-m", "specreason_graph", "solve", "-f", str(file), "--concurrency", "4"]
    command += ["--seed", "3", "--set", "reproducible=true", "--db", str(database)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    first = json.loads(child.stdout.readline())
    child.kill()
    child.communicate()
    questions = read_questions(file, make_launch("", settings={"seed": 3, "reproducible": True}))
    before = kept(database, questions)
    with RunStore.open(database) as runs:
        done = [values.get("stop_reason") for values in read_values(runs.saver, [each.thread for each in questions])]
    assert first["thread"] in [each.thread for each, reason in zip(questions, done, strict=True) if reason]
    assert any(trace and not reason for trace, reason in zip(before, done, strict=True)), "nothing was half finished"
    work_on(abacus, monkeypatch)
    results = answered(questions, database)
    assert sorted(str(result.asked.id) for result in results) == [f"p{number}" for number in range(6)]
    after = kept(database, questions)
    assert [trace[: len(old)] for trace, old in zip(after, before, strict=True)] == before
    whole = {result.asked.thread: result for result in answered(questions, tmp_path / "whole.sqlite")}
    for result in results:
        assert tokens(result) == tokens(whole[result.asked.thread])
    with RunStore.open(database) as runs:
        assert all(verify(read_runs(runs.saver, each.thread)[0]).ok for each in questions)


def tokens(result: Result) -> Any:
    return [step["token_ids"] for step in result.values["trace"]], result.values["answer"]


def test_the_command_answers_into_a_file(here: Callable[..., Any], tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    file = written(tmp_path, *({"question": problem.question, "id": problem.answer} for problem in EASY))
    result = here("solve", "-f", str(file), "--temperature", "0", "--concurrency", "2", "--output", str(output))
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert result.stderr == "3 done, 0 failed, 3 in all\n"
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [parse_answer(line["answer"]) for line in lines] == [line["id"] for line in lines]
    assert list(lines[0]) == [
        "id", "thread", "question", "answer", "stop_reason", "step_count", "acceptance", "token_count", "seconds"
    ]  # fmt: skip
    shown = here("resume", lines[0]["thread"], "--json")
    assert json.loads(shown.stdout)["answer"] == lines[0]["answer"]


def test_a_published_data_set_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, Thinking())
    rows = ({"problem": f"Think {count}", "answer": "7", "level": count, "unique_id": f"p{count}"} for count in (1, 2))
    file, output = written(tmp_path, *rows), tmp_path / "answers.jsonl"
    keys = ["--question-key", "problem", "--id-key", "unique_id"]
    where = ["--db", str(tmp_path / "runs.sqlite"), "-o", str(output)]
    assert run(["solve", "-f", str(file), "--base", "fake", "--draft", "fake", *keys, *where]) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert sorted((line["id"], line["step_count"]) for line in lines) == [("p1", 2), ("p2", 3)]


def test_settings_of_a_line_are_put_over_those_of_the_command(tmp_path: Path) -> None:
    file = written(tmp_path, {"question": "a", "settings": {"seed": 7}}, "", {"question": " b ", "id": "x"})
    one, two = read_questions(file, Launch(question="", base="m", draft="d", settings={"seed": 3, "threshold": 5.0}))
    assert [(each.id, each.launch.question) for each in (one, two)] == [(1, "a"), ("x", " b ")]
    assert [each.launch.settings["seed"] for each in (one, two)] == [7, 3]
    assert [each.launch.settings["threshold"] for each in (one, two)] == [5.0, 5.0]


@pytest.mark.parametrize(
    ("line", "launch", "same"),
    [
        ({"question": "q", "id": "a"}, {}, True),
        ({"question": "q", "id": "a", "settings": {}}, {"device": "cpu", "base_url": "http://there"}, True),
        ({"question": "q.", "id": "a"}, {}, False),
        ({"question": "q", "id": "b"}, {}, False),
        ({"question": "q", "id": "a", "settings": {"seed": 1}}, {}, False),
        ({"question": "q", "id": "a"}, {"draft": "other"}, False),
    ],
)
def test_the_thread_is_made_of_id_text_models_and_settings(
    tmp_path: Path, line: Any, launch: Any, *, same: bool
) -> None:
    def thread(line: Any, **launch: Any) -> str:
        defaults = Launch(**{"question": "", "base": "m", "draft": "d", **launch})
        return read_questions(written(tmp_path, line), defaults)[0].thread

    assert (thread(line, **launch) == thread({"question": "q", "id": "a"})) is same


GOOD = '{"question": "q"}'
BAD = [
    ("{", "line 2: it is not JSON: "),
    ('["q"]', """line 2: '["q"]' is not allowed; write {"question": "..."}"""),
    ('{"qestion": "q"}', "line 2: unknown key 'qestion'; write 'question', or take it out"),
    ('{"question": "q", "setings": {}}', "line 2: unknown key 'setings'; write 'settings', or take it out"),
    ('{"id": 4}', "line 2: there is no 'question'"),
    (
        '{"problem": "q", "id": 4}',
        "line 2: there is no 'question'; name another key with --question-key; it has problem",
    ),
    ('{"question": 4}', "line 2: question = 4 is not allowed; write a text"),
    ('{"question": " "}', "line 2: question = ' ' is not allowed; write a text that is not empty"),
    ('{"question": "\\ud800"}', r"line 2: question = '\ud800' is not allowed"),
    ('{"question": "q", "id": true}', "line 2: id = True is not allowed; write a text or a whole number"),
    ('{"question": "q", "id": "1"}', "line 2: id '1' is that of "),
    ('{"question": "q", "settings": [1]}', "line 2: settings = [1] is not allowed"),
    ('{"question": "q", "settings": {"seed": -1}}', "line 2: seed = -1 is not allowed: input should be greater"),
    ('{"question": "q", "settings": {"sede": 1}}', "line 2: unknown setting 'sede'; known settings: judge, threshold"),
    (
        '{"question": "q", "settings": {"review": {"low": 3, "high": 7}}}',
        "line 2: review is set, and there is no human",
    ),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=lambda value: value[:30])
def test_bad_lines_are_named_before_anything_is_loaded(
    line: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, None)
    file = written(tmp_path, GOOD, line)
    code = run(["solve", "-f", str(file), "--base", "m", "--db", str(tmp_path / "runs.sqlite")])
    output = capsys.readouterr()
    assert (code, output.out) == (2, "")
    assert f"error: {file}, {message}" in output.err
    assert len(output.err.splitlines()) == 1
    assert not (tmp_path / "runs.sqlite").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-f", "missing.jsonl"], "cannot read the questions from missing.jsonl: No such file"),
        (["-f", "empty.jsonl"], "empty.jsonl holds no question"),
        (["-f", "good.jsonl"], "good.jsonl, line 1: the built-in models only do"),
        (["-f", "good.jsonl", "--base", "m", "-o", "good.jsonl"], "good.jsonl would be overwritten"),
        (["-f", "good.jsonl", "--base", "m", "-o", "no/where"], "cannot write no/where: No such file"),
        (["-f", "good.jsonl", "--concurrency", "0"], "'--concurrency': Input should be greater than or equal to 1"),
        (["-f", "good.jsonl", "q"], "a question and a file are given"),
        (["-o", "here", "q"], "--id-key are for many questions; give -f FILE.jsonl"),
    ],
)
def test_bad_use_of_the_command(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    use(monkeypatch, None)
    Path("good.jsonl").write_text(GOOD)
    Path("empty.jsonl").write_text("\n\n")
    assert run(["solve", *arguments, "--db", "runs.sqlite"]) == 2
    assert message in capsys.readouterr().err
    assert Path("good.jsonl").read_text() == GOOD


def test_a_question_that_does_not_fit_is_named_before_any_is_begun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = Thinking(context=300)
    use(monkeypatch, engine)
    questions = read_questions(written(tmp_path, {"question": "Think 1"}, {"question": "Think 1 " * 50}), FAKE)
    with pytest.raises(QuestionError, match=r"line 2: .*context of 300"):
        answered(questions, tmp_path / "runs.sqlite")
    assert engine.calls == []


def test_two_commands_do_not_write_the_same_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engine, database = Thinking(), tmp_path / "runs.sqlite"
    use(monkeypatch, engine)
    questions = thinking(tmp_path, 1)
    with exclusive(database), pytest.raises(UsageError, match=r"another command is answering .* --db"):
        answered(questions, database)
    assert engine.calls == []
    assert len(answered(questions, database)) == 1


def test_results_of_before_stay_until_there_are_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, Thinking())
    output, database = tmp_path / "answers.jsonl", tmp_path / "runs.sqlite"
    output.write_text("of before\n")
    file = written(tmp_path, {"question": "Think 1"}, {"question": "Think 2"})
    with exclusive(database), pytest.raises(UsageError, match="another command is answering"):
        answer_file(file, FAKE, database, output, concurrency=1, as_json=False)
    assert output.read_text() == "of before\n"
    for _ in range(2):
        answer_file(file, FAKE, database, output, concurrency=1, as_json=False)
        assert [json.loads(line)["id"] for line in output.read_text().splitlines()] == [1, 2]


def test_what_is_no_engines_failure_ends_the_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, Thinking())

    def full(_: Result) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        answer_all(thinking(tmp_path, 1, 1), tmp_path / "runs.sqlite", full)


def test_usage_errors_are_of_the_kind_they_were(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_questions(written(tmp_path, "{}"), FAKE)
    assert caught.value.hint == 'write {"question": "..."}'
