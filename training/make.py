"""Make the pair from nothing: tokenizer, draft, base that solves, base that also judges.

Each stage leaves a folder in the work directory and is skipped when the folder is there, so a broken run goes on.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from specreason_graph.models.abacus.problems import draw_training_problem
from training.documents import Document, Writer, batches, judging, solving
from training.fit import Plan, fit, grown, new_model
from training.play import share_right
from training.proposals import draft_pool
from training.tokenizer import save_tokenizer
from training.workers import run

DRAFT_LAYERS, DRAFT_WIDTH, DRAFT_PLAN, DRAFT_HARD_WEIGHT = 2, 96, Plan(4_600_000, rate=5e-3), 0.05
SOLVER_LAYERS, BASE_WIDTH, SOLVER_PLAN = 8, 128, Plan(10_000_000, batch=2048, rate=4e-3)
BASE_LAYERS, JUDGE_PLAN = 16, Plan(9_000_000, batch=3072, rate=2e-3, warmup=200, auxiliary=0.5)
BASE_PLAN, PAIRS = Plan(4_000_000, batch=2048, rate=1.5e-3, warmup=50, auxiliary=0.5), 0.7
DRAFT_SHORT_PLAN, DRAFT_SHORT = Plan(1_200_000, rate=2e-3, warmup=50), 0.4
BASE_SHORT_PLANS = (
    (Plan(3_200_000, batch=2048, rate=1e-3, warmup=50, auxiliary=0.5), 0.4, 0.2),
    (Plan(4_400_000, batch=2048, rate=1.8e-3, warmup=50, auxiliary=0.5), 0.55, 0.5),
    (Plan(3_000_000, batch=2048, rate=1.4e-3, warmup=50, auxiliary=0.5), 0.7, 0.6),
    (Plan(4_000_000, batch=2048, rate=1.6e-3, warmup=50, auxiliary=0.5), 0.75, 0.65),
)
"""The last stages of the base: each with its share of short problems, and of documents that only solve."""
POOL = 2_048
CHECKED = 50
SEED = 1


def make(work: Path) -> tuple[Path, Path]:
    """Run the stages that are missing; the folders of the base and the draft model."""
    work.mkdir(parents=True, exist_ok=True)
    save_tokenizer(work / "tokenizer")
    draft = (DRAFT_LAYERS, DRAFT_WIDTH, DRAFT_PLAN, DRAFT_HARD_WEIGHT)
    train_once(work / "draft", lambda folder: run(_solver, work, folder, *draft, count=1))
    train_once(work / "solver", lambda folder: run(_solver, work, folder, SOLVER_LAYERS, BASE_WIDTH, SOLVER_PLAN))
    train_once(work / "judge", lambda folder: run(_judge, work, folder, "solver", JUDGE_PLAN))
    train_once(work / "base", lambda folder: run(_judge, work, folder, "judge", BASE_PLAN, PAIRS))
    short = (DRAFT_SHORT_PLAN, DRAFT_HARD_WEIGHT, DRAFT_SHORT)
    train_once(work / "draft-short", lambda folder: run(_tuned, work, folder, "draft", *short, count=1))
    last = "base"
    for number, (plan, share, plain) in enumerate(BASE_SHORT_PLANS, start=1):
        tuned = (last, plan, PAIRS, "draft-short", share, plain)
        last = f"base-short-{number}"
        train_once(work / last, partial(_run_into, work, tuned))
    return work / last, work / "draft-short"


def _run_into(work: Path, tuned: tuple[Any, ...], folder: Path) -> None:
    run(_judge, work, folder, *tuned)


def train_once(folder: Path, train: Callable[[Path], None]) -> None:
    """Train into ``folder`` unless it is there; while it trains the model is in ``folder`` with ``-unfinished``."""
    if (folder / "config.json").exists():
        return
    start = time.monotonic()
    unfinished = folder.with_name(folder.name + "-unfinished")
    train(unfinished)
    unfinished.rename(folder)
    print(f"{folder.name}: {(time.monotonic() - start) / 60:.1f} minutes", flush=True)


def _solver(rank: int, work: Path, folder: Path, layers: int, width: int, plan: Plan, hard_weight: float = 1.0) -> None:
    """One of the workers that teach a new model to solve; each draws its own documents."""
    torch.manual_seed(SEED)
    writer = Writer(AutoTokenizer.from_pretrained(work / "tokenizer"))
    model = new_model(len(writer.tokenizer), writer.tokenizer.eos_token_id, layers=layers, width=width)
    rng = random.Random(SEED + rank)
    _fit(model, writer, solving(writer, rng, hard_weight), plan, rng, folder, quiet=rank > 0)


def _tuned(
    rank: int, work: Path, folder: Path, begin: str, plan: Plan, hard_weight: float, short: float
) -> None:  # fmt: skip
    """One of the workers that teach the stage ``begin`` to solve short problems as well."""
    torch.manual_seed(SEED)
    writer = Writer(AutoTokenizer.from_pretrained(work / "tokenizer"))
    model = AutoModelForCausalLM.from_pretrained(work / begin, dtype=torch.float32)
    rng = random.Random(f"short {rank}")
    _fit(model, writer, solving(writer, rng, hard_weight, short), plan, rng, folder, quiet=rank > 0)


def _judge(
    rank: int, work: Path, folder: Path, begin: str, plan: Plan, pairs: float = 0.0, drafts: str = "draft",
    short: float = 0.0, plain: float = 0.2,
) -> None:  # fmt: skip
    """One of the workers that teach the stage ``begin``, grown, to judge steps of the stage ``drafts``."""
    torch.manual_seed(SEED)
    writer = Writer(AutoTokenizer.from_pretrained(work / "tokenizer"))
    draft, model = [AutoModelForCausalLM.from_pretrained(work / name, dtype=torch.float32) for name in (drafts, begin)]
    rng = random.Random(f"judge {rank}" + " short" * bool(short))
    pool = draft_pool(draft, writer, rng, POOL, short)
    documents = judging(writer, rng, lambda rng: rng.choice(pool), pairs=pairs, short=short, plain=plain)
    _fit(grown(model, BASE_LAYERS), writer, documents, plan, rng, folder, quiet=rank > 0)


def _fit(
    model: PreTrainedModel, writer: Writer, documents: Iterator[Document], plan: Plan, rng: random.Random,
    folder: Path, *, quiet: bool = False,
) -> None:  # fmt: skip
    check = [draw_training_problem(random.Random(10**6 + i)) for i in range(CHECKED)]
    short = [draw_training_problem(random.Random(10**6 + i), short=1.0) for i in range(CHECKED)]

    def report(line: str) -> None:
        if quiet:
            return
        model.eval()
        right, right_short = [share_right(model, writer, problems) for problems in (check, short)]
        print(f"{line}  right {right:.2f}, of short ones {right_short:.2f}", flush=True)
        model.train()
        save(model, writer, folder)

    fit(model, batches(documents, plan.batch, rng), plan, report, every=100)
    if not quiet:
        save(model, writer, folder)


def save(model: PreTrainedModel, writer: Writer, folder: Path) -> None:
    """Write a model folder as transformers, vLLM and others load it; weights in bf16."""
    eos = writer.tokenizer.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=eos, do_sample=False)
    state = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
    config = deepcopy(model.config)
    config.dtype = torch.bfloat16  # save_pretrained writes that of the model in training
    config.save_pretrained(folder)
    writer.tokenizer.save_pretrained(folder)
