"""What the names in the records mean, in words for people."""

from __future__ import annotations

import math

from specreason_graph.records import Ending, Purpose, Reason, StopReason

REASONS: dict[Reason, str] = {
    "score_reaches_threshold": "draft accepted: the score reaches the threshold",
    "score_below_threshold": "draft rejected: the score is below the threshold",
    "first_steps_by_base": "nothing drafted: the first steps are the base's",
    "proposal_ends_thinking": "the base decides: the draft would end the thinking",
    "proposal_is_blank": "the base writes: the draft wrote nothing",
    "proposal_too_long": "the base writes: the draft's version left the judge no room",
    "drafting_does_not_pay": "the base writes: drafting did not pay",
    "base_is_timed": "the base writes, to see how fast it is without the draft",
    "draft_failed": "the base writes: the draft engine failed",
    "accepted_by_reviewer": "draft accepted by a human",
    "rejected_by_reviewer": "draft rejected by a human",
    "written_by_reviewer": "written by a human in place of the draft's version",
}
STOPS: dict[StopReason, str] = {
    "answered": "The model ended its thinking",
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
}
PURPOSES: dict[Purpose, str] = {
    "draft": "drafting",
    "score": "scoring",
    "regenerate": "writing steps",
    "answer": "writing the answer",
}


def duration(seconds: float) -> str:
    """Seconds as people say them; a damaged record may hold numbers that are none."""
    if not math.isfinite(seconds):
        return f"{seconds} s"
    if seconds < 60:
        return f"{seconds:.{2 if seconds < 10 else 1}f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} days"


def moment(stamp: str | None) -> str:
    """An ISO 8601 time, to the second."""
    return stamp[:19].replace("T", " ") + " UTC" if stamp else "not recorded"
