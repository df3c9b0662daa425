"""Which steps of a record still stand: those that no later one took back are what the models go on from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from specreason_graph.record.records import Plain, Step


def standing(steps: Sequence[Step]) -> list[Step]:
    """The steps that stand behind the last one."""
    return [steps[position] for position in _standing(step.taken_back for step in steps)]


def standing_in(trace: Sequence[Plain]) -> list[int]:
    """The positions of those in a trace as it is checkpointed."""
    return _standing(step["decision"].get("taken_back", ()) for step in trace)


def _standing(taken_back: Iterable[Sequence[int]]) -> list[int]:
    found: list[int] = []
    for position, gone in enumerate(taken_back):
        found = [each for each in found if each not in gone] if gone else found
        found.append(position)
    return found
