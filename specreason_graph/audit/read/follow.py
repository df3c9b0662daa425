"""Follows the runs of a thread while they go on: each reading reads only what came since the one before.

A run of a thousand steps has some thousands of checkpoints. Reading all of them again for each new step would take
longer than the step.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from specreason_graph.audit.read.checkpoint_summary import parent_of
from specreason_graph.audit.read.reader import recorded_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.read.saver import Key, ReadOnly, ThreadMark, key_of

FIRST_READ = 24
"""Checkpoints that a reading asks for at first, some steps; four times as many whenever they do not reach back."""


class FollowedThread:
    """The runs of one thread, as far as they are known."""

    def __init__(self, thread_id: str) -> None:
        self.thread_id = thread_id
        self._known = dict[Key, CheckpointTuple]()

    def read(self, checkpointer: BaseCheckpointSaver[Any], mark: ThreadMark) -> list[RecordedRun]:
        """Read what is new, and return all runs of the thread, the latest first; ``mark`` is the thread's of now.

        What was changed further back, or removed, is read anew only where the number of checkpoints tells.
        """
        saver = ReadOnly(checkpointer)
        if self._known:
            self._read_new(saver)
        # Checkpoints that were written while this was read are newer than the mark.
        if sum(key[2] <= mark.latest for key in self._known) != mark.checkpoints:
            self._known = {key_of(each.config): each for each in saver.checkpoints(self.thread_id)}
        return recorded_runs([self._known[key] for key in sorted(self._known, key=itemgetter(2), reverse=True)])

    def _read_new(self, saver: ReadOnly) -> None:
        """Read from the latest checkpoint back to one that has a follower already: nothing is added to that one."""
        followed = {(*key[:2], parent_of(each)) for key, each in self._known.items()}
        limit, reached = FIRST_READ, False
        while not reached:
            found = list(saver.checkpoints(self.thread_id, limit=limit))
            reached = len(found) < limit
            for each in found:
                key = key_of(each.config)
                if key in self._known and key in followed:
                    reached = True
                    break
                self._known[key] = each
            limit *= 4
