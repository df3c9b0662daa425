"""``specreason view``: who may see what, what it sends while runs go on, and that it only reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from html import unescape
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from langgraph.checkpoint.sqlite import SqliteSaver

from specreason_graph import create_specreason
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.fork import fork, plan_fork
from specreason_graph.audit.keep.prune import prune
from specreason_graph.audit.read.follow import FollowedThread
from specreason_graph.audit.read.reader import find_recorded, read_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.read.saver import ThreadMark, open_database, thread_marks
from specreason_graph.audit.show.report import render_run
from specreason_graph.cli.app import run as run_command
from tests.support.databases import connected, opened
from tests.support.pages import Page
from tests.support.parents import parent
from tests.support.recorded_runs import NASTY
from tests.support.scripts import ANSWER, stepwise
from tests.support.viewed import events, viewed

STEPS = 4
QUESTION: Any = {"question": f"How far is {NASTY}?"}
numbers = count(1)


def at(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}, "recursion_limit": 1000}


def new_thread() -> str:
    """A thread of its own: the PostgreSQL server is shared by the tests."""
    return f"view-{next(numbers)}"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two runs, of which the second is a fork of the first; the thread of the first has a hostile name."""
    file = str(tmp_path_factory.mktemp("view") / "runs.sqlite")
    with opened(file) as saver, stepwise(STEPS, (9, 3)) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        graph.invoke(QUESTION, at("one & <b>/../x"))
        (run,) = read_runs(saver, "one & <b>/../x")
        graph.invoke(None, fork(graph, "two", plan_fork(run, pair, at=2, threshold=2)))
    return file


@pytest.fixture(scope="module")
def address(database: str) -> Iterator[str]:
    with viewed(database) as found:
        yield found


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as found:
        yield found


def rows(client: httpx.Client, address: str, wanted: int) -> dict[str, str]:
    """The addresses of the pages of so many runs, by thread, as the list of runs has them."""
    links = re.findall(r'href="(run\?[^"]+)" dir', client.get(address).text)
    urls = [httpx.URL(address).join(unescape(link)) for link in links]
    assert len(urls) == wanted
    return {url.params["thread"]: str(url) for url in urls}


@pytest.fixture(scope="module")
def pages(address: str) -> dict[str, str]:
    with httpx.Client(timeout=60) as client:
        return rows(client, address, 2)


def test_only_who_has_the_address_is_answered(address: str, client: httpx.Client, pages: dict[str, str]) -> None:
    root = address.rsplit("/", 2)[0]
    for wrong in (f"{root}/", f"{root}/{'x' * 22}/", pages["two"].replace(address, f"{root}/x/"), f"{root}//"):
        assert client.get(wrong).status_code == 403
        assert "How far" not in client.get(wrong).text
    assert client.get(address, headers={"host": "attacker.example"}).status_code == 400
    assert client.post(address).status_code == 405
    assert client.get(f"{address}run?thread=none&run=x").status_code == 404
    assert client.get(f"{address}compare?one=&other=").status_code == 404


def test_the_list_is_whole_without_a_script_and_holds_what_was_written_since(
    tmp_path: Path, client: httpx.Client
) -> None:
    file = str(tmp_path / "runs.sqlite")
    with opened(file) as saver, stepwise(1) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        graph.invoke(QUESTION, at("first"))
        with viewed(file) as address:
            page = client.get(address).text
            assert '<span id="total">1</span>' in page
            graph.invoke(QUESTION, at("second"))
            assert '<span id="total">2</span>' in client.get(address).text
            sent = next(told for kind, told in events(client, page, address) if kind == "row")
            assert "run?thread=second" in sent["row"], "the open page is sent the row that it lacks"


def test_every_answer_says_that_it_loads_nothing(address: str, client: httpx.Client, pages: dict[str, str]) -> None:
    for url in (address, *pages.values(), f"{address}run?thread=none", address.rsplit("/", 2)[0]):
        headers = client.get(url).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
        assert headers["content-security-policy"].endswith("connect-src 'self'; frame-ancestors 'none'")
        assert "unsafe" not in headers["content-security-policy"]
        assert (headers["cache-control"], headers["referrer-policy"]) == ("no-store", "no-referrer")
        assert "set-cookie" not in headers


