"""The engine in vLLM: calls, their time limits, and restarts of an engine that has died."""

from __future__ import annotations

import asyncio
import logging
import os
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
    Generation,
    Likelihood,
    NextToken,
    Sampling,
    TokenCallback,
    TokenForwarder,
    check_room,
    finish_of,
    pick,
    usage_since,
)
from specreason_graph.engines.checkpoint import load_config, load_vocabulary, recommended_sampling, weights_hash
from specreason_graph.engines.likelihood import computed, likelihood_of
from specreason_graph.engines.options import LONG, VLLMOptions
from specreason_graph.engines.retry import with_retries
from specreason_graph.engines.vllm.launch import GRACE, chosen_dtype, load, on_cpu, start
from specreason_graph.engines.vllm.memory import Share
from specreason_graph.engines.vllm.orphans import Watcher
from specreason_graph.engines.vllm.requests import (
    dead,
    evidence,
    likelihood_params,
    logprob_in,
    sampling_params,
    scoring_params,
    speculation,
    translated,
)
from specreason_graph.errors import (
    EngineAnswerError,
    EngineDeadError,
    EngineError,
    EngineRequestError,
    EngineTimeoutError,
    ModelError,
)
from specreason_graph.record.manifest import EngineDescription
from specreason_graph.record.records import Usage

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

T = TypeVar("T")
IDLE_SECONDS = 0.01
"""Seconds between two tries to empty the prefix cache, which is possible only while no request is in progress."""
WATCH_SECONDS = 0.5
"""Seconds between two checks whether the engine has died."""
log = logging.getLogger(__name__)


