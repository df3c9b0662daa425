"""``python -m benchmarks``: measure what this package costs on this machine, besides its engines."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.calls import measure_calls
from benchmarks.deadlines import measure_punctuality
from benchmarks.judges import collect, table
from benchmarks.overhead import SAVERS, measure_overhead, overhead_lines
from benchmarks.starts import measure_starts
from specreason_graph.bench.hardware import processor
from specreason_graph.bench.judged_steps import compare
from specreason_graph.cli import options
from specreason_graph.cli.diagnosis import QUESTION
from specreason_graph.engines import cores
from specreason_graph.models.abacus.problems import held_out

app = typer.Typer(help="Measure this package on this machine.", no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def overhead(
    steps: Annotated[list[int] | None, typer.Option(min=3, help="Steps of a run; repeatable.")] = None,
    db: Annotated[str | None, typer.Option(help="PostgreSQL database to measure, as postgresql://... .")] = None,
) -> None:
    """Measure what a step costs besides the engines, in memory and on SQLite, for runs of several lengths."""
    savers = [db] if db else SAVERS
    rows = [measure_overhead(count, saver) for saver in savers for count in sorted(steps or [200, 1000, 5000])]
    print(f"{processor()}, {cores()} cores; scripted engines that take no time; durability sync")
    print(*overhead_lines(rows), sep="\n")


@app.command()
@options.takes_models
def calls(models: options.ModelOptions, count: Annotated[int, typer.Option(min=10)] = 200) -> None:
    """Measure what this package adds to the time of a one-token call; for the engines vllm and server."""
    with models.launch("").open_pair() as pair:
        for role, asked in (("base", pair.base), ("draft", pair.draft)):
            found = pair.run(partial(measure_calls, asked, asked.vocabulary.encode(QUESTION), count))
            print(f"{role:5} {found.ours:.2f} ms a call, {found.bare:.2f} bare, {found.more:+.2f} ms more (medians)")


@app.command()
@options.takes_models
def starts(models: options.ModelOptions, cycles: Annotated[int, typer.Option(min=1)] = 3) -> None:
    """Measure how long a pair takes to open and close, and what that leaves behind in this process."""
    for number, found in enumerate(measure_starts(models.launch("").open_pair, cycles), 1):
        print(
            f"{number:3} opened in {found.opening:.1f} s, closed in {found.closing:.1f} s; left: {found.processes} "
            f"processes, {found.handles} files, {found.threads} threads, {found.megabytes:.0f} MB"
        )


@app.command()
@options.takes_models
def deadlines(
    models: options.ModelOptions,
    runs: Annotated[int, typer.Option(min=2, help="Number of runs that arrive.")] = 200,
    load: Annotated[float, typer.Option(min=0.01, help="Load: fraction of the pair's capacity.")] = 0.8,
) -> None:
    """Measure how many runs meet their deadlines when runs arrive at random."""
    with models.launch("").open_pair() as pair:
        found = measure_punctuality(pair, held_out()[:runs], load)
    kinds = ", ".join(f"{share:.0%}" for share in found.by_objective)
    print(
        f"{found.in_time:.1%} of {found.runs} in time ({kinds} by deadline, tightest first), "
        f"{found.answered:.1%} answered in time, slowest {found.slowest:.1f} s"
    )


@app.command()
@options.takes_models
def judges(
    models: options.ModelOptions,
    task: options.TaskArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the labelled steps; gone on with.")],
    questions: Annotated[int, typer.Option(min=2, help="The first so many questions.")] = 40,
    settings: options.SetOption = None,
) -> None:
    """Measure which judge tells draft steps that spoil the base's answer from others."""
    launch = models.launch("", settings=options.parse_settings(settings))
    found = collect(launch, task, questions, output)
    if not found:
        raise SystemExit("no step could be labelled: the base alone answers none of these questions right")
    harmful = sum(step.harmful for step in found)
    print(f"{len(found)} steps of {len({step.question for step in found})} questions, {harmful} harmful\n")
    print("\n".join(table(list(compare(found)))))


@app.command()
@options.takes_models
def plan(
    models: options.ModelOptions,
    problems: Annotated[int, typer.Option(min=8, max=150, help="Held-out problems, and as many others.")] = 100,
    concurrency: Annotated[list[int] | None, typer.Option(min=1, help="Runs at the same time; repeatable.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="How often each strategy is measured.")] = 3,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="JSON file for the calibration, for `plan --config`.")
    ] = None,
) -> None:
    """Compare what `specreason plan` predicts for the reference pair with what is measured."""
    from benchmarks import plan as planned

    launch, errors = models.launch(""), list[planned.Error]()
    print(f"{processor()}, {cores()} cores; temperature 0; calibrated with calls of its own", flush=True)
    with launch.open_pair() as pair:
        for number in concurrency or [1, 16]:
            found = planned.calibrate(pair, launch.engine, cores(), held_out()[:32])
            print(*planned.calibration_lines(found), sep="\n", flush=True)
            errors += planned.compare(pair, found, problems, number, repeats, partial(print, flush=True))
            if output:
                output.write_text(found.model_dump_json(indent=1))
    print("", *planned.lines(errors), sep="\n")


@app.command()
@options.takes_models
def serve(
    models: options.ModelOptions,
    questions: Annotated[int, typer.Option(min=2, help="Held-out problems, all asked at once.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="How often they are asked in each way.")] = 3,
    durability: Annotated[str, typer.Option(help="When the server keeps a step: exit, async or sync.")] = "exit",
) -> None:
    """Compare the throughput of `specreason serve` with that of `abatch`; needs the extras `serve` and `test`."""
    from benchmarks import serve as served
    from specreason_graph.serving.options import checked_durability

    asked = [problem.question for problem in held_out()[:questions]]
    print(f"{processor()}, {cores()} cores; {questions} questions at once, temperature 0, {durability}", flush=True)
    rounds = []
    with models.launch("").open_pair() as pair:
        for found in served.measure_server(pair, asked, repeats, checked_durability(durability)):
            print(f"{found.way:14} {found.seconds:.2f} s, {found.cpu:.1f} CPU seconds", flush=True)
            rounds.append(found)
    print("", *served.lines(rounds), sep="\n")


if __name__ == "__main__":
    app()
