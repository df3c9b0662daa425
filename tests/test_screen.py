"""What a terminal shows while a run goes on, and behind it; what Ctrl-C says, whenever it comes."""

from __future__ import annotations

import io
import re
import shlex
import sys
import time
from pathlib import Path

import pytest

from specreason_graph.cli.app import run
from specreason_graph.cli.screen import Screen, markdown
from specreason_graph.cli.screen_view import ScreenView
from specreason_graph.record.events import AnswerToken, Rejected, StepToken
from specreason_graph.record.records import Decision
from specreason_graph.runs.launch import Launch
from tests.support.hostile import FORGED, HOSTILE, hostile_pair, steering
from tests.support.slow_pair import DRAFTED, WRITTEN
from tests.support.terminals import SLOW, Terminal

CSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What moves the cursor and chooses colours."""
COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3|4|9|10)\d(?:;\d+)*m")


ASKED = [*SLOW, "solve", "How much fruit is there?", "--base", "tree", "--draft", "twig"]


def solving(tmp_path: Path, *more: str) -> list[str]:
    return [*ASKED, "--db", str(tmp_path / "runs.sqlite"), *more]


class Tty(io.StringIO):
    """A standard output that is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def as_terminal(monkeypatch: pytest.MonkeyPatch) -> Tty:
    """Make standard output of this process a terminal of 80 columns, until the test ends."""
    out = Tty()
    monkeypatch.setattr(sys, "stdout", out)
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "80"), ("LINES", "50")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return out


