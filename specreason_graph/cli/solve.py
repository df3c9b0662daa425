"""``specreason solve`` and ``specreason resume``."""

from __future__ import annotations

import os
import random
import sqlite3
from pathlib import Path
from typing import Annotated

import typer

from specreason_graph.audit.ask.advice import advise
from specreason_graph.audit.read.reader import find_recorded
from specreason_graph.audit.read.saver import ReadOnly, open_database
from specreason_graph.cli import options
from specreason_graph.cli.batch import answer_file
from specreason_graph.cli.documents import recorded, run_document, say
from specreason_graph.cli.interrupt import database_option, how_to_go_on, on_interrupt, resume_command
from specreason_graph.cli.loading import StepsSoFar, opened, shown
from specreason_graph.cli.screen_view import make_view
from specreason_graph.cli.terminal import echo, echo_text
from specreason_graph.config import ANSWER_TOKENS
from specreason_graph.errors import EngineError, QuestionError, RecordError, SpecReasonError, ThreadError, UsageError
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.record.events import Finished
from specreason_graph.record.manifest import Manifest
from specreason_graph.record.summary import summarise
from specreason_graph.runs.base_alone import BaseAlone, answer_alone
from specreason_graph.runs.batch import DEFAULT_CONCURRENCY, QuestionKeys
from specreason_graph.runs.launch import Launch
from specreason_graph.runs.resume import Run
from specreason_graph.runs.store import RunStore, default_database, new_thread, read_launch


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
        options.setting_option(
            setting="threshold", text="Number from which a proposal is accepted.",
            default="the judge's own: 7 of 0 to 9 for the digit",
        ),
    ] = None,
    judge: options.JudgeOption = None,
    seed: Annotated[str | None, options.setting_option(setting="seed", text="Seed of all sampling.")] = None,
    temperature: Annotated[
        str | None, options.setting_option(setting="temperature", text="Sampling temperature; 0 is greedy.")
    ] = None,
    top_p: Annotated[
        str | None,
        options.setting_option(setting="top_p", text="Nucleus sampling: probability mass to keep, up to 1."),
    ] = None,
    first_steps_by_base: Annotated[
        str | None,
        options.setting_option(setting="first_steps_by_base", text="Steps at the start that the base model writes."),
    ] = None,
    max_steps: Annotated[str | None, options.setting_option(setting="max_steps", text="Most steps of a run.")] = None,
    thinking_tokens: Annotated[
        str | None, options.setting_option(setting="thinking_tokens", text="Most tokens of the thinking.")
    ] = None,
    answer_tokens: Annotated[
        str | None,
        options.setting_option(
            setting="answer_tokens", text="Most tokens of the answer.", default=f"{ANSWER_TOKENS} behind a thinking"
        ),
    ] = None,
    deadline_seconds: Annotated[
        str | None,
        options.setting_option(
            "--deadline", setting="deadline_seconds", text="Seconds within which the answer must be there.",
            default="no deadline",
        ),
    ] = None,
    lookahead: Annotated[
        str | None,
        options.setting_option(
            setting="lookahead", text="Steps to draft ahead of the score.", default="by acceptance and load"
        ),
    ] = None,
    proposals: Annotated[
        str | None,
        options.setting_option(setting="proposals", text="Versions that the draft writes of a step; the best is used."),
    ] = None,
    speculation_control: Annotated[
        bool,
        typer.Option(
            "--speculation-control", help="Let the base model write all steps while drafting does not pay.",
            show_default="from eight at once on", rich_help_panel=options.SETTINGS,
        ),
    ] = False,
    no_speculation_control: Annotated[
        bool,
        typer.Option(
            "--no-speculation-control", help="Ask the draft in any case.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = False,
    more: options.SetOption = None,
    config: options.ConfigOption = None,
    with_base: Annotated[
        bool,
        typer.Option(
            "--with-base", help="Let the base model answer by itself as well, and say what speculation brought.",
        ),
    ] = False,
    db: options.DatabaseOption = None,
    no_keep: Annotated[
        bool,
        typer.Option(
            "--no-keep", help="Keep nothing: the run cannot be resumed or audited.", rich_help_panel=options.KEEPING
        ),
    ] = False,
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1, help="Questions at the same time.", show_default=str(DEFAULT_CONCURRENCY),
            rich_help_panel=options.BATCH,
        ),
    ] = None,
    output: Annotated[
        Path | None, options.path_option("-o", "--output", text="File for the results.", part=options.BATCH)
    ] = None,
    question_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="Key of the question in a line.", show_default="question",
            rich_help_panel=options.BATCH,
        ),
    ] = None,
    id_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="Key of a line's id; lines without one are numbered.", show_default="id",
            rich_help_panel=options.BATCH,
        ),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:  # fmt: skip
    """Think about a question step by step and answer it, or answer many questions from a .jsonl file."""
    # Numbers arrive as text and go through make_config like all settings, so that their errors read the same.
    settings = {
        "threshold": threshold, "seed": seed, "temperature": temperature, "top_p": top_p,
        "first_steps_by_base": first_steps_by_base, "max_steps": max_steps,
        "thinking_tokens": thinking_tokens, "answer_tokens": answer_tokens, "deadline_seconds": deadline_seconds,
        "lookahead": lookahead, "proposals": proposals,
        "speculation_control": _one_of(speculation_control, no_speculation_control),
        **options.with_judge(judge, options.parse_settings(more)),
    }  # fmt: skip
    if example and (question or file):
        raise QuestionError("--example and a question are given", hint="give one of them")
    if file and file.suffix == ".jsonl" and question is None:
        if no_keep:
            raise UsageError("--no-keep is for one question: many are kept until all are answered", hint="leave it out")
        if with_base:
            raise UsageError("--with-base is for one question", hint="measure many with `specreason bench run`")
        launch, limit = models.launch("", config, settings), concurrency or DEFAULT_CONCURRENCY
        answer_file(
            file, launch, db or default_database(), output, concurrency=limit, as_json=as_json,
            kept=(config,) if config else (), keys=QuestionKeys(question_key or "question", id_key or "id"),
        )  # fmt: skip
        return
    if concurrency or output or question_key or id_key:
        raise QuestionError(
            "--concurrency, --output, --question-key and --id-key are for many questions", hint="give -f FILE.jsonl"
        )
    if no_keep and db and not os.environ.get(options.DATABASE_VARIABLE):
        raise UsageError("--no-keep and --db are given", hint="give one of them")
    asked = random.choice(held_out()).question if example else options.read_question(question, file)
    launch = models.launch(asked, config, settings)
    launch.check_unattended()  # before the models are loaded
    place, thread = None if no_keep else db or default_database(), new_thread()
    with on_interrupt(lambda: how_to_go_on(place, thread)), RunStore.open(place) as store, opened(launch) as pair:
        run = Run.start(store, launch, pair, thread)
        work(run, launch, as_json=as_json, show_question=example, file=place, with_base=with_base)


