"""The engine: calls, their time limits, and starting again what has died."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from specreason_graph.engines.base import (
    Completion,
    Finish,
    Forward,
    Generation,
    NextToken,
    Sampling,
    TokenCallback,
    check_room,
    finish_of,
    pick,
    usage_since,
)
from specreason_graph.engines.checkpoint import load_config, load_vocabulary, weights_hash
from specreason_graph.engines.options import VLLMOptions
from specreason_graph.engines.retry import with_retries
from specreason_graph.engines.vllm.launch import GRACE, chosen_dtype, load, on_cpu, start
from specreason_graph.engines.vllm.memory import Share
from specreason_graph.engines.vllm.requests import dead, sampling_params, scoring_params, speculation, translated
from specreason_graph.errors import EngineDeadError, EngineError, EngineRequestError, EngineTimeoutError, ModelError
from specreason_graph.record.manifest import EngineDescription
from specreason_graph.record.records import Usage

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

T = TypeVar("T")
IDLE_SECONDS = 0.01
"""How often to look whether nothing is under way."""
WATCH_SECONDS = 0.5
"""How often an engine is looked at for having died."""
log = logging.getLogger(__name__)


class VLLMEngine:
    """A model in vLLM, in process.

    ``model``: folder or hub name. ``share``: its part of the memory plan; without one ``options`` must say how much KV
    cache it gets. ``after``: an engine that must have started before, because both measure one device. Answers of one
    seed are reproducible as far as vLLM is: in float32 they are, in bfloat16 the other requests of a batch may change
    them.
    """

    supports_json_schema = True
    order_dependent = False

    def __init__(
        self,
        model: str,
        options: VLLMOptions | None = None,
        *,
        name: str | None = None,
        share: Share | None = None,
        after: VLLMEngine | None = None,
    ) -> None:
        self.name = name or model
        self.options = options or VLLMOptions()
        self.max_concurrency = self.options.sequences
        self._path, self._share, self._after = model, share, after
        self.vocabulary = load_vocabulary(model, self.options.revision)
        longest = load_config(model, self.options.revision).max_position_embeddings
        self.context: int = self.options.context or (share.context if share else longest)
        self._client: AsyncLLM | None = None
        self._users = 0
        self.deaths = 0
        """How often its core has died since it was opened."""
        self._answered = 0.0
        self._chosen = self.options.speculative is None

    @property
    def pid(self) -> int | None:
        """Id of its core's process; None while there is none. Reaches into vLLM, which does not tell it."""
        core: Any = self._client.engine_core if self._client else None
        return int(core.resources.engine_manager.processes[0].pid) if core else None

    @property
    def unfinished(self) -> int:
        """Requests that it works on, or that wait for it."""
        return int(self._client.output_processor.get_num_unfinished_requests()) if self._client else 0

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, on_token: TokenCallback | None = None
    ) -> Completion:
        """Continue a prompt."""
        check_room(self, prompt_ids)
        self._check_draws(sampling)
        begun, prompt, told = time.perf_counter(), list(prompt_ids), Forward(on_token)
        params = sampling_params(sampling, stream=on_token is not None)
        generations, cached, speculated = await with_retries(lambda: self._write(prompt, params, told), self.options)
        if len(generations) < sampling.n:  # greedy samples are all the same
            generations *= sampling.n
        written = sum(len(generation.token_ids) for generation in generations[: params.n])
        return Completion(generations, usage_since(begun, prompt, cached, written) + speculated)

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        """The distribution behind a prompt."""
        check_room(self, prompt_ids)
        begun, prompt = time.perf_counter(), list(prompt_ids)
        params = scoring_params(candidates, chosen=self._chosen)
        output = await with_retries(lambda: self._ask(prompt, params), self.options)
        given = {token: entry.logprob for token, entry in (output.outputs[0].logprobs or [{}])[0].items()}
        found, other = pick(given, candidates, self.name, chosen=self._chosen)
        return NextToken(found, other, usage_since(begun, prompt, output.num_cached_tokens or 0, 1))

    async def reset_prefix_cache(self) -> None:
        """Empty the prefix cache, once nothing is under way any more."""
        while not await (await self._running()).reset_prefix_cache():
            await asyncio.sleep(IDLE_SECONDS)

    def _check_draws(self, sampling: Sampling) -> None:
        """Raise `EngineRequestError` where vLLM 0.32 would write nonsense: its temperatures are lost on the way."""
        if sampling.temperature > 0 and self.options.speculative and on_cpu():
            wrong = f"{self.name}: on CPU vLLM draws wrong tokens while it speculates"
            raise EngineRequestError(wrong, engine=self.name, hint="set temperature = 0")

    def describe(self) -> EngineDescription:
        """What this engine is; the weights are hashed once."""
        return self._description

    @cached_property
    def _description(self) -> EngineDescription:
        import vllm
        from vllm.platforms import current_platform

        return EngineDescription(
            engine="vllm", engine_version=vllm.__version__, model=self.name,
            weights=weights_hash(self._path) or self.options.revision or self._path,
            vocabulary=self.vocabulary.fingerprint, dtype=chosen_dtype(self._path, self.options),
            device=str(current_platform.get_device_name()), context=self.context,
            scoring="chosen" if self._chosen else "top", options=self.options.model_dump(exclude_defaults=True),
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        self._users += 1
        if self._users == 1:
            self._starter = ThreadPoolExecutor(1, thread_name_prefix=f"start-{self.name}")
            self._starting: asyncio.Task[None] | None = None
            self._deadlines: dict[asyncio.Timeout, Any] = {}
            self.deaths = 0
            self._watching = asyncio.create_task(self._watch())
            self._started = asyncio.Event()
            async with AsyncExitStack() as undo:
                undo.push_async_callback(self.__aexit__)
                if self._after:
                    await self._after._started.wait()
                await self._running()
                self._started.set()
                await asyncio.to_thread(self.describe)  # hashes the weights, which may take long
                undo.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._users -= 1
        if self._users == 0:
            self._watching.cancel()
            client = await self._in_starter(self._end)
            self._starter.shutdown(wait=False)
            if client and client.output_handler:  # its task keeps the client alive until it sees that it is cancelled
                await asyncio.wait({client.output_handler}, timeout=GRACE)

    async def _running(self) -> AsyncLLM:
        """The client; one is started when there is none, once for all callers and also when they go away."""
        if self._users == 0:
            raise EngineError(f"{self.name} is not open", engine=self.name, hint="use it inside a with block")
        while self._client is None:
            if self._starting is None or self._starting.done():
                self._starting = asyncio.create_task(self._launch())
                self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.shield(self._starting)
        return self._client

    async def _launch(self) -> None:
        if not self._may_restart:
            raise EngineDeadError(f"{self.name}: the engine has died {self.deaths} times", engine=self.name)
        try:
            await self._in_starter(load)
            await self._in_starter(self._begin)
        except ModelError as error:
            if self.deaths == 0:
                raise
            self.deaths += 1
            raise EngineDeadError(str(error), engine=self.name, retryable=self._may_restart) from error

    def _begin(self) -> None:
        self._client = start(self.name, self._path, self.context, self.options, self._share)

    def _end(self) -> AsyncLLM | None:
        client, self._client = self._client, None
        if client:
            client.shutdown(GRACE)
        return client

    async def _in_starter(self, work: Callable[[], T]) -> T:
        """Run something in the thread that the engine's process is tied to; one thing at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._starter, work)

    async def _write(
        self, prompt: list[int], params: SamplingParams, told: Forward
    ) -> tuple[list[Generation], int, Usage]:
        written: dict[int, list[int]] = {}
        finishes: dict[int, Finish] = {}
        speculated = []

        def take(output: RequestOutput) -> None:
            for part in output.outputs:
                written.setdefault(part.index, []).extend(part.token_ids)
                if part.finish_reason:
                    finishes[part.index] = finish_of(part.finish_reason, part.stop_reason, self.name)
                    speculated.append(speculation(part))
            told.tokens(written.get(0, ()))

        cached = (await self._ask(prompt, params, take)).num_cached_tokens or 0
        made = [Generation(written[index], finishes[index]) for index in sorted(written)]
        return made, cached, sum(speculated, Usage())

    async def _ask(
        self, prompt: list[int], params: SamplingParams, take: Callable[[RequestOutput], None] = lambda _: None
    ) -> RequestOutput:
        """Make one request and return its last output; errors are translated and the time is limited."""
        from vllm.inputs import tokens_input

        client, begun = await self._running(), time.monotonic()
        deadline, name = asyncio.timeout(self.options.timeout_seconds), uuid.uuid4().hex
        self._deadlines[deadline] = client
        last = None
        try:
            try:
                async with deadline:
                    async for output in client.generate(tokens_input(prompt), params, name, lora_request=self._lora):
                        take(output)
                        last = output
            finally:
                self._deadlines.pop(deadline, None)
        except TimeoutError:
            raise await self._overdue(client, begun) from None
        except Exception as error:
            if client.errored:
                await self._retire(client)
            raise translated(error, self.name, may_restart=self._may_restart) from error
        if last is None:
            raise EngineDeadError(f"{self.name} gave no output", engine=self.name, retryable=True)
        self._answered = time.monotonic()
        return last

    async def _overdue(self, client: Any, begun: float) -> EngineError:
        """The error of a call that was given up: its engine is dead, hung, or only slow."""
        if client != self._client or client.errored:
            await self._retire(client)
            return dead(self.name, may_restart=self._may_restart)
        if self._answered < begun:  # nobody had an answer in that time: it hangs
            await self._retire(client)
        return EngineTimeoutError(
            f"{self.name} did not answer within {self.options.timeout_seconds:g} s", engine=self.name,
            retryable=self._may_restart, hint="raise timeout_seconds if it is slow and not hung",
        )  # fmt: skip

    async def _watch(self) -> None:
        """End the calls of engines that are gone: a request they were just being sent would wait for ever."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for deadline, client in list(self._deadlines.items()):
                if (client != self._client or client.errored) and not deadline.expired():
                    del self._deadlines[deadline]
                    deadline.reschedule(0)

    @property
    def _may_restart(self) -> bool:
        return self.deaths <= self.options.restarts

    async def _retire(self, client: Any) -> None:
        """End a dead or hung engine, once however many calls report it; the next call starts another."""
        if self._client != client:
            return
        self._client, self.deaths = None, self.deaths + 1
        log.warning("%s has died (%d of %d restarts)", self.name, self.deaths, self.options.restarts)
        await self._in_starter(partial(client.shutdown, GRACE))

    @cached_property
    def _lora(self) -> Any:
        from vllm.lora.request import LoRARequest

        return LoRARequest("adapter", 1, self.options.lora) if self.options.lora else None
