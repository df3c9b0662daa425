"""The embedded engine: Hugging Face transformers in this process, on CPU or GPU."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from specreason_graph.engines.base import (
    Completion,
    EngineDescription,
    Generation,
    NextToken,
    Sampling,
    StopWatcher,
    TokenCallback,
    check_room,
    usage_since,
)
from specreason_graph.engines.checkpoint import eos_ids, load_tokenizer, unloadable, weights_hash
from specreason_graph.engines.slots import Slot, Slots
from specreason_graph.engines.vocabulary import HuggingFaceVocabulary
from specreason_graph.errors import EngineError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
SMALL = 50_000_000
"""Parameters below which a model is quicker on one CPU thread: to wake a second one takes longer than it saves."""


class CancelledWork(Exception):  # noqa: N818 - not an error, the caller left
    """The caller went away; raised on the engine's thread to leave the work."""


class TransformersEngine:
    """A causal language model from a folder or the hub, in this process.

    ``model``: folder or hub name; weights must be safetensors. ``device``: a torch device, None for the GPU where there
    is one. ``dtype``: a torch dtype by name, None for float32 on CPU and the checkpoint's own on GPU.
    """

    constrains = in_order = False
    at_once = 1

    def __init__(
        self, model: str, *, name: str | None = None, device: str | None = None, dtype: str | None = None,
        context: int | None = None,
    ) -> None:  # fmt: skip
        self.name = name or model
        self._path = model
        self._device, self._dtype, self._wanted_context = device, dtype, context
        self._worker: ThreadPoolExecutor | None = None
        self._users = 0
        self._load()

    def _load(self) -> None:
        import torch
        from transformers import DynamicCache
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = self._dtype or ("float32" if device == "cpu" else "auto")
        tokenizer, self._model = load_model(self._path, device, dtype)
        config = self._model.config.get_text_config()
        self.vocabulary = HuggingFaceVocabulary(tokenizer, eos_ids(self._model.generation_config))
        self.context = min(config.max_position_embeddings, self._wanted_context or config.max_position_embeddings)
        self._slots = Slots(lambda: DynamicCache(config=config))
        known = inspect.signature(self._model.forward).parameters
        self._cache = "cache" if "cache" in known else "past_key_values"  # its name before transformers 5.24

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, on_token: TokenCallback | None = None
    ) -> Completion:
        """Continue a prompt."""
        check_room(self, prompt_ids)
        prompt = list(prompt_ids)
        return await self._run(lambda gone: self._generate(prompt, sampling, on_token, gone))

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        """The distribution behind a prompt."""
        check_room(self, prompt_ids)
        prompt = list(prompt_ids)
        return await self._run(lambda gone: self._next_token(prompt, candidates, gone))

    def describe(self) -> EngineDescription:
        """What this engine is; the weights are hashed once."""
        return self._description

    @cached_property
    def _description(self) -> EngineDescription:
        import transformers

        return EngineDescription(
            engine="transformers", engine_version=transformers.__version__, model=self.name,
            weights=weights_hash(self._path) or getattr(self._model.config, "_commit_hash", None) or self._path,
            vocabulary=self.vocabulary.fingerprint,
            dtype=str(self._model.dtype).removeprefix("torch."), device=str(self._model.device), context=self.context,
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        self._users += 1
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, f"engine-{Path(self._path).name}", self._limit_threads)
            await asyncio.to_thread(self.describe)  # hashes the weights, which may take long
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._users -= 1
        if self._worker and self._users == 0:
            self._worker.shutdown(wait=True, cancel_futures=True)
            self._worker = None

    def _limit_threads(self) -> None:
        """Let a small model on the CPU have the engine's own thread and no more; other threads keep what they have."""
        import torch
        from threadpoolctl import threadpool_limits

        if self._model.device.type == "cpu" and self._model.num_parameters() < SMALL:
            torch.get_num_threads()  # the first look sets the number for a thread
            threadpool_limits(1, user_api="openmp")

    async def _run(self, work: Callable[[threading.Event], T]) -> T:
        gone = threading.Event()
        if self._worker is None:
            raise EngineError(f"{self.name} is not open", engine=self.name, hint="use it inside a with block")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, work, gone)
        except asyncio.CancelledError:
            gone.set()
            raise
        except RuntimeError as error:
            raise EngineError(f"{self.name}: {error}", engine=self.name) from error

    def _generate(
        self, prompt: list[int], sampling: Sampling, on_token: TokenCallback | None, gone: threading.Event
    ) -> Completion:
        start = time.perf_counter()
        slot = self._slots.take(prompt)
        cached, generations = len(slot.ids), []
        for sample in range(sampling.n):
            if sample:
                slot = self._slots.take(prompt)
            generations.append(self._write(slot, prompt, sampling, sample, on_token if sample == 0 else None, gone))
        written = sum(len(generation.token_ids) for generation in generations)
        return Completion(generations, usage_since(start, prompt, cached, written))

    def _write(
        self, slot: Slot, prompt: list[int], sampling: Sampling, sample: int, on_token: TokenCallback | None,
        gone: threading.Event,
    ) -> Generation:  # fmt: skip
        choose = chooser(sampling, sampling.seed + sample, self._model.device)
        room = self.context - len(prompt)
        watcher = StopWatcher(self.vocabulary, sampling)
        written: list[int] = []
        logits = self._forward(slot, prompt[len(slot.ids) :], gone)
        while True:
            written.append(choose(logits))
            if on_token:
                on_token(written[-1])
            finish = watcher.finish(written) or ("length" if len(written) >= room else None)
            if finish:
                return Generation(written, finish)
            logits = self._forward(slot, written[-1:], gone)

    def _next_token(self, prompt: list[int], candidates: Sequence[int], gone: threading.Event) -> NextToken:
        import torch

        start = time.perf_counter()
        slot = self._slots.take(prompt)
        cached = len(slot.ids)
        with torch.inference_mode():
            logprobs = torch.log_softmax(self._forward(slot, prompt[cached:], gone).double(), dim=-1)
            chosen = logprobs[list(candidates)]
            other = 1.0 - chosen.exp().sum().item()
        found = dict(zip(candidates, chosen.tolist(), strict=True))
        return NextToken(found, min(1.0, max(0.0, other)), usage_since(start, prompt, cached, 1))

    def _forward(self, slot: Slot, ids: list[int], gone: threading.Event) -> torch.Tensor:
        """Logits behind ``ids``, shape ``[vocabulary]``, float32; ``ids`` are in the slot afterwards."""
        import torch

        if gone.is_set():
            raise CancelledWork
        try:
            with torch.inference_mode():
                row = torch.tensor([ids], device=self._model.device)
                out = self._model(input_ids=row, **{self._cache: slot.cache}, use_cache=True, logits_to_keep=1)
        except BaseException:
            self._slots.drop(slot)
            raise
        slot.ids += ids
        logits: torch.Tensor = out.logits[0, -1].float()
        return logits


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