def _one_of(wanted: bool, unwanted: bool) -> bool | None:  # noqa: FBT001 - two flags
    """What a flag and its opposite say; None where neither is given."""
    if wanted and unwanted:
        raise UsageError("--speculation-control and --no-speculation-control are given", hint="give one of them")
    return wanted if wanted or unwanted else None


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
    go_on = f"go on with: {resume_command(file, thread)}"
    with on_interrupt(go_on), RunStore.open(file) as store:
        launch = models.over(store.launch(thread))
        with opened(launch, interrupted=go_on) as pair:
            run = Run(store, thread, pair, accept_changes=accept_changes)
            work(run, launch, as_json=as_json, show_question=True, file=file)


def _check_kept(file: Path, thread: str) -> None:
    """Raise `ThreadError` where a file does not hold a run, or not as it was written, and leave the file as it is."""
    hint = f"check the thread id and --db; `specreason runs list{database_option(file)}` shows what is kept"
    if not file.exists():
        where = "check --db; `specreason runs list` shows what is kept where `solve` keeps runs"
        raise ThreadError(f"no run {thread!r} in this database: there is no file {file}", hint=where)
    if not file.is_file():  # SQLite would wait at a pipe
        raise ThreadError(f"no run {thread!r} in {file}: it is no file", hint=hint)
    try:
        read_launch(file, thread)
    except RecordError:
        raise
    except (sqlite3.Error, OSError, ThreadError) as error:
        _check_not_anothers(file, thread)
        if isinstance(error, ThreadError) or "no such table" in str(error):
            raise ThreadError(f"no run {thread!r} in {file}", hint=hint) from None
        raise ThreadError(f"no run {thread!r} can be read from {file}: {error}", hint=hint) from None