def joined(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", [80, 140])
def test_a_step_is_seen_while_it_is_written_and_then_kept_or_struck_through(width: int, tmp_path: Path) -> None:
    slow = {"SLOW_TOKEN": "0.01", "SLOW_OPEN": "1"}
    with Terminal.running(solving(tmp_path, "--lookahead", "0"), width=width, env=slow) as terminal:
        terminal.wait_for(lambda text: "loading base tree and draft twig" in text)
        beginning = DRAFTED.format(0)[:25]
        terminal.wait_for(lambda text: beginning in text)
        assert "window of the kitchen" not in terminal.text  # it is being written
        assert "the draft writes" in terminal.text
        terminal.wait_for(lambda text: WRITTEN.format(1)[:20] in text)
        assert "no plums in the basket, and counts the apples and pears once more" not in joined(terminal.text)
        assert terminal.is_struck(DRAFTED.format(1)[:40])  # rejected by now
        assert terminal.wait() == 0
        shown = joined(terminal.text)
        for text in (DRAFTED.format(0), DRAFTED.format(1), WRITTEN.format(1), DRAFTED.format(2)):
            assert text in shown  # whole words, wrapped between them
        assert max(map(len, terminal.lines)) <= min(width, 120)
        assert terminal.is_struck(DRAFTED.format(1)[:40])
        assert not terminal.is_struck(DRAFTED.format(0)[:40])
        assert "2.0 draft rejected" in shown
        for gone in ("loading", "writes", "⠋"):
            assert gone not in terminal.text


def test_the_end_has_the_answer_laid_out_and_the_verdict_before_the_costs(tmp_path: Path) -> None:
    with Terminal.running(solving(tmp_path)) as terminal:
        assert terminal.wait() == 0
        text = terminal.text
        assert "The answer is 42, as 6*7*1 = 42 and \\boxed{42}." in text
        assert " • apples" in text
        assert "print(6 * 7)" in text
        assert "```" not in text
        verdict = re.search(r"speculation (was|took)", text)
        assert verdict
        assert text.index("answered") < verdict.start() < text.index("purpose")


def test_no_colours_where_none_are_wanted(tmp_path: Path) -> None:
    with Terminal.running(solving(tmp_path), env={"NO_COLOR": "1"}) as terminal:
        assert terminal.wait() == 0
        assert not COLOUR.search(terminal.raw)
        assert terminal.is_struck(DRAFTED.format(1)[:40])
    with Terminal.running([*SLOW, "runs", "show", "nothing", "--db", str(tmp_path / "runs.sqlite")]) as terminal:
        assert terminal.wait() == 2
    with Terminal.running(solving(tmp_path), env={"TERM": "dumb"}) as terminal:
        assert terminal.wait() == 0
        assert b"\x1b" not in terminal.raw


@pytest.mark.parametrize("instant", ["loading", "the draft writes", "the base writes", "Step 2", "boxed"])
def test_an_interrupt_says_at_once_how_to_go_on(instant: str, tmp_path: Path) -> None:
    slow = {"SLOW_TOKEN": "0.02", "SLOW_OPEN": "3" if instant == "loading" else "0"}
    with Terminal.running(solving(tmp_path, "--lookahead", "0"), env=slow) as terminal:
        terminal.wait_for(lambda text: instant in text)
        pressed = time.monotonic()
        terminal.interrupt()
        terminal.wait_for(lambda text: "interrupted" in text, seconds=5)
        assert time.monotonic() - pressed < 2
        assert terminal.wait(5) == 130
        assert time.monotonic() - pressed < 5
        said = terminal.text[terminal.text.index("interrupted") :].replace("\n", "")  # the terminal cuts long lines
    if instant == "loading":
        assert said == "interrupted: the models were still loading; nothing was begun; give the same command again"
        return
    command = re.search(r"go on with: specreason (resume \S+ --db \S+)", said)
    assert command, said
    with Terminal.running([*SLOW, *shlex.split(command[1])]) as terminal:
        assert terminal.wait() == 0, terminal.text
        assert "The answer is 42" in terminal.text


def test_an_interrupt_while_the_command_still_imports_has_an_answer(tmp_path: Path) -> None:
    where = {"XDG_DATA_HOME": str(tmp_path)}
    with Terminal.running([sys.executable, "-m", "specreason_graph", "solve", "--example"], env=where) as terminal:
        terminal.wait_for(lambda text: "starting" in text)
        terminal.interrupt()
        assert terminal.wait(10) == 130
        assert "interrupted: nothing was begun" in terminal.text
        assert "Traceback" not in terminal.text


@pytest.mark.parametrize("seconds", [0.0, 1.0, 2.0, 3.0, 4.0])
def test_an_interrupt_at_any_instant_has_an_answer(seconds: float, tmp_path: Path) -> None:
    with Terminal.running(solving(tmp_path), env={"SLOW_TOKEN": "0.02", "SLOW_OPEN": "0.5"}) as terminal:
        terminal.wait_for(lambda text: text != "")
        time.sleep(seconds)
        terminal.interrupt()
        assert terminal.wait(10) == 130, terminal.text
        assert "interrupted: " in terminal.text
        assert "Traceback" not in terminal.text


def test_nothing_that_is_drawn_steers_the_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tty = as_terminal(monkeypatch)
    monkeypatch.setattr(Launch, "open_pair", lambda _: hostile_pair())
    asked = ["solve", f"What of {HOSTILE}?", "--base", FORGED, "--draft", FORGED, "--db", str(tmp_path / "a.db")]
    assert run(asked) == 0
    drawn = CSI.sub("", tty.getvalue()).replace("\r", "")
    assert steering(drawn) == set()
    assert "title" in drawn
    view = ScreenView(Screen())
    hidden = f"# {HOSTILE}\n&#x202e;[a](b%E2%80%AE)"
    for event in (StepToken(index=0, author="draft", start=0, text=HOSTILE), AnswerToken(text=hidden)):
        with view.working():
            view.show(event)
            time.sleep(0.3)
    assert steering(CSI.sub("", tty.getvalue()).replace("\r", "")) == set()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("25*18*3 = 1350 and a_1*b_2*c", "25*18*3 = 1350 and a_1*b_2*c"),
        (r"\(x^2\) and \[y\] and $a_1 + \{b\}$", r"\(x^2\) and \[y\] and $a_1 + \{b\}$"),
        ("<think>no</think> <b>bold</b>", "<think>no</think> <b>bold</b>"),
        ("one\ntwo", "one\ntwo"),
        ("[1]: http://there\nsee", "[1]: http://there"),
        ("&amp; &lt;", "&amp; &lt;"),
        ("see [here](http://there)", "see here (http://there)"),
        ("![a plot](http://there/plot.png)", "!a plot (http://there/plot.png)"),
        ("a **bold** and *soft* word", "a bold and soft word"),
        ("# Title\n\ntext", "Title"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "1"),
    ],
)
def test_markdown_loses_nothing_of_what_is_none(text: str, kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tty = as_terminal(monkeypatch)
    Screen().put(markdown(text))
    shown = CSI.sub("", tty.getvalue())
    assert kept in "\n".join(line.rstrip() for line in shown.splitlines())


def test_a_step_that_is_begun_again_is_shown_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    tty = as_terminal(monkeypatch)
    view = ScreenView(Screen())
    with view.working():
        for start, text in ((0, "first try"), (0, "second"), (6, " try")):
            view.show(StepToken(index=0, author="draft", start=start, text=text))
        view.show(
            Rejected(
                index=0,
                decision=Decision(
                    accepted=False, reason="score_below_threshold", number=1.0, score_reduction="mean", threshold=7.0
                ),
            )
        )
        time.sleep(0.4)
    assert "second try" in CSI.sub("", tty.getvalue())
    assert "first trysecond" not in CSI.sub("", tty.getvalue())


def test_a_run_that_is_not_kept_leaves_nothing_behind(tmp_path: Path) -> None:
    slow = {"SLOW_TOKEN": "0.01", "XDG_DATA_HOME": str(tmp_path)}
    with Terminal.running([*ASKED, "--no-keep"], env=slow) as terminal:
        terminal.wait_for(lambda text: "Step 1" in text)
        assert "not kept" in terminal.text
        terminal.interrupt()
        assert terminal.wait() == 130
        assert "the run was not kept" in terminal.text
    assert list(tmp_path.rglob("*")) == []
