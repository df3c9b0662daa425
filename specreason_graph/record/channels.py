"""Channels for texts of users and models, which must not lie bare in a checkpoint.

``PostgresSaver`` puts bare strings into the row of the checkpoint, past the serializer and so past any encryption.
Stored inside a list, a text goes the way of all other values; readers of the state still see a string.
"""

from __future__ import annotations

from typing import Any, Self

from langgraph.channels import EphemeralValue, LastValue


class LastText(LastValue[str]):
    """The last text written."""

    def checkpoint(self) -> Any:
        """The text as it is stored."""
        return [self.value] if self.is_available() else super().checkpoint()

    def from_checkpoint(self, checkpoint: Any) -> Self:
        """The channel as it was stored, by this package or by one that stored bare strings."""
        return super().from_checkpoint(bare(checkpoint))


class EphemeralText(EphemeralValue[str]):
    """A text that is there for one superstep."""

    def checkpoint(self) -> Any:
        """The text as it is stored."""
        return [self.value] if self.is_available() else super().checkpoint()

    def from_checkpoint(self, checkpoint: Any) -> Self:
        """The channel as it was stored."""
        return super().from_checkpoint(bare(checkpoint))


def bare(stored: Any) -> Any:
    """The text without the list it is stored in."""
    return stored[0] if isinstance(stored, list) and len(stored) == 1 else stored
