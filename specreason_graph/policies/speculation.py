"""Whether drafting pays: the base model writes alone while asking the draft brings no gain.

SmartSpec (arXiv 2406.14066) sets the length of token speculation by the goodput that it is expected to bring. Here
nothing is modelled: seconds per committed token are measured in both arms, and the slower one is probed now and then.
All runs over a pair share one controller, because what one wins by drafting the others may lose.
"""

from __future__ import annotations

from specreason_graph.record.records import UNASKED, Goodput, Step

PROBE = 8
"""Steps that a probe measures; with more runs than that, one of each."""
INTERVAL = 128
"""Steps of each run between two probes."""
MIN_GAIN = 0.05
"""Share of the time that drafting must save, so that noise alone does not speak for it."""
MEMORY = 0.98
"""What is left of an arm's older figures at each of its steps: single drafted steps differ by a factor of four."""


def pays(found: Goodput) -> bool:
    """Whether a token takes clearly less time with the draft; taken for granted while one arm is not known."""
    if found.drafting is None or found.base_only is None:
        return True
    return found.drafting <= (1 - MIN_GAIN) * found.base_only


class SpeculationController:
    """Chooses the arm, drafting or base only, for all runs of a pair."""

    def __init__(self) -> None:
        self._begin(runs=1)

    def _begin(self, runs: int) -> None:
        """Know nothing, and probe both arms among as many runs."""
        self._figures = dict.fromkeys((True, False), (0.0, 0.0))  # seconds and tokens of drafting and of base only
        self._drafting = self._probing = True
        self._steps, self._rejected, self._runs = 0, 0, runs

    def figures_for_base(self, runs: int) -> Goodput | None:
        """The figures by which the base writes the next step of one of ``runs`` runs; None asks the draft."""
        if not self._runs / 2 <= runs <= self._runs * 2:  # what was measured under another load tells nothing
            self._begin(runs)
        return None if self._drafting else self._goodput(runs)

    def committed(self, step: Step, runs: int) -> None:
        """Take note of a step that one of ``runs`` runs has committed, and change the arm when that is due."""
        self._steps += 1
        # a run that was asked in the other arm may end its step now: such a step belongs to neither measurement
        asked = step.decision.reason not in UNASKED
        if asked == self._drafting and self._steps > runs and step.elapsed:
            seconds, tokens = self._figures[self._drafting]
            self._figures[self._drafting] = MEMORY * seconds + step.elapsed, MEMORY * tokens + len(step.token_ids)
        self._rejected = 0 if step.decision.accepted else self._rejected + 1
        hopeless = self._probing and self._drafting and self._rejected >= PROBE
        if hopeless or self._steps >= runs + (max(PROBE, runs) if self._probing else INTERVAL * runs):
            self._change(runs)

    def _change(self, runs: int) -> None:
        """End a probe and take the better arm, or probe the other one; an arm that is not known is probed."""
        known = all(tokens for _, tokens in self._figures.values())
        decided = self._probing and known
        self._drafting = pays(self._goodput(runs)) if decided else not self._drafting
        self._probing = not decided
        self._steps = self._rejected = 0

    def _goodput(self, runs: int) -> Goodput:
        drafting, base_only = (seconds / tokens if tokens else None for seconds, tokens in self._figures.values())
        return Goodput(drafting=drafting, base_only=base_only, runs=runs, probe=self._probing)
