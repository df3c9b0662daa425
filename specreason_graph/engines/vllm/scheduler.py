"""vLLM's scheduler, extended in two ways; vLLM is given a function's name, and loads this module in the core's process.

`counting` reports the counts of token-level speculation with every output of a request. vLLM 0.32 by itself reports
them only with the core's last output of a request. Most steps end at a stop string, which is detected outside the core,
after an output that the core did not mark as the last: the counts would be lost.

`serving` also lets a request for the log-probabilities of its prompt read the prefix cache. In its HTTP API vLLM has no
field for that, and would compute the whole prompt. Rows of cached tokens hold anything and would kill the server, which
decodes them: they are cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

from specreason_graph.engines.likelihood import READ_CACHE


def counting(vllm_config: Any, **given: Any) -> Any:
    """Make the scheduler that vLLM would choose by itself, and extend it."""
    # A copy that does not name this function lets vLLM choose; the configuration itself stays as it was given.
    config = copy(vllm_config.scheduler_config)
    config.scheduler_cls = None
    scheduler = config.get_scheduler_cls()(vllm_config=vllm_config, **given)
    update = scheduler.update_from_output

    def update_with_counts(*results: Any) -> Any:
        outputs = update(*results)
        attach_counts(scheduler.requests, outputs)
        return outputs

    scheduler.update_from_output = update_with_counts
    return scheduler


def serving(vllm_config: Any, **given: Any) -> Any:
    """Make the scheduler of `counting`, and let requests that ask for it read the prefix cache."""
    scheduler = counting(vllm_config, **given)
    add, update = scheduler.add_request, scheduler.update_from_output

    def add_reading(request: Any) -> None:
        let_read_cache(request)
        add(request)

    def update_cut(*results: Any) -> Any:
        outputs = update(*results)
        cut_cached_rows(outputs)
        return outputs

    scheduler.add_request, scheduler.update_from_output = add_reading, update_cut
    return scheduler


def let_read_cache(request: Any) -> None:
    """Let a request read the prefix cache if it asks for that."""
    params = request.sampling_params
    if params is not None and (params.extra_args or {}).get(READ_CACHE) == 1:
        params.skip_reading_prefix_cache = request.skip_reading_prefix_cache = False


def cut_cached_rows(outputs: Mapping[int, Any]) -> None:
    """Cut off the log-probabilities of cached prompt tokens; ``outputs`` holds the core's outputs by client."""
    for output in (output for each in outputs.values() for output in each.outputs):
        rows = output.new_prompt_logprobs_tensors
        if rows is None or output.prefill_stats is None:
            continue
        # The log-probability of a token needs the logits of the token before it.
        first = len(rows.logprobs) - max(0, output.prefill_stats.num_computed_tokens - 1)
        if first > 0:
            kept = (part if part is None else part[first:] for part in rows[:3])
            output.new_prompt_logprobs_tensors = type(rows)(*kept)


def attach_counts(requests: Mapping[str, Any], outputs: Mapping[int, Any]) -> None:
    """Copy the counts of unfinished requests into their outputs; ``outputs`` holds the core's outputs by client."""
    for output in (output for each in outputs.values() for output in each.outputs):
        counts = getattr(requests.get(output.request_id), "spec_decode_metrics", None)
        if counts and output.spec_decode_metrics is None:
            # A copy, because the core goes on counting in its own object.
            output.spec_decode_metrics = replace(counts, histogram=list(counts.histogram))
