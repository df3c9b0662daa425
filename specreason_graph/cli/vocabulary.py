"""One vocabulary for the JSON of all commands: a key means the same wherever it stands.

A thread's id is ``thread``; ``steps`` are steps and ``step_count`` is their number; ``step`` is a position from 0. What
the library's results call otherwise gets its key here, in the output and in its schema. Records of a run (its steps,
its answer, its manifest) keep their names: they are what was sealed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

KEYS: dict[str, dict[str, str]] = {
    "Changed": {"recorded": "was_accepted", "would_be": "would_be_accepted"},
    "CheckResult": {"advice": "recommendation"},
    "ComparedSteps": {"one": "step", "other": "other_step"},
    "Comparison": {
        "one": "strategy", "other": "other_strategy", "pairs": "pair_count", "same": "same_count",
        "right": "right_share", "other_right": "other_right_share", "faster": "faster_interval",
    },
    "Described": {"hardware": "machine", "base": "base_model", "draft": "draft_model"},
    "Estimate": {"lost": "lost_share"},
    "Measured": {"logprobs": "logprob_seconds", "likelihood": "likelihood_seconds"},
    "OtherPolicy": {"steps": "step_count"},
    "Outcome": {
        "questions": "question_count", "right": "right_count", "base_right": "base_right_count", "lost": "lost_count",
        "gained": "gained_count",
    },
    "PairCosts": {
        "base": "base_token_seconds", "draft": "draft_token_seconds", "base_together": "base_together_seconds",
        "draft_together": "draft_together_seconds", "score": "score_seconds",
    },
    "PlanDocument": {"advice": "recommendation"},
    "Point": {"same": "same_count", "runs": "run_count"},
    "Policy": {"judge": "judge_settings"},
    "Pruned": {"thread_id": "thread", "runs": "run_names", "checkpoints": "checkpoint_count"},
    "Recomputed": {"steps": "step_count", "decisions": "decision_count"},
    "RerunRun": {"steps": "step_count", "tokens": "token_count"},
    "Rescored": {"recorded": "recorded_number", "now": "number"},
    "RiskBound": {"questions": "question_count", "lost": "lost_share"},
    "Row": {
        "strategy": "strategy_settings", "runs": "run_count", "questions": "question_count", "accepted": "acceptance",
        "right": "right_interval", "faster": "faster_interval",
    },
    "RunUsage": {
        "steps": "step_count", "proposals": "proposal_count", "accepted": "accepted_count",
        "taken_back": "taken_back_count", "discarded": "discarded_usage", "wasted": "wasted_usage",
    },
    "Side": {"thread_id": "thread", "steps": "step_count"},
    "Suggestion": {"runs": "run_count"},
    "Tried": {"let_in": "let_in_steps"},
    "Tuned": {"questions": "question_count", "base_right": "base_right_count", "costs": "pair_costs"},
    "Unasked": {"sure": "sure_count", "sampled": "sampled_count", "rejected": "rejected_count"},
    "Verified": {"thread_id": "thread"},
}  # fmt: skip
"""Keys of the library's results that are called otherwise in JSON, by class and field."""


def with_keys(model: BaseModel) -> dict[str, Any]:
    """A result as plain values under the keys of the vocabulary."""
    found: dict[str, Any] = _renamed(model, model.model_dump())
    return found


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of what `with_keys` gives for a model."""
    found, read = (model.model_json_schema(mode=mode, by_alias=False) for mode in ("serialization", "validation"))
    # Records that leave empty fields out write themselves: how they are read tells what they hold.
    parts = {**read.get("$defs", {}), **{name: each for name, each in found.get("$defs", {}).items() if _is_told(each)}}
    whole = found if _is_told(found) else read
    for each in (whole, *parts.values()):
        keys = KEYS.get(each.get("title", ""), {})
        if "properties" in each:
            each["properties"] = {keys.get(name, name): value for name, value in each["properties"].items()}
        if "required" in each:
            each["required"] = [keys.get(name, name) for name in each["required"]]
    whole |= {"$defs": parts} if parts else {}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}


def _is_told(part: Mapping[str, Any]) -> bool:
    """Whether a schema says more than that there is an object."""
    return "properties" in part or part.get("type") != "object"


def _renamed(value: Any, dumped: Any) -> Any:
    """What was dumped of a value, with the keys of the classes in it."""
    if isinstance(value, BaseModel) and isinstance(dumped, Mapping):
        keys = KEYS.get(type(value).__name__, {})
        return {keys.get(name, name): _renamed(getattr(value, name, None), each) for name, each in dumped.items()}
    if isinstance(value, Mapping) and isinstance(dumped, Mapping):
        return {name: _renamed(value.get(name), each) for name, each in dumped.items()}
    if isinstance(value, list | tuple) and isinstance(dumped, list | tuple):
        return [_renamed(*each) for each in zip(value, dumped, strict=True)]
    return dumped
