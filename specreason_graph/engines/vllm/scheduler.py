"""vLLM's scheduler, which tells with every output what a request's token-level speculation has come to so far.

By itself vLLM 0.32 tells it with the last output of its core alone. A stop string, which is how most steps end, is seen
outside the core, behind an output that was not meant to be the last, and the counts would be lost. This module runs
in the core's process; vLLM is given its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any


def counting(vllm_config: Any, **given: Any) -> Any:
    """The scheduler that vLLM would have chosen itself, made to tell."""
    config = copy(vllm_config.scheduler_config)
    config.scheduler_cls = None
    scheduler = config.get_scheduler_cls()(vllm_config=vllm_config, **given)
    update = scheduler.update_from_output

    def update_and_tell(*results: Any) -> Any:
        outputs = update(*results)
        tell(scheduler.requests, outputs)
        return outputs

    scheduler.update_from_output = update_and_tell
    return scheduler


def tell(requests: Mapping[str, Any], outputs: Mapping[int, Any]) -> None:
    """Put the counts of requests that are not finished into their outputs, which stand by client."""
    for output in (output for each in outputs.values() for output in each.outputs):
        counts = getattr(requests.get(output.request_id), "spec_decode_metrics", None)
        if counts and output.spec_decode_metrics is None:
            output.spec_decode_metrics = replace(counts, histogram=list(counts.histogram))  # the core counts on
