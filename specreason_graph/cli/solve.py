"""``specreason solve`` and ``specreason resume``."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Annotated

import typer

from specreason_graph.audit.ask.advice import advise
from specreason_graph.cli import options
from specreason_graph.cli.batch import answer_file
from specreason_graph.cli.document import document, recorded
from specreason_graph.cli.live_view import LiveView
from specreason_graph.cli.terminal import echo, echo_json, echo_text
from specreason_graph.errors import EngineError, QuestionError, ThreadError
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.record.manifest import Manifest
from specreason_graph.record.summary import summarise
from specreason_graph.runs.batch import DEFAULT_CONCURRENCY
from specreason_graph.runs.launch import Launch
from specreason_graph.runs.resume import Run
from specreason_graph.runs.store import RunStore, default_database, read_launch


@options.takes_models
def solve(
    models: options.ModelOptions,
    question: Annotated[
        str | None, typer.Argument(help="The question; if not given, it is read from -f FILE or standard input.")
    ] = None,
    file: Annotated[
        Path | None,
        options.path_option(
            "-f", "--file", text="File with the question, or a .jsonl file with one question per line."
        ),
    ] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Use a random problem that the built-in models never saw.")
    ] = False,
    threshold: Annotated[
        str | None,
        typer.Option(metavar="NUMBER", help="Number from which a proposal is accepted; 0 to 9 for the digit."),
    ] = None,
    judge: options.JudgeOption = None,
    seed: Annotated[str | None, typer.Option(metavar="NUMBER", help="Seed of all sampling.")] = None,
    temperature: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Sampling temperature; 0 is greedy.")
    ] = None,
    top_p: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Nucleus sampling: probability mass to keep, up to 1.")
    ] = None,
    first_steps_by_base: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Steps at the start that the base model writes.")
    ] = None,
    max_steps: Annotated[str | None, typer.Option(metavar="NUMBER", help="Most steps of a run.")] = None,
    thinking_tokens: Annotated[str | None, typer.Option(metavar="NUMBER", help="Most tokens of the thinking.")] = None,
    answer_tokens: Annotated[str | None, typer.Option(metavar="NUMBER", help="Most tokens of the answer.")] = None,
    deadline_seconds: Annotated[
        str | None, typer.Option("--deadline", metavar="NUMBER", help="Seconds within which the answer must be there.")
    ] = None,
    lookahead: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER", help="Steps to draft ahead of the score; chosen by the acceptance if not given."
        ),
    ] = None,
    proposals: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Versions that the draft writes of a step; the best is used.")
    ] = None,
    speculation_control: Annotated[
        bool | None, typer.Option(help="Let the base model write all steps while drafting does not pay.")
    ] = None,
    more: options.SetOption = None,
    config: options.ConfigOption = None,
    db: options.DatabaseOption = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help=f"Questions of a .jsonl file at the same time; {DEFAULT_CONCURRENCY} if not given."),
    ] = None,
    output: Annotated[
        Path | None, options.path_option("-o", "--output", text="File for the results of a .jsonl file.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Think about a question step by step and answer it, or answer many questions from a .jsonl file."""
    # Numbers arrive as text and go through make_config like all settings, so that their errors read the same.
    settings = {
        "threshold": threshold, "seed": seed, "temperature": temperature, "top_p": top_p,
        "first_steps_by_base": first_steps_by_base, "max_steps": max_steps,
        "thinking_tokens": thinking_tokens, "answer_tokens": answer_tokens, "deadline_seconds": deadline_seconds,
        "lookahead": lookahead, "proposals": proposals, "speculation_control": speculation_control,
        **options.with_judge(judge, options.parse_settings(more)),
    }  # fmt: skip
    if example and (question or file):
        raise QuestionError("--example and a question are given", hint="give one of them")
    if file and file.suffix == ".jsonl" and question is None:
        launch, limit = models.launch("", config, settings), concurrency or DEFAULT_CONCURRENCY
        answer_file(
            file, launch, db or default_database(), output, concurrency=limit, as_json=as_json,
            kept=(config,) if config else (),
        )  # fmt: skip
        return
    if concurrency or output:
        raise QuestionError("--concurrency and --output are for many questions", hint="give -f FILE.jsonl")
    asked = random.choice(held_out()).question if example else options.read_question(question, file)
    launch = models.launch(asked, config, settings)
    launch.check_unattended()  # before the models are loaded
    with RunStore.open(db or default_database()) as store, launch.open_pair() as pair:
        work(Run.start(store, launch, pair), launch, as_json=as_json, show_question=example)


@options.takes_models
def resume(
    models: options.ModelOptions,
    thread: Annotated[str, typer.Argument(help="Thread id that `solve` printed.")],
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes", help="Go on with other models, prompts or engine options; the record says so."
        ),
    ] = False,
    db: options.DatabaseOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Resume a run that was interrupted or has failed, from its last committed step.

    The addresses of servers, and vLLM's own arguments, have to be named again: a record could hold those of others.
    """
    file = db or default_database()
    _check_kept(file, thread)  # before the file is opened, which would make one
    with RunStore.open(file) as store:
        launch = models.over(store.launch(thread))
        with launch.open_pair() as pair:
            run = Run(store, thread, pair, accept_changes=accept_changes)
            work(run, launch, as_json=as_json, show_question=True)


def _check_kept(file: Path, thread: str) -> None:
    """Raise `ThreadError` where a file does not hold a run, or not as it was written, and leave the file as it is."""
    hint = "check the thread id and --db"
    try:
        if not file.exists():
            raise ThreadError(f"no run {thread!r} in this database: there is no file {file}", hint=hint)
        read_launch(file, thread)
    except (sqlite3.Error, OSError) as error:
        raise ThreadError(f"no run {thread!r} can be read from {file}: {error}", hint=hint) from None


def work(run: Run, launch: Launch, *, as_json: bool, show_question: bool) -> None:
    """Advance a run to its end and show it; when an engine fails, the run can be resumed."""
    try:
        if as_json:
            _write_document(run)
        else:
            _show(run, launch, show_question=show_question)
    except EngineError as error:
        if as_json and "manifest" in run.values:  # with --json, standard output is one document also after a failure
            echo_json({**document(run.thread, run.values), "stop_reason": "engine_error"})
        error.hint = f"{error.hint}; " * bool(error.hint) + f"resume it later with: specreason resume {run.thread}"
        raise


def _write_document(run: Run) -> None:
    echo(f"thread {run.thread}", err=True)  # known from the start, so that a run that dies can be resumed
    for _ in run.advance():
        pass
    echo_json(document(run.thread, run.values))


def _show(run: Run, launch: Launch, *, show_question: bool) -> None:
    echo(f"thread {run.thread}   base {launch.base}   draft {launch.draft}")
    echo()
    if show_question:
        echo_text(f"{launch.question}\n")
    view = LiveView()
    if run.values.get("manifest"):  # of a run that is resumed
        view.head(Manifest.load(run.values["manifest"]).thinking)
    for step in run.steps:
        view.step(step)
    for event in run.events():
        view.show(event)
    if run.answer and not view.finished:  # the run was finished before, so that it emitted no events
        echo_text(f"\n{run.answer.text}\n")
        view.closing(run.answer, run.values["stop_reason"], summarise(run.steps, run.answer))
    for sentence in advice.sentences if (advice := advise(recorded(run.thread, run.values))) else ():
        echo(f"  {sentence}")
