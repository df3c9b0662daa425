"""Token ids as texts, where the tokenizer of a recorded model is at hand: nothing is downloaded for a page.

A tokenizer is at hand when the model comes with this package, or lies in the cache of the model hub; and when its
vocabulary is the recorded one, by its hash. No other file is opened because a record names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from specreason_graph.engines import BUILT_IN
from specreason_graph.record.manifest import Manifest
from specreason_graph.record.records import Engine

Decode = Callable[[Sequence[int]], str]
"""Returns the text of token ids, special tokens included."""


def decoders(manifest: Manifest | None) -> Mapping[Engine, Decode]:
    """Return how the token ids of each role are read; a role whose tokenizer is not at hand is left out."""
    if manifest is None:
        return {}
    found = {role: _decoder(each.model, each.vocabulary) for role, each in manifest.engines.items()}
    return {role: decode for role, decode in found.items() if decode}


@cache
def _decoder(model: str, vocabulary: str) -> Decode | None:
    file = _file(model)
    if file is None or find_spec("tokenizers") is None:
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception:  # the library raises bare exceptions
        return None
    mapping = json.dumps(tokenizer.get_vocab(), sort_keys=True, ensure_ascii=False)
    if hashlib.sha256(mapping.encode()).hexdigest() != vocabulary:
        return None

    def decode(ids: Sequence[int]) -> str:
        try:
            return str(tokenizer.decode(list(ids), skip_special_tokens=False))
        except (OverflowError, TypeError):  # a damaged record may hold numbers that are no ids
            return ""

    return decode


def _file(model: str) -> Path | None:
    """Return the tokenizer's file on this machine; None where there is none."""
    if model in BUILT_IN:
        return BUILT_IN[model] / "tokenizer.json"
    if find_spec("huggingface_hub") is None or model.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(model, "tokenizer.json")
    except ValueError:  # no name on the hub
        return None
    return Path(found) if isinstance(found, str) else None
