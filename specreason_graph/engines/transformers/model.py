"""A model in memory: what it writes and scores, one forward pass after the other."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from specreason_graph.engines.base import (
    Completion,
    Generation,
    NextToken,
    Sampling,
    StopWatcher,
    TokenCallback,
    usage_since,
)
from specreason_graph.engines.checkpoint import eos_ids, load_tokenizer, unloadable, weights_hash
from specreason_graph.engines.transformers.kv_caches import CachePool, SequenceCache
from specreason_graph.engines.transformers.pipe import Load
from specreason_graph.engines.vocabulary import HuggingFaceVocabulary
from specreason_graph.record.manifest import EngineDescription

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Passes = Generator[None, None, T]
"""Work that stops after each forward pass but the last, and then returns something."""
SMALL = 50_000_000
"""Parameters below which a model is quicker on one CPU thread: to wake a second one takes longer than it saves."""


class Model:
    """A causal language model with the KV caches of its last prompts; `ModelError` when it cannot be loaded."""

    def __init__(self, load: Load) -> None:
        import torch
        from transformers import DynamicCache
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        device = load.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.load = load
        tokenizer, self._model = load_model(load.path, device, load.dtype or ("float32" if device == "cpu" else "auto"))
        config = self._model.config.get_text_config()
        self.vocabulary = HuggingFaceVocabulary(tokenizer, eos_ids(self._model.generation_config))
        self.context = min(config.max_position_embeddings, load.context or config.max_position_embeddings)
        self._caches = CachePool(lambda: DynamicCache(config=config), branch)
        known = inspect.signature(self._model.forward).parameters
        self._cache = "cache" if "cache" in known else "past_key_values"  # its name before transformers 5.24
        torch.set_num_threads(self._threads(load.threads or torch.get_num_threads()))

    def _threads(self, most: int) -> int:
        return 1 if self._model.num_parameters() < SMALL else most

    def is_broken_by(self, error: Exception) -> bool:
        """Whether nothing works any more in this process: what fails on a GPU, but for want of memory, stays failed."""
        import torch

        on_gpu = self._model.device.type != "cpu"
        return on_gpu and isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError)

    def reset_prefix_cache(self) -> None:
        """Empty the KV caches."""
        self._caches.clear()

    def describe(self) -> EngineDescription:
        """What this model is."""
        import transformers

        path = self.load.path
        return EngineDescription(
            engine="transformers", engine_version=transformers.__version__, model=self.load.name,
            weights=weights_hash(path) or getattr(self._model.config, "_commit_hash", None) or path,
            vocabulary=self.vocabulary.fingerprint,
            dtype=str(self._model.dtype).removeprefix("torch."), device=str(self._model.device), context=self.context,
        )  # fmt: skip

    def write(self, prompt: list[int], sampling: Sampling, on_token: TokenCallback | None) -> Passes[Completion]:
        """Continue a prompt; ``on_token`` sees the tokens of the first continuation."""
        start, cached = time.perf_counter(), 0
        generations = []
        for sample in range(sampling.n):
            if sample:
                yield
            with self._caches.take(prompt) as slot:
                cached = cached if sample else len(slot.ids)
                on_token = None if sample else on_token
                generations.append((yield from self._sample(slot, prompt, sampling, sample, on_token)))
        written = sum(len(generation.token_ids) for generation in generations)
        return Completion(generations, usage_since(start, prompt, cached, written))

    def _sample(
        self, slot: SequenceCache, prompt: list[int], sampling: Sampling, sample: int, on_token: TokenCallback | None
    ) -> Passes[Generation]:
        choose = chooser(sampling, sampling.seed + sample, self._model.device)
        room = self.context - len(prompt)
        watcher = StopWatcher(self.vocabulary, sampling)
        written: list[int] = []
        logits = self._forward(slot, prompt[len(slot.ids) :])
        while True:
            written.append(choose(logits))
            if on_token:
                on_token(written[-1])
            finish = watcher.finish(written) or ("length" if len(written) >= room else None)
            if finish:
                return Generation(written, finish)
            yield
            logits = self._forward(slot, written[-1:])

    def score(self, prompt: list[int], candidates: Sequence[int]) -> Passes[NextToken]:
        """The distribution behind a prompt."""
        import torch

        yield from ()  # one pass, and nothing to stop after
        start = time.perf_counter()
        with self._caches.take(prompt) as slot, torch.inference_mode():
            cached = len(slot.ids)
            logprobs = torch.log_softmax(self._forward(slot, prompt[cached:]).cpu().double(), dim=-1)
            chosen = logprobs[list(candidates)]
            other = 1.0 - chosen.exp().sum().item()
        found = dict(zip(candidates, chosen.tolist(), strict=True))
        return NextToken(found, min(1.0, max(0.0, other)), usage_since(start, prompt, cached, 1))

    def _forward(self, slot: SequenceCache, ids: list[int]) -> torch.Tensor:
        """Logits behind ``ids``, shape ``[vocabulary]``, float32; ``ids`` are in the slot afterwards."""
        import torch

        try:
            with torch.inference_mode():
                row = torch.tensor([ids], device=self._model.device)
                out = self._model(input_ids=row, **{self._cache: slot.cache}, use_cache=True, logits_to_keep=1)
        except BaseException:
            self._caches.drop(slot)
            raise
        slot.ids += ids
        logits: torch.Tensor = out.logits[0, -1].float()
        return logits


def branch(cache: Any) -> Any | None:
    """A cache that shares what is in another one and goes its own way from there; None for kinds that cannot."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return None
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]  # they replace their tensors and never write into them
    return twin


def chooser(sampling: Sampling, seed: int, device: Any) -> Callable[[torch.Tensor], int]:
    """A function from logits ``[vocabulary]`` to a token id, with a random state of its own."""
    import torch
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    if sampling.temperature == 0:
        return lambda logits: int(logits.argmax())
    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(sampling.temperature))])
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    nothing: Any = torch.empty((1, 0), dtype=torch.long)
    generator = torch.Generator(device).manual_seed(seed)

    def choose(logits: torch.Tensor) -> int:
        with torch.inference_mode():
            probabilities = warpers(nothing, logits[None]).softmax(-1)[0]
            return int(torch.multinomial(probabilities, 1, generator=generator))

    return choose


def load_model(path: str, device: str, dtype: str) -> tuple[Any, Any]:
    """Tokenizer and model; `ModelError` with the cause in one line when it cannot be."""
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(path)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
        return tokenizer, model.to(device).eval()
    except Exception as error:  # the libraries raise every kind there is, also for a wrong device or a cut file
        raise unloadable(path, error) from None
