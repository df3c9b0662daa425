r"""The tokenizer of the pair: byte-level BPE, digits split singly, ``.\\n\\n`` one token as in real vocabularies."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from specreason_graph.judging.digit import INSTRUCTION, PREFILL
from specreason_graph.models.abacus.problems import draw_training_problem

VOCABULARY = 640
CONTEXT = 1024
SPECIAL = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<think>", "</think>")
SPLIT = r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# As in published reasoning models: thinking of earlier turns is dropped, and the prompt of a turn opens the thinking.
TEMPLATE = """\
{%- for message in messages -%}
{%- set content = message.content -%}
{%- if message.role == 'assistant' and '</think>' in content -%}
{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
<|{{ message.role }}|>{{ content }}<|end|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|><think>{{ '\\n' }}{%- endif -%}
"""


def corpus(documents: int = 20_000) -> Iterator[str]:
    """Texts to learn the merges from: problems with solutions, and now and then the judge's prompt."""
    rng = random.Random(7)
    for number in range(documents):
        problem = draw_training_problem(rng)
        yield problem.question + "\n" + "".join(problem.steps) + f"\n\nThe answer is \\boxed{{{problem.answer}}}."
        if number % 4 == 0:
            yield INSTRUCTION + "\n" + PREFILL


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer from nothing; the result depends on nothing but this file and the problems."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        corpus(), BpeTrainer(vocab_size=VOCABULARY - len(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SPECIAL[0], pad_token=SPECIAL[0], model_max_length=CONTEXT,
        additional_special_tokens=list(SPECIAL[1:]), clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = TEMPLATE
    return fast


def save_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Train the tokenizer and write it to ``folder``."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    return tokenizer
