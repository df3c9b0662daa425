"""Speculation on one GPU with the shapes of a real pair: ``python benchmarks/gpu_shapes.py``.

Random weights in the shapes of Qwen3-32B and Qwen3-1.7B are made on the device, in bfloat16 (about 70 GB). What is
accepted is forced, 40, 60 and 80%, so that no trained model is needed. One table says what a token and a score take,
how many times as fast as the base alone the loop is, and what this package adds. It is meant to take under 8 minutes on
an H200. Both models are in this process, and transformers launches each kernel from Python: a small model is slower
than in vLLM, and so is a draft.

It needs PyTorch and transformers. How much of this package is measured goes by what else can be imported:

* pydantic and tenacity: the passes are those of the embedded engine (`specreason_graph.engines.transformers.model`);
* langgraph and langchain-core as well: the whole graph runs over it, and the row "overhead" is its own work;
* neither: the same passes in plain transformers, and no row "overhead".

Where they are missing, packages in a folder will do: ``pip install --target vendored -e .`` elsewhere, then
``PYTHONPATH=vendored python benchmarks/gpu_shapes.py``. ``--smoke`` takes tiny shapes on the CPU, in seconds.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM, DynamicCache, Qwen3Config

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-32B": {
        "hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "tie_word_embeddings": False,
    },
    "Qwen3-1.7B": {
        "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "tie_word_embeddings": True,
    },
    "tiny base": {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 1000, "tie_word_embeddings": True,
    },
    "tiny draft": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 1000, "tie_word_embeddings": True,
    },
}  # fmt: skip
"""Configs by name; those of the real models are from their cards."""
CONTEXT = 8192
"""Longest sequence."""
STEP = 27
"""Tokens of a step: the mean of public runs of a reasoning pair."""
SUFFIX = {"digit": 35, "paper's digit": 70, "likelihood": 0}
"""Tokens behind a step that a judge reads, by judge."""
ACCEPTANCES = (0.4, 0.6, 0.8)
"""Shares of the steps that are accepted."""
Ids = list[int]


class Passes(Protocol):
    """A model, as far as its passes go; its caches find what they have seen of a prompt."""

    def write(self, prompt: Ids, tokens: int) -> Ids:
        """Write so many tokens behind a prompt, greedily."""

    def score(self, prompt: Ids) -> None:
        """Compute the next token's log-probabilities."""

    def likelihood(self, whole: Ids, count: int) -> None:
        """Compute the log-probabilities of the last ``count`` tokens."""


class EmbeddedPasses:
    """The passes of this package's embedded engine."""

    name = "embedded engine of specreason-graph"

    def __init__(self, shape: str, model: Any, device: str) -> None:
        from specreason_graph.engines.base import Sampling
        from specreason_graph.engines.checkpoint import load_tokenizer
        from specreason_graph.engines.transformers.model import Model
        from specreason_graph.engines.transformers.pipe import Load

        folder = str(ROOT / "specreason_graph" / "models" / "abacus" / "base")  # some tokenizer: no text is read
        load = Load(path=folder, name=shape, device=device, dtype=None, context=CONTEXT, threads=None)
        self._model, self._sampling = Model(load, (load_tokenizer(folder), model)), Sampling

    def write(self, prompt: Ids, tokens: int) -> Ids:
        """Write so many tokens behind a prompt, greedily."""
        return list(_last(self._model.write(prompt, self._sampling(max_tokens=tokens), None)).generations[0].token_ids)

    def score(self, prompt: Ids) -> None:
        """Compute the next token's log-probabilities."""
        _last(self._model.score(prompt, list(range(10))))

    def likelihood(self, whole: Ids, count: int) -> None:
        """Compute the log-probabilities of the last ``count`` tokens."""
        _last(self._model.likelihood(whole, count))


def _last(passes: Any) -> Any:
    """Do all passes of a call, and return its result."""
    while True:
        try:
            next(passes)
        except StopIteration as end:
            return end.value


