"""The figures of a benchmark as tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from specreason_graph.bench.compare import verdict
from specreason_graph.bench.figures import Figures, Interval, Row
from specreason_graph.bench.results import Results

HEADS = (
    "strategy", "right", "times base alone", "accepted", "median s", "95% s", "base tokens", "draft tokens",
    "wasted tokens", "base engine s", "draft engine s", "efficiency",
)  # fmt: skip


def markdown(results: Results, figures: Figures) -> str:
    """The whole result: what was measured, the table of strategies, what it comes to, tokens by purpose, and notes."""
    tables = [*table(figures), "", verdict(results), "", *_purposes(figures)]
    return "\n".join([*_about(results), "", *tables, "", *_notes(figures), ""])


def table(figures: Figures) -> Iterator[str]:
    """The lines of the table of strategies."""
    yield _line(*HEADS).replace("right", "same answer as the base", 1) if figures.agreement else _line(*HEADS)
    yield _line("---", *["---:"] * (len(HEADS) - 1)).replace(" ", "")
    for row in figures.rows:
        yield _line(*map(_plain, cells(row)))
    for name, reason in figures.skipped.items():
        yield _line(f"{name} (not measured: {_plain(reason)})", *[""] * (len(HEADS) - 1))


def cells(row: Row) -> list[str]:
    """A row of the table, as texts."""
    accepted = "" if row.accepted is None else percent(row.accepted)
    return [
        row.strategy.name, share(row.right), ratio(row.faster), accepted,
        f"{row.median:.1f}", f"{row.slow:.1f}", f"{row.tokens('base'):,}", f"{row.tokens('draft'):,}",
        f"{row.wasted:,}", f"{row.engine_seconds('base'):,.0f}", f"{row.engine_seconds('draft'):,.0f}",
        f"{row.efficiency:.2f}",
    ]  # fmt: skip


def share(found: Interval | None) -> str:
    """A share with its interval."""
    return "" if found is None else f"{percent(found.value)} ({percent(found.low)} to {percent(found.high)})"


def ratio(found: Interval | None) -> str:
    """A ratio of times with its interval; that of the base alone itself is 1."""
    return "1" if found is None else f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def percent(value: float) -> str:
    """A share in per cent, to a tenth."""
    return f"{100 * value:.1f}%".replace(".0%", "%")


def _about(results: Results) -> Iterator[str]:
    header = results.header
    if header is None:
        return
    runs = f"{len(results.questions)} questions" + (f", {header.samples} samples" if header.samples > 1 else "")
    heat = header.settings.get("temperature")
    yield f"Task {header.task}, {runs}, grader {header.grader}, {header.concurrency} at once, temperature {heat:g}"
    yield from dict.fromkeys(machine.line() for machine in results.machines)


def purposes(figures: Figures) -> list[list[str]]:
    """Tokens written by model and purpose: heads, and a row for each strategy."""
    keys = sorted({(each.engine, each.purpose, each.wasted) for row in figures.rows for each in row.spent})
    found = [["tokens written", *(f"{by}: {purpose}{', wasted' if wasted else ''}" for by, purpose, wasted in keys)]]
    for row in figures.rows:
        spent = {(each.engine, each.purpose, each.wasted): each.usage.generated_tokens for each in row.spent}
        found.append([row.strategy.name, *(f"{spent[key]:,}" if key in spent else "" for key in keys)])
    return found


def _purposes(figures: Figures) -> Iterator[str]:
    heads, *rows = purposes(figures)
    yield _line(*heads)
    yield _line("---", *["---:"] * (len(heads) - 1)).replace(" ", "")
    yield from (_line(*map(_plain, row)) for row in rows)


def _notes(figures: Figures) -> Iterator[str]:
    yield f"Intervals: 95%, bootstrap over questions for answers, over {figures.resampled} for times."
    for row in figures.rows:
        name = _plain(row.strategy.name)
        if row.failed:
            yield f"{name}: {row.failed} of {row.runs} runs failed, and count as wrong."
        if row.guessed:
            yield f"{name}: {row.guessed:,} tokens guessed by token-level speculation, {row.guessed_right:,} rightly."
        if row.runs != figures.rows[0].runs:
            yield f"{name}: {row.runs} runs, and {figures.rows[0].runs} of {figures.rows[0].strategy.name}."
        if row.strategy.engines:
            yield f"{name}: measured apart, on engines of its own: {_plain(str(row.strategy.engines))}."


def _line(*texts: str) -> str:
    return f"| {' | '.join(texts)} |"


def _plain(text: str) -> str:
    """A text that is one cell."""
    return " ".join(text.replace("|", "\\|").split())
