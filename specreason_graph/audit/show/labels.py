"""Labels: texts for people in place of the names in the records."""

from __future__ import annotations

import math
from typing import NamedTuple

from specreason_graph.record.records import Ending, Purpose, Reason, StopReason


class ReasonLabel(NamedTuple):
    """The texts for the reason of a decision."""

    sentence: str
    """Text for a page."""
    note: str
    """Text for the end of a line, which also names the author; after a colon the draft's version follows."""


REASONS: dict[Reason, ReasonLabel] = {
    "score_reaches_threshold": ReasonLabel("draft accepted: the score reaches the threshold", ""),
    "score_below_threshold": ReasonLabel("draft rejected: the score is below the threshold", "draft rejected: "),
    "first_steps_by_base": ReasonLabel("not drafted: the base writes the first steps", "base writes the first steps"),
    "writer_chose_base": ReasonLabel("not drafted: the writer has the base write", "the base writes"),
    "proposal_ends_thinking": ReasonLabel(
        "the base decides: the draft would end the thinking", "draft would end the thinking"
    ),
    "proposal_is_blank": ReasonLabel("the base writes: the draft wrote nothing", "draft wrote nothing"),
    "proposal_too_long": ReasonLabel(
        "the base writes: the draft's version was too long to score", "draft too long to score"
    ),
    "drafting_does_not_pay": ReasonLabel("the base writes: drafting did not pay", "drafting does not pay"),
    "base_is_timed": ReasonLabel("the base writes, to time it without the draft", "timing the base model"),
    "draft_failed": ReasonLabel("the base writes: the draft engine failed", "the draft engine failed"),
    "accepted_by_reviewer": ReasonLabel("draft accepted by a human", "accepted by a human"),
    "rejected_by_reviewer": ReasonLabel("draft rejected by a human", "rejected by a human: "),
    "written_by_reviewer": ReasonLabel("written by a human in place of the draft's version", "in place of: "),
}
STOPS: dict[StopReason, str] = {
    "answered": "The model ended its thinking",
    "answer_settled": "The answer no longer changed",
    "stopping_rule": "The stopping rule of the run ended it",
    "step_limit": "The limit of steps was reached",
    "token_budget": "The thinking budget was used up",
    "context_limit": "The context was full",
    "repetition": "The thinking repeated itself",
    "deadline": "The deadline had passed",
    "engine_error": "An engine failed",
}
ENDINGS: dict[Ending, str] = {
    "blank_line": "a blank line",
    "think_end": "the end of the thinking",
    "end_of_sequence": "the end of the sequence",
    "special_token": "a special token",
    "length": "the limit of tokens",
    "tool_call": "the beginning of a call",
    "stop_string": "a stop string",
}
PURPOSES: dict[Purpose, str] = {
    "draft": "drafting",
    "score": "scoring",
    "regenerate": "writing steps",
    "probe": "probing the answer",
    "answer": "writing the answer",
}


def duration(seconds: float) -> str:
    """Format seconds for people."""
    if not math.isfinite(seconds):  # a damaged record may hold anything
        return f"{seconds} s"
    if seconds < 60:
        return f"{seconds:.{2 if seconds < 10 else 1}f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} days"


def moment(stamp: str | None) -> str:
    """Format an ISO 8601 time, to the second."""
    return stamp[:19].replace("T", " ") + " UTC" if stamp else "not recorded"
