"""How a measurement goes on: a table that changes on a terminal, else a line for each turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from specreason_graph.cli.screen import Screen, is_screen
from specreason_graph.cli.terminal import echo, visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from specreason_graph.bench.results import Lap, Results
    from specreason_graph.bench.run import Bench


@contextmanager
def reporting(bench: Bench, results: Results, after: Callable[[], None]) -> Iterator[Progress]:
    """Tell on standard error how a measurement goes on; ``after`` is called behind each turn."""
    if not is_screen(err=True):
        yield Progress(bench, results, after)
        return
    progress = LiveProgress(bench, results, after)
    with Screen(err=True).changing(progress):
        yield progress


class Progress:
    """Tells of each turn in a line."""

    def __init__(self, bench: Bench, results: Results, after: Callable[[], None]) -> None:
        self.bench, self.results, self._after = bench, results, after

    def tell(self, line: str) -> None:
        """Print a line."""
        echo(line, err=True)

    def opening(self, strategies: Sequence[str]) -> None:
        """Say for which strategies engines are opened."""
        self.tell(f"opening the engines for {', '.join(strategies)}")

    def ran(self) -> None:
        """Take note that a run has ended."""

    def took(self, lap: Lap) -> None:
        """Say what a turn took, and how the strategy stands so far."""
        right, faster, _ = self.standing(lap.strategy)
        sample = f", sample {lap.sample + 1} of {self.bench.samples}" if self.bench.samples > 1 else ""
        self.tell(
            f"part {lap.part + 1} of {len(self.bench.parts)}{sample}, {lap.strategy}: {len(lap.questions)} questions "
            f"in {lap.seconds:.1f} s; so far {right} right, {faster or '-'} times base alone"
        )
        self._after()

    def skipped(self, strategy: str, reason: str) -> None:
        """Say why a strategy is left out."""
        self.tell(f"{strategy} is not measured: {reason}")

    def standing(self, strategy: str) -> tuple[str, str, str]:
        """Right answers, times base alone and mean seconds so far."""
        runs, shares = self.results.runs(strategy), self.results.shares
        base = {(run.question, run.sample): shares[run.key] for run in self.results.runs("base")}
        both = [run for run in runs if (run.question, run.sample) in base]
        mine, graded = sum(shares[run.key] for run in both), [run for run in runs if run.right is not None]
        ratio = f"{sum(base[run.question, run.sample] for run in both) / mine:.2f}" if mine else ""
        seconds = f"{sum(run.seconds for run in runs) / len(runs):.1f}" if runs else ""
        return f"{sum(bool(run.right) for run in graded)} of {len(graded)}" if graded else "", ratio, seconds


class LiveProgress(Progress):
    """Shows a table that changes."""

    def __init__(self, bench: Bench, results: Results, after: Callable[[], None]) -> None:
        super().__init__(bench, results, after)
        self._ended, self._line = 0, ""

    def tell(self, line: str) -> None:
        """Show the table with the line below it."""
        self._line = line

    def ran(self) -> None:
        """Count a run that has ended."""
        self._ended += 1
        self.tell(f"{self._ended} runs ended since the command began")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.table import Table
        from rich.text import Text

        heads = ("strategy", "runs", "right", "times base alone", "s a question")
        shown = Table(*heads, title=Text(visible(self.bench.task.name)), caption=Text(visible(self._line)))
        total = len(self.bench.task.questions) * self.bench.samples
        for each in self.bench.strategies:
            done = f"{len(self.results.runs(each.name))} of {total}"
            left_out = each.name in self.results.skipped
            shown.add_row(
                Text(visible(each.name)), "not measured" if left_out else done, *self.standing(each.name)
            )  # fmt: skip
        yield from console.render(shown, options)