class PlainPasses:
    """The same passes without this package, over one cache that is cut back to what a prompt shares with it."""

    name = "plain transformers: this package's engine cannot be imported"

    def __init__(self, shape: str, model: Any, device: str) -> None:
        self._model, self._device, self._shape = model, device, shape
        self._cache, self._ids = DynamicCache(config=model.config), Ids()

    def write(self, prompt: Ids, tokens: int) -> Ids:
        """Write so many tokens behind a prompt, greedily."""
        written: Ids = []
        while len(written) < tokens:
            written.append(int(self._forward([*prompt, *written], 1)[-1].argmax()))
        return written

    def score(self, prompt: Ids) -> None:
        """Compute the next token's log-probabilities."""
        self._forward(prompt, 1)[-1].cpu().double().log_softmax(-1)

    def likelihood(self, whole: Ids, count: int) -> None:
        """Compute the log-probabilities of the last ``count`` tokens."""
        for row in self._forward(whole, count + 1):
            row.cpu().double().log_softmax(-1)

    def _forward(self, ids: Ids, last: int) -> torch.Tensor:
        """Compute what the cache lacks of a sequence, at least the ``last`` of it."""
        shared = 0
        for mine, theirs in zip(self._ids, ids[: len(ids) - last], strict=False):
            if mine != theirs:
                break
            shared += 1
        if shared < len(self._ids):
            self._cache.crop(shared - len(self._ids))
        with torch.inference_mode():
            row = torch.tensor([ids[shared:]], device=self._device)
            out = self._model(input_ids=row, past_key_values=self._cache, use_cache=True, logits_to_keep=last)
        self._ids = list(ids)
        logits: torch.Tensor = out.logits[0].float()
        return logits


def make(shape: str, device: str, dtype: torch.dtype) -> Any:
    """A model with random weights, made on the device."""
    config = Qwen3Config(**SHAPES[shape], max_position_embeddings=CONTEXT, eos_token_id=None, bos_token_id=None)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()  # type: ignore[no-untyped-call]


def has_engine() -> bool:
    """Whether the embedded engine can be imported here."""
    try:
        import specreason_graph.engines.transformers.model
    except ImportError:
        return False
    return bool(specreason_graph.engines.transformers.model)


def is_accepted(number: int, share: float) -> bool:
    """Whether step ``number`` is accepted, so that the accepted ones are spread evenly."""
    return int((number + 1) * share + 1e-9) > int(number * share + 1e-9)


@dataclass
class Spent:
    """What a run took."""

    seconds: float = 0.0
    """Wall seconds."""
    calls: dict[str, float] = field(default_factory=dict)
    """Seconds of the engines' calls, by purpose."""
    tokens: int = 0
    """Committed tokens."""

    def timed(self, purpose: str, work: Callable[..., Any], *given: Any) -> Any:
        """Do a call and count its seconds."""
        begun = time.perf_counter()
        found = work(*given)
        self.calls[purpose] = self.calls.get(purpose, 0.0) + time.perf_counter() - begun
        return found


def run_loop(base: Passes, draft: Passes, prompt: Ids, steps: int, share: float, judge: str) -> Spent:
    """Draft, score, and accept or regenerate each step, one engine at a time."""
    spent, ids, begun = Spent(), list(prompt), time.perf_counter()
    for number in range(steps):
        step = spent.timed("draft", draft.write, ids, STEP)
        if judge == "likelihood":
            spent.timed("score", base.likelihood, [*ids, *step], len(step))
        elif judge != "confidence":
            spent.timed("score", base.score, [*ids, *step, *suffix(SUFFIX[judge])])
        if not is_accepted(number, share):
            step = spent.timed("regenerate", base.write, ids, STEP)
        ids += step
        spent.tokens += len(step)
    spent.seconds = time.perf_counter() - begun
    return spent


def suffix(tokens: int) -> Ids:
    """The tokens of a judge's instruction: any ones, the same each time."""
    return [number % 97 + 3 for number in range(tokens)]


def timed(work: Callable[[], Any], repeats: int) -> float:
    """Seconds of a call: the best of some."""
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return min(found)


def token_seconds(passes: Passes, prompt: Ids, tokens: int) -> float:
    """Seconds of a token: a long generation less a short one, behind a prompt that is cached."""
    passes.write(prompt, 1)
    return (timed(lambda: passes.write(prompt, tokens + 1), 2) - timed(lambda: passes.write(prompt, 1), 2)) / tokens