def _check_not_anothers(file: Path, thread: str) -> None:
    """Raise `ThreadError` where the thread is that of another graph, which nothing but that graph can go on with."""
    try:
        with open_database(str(file)) as saver:
            checkpoints = any(True for _ in ReadOnly(saver).checkpoints(thread))
            runs = find_recorded(saver, thread) if checkpoints else []
    except SpecReasonError:
        return
    if runs:
        where = f"in its node {runs[0].namespace}" if runs[0].namespace else "at its root"
        raise ThreadError(
            f"thread {thread!r} is of a graph of your own, with a run {where}: only that graph can go on with it",
            hint=f"invoke it with None and thread_id {thread!r}; "
            f"`specreason audit show {thread}{database_option(file)}` shows the run",
        )
    if checkpoints:
        raise ThreadError(
            f"thread {thread!r} is of another graph, without a run of specreason", hint="check the thread id and --db"
        )


def work(
    run: Run, launch: Launch, *, as_json: bool, show_question: bool, file: Path | None, with_base: bool = False
) -> None:
    """Advance a run to its end and show it; when an engine fails, the run can be resumed.

    ``file``: where it is kept; None where it is not. ``with_base``: whether the base is measured by itself behind it;
    a failure of that one is told as its own, since the run has ended.
    """
    try:
        with on_interrupt(lambda: how_to_go_on(file, run.thread)):
            if as_json:
                _advance_quietly(run, file)
            else:
                _show(run, launch, file, show_question=show_question)
    except EngineError as error:
        if as_json and "manifest" in run.values:  # with --json, standard output is one document also after a failure
            say(run_document(run.thread, run.values).model_copy(update={"stop_reason": "engine_error"}))
        if file:
            later = f"resume it later with: {resume_command(file, run.thread)}"
            error.hint = f"{error.hint}; {later}" if error.hint else later
        raise
    document = run_document(run.thread, run.values) if as_json else None
    alone = None
    try:
        alone = _base_alone(run, launch) if with_base else None
    except EngineError as error:
        error.hint = "the run has ended and stands; only the base alone was not measured"
        raise
    finally:
        if document:
            say(document.model_copy(update={"base_alone": alone}))
        elif alone:
            echo(f"  {alone.sentence}")


def _base_alone(run: Run, launch: Launch) -> BaseAlone | None:
    return answer_alone(launch, run.pair, summarise(run.steps, run.answer), run.answer.text) if run.answer else None


def _advance_quietly(run: Run, file: Path | None) -> None:
    echo(f"thread {run.thread}", err=True)  # known from the start, so that a run that dies can be resumed
    echo(where_kept(file), err=True)
    with shown(progress := StepsSoFar(len(run.steps))):
        for step in run.advance():
            progress.steps = step.index + 1


def _show(run: Run, launch: Launch, file: Path | None, *, show_question: bool) -> None:
    echo(f"thread {run.thread}   base {launch.base}   draft {launch.draft}")
    echo(where_kept(file))
    echo()
    if show_question:
        echo_text(f"{launch.question}\n")
    view, was_finished = make_view(), run.answer is not None
    if run.values.get("manifest"):  # of a run that is resumed
        view.head(Manifest.load(run.values["manifest"]).thinking)
    for step in run.steps:
        view.step(step)
    with view.working():
        for event in run.events(stream=view.streams):
            if isinstance(event, Finished):
                view.answer(event.answer)
            else:
                view.show(event)
    if run.answer:
        if was_finished:  # it emitted no events
            view.answer(run.answer)
        advice = advise(recorded(run.thread, run.values))
        view.closing(run.answer, run.values["stop_reason"], summarise(run.steps, run.answer), advice)


def where_kept(file: Path | None) -> str:
    """Where a run is kept, for people."""
    if file is None:
        return "not kept"
    home = Path.home()
    return f"kept in {Path('~', file.relative_to(home)) if file.is_relative_to(home) else file}"
