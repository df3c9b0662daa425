"""Which stage comes next: pure functions of the state, which the edges of the graph and its auditors go by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from specreason_graph.record.progress import Pending, Progress

Stage = Literal["draft", "score", "review", "accept", "regenerate", "finalize"]


def route(state: Mapping[str, Any]) -> Literal["draft", "regenerate", "finalize"]:
    """Who writes next, or the end of the thinking."""
    progress = Progress.load(state["progress"])
    if progress.stop_reason:
        return "finalize"
    # the manifest's own setting: the graph may have been compiled with another one since the run began
    first_steps = progress.steps < state["manifest"]["config"]["first_steps_by_base"]
    return "regenerate" if progress.base_only or progress.handover or first_steps else "draft"


def after_draft(state: Mapping[str, Any]) -> Literal["score", "regenerate", "finalize"]:
    """No proposal, one without text, or one too long for the judge is not scored: the base model settles it."""
    if state["progress"]["stop_reason"]:
        return "finalize"
    return "score" if Pending.load(state["pending"]).scorable else "regenerate"


def after_score(state: Mapping[str, Any]) -> Literal["accept", "review", "regenerate", "finalize"]:
    """A human where the score is in the band, else as the decision says."""
    if state["progress"]["stop_reason"]:
        return "finalize"
    return after_review(state)


def after_review(state: Mapping[str, Any]) -> Literal["accept", "review", "regenerate"]:
    """As the decision says, once no human is to be asked, or asked again; a human's own step is there already."""
    if Pending.load(state["pending"]).needs_review:
        return "review"
    decision = state["pending"]["decision"]
    return "accept" if decision["accepted"] or decision["reason"] == "written_by_reviewer" else "regenerate"


def next_stage(state: Mapping[str, Any]) -> Stage | None:
    """The stage that a run has to go on with, as it follows from the step in flight; None for a run that has ended."""
    if state.get("result"):
        return None
    pending = Pending.load(state.get("pending") or {})
    if pending.decision:
        return after_score(state)
    return after_draft(state) if pending.proposal or pending.error is not None else route(state)
