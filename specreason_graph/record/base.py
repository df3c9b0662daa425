"""What all records have in common."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from specreason_graph.strategy import RECORDED

Plain = dict[str, Any]
"""A record as it is checkpointed: JSON values only."""
Engine = Literal["base", "draft"]
"""The two roles that an engine can play."""


def formerly(name: str, old: str) -> AliasChoices:
    """Read a field also under the name that it had in records of schema version 3 and before."""
    return AliasChoices(name, old)


class Record(BaseModel):
    """Base of all records: frozen, and unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def dump(self) -> Plain:
        """The plain dictionary that is checkpointed."""
        return self.model_dump(mode="json")

    @classmethod
    def load(cls, plain: Any) -> Self:
        """The typed view of a checkpointed dictionary."""
        return cls.model_validate(plain, context={RECORDED: True})


class Sparse(Record):
    """A record that is written without some of its fields where they are empty."""

    without_empty: ClassVar[tuple[str, ...]] = ()
    """Those fields."""

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> Plain:
        plain: Plain = handler(self)
        empty = [name for name in self.without_empty if name in plain and plain[name] in (None, {}, [])]
        for name in empty:
            del plain[name]
        return plain
