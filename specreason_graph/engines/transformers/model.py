"""A model in memory: it generates and scores, and yields after each forward pass."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from specreason_graph.engines.base import (
    Completion,
    Generation,
    Likelihood,
    NextToken,
    Sampling,
    StopWatcher,
    TokenCallback,
    entropy_of,
    usage_since,
)
from specreason_graph.engines.checkpoint import eos_ids, load_tokenizer, unloadable, weights_hash
from specreason_graph.engines.transformers.kv_caches import CachePool, SequenceCache
from specreason_graph.engines.transformers.memory import cpu_dtype
from specreason_graph.engines.transformers.pipe import Load
from specreason_graph.engines.vocabulary import HuggingFaceVocabulary
from specreason_graph.errors import ModelError
from specreason_graph.record.manifest import EngineDescription

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Passes = Generator[None, None, T]
"""Work that yields after each forward pass but the last, and returns its result."""
SMALL = 50_000_000
"""Parameters below which a model is faster on one CPU thread: waking a second one takes longer than it saves."""


class Model:
    """A causal language model with KV caches of recent prompts; raises `ModelError` when it cannot be loaded.

    ``made``: tokenizer and model, where they are not to be loaded.
    """

    def __init__(self, load: Load, made: tuple[Any, Any] | None = None) -> None:
        import torch
        from transformers import DynamicCache
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        check_device(load.device)
        check_dtype(load.dtype)
        device = load.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.load = load
        tokenizer, self._model = made or load_model(
            load.path, device, load.dtype or (cpu_dtype(load.path) if device == "cpu" else "auto")
        )
        config = self._model.config.get_text_config()
        self.vocabulary = HuggingFaceVocabulary(tokenizer, eos_ids(self._model.generation_config))
        self.context = min(config.max_position_embeddings, load.context or config.max_position_embeddings)
        self._caches = CachePool(lambda: DynamicCache(config=config), branch)
        known = inspect.signature(self._model.forward).parameters
        self._cache = "cache" if "cache" in known else "past_key_values"  # the argument's name before transformers 5.24
        torch.set_num_threads(self._threads(load.threads or torch.get_num_threads()))

    def _threads(self, most: int) -> int:
        return 1 if self._model.num_parameters() < SMALL else most

    def is_broken_by(self, error: Exception) -> bool:
        """Whether the model is unusable after an error, so that its process has to be restarted."""
        import torch

        # After an error on a GPU all later CUDA calls of the process fail, too; only running out of memory passes.
        on_gpu = self._model.device.type != "cpu"
        return on_gpu and isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError)

    def reset_prefix_cache(self) -> None:
        """Empty the KV caches of earlier prompts."""
        self._caches.clear()

    def describe(self) -> EngineDescription:
        """Describe library, model and device."""
        import transformers

        path = self.load.path
        return EngineDescription(
            engine="transformers", engine_version=transformers.__version__, model=self.load.name,
            weights=weights_hash(path) or getattr(self._model.config, "_commit_hash", None) or path,
            vocabulary=self.vocabulary.fingerprint,
            dtype=str(self._model.dtype).removeprefix("torch."), device=str(self._model.device), context=self.context,
        )  # fmt: skip

    def write(self, prompt: list[int], sampling: Sampling, on_token: TokenCallback | None) -> Passes[Completion]:
        """Generate continuations of a prompt; ``on_token`` gets the tokens of the first one."""
        start, cached = time.perf_counter(), 0
        generations = []
        for sample in range(sampling.n):
            if sample:
                yield
            with self._caches.take(prompt) as entry:
                cached = cached if sample else len(entry.ids)  # later samples find the prompt that the first computed
                on_token = None if sample else on_token
                generations.append((yield from self._sample(entry, prompt, sampling, sample, on_token)))
        written = sum(len(generation.token_ids) for generation in generations)
        return Completion(generations, usage_since(start, prompt, cached, written))

    def _sample(
        self, entry: SequenceCache, prompt: list[int], sampling: Sampling, sample: int, on_token: TokenCallback | None
    ) -> Passes[Generation]:
        choose = chooser(sampling, sampling.seed + sample, self._model.device, entry)
        tokens_left = self.context - len(prompt)
        watcher = StopWatcher(self.vocabulary, sampling)
        written: list[int] = []
        evidence = Evidence(sampling.logprobs)
        logits = self._forward(entry, prompt[len(entry.ids) :])[-1]
        while True:
            written.append(choose(logits))
            evidence.add(logits, written[-1])
            if on_token:
                on_token(written[-1])
            finish = watcher.finish(written) or ("length" if len(written) >= tokens_left else None)
            if finish:
                return Generation(written, finish, evidence.logprobs, evidence.entropies)
            yield
            logits = self._forward(entry, written[-1:])[-1]

    def score(self, prompt: list[int], candidates: Sequence[int]) -> Passes[NextToken]:
        """Return the log-probabilities of the candidates as the next token."""
        import torch

        yield from ()  # a score is one pass and never yields; this line makes the function a generator
        start = time.perf_counter()
        with self._caches.take(prompt) as entry, torch.inference_mode():
            cached = len(entry.ids)
            logprobs = raw_logprobs(self._forward(entry, prompt[cached:])[-1])
            chosen = logprobs[list(candidates)]
            other = 1.0 - chosen.exp().sum().item()
        found = dict(zip(candidates, chosen.tolist(), strict=True))
        return NextToken(found, min(1.0, max(0.0, other)), usage_since(start, prompt, cached, 1))

    def likelihood(self, whole: list[int], count: int) -> Passes[Likelihood]:
        """Return the log-probabilities of the last ``count`` tokens, each given all tokens before it."""
        import torch

        yield from ()  # one pass, as a score
        start = time.perf_counter()
        # The last token before them is computed anew: its logits are those of the first of them.
        with self._caches.take(whole, most=len(whole) - count - 1) as entry, torch.inference_mode():
            cached = len(entry.ids)
            logits = self._forward(entry, whole[cached:], count + 1)[:-1]
            found = [raw_logprobs(row)[token].item() for row, token in zip(logits, whole[-count:], strict=True)]
        return Likelihood(found, usage_since(start, whole, cached, 0))

    def _forward(self, entry: SequenceCache, ids: list[int], last: int = 1) -> torch.Tensor:
        """Append ``ids`` to a cache and return the logits behind the ``last`` of them.

        They are those of the token that follows each, float32, shape ``[last, vocabulary]``.
        """
        import torch

        try:
            with torch.inference_mode():
                row = torch.tensor([ids], device=self._model.device)
                out = self._model(input_ids=row, **{self._cache: entry.cache}, use_cache=True, logits_to_keep=last)
        except BaseException:  # some layers may hold the new tokens already, and others not
            self._caches.drop(entry)
            raise
        entry.ids += ids
        logits: torch.Tensor = out.logits[0, -last:].float()
        return logits


def raw_logprobs(logits: torch.Tensor) -> torch.Tensor:
    """Natural log-probabilities of all tokens, in double precision on the CPU; both of shape ``[vocabulary]``."""
    return logits.cpu().double().log_softmax(-1)


class Evidence:
    """Log-probabilities and entropies of the generated tokens, as `Sampling.logprobs` asks for them."""

    def __init__(self, wanted: int | None) -> None:
        self._wanted = wanted
        self.logprobs: list[float] | None = None if wanted is None else []
        self.entropies: list[float] | None = [] if wanted else None

    def add(self, logits: torch.Tensor, token: int) -> None:
        """Take the logits of one place, shape ``[vocabulary]``, and the token that was chosen there."""
        if self._wanted is None:
            return
        logprobs = raw_logprobs(logits)
        if self.logprobs is not None:
            self.logprobs.append(logprobs[token].item())
        if self.entropies is not None:
            self.entropies.append(entropy_of(logprobs.topk(min(self._wanted, len(logprobs))).values.tolist()))


def branch(cache: Any) -> Any | None:
    """Copy a cache without copying its tensors; return None for kinds of cache that cannot be copied so."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return None
    twin = copy.copy(cache)
    # Layers of these two types replace their tensors and never write into them, so two caches may share tensors.
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