def test_the_page_of_a_run_is_the_saved_report_and_follows(
    database: str, address: str, client: httpx.Client, pages: dict[str, str]
) -> None:
    with open_database(database) as saver:
        (run,) = read_runs(saver, "two")
    saved = client.get(pages["two"].replace("/run?", "/run/saved?"))
    assert saved.text == render_run(run, verify(run))
    assert saved.headers["content-disposition"] == f'attachment; filename="run-{run.run[:12]}.html"'
    live, frozen = Page(client.get(pages["two"]).text), Page(saved.text)
    assert "Verified." in live.words
    assert set(frozen.ids) < set(live.ids)
    assert not any("data-events" in attributes for _, attributes in frozen.tags)
    assert sum("data-events" in attributes for _, attributes in live.tags) == 1


def test_forks_and_their_parents_lead_to_each_other(address: str, client: httpx.Client, pages: dict[str, str]) -> None:
    for thread, other in (("two", "one & <b>/../x"), ("one & <b>/../x", "two")):
        links = [unescape(each["href"]) for each in Page(client.get(pages[thread]).text).all("a")]
        assert pages[other] in [str(httpx.URL(pages[thread]).join(link)) for link in links]


def test_two_runs_are_compared(address: str, client: httpx.Client, pages: dict[str, str]) -> None:
    one, other = (url.partition("?")[2] for url in pages.values())
    page = Page(client.get(f"{address}compare?one={quote(one)}&other={quote(other)}").text)
    assert "They share the first" in page.words
    links = [str(httpx.URL(address).join(unescape(each["href"]))) for each in page.all("a")]
    assert set(pages.values()) <= set(links)


def test_nothing_is_written(database: str, client: httpx.Client, pages: dict[str, str]) -> None:
    def kept() -> dict[str, str]:
        folder = Path(database).parent
        names = [each for each in sorted(folder.iterdir()) if not each.name.endswith(("-shm", "-wal"))]
        return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in names}

    before = kept()
    for url in pages.values():
        assert client.get(url).status_code == 200
    assert kept() == before
    wal = Path(f"{database}-wal")
    assert not wal.exists() or wal.stat().st_size == 0


def test_a_page_is_sent_what_changes_and_nothing_twice(place: str, client: httpx.Client) -> None:
    thread = new_thread()
    with opened(place) as saver, stepwise(STEPS, (9, 3)) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        graph.invoke(QUESTION, at(thread), interrupt_after=["draft"], durability="sync")
        with viewed(place, thread) as url:
            page = client.get(url).text
            assert "No answer yet" in page
            assert Page(page).all("article", id="pending")
            following = events(client, page, url)
            assert next(following)[0] == "well"
            graph.invoke(None, at(thread), durability="sync")
            sent: list[int] = []
            last: dict[str, str] = {}
            for kind, told in following:
                assert kind == "run"
                sent += [each["number"] for each in told["steps"]]
                last |= told["parts"]
                if ANSWER in told["parts"].get("part-answer", "") and "Verified." in last["part-verification"]:
                    break
            assert sorted(set(sent)) == list(range(1, STEPS + 2))
            assert told["length"] == STEPS + 1
            assert "In flight" not in last["part-in_flight"]
            (run,) = read_runs(saver, thread)
            assert run.result["hash"] not in page
            assert run.result["hash"] in last["part-verification"]


def test_what_a_page_missed_is_sent_when_it_comes_back(place: str, client: httpx.Client) -> None:
    thread = new_thread()
    with opened(place) as saver, stepwise(STEPS) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        graph.invoke(QUESTION, at(thread), interrupt_after=["accept"], durability="sync")
        with viewed(place, thread) as url:
            page = client.get(url).text
            assert Page(page).all("article", id="step-1")
            graph.invoke(None, at(thread), durability="sync")  # nobody listens
            kind, told = next(each for each in events(client, page, url) if each[0] != "well")
            assert kind == "run"
            assert [each["number"] for each in told["steps"]] == list(range(2, STEPS + 2))
            forgotten = re.sub(r"from=\w+", "from=unknown", page)
            assert next(events(client, forgotten, url)) == ("reload", None)


def test_a_page_whose_thread_is_removed_says_so(place: str, client: httpx.Client) -> None:
    thread = new_thread()
    with opened(place) as saver, stepwise(STEPS) as pair:
        create_specreason(pair).compile(checkpointer=saver).invoke(QUESTION, at(thread))
        with viewed(place, thread) as url:
            following = events(client, client.get(url).text, url)
            assert next(following) == ("well", None)
            saver.delete_thread(thread)
            assert next(following) == ("problem", "the thread is no longer in the database")