def together_seconds(base: Passes, draft: Passes, prompt: Ids, tokens: int, device: str) -> tuple[float, float]:
    """Seconds of a token of each model while both write, each on a stream of its own."""
    found: dict[str, float] = {}
    stop = threading.Event()

    def write(name: str, passes: Passes) -> None:
        stream: Any = torch.cuda.Stream  # without types
        with torch.cuda.stream(stream()) if device == "cuda" else nullcontext():
            seconds, written = 0.0, 0
            while not stop.is_set():
                begun = time.perf_counter()
                written += len(passes.write(prompt, tokens))
                seconds += time.perf_counter() - begun
                if name == "base":
                    stop.set()
            found[name] = seconds / written

    threads = [threading.Thread(target=write, args=each) for each in (("base", base), ("draft", draft))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return found["base"], found["draft"]


def graph_overhead(base: Passes, draft: Passes, prompt: Ids, steps: int, share: float) -> tuple[float, float] | None:
    """Times base alone without its numerator: seconds a token through the graph, and of them this package's a step.

    None where the graph cannot be imported. The graph works in turns, with the digit judge.
    """
    try:
        from benchmarks.shapes_engine import run_graph
    except ImportError:
        return None
    return run_graph(base, draft, prompt, steps, share)


def measure(names: tuple[str, str], device: str, dtype: torch.dtype, steps: int, minutes: float) -> Iterator[str]:
    """Yield the lines of the table; what would begin after so many minutes is left out."""
    begun = time.monotonic()
    kind = EmbeddedPasses if has_engine() else PlainPasses
    base, draft = (kind(name, make(name, device, dtype), device) for name in names)
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    form = str(dtype).removeprefix("torch.")
    yield f"{names[0]} and {names[1]} with random weights, {form}, on {where}; torch {torch.__version__}"
    yield f"passes: {kind.name}; made in {time.monotonic() - begun:.0f} s\n"
    yield "| what | value |\n|---|---|"
    prompt = [number * 7 % 900 + 3 for number in range(512)]
    for each in (base, draft):
        each.write(prompt, 4)  # the first calls load kernels
    alone = token_seconds(base, prompt, STEP), token_seconds(draft, prompt, STEP)
    both = together_seconds(base, draft, prompt, STEP, device)
    for name, one, two in zip(names, alone, both, strict=True):
        slowed = f"{1000 * two:.2f} while the other writes in another thread ({two / one:.2f} times)"
        yield f"| {name}: a token | {1000 * one:.2f} ms, {slowed} |"
    for judge, seconds in score_seconds(base, prompt).items():
        yield f"| score by {judge} | {1000 * seconds:.2f} ms, {seconds / alone[0]:.1f} tokens of the base |"
    yield "| score by confidence | none: the draft's own probabilities |"
    plain = timed(lambda: base.write(prompt, steps * STEP), 1) / (steps * STEP)
    yield f"| base alone, {steps} steps of {STEP} tokens | {1000 * plain:.2f} ms a token |"
    for share in ACCEPTANCES:
        for judge in ("digit", "likelihood", "confidence"):
            if time.monotonic() - begun > 60 * minutes:
                yield f"| {judge}, {share:.0%} accepted | left out: {minutes:g} minutes are over |"
                continue
            spent = run_loop(base, draft, prompt, steps, share, judge)
            calls = ", ".join(f"{name} {seconds / spent.seconds:.0%}" for name, seconds in spent.calls.items())
            token = spent.seconds / spent.tokens
            times = f"{1000 * token:.2f} ms a token, {plain / token:.2f} times base alone"
            yield f"| {judge}, {share:.0%} accepted | {times} ({calls}) |"
    found = graph_overhead(base, draft, prompt, steps, ACCEPTANCES[1])
    if found is None:
        yield "| overhead of the graph | not measured: langgraph cannot be imported |"
    else:
        token, own = found
        yield (
            f"| digit through the graph, {ACCEPTANCES[1]:.0%} accepted | {1000 * token:.2f} ms a token, "
            f"{plain / token:.2f} times base alone; {1000 * own:.2f} ms a step are this package's own |"
        )
    yield f"\n{(time.monotonic() - begun) / 60:.1f} minutes in all"


def score_seconds(base: Passes, prompt: Ids) -> dict[str, float]:
    """Seconds of a score by judge: each time of another step, behind a prompt that is cached."""
    found, fresh = {}, iter(range(10**6))

    def step() -> Ids:
        number = next(fresh)
        return [(number * 31 + place * 17) % 900 + 3 for place in range(STEP)]

    for judge, tokens in SUFFIX.items():

        def score(judge: str = judge, tokens: int = tokens) -> None:
            if judge == "likelihood":
                base.likelihood([*prompt, *step()], STEP)
            else:
                base.score([*prompt, *step(), *suffix(tokens)])

        score()
        found[judge] = timed(score, 5)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--steps", type=int, default=40, help="steps of a run")
    parser.add_argument("--minutes", type=float, default=6.0, help="minutes after which no further run is begun")
    asked = parser.parse_args(arguments)
    if not asked.smoke and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --smoke takes tiny shapes on the CPU")
    names = ("tiny base", "tiny draft") if asked.smoke else ("Qwen3-32B", "Qwen3-1.7B")
    dtype = torch.float32 if asked.smoke else torch.bfloat16
    torch.manual_seed(0)
    for line in measure(names, "cpu" if asked.smoke else "cuda", dtype, asked.steps, asked.minutes):
        print(line, flush=True)


if __name__ == "__main__":
    main()
