"""The embedded engine: it sends calls to the process of its model, and restarts a process that died."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Self

from specreason_graph.engines.base import (
    Completion,
    Likelihood,
    NextToken,
    Sampling,
    TokenCallback,
    TokenForwarder,
    check_room,
    checked_logprobs,
    joined,
)
from specreason_graph.engines.checkpoint import check_folder, load_config, load_vocabulary, recommended_sampling
from specreason_graph.engines.options import CallOptions
from specreason_graph.engines.retry import with_retries
from specreason_graph.engines.transformers.pipe import Load
from specreason_graph.engines.transformers.process import Process
from specreason_graph.engines.vocabulary import HuggingFaceVocabulary
from specreason_graph.errors import EngineDeadError, EngineError, ModelError
from specreason_graph.record.manifest import EngineDescription

LOADING = threading.Lock()
"""Held while transformers is loaded: two threads must not import it at the same time."""
RETRIES = CallOptions()
"""How long a call is retried after its process died."""
RESTARTS = 3
"""How often a process that died is started again while the engine is open."""
log = logging.getLogger(__name__)


class TransformersEngine:
    """A causal language model from a folder or the hub, in a process of its own, so that two models work in parallel.

    ``model``: folder or hub name; weights must be safetensors. ``device``: a torch device, None for the GPU where there
    is one. ``dtype``: a torch dtype by name, None for the checkpoint's own, or float32 on a CPU that lacks it and for
    small models. ``context``: longest prompt plus output in tokens, None for the model's own. ``threads``: CPU threads,
    None for all cores; small models are faster with one thread and get no more. Opening it raises `ModelError` for a
    model that cannot be loaded.
    """

    supports_json_schema = order_dependent = False
    max_concurrency = 2  # a score goes between the forward passes of a generation; generations never overlap

    def __init__(
        self, model: str, *, name: str | None = None, device: str | None = None, dtype: str | None = None,
        context: int | None = None, threads: int | None = None,
    ) -> None:  # fmt: skip
        check_folder(model)
        self.name = name or model
        self._load = Load(path=model, name=self.name, device=device, dtype=dtype, context=context, threads=threads)
        self._process: Process | None = None
        self._description: EngineDescription | None = None
        self._users = 0
        self.deaths = 0
        """How often the process has died since the engine was opened."""
        self._starting = asyncio.Lock()

    @cached_property
    def vocabulary(self) -> HuggingFaceVocabulary:
        """The model's tokenizer."""
        with LOADING:
            return load_vocabulary(self._load.path)

    @cached_property
    def recommended_sampling(self) -> dict[str, float]:
        """What the model's generation config recommends."""
        with LOADING:
            return recommended_sampling(self._load.path)

    @cached_property
    def context(self) -> int:
        """Longest prompt plus output, in tokens."""
        with LOADING:
            longest: int = load_config(self._load.path).max_position_embeddings
        return min(longest, self._load.context or longest)

    @property
    def pid(self) -> int | None:
        """Process id of the model's process; None while there is none."""
        return self._process.pid if self._process else None

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, on_token: TokenCallback | None = None
    ) -> Completion:
        """Generate continuations of a prompt."""
        check_room(self, prompt_ids)
        prompt, forwarder = list(prompt_ids), TokenForwarder(on_token)

        async def call() -> Completion:
            written: list[int] = []

            def take(token: int) -> None:
                written.append(token)
                forwarder.tokens(written)

            process = await self._running()
            completion: Completion = await process.ask("write", prompt, sampling, on_token=on_token and take)
            return completion

        return await with_retries(call, RETRIES)

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        """Return the log-probabilities of the candidates as the next token."""
        check_room(self, prompt_ids)
        prompt, wanted = list(prompt_ids), list(candidates)

        async def call() -> NextToken:
            found: NextToken = await (await self._running()).ask("score", prompt, wanted)
            return found

        return await with_retries(call, RETRIES)

    async def likelihood(self, prompt_ids: Sequence[int], continuation_ids: Sequence[int]) -> Likelihood:
        """Return the log-probabilities of a given continuation, in one forward pass over what is not cached."""
        whole, count = joined(self, prompt_ids, continuation_ids), len(continuation_ids)

        async def call() -> Likelihood:
            found: Likelihood = await (await self._running()).ask("likelihood", whole, count)
            return replace(found, logprobs=checked_logprobs(found.logprobs, count, self.name))

        return await with_retries(call, RETRIES)

    async def reset_prefix_cache(self) -> None:
        """Empty the KV caches of earlier prompts."""
        await (await self._running()).ask("reset_prefix_cache")

    def describe(self) -> EngineDescription:
        """Describe the engine; this is known once it has been opened."""
        if self._description is None:
            raise self._closed()
        return self._description

    async def __aenter__(self) -> Self:
        self._users += 1
        if self._users == 1:
            # A lock belongs to one loop, and the engine may be opened again on another.
            self.deaths, self._description, self._starting = 0, None, asyncio.Lock()
        try:  # the tokenizer loads here while the model loads in its process
            await asyncio.gather(self._running(), asyncio.to_thread(lambda: (self.vocabulary, self.context)))
        except BaseException:  # a cancelled opening, too, must not leave a process behind
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._users -= 1
        if self._users == 0 and self._process:
            process, self._process = self._process, None
            await process.end()

    async def _running(self) -> Process:
        """Return the running process, and start one where there is none or it has died."""
        async with self._starting:
            if self._process and self._process.is_dead:
                await self._bury(self._process)
            if self._users == 0:
                raise self._closed()
            if self.deaths > RESTARTS:
                raise EngineDeadError(f"{self.name}: its process has died {self.deaths} times", engine=self.name)
            self._process = process = self._process or await Process.start(self._load)
        try:
            # All callers wait for the same future: one that is cancelled must not cancel it for the others.
            description = await asyncio.shield(process.ready)
        except ModelError as error:
            if not self.deaths:
                raise
            again = self.deaths < RESTARTS  # the model could be loaded before, so memory may be short at the moment
            raise EngineDeadError(error.args[0], engine=self.name, retryable=again, hint=error.hint) from error
        # A run's record names the weights that wrote its steps: other weights must not write further ones.
        if self._description and self._description.weights != description.weights:
            raise EngineError(
                f"{self.name}: its files were changed while it was open: the restarted process has weights "
                f"{description.weights}, the process before had {self._description.weights}",
                engine=self.name, hint="open the engine again, so that its record names the new weights",
            )  # fmt: skip
        self._description = description
        return process

    async def _bury(self, process: Process) -> None:
        """Count the death of a process and clean up after it."""
        self._process, self.deaths = None, self.deaths + 1
        log.warning("%s has died (%d of %d restarts)", self.name, self.deaths, RESTARTS)
        await process.end()

    def _closed(self) -> EngineError:
        return EngineError(f"{self.name} is not open", engine=self.name, hint="use it inside a with block")
