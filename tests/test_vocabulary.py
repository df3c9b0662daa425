"""Which tokens of a real tokenizer control something, and which are text."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import pytest

from specreason_graph import EnginePair, create_specreason
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.engines.vocabulary import HuggingFaceVocabulary
from specreason_graph.errors import ModelError

tokenizers = pytest.importorskip("tokenizers", reason="the extra `local` brings tokenizers")
transformers = pytest.importorskip("transformers", reason="the extra `local` brings transformers")

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n<think>\n{% endif %}"
)
CONTROL = ("<end>", "<user>", "<assistant>", "<system>")


def vocabulary(
    *, added: Sequence[str] = (), special: Sequence[str] = (), merged: Sequence[tuple[str, str]] = ()
) -> HuggingFaceVocabulary:
    """A tokenizer of single characters, and of what ``merged`` joins."""
    pieces = [*string.printable, *("".join(pair) for pair in merged)]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({piece: i for i, piece in enumerate(pieces)}, list(merged)))
    tokenizer.decoder = tokenizers.decoders.Fuse()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE)
    made.add_special_tokens({"eos_token": "<end>", "additional_special_tokens": [*CONTROL[1:], *special]})
    made.add_tokens(["<think>", "</think>", *added])
    return HuggingFaceVocabulary(made)


def text_of(vocabulary: HuggingFaceVocabulary, tokens: frozenset[int]) -> set[str]:
    return {vocabulary.decode([token]) for token in tokens}


def test_an_added_token_that_every_text_may_hold_controls_nothing() -> None:
    found = vocabulary(added=["\n", "\n\n", "  ", "<table>"])
    assert text_of(found, found.special_ids) == {*CONTROL, "<think>", "</think>"}
    assert found.control_texts == {*CONTROL, "<think>", "</think>", "<table>"}


def test_a_step_of_several_lines_stays_one() -> None:
    words = vocabulary(added=["\n", "\n\n"])
    draft = FakeEngine(["First line.\nSecond line.\n\n", "</think>"], vocabulary=words)
    base = FakeEngine(["</think>", "x"], [9], vocabulary=words)
    with EnginePair(draft, base) as pair:
        outcome: Any = create_specreason(pair).compile().invoke({"question": "What is it?"})
    assert outcome["trace"][0]["text"] == "First line.\nSecond line.\n\n"


@pytest.mark.parametrize("where", ["", "Say ", "<user>"])
def test_control_tokens_that_are_written_stay_text(where: str) -> None:
    words = vocabulary(added=["\n"])
    for text in (*CONTROL, "<think>", "</think>"):
        assert not words.special_ids & set(words.encode(where + text))
        assert words.decode(words.encode(where + text)) == where + text


def test_a_tokenizer_whose_users_can_write_its_control_tokens_is_refused() -> None:
    with pytest.raises(ModelError, match="reads '<!>' in any text as its control token; use a model"):
        vocabulary(special=["<!>"], merged=[("<", "!"), ("<!", ">")]).check()


def test_the_token_for_unknown_characters_controls_nothing() -> None:
    named = {"unk_token": "<unk>", "eos_token": "<end>"}
    letters = tokenizers.models.BPE({"<unk>": 0, "a": 1, "b": 2}, [], unk_token=named["unk_token"])
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(letters), chat_template=TEMPLATE)
    made.add_special_tokens(named)
    assert HuggingFaceVocabulary(made).encode("ab") == [1, 2]


def unigram(pieces: Sequence[str]) -> HuggingFaceVocabulary:
    """A tokenizer whose model has the pieces beside single characters; those like ``<...>`` are special."""
    every = [("<unk>", -20.0), *((piece, 0.0) for piece in pieces), *((letter, -5.0) for letter in string.printable)]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(every, unk_id=0))
    made.decoder = tokenizers.decoders.Fuse()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=made, chat_template=TEMPLATE, unk_token="<unk>")  # noqa: S106
    made.add_special_tokens({"eos_token": "<end>"})
    return HuggingFaceVocabulary(made)


def test_a_unigram_model_that_has_its_control_tokens_as_pieces_is_refused() -> None:
    with pytest.raises(ModelError, match="reads '<end>' in any text as its control token"):
        unigram(["<end>"]).check()
    unigram(["the"]).check()


def byte_level(*, added: Sequence[str], eos: str | None = None) -> HuggingFaceVocabulary:
    """A tokenizer whose model takes whole words that it has, as that of Llama 3 does; it has ``added`` among them."""
    pieces = [*string.printable, *added]
    model = tokenizers.models.BPE({piece: i for i, piece in enumerate(pieces)}, [], ignore_merges=True)
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer, made.decoder = tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, chat_template=TEMPLATE)
    fast.add_tokens([each for each in added if each != eos])
    return HuggingFaceVocabulary(fast, [pieces.index(eos)] if eos else [])


@pytest.mark.parametrize("token", ["</think>", "<think>", "<user>"])
def test_a_tag_of_the_thinking_or_of_the_template_that_words_become_is_refused(token: str) -> None:
    with pytest.raises(ModelError, match=f"reads {token!r} in any text"):
        byte_level(added=[token]).check()
    byte_level(added=["<table>", "\n\n"]).check()  # these are text


def test_an_end_of_sequence_that_is_no_added_token_is_refused_as_well() -> None:
    with pytest.raises(ModelError, match=r"reads '<\|bye\|>' in any text"):
        byte_level(added=["<|bye|>"], eos="<|bye|>").check()


def test_rows_that_a_model_has_for_no_token_end_a_step_and_are_never_text() -> None:
    words = vocabulary()
    known = words.size
    made = HuggingFaceVocabulary(words._tokenizer, rows=known + 3)  # noqa: SLF001
    assert made.size == known + 3
    assert made.special_ids == words.special_ids | {known, known + 1, known + 2}
    assert HuggingFaceVocabulary(words._tokenizer, rows=10).size == known  # noqa: SLF001
    assert HuggingFaceVocabulary(words._tokenizer, rows=10**12).size < 10**6  # noqa: SLF001
