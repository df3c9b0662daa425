"""``audit anchor``, and what ``audit verify`` does with an anchor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specreason_graph.audit.check.anchor import (
    Anchor,
    check_timestamp,
    make_anchor,
    read_anchor,
    timestamp_request,
)
from specreason_graph.audit.check.verify import check_whole, verify
from specreason_graph.audit.read.reader import read_all_runs, read_runs
from specreason_graph.audit.read.saver import open_database
from specreason_graph.cli.audit.locate import DatabaseOption, database_of
from specreason_graph.cli.documents import AnchoredFinding, AnchoredFindings, say
from specreason_graph.cli.options import path_option
from specreason_graph.cli.terminal import echo, echo_text, to_json
from specreason_graph.errors import UsageError
from specreason_graph.files import is_stream, write_file, written_beside


def anchor(
    thread: Annotated[str | None, typer.Argument(help="Thread id. Without it, all runs of the database.")] = None,
    output: Annotated[
        Path | None, path_option("-o", "--output", text="File to write; standard output if not given.")
    ] = None,
    request: Annotated[
        Path | None,
        path_option("--timestamp-request", text="Also write a request for a time stamp (RFC 3161) of that file."),
    ] = None,
    db: DatabaseOption = None,
) -> None:
    """Write the heads of runs to a file, to be kept outside the database."""
    where = database_of(db)
    with open_database(where) as saver:
        runs = read_all_runs(saver) if thread is None else read_runs(saver, thread)
    content = to_json(make_anchor([check_whole(run) for run in runs]).dump(), is_ascii=True, indent=1) + "\n"
    if request and output is None:
        raise UsageError("--timestamp-request is for a file", hint="name one with -o anchor.json")
    if output is None:
        echo_text(content, end="")
        return
    kept = () if "://" in where else (Path(where).expanduser(),)
    write_file(output, content, kept)
    echo(f"written to {output}", err=is_stream(output))
    if request:
        with written_beside(request, (*kept, output)) as place:
            place.write_bytes(timestamp_request(content.encode()))
        echo(f"request written to {request}; send it to a time stamping authority, and keep its answer")


def read_stamped(file: Path | None, timestamp: Path | None, root: Path | None) -> Anchor | None:
    """Read an anchor, and check the time stamp where one is given; None without a file."""
    if file is None:
        if timestamp or root:
            raise UsageError("--timestamp and --tsa-root are for an anchor", hint="name it with --anchor")
        return None
    content = _read(file)
    if bool(timestamp) != bool(root):
        raise UsageError("a time stamp is checked with the authority's root", hint="give --timestamp and --tsa-root")
    if timestamp and root:
        when = check_timestamp(content, _read(timestamp), _read(root))
        echo(f"{file} was stamped at {when.isoformat()}", err=True)
    return read_anchor(content, str(file))


def verify_anchored(anchor: Anchor | None, db: str | None, *, as_json: bool) -> int:
    """Verify all runs that an anchor names, and print a line for each; return the exit code."""
    assert anchor is not None  # noqa: S101 - the caller has checked it
    with open_database(database_of(db)) as saver:
        found = {(run.thread_id, run.namespace, run.run): run for run in read_all_runs(saver)}
    rows = []
    for each in anchor.runs:
        run = found.get((each.thread_id, each.namespace, each.run))
        problems = ["it is gone"] if run is None else [one.problem for one in verify(run, anchor=anchor).findings]
        rows.append(
            AnchoredFinding(
                thread=each.thread_id, namespace=each.namespace, run=each.run, ok=not problems, problems=problems
            )
        )  # fmt: skip
    if as_json:
        say(AnchoredFindings(rows))
    for row in () if as_json else rows:
        echo(f"{row.thread} run {row.run}: {'; '.join(row.problems) or 'as anchored'}")
    return 0 if all(row.ok for row in rows) else 1


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", hint="check the path") from None


COMMANDS = (anchor,)
