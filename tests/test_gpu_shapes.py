"""`benchmarks/gpu_shapes.py` in its small form on the CPU; its figures are of no model, and are not asserted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_shapes
from benchmarks.gpu_shapes import STEP, EmbeddedPasses, PlainPasses, is_accepted, make, run_loop

ROOT = Path(__file__).parent.parent
HIDING = """
import sys, runpy
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pydantic", "langgraph", "specreason_graph"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
sys.argv = ["gpu_shapes.py", "--smoke", "--steps", "2"]
runpy.run_path("benchmarks/gpu_shapes.py", run_name="__main__")
"""


def test_the_table_has_all_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    gpu_shapes.main(["--smoke", "--steps", "3"])
    printed = capsys.readouterr().out
    assert "passes: embedded engine" in printed
    for judge in ("digit", "likelihood", "confidence"):
        assert f"| score by {judge} |" in printed
        for share in ("40%", "60%", "80%"):
            assert f"| {judge}, {share} accepted | " in printed
    assert "tiny draft: a token" in printed
    assert "| digit through the graph, 60% accepted | " in printed
    assert "ms a step are this package's own" in printed


def test_it_runs_with_torch_and_transformers_alone() -> None:
    done = subprocess.run([sys.executable, "-c", HIDING], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "passes: plain transformers" in done.stdout
    assert "not measured: langgraph cannot be imported" in done.stdout
    assert "| likelihood, 80% accepted | " in done.stdout


def test_plain_and_embedded_passes_write_the_same() -> None:
    model = make("tiny base", "cpu", torch.float32)
    plain, embedded = PlainPasses("tiny", model, "cpu"), EmbeddedPasses("tiny", model, "cpu")
    prompt = list(range(5, 60))
    written = embedded.write(prompt, STEP)
    assert plain.write(prompt, STEP) == written
    for each in (plain, embedded):  # scores leave what is cached as it was
        each.score([*prompt, *written, 7, 8])
        each.likelihood([*prompt, *written], STEP)
        assert each.write(prompt, STEP) == written


def test_acceptance_is_forced_to_the_step() -> None:
    for share in gpu_shapes.ACCEPTANCES:
        assert sum(is_accepted(number, share) for number in range(40)) == round(40 * share)
    model = make("tiny draft", "cpu", torch.float32)
    draft, base = (PlainPasses("tiny", model, "cpu") for _ in range(2))
    spent = run_loop(base, draft, [3, 4, 5], 5, 0.6, "confidence")
    assert spent.tokens == 5 * STEP
    assert set(spent.calls) == {"draft", "regenerate"}


def test_without_a_gpu_it_says_what_to_do(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_shapes.main([])
    assert "--smoke takes tiny shapes on the CPU" in capsys.readouterr().err
