"""``specreason bench run``: strategies side by side on questions of the caller's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import find_recorded
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.read.saver import open_database
from specreason_graph.audit.show.report import render_run
from specreason_graph.cli import options
from specreason_graph.cli.bench.progress import reporting
from specreason_graph.cli.documents import say
from specreason_graph.cli.terminal import echo, echo_text, to_json
from specreason_graph.config import MODELS
from specreason_graph.errors import ConfigError
from specreason_graph.files import write_file

if TYPE_CHECKING:
    from specreason_graph.bench.figures import Figures
    from specreason_graph.bench.results import Results
    from specreason_graph.bench.run import Bench
    from specreason_graph.bench.strategies import Strategy

LIBRARIES = ("math_verify", "numpy", "pebble", "rich", "scipy", "vl_convert")
"""What the extra ``bench`` brings."""
ENGINE_PREFIXES = ("base.", "draft.")
"""How engine options of one model begin in a strategy on the command line, as they do behind ``--option``."""


@options.takes_models
def run(
    models: options.ModelOptions,
    task: options.TaskArgument,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[LABEL=]NAME[:SETTINGS]",
            help="What to measure besides base, draft and base-ngram, as in likelihood:judge.threshold=-8; repeatable.",
        ),
    ] = None,
    strategies: Annotated[
        Path | None, options.path_option("--strategies", text="TOML file with a table of settings per strategy.")
    ] = None,
    only: Annotated[
        bool, typer.Option("--only", help="Leave draft and base-ngram out, unless they are named.")
    ] = False,
    count: Annotated[int | None, typer.Option(min=1, help="The first so many questions; all if not given.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Runs of each strategy on each question.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all runs and of shuffled choices.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions at the same time.")] = 1,
    part: Annotated[
        int | None, typer.Option(min=1, help="Questions that a strategy gets in one turn; chosen if not given.")
    ] = None,
    question_key: options.QuestionKeyOption = None,
    answer_key: options.AnswerKeyOption = None,
    choices_key: options.ChoicesKeyOption = None,
    id_key: options.IdKeyOption = None,
    template: options.TemplateOption = None,
    grader: options.GraderOption = None,
    settings: options.SetOption = None,
    config: options.ConfigOption = None,
    db: Annotated[Path | None, options.path_option("--db", text="SQLite file that keeps the runs.")] = None,
    output: Annotated[
        Path | None,
        options.path_option("-o", "--output", text="JSONL file for the results, which is gone on with."),
    ] = None,
    markdown: Annotated[Path | None, options.path_option("--markdown", text="File for the table.")] = None,
    page: Annotated[
        Path | None, options.path_option("--page", text="HTML file for charts, tables and the questions that differ.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Measure strategies side by side: right answers, time against the base alone, tokens and engine seconds.

    The same command, given again, goes on where the first one ended, and so does one with more strategies or questions.
    """
    check_libraries("bench run")
    from specreason_graph.bench.figures import compute
    from specreason_graph.bench.graders import default_grader, make_grader
    from specreason_graph.bench.markdown import markdown as render
    from specreason_graph.bench.results import ResultsFile
    from specreason_graph.bench.run import Bench
    from specreason_graph.bench.strategies import read_strategies, with_always
    from specreason_graph.bench.tasks import read_task

    asked = read_task(
        task, question_key=question_key, answer_key=answer_key, choices_key=choices_key, id_key=id_key,
        template=template, seed=seed,
    ).first(count)  # fmt: skip
    launch = models.launch("", config, options.parse_settings(settings))
    named = [*map(parse_strategy, strategy or ()), *(read_strategies(strategies) if strategies else ())]
    chosen = with_always(named or [parse_strategy("loop")], only=only)
    output = output or Path(f"bench-{asked.name}.jsonl")
    database = db or output.with_suffix(".sqlite")
    grader = grader or default_grader(asked)
    with make_grader(grader, asked) as graded:
        bench = Bench(
            task=asked, grader=graded, grader_name=grader, launch=launch, strategies=chosen, samples=samples, seed=seed,
            concurrency=concurrency, part=part,
        )  # fmt: skip
        bench.check()
        results = ResultsFile.open(output, bench.header, (database, Path(task)))
        for line in plan(bench, results.results, output, database):
            echo(line, err=True)

        def write_table() -> None:
            if markdown:
                write_file(markdown, render(results.results, compute(results.results)), (output, database, Path(task)))

        with reporting(bench, results.results, write_table) as report:
            bench.measure(results, database, report)
    figures = compute(results.results)
    write_table()
    if page:
        write_page(page, results.results, figures, database, (output, Path(task)))
        echo(f"page written to {page}", err=True)
    if as_json:
        say(figures)
    else:
        echo_text(render(results.results, figures))


