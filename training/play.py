"""Batched greedy writing with a model in training: whole solutions, or the next step of many contexts."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from specreason_graph.models.abacus.problems import Problem, parse_answer
from specreason_graph.prompting.engine_prompts import BLANK_LINE
from training.documents import Writer


@torch.inference_mode()
def write(
    model: Any, prompts: list[list[int]], *, limit: int, stops: set[int], temperature: float = 0.0
) -> list[list[int]]:
    """Continue each prompt up to and with one of ``stops``, or to ``limit`` tokens."""
    length = max(map(len, prompts))
    pad = model.config.pad_token_id
    ids = torch.tensor([[pad] * (length - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts])
    written = model.generate(
        ids, attention_mask=mask, max_new_tokens=limit, eos_token_id=list(stops), pad_token_id=pad,
        do_sample=temperature > 0, temperature=temperature or None, top_k=None, top_p=None,
    )[:, length:].tolist()  # fmt: skip
    return [_cut(row, stops) for row in written]


def _cut(row: list[int], stops: set[int]) -> list[int]:
    for index, token in enumerate(row):
        if token in stops:
            return row[: index + 1]
    return row


def share_right(model: PreTrainedModel, writer: Writer, problems: list[Problem]) -> float:
    """Share of problems that the model alone answers right."""
    eos = writer.tokenizer.eos_token_id
    texts = write(model, [writer.prompt(p) for p in problems], limit=200, stops={eos})
    answers = [parse_answer(writer.tokenizer.decode(t)) for t in texts]
    return sum(a == p.answer for a, p in zip(answers, problems, strict=True)) / len(problems)


def next_steps(
    model: PreTrainedModel, writer: Writer, contexts: list[tuple[Problem, list[str]]], temperature: float
) -> list[str | None]:
    """What the model writes after the given steps; None where it ends the thinking or breaks off."""
    tokenizer = writer.tokenizer
    prompts = [writer.prompt(p) + tokenizer.encode("".join(done), add_special_tokens=False) for p, done in contexts]
    stops = {tokenizer.encode("." + BLANK_LINE)[0], tokenizer.encode("</think>")[0], tokenizer.eos_token_id}
    texts = [tokenizer.decode(ids) for ids in write(model, prompts, limit=40, stops=stops, temperature=temperature)]
    return [text if text.endswith("." + BLANK_LINE) else None for text in texts]