def chooser(sampling: Sampling, seed: int, device: Any, so_far: SequenceCache) -> Callable[[torch.Tensor], int]:
    """Return a function that samples a token id from logits of shape ``[vocabulary]``.

    ``so_far`` has the tokens that the logits follow, prompt and output, for the repetition penalty.
    """
    import torch
    import transformers

    warpers = transformers.LogitsProcessorList()

    def seen() -> Any:
        return torch.tensor([so_far.ids if sampling.repetition_penalty != 1 else []], device=device, dtype=torch.long)

    if sampling.repetition_penalty != 1:
        warpers.append(transformers.RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    if sampling.temperature == 0 and not warpers:
        return lambda logits: int(logits.argmax())
    if sampling.temperature == 0:
        return lambda logits: int(warpers(seen(), logits[None])[0].argmax())
    warpers.append(transformers.TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.min_p > 0:
        warpers.append(transformers.MinPLogitsWarper(sampling.min_p))
    if sampling.top_k > 0:
        warpers.append(transformers.TopKLogitsWarper(int(sampling.top_k)))
    if sampling.top_p < 1:
        warpers.append(transformers.TopPLogitsWarper(sampling.top_p))
    # A random state of its own: passes of other calls come in between, and must not change what a seed gives.
    generator = torch.Generator(device).manual_seed(seed)

    def choose(logits: torch.Tensor) -> int:
        with torch.inference_mode():
            probabilities = warpers(seen(), logits[None]).softmax(-1)[0]
            return int(torch.multinomial(probabilities, 1, generator=generator))

    return choose


def check_device(name: str | None) -> None:
    """Raise `ModelError` for a device that torch does not know or has not got; None is any."""
    import torch

    if name is None:
        return
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"device {name!r} is unknown", hint="write cpu, cuda, cuda:0 or mps") from None
    if device.type == "cpu":
        return
    kind: Any = getattr(torch, device.type, None)
    found = kind.device_count() if kind and hasattr(kind, "is_available") and kind.is_available() else 0
    if not found:
        built = " (it is built for the CPU alone)" if device.type == "cuda" and torch.version.cuda is None else ""
        raise ModelError(
            f"device {name!r} is not there: torch {torch.__version__}{built} sees no {device.type} device",
            hint="leave --device out to use what there is, or install a torch that is built for your GPU",
        )
    if device.index is not None and device.index >= found:
        raise ModelError(
            f"device {name!r} is not there: torch sees {found}",
            hint=f"write {device.type}:0 to {device.type}:{found - 1}",
        )


def check_dtype(name: str | None) -> None:
    """Raise `ModelError` for a number format that torch does not know; None and ``auto`` are chosen."""
    import torch

    found = getattr(torch, name or "", None)
    if name not in (None, "auto") and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ModelError(f"dtype {name!r} is unknown", hint="write float32, bfloat16 or float16")


def load_model(path: str, device: str, dtype: str) -> tuple[Any, Any]:
    """Load tokenizer and model; raise `ModelError` with the cause in one line when that fails."""
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(path)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
        return tokenizer, model.to(device).eval()
    except Exception as error:  # the libraries raise exceptions of any kind, as for a wrong device or a truncated file
        raise unloadable(path, error) from None
