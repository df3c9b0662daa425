"""Whether drafting pays: the base model writes alone while asking the draft brings no gain.

SmartSpec (arXiv 2406.14066) sets the length of token speculation by the goodput that it is expected to bring. Here
nothing is modelled: seconds per committed token are measured in both arms, and the slower one is probed now and then.
All runs over a pair share one controller, because what one wins by drafting the others may lose.
"""

from __future__ import annotations

from specreason_graph.config import SpecReasonConfig
from specreason_graph.record.records import UNASKED, Goodput, Step

PROBE = 8
"""Steps that a probe measures; with more runs than that, one of each."""
INTERVAL = 128
"""Steps of each run between two probes."""
MIN_GAIN = 0.05
"""Share of the time that drafting must save, so that noise alone does not speak for it."""
MANY = 8
"""Runs over the same engines from which on drafting is controlled where nobody says otherwise."""
MEMORY = 0.98
"""What is left of an arm's older figures at each of its steps: single drafted steps differ by a factor of four."""


def is_controlled(config: SpecReasonConfig, runs: int) -> bool:
    """Whether the controller has a say in a run that is one of ``runs``: where it is asked for, or there are many."""
    by_default = runs >= MANY and not config.reproducible
    return by_default if config.speculation_control is None else config.speculation_control


def pays(found: Goodput) -> bool:
    """Whether a token takes clearly less time with the draft; taken for granted while one arm is not known."""
    if found.drafting is None or found.base_only is None:
        return True
    return found.drafting <= (1 - MIN_GAIN) * found.base_only


class SpeculationController:
    """Chooses the arm, drafting or base only, for all runs of a pair.

    What is measured among a number of runs tells nothing of less than half or more than twice as many, so each such
    load has figures of its own, and they are still there when the load returns.
    """

    def __init__(self) -> None:
        self._loads: dict[int, Load] = {}
        self._load = self._loads.setdefault(1, Load())
        self._at = 1  # how many runs the present load stands for
        self._since = 0  # steps since the load or the arm has changed

    def figures_for_base(self, runs: int) -> Goodput | None:
        """The figures by which the base writes the next step of one of ``runs`` runs; None asks the draft."""
        self._find(runs)
        return None if self._load.drafting else self._load.goodput(runs)

    def committed(self, step: Step, runs: int) -> None:
        """Take note of a step that one of ``runs`` runs has committed, and change the arm when that is due."""
        self._find(runs)
        self._since += 1
        # a run that was asked in the other arm may end its step now: such a step belongs to neither measurement
        self._load.add(step, measured=self._since > runs)
        if self._load.is_over(runs):
            self._load.change()
            self._since = 0

    def _find(self, runs: int) -> None:
        """Go to the load of as many runs; a new one begins with the arm that was the better one so far."""
        if _is_like(self._at, runs):
            return
        before, self._since = self._load, 0
        known = [at for at in self._loads if _is_like(at, runs)]
        self._at = min(known, key=lambda at: max(at / runs, runs / at)) if known else runs
        self._load = self._loads.setdefault(self._at, Load(drafting=before.drafting or before.probing))


def _is_like(load: int, runs: int) -> bool:
    return load / 2 <= runs <= load * 2


class Load:
    """What is known of both arms under one load, and the arm that is taken."""

    def __init__(self, *, drafting: bool = True) -> None:
        self.drafting, self.probing = drafting, True
        """The arm, and whether it is taken only to measure it."""
        self._figures = dict.fromkeys((True, False), (0.0, 0.0))  # seconds and tokens of drafting and of base only
        self._steps = self._rejected = 0

    def add(self, step: Step, *, measured: bool) -> None:
        """Count a step, and add what it took to the figures of the arm, if it belongs to it."""
        self._steps += 1
        asked = step.decision.reason not in UNASKED
        if asked == self.drafting and measured and step.elapsed:
            seconds, tokens = self._figures[self.drafting]
            self._figures[self.drafting] = MEMORY * seconds + step.elapsed, MEMORY * tokens + len(step.token_ids)
        self._rejected = 0 if step.decision.accepted else self._rejected + 1

    def is_over(self, runs: int) -> bool:
        """Whether it is time for another arm."""
        hopeless = self.probing and self.drafting and self._rejected >= PROBE
        return hopeless or self._steps >= runs + (max(PROBE, runs) if self.probing else INTERVAL * runs)

    def change(self) -> None:
        """End a probe and take the better arm, or probe the other one; an arm that is not known is probed."""
        known = all(tokens for _, tokens in self._figures.values())
        decided = self.probing and known
        self.drafting = pays(self.goodput(runs=1)) if decided else not self.drafting
        self.probing = not decided
        self._steps = self._rejected = 0

    def goodput(self, runs: int) -> Goodput:
        """The figures, as a record keeps them."""
        drafting, base_only = (seconds / tokens if tokens else None for seconds, tokens in self._figures.values())
        return Goodput(drafting=drafting, base_only=base_only, runs=runs, probe=self.probing)
