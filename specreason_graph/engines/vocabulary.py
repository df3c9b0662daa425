"""The vocabulary of a Hugging Face tokenizer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import chain
from typing import Any
from weakref import WeakValueDictionary

from specreason_graph.engines.base import THINK_TAGS, Message
from specreason_graph.errors import ModelError

PLACES = ("{}", " {}", "{} ", "x{}", "x{}x", "x {} x", "\n{}\n", "({})", "1{}1", ".{}")
"""Where in a text a control token may be written."""
PADDING = 65_536
"""Most ids that a model may have behind the tokens of its tokenizer; makers pad to multiples of up to some hundreds."""
SAMPLE = [{"role": name, "content": "x"} for name in ("user", "assistant", "user")]


class HuggingFaceVocabulary:
    """A fast tokenizer, and a copy of it without special tokens for untrusted text.

    ``rows``: how many token ids the model knows, which may be more than the tokenizer has tokens for.
    """

    def __init__(self, tokenizer: Any, eos_ids: Sequence[int] = (), rows: int = 0) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"tokenizer {tokenizer.name_or_path!r} has no tokenizer.json", hint="convert it to a fast one"
            )
        self._tokenizer, self._rows = tokenizer, rows
        self.eos_ids = frozenset(eos_ids) | ({tokenizer.eos_token_id} - {None})

    def check(self) -> None:
        """Raise `ModelError` for a tokenizer whose users can write its control tokens."""
        # The unknown token stands for any character that the vocabulary lacks, and controls nothing.
        unknown = self._tokenizer.unk_token_id
        guarded = {i: text for i, text in self._guarded.items() if i != unknown}
        alone = (token for text in guarded.values() for token in self.encode(text))
        # what stands beside a text decides how some tokenizers cut it; all in one text, because there may be thousands
        among = (token for place in PLACES for token in self.encode("\n".join(map(place.format, guarded.values()))))
        spoken = next((token for token in chain(alone, among) if token in guarded), None)
        if spoken is not None:
            name, text = self._tokenizer.name_or_path, guarded[spoken]
            raise ModelError(
                f"tokenizer {name!r} reads {text!r} in any text as its control token",
                hint="use a model whose control tokens cannot be written by its users",
            )

    @property
    def _guarded(self) -> dict[int, str]:
        """The texts of tokens that control something, wherever the tokenizer has them."""
        # An added token that is not special may be text, as Gemma's line breaks are; what the template marks turns
        # with, or what encloses the thinking, never is.
        marks = {tag for tags in THINK_TAGS for tag in tags}
        with suppress(ModelError):
            written = self.render(SAMPLE)
            marks |= {token.content for token in self._added.values() if token.content in written}
        found = {i: token.content for i, token in self._added.items() if token.special or token.content in marks}
        # what ends a reply need not be an added token
        ends = {i: self._tokenizer.convert_ids_to_tokens(i) for i in self.eos_ids if 0 <= i < len(self._tokenizer)}
        return {i: text for i, text in (ends | found).items() if text and not re.fullmatch(r"[\w\s]*", text)}

    @cached_property
    def size(self) -> int:
        """Token ids from here on do not exist: behind the tokenizer's, added ones included, and the model's rows."""
        return max(self._known_to, min(self._rows, self._known_to + PADDING))

    @cached_property
    def _known_to(self) -> int:
        return 1 + max(self._tokenizer.get_vocab().values(), default=-1)

    @cached_property
    def _plain(self) -> PlainTokenizer:
        """Made at the first use, and shared by equal tokenizers: it is large, and a model's process encodes nothing."""
        whole = self._tokenizer.backend_tokenizer.to_str()
        key = hashlib.sha256(whole.encode()).hexdigest()
        if (found := _PLAIN.get(key)) is None:
            found = _PLAIN[key] = PlainTokenizer(whole)
        return found

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Tokens marked as special, and other control tokens that the chat template or the thinking tags consist of.

        With them those that only the model knows: it has more rows than there are tokens, and none of these is text.
        """
        # Tokenizers do not mark all control tokens: "<think>" is often an added token that is not special.
        written = self.render(SAMPLE) + "".join(tag for tags in THINK_TAGS for tag in tags)
        marked = {i for i, token in self._control.items() if token.special or token.content in written}
        return frozenset(marked.union(range(self._known_to, self.size)))

    @cached_property
    def control_texts(self) -> frozenset[str]:
        """The texts of all control tokens."""
        return frozenset(token.content for token in self._control.values())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the mapping from tokens to ids."""
        mapping = json.dumps(self._tokenizer.get_vocab(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(mapping.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Token ids of untrusted text; nothing in it becomes a special token."""
        return self._plain.encode(text)

    def encode_template(self, text: str) -> list[int]:
        """Token ids of trusted template text; special tokens are recognised."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), **arguments: Any
    ) -> str:  # fmt: skip
        """Render the messages with the model's own chat template, up to where the assistant's reply starts."""
        if not self._tokenizer.chat_template:
            raise ModelError(
                f"model {self._tokenizer.name_or_path!r} has no chat template",
                hint="use an instruct or reasoning model",
            )
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages), tools=list(tools) or None, tokenize=False, add_generation_prompt=True, **arguments
            )
        except Exception as error:  # a template is code of the model's author, and may raise anything
            raise ModelError(f"the chat template of {self._tokenizer.name_or_path!r} fails: {error}") from error
        return text

    @cached_property
    def _added(self) -> dict[int, Any]:
        added: dict[int, Any] = self._tokenizer.added_tokens_decoder
        return added

    @cached_property
    def _control(self) -> dict[int, Any]:
        """Added tokens that no content becomes. Of the others, as Gemma's line break, every text may consist."""
        named = ((i, token) for i, token in self._added.items() if token.content.strip())
        return {i: token for i, token in named if i not in self.encode(token.content)}


class PlainTokenizer:
    """A tokenizer that knows no added tokens, so that "<think>" is encoded as ordinary characters."""

    def __init__(self, whole: str) -> None:
        # The library can ignore special tokens, but not the other added ones: so the copy goes through the JSON form.
        from tokenizers import Tokenizer

        plain = json.loads(whole)
        plain["added_tokens"], plain["post_processor"] = [], None
        plain["padding"], plain["truncation"] = None, None
        self._tokenizer = Tokenizer.from_str(json.dumps(plain))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


_PLAIN: WeakValueDictionary[str, PlainTokenizer] = WeakValueDictionary()
"""Those in use, by the hash of the tokenizer that they are copies of."""
