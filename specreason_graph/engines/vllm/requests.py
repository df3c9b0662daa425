"""Requests and errors of vLLM in the words of the engine protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from specreason_graph.engines.base import Sampling, speculation_of
from specreason_graph.errors import EngineBusyError, EngineDeadError, EngineError, EngineRequestError
from specreason_graph.record.records import Usage

if TYPE_CHECKING:
    from vllm import CompletionOutput, SamplingParams

TOP = 20
"""Log-probabilities vLLM gives at most when chosen tokens cannot be asked for."""


def sampling_params(sampling: Sampling, *, stream: bool = False) -> SamplingParams:
    """Our settings in vLLM's words: it stops where we say and nowhere else."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    greedy = sampling.temperature == 0
    return SamplingParams(
        n=1 if greedy else sampling.n, temperature=sampling.temperature, top_p=1.0 if greedy else sampling.top_p,
        seed=sampling.seed, max_tokens=sampling.max_tokens, stop=list(sampling.stop),
        stop_token_ids=sorted(sampling.stop_token_ids), ignore_eos=True, include_stop_str_in_output=True,
        skip_special_tokens=False, detokenize=bool(sampling.stop),
        output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
        structured_outputs=StructuredOutputsParams(json=sampling.json_schema) if sampling.json_schema else None,
    )  # fmt: skip


def scoring_params(candidates: Sequence[int], *, chosen: bool) -> SamplingParams:
    """One greedy token with the raw log-probabilities of ``candidates``, or of the likeliest tokens."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    wanted = {"logprobs": len(candidates), "logprob_token_ids": list(candidates)} if chosen else {"logprobs": TOP}
    return SamplingParams(
        temperature=0, max_tokens=1, ignore_eos=True, detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY, **wanted,
    )  # fmt: skip


def speculation(part: CompletionOutput) -> Usage:
    """What a finished continuation took of token-level speculation."""
    return speculation_of(part.spec_decode_metrics and part.spec_decode_metrics.to_dict())


def translated(error: Exception, name: str, *, may_restart: bool) -> EngineError:
    """An error of vLLM in the words of this package."""
    from vllm import exceptions
    from vllm.v1.engine import exceptions as engine_exceptions

    if isinstance(error, EngineError):
        return error
    text = f"{name}: {error or type(error).__name__}"
    if isinstance(error, exceptions.QueueOverflowError | exceptions.MaxQueuedTokensError):
        return EngineBusyError(text, engine=name, retryable=True, hint="ask less at once or raise the option queue")
    if isinstance(error, exceptions.VLLMClientError | exceptions.GracefulHTTPError):
        return EngineRequestError(text, engine=name)
    if isinstance(error, engine_exceptions.EngineDeadError):
        return dead(name, may_restart=may_restart)
    return EngineError(text, engine=name, retryable=isinstance(error, exceptions.VLLMServerError))


def dead(name: str, *, may_restart: bool) -> EngineDeadError:
    """The engine's process is gone."""
    hint = "" if may_restart else "see vLLM's log above for the cause"
    return EngineDeadError(f"{name}: the engine has died", engine=name, retryable=may_restart, hint=hint)
