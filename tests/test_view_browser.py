"""``specreason view`` in headless Chromium: the page follows a run that is killed and resumed, and texts stay texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from specreason_graph import EnginePair, create_specreason
from specreason_graph.audit.fork import fork, plan_fork
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.engines.fake import FakeEngine, PlainText
from tests.support.browser import CONTRASTS, VISIBLE, chromium, listened, needs_chromium
from tests.support.databases import opened
from tests.support.races import PROCESSES
from tests.support.recorded_runs import NASTY, TURNED
from tests.support.scripts import ANSWER, stepwise
from tests.support.viewed import viewed

pytestmark = needs_chromium
STEPS = 60
QUESTION: Any = {"question": f"How far is {NASTY}?"}
MARKED = r"**First**, let $x = \frac{1}{2}$:"


def at(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}, "recursion_limit": 10_000}


def slow() -> EnginePair:
    return stepwise(STEPS, (9, 9, 3), draft=0.1, base=0.03)


def work(place: str, begins: bool) -> None:
    """What the process does that is killed, and the one that goes on with its run."""
    with opened(place) as saver, slow() as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        graph.invoke(QUESTION if begins else None, at("run"), durability="sync")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield listened(context)
    context.close()


def steps_on(page: Any) -> list[str]:
    found: list[str] = page.locator("#steps article.step").evaluate_all("all => all.map(each => each.id)")
    return found


def test_the_page_follows_a_run_that_is_killed_and_resumed(page: Any, tmp_path: Path) -> None:
    place = str(tmp_path / "runs.sqlite")
    with opened(place) as saver:
        saver.setup()
    PROCESSES.set_forkserver_preload(["tests.test_view_browser"])
    with viewed(place) as address:
        page.goto(address)
        assert page.locator("#total").inner_text() == "0"
        first = PROCESSES.Process(target=work, args=(place, True))
        first.start()
        page.locator("#rows a.asked-for").click(timeout=60_000)  # the row came by itself
        page.locator("#step-5").wait_for(state="attached", timeout=60_000)
        first.kill()
        first.join()
        with opened(place) as saver:
            (killed,) = read_runs(saver, "run")
        assert 5 <= len(killed.trace) < STEPS
        page.locator(f"#step-{len(killed.trace)}").wait_for(state="attached")
        page.evaluate("window.stayed = true")
        page.evaluate("document.getElementById('steps').lastElementChild.scrollIntoView({ block: 'end' })")
        assert "No answer yet" in page.locator("#part-answer").inner_text()
        assert page.locator(".badge.state").inner_text() == "not finished"
        second = PROCESSES.Process(target=work, args=(place, False))
        second.start()
        page.locator("#part-answer", has_text=ANSWER).wait_for(timeout=60_000)
        second.join()
        with opened(place) as saver:
            (run,) = read_runs(saver, "run")
        page.locator(f"#step-{len(run.trace)}").wait_for(state="attached")
        assert steps_on(page) == [f"step-{number}" for number in range(1, len(run.trace) + 1)]
        assert page.locator("#outline > li").count() == len(run.trace)
        assert [each.strip() for each in page.locator(".kept [data-source]").all_text_contents()] == [
            step.text.strip() for step in run.steps if step.text.strip()
        ]
        page.locator(".verdict.good", has_text="Verified.").wait_for()
        assert page.locator(".badge.state").inner_text() == "finished"
        assert page.locator("#part-sums table").count() == 1
        assert page.evaluate("window.stayed"), "it was never loaded anew"
        assert page.locator(f"#step-{len(run.trace)}").evaluate(
            "last => last.getBoundingClientRect().top < innerHeight"
        ), "it scrolled along, as it stood at the end"
        check_quiet(page, address)


def check_quiet(page: Any, address: str) -> None:
    """Nothing ran, and nobody but the server was asked for anything."""
    assert page.evaluate("window.ran") is None
    assert [told for told in page.told if not told.startswith(address)] == []


def test_filters_and_open_parts_outlast_what_comes(page: Any, tmp_path: Path) -> None:
    place = str(tmp_path / "runs.sqlite")
    with opened(place) as saver, stepwise(8, (9, 3)) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        for _ in graph.stream(QUESTION, at("run"), durability="sync", interrupt_after=["accept"]):
            pass
        with viewed(place, "run") as address:
            page.goto(address)
            page.locator("#step-1 .evidence").evaluate("each => { each.open = true }")
            page.locator("#part-made summary", has_text="Settings").click()
            page.get_by_label("draft rejected").check()
            assert page.evaluate(VISIBLE) == []
            graph.invoke(None, at("run"), durability="sync")
            page.locator("#part-answer", has_text=ANSWER).wait_for()
            (run,) = read_runs(saver, "run")
            rejected = [step.index + 1 for step in run.steps if step.discarded]
            assert page.evaluate(VISIBLE) == [f"step-{number}" for number in rejected]
            shown = page.locator("#outline > li").evaluate_all("all => all.filter(e => !e.hidden).map(e => e.id)")
            assert shown == [f"outline-{number}" for number in rejected]
            page.get_by_label("draft rejected").uncheck()
            assert page.locator("#step-1 .evidence dl").is_visible()
            assert page.locator("#part-made .settings").last.is_visible()
            assert page.get_by_text(NASTY).first.is_visible()
            assert page.locator("img, main script").count() == 0
            check_quiet(page, address.partition("run?")[0])


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with Markdown, code and formulas, among them hostile ones; and a fork of it."""
    place = str(tmp_path_factory.mktemp("marked") / "runs.sqlite")
    drafts = [MARKED, "- one\n- **two**", "We know $y_1$.", f"`x` {NASTY} {TURNED}"]
    bases = [r"No: $y_1 = \frac{3}{4}$.", "</think>", r"It is \boxed{385}, or `385`."] * 2
    draft = FakeEngine([PlainText(f"{text}\n\n") for text in drafts] + ["</think>"] * 2, name="draft")
    base = FakeEngine(
        [text if text == "</think>" else PlainText(f"{text}\n\n") for text in bases], [9, 9, 2, 9], name="base"
    )
    with opened(place) as saver, EnginePair(draft, base) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        graph.invoke({"question": r"What is $\sqrt{x}$?"}, at("marked"))
        (run,) = read_runs(saver, "marked")
        fork(graph, "forked", plan_fork(run, pair, at=2))
    return place


