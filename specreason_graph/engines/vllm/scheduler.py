"""vLLM's scheduler, extended to report the counts of token-level speculation with every output of a request.

vLLM 0.32 by itself reports these counts only with the core's last output of a request. Most steps end at a stop string,
which is detected outside the core, after an output that the core did not mark as the last: the counts would be lost.
vLLM is given the name of `counting`, and loads this module in the core's process.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any


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


def attach_counts(requests: Mapping[str, Any], outputs: Mapping[int, Any]) -> None:
    """Copy the counts of unfinished requests into their outputs; ``outputs`` holds the core's outputs by client."""
    for output in (output for each in outputs.values() for output in each.outputs):
        counts = getattr(requests.get(output.request_id), "spec_decode_metrics", None)
        if counts and output.spec_decode_metrics is None:
            # A copy, because the core goes on counting in its own object.
            output.spec_decode_metrics = replace(counts, histogram=list(counts.histogram))