def test_a_run_that_cannot_be_shown_hides_no_other(tmp_path: Path, client: httpx.Client) -> None:
    file = str(tmp_path / "runs.sqlite")
    with opened(file) as saver, stepwise(STEPS) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        for thread in ("sound", "changed", "torn"):
            graph.invoke(QUESTION, at(thread))
    with connected(file) as connection:
        connection.execute("update writes set value = replace(value, 'Step 2', 'Step X') where thread_id = 'changed'")
        connection.execute("update checkpoints set checkpoint = x'c1' where thread_id = 'torn'")
        first = "(select min(rowid) from checkpoints where thread_id = 'torn')"
        connection.execute(f"update checkpoints set thread_id = cast(x'ff' as text) where rowid = {first}")  # noqa: S608
    with viewed(file) as url:
        body = client.get(url).text.partition('<tbody id="rows">')[2].partition("</tbody>")[0]
        found = ["<tr" + row for row in body.split("<tr")[1:]]
        assert sum("damaged" in row for row in found) >= 1
        assert any("sound" in row and ANSWER in row for row in found)
        for row in found:
            link = re.search(r'href="(run\?[^"]+)"', row)
            assert link
            page = client.get(url + unescape(link[1]))
            assert page.status_code in (200, 404)
            if "thread=changed" in link[1]:
                assert "Verification failed" in page.text


def test_input_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "none.sqlite")
    assert run_command(["view", "--db", file]) == 2
    assert "there is no database" in capsys.readouterr().err
    assert not Path(file).exists()
    with opened(file) as saver:
        saver.setup()
    assert run_command(["view", "nobody", "--db", file]) == 2
    assert "no thread 'nobody'" in capsys.readouterr().err
    assert run_command(["view", "--db", file, "--port", "99999"]) == 2
    with viewed(file) as url:
        port = str(httpx.URL(url).port)
        assert run_command(["view", "--no-open", "--db", file, "--port", port]) == 2
        assert f"port {port} cannot be used" in capsys.readouterr().err


class Counting(SqliteSaver):
    """Counts the checkpoints that it is asked for."""

    read = 0

    def list(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        for each in super().list(*args, **kwargs):
            Counting.read += 1
            yield each


def test_a_thread_is_followed_as_it_is_read(place: str) -> None:
    thread = new_thread()
    seen, inside = FollowedThread(thread), FollowedThread(f"{thread}-inside")

    def read(followed: FollowedThread) -> list[RecordedRun]:
        with open_database(place) as reading:
            return followed.read(reading, thread_marks(reading)[followed.thread_id])

    def compare(followed: FollowedThread) -> int:
        found = read(followed)
        with open_database(place) as reading:
            assert found == find_recorded(reading, followed.thread_id)
        return len(found)

    with opened(place) as saver, stepwise(STEPS, (9, 3)) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        for asked in range(2):  # the second question goes on in the same thread
            for _ in graph.stream(QUESTION, at(thread), durability="sync", stream_mode="updates"):
                compare(seen)
            assert compare(seen) == asked + 1
        app = parent(create_specreason(pair).compile()).compile(checkpointer=saver)
        for _ in app.stream(QUESTION, at(inside.thread_id), durability="sync", subgraphs=True):
            read(inside)  # the subgraph goes on in a thread of its own meanwhile
        assert compare(inside) == 1
        prune(saver, thread)  # removes most of what is known
        assert compare(seen) == 2
    with open_database(place) as reading:
        assert next(iter(thread_marks(reading))) in (thread, inside.thread_id), "the last one written comes first"


def test_only_what_is_new_is_read() -> None:
    with Counting.from_conn_string(":memory:") as saver, stepwise(40) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        seen, most = FollowedThread("t"), 0
        for _ in graph.stream(QUESTION, at("t"), durability="sync", stream_mode="updates"):
            total = saver.conn.execute("select count(*), max(checkpoint_id) from checkpoints").fetchone()
            Counting.read = 0
            (run,) = seen.read(saver, ThreadMark(total[1], total[0]))
            most = max(most, Counting.read)
        assert run.finished
        assert total[0] > 100
        assert most <= 30
