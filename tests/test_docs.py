"""The documents: current, linked, short, and true to the names of commands, options and files."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from specreason_graph.cli.app import app
from specreason_graph.config import SpecReasonConfig
from specreason_graph.engines.options import VLLMOptions

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SITE = sorted(DOCS.glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *SITE]
LONGEST = 130
OLD = (
    "ahead in vain",
    "goodput guard",
    "--window",
    "--guard",
    "--reading",
    "--way",
    "bench overhead",
    "bench starts",
    "bench speed",
)
"""What names and flags were called before."""


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    return re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)


def anchors_of(page: Path) -> set[str]:
    """Anchors as GitHub and mkdocs make them of headings."""
    titles = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def named(page: Path) -> str:
    return page.name


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors_of(target), f"{page.name}: {link}"
        assert page.parent == ROOT or target.is_relative_to(DOCS), f"{page.name}: {link} leaves the site"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_pages_are_short(page: Path) -> None:
    lines = text_of(page).splitlines()
    assert len(lines) <= LONGEST or page.name == "settings.md"
    assert lines[0].startswith("# ")


def test_the_settings_page_and_the_typed_settings_are_current() -> None:
    spec = importlib.util.spec_from_file_location("make_settings", DOCS / "make_settings.py")
    assert spec
    assert spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == text_of(DOCS / "settings.md"), "run: python docs/make_settings.py"
    assert module.typed() == text_of(module.TYPED), "run: python docs/make_settings.py"


def test_the_first_screen_of_the_readme_shows_a_whole_example() -> None:
    first = "\n".join(text_of(ROOT / "README.md").splitlines()[:40])
    assert "When not to use it" in first
    assert re.search(r"```console\n\$ .*?The answer is .*?```", first, re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_page_uses_old_names(page: Path) -> None:
    assert not [name for name in OLD if name in text_of(page)]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_that_are_named_exist(page: Path) -> None:
    """A path in backticks is one of the checkout or of the package."""
    for path in re.findall(r"`((?:[\w.]+/)+[\w.]*)`", text_of(page)):
        assert (ROOT / path).exists() or (ROOT / "specreason_graph" / path).exists() or "NAME" in path, path


def commands_in(page: Path) -> Iterator[list[str]]:
    """Command lines of ``specreason``, from code."""
    for line in re.findall(r"specreason(?: [\w\[\].<>=\"'*/:,{}-]+)+", text_of(page).replace("\\\n", " ")):
        yield line.split()[1:]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_and_flags_exist(page: Path) -> None:
    for words in commands_in(page):
        command: Any = typer.main.get_command(app)
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        known = {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)} | {"--help"}
        for flag in (word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)):
            assert flag in known, f"{page.name}: {flag} in {command.name}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_settings_and_engine_options_exist(page: Path) -> None:
    for option, name in re.findall(r"--(set|option) '?(?:base\.|draft\.)?([a-z_]+)=", text_of(page)):
        assert name in (SpecReasonConfig if option == "set" else VLLMOptions).model_fields


def test_the_site_is_whole_and_loads_nothing_from_the_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    for page in SITE:
        html = text_of(tmp_path / f"{page.stem}.html")
        assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//', html)
