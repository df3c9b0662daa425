"""``specreason tune``: settings for a pair and questions of the caller's own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specreason_graph.audit.show.labels import duration
from specreason_graph.cli import options
from specreason_graph.cli.bench.progress import reporting
from specreason_graph.cli.bench.run import check_libraries
from specreason_graph.cli.documents import say
from specreason_graph.cli.terminal import echo, echo_text
from specreason_graph.config import WORKING_FILE, SpecReasonConfig
from specreason_graph.errors import ConfigError
from specreason_graph.files import write_file
from specreason_graph.runs.launch import Launch

if TYPE_CHECKING:
    from specreason_graph.tuning.tune import Tuned, Tuning

LIBRARIES = ("numpy", "pebble", "rich", "scipy", "sklearn", "tomli_w", "vl_convert")
"""What the extra ``tune`` brings."""


@options.takes_models
def tune(
    models: options.ModelOptions,
    task: options.TaskArgument,
    questions: Annotated[int, typer.Option(min=2, help="The first so many questions are the sample.")] = 40,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions at the same time, as you will run them.")] = 1,
    risk: Annotated[
        float, typer.Option(help="Share of the base's right answers that may be lost, between 0 and 1.")
    ] = 0.1,
    confidence: Annotated[float, typer.Option(help="Confidence that no more are lost, between 0 and 1.")] = 0.9,
    question_key: options.QuestionKeyOption = None,
    answer_key: options.AnswerKeyOption = None,
    choices_key: options.ChoicesKeyOption = None,
    id_key: options.IdKeyOption = None,
    template: options.TemplateOption = None,
    grader: options.GraderOption = None,
    settings: options.SetOption = None,
    config: options.ConfigOption = None,
    write: Annotated[Path, options.path_option("--write", text="Where the settings go.")] = WORKING_FILE,
    output: Annotated[
        Path | None, options.path_option("-o", "--output", text="Folder for what is measured, which is gone on with.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Find the settings that pay on your questions, and write them to specreason.toml, or say to use the base alone.

    The same command, given again, goes on where the first one ended.
    """
    begun = time.monotonic()
    check_libraries("tune", LIBRARIES, extra="tune")
    from specreason_graph.bench.graders import default_grader, make_grader
    from specreason_graph.bench.tasks import read_task
    from specreason_graph.tuning.page import render_tuning
    from specreason_graph.tuning.settings_file import settings_text, write_settings
    from specreason_graph.tuning.tune import CHOSEN, Tuning

    for name, share in (("risk", risk), ("confidence", confidence)):
        if not 0 < share < 1:
            raise ConfigError(f"--{name} {share:g} is not allowed", hint="write a share between 0 and 1")
    whole = read_task(
        task, question_key=question_key, answer_key=answer_key, choices_key=choices_key, id_key=id_key,
        template=template,
    )  # fmt: skip
    given = options.parse_settings(settings)
    if taken := [name for name in CHOSEN if name in given]:
        raise ConfigError(f"{taken[0]} is chosen by tune", hint="leave --set of it out, or use bench run")
    launch = _unchosen(models.launch("", config, given), CHOSEN)
    asked, grader = whole.first(questions), grader or default_grader(whole)
    for note in asked.notes:
        echo(note, err=True)
    folder = output or Path(f"tune-{asked.name}")
    with make_grader(grader, asked) as graded:
        tuning = Tuning(
            task=asked, digest=whole.digest, grader=graded, grader_name=grader, launch=launch, folder=folder,
            concurrency=concurrency, alpha=risk, delta=1 - confidence, tell=_tell,
        )  # fmt: skip
        tuned = _tuned(tuning)
    text = settings_text(launch, tuned.choice, f"{tuned.questions} questions of {tuned.task}")
    kept = write_settings(write, text)
    page = folder / "tune.html"
    write_file(page, render_tuning(tuned, text))
    if as_json:
        say(tuned)
        return
    _show(tuned)
    if kept:
        echo(f"the file that was there is now {kept}")
    echo(f"settings in {write}, page in {page}; this command took {duration(time.monotonic() - begun)}")


def _unchosen(launch: Launch, chosen: tuple[str, ...]) -> Launch:
    """The launch with defaults for what is chosen, whatever an earlier tuning wrote."""
    defaults = SpecReasonConfig().model_dump(mode="json")
    return launch.model_copy(update={"settings": {**launch.settings, **{name: defaults[name] for name in chosen}}})


def _tell(line: str) -> None:
    echo(line, err=True)


def _tuned(tuning: Tuning) -> Tuned:
    """Collect, replay, run the few best, choose."""
    costs, solutions = tuning.collect()
    replays, chosen = tuning.replay(costs, solutions)
    for each in chosen:
        echo(f"to be run: {each.candidate.name}, by estimate {each.estimate.faster:.2f} times base alone", err=True)
    bench = tuning.bench(chosen)
    bench.check()
    results = tuning.results(bench)
    if chosen:
        with reporting(bench, results.results, lambda: None) as report:
            bench.measure(results, tuning.database, report)
    return tuning.conclude(costs, solutions, replays, chosen, results.results)


def _show(tuned: Tuned) -> None:
    from specreason_graph.tuning.page import bound_sentence

    echo(f"{tuned.choice.why}")
    if tuned.choice.chosen:
        echo(f"bound on lost answers: {bound_sentence(tuned.choice.chosen)}")
    echo("what would change it, by estimates:")
    for each in tuned.choice.would_change:
        echo_text(f"  {each}")
