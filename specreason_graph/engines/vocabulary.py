"""The vocabulary of a Hugging Face tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from specreason_graph.engines.base import THINK_TAGS, Message
from specreason_graph.errors import ModelError

SAMPLE = [{"role": name, "content": "x"} for name in ("user", "assistant", "user")]


class HuggingFaceVocabulary:
    """A fast tokenizer in two forms: one knows the special tokens, for templates, and one does not, for text."""

    def __init__(self, tokenizer: Any, eos_ids: Sequence[int] = ()) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"tokenizer {tokenizer.name_or_path!r} has no tokenizer.json", hint="convert it to a fast one"
            )
        self._tokenizer = tokenizer
        self._plain = _without_added_tokens(tokenizer.backend_tokenizer)
        self.eos_ids = frozenset(eos_ids) | ({tokenizer.eos_token_id} - {None})

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Tokens marked special, and added ones that the chat template writes or that open or close a thinking."""
        written = self.render(SAMPLE) + "".join(tag for tags in THINK_TAGS for tag in tags)
        added = self._tokenizer.added_tokens_decoder
        return frozenset(i for i, token in added.items() if token.special or token.content in written)

    @cached_property
    def control_texts(self) -> frozenset[str]:
        """All added tokens."""
        return frozenset(token.content for token in self._tokenizer.added_tokens_decoder.values())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the token-to-id mapping."""
        mapping = json.dumps(self._tokenizer.get_vocab(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(mapping.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; nothing in it becomes a special token."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def encode_template(self, text: str) -> list[int]:
        """Token ids of template text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The model's own chat template, with the opening of the assistant's reply."""
        if not self._tokenizer.chat_template:
            raise ModelError(
                f"model {self._tokenizer.name_or_path!r} has no chat template",
                hint="use an instruct or reasoning model",
            )
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages), tools=list(tools) or None, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # templates raise what they like
            raise ModelError(f"the chat template of {self._tokenizer.name_or_path!r} fails: {error}") from error
        return text


def _without_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that cuts text by the model's merges alone, so that "<think>" stays seven characters."""
    plain = json.loads(tokenizer.to_str())
    plain["added_tokens"], plain["post_processor"] = [], None
    plain["padding"], plain["truncation"] = None, None
    return Tokenizer.from_str(json.dumps(plain))
