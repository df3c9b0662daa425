"""The ledger of a run: everything that decided it, as entries chained by SHA-256.

The chain begins with the manifest, goes on with the committed steps, each behind the proposal that was thrown away and
the human's word where there were any, and ends with the answer. An entry's hash covers the hash before it, so nothing
can be changed, left out, put in or moved without changing all that follows. What is hashed is canonical JSON
(RFC 8785), so anybody can check it in any language.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import rfc8785
from langchain_core.messages import BaseMessage

from specreason_graph.record.records import Plain, Record

LEDGER_VERSION = 1
Kind = Literal["manifest", "alternative", "proposal", "review", "step", "answer"]


class Entry(Record):
    """One line of the ledger."""

    version: int = LEDGER_VERSION
    """Version of the form of the ledger."""
    kind: Kind
    """The run's ``manifest``, an ``alternative`` to a better proposal, a rejected ``proposal``, a human's ``review``, a
    committed ``step``, or the ``answer``."""
    step: int | None
    """Position of the step it belongs to, from 0; None for the manifest and the answer."""
    body: Plain
    """The record, as it was checkpointed."""
    previous: str | None
    """Hash of the entry before; None for the first."""
    hash: str
    """SHA-256, in hexadecimal, of the canonical JSON of all other fields."""


def entries(manifest: Plain, trace: Sequence[Plain], result: Plain, stop_reason: str | None) -> Iterator[Entry]:
    """The ledger as it follows from what was checkpointed; ``result`` is empty while there is no answer."""
    head = None
    bodies: list[tuple[Kind, int | None, Plain]] = [("manifest", None, _unsealed(manifest))]
    bodies += [(kind, index, body) for index, step in enumerate(trace) for kind, body in _parts(step)]
    bodies += [("answer", None, _answer(result, stop_reason))] if result else []
    for kind, index, body in bodies:
        entry = _entry(kind, index, body, head)
        head = entry.hash
        yield entry


def seal_manifest(manifest: Plain) -> Plain:
    """The manifest with the hash of its entry."""
    return {**manifest, "hash": _entry("manifest", None, _unsealed(manifest), None).hash}


def seal_step(step: Plain, head: str | None) -> Plain:
    """A step with the hash of the last of its entries behind ``head``; a run without a ledger goes on without."""
    if head is None:
        return step
    for kind, body in _parts(step):
        head = _entry(kind, step["index"], body, head).hash
    return {**step, "hash": head}


def seal_answer(result: Plain, stop_reason: str, head: str | None) -> Plain:
    """The answer with the hash of its entry behind ``head``, which is the hash of the whole run."""
    if head is None:
        return result
    return {**result, "hash": _entry("answer", None, _answer(result, stop_reason), head).hash}


def hash_of_messages(messages: Sequence[BaseMessage]) -> str:
    """SHA-256, in hexadecimal, of a thread's messages: all that is JSON in them, but for fields that are empty.

    A later LangChain may have more fields, and reads these messages with nothing in them.
    """
    kept = [{name: plain_json(value) for name, value in each.model_dump().items()} for each in messages]
    filled = [{name: value for name, value in each.items() if value not in (None, False, [], {})} for each in kept]
    return hashlib.sha256(canonical({"messages": filled})).hexdigest()


def plain_json(value: Any) -> Any:
    """A value in a message with null for what is no JSON, which may come back from a database as something else."""
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return [plain_json(each) for each in value]
    if type(value) is dict:
        return {str(name): plain_json(each) for name, each in value.items()}
    return value if type(value) in (str, int, float, bool) else None


def is_sealed(manifest: Plain, trace: Sequence[Plain]) -> bool:
    """Whether manifest and steps are what was sealed; a run without a ledger has nothing to show."""
    if not manifest.get("hash"):
        return not any(step.get("hash") for step in trace)
    try:
        head = seal_manifest(manifest)["hash"]
        if head != manifest["hash"]:
            return False
        for index, step in enumerate(trace):
            head = seal_step(step, head)["hash"]
            if head != step["hash"] or step["index"] != index:
                return False
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return False
    return True


def head_of(manifest: Plain, trace: Sequence[Plain]) -> str | None:
    """The hash that the next entry builds on."""
    last = trace[-1] if trace else manifest
    head: str | None = last.get("hash")
    return head


def _parts(step: Plain) -> Iterator[tuple[Kind, Plain]]:
    """What a step is made of: the proposals that were not taken, the human's word, and the step itself."""
    body, decision = _unsealed(step), dict(step["decision"])
    for each in body.pop("alternatives", ()):
        yield "alternative", each
    if body.get("discarded") is not None:
        yield "proposal", body["discarded"]
        del body["discarded"]
    if decision.get("review") is not None:
        yield "review", decision["review"]
        del decision["review"]
    yield "step", {**body, "decision": decision}


def _answer(result: Plain, stop_reason: str | None) -> Plain:
    return {**_unsealed(result, "signature"), "stop_reason": stop_reason}


def _unsealed(record: Plain, *more: str) -> Plain:
    """A record without what is about its entry."""
    return {name: value for name, value in record.items() if name != "hash" and name not in more}


def _entry(kind: Any, step: int | None, body: Plain, previous: str | None) -> Entry:
    content = {"version": LEDGER_VERSION, "kind": kind, "step": step, "body": body, "previous": previous}
    digest = hashlib.sha256(canonical(content)).hexdigest()
    return Entry.model_construct(**content, hash=digest)  # built here: there is nothing to validate


def canonical(content: Plain) -> bytes:
    """Canonical JSON; what that has no room for (numbers beyond a double) goes in as a text of sorted JSON."""
    try:
        return rfc8785.dumps(content)
    except rfc8785.CanonicalizationError:
        return rfc8785.dumps(json.dumps(content, sort_keys=True, default=str))
