"""Where a run stands, and where it may stand soon: what the engines are prompted with behind some steps.

Nothing is built anew at a step: a prompt is the one before and the tokens that came, and the tokens of committed steps
are in one list that all prompts of a run share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, overload

from specreason_graph.records import Author
from specreason_graph.records import Engine as Role

if TYPE_CHECKING:
    from specreason_graph.prompting import Prompts


class Written(Protocol):
    """A step as far as prompts are concerned."""

    @property
    def author(self) -> Author:
        """Who wrote it."""
        ...

    @property
    def token_ids(self) -> list[int]:
        """Its tokens, in its author's vocabulary."""
        ...

    @property
    def text(self) -> str:
        """Its text."""
        ...


class Prompt(Sequence[int]):
    """Token ids; adding some takes time in proportion to those."""

    __slots__ = ("_before", "_length", "_piece", "_settled")

    def __init__(self, ids: Sequence[int], before: Prompt | None = None) -> None:
        self._piece, self._before = ids, before
        self._length: int = len(ids) + (before._length if before else 0)
        self._settled: list[int] = before._settled if before else list(ids)

    def settle(self) -> None:
        """Move the last piece to the shared list; what comes before must be there."""
        self._settled += self._piece
        self._before, self._piece = None, ()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids())

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> list[int]: ...
    def __getitem__(self, key: int | slice) -> int | list[int]:
        return self._ids()[key]

    def extended(self, ids: Sequence[int]) -> Prompt:
        """The prompt with more behind it."""
        return Prompt(ids, self)

    def _ids(self) -> list[int]:
        pieces, prompt = [], self
        while prompt._before:
            pieces.append(prompt._piece)
            prompt = prompt._before
        ids = prompt._settled[: prompt._length]
        for piece in reversed(pieces):
            ids += piece
        return ids


class Position:
    """A place behind some steps; equal only to itself, so what hangs on it was asked with exactly its prompts."""

    __slots__ = (
        "before",
        "behind",
        "calls",
        "decided",
        "index",
        "prompts",
        "rooms",
        "scout",
        "standing",
        "text",
        "tokens",
    )

    def __init__(self, prompts: dict[Role, Prompt], rooms: dict[Role, int], before: Position | None = None) -> None:
        self.prompts, self.before = prompts, before
        self.rooms = rooms
        """Tokens left in the context of each engine, when what is kept for judge and answer is left out."""
        self.index: int = before.index + 1 if before else 0
        """Steps before this place."""
        self.tokens = 0
        """Tokens of those."""
        self.text = ""
        """The last of them."""
        self.standing = True
        """Whether the last of them will be committed; False while nobody knows."""
        self.decided = False
        """Whether it is known who writes the next step."""
        self.behind: dict[tuple[Any, ...], Position] = {}
        """The places behind each step that may come next."""
        self.calls: dict[Any, Any] = {}
        """Engine calls that were started here."""
        self.scout: Any = None
        """Who works ahead from here."""

    @classmethod
    def start(cls, prompts: Prompts, heads: dict[Role, list[int]]) -> Position:
        """The place where the thinking begins."""
        rooms = {role: prompts.capacities[role] - len(head) for role, head in heads.items()}
        return cls({role: Prompt(head) for role, head in heads.items()}, rooms)

    def after(self, prompts: Prompts, step: Written) -> Position:
        """The place behind one more step."""
        key = (step.author, *step.token_ids)
        if key not in self.behind:
            ids = {role: prompts.step_ids(role, step) for role in self.prompts}
            rooms = {role: self.rooms[role] - len(ids[role]) for role in ids}
            place = Position({role: self.prompts[role].extended(ids[role]) for role in ids}, rooms, self)
            place.text, place.tokens = step.text.strip(), self.tokens + len(step.token_ids)
            self.behind[key] = place
        return self.behind[key]

    @property
    def doubtful(self) -> int:
        """Steps before this place of which nobody knows yet whether they will be committed."""
        return (not self.standing) + (self.before.doubtful if self.before else 0)

    @property
    def room(self) -> int:
        """Tokens left for steps, on both engines."""
        return min(self.rooms.values())

    def settle(self) -> None:
        """Take the last step for committed; the places before are forgotten."""
        for prompt in self.prompts.values():
            prompt.settle()
        self.before, self.standing = None, True

    def everywhere(self) -> Iterator[Position]:
        """Itself and all places that may come behind it."""
        yield self
        for place in self.behind.values():
            yield from place.everywhere()
