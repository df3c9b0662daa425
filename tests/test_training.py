"""The training documents say what the package's own prompts say, and branches see what they should."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from specreason_graph import EnginePair
from specreason_graph.config import make_config
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.models.abacus import FOLDER
from specreason_graph.models.abacus.problems import draw_training_problem, held_out
from specreason_graph.record.records import Proposal, Usage
from training import make as making
from training.documents import Document, Writer, batches, collate, corrupt, judging, solving
from training.evaluate import Judged, auroc
from training.fit import Plan, fit, grown, new_model
from training.tokenizer import make_tokenizer


@pytest.fixture(scope="module")
def writer() -> Writer:
    return Writer(AutoTokenizer.from_pretrained(FOLDER / "base"))


def test_the_judge_is_trained_on_the_prompt_that_the_package_sends(writer: Writer, abacus: EnginePair) -> None:
    problem = held_out()[4]
    document, cuts = writer.solution(problem)
    writer.judge(document, cuts[1], None, problem.steps[0])
    seen = document.ids[: cuts[1]] + document.ids[len(document.ids) - len(writer.suffix) - 1 : -1]
    sampler = StepSampler.create(abacus, make_config())
    step = Proposal(
        author="draft", token_ids=writer.tokenizer.encode(problem.steps[0]), text=problem.steps[0], ending="blank_line",
        seed=0, usage=Usage(),
    )  # fmt: skip
    head = sampler.prompts.base.question_ids(problem.question)
    assert sampler.prompts.thinking_ids("base", head, [step]) + sampler.setup.judge_ids == seen


def test_a_branch_sees_its_own_story_only(writer: Writer) -> None:
    torch.manual_seed(0)
    model = new_model(len(writer.tokenizer), writer.tokenizer.eos_token_id, layers=2, width=64).train(mode=False)
    problem = held_out()[4]
    document, cuts = writer.solution(problem)
    wrong = corrupt(problem.steps[1], problem, 1, random.Random(0))
    writer.judge(document, cuts[2], None, problem.steps[1])
    writer.judge(document, cuts[1], wrong, problem.steps[1])
    batch = collate([document, Document(ids=[0], positions=[0], segments=[0], cuts=[0], weights=[0.0], verdicts=[-1])])
    alone = document.ids[: cuts[1]] + writer.tokenizer.encode(wrong) + writer.suffix
    with torch.inference_mode():
        mask = torch.zeros(batch.mask.shape).masked_fill_(~batch.mask, -1e9)
        packed = model(input_ids=batch.ids, attention_mask=mask, position_ids=batch.positions).logits[0, -2]
        plain = model(input_ids=torch.tensor([alone])).logits[0, -1]
    assert torch.allclose(packed, plain, atol=1e-4)


def test_growing_keeps_the_function(writer: Writer) -> None:
    torch.manual_seed(0)
    model = new_model(len(writer.tokenizer), writer.tokenizer.eos_token_id, layers=2, width=64).train(mode=False)
    ids = torch.tensor([writer.prompt(held_out()[0])])
    with torch.inference_mode():
        assert torch.allclose(model(ids).logits, grown(model, 5).train(mode=False)(ids).logits, atol=1e-5)


def test_documents_are_rectangular_and_verdicts_fit(writer: Writer) -> None:
    rng = random.Random(0)
    problem = draw_training_problem(rng)
    pool = [(problem, [None, *problem.steps[1:]])]
    documents = judging(writer, rng, lambda rng: rng.choice(pool))
    for document in (next(documents) for _ in range(200)):
        lengths = {len(values) for values in vars(document).values()}
        assert len(lengths) == 1
        assert set(document.verdicts) <= {-1, 0, 1}


def test_the_committed_tokenizer_is_the_one_that_training_makes() -> None:
    committed = AutoTokenizer.from_pretrained(FOLDER / "base")
    assert make_tokenizer().get_vocab() == committed.get_vocab()
    assert AutoTokenizer.from_pretrained(FOLDER / "draft").get_vocab() == committed.get_vocab()
    assert committed.encode(".\n\n") == [committed.get_vocab()[".ĊĊ"]]
    assert all(len(committed.encode(digit)) == 1 for digit in "0123456789")


def test_training_lowers_the_loss(writer: Writer) -> None:
    torch.manual_seed(0)
    rng = random.Random(0)
    model = new_model(len(writer.tokenizer), writer.tokenizer.eos_token_id, layers=2, width=32)
    lines: list[str] = []
    plan = Plan(80_000, batch=1024, warmup=5)
    fit(model, batches(solving(writer, rng), plan.batch, rng), plan, lines.append, every=10)
    losses = [float(line.split("loss")[1].split()[0]) for line in lines]
    assert losses[-1] < losses[0] - 1


def test_a_finished_stage_is_not_trained_again(tmp_path: Path) -> None:
    def never(_: Path) -> None:
        raise AssertionError("trained again")

    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "config.json").write_text("{}")
    making.train_once(tmp_path / "draft", never)


def test_auroc_counts_ties_half() -> None:
    judged = [Judged(right=right, score=score) for right, score in ((True, 9), (True, 5), (False, 5), (False, 1))]
    assert auroc(judged) == 0.875
