"""The training loop: Muon on the matrices, AdamW on the rest, loss on weighted tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from training.documents import NOT_JUDGED, Batch
from training.tokenizer import CONTEXT
from training.workers import average_gradients, workers

HEAD = 32


@dataclass(frozen=True)
class Plan:
    """How long and how fast one phase trains."""

    tokens: int
    """Tokens to see, padding included, all workers together."""
    batch: int = 4096
    """Most tokens of one worker's batch."""
    rate: float = 3e-3
    """Peak learning rate, reached after ``warmup`` updates and falling to 3% along a cosine."""
    warmup: int = 100
    """Updates until the peak."""
    auxiliary: float = 0.0
    """Weight of the auxiliary loss: at each token of a step, is the step wrong so far."""


def new_model(vocabulary: int, eos: int, *, layers: int, width: int) -> Qwen3ForCausalLM:
    """A Qwen3 of random weights, with heads of 32 and three times the width in its MLP."""
    config = Qwen3Config(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, intermediate_size=3 * width,
        num_attention_heads=width // HEAD, num_key_value_heads=width // HEAD, head_dim=HEAD,
        max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=eos, pad_token_id=eos,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


def grown(model: PreTrainedModel, layers: int) -> Qwen3ForCausalLM:
    """The same function in more layers: those put on top write nothing yet."""
    config = Qwen3Config(**{**model.config.to_dict(), "num_hidden_layers": layers, "layer_types": None})
    larger = Qwen3ForCausalLM(config)
    larger.load_state_dict(model.state_dict(), strict=False)
    for layer in larger.model.layers[model.config.num_hidden_layers :]:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    return larger


def optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms."""
    named = list(model.named_parameters())
    matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    rest = [p for n, p in named if p.ndim != 2 or "embed" in n or "lm_head" in n]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def losses(model: PreTrainedModel, probe: nn.Linear, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy on the weighted tokens, and the auxiliary loss on the judged ones."""
    mask = torch.zeros(batch.mask.shape).masked_fill_(~batch.mask, torch.finfo(torch.float32).min)
    hidden = model.model(
        input_ids=batch.ids, attention_mask=mask, position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    predicting, target = _predictions(batch)
    weights = batch.weights.flatten()[target]
    logits = model.lm_head(hidden.flatten(0, 1)[predicting])
    each = functional.cross_entropy(logits, batch.ids.flatten()[target], reduction="none")
    main = (each * weights).sum() / weights.sum()
    judged = batch.verdicts != NOT_JUDGED
    if not judged.any():
        return main, torch.zeros(())
    wrong = probe(hidden[judged])[:, 0]
    return main, functional.binary_cross_entropy_with_logits(wrong, batch.verdicts[judged].float())


def _predictions(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat indices of weighted tokens and of the token in front of each (within a branch it is the one before)."""
    target = (batch.weights.flatten() > 0).nonzero()[:, 0]
    target = target[target % batch.ids.shape[1] > 0]
    return target - 1, target


def fit(
    model: PreTrainedModel,
    batches: Iterator[Batch],
    plan: Plan,
    report: Callable[[str], None],
    every: int = 100,
) -> PreTrainedModel:
    """Train ``model`` in place; ``report`` gets a line of figures every ``every`` updates."""
    probe = nn.Linear(model.config.hidden_size, 1)
    steppers = optimizers(model, plan.rate)
    steppers.append(torch.optim.AdamW(probe.parameters(), lr=plan.rate))
    begun, sums = time.monotonic(), torch.zeros(2)
    updates = plan.tokens // (plan.batch * workers())  # the same for every worker, whatever its batches hold
    for update in range(1, updates + 1):
        batch = next(batches)
        factor = min(1.0, update / plan.warmup) * (0.515 + 0.485 * math.cos(math.pi * update / updates))
        main, auxiliary = losses(model, probe, batch)
        (main + plan.auxiliary * auxiliary).backward()
        average_gradients(model, probe)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = plan.rate * factor
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        sums += torch.stack([main.detach(), auxiliary.detach()])
        if update % every == 0:
            loss, probed = (sums / every).tolist()
            seen = update * plan.batch * workers()
            pace = seen / (time.monotonic() - begun)
            report(f"{seen / 1e6:6.2f} M tokens  loss {loss:.4f}  auxiliary {probed:.4f}  {pace:.0f}/s")
            sums.zero_()
    return model
