"""A finished run as LangChain's message: each step a reasoning block, then the answer and its tool calls.

Where the reply itself is the trace the steps are the answer, and there are no reasoning blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.messages.ai import OutputTokenDetails, UsageMetadata

from specreason_graph.record.manifest import is_plain
from specreason_graph.record.records import Answer, Plain, Step, StopReason, Usage
from specreason_graph.record.summary import Summary


def reply_message(
    manifest: Plain, steps: Sequence[Step], answer: Answer, reason: StopReason, summary: Summary
) -> AIMessage:
    """The reply to a conversation; its id is the name of the run, by which audits find that."""
    blocks = [] if is_plain(manifest) else [reasoning_block(step) for step in steps if step.text]
    if answer.text:
        blocks.append({"type": "text", "text": answer.text, "index": len(blocks)})
    return AIMessage(
        content=blocks,  # type: ignore[arg-type]
        tool_calls=answer.tool_calls, invalid_tool_calls=answer.invalid_tool_calls,
        usage_metadata=usage_metadata(manifest, steps, answer), id=manifest.get("run"),
        response_metadata=response_metadata(manifest, answer, reason, summary),
    )  # fmt: skip


def reasoning_block(step: Step) -> dict[str, Any]:
    """A step as a standard content block; who wrote it and how it was scored stand in its extras.

    So do the blocks before it that it takes the place of; they stay, as a stream has them already.
    """
    extras: dict[str, Any] = {
        "author": step.author, "reason": step.decision.reason, "score": step.decision.number,
    }  # fmt: skip
    extras |= {"taken_back": step.taken_back} if step.taken_back else {}
    return {"type": "reasoning", "reasoning": step.text, "index": step.index, "extras": extras}


def usage_metadata(manifest: Plain, steps: Sequence[Step], answer: Answer) -> UsageMetadata:
    """Tokens of the conversation, the committed thinking and the answer; what the models did is in the metadata."""
    asked = len(manifest["head_ids"]["base"])
    committed = sum(len(step.token_ids) for step in steps)
    written = committed + answer.usage.generated_tokens
    reasoning = 0 if is_plain(manifest) else committed
    return UsageMetadata(
        input_tokens=asked, output_tokens=written, total_tokens=asked + written,
        output_token_details=OutputTokenDetails(reasoning=reasoning),
    )  # fmt: skip


def response_metadata(manifest: Plain, answer: Answer, reason: StopReason, summary: Summary) -> dict[str, Any]:
    """Models, how it ended, and the work of each model, rejected work included."""
    engines: Mapping[str, Any] = manifest["engines"]
    work = {"base": Usage(), "draft": Usage()}
    for cost in summary.costs:
        work[cost.engine] += cost.usage
    finish = "tool_calls" if answer.tool_calls else "stop" if answer.complete else "length"
    return {
        "model_name": engines["base"]["model"], "draft_model_name": engines["draft"]["model"],
        "model_provider": "specreason", "finish_reason": finish, "stop_reason": reason,
        "usage_by_model": {role: usage.dump() for role, usage in work.items()},
    }  # fmt: skip
