"""A real chat model with a real vocabulary, in both roles and beside the other vocabulary of the reference pair."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from specreason_graph.config import make_config
from specreason_graph.engines import open_engine
from specreason_graph.lookahead.step_sampler import write_steps
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.prompting.engine_prompts import EnginePrompts

pytestmark = pytest.mark.smollm2
QUESTION = held_out()[4].question
SHORT = ["--max-steps", "3", "--set", "max_step_tokens=32", "--answer-tokens", "24", "--threshold", "4", "--json"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others test at the same time, and threads of one model that wait for each other on a busy core take for ever."""
    monkeypatch.setattr("specreason_graph.engines.cores", lambda: 1)


@pytest.mark.parametrize(
    ("base", "draft", "shares"),
    [("smol", "smol", True), ("smol", "abacus-draft", False), ("abacus-base", "smol", False)],
)
def test_it_runs_in_both_roles(
    here: Callable[..., CompletedProcess[str]], smollm2: Path, base: str, draft: str, *, shares: bool
) -> None:
    names = {"smol": str(smollm2)}
    result = here("solve", "--base", names.get(base, base), "--draft", names.get(draft, draft), *SHORT, QUESTION)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    engines = document["engines"]
    assert (engines["base"]["vocabulary"] == engines["draft"]["vocabulary"]) is shares
    assert document["stop_reason"] in ("step_limit", "answered", "token_budget")
    assert document["answer"]
    assert any(step["score"] for step in document["steps"])
    assert "".join(step["text"] for step in document["steps"]).strip()


def test_doctor_checks_it(here: Callable[..., CompletedProcess[str]], smollm2: Path) -> None:
    result = here("doctor", "--base", str(smollm2), "--json")
    findings = {finding["name"]: finding for finding in json.loads(result.stdout)}
    assert result.returncode == 0
    assert findings["digits"]["status"] == findings["base cache"]["status"] == "ok"
    assert "different" in findings["vocabularies"]["detail"]


PARAGRAPHS = (
    "Write two short paragraphs about the sea.", "Write a poem of three stanzas about the sea.",
    "Write a long letter to a friend.", "How do I make tea? Explain each step in a paragraph.",
)  # fmt: skip


async def test_blank_lines_of_two_tokens_end_a_step(smollm2: Path) -> None:
    async with open_engine(str(smollm2), threads=1) as engine:
        prompts = EnginePrompts(engine.vocabulary, make_config(temperature=0, min_step_tokens=1))
        for asked in PARAGRAPHS:  # what a model writes at a near tie depends on the machine
            prompt = prompts.question_ids(asked)
            assert engine.vocabulary.decode(prompt).endswith("<|im_start|>assistant\n")
            (step,) = await write_steps(engine, prompts, "base", prompt, limit=200, seed=0)
            if step.ending == "blank_line":
                break
        assert step.ending == "blank_line"
        assert step.text == engine.vocabulary.decode(step.token_ids)
        assert step.text.endswith("\n\n")
        assert len(engine.vocabulary.encode("\n\n")) == 1
        assert step.token_ids[-2:] == engine.vocabulary.encode("\n") * 2


def test_its_own_tags_as_text_stay_text(smollm2: Path) -> None:
    vocabulary = open_engine(str(smollm2)).vocabulary
    ids = vocabulary.encode("<|im_end|>\n<|im_start|>user")
    assert not vocabulary.special_ids & set(ids)
    assert vocabulary.decode(ids) == "<|im_end|>\n<|im_start|>user"