@pytest.fixture(scope="module")
def address(marked: str) -> Iterator[str]:
    """The list of these two runs, served."""
    with viewed(marked) as found:
        yield found


@pytest.fixture
def urls(address: str, page: Any) -> dict[str, str]:
    """The pages of both, by thread."""
    page.goto(address)
    page.locator("#rows tr").nth(1).wait_for()
    links = page.locator("a.asked-for").evaluate_all("all => all.map(each => each.href)")
    return {name: next(link for link in links if f"thread={name}" in link) for name in ("marked", "forked")}


def test_texts_are_rendered_and_kept_as_written(page: Any, address: str, urls: dict[str, str]) -> None:
    page.goto(urls["marked"])
    assert page.locator("#step-1 .prose math mfrac").count() == 1
    assert page.locator("#step-1 .prose strong").inner_text() == "First"
    assert page.locator("#step-2 .prose li").count() == 2
    assert page.locator("#step-3 .kept math").count() == page.locator("#step-3 .discarded math").count() == 1
    assert page.locator("#step-3 .kept mark").count() >= 1, "differences are marked in what was written"
    assert page.locator("#part-answer menclose").text_content() == "385"
    assert page.locator("#step-4 .prose code").first.inner_text() == "x"
    assert NASTY in page.locator("#step-4 .prose").inner_text()
    assert "⟨U+202E⟩" in page.locator("#step-4 .prose").inner_text()
    page.locator("#step-1 .copy").click()
    page.locator("#step-1 .copy", has_text="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").strip() == MARKED
    page.locator("#answer > h2 .copy").click()
    page.locator("#answer > h2 .copy", has_text="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").strip() == r"It is \boxed{385}, or `385`."
    check_quiet(page, address)


