"""``python -m training make`` makes the pair from nothing; ``python -m training evaluate`` prints its table."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from specreason_graph import open_pair
from specreason_graph.models.abacus import FOLDER
from training.evaluate import evaluate, markdown, rows, write_card
from training.make import make


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("command", choices=("make", "evaluate"))
    parser.add_argument("--work", type=Path, default=Path("training/.work"), help="folder for unfinished stages")
    parser.add_argument("--problems", type=int, default=None, help="evaluate on the first so many held-out problems")
    parser.add_argument("--engine", default="transformers", help="kind of engine to evaluate on")
    parser.add_argument("--temperature", type=float, default=0.0, help="sampling temperature, with top-p 0.95")
    parser.add_argument("--concurrency", type=int, default=1, help="problems solved at the same time")
    options = parser.parse_args()
    if options.command == "make":
        _install(*make(options.work))
    pair = open_pair("abacus-base", "abacus-draft", kind=options.engine)
    table = evaluate(options.problems, pair, temperature=options.temperature, concurrency=options.concurrency)
    print(markdown(table, options.temperature))
    if options.problems is None and options.engine == "transformers" and options.temperature == 0:
        write_card(table)
    if not all(met for *_, met in rows(table)):
        raise SystemExit("a target is missed")


def _install(base: Path, draft: Path) -> None:
    for source, target in ((base, FOLDER / "base"), (draft, FOLDER / "draft")):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)


if __name__ == "__main__":
    main()
