"""The report as a file: everything is in it, nothing in it is more than data, and it asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from html import unescape
from typing import Any, get_args

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from specreason_graph import EnginePair, create_specreason
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import Finding, RecordedRun
from specreason_graph.audit.read.serializer import Damaged
from specreason_graph.audit.show.labels import ENDINGS, PURPOSES, REASONS, STOPS, duration
from specreason_graph.audit.show.place import Link, Links, links_between
from specreason_graph.audit.show.report import render_comparison, render_index, render_run
from specreason_graph.audit.show.timeline import draw_timeline
from specreason_graph.record.records import Ending, Purpose, Reason, StopReason
from tests.support.pages import Page
from tests.support.recorded_runs import NASTY, Checked, changed, finished, forked, long_run, recorded, version_1


@pytest.fixture(scope="module")
def run() -> RecordedRun:
    return finished()


@pytest.fixture(scope="module", params=["run", "comparison", "index"])
def page(request: Any, run: RecordedRun) -> Page:
    other = long_run(run, 9)
    pages = {
        "run": lambda: render_run(run, Checked(head=run.head)),
        "comparison": lambda: render_comparison(run, other),
        "index": lambda: render_index([(run, "a%20run.html"), (other, "other.html")]),
    }
    return Page(pages[request.param]())


def test_a_page_has_one_style_and_one_script_and_its_policy_allows_no_more(page: Page) -> None:
    assert (len(page.all("style")), len(page.all("script"))) == (1, 1)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    digests = {
        name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for name, text in page.texts.items()
    }
    assert policy["content"] == (
        f"default-src 'none'; style-src 'sha256-{digests['style']}'; script-src 'sha256-{digests['script']}'; "
        "base-uri 'none'; form-action 'none'"
    )


def test_a_page_asks_for_nothing(page: Page) -> None:
    assert {tag for tag, _ in page.tags} & {"img", "link", "iframe", "object", "base", "embed", "use", "image"} == set()
    names = {name for _, attributes in page.tags for name in attributes}
    assert [name for name in names if name.startswith("on") or name in ("style", "src", "srcset", "action")] == []
    links = {attributes["href"] for attributes in page.all("a")}
    assert {link for link in links if not link.startswith("#")} <= {"a%20run.html", "other.html"}
    assert "url(" not in page.texts["style"]
    assert "@import" not in page.texts["style"]


def test_ids_are_told_once_and_links_and_labels_lead_to_them(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    inside = {attributes["href"][1:] for attributes in page.all("a") if attributes["href"].startswith("#")}
    named = {attributes["aria-labelledby"] for _, attributes in page.tags if "aria-labelledby" in attributes}
    assert inside | named <= set(page.ids)


def test_what_models_wrote_is_text(page: Page) -> None:
    assert NASTY.split(" 'q'")[0] in page.words
    assert "{{ 7*7 }}" in page.words
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028\x00\x1b]", page.words)


def test_a_run_tells_everything(run: RecordedRun) -> None:
    words = Page(render_run(run, Checked(head=run.head, signed_by="ab" * 32))).words
    reasons = ("score_reaches_threshold", "score_below_threshold", "written_by_reviewer", "accepted_by_reviewer")
    for told in [
        *(REASONS[reason].sentence for reason in (*reasons, "proposal_ends_thinking")),  # type: ignore[index]
        "25 * 18 = ", "420", "450", "⟨U+202E⟩", "⟨U+0000⟩", "⟨U+001B⟩[31m", "A human's thing.", "Ada <b>",
        "3 of 5 scored (60%)", run.head, "ab" * 32, "Verified.", STOPS["answered"],
        "Thread t<b>", "draft<b>", "max_step_tokens",
    ]:  # fmt: skip
        assert str(told) in words, told


def test_a_page_begins_with_what_was_asked_of_whom_and_ends_with_what_it_took(run: RecordedRun) -> None:
    text = render_run(run, Checked(head=run.head))
    page, words = Page(text), Page(text).words
    head = Page(text[text.index('<header class="page"') : text.index("</header>") + len("</header>")]).words
    for told in (
        *(str(each["model"]) for each in run.manifest["engines"].values()),
        "7 on, by the judge digit",
        "Speed",
    ):
        assert told in head, told
    assert " ".join(run.question.split())[:20] in " ".join(words.split())[:200], "the title of the page"
    assert " ".join(run.question.split())[:20] in " ".join(head.split()), "its heading"
    parts = [each for each in page.ids if each in ("part-head", "part-answer", "trace-name", "part-sums", "part-made")]
    assert parts == ["part-head", "part-answer", "trace-name", "part-sums", "part-made"]


def test_a_verification_that_failed_is_told_where_it_failed(run: RecordedRun) -> None:
    findings = [Finding(step=1, problem="its hash <is> wrong"), Finding(step=None, problem="no signature")]
    page = Page(render_run(run, Checked(findings=findings)))
    assert "Verification failed: 2 findings" in page.words.replace("\n", " ")
    assert page.words.count("its hash <is> wrong") == 2, "above, and at the step"
    assert "damaged" in page.all("article", id="step-2")[0]["data-tags"]
    assert "damaged" not in page.all("article", id="step-1")[0]["data-tags"]


def test_a_run_that_nobody_verified_says_so(run: RecordedRun) -> None:
    assert "Not verified." in Page(render_run(run)).words


def test_a_run_that_waits_shows_what_it_waits_for() -> None:
    words = Page(render_run(recorded())).words
    assert "the run is not finished" in words
    assert "waits for a human; score 6.0" in words
    assert "Doubtful thing." in words


def test_a_run_of_version_1_is_shown_without_a_ledger(run: RecordedRun) -> None:
    old = version_1(run)
    words = Page(render_run(old, Checked(entries=0))).words
    assert "The run is of a version without a ledger." in words
    assert "none: the run has no ledger" in words
    assert "drawn one behind the other" in words


def test_a_forked_run_tells_where_it_comes_from(run: RecordedRun) -> None:
    words = Page(render_run(forked(run))).words
    assert "2 steps were taken over, the last one written anew by a human" in words
    assert words.count("taken over") == 3, "above, and at each of the two"


def test_a_draft_engine_that_failed_is_told() -> None:
    run = recorded(drafts=["One.", "Two."], bases=["Alone.", "So."], scores=[9, 9], max_steps=3)
    failed = changed(
        run,
        trace=[
            *run.trace[:2],
            {**run.trace[2], "decision": {**run.trace[2]["decision"], "reason": "draft_failed", "error": "gone <b>"}},
        ],
    )
    assert "gone <b>" in Page(render_run(failed)).words


def test_damaged_records_leave_the_rest_readable(run: RecordedRun) -> None:
    broken = changed(
        run, trace=[run.trace[0], {"text": 3}, *run.trace[2:]], manifest={"question": "What?"},
        values={"progress": {"run": "abc"}, "result": {"text": 1}},
        findings=[Finding(step=1, problem="its record cannot be read")],
    )  # fmt: skip
    broken.values["stop_reason"] = Damaged("cannot be read")
    broken.trace[0]["costs"][0]["usage"]["seconds"] = float("inf")
    page = Page(render_run(broken))
    assert "Cannot be read" in page.words
    assert len(page.all("article", **{"data-item": ""})) == len(run.trace)
    assert "The answer cannot be read." in page.words
    assert page.words.count("its record cannot be read") == 2
    Page(render_comparison(broken, run))
    assert "damaged" in Page(render_index([(broken, "x.html")])).words


def test_two_runs_share_a_start_and_part(run: RecordedRun) -> None:
    other = changed(run, trace=[*run.trace[:3], {**run.trace[3], "text": "Something else."}])
    page = Page(render_comparison(run, other))
    assert "They share the first 3 steps and part behind them." in page.words
    rows = page.all("article")
    assert [row["data-tags"].startswith("different") for row in rows] == [False] * 3 + [True] * (len(run.trace) - 3)
    assert page.words.count("B has no step here.") == len(run.trace) - 4
    assert "Both traces are the same." in Page(render_comparison(run, run)).words


def test_different_settings_are_told() -> None:
    script: Any = {"drafts": ["One."], "bases": ["</think>", "So."], "scores": [9]}
    words = Page(render_comparison(recorded(**script), recorded(**script, threshold=3.5))).words
    assert re.search(r"threshold\s*7\.0\s*3\.5", words)
    assert "max_steps" not in words


def test_the_index_leads_to_each_run(run: RecordedRun) -> None:
    page = Page(render_index([(run, "one.html"), (recorded(), "two.html")]))
    assert [link["href"] for link in page.all("a") if link["href"] != "#list"] == ["one.html", "two.html"]
    assert [row["data-tags"].split() for row in page.all("tr") if "data-item" in row] == [["human"], ["unfinished"]]
    assert "0 runs" in Page(render_index([])).words


def test_pages_of_forks_and_their_parents_lead_to_each_other(run: RecordedRun) -> None:
    child = forked(run)
    old = changed(run, thread_id="old", manifest={**run.manifest, "run": "f" * 32})
    found, parent, alone = links_between([child, old, run], ["child.html", "old.html", "run.html"])
    assert (found.parent, found.forks) == ("old.html", ())
    assert (parent.parent, parent.forks) == (None, (Link(child.run[:12], "child.html"),))
    assert alone == Links()
    page = Page(render_run(child, links=found))
    assert page.all("a", href="old.html")
    assert Page(render_run(old, links=parent)).all("a", href="child.html")
    index = Page(render_index([(child, "child.html"), (old, "old.html")]))
    assert [link["href"] for link in index.all("a")[1:]] == ["child.html", "old.html", "old.html"]


def test_a_long_wait_is_cut_short_on_the_time_line(run: RecordedRun) -> None:
    steps = run.steps
    line = draw_timeline(steps, run.answer)
    assert (line.pauses, line.measured, len(line.bars)) == ([], True, sum(len(step.costs) for step in steps) + 1)
    late = [step.model_copy(update={"costs": [_later(cost, 3600) for cost in step.costs]}) for step in steps[4:]]
    (pause,) = draw_timeline([*steps[:4], *late], None).pauses
    assert pause.title == "1 h 00 min without a call, after a human was asked"
    assert pause.width <= 300
    assert all(bar.left >= 0 and bar.left + bar.width <= 1000.01 for bar in line.bars)


def _later(cost: Any, seconds: float) -> Any:
    usage = cost.usage.model_copy(update={"started": cost.usage.started + seconds})
    return cost.model_copy(update={"usage": usage})


@pytest.mark.parametrize(
    ("words", "names"), [(REASONS, Reason), (STOPS, StopReason), (ENDINGS, Ending), (PURPOSES, Purpose)]
)
def test_every_name_has_words(words: Any, names: Any) -> None:
    assert set(words) == set(get_args(names))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.00 s"), (9.5, "9.50 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3725, "1 h 02 min"), (260_000, "3 days")],
)
def test_durations_are_told_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("text", "gist"),
    [
        ("8*2=16 and 2**3 = 8", "8*2=16 and 2**3 = 8"), ("**First**, `x`", "First, x"), ("- one\n- two", "one two"),
        ("- 5\n= 7", "- 5 = 7"), ("## So\nx**y", "So x**y"), ("a " * 50, "a " * 31 + "a…"), ("", "(ends the thinking)"),
        ("It costs $5.", "It costs $5."),
    ],
)  # fmt: skip
def test_the_outline_shows_how_a_step_begins(run: RecordedRun, text: str, gist: str) -> None:
    html = render_run(changed(run, trace=[{**run.trace[0], "text": text}]))
    found = re.search(r'class="gist" dir="auto">(.*?)</span>', html, re.DOTALL)
    assert found
    assert unescape(found[1]) == gist


def test_tokens_are_texts_where_the_tokenizer_is_at_hand(abacus: EnginePair) -> None:
    saver, question = InMemorySaver(), "Zoe has 25 boxes with 18 coins in each box. How many coins does Zoe have?"
    graph = create_specreason(abacus, seed=1, judge={"kind": "likelihood"}).compile(checkpointer=saver)
    graph.invoke({"question": question}, {"configurable": {"thread_id": "t"}})
    (run,) = read_runs(saver, "t")
    html = render_run(run)
    heats = re.findall(r'<p class="heat" dir="auto">(.*?)</p>', html, re.DOTALL)
    scored = [step.discarded or step for step in run.steps if step.score]
    assert [Page(f"<p>{heat}</p>").words for heat in heats] == [each.text.replace("\n", "↵") for each in scored]
    words = Page(html).words
    assert re.search(rf"{re.escape(question)}.*<think>", words, re.DOTALL), "the prompt as the chat template made it"
    other = {role: {**engine, "vocabulary": "0" * 64} for role, engine in run.manifest["engines"].items()}
    unknown = render_run(changed(run, manifest={**run.manifest, "engines": other}))
    assert 'class="heat"' not in unknown
    assert f"token 1, id {scored[0].token_ids[0]}: " in Page(unknown).words
