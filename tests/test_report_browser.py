"""The report in headless Chromium: nothing of it runs or is fetched, and it can be filtered, searched and walked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.show.report import render_comparison, render_index, render_run
from specreason_graph.bench.figures import compute
from specreason_graph.bench.page import render_page
from specreason_graph.bench.results import Asked, Header, Measured, Results, RunRow
from specreason_graph.bench.strategies import NAMED, Strategy
from specreason_graph.bench.tasks import Question
from specreason_graph.record.records import Cost, Usage
from tests.support.browser import CONTRASTS, CUT_OFF, FOCUSED, IN_VIEW, VISIBLE, chromium, listened, needs_chromium
from tests.support.recorded_runs import LONG_WORD, NASTY, changed, finished, long_run
from tests.support.tuned import tuned_page

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def run() -> RecordedRun:
    return finished()


@pytest.fixture(scope="module")
def many(run: RecordedRun) -> str:
    """The page of a run with a thousand steps."""
    return render_run(long_run(run, 1000))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open a page from a file; what the browser complains of and asks for is kept in ``page.told``."""
    contexts = []

    def open_page(html: str, hash: str = "", **options: Any) -> Any:  # noqa: A002 - as in location.hash
        file = tmp_path / "page.html"
        file.write_text(html, encoding="utf-8")
        contexts.append(browser.new_context(**options))
        page = listened(contexts[-1])
        page.goto(file.as_uri() + hash)
        assert page.told.pop(0) == file.as_uri()
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("kind", ["run", "comparison", "index"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_runs_is_fetched_or_sticks_out(opened: Any, run: RecordedRun, kind: str, width: int) -> None:
    other = changed(run, trace=[*run.trace[:2], {**run.trace[2], "text": f"Other {LONG_WORD}"}])
    pages = {
        "run": lambda: render_run(run),
        "comparison": lambda: render_comparison(run, other),
        "index": lambda: render_index([(run, "one.html"), (other, "two.html")]),
    }
    page = opened(pages[kind](), viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".text").evaluate_all(CUT_OFF) == []
    assert page.get_by_text(NASTY).first.is_visible()
    assert page.locator("img, main script").count() == 0
    assert page.evaluate("window.ran") is None
    assert page.told == []


def test_the_text_of_a_step_is_what_the_model_wrote(opened: Any, run: RecordedRun) -> None:
    page = opened(render_run(run))
    assert page.locator("#step-1 .text").inner_text() == NASTY
    assert page.locator("#step-3 .text").inner_text() == LONG_WORD
    assert page.locator("#step-2 .discarded .text").inner_text() == "25 * 18 = 420, I think."


def test_the_policy_stops_what_would_slip_through_the_escaping(opened: Any, run: RecordedRun) -> None:
    html = render_run(run)
    slipped = html.replace(
        "Good enough thing.", "<img src=x onerror='window.ran=1'><script>window.ran=1</script><b id=slipped>x</b>", 1
    )
    assert slipped != html
    page = opened(slipped)
    assert page.locator("#slipped").count() == 1
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in told for told in page.told)
    assert page.locator("#tools").is_visible(), "our own script ran"


def test_a_page_is_read_without_script(opened: Any, run: RecordedRun) -> None:
    page = opened(render_run(run), java_script_enabled=False)
    assert page.locator("article").count() == len(run.trace)
    assert page.locator("#step-5").is_visible()
    assert not page.locator("#tools").is_visible()


def test_a_thousand_steps_are_filtered_and_searched(opened: Any, many: str, run: RecordedRun) -> None:
    page = opened(many)
    length, steps = len(run.trace), range(1000)
    rejected = [f"step-{i + 1}" for i in steps if run.steps[i % length].discarded]
    human = [f"step-{i + 1}" for i in steps if run.steps[i % length].decision.review]
    low = [f"step-{i + 1}" for i in steps if (run.steps[i % length].decision.number or 9) < 5]
    assert len(page.evaluate(VISIBLE)) == 1000
    page.locator("[data-filter=rejected]").check()
    assert page.evaluate(VISIBLE) == rejected
    assert page.locator("#status").inner_text() == f"{len(rejected)} of 1000 steps shown"
    page.locator("[data-filter=human]").check()
    assert page.evaluate(VISIBLE) == [f"step-{i + 1}" for i in steps if f"step-{i + 1}" in {*rejected, *human}]
    page.locator("[data-filter=rejected]").uncheck()
    assert page.evaluate(VISIBLE) == human
    page.locator("[data-filter=human]").uncheck()
    page.locator("[data-filter=low]").check()
    page.locator("#below").fill("5")
    assert page.evaluate(VISIBLE) == low
    page.locator("[data-filter=low]").uncheck()
    page.locator("#search").fill("NUMBER 77")
    assert page.evaluate(VISIBLE) == ["step-77", *(f"step-{i}" for i in range(770, 780))]
    assert page.evaluate("[...CSS.highlights.get('found')].map(String)") == ["number 77"] * 11
    page.locator("#search").fill("(no such [text")
    assert page.evaluate(VISIBLE) == []
    page.keyboard.press("Escape")
    assert len(page.evaluate(VISIBLE)) == 1000
    assert page.told == []


def test_a_deep_link_scrolls_to_its_step(opened: Any, many: str) -> None:
    page = opened(many, "#step-17")
    assert page.evaluate(f"{IN_VIEW}('step-17')")
    assert page.evaluate(FOCUSED) == "step-17"
    page.locator("[data-filter=human]").check()
    assert not page.locator("#step-800").is_visible()
    page.evaluate("location.hash = 'step-800'")
    page.wait_for_function(f"{FOCUSED} === 'step-800'")
    assert page.evaluate(f"{IN_VIEW}('step-800')")
    assert not page.locator("[data-filter=human]").is_checked(), "a step that was filtered away is shown again"


def test_keys_walk_the_steps_that_are_shown(opened: Any, many: str) -> None:
    page = opened(many)
    page.keyboard.press("/")
    assert page.evaluate(FOCUSED) == "search"
    page.keyboard.type("number 9jk/")
    assert page.locator("#search").input_value() == "number 9jk/", "in a field, keys are letters"
    page.locator("#search").fill("number 99")
    page.locator("#search").blur()
    walked = []
    for key in "jjjkj":
        page.keyboard.press(key)
        walked.append(page.evaluate(FOCUSED))
    assert walked == ["step-99", "step-990", "step-991", "step-990", "step-991"]
    assert page.evaluate(f"{IN_VIEW}('step-991')")
    assert page.url.endswith("#step-991")
    page.locator("#keys").uncheck()
    page.keyboard.press("j")
    assert page.url.endswith("#step-991"), "the keys can be switched off"


def test_a_bar_of_the_time_line_leads_to_its_step(opened: Any, run: RecordedRun) -> None:
    page = opened(render_run(run))
    page.locator("[data-goto=step-4]").first.click()
    page.wait_for_function(f"{FOCUSED} === 'step-4'")


def test_the_rows_that_differ_are_filtered(opened: Any, run: RecordedRun) -> None:
    other = changed(run, trace=[*run.trace[:4], {**run.trace[4], "text": "Other."}, run.trace[5]])
    page = opened(render_comparison(run, other))
    page.get_by_role("checkbox", name="different").check()
    assert page.evaluate(VISIBLE) == ["row-5"]


def test_the_index_is_searched(opened: Any, run: RecordedRun) -> None:
    other = changed(run, manifest={**run.manifest, "question": "How many coins?"})
    page = opened(render_index([(run, "one.html"), (other, "two.html")]))
    page.locator("#search").fill("COINS")
    assert page.evaluate(VISIBLE) == ["run-2"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("media", ["screen", "print"])
def test_all_words_stand_out_from_their_background(opened: Any, run: RecordedRun, scheme: str, media: str) -> None:
    page = opened(render_run(run), color_scheme=scheme)
    page.emulate_media(media=media, color_scheme=scheme)
    page.locator("details").evaluate_all("all => all.forEach(each => { each.open = true })")
    found = page.evaluate(CONTRASTS)
    assert len(found) > 100
    assert [each for each in found if each[0] < 4.5] == []


def test_the_printed_page_shows_the_evidence_and_not_the_tools(opened: Any, run: RecordedRun) -> None:
    page = opened(render_run(run))
    assert not page.locator("#step-6 .evidence dl").is_visible()
    page.emulate_media(media="print")
    assert page.locator("#step-6 .evidence dl").is_visible()
    assert not page.locator("#tools").is_visible()


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_benchmark_is_read_on_any_screen(opened: Any, run: RecordedRun, width: int, scheme: Any) -> None:
    page = opened(benchmark_page(run), viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.told == []
    assert page.evaluate("window.ran") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("img, main script").count() == 0
    shown, hidden = ("narrow", "wide") if width < 700 else ("wide", "narrow")
    assert all(chart.is_visible() for chart in page.locator(f".chart.{shown}").all())
    assert not any(chart.is_visible() for chart in page.locator(f".chart.{hidden}").all())
    assert page.locator(f".chart.{shown}").count() == 4
    assert page.locator("tbody th", has_text="other & <b>one</b>").first.is_visible()
    assert page.locator("a[href='p.reports/t-other.html']").count() == 1
    poor = [each for each in page.evaluate(CONTRASTS) if each[0] < 4.5]
    assert poor == []


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_tuning_is_read_on_any_screen(opened: Any, width: int, scheme: Any) -> None:
    page = opened(tuned_page(NASTY), viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.told == []
    assert page.evaluate("window.ran") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("img, main script").count() == 0
    assert page.locator(f".chart.{'narrow' if width < 700 else 'wide'}").count() == 2
    assert page.locator("pre", has_text=NASTY).is_visible()
    poor = [each for each in page.evaluate(CONTRASTS) if each[0] < 4.5]
    assert poor == []


def benchmark_page(run: RecordedRun) -> str:
    """The page of two strategies that differ on a question with a nasty text."""
    header = Header(task="own", grader="exact", engines={}, settings={"temperature": 0}, samples=1, seed=0,
                    concurrency=1, part=5)  # fmt: skip
    names = ("base", "other & <b>one</b>")
    strategies = [Measured(strategy=NAMED["base"]), Measured(strategy=Strategy(name=names[1]))]
    questions = [Asked(question=Question(id=str(n), text=NASTY, reference=LONG_WORD)) for n in range(4)]
    cost = Cost(engine="base", purpose="score", usage=Usage(calls=1, generated_tokens=1, seconds=0.5))
    runs = [
        RunRow(strategy=name, question=str(n), sample=0, part=0, seed=n, started=0.0, seconds=1.0 + n, reply="",
               answer=LONG_WORD, right=n > 0 or name == "base", thread=f"t-{name[:5]}", steps=2,
               proposals=2, accepted=1, costs=[cost])
        for n in range(4) for name in names
    ]  # fmt: skip
    results = Results([header, *strategies, *questions, *runs])
    return render_page(results, compute(results), lambda thread: run, {"t-other": "p.reports/t-other.html"})
