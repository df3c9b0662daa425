"""Make the pair from nothing: tokenizer, draft, base that solves, base that also judges.

Each stage leaves a folder in the work directory and is skipped when the folder is there, so a broken run goes on.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from specreason_graph.models.abacus.problems import draw_training_problem
from training.documents import Document, Writer, batches, judging, solving
from training.fit import Plan, fit, grown, new_model
from training.play import share_right
from training.proposals import draft_pool
from training.tokenizer import save_tokenizer

BATCH = 4096
DRAFT_LAYERS, DRAFT_WIDTH, DRAFT_PLAN, DRAFT_HARD_WEIGHT = 2, 96, Plan(4_600_000, rate=5e-3), 0.05
SOLVER_LAYERS, BASE_WIDTH, SOLVER_PLAN = 8, 128, Plan(6_500_000, rate=4e-3)
BASE_LAYERS, JUDGE_PLAN = 16, Plan(6_000_000, rate=2.5e-3, auxiliary=0.5)
POOL = 6_000
SEED = 1


def make(work: Path) -> tuple[Path, Path]:
    """Run the stages that are missing; the folders of the base and the draft model."""
    work.mkdir(parents=True, exist_ok=True)
    writer = Writer(save_tokenizer(work / "tokenizer"))
    draft = _stage(
        work / "draft", lambda: _solver(writer, DRAFT_LAYERS, DRAFT_WIDTH, DRAFT_PLAN, DRAFT_HARD_WEIGHT), writer
    )
    solver = _stage(work / "solver", lambda: _solver(writer, SOLVER_LAYERS, BASE_WIDTH, SOLVER_PLAN), writer)
    _stage(work / "base", lambda: _judge(writer, solver, draft, work / "base-unfinished"), writer)
    return work / "base", work / "draft"


def _stage(folder: Path, train: Callable[[], PreTrainedModel], writer: Writer) -> PreTrainedModel:
    if not (folder / "config.json").exists():
        start = time.monotonic()
        torch.manual_seed(SEED)
        save(train(), writer, folder)
        print(f"{folder.name}: {(time.monotonic() - start) / 60:.1f} minutes", flush=True)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _solver(writer: Writer, layers: int, width: int, plan: Plan, hard_weight: float = 1.0) -> PreTrainedModel:
    tokenizer = writer.tokenizer
    model = new_model(len(tokenizer), tokenizer.eos_token_id, layers=layers, width=width)
    rng = random.Random(SEED)
    return _fit(model, writer, solving(writer, rng, hard_weight), plan, rng)


def _judge(writer: Writer, solver: PreTrainedModel, draft: PreTrainedModel, unfinished: Path) -> PreTrainedModel:
    rng = random.Random(SEED + 1)
    pool = draft_pool(draft, writer, rng, POOL)
    documents = judging(writer, rng, lambda rng: rng.choice(pool))
    return _fit(grown(solver, BASE_LAYERS), writer, documents, JUDGE_PLAN, rng, unfinished)


def _fit(
    model: PreTrainedModel, writer: Writer, documents: Iterator[Document], plan: Plan, rng: random.Random,
    unfinished: Path | None = None,
) -> PreTrainedModel:  # fmt: skip
    check = [draw_training_problem(random.Random(10**6 + i)) for i in range(50)]

    def report(line: str) -> None:
        model.eval()
        print(f"{line}  right {share_right(model, writer, check):.2f}", flush=True)
        model.train()
        if unfinished:
            save(model, writer, unfinished)

    return fit(model, batches(documents, BATCH, rng), plan, report, every=100)


def save(model: PreTrainedModel, writer: Writer, folder: Path) -> None:
    """Write a model folder as transformers, vLLM and others load it; weights in bf16."""
    eos = writer.tokenizer.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=eos, do_sample=False)
    state = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    model.config.dtype = torch.bfloat16
    model.save_pretrained(folder, state_dict=state)
    writer.tokenizer.save_pretrained(folder)
