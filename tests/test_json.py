"""What commands print with --json: after their published schemas, and in one vocabulary."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from specreason_graph.models.abacus.problems import held_out

Command = Callable[..., CompletedProcess[str]]
SCHEMAS = Path(__file__).parent.parent / "docs" / "schemas"
QUESTION = held_out()[4].question
SEALED = (
    "Step", "Answer", "Manifest", "Decision", "Score", "Goodput", "Review", "Setup", "Lineage", "Judged", "Signature",
    "Proposal",
)  # fmt: skip
"""Records that were sealed under their own names: they are not renamed, and keys in them are their own."""


def make_schemas(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("make_schemas", SCHEMAS.parent / "make_schemas.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # pydantic looks the module of a model up
    spec.loader.exec_module(module)
    return module


def test_the_published_schemas_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    module = make_schemas(monkeypatch)
    found = {name: module.text_of(schema) for name, schema in module.schemas().items()}
    assert {file.stem: file.read_text() for file in SCHEMAS.glob("*.json")} == found, "run: python docs/make_schemas.py"


def types_of(schema: dict[str, Any]) -> set[str]:
    """The JSON types that a property may have, besides null."""
    if "anyOf" in schema:
        return {kind for each in schema["anyOf"] for kind in types_of(each)}
    kind = schema.get(
        "type", "object" if "$ref" in schema else "string" if "enum" in schema or "const" in schema else ""
    )
    return {"number" if kind == "integer" else kind} - {"null", ""}


def properties() -> Iterator[tuple[str, str, set[str]]]:
    """Each property of each document: where it stands, its name, and its types."""
    for file in sorted(SCHEMAS.glob("*.json")):
        schema = json.loads(file.read_text())
        for each in (schema, *schema.get("$defs", {}).values()):
            if each.get("title") not in SEALED:
                for name, found in each.get("properties", {}).items():
                    yield f"{file.stem}: {each.get('title')}", name, types_of(found)


def test_a_key_means_the_same_wherever_it_stands() -> None:
    kinds: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for place, name, types in properties():
        for kind in types:
            kinds[name][kind].append(place)
    several = {
        name: {kind: places[:3] for kind, places in found.items()} for name, found in kinds.items() if len(found) > 1
    }
    several.pop("default", None)  # of a setting: whatever the setting holds
    several.pop("id")  # of a question in a file: a text or a number, as the file has it
    assert several == {}


def test_names_say_what_they_count() -> None:
    for place, name, types in properties():
        assert name not in ("thread_id", "trace"), place
        if name in ("steps", "runs", "questions", "pairs", "threads", "findings", "rows"):
            assert types == {"array"}, place
        if name.endswith("_count") or name in ("acceptance", "threshold", "number", "seconds"):
            assert types == {"number"}, place


def valid(text: str, name: str) -> Any:
    """A document that was printed, checked against its schema."""
    document = json.loads(text)
    jsonschema.validate(document, json.loads((SCHEMAS / f"{name}.json").read_text()))
    return document


def test_what_commands_print_is_after_its_schema(here: Command, tmp_path: Path) -> None:
    def check(name: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> Any:
        done = here(*arguments, "--json")
        assert done.returncode in codes, done.stderr
        return valid(done.stdout, name)

    thread = check("solve", "solve", QUESTION)["thread"]
    other = check("solve", "solve", QUESTION, "--seed", "5", "--temperature", "1.5")["thread"]
    check("solve", "resume", thread)
    check("solve", "runs", "show", thread)
    check("solve", "audit", "fork", thread, "--at", "1", "--threshold", "9")
    check("doctor", "doctor")
    check("settings", "settings")
    check("runs-list", "runs", "list")
    check("runs-path", "runs", "path")
    check("audit-list", "audit", "list")
    shown = check("audit-show", "audit", "show", thread)
    assert shown["step_count"] == len(shown["steps"])
    check("audit-verify", "audit", "verify", thread)
    anchor = str(tmp_path / "anchor.json")
    assert here("audit", "anchor", "-o", anchor).returncode == 0
    check("audit-verify-anchor", "audit", "verify", "--anchor", anchor)
    check("audit-diff", "audit", "diff", thread, other, codes=(0, 1))
    for how in ("recorded", "rescore", "regenerate"):
        check(f"audit-replay-{how}", "audit", "replay", thread, "--how", how)
    check("audit-whatif", "audit", "whatif", thread, "--threshold", "9")
    check("audit-whatif-curve", "audit", "whatif")
    check("audit-whatif-target", "audit", "whatif", "--target", "0.2")
    check("audit-report", "audit", "report", thread, "-o", str(tmp_path / "run.html"))
    check("audit-prune", "audit", "prune", thread, "--dry-run")
    check("plan", "plan", "--hardware", "h200", "--base", "qwen3-32b", "--draft", "qwen3-0.6b")
    check("runs-rm", "runs", "rm", other)


def test_lines_of_many_questions_are_after_their_schemas(here: Command, tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(
        "".join(json.dumps({"question": each.question, "id": n}) + "\n" for n, each in enumerate(held_out()[:2]))
    )
    for name, more in (("solve-many", []), ("solve-many-json", ["--json"])):
        done = here("solve", "-f", str(file), *more)
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            valid(line, name)


def test_documents_of_benchmarks_are_after_their_schemas(
    here: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = (
        "bench",
        "run",
        "abacus-short",
        "--count",
        "2",
        "--only",
        "--set",
        "temperature=0",
        "-o",
        "a.jsonl",
        "--json",
    )
    done = here(*asked)
    assert done.returncode == 0, done.stderr
    valid(done.stdout, "bench-run")
    compared = here("bench", "compare", "a.jsonl", "--json")
    assert compared.returncode == 0, compared.stderr
    valid(compared.stdout, "bench-compare")