def write_page(page: Path, results: Results, figures: Figures, database: Path, kept: tuple[Path, ...]) -> None:
    """Write the page, and beside it the reports of the runs whose questions differ."""
    from specreason_graph.bench.page import MOST, differing, render_page

    folder = page.with_suffix(".reports")
    with open_database(str(database)) as saver:

        def read(thread: str) -> RecordedRun | None:
            return next((run for run in find_recorded(saver, thread) if run.finished), None)

        reports = {}
        for each in differing(results, figures)[:MOST]:
            for thread in (run.thread for run in each.runs if run and not run.error):
                if recorded := read(thread):
                    write_file(folder / f"{thread}.html", render_run(recorded, verify(recorded)), (database, *kept))
                    reports[thread] = f"{quote(folder.name)}/{thread}.html"
        write_file(page, render_page(results, figures, read, reports), (database, *kept))


def check_libraries(command: str, libraries: Sequence[str] = LIBRARIES, *, extra: str = "bench") -> None:
    """Raise `ConfigError` where libraries of an extra are missing that a command needs."""
    if missing := [name for name in libraries if not find_spec(name)]:
        raise ConfigError(f"{command} needs {missing[0]}", hint=f"pip install 'specreason-graph[{extra}]'")


def parse_strategy(text: str) -> Strategy:
    """Read ``[LABEL=]NAME[:NAME=VALUE,...]``."""
    from specreason_graph.bench.strategies import make_strategy

    first, _, rest = text.partition(":")
    label, _, name = first.rpartition("=")
    settings, engine_texts, engine_options = [], {}, []
    for pair in split(rest):
        key, _, value = pair.partition("=")
        if key in MODELS:
            engine_texts[key] = value
        elif key.startswith(ENGINE_PREFIXES) and not key.partition(".")[2].startswith("template."):
            engine_options.append(pair)
        else:
            settings.append(pair)
    tables = {name: table for name, table in options.parse_engine_options(engine_options).items() if table}
    return make_strategy(name, options.parse_settings(settings), {**engine_texts, **tables}, label=label)


def split(text: str) -> list[str]:
    """Split at commas that are in no brackets and no quotation marks."""
    found, depth, quoted = [""], 0, False
    for char in text:
        quoted ^= char == '"'
        depth += 0 if quoted else (char in "[{(") - (char in "]})")
        if char == "," and not depth and not quoted:
            found.append("")
        else:
            found[-1] += char
    return [each.strip() for each in found if each.strip()]


def plan(bench: Bench, results: Results, output: Path, database: Path) -> Iterator[str]:
    """What is going to be done, in lines for people."""
    questions, launch = len(bench.task.questions), bench.launch
    all_runs = questions * bench.samples * len(bench.strategies)
    done = sum(
        results.is_done((each.name, asked.id, sample))
        for each in bench.strategies
        for asked in bench.task.questions
        for sample in range(bench.samples)
    )
    yield f"{bench.task.name}: {questions} questions, {bench.samples} each, grader {bench.grader_name}"
    yield from bench.task.notes
    yield f"base {launch.base}, draft {launch.draft}, engine {launch.engine}, {bench.concurrency} at once"
    for each in bench.strategies:
        own = {**each.settings, **each.engines, **({"alone": each.alone} if each.alone else {})}
        yield f"  {each.name}: {to_json(own) if own else 'the shared settings'}"
    yield f"by turns of {bench.part_size} questions, with empty prefix caches; {all_runs} runs, {done} are there"
    yield f"results in {output}, runs in {database}; the same command goes on where it was interrupted"
