"""Reads stored values as plain data: no object is built for what a database holds, and no code is imported for it."""

from __future__ import annotations

from typing import Any, NamedTuple

import ormsgpack
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import (
    EXT_CONSTRUCTOR_KW_ARGS,
    EXT_DELTA_SNAPSHOT,
    JsonPlusSerializer,
)
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Overwrite

from specreason_graph.errors import RecordError

LOCKED = "is encrypted, and the checkpointer has no key"
OVERWRITE = ["langgraph.types", "Overwrite"]
NEVER_WRITTEN = "is stored in bytes that this package does not write"


class Damaged(dict[str, Any]):
    """Takes the place of a stored value that is damaged, in the form of a checkpoint, with what can be read of it."""

    def __init__(self, problem: str, value: Any = None) -> None:
        read = value if isinstance(value, dict) else {}
        super().__init__({"channel_values": {}, "channel_versions": {}, **read})
        self.problem = problem
        self.readable = value is not None


class Extension(NamedTuple):
    """A value that msgpack has no type for, kept as its bytes: to build it could run code."""

    code: int
    """Number of the extension type."""
    data: bytes
    """Its content, as it is stored."""
    value: Any = None
    """For a snapshot of a delta channel and for LangGraph's ``Overwrite``, the plain value inside; else None."""

    @property
    def is_snapshot(self) -> bool:
        """Whether it holds the whole value of a delta channel."""
        return self.code == EXT_DELTA_SNAPSHOT

    @property
    def is_overwrite(self) -> bool:
        """Whether it is a write that replaces the value of a channel."""
        return self.code == EXT_CONSTRUCTOR_KW_ARGS and self.value is not None


class CheckedSerializer(SerializerProtocol):
    """Reads strictly: values are plain or `Extension`, and bytes that nobody would write give `Damaged`."""

    def __init__(self, serde: SerializerProtocol) -> None:
        self._serde = serde
        if isinstance(serde, EncryptedSerializer):
            self._serde = EncryptedSerializer(serde.cipher, self)  # what it decrypts goes through the checks here, too
        self._encrypted = isinstance(serde, EncryptedSerializer)
        self._ours = self._encrypted or isinstance(serde, JsonPlusSerializer)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Return the stored value, or `Damaged`."""
        kind, stored = data
        try:
            if isinstance(kind, str) and "+" in kind:  # LangGraph appends the cipher to the type, as in "msgpack+aes"
                return self._serde.loads_typed(data) if self._encrypted else Damaged(LOCKED)
            return self._plain(kind, stored) if self._ours else _own_form(self._serde.loads_typed(data))
        except Exception as error:
            how = "cannot be decrypted" if self._encrypted else "cannot be read"
            return Damaged(f"{how}: {str(error) or type(error).__name__}")

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:  # noqa: ARG002 - part of the protocol
        """Raise `TypeError`, because an audit never writes."""
        raise TypeError("an audit writes nothing")

    @staticmethod
    def _plain(kind: object, stored: Any) -> Any:
        if kind == "null":
            return None if not stored else Damaged(NEVER_WRITTEN)
        if kind in ("bytes", "bytearray"):
            return bytes(stored)
        if kind != "msgpack":  # LangGraph builds objects from "json" and runs code from "pickle"
            return Damaged(f"is stored as {str(kind)[:40]!r}, which is not read")
        value = unpack(stored)
        # Several byte strings decode to the same value: a changed byte is found by encoding the value again.
        return value if pack(value) == bytes(stored) else Damaged(NEVER_WRITTEN, value)


class StrictSerializer(JsonPlusSerializer):
    """LangGraph's serializer for a database that others may have written to: it reads msgpack of plain data only."""

    def __init__(self) -> None:
        super().__init__(allowed_msgpack_modules=None)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Return the stored value; `RecordError` for one that is damaged, or could run code as JSON and pickles can."""
        if data[0] not in ("msgpack", "null", "bytes", "bytearray"):
            raise RecordError(f"a value is stored as {str(data[0])[:40]!r}, which is not read", hint="verify it first")
        try:
            return super().loads_typed(data)
        except (ValueError, TypeError, RecursionError) as error:
            raise RecordError(f"a value that is stored cannot be read: {error}", hint="verify it first") from None


def unpack(stored: bytes) -> Any:
    """The plain value of msgpack bytes; what is no plain data is an `Extension`."""
    return ormsgpack.unpackb(stored, ext_hook=_extension, option=ormsgpack.OPT_NON_STR_KEYS)


def pack(value: Any) -> bytes:
    """The msgpack bytes of what `unpack` gave, as LangGraph writes them."""
    return ormsgpack.packb(value, default=_packed_extension, option=ormsgpack.OPT_NON_STR_KEYS | _NAMED_TUPLES)


_NAMED_TUPLES = ormsgpack.OPT_PASSTHROUGH_SUBCLASS | ormsgpack.OPT_PASSTHROUGH_TUPLE


def _extension(code: int, data: bytes) -> Extension:
    if code == EXT_DELTA_SNAPSHOT:
        return Extension(code, data, unpack(data))
    if code == EXT_CONSTRUCTOR_KW_ARGS:
        content = unpack(data)
        if isinstance(content, list) and len(content) == 3 and content[:2] == OVERWRITE and _is_named(content[2]):
            return Extension(code, data, content[2]["value"])
    return Extension(code, data)


def _is_named(fields: Any) -> bool:
    """Whether they are the fields of an ``Overwrite``, of which former versions of LangGraph wrote only the first."""
    if not isinstance(fields, dict) or "value" not in fields:
        return False
    return {name: each for name, each in fields.items() if name != "value"} in ({}, {"type": "__overwrite__"})


def _packed_extension(value: Any) -> Any:
    if isinstance(value, Extension):
        inner = unpack(value.data) if value.value is not None else None
        return ormsgpack.Ext(value.code, value.data if inner is None else pack(inner))
    return list(value)


def _own_form(value: Any) -> Any:
    """What a serializer of the caller's own gave, with snapshots and overwrites in the form they have here."""
    if isinstance(value, _DeltaSnapshot):
        return Extension(EXT_DELTA_SNAPSHOT, b"", value.value)
    if isinstance(value, Overwrite):
        return Extension(EXT_CONSTRUCTOR_KW_ARGS, b"", value.value)
    if isinstance(value, dict) and isinstance(value.get("channel_values"), dict):
        values = {name: _own_form(each) for name, each in value["channel_values"].items()}
        return {**value, "channel_values": values}
    return value
