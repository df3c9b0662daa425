"""``specreason solve -f FILE.jsonl``: results as JSON lines, and the progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import typer

from specreason_graph.cli.documents import BatchDocument, BatchLine, batch_document, told
from specreason_graph.cli.loading import opened
from specreason_graph.cli.terminal import clear_line, echo, echo_json, to_json
from specreason_graph.engines import EnginePair
from specreason_graph.errors import QuestionError, UsageError
from specreason_graph.files import is_stream, open_lines, write_errors
from specreason_graph.runs.batch import QuestionKeys, Result, answer_all, read_questions
from specreason_graph.runs.launch import Launch


def answer_file(
    file: Path,
    launch: Launch,
    database: Path,
    output: Path | None,
    *,
    concurrency: int,
    as_json: bool,
    kept: tuple[Path, ...] = (),
    keys: QuestionKeys = QuestionKeys(),  # noqa: B008 - it is frozen
) -> None:
    """Answer all questions of a file; exit with code 1 when one has failed.

    ``keys``: where question and id are in a line. ``output`` is none of the other files: the questions, the database,
    and what is in ``kept``.
    """
    try:
        questions = read_questions(file, launch, keys)
    except RecursionError:
        raise QuestionError(f"a line of {file} is nested too deeply", hint='write {"question": "..."}') from None
    with _opened(output, (file, database, *kept)) as out, ProgressBar(len(questions)) as progress:

        def report(result: Result) -> None:
            progress.make_room()
            line = told(_whole(result) if as_json else _short(result))
            if out is None or output is None:
                echo_json(line)
            else:
                with write_errors(output):
                    # Results of an earlier command are kept until there are new ones; a pipe cannot be truncated.
                    if not progress.counted and not is_stream(output):
                        out.truncate(0)
                    out.write(to_json(line) + "\n")
                    out.flush()  # a killed command keeps the lines of all finished runs
            progress.count(failed=result.error is not None)

        answer_all(questions, database, report, concurrency, opened=progress.opened)
    if progress.failed:
        raise typer.Exit(1)


def _whole(result: Result) -> BatchDocument | BatchLine:
    """Return the document that ``solve --json`` prints, with the question's id; short for a run that never began."""
    if "manifest" not in result.values:
        return _short(result)
    found = batch_document(result.asked.id, result.asked.thread, result.values)
    return found.model_copy(update=result.end) if result.error else found


def _short(result: Result) -> BatchLine:
    """Return a result in short, with what the run took in both engines."""
    totals = result.summary
    return BatchLine(
        id=result.asked.id, thread=result.asked.thread, question=result.asked.launch.question, **result.end,
        step_count=totals.steps, acceptance=totals.acceptance, token_count=totals.work.generated_tokens,
        seconds=totals.seconds,
    )  # fmt: skip


@contextmanager
def _opened(output: Path | None, kept: tuple[Path, ...]) -> Iterator[TextIO | None]:
    """Open the file for the results; None stands for standard output."""
    if output is None:
        yield None
        return
    with open_lines(output, kept) as opened:
        yield opened


class ProgressBar:
    """A progress bar on standard error if that is a terminal, and a summary line at the end in any case."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.failed = total, 0, 0
        self._bar = typer.progressbar(
            range(total), label="questions", show_pos=True, item_show_func=lambda _: f"{self.failed} failed",
            file=sys.stderr, hidden=not sys.stderr.isatty(),
        )  # fmt: skip

    def __enter__(self) -> ProgressBar:
        self._bar.render_progress()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self._bar.render_finish()
        if kind and issubclass(kind, UsageError):  # bad input: no question was asked
            return
        again = "; run the same command again for the rest" if self.done < self.total else ""
        echo(f"{self.done} done, {self.failed} failed, {self.total} in all{again}", err=True)

    @property
    def counted(self) -> int:
        """Number of questions that are done or have failed."""
        return self.done + self.failed

    @contextmanager
    def opened(self, launch: Launch) -> Iterator[EnginePair]:
        """The pair of a launch; while it loads that is shown in the place of the bar."""
        self.make_room()
        with opened(launch, interrupted="run the same command again") as pair:
            self._bar.render_progress()
            yield pair

    def make_room(self) -> None:
        """Clear the bar before a line is printed on standard output, which may be the same terminal."""
        if not self._bar.hidden:
            clear_line()

    def count(self, *, failed: bool) -> None:
        """Count a question that is done or has failed."""
        self.done += not failed
        self.failed += failed
        self._bar.update(1)
