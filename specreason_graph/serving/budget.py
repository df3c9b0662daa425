"""Limits of thinking and answer that keep both together within the tokens that a client allows."""

from __future__ import annotations

from specreason_graph.config import ANSWER_TOKENS, SpecReasonConfig, overridden
from specreason_graph.engines.pair import EnginePair
from specreason_graph.prompting.engine_prompts import EnginePrompts
from specreason_graph.serving.api_errors import ApiError


def within(pair: EnginePair, config: SpecReasonConfig, most: int) -> SpecReasonConfig:
    """The settings under which a reply of ``pair`` takes no more than ``most`` tokens.

    A quarter, or less where that is enough, is kept for the answer. Where the reply is itself the trace it has all.
    """
    if EnginePrompts(pair.base.vocabulary, config, "base", pair.base.name).format.kind == "none":
        return overridden(config, {"answer_tokens": min(most, config.answer_tokens or most)})
    answer = max(1, min(config.answer_tokens or ANSWER_TOKENS, most // 4))
    if (rest := most - answer) < 1:
        raise ApiError(400, f"{most} tokens leave nothing to think in; allow 2 or more", param="max_completion_tokens")
    step = min(config.max_step_tokens, max(1, rest // 2))
    thinking = min(config.thinking_tokens, rest - step + 1)  # it ends behind the step that reaches its limit
    return overridden(config, {"answer_tokens": answer, "max_step_tokens": step, "thinking_tokens": thinking})
