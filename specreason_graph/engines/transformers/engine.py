"""The embedded engine as its caller sees it: calls go to the process of the model, started when there is none."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Self

from specreason_graph.engines.base import Completion, Forward, NextToken, Sampling, TokenCallback, check_room
from specreason_graph.engines.checkpoint import check_folder, load_config, load_vocabulary
from specreason_graph.engines.options import CallOptions
from specreason_graph.engines.retry import with_retries
from specreason_graph.engines.transformers.pipe import Load
from specreason_graph.engines.transformers.process import Process
from specreason_graph.engines.vocabulary import HuggingFaceVocabulary
from specreason_graph.errors import EngineDeadError, EngineError, ModelError
from specreason_graph.record.manifest import EngineDescription

LOADING = threading.Lock()
"""Held while transformers loads something: two threads may not import it side by side."""
RETRIES = CallOptions()
"""How long a call is tried again when its process died."""
RESTARTS = 3
"""How often a process that died is started again while the engine is open."""
log = logging.getLogger(__name__)


class TransformersEngine:
    """A causal language model from a folder or the hub, in a process of its own: two of them work side by side.

    ``model``: folder or hub name; weights must be safetensors. ``device``: a torch device, None for the GPU where there
    is one. ``dtype``: a torch dtype by name, None for float32 on CPU and the checkpoint's own on GPU. ``context``:
    longest prompt plus output in tokens, None for the model's own. ``threads``: CPU threads, None for all cores; small
    models are quicker with one and get no more. Raises `ModelError` when opened for a model that cannot be loaded.
    """

    supports_json_schema = order_dependent = False
    max_concurrency = 2  # a score and a writing: the score goes between the passes of the other

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
        """How often its process has died since it was opened."""
        self._starting = asyncio.Lock()

    @cached_property
    def vocabulary(self) -> HuggingFaceVocabulary:
        """Its tokenizer."""
        with LOADING:
            return load_vocabulary(self._load.path)

    @cached_property
    def context(self) -> int:
        """Longest prompt plus output, in tokens."""
        with LOADING:
            longest: int = load_config(self._load.path).max_position_embeddings
        return min(longest, self._load.context or longest)

    @property
    def pid(self) -> int | None:
        """Id of the model's process; None while there is none."""
        return self._process.pid if self._process else None

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, on_token: TokenCallback | None = None
    ) -> Completion:
        """Continue a prompt."""
        check_room(self, prompt_ids)
        prompt, told = list(prompt_ids), Forward(on_token)

        async def write() -> Completion:
            written: list[int] = []

            def take(token: int) -> None:
                written.append(token)
                told.tokens(written)

            process = await self._running()
            completion: Completion = await process.ask("write", prompt, sampling, on_token=on_token and take)
            return completion

        return await with_retries(write, RETRIES)

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        """The distribution behind a prompt."""
        check_room(self, prompt_ids)
        prompt, wanted = list(prompt_ids), list(candidates)

        async def score() -> NextToken:
            found: NextToken = await (await self._running()).ask("score", prompt, wanted)
            return found

        return await with_retries(score, RETRIES)

    async def reset_prefix_cache(self) -> None:
        """Forget the prompts it has seen."""
        await (await self._running()).ask("reset_prefix_cache")

    def describe(self) -> EngineDescription:
        """What this engine is; known once it has been opened."""
        if self._description is None:
            raise self._closed()
        return self._description

    async def __aenter__(self) -> Self:
        self._users += 1
        if self._users == 1:
            self.deaths, self._description, self._starting = 0, None, asyncio.Lock()  # it may be another loop
        try:
            await asyncio.gather(self._running(), asyncio.to_thread(lambda: (self.vocabulary, self.context)))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._users -= 1
        if self._users == 0 and self._process:
            process, self._process = self._process, None
            await process.end()

    async def _running(self) -> Process:
        """The process; one is started when there is none, or no longer one."""
        async with self._starting:
            if self._process and self._process.is_dead:
                await self._bury(self._process)
            if self._users == 0:
                raise self._closed()
            if self.deaths > RESTARTS:
                raise EngineDeadError(f"{self.name}: its process has died {self.deaths} times", engine=self.name)
            self._process = process = self._process or await Process.start(self._load)
        try:
            description = await asyncio.shield(process.ready)
        except ModelError as error:
            if not self.deaths:
                raise
            again = self.deaths < RESTARTS  # it was loaded before: there may be no memory for it just now
            raise EngineDeadError(error.args[0], engine=self.name, retryable=again, hint=error.hint) from error
        if self._description and self._description.weights != description.weights:
            raise EngineError(
                f"{self.name}: its files were changed while it was open: the process that was started again has "
                f"{description.weights}, the one before it had {self._description.weights}",
                engine=self.name, hint="open it again: its runs go on with what they were begun with, or are refused",
            )  # fmt: skip
        self._description = description
        return process

    async def _bury(self, process: Process) -> None:
        """Take note of a death."""
        self._process, self.deaths = None, self.deaths + 1
        log.warning("%s has died (%d of %d restarts)", self.name, self.deaths, RESTARTS)
        await process.end()

    def _closed(self) -> EngineError:
        return EngineError(f"{self.name} is not open", engine=self.name, hint="use it inside a with block")
