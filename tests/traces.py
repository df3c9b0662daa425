"""What two runs of one question must share."""

from __future__ import annotations

from typing import Any

import pytest


def assert_same(one: Any, other: Any) -> None:
    """The same answer, authors and tokens; scores to 1e-3."""
    assert one["answer"] == other["answer"]
    assert [(s["author"], s["token_ids"]) for s in one["steps"]] == [
        (s["author"], s["token_ids"]) for s in other["steps"]
    ]
    for mine, theirs in zip(one["steps"], other["steps"], strict=True):
        if mine["score"]:
            assert mine["score"]["digit_logprobs"] == pytest.approx(theirs["score"]["digit_logprobs"], abs=1e-3)
            assert mine["score"]["mean"] == pytest.approx(theirs["score"]["mean"], abs=1e-3)