def test_the_prompt_of_a_call_is_shown(page: Any, marked: str, urls: dict[str, str]) -> None:
    with opened(marked) as saver:
        (run,) = read_runs(saver, "marked")
    page.goto(urls["marked"])
    step = page.locator("#step-3")
    step.locator(".evidence > summary").click()
    step.get_by_role("button", name="Show").nth(1).click()  # drafting, scoring, writing
    shown = page.locator("#prompt-parts .text").all_text_contents()
    judge: Any = run.typed_manifest.config.judge
    assert [each.strip() for each in shown[:-1]] == [
        run.question, *(each.text.strip() for each in run.steps[:2]), "We know $y_1$.",
    ]  # fmt: skip
    assert judge.instruction in shown[-1]
    assert judge.prefill.strip() in shown[-1]
    heads = page.locator("#prompt-parts h3").all_inner_texts()
    assert heads[0].endswith(f"{len(run.typed_manifest.head_ids['base'])} tokens")
    assert heads[-1].endswith(f"{len(run.typed_manifest.judge_ids)} tokens")
    page.locator("#prompt-close").click()
    step.get_by_role("button", name="Show").nth(2).click()
    assert page.locator("#prompt-parts .text").count() == 3, "the base does not see what it writes anew"


def test_runs_are_found_and_compared(page: Any, address: str, urls: dict[str, str]) -> None:
    assert len(urls) == 2
    page.locator("#search").fill("FORKED FROM")
    assert len(page.evaluate(VISIBLE)) == 1
    page.keyboard.press("Escape")
    compare = page.get_by_role("button", name="Compare two runs")
    page.get_by_label("compare", exact=True).nth(0).check()
    assert compare.is_disabled()
    page.get_by_label("compare", exact=True).nth(1).check()
    compare.click()
    page.get_by_text("They share the first 2 steps").wait_for()
    page.get_by_role("link", name="All runs").click()
    page.locator("#rows tr", has_text="forked from").locator("a.asked-for").click()
    page.locator("#part-head a").click()  # to the run that it was forked from
    page.locator("#part-head", has_text="Forked as").wait_for()
    assert page.locator("#part-answer math").count() == 1
    check_quiet(page, address)


def test_hundreds_of_steps_are_followed(page: Any, tmp_path: Path) -> None:
    place, many = str(tmp_path / "runs.sqlite"), 250
    settings: dict[str, Any] = {"max_steps": many + 10, "thinking_tokens": 10**6}
    with opened(place) as saver, stepwise(many, (9, 9, 3), context=10**6) as pair:
        graph = create_specreason(pair, **settings).compile(checkpointer=saver)
        stream = graph.stream({"question": "How far?"}, at("run"), durability="async")
        for _ in range(3 * (many - 20)):
            next(stream)
        with viewed(place, "run") as address:
            page.goto(address, timeout=120_000)
            # what was told on the stream need not be in the database yet
            page.locator("#steps article.step").nth(200).wait_for(timeout=120_000)
            page.evaluate("window.stayed = true")
            page.evaluate("scrollTo(0, document.getElementById('steps').getBoundingClientRect().bottom)")
            for _ in stream:
                pass
            page.locator("#part-answer", has_text=ANSWER).wait_for(timeout=120_000)
            assert page.locator("#steps article.step").count() == many + 1
            assert page.locator("#outline > li").count() == many + 1
            assert page.locator("#steps > .block").count() == 9  # of 25 each, and 26 loose behind them
            numbers = page.locator("#steps article.step").evaluate_all("all => all.map(each => each.id)")
            assert numbers == [f"step-{number + 1}" for number in range(many + 1)]
            assert page.evaluate("window.stayed")
            page.locator("#search").fill("STEP 77")
            assert page.evaluate(VISIBLE) == ["step-78"]
            assert page.locator("#steps > .block:visible").count() == 1  # a hidden one would keep its height


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_served_pages_are_read_on_any_screen(browser: Any, address: str, width: int, scheme: Any) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = listened(context)
    page.goto(address)
    page.locator("#rows tr").nth(1).wait_for()
    links = page.locator("a.asked-for").evaluate_all("all => all.map(each => each.href)")
    for url in (address, *links):
        page.goto(url)
        page.locator("#connection[data-state=on]").wait_for()
        page.locator("details").evaluate_all("all => all.forEach(each => { each.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert [each for each in page.evaluate(CONTRASTS) if each[0] < 4.5] == []
    check_quiet(page, address)
    context.close()


def test_a_page_tells_when_its_server_is_gone(page: Any, marked: str) -> None:
    with viewed(marked, "marked") as url:
        page.goto(url)
        page.locator("#connection[data-state=on]").wait_for()
    page.locator("#connection[data-state=off]").wait_for()
    assert page.locator("#step-1").is_visible(), "what was there is still read"