class VLLMEngine:
    """A model in vLLM, in this process.

    ``model``: folder or hub name. ``share``: the engine's part of the memory plan; without it, ``options`` must give
    the size of the KV cache. ``after``: an engine that must start first, because both measure the memory of one device.
    Answers are as reproducible as vLLM: in float32 one seed gives one answer, in bfloat16 other requests in the same
    batch may change it.
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
        self.recommended_sampling = recommended_sampling(model, self.options.revision)
        longest = load_config(model, self.options.revision).max_position_embeddings
        self.context: int = self.options.context or (share.context if share else longest)
        self._client: AsyncLLM | None = None
        self._watcher: Watcher | None = None
        self._users = 0
        self.deaths = 0
        """How often the engine's core has died since the engine was opened."""
        self._answered = 0.0
        # While vLLM speculates it gives log-probabilities of its top tokens only, and not of chosen ones.
        self._chosen = self.options.speculative is None

    @property
    def pid(self) -> int | None:
        """Process id of the engine's core; None while there is none."""
        # vLLM has no public way to ask for it.
        core: Any = self._client.engine_core if self._client else None
        return int(core.resources.engine_manager.processes[0].pid) if core else None

    @property
    def unfinished(self) -> int:
        """Requests that vLLM works on or has in its queue."""
        return int(self._client.output_processor.get_num_unfinished_requests()) if self._client else 0

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, on_token: TokenCallback | None = None
    ) -> Completion:
        """Generate continuations of a prompt."""
        check_room(self, prompt_ids)
        self._check_draws(sampling)
        begun, prompt, forwarder = time.perf_counter(), list(prompt_ids), TokenForwarder(on_token)
        params = sampling_params(sampling, stream=on_token is not None or sampling.max_tokens > LONG)
        generations, cached, speculated = await with_retries(
            lambda: self._write(prompt, params, forwarder), self.options
        )
        if len(generations) < sampling.n:  # greedy samples are all the same, so only one was generated
            generations *= sampling.n
        written = sum(len(generation.token_ids) for generation in generations[: params.n])
        return Completion(generations, usage_since(begun, prompt, cached, written) + speculated)

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        """Return the log-probabilities of the candidates as the next token."""
        check_room(self, prompt_ids)
        begun, prompt = time.perf_counter(), list(prompt_ids)
        params = scoring_params(candidates, chosen=self._chosen)

        async def checked() -> tuple[dict[int, float], float, int]:
            output = await self._ask(prompt, params)
            first = (output.outputs[0].logprobs or [{}])[0] if output.outputs else {}
            given = {token: entry.logprob for token, entry in first.items()}
            return *pick(given, candidates, self.name, chosen=self._chosen), output.num_cached_tokens or 0

        found, other, cached = await with_retries(checked, self.options)
        return NextToken(found, other, usage_since(begun, prompt, cached, 1))

    async def likelihood(self, prompt_ids: Sequence[int], continuation_ids: Sequence[int]) -> Likelihood:
        """Return the log-probabilities of a given continuation; vLLM generates one more token in each call."""
        return await likelihood_of(self, self._computed, prompt_ids, continuation_ids, self.options)

    async def _computed(self, ids: list[int], following: int | None) -> Likelihood:
        """Return the log-probabilities of the tokens that are computed of a prompt, and of the one ``following`` it."""
        begun = time.perf_counter()
        output = await self._ask(ids, likelihood_params(following))
        cached = output.num_cached_tokens or 0
        rows = computed(output.prompt_logprobs, ids, cached, self.name)
        if following is not None:
            first = (output.outputs[0].logprobs or [{}])[0] if output.outputs else {}
            rows.append((first, following))
        found = [logprob_in(row, token, self.name) for row, token in rows]
        return Likelihood(found, usage_since(begun, ids, cached, 1))

    async def reset_prefix_cache(self) -> None:
        """Empty the prefix cache, after waiting until no request is in progress."""
        while not await (await self._running()).reset_prefix_cache():
            await asyncio.sleep(IDLE_SECONDS)

    def _check_draws(self, sampling: Sampling) -> None:
        """Raise `EngineRequestError` for sampling on CPU with speculation, where vLLM 0.32 loses the temperature."""
        if sampling.temperature > 0 and self.options.speculative and on_cpu():
            wrong = f"{self.name}: on CPU vLLM draws wrong tokens while it speculates"
            raise EngineRequestError(wrong, engine=self.name, hint="set temperature = 0")

    def describe(self) -> EngineDescription:
        """Describe the engine; the weights are hashed once."""
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
            # One thread starts and ends the core: an engine that is closed while it starts must not leave it behind.
            self._starter = ThreadPoolExecutor(1, thread_name_prefix=f"start-{self.name}")
            self._starting: asyncio.Task[None] | None = None
            self._deadlines: dict[asyncio.Timeout, Any] = {}
            self.deaths = 0
            self._watching = asyncio.create_task(self._watch())
            self._started = asyncio.Event()
            async with AsyncExitStack() as undo:  # closes the engine again when a step below fails or is cancelled
                undo.push_async_callback(self.__aexit__)
                if self._after:
                    await self._after._started.wait()  # noqa: SLF001 - of its own class
                await self._running()
                self._started.set()
                await asyncio.to_thread(self.describe)  # hashing the weights takes long and would block the loop
                undo.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._users -= 1
        if self._users == 0:
            self._watching.cancel()
            client = await self._in_starter(self._end)
            self._starter.shutdown(wait=False)
            # The client's background task refers to the client until its cancellation has been processed.
            if client and client.output_handler:
                await asyncio.wait({client.output_handler}, timeout=GRACE)

    async def _running(self) -> AsyncLLM:
        """Return vLLM's client, and start one where there is none: once for all callers."""
        if self._users == 0:
            raise EngineError(f"{self.name} is not open", engine=self.name, hint="use it inside a with block")
        while self._client is None:
            if self._starting is None or self._starting.done():
                self._starting = asyncio.create_task(self._launch())
                # Mark an exception as seen: asyncio logs those that nobody awaits, and all callers may have left.
                self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.shield(self._starting)  # a caller that is cancelled must not stop the start for the others
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
            self.deaths += 1  # a restart that fails counts as a death, so that restarts end
            raise EngineDeadError(str(error), engine=self.name, retryable=self._may_restart) from error

    def _begin(self) -> None:
        self._watcher = self._watcher or Watcher(str(os.getpid()), uninterruptible=True)
        self._client = start(self.name, self._path, self.context, self.options, self._share)

    def _end(self) -> AsyncLLM | None:
        client, self._client = self._client, None
        if client:
            client.shutdown(GRACE)
        watcher, self._watcher = self._watcher, None
        if watcher:
            watcher.stop()
        return client

    async def _in_starter(self, work: Callable[[], T]) -> T:
        """Run a function in the thread that starts and ends the core; one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._starter, work)

    async def _write(
        self, prompt: list[int], params: SamplingParams, forwarder: TokenForwarder
    ) -> tuple[list[Generation], int, Usage]:
        written: dict[int, list[int]] = {}
        finishes: dict[int, Finish] = {}
        rows: dict[int, list[Any]] = {}
        speculated = []

        def take(output: RequestOutput) -> None:
            for part in output.outputs:
                written.setdefault(part.index, []).extend(part.token_ids)
                if params.logprobs is not None:
                    rows.setdefault(part.index, []).extend((part.logprobs or [])[: len(part.token_ids)])
                if part.finish_reason:
                    finishes[part.index] = finish_of(part.finish_reason, part.stop_reason, self.name)
                    speculated.append(speculation(part))
            forwarder.tokens(written.get(0, ()))

        cached = (await self._ask(prompt, params, take)).num_cached_tokens or 0
        if missing := written.keys() - finishes.keys():
            raise EngineAnswerError(f"{self.name} gave no end of the continuations {missing}", engine=self.name)
        made = [
            Generation(ids, finishes[index], *evidence(ids, rows.get(index, []), params.logprobs, self.name))
            for index, ids in sorted(written.items())
        ]
        return made, cached, sum(speculated, Usage())

    async def _ask(
        self, prompt: list[int], params: SamplingParams, take: Callable[[RequestOutput], None] = lambda _: None
    ) -> RequestOutput:
        """Make one request and return its last output; errors are translated.

        The time limit holds from one output to the next.
        """
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
                        last, begun = output, self._come(deadline)
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
        return last

    def _come(self, deadline: asyncio.Timeout) -> float:
        """Note that an output has come, and let the time limit of its call begin anew; returns the time."""
        if deadline in self._deadlines:  # else the limit has been brought forward, because the engine has died
            deadline.reschedule(asyncio.get_running_loop().time() + self.options.timeout_seconds)
        self._answered = time.monotonic()
        return self._answered

    async def _overdue(self, client: Any, begun: float) -> EngineError:
        """Return the error of a call that nothing came of since ``begun``: its engine is dead, hung, or only slow."""
        if client != self._client or client.errored:
            await self._retire(client)
            return dead(self.name, may_restart=self._may_restart)
        if self._answered <= begun:  # nothing came of any other call in that time either, so the engine hangs
            await self._retire(client)
        return EngineTimeoutError(
            f"{self.name} did not answer within {self.options.timeout_seconds:g} s", engine=self.name,
            retryable=self._may_restart, hint="raise timeout_seconds if it is slow and not hung",
        )  # fmt: skip

    async def _watch(self) -> None:
        """End the calls to a core that has died: a request that was sent at that moment would wait forever."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for deadline, client in list(self._deadlines.items()):
                if (client != self._client or client.errored) and not deadline.expired():
                    del self._deadlines[deadline]
                    deadline.reschedule(0)  # a time in the past: the timeout expires now

    @property
    def _may_restart(self) -> bool:
        return self.deaths <= self.options.restarts

    async def _retire(self, client: Any) -> None:
        """End a dead or hung core; the next call starts another."""
        if self._client != client:  # several calls may report the same death, which counts once
            return
        self._client, self.deaths = None, self.deaths + 1
        log.warning("%s has died (%d of %d restarts)", self.name, self.deaths, self.options.restarts)
        await self._in_starter(partial(client.shutdown, GRACE))

    @cached_property
    def _lora(self) -> Any:
        from vllm.lora.request import LoRARequest

        return LoRARequest("adapter", 1, self.options.lora) if self.options.lora else None
