"""Translation between the engine protocol and vLLM's requests and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from specreason_graph.engines.base import Sampling, checked_logprob, entropy_of, speculation_of
from specreason_graph.engines.redaction import shown
from specreason_graph.errors import EngineBusyError, EngineDeadError, EngineError, EngineRequestError
from specreason_graph.record.records import Usage

if TYPE_CHECKING:
    from vllm import CompletionOutput, SamplingParams

TOP = 20
"""Most log-probabilities that vLLM gives where it cannot be asked for chosen tokens."""


def sampling_params(sampling: Sampling, *, stream: bool = False) -> SamplingParams:
    """Translate sampling settings for vLLM."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    greedy = sampling.temperature == 0
    # ignore_eos: stop_token_ids decides where a call ends, and the end of sequence is kept. Stop strings are found in
    # text; without them nobody reads it. vLLM refuses n above 1 at temperature 0, where all samples would be the same.
    return SamplingParams(
        n=1 if greedy else sampling.n, temperature=sampling.temperature, top_p=1.0 if greedy else sampling.top_p,
        top_k=0 if greedy else sampling.top_k, min_p=0.0 if greedy else sampling.min_p,
        repetition_penalty=sampling.repetition_penalty, seed=sampling.seed, max_tokens=sampling.max_tokens,
        stop=list(sampling.stop),
        stop_token_ids=sorted(sampling.stop_token_ids), ignore_eos=True, include_stop_str_in_output=True,
        skip_special_tokens=False, detokenize=bool(sampling.stop),
        output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
        structured_outputs=StructuredOutputsParams(json=sampling.json_schema) if sampling.json_schema else None,
        logprobs=sampling.logprobs,
    )  # fmt: skip


def scoring_params(candidates: Sequence[int], *, chosen: bool) -> SamplingParams:
    """Return the parameters for one greedy token with log-probabilities.

    ``chosen``: whether to ask for exactly the ``candidates``; else the likeliest tokens are asked for.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    wanted = {"logprobs": len(candidates), "logprob_token_ids": list(candidates)} if chosen else {"logprobs": TOP}
    return SamplingParams(
        temperature=0, max_tokens=1, ignore_eos=True, detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY, **wanted,
    )  # fmt: skip


def likelihood_params(following: int | None) -> SamplingParams:
    """Return the parameters for the log-probabilities of a prompt's tokens, and of the token ``following`` it, if any.

    vLLM always generates a token. With `skip_reading_prefix_cache` at its default of True it would compute the whole
    prompt; with False, rows of cached tokens hold anything, and must not be detokenized.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    # Log-probabilities are taken before the tokens that are not allowed are masked.
    forced = {} if following is None else {"allowed_token_ids": [following], "logprobs": 0}
    return SamplingParams(
        temperature=0, max_tokens=1, ignore_eos=True, detokenize=False, prompt_logprobs=0,
        skip_reading_prefix_cache=False, output_kind=RequestOutputKind.FINAL_ONLY, **forced,
    )  # fmt: skip


def evidence(
    tokens: Sequence[int], rows: Sequence[Mapping[int, Any]], wanted: int | None, name: str
) -> tuple[list[float] | None, list[float] | None]:
    """Return log-probabilities and entropies of generated tokens; None for what was not ``wanted``.

    ``rows``: for each token vLLM's log-probabilities by token id, of the token itself and of the likeliest ones.
    """
    if wanted is None:
        return None, None
    logprobs = [logprob_in(row, token, name) for row, token in zip(rows, tokens, strict=False)]
    if wanted == 0:
        return logprobs, None
    top = [sorted((entry.logprob for entry in row.values()), reverse=True)[:wanted] for row in rows[: len(tokens)]]
    return logprobs, [entropy_of(each) for each in top]


def logprob_in(row: Mapping[int, Any] | None, token: int, name: str) -> float:
    """Return a token's log-probability; `EngineAnswerError` where there is none."""
    entry = (row or {}).get(token)
    return checked_logprob(entry and entry.logprob, name)


def speculation(part: CompletionOutput) -> Usage:
    """Return the counts of token-level speculation of a finished continuation."""
    return speculation_of(part.spec_decode_metrics and part.spec_decode_metrics.to_dict())


def translated(error: Exception, name: str, *, may_restart: bool) -> EngineError:
    """Translate an error of vLLM into one of this package."""
    from vllm import exceptions
    from vllm.v1.engine import exceptions as engine_exceptions

    if isinstance(error, EngineError):
        return error
    text = f"{name}: {shown(str(error)) or type(error).__name__}"
    if isinstance(error, exceptions.QueueOverflowError | exceptions.MaxQueuedTokensError):
        return EngineBusyError(text, engine=name, retryable=True, hint="make fewer calls or raise the option queue")
    if isinstance(error, exceptions.VLLMClientError | exceptions.GracefulHTTPError):
        return EngineRequestError(text, engine=name)
    if isinstance(error, engine_exceptions.EngineDeadError):
        return dead(name, may_restart=may_restart)
    return EngineError(text, engine=name, retryable=isinstance(error, exceptions.VLLMServerError))


def dead(name: str, *, may_restart: bool) -> EngineDeadError:
    """Return the error for an engine whose core has died."""
    hint = "" if may_restart else "see vLLM's log above for the cause"
    return EngineDeadError(f"{name}: the engine has died", engine=name, retryable=may_restart, hint=hint)
