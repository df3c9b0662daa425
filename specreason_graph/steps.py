"""Writing one reasoning step: where it ends, and which tokens belong to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from specreason_graph.engines.base import Engine, Generation, Sampling, Vocabulary
from specreason_graph.positions import Prompt
from specreason_graph.prompting import BLANK_LINE, Prompter
from specreason_graph.records import Ending, Proposal, Usage
from specreason_graph.records import Engine as Role


async def write_steps(
    engine: Engine,
    prompter: Prompter,
    role: Role,
    prompt: Prompt | list[int],
    *,
    limit: int,
    seed: int,
    tags: tuple[str, ...] = (),
    count: int = 1,
) -> list[Proposal]:
    """Let ``engine`` write ``count`` versions of one step, of at most ``limit`` tokens, behind ``prompt``.

    A step ends with the token that completes a blank line (once it has ``min_step_tokens``), before the closing tag,
    before any special token, or at the limit. ``tags`` are closing tags to look for in the text. Version ``i`` is drawn
    with ``seed + i``; of versions that are token for token the same the first is given. The first one's usage holds
    the prompt and the time of the call that all began with.
    """
    config, vocabulary = prompter.config, prompter.vocabulary
    sampling = Sampling(
        max_tokens=limit, temperature=config.temperature, top_p=config.top_p, seed=seed, n=count,
        stop=(BLANK_LINE, *tags), stop_token_ids=vocabulary.special_ids | vocabulary.eos_ids,
    )  # fmt: skip
    begun = await engine.generate(prompt, sampling)

    async def finished(number: int, generation: Generation) -> Proposal:
        usage = _share(begun.usage, begun.generations, number)
        written, calls = generation.token_ids, 1
        while True:
            ids, ending = _cut(written, generation, prompter, tags)
            if ending != "blank_line" or len(ids) >= min(config.min_step_tokens, limit):
                break
            left = replace(sampling, n=1, max_tokens=limit - len(written), seed=seed + number + count * calls)
            part = await engine.generate([*prompt, *written], left)
            generation, usage, calls = part.generations[0], usage + part.usage, calls + 1
            written = written + generation.token_ids
        text = vocabulary.decode(ids)
        return Proposal(author=role, token_ids=ids, text=text, ending=ending, seed=seed + number, usage=usage)

    return _distinct(await asyncio.gather(*(finished(*each) for each in enumerate(begun.generations))))


def _share(usage: Usage, generations: Sequence[Generation], number: int) -> Usage:
    """The part of a call's usage that is told with one of its generations."""
    if len(generations) == 1:
        return usage
    written = len(generations[number].token_ids)
    return usage.model_copy(update={"generated_tokens": written}) if number == 0 else Usage(generated_tokens=written)


def _distinct(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Each text once, with what all that wrote it cost."""
    found: dict[tuple[object, ...], Proposal] = {}
    for each in proposals:
        key = (each.ending, *each.token_ids)
        same = found.get(key)
        found[key] = same.model_copy(update={"usage": same.usage + each.usage}) if same else each
    return list(found.values())


def _cut(
    written: list[int], generation: Generation, prompter: Prompter, tags: tuple[str, ...]
) -> tuple[list[int], Ending]:
    """The tokens of the step, without what ended it, and the ending."""
    last = written[-1]
    if generation.finish == "stop_token":
        if [last] == prompter.close_ids:
            return written[:-1], "think_end"
        return written[:-1], "end_of_sequence" if last in prompter.vocabulary.eos_ids else "special_token"
    if generation.finish == "length":
        return written, "length"
    return _cut_at_tag(written, prompter.vocabulary, tags)


def _cut_at_tag(written: list[int], vocabulary: Vocabulary, tags: tuple[str, ...]) -> tuple[list[int], Ending]:
    text = vocabulary.decode(written)
    tag = next((tag for tag in tags if tag in text), None)
    if tag is None:
        return written, "blank_line"
    before = text.partition(tag)[0]
    kept = _longest_prefix(written, before, vocabulary.decode)
    rest = before[len(vocabulary.decode(kept)) :]
    return kept + vocabulary.encode(rest), "think_end"


def _longest_prefix(ids: list[int], text: str, decode: Callable[[Sequence[int]], str]) -> list[int]:
    length = len(ids)
    while not text.startswith(decode(ids[:length])):
        length -= 1
    return ids[:length]
