"""Arithmetic in the text of a step: found and read, with no model.

What cannot be read for sure is passed over, as what is asked, supposed or denied is.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from specreason_graph.judging.arithmetic import computed
from specreason_graph.judging.plain_form import plain

LONGEST_STEP, LONGEST_SENTENCE, MOST = 20_000, 1_000, 50
"""Characters of a step and of a sentence that are looked at, and statements that are kept."""
LONGEST_NUMBER = 40
"""Characters of a number."""

_SENTENCES = re.compile(r"(?<=[.!?;])\s|\n")
_NO_STATEMENT = re.compile(
    r"\?|\b(?:if|whether|when)\s+[-\d($`]|\b(?:not|no|suppose|assum\w*|wrong|incorrect\w*|mistake\w*|instead|isn't|cannot"
    r"|mod|modulo|remainder|base|binary|hex\w*|octal|vector|matrix)\b",
    re.IGNORECASE,
)
"""Makes a sentence one that states nothing, or nothing about ordinary numbers."""
_TOKENS = re.compile(
    r"""(?P<space>\s+)
    |(?P<glue>[,:](?=\d))
    |(?P<break>[,:;](?=\s|$)|\.(?=[\s)"”]|$)|--?>|=>|<-|<<|>>|:=|["“”])
    |(?P<number>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)
    |(?P<relation><=|>=|(?<=\s)!=|==|=|≈|<|>)
    |(?P<sign>\*\*|//|[-+*/()%]|sqrt(?=\())
    |(?P<money>[$€£])
    |(?P<word>[^\W\d]\w*(?:['\u2019-][^\W\d]+)*)
    |(?P<other>.)""",
    re.VERBOSE,
)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_CHANGES = _set(
    "of half twice double triple quarter third square average mean sum difference product max min negative over per "
    "and or by to"
)
"""Words in front of a number after which the arithmetic need not be meant as it stands."""
_UNREADABLE = _set(
    "hundred hundreds thousand thousands million millions billion billions trillion dozen dozens pi root squared "
    "cubed factorial log ln exp sin cos tan"
)
"""Words that stand for numbers and functions."""
_FILLERS = _set("more total left in and per each of for which so is are a the that this all then still now remaining")
_CONVERTED = _set(
    "second sec minute min hour hr day week month year decade century am pm cm mm km meter metre kilometer kilometre "
    "centimeter millimeter inch inche feet foot ft yard mile kg gram kilogram mg pound lb ounce oz ton liter litre ml "
    "milliliter gallon quart pint cup cent degree radian pair score"
)
"""Units of which others are multiples: arithmetic on them may convert without a word."""


@dataclass(frozen=True)
class Statement:
    """An equation or a comparison, as it stands in a step."""

    text: str
    """Its words, in the plain form that it was read in."""
    holds: bool
    """Whether it is true within the precision that it is written in."""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    spaced: bool
    """Whether there is space in front of it."""


@dataclass(frozen=True)
class _Side:
    """One side of a relation, as it was read."""

    text: str
    readings: tuple[tuple[Fraction, Fraction | None], ...]
    """Its value, and the unit of its last digit where it is one number alone; also with a percent sign as a unit."""
    last_digit: Fraction
    """Unit of the last digit that is no zero at a whole number's end."""
    coarsest: Fraction
    """Largest unit of a last digit behind a point; 0 where all numbers are whole."""
    units: frozenset[str]
    adds: bool
    divides: bool

    @property
    def is_alone(self) -> bool:
        """Whether it is one number."""
        return self.readings[0][1] is not None

    @property
    def has_percent(self) -> bool:
        """Whether it can be read in two ways."""
        return len(self.readings) > 1


def statements(text: str) -> list[Statement]:
    """All that ``text`` states about numbers and that can be computed, in its order."""
    found: list[Statement] = []
    for sentence in stating(plain(text[:LONGEST_STEP])):
        if re.search("[=<>≈]", sentence):
            found += _in_sentence(sentence)
        if len(found) >= MOST:
            break
    return found[:MOST]


def stating(text: str) -> Iterator[str]:
    """The sentences that state something, and are neither asked nor supposed nor denied."""
    for sentence in _SENTENCES.split(text):
        if len(sentence) <= LONGEST_SENTENCE and not _NO_STATEMENT.search(sentence):
            yield sentence


def _in_sentence(sentence: str) -> Iterator[Statement]:
    segment: list[_Token] = []
    clean = True  # whether nothing stands in front of the segment that may belong to its arithmetic
    for token in [*_tokens(sentence), _Token("break", "", spaced=True)]:
        if token.kind not in ("break", "glue", "other", "gap"):
            segment.append(token)
            continue
        ends_clean = token.kind in ("break", "gap")
        yield from _in_segment(segment, starts_clean=clean, ends_clean=ends_clean)
        segment, clean = [], token.kind == "break"


def _tokens(sentence: str) -> Iterator[_Token]:
    before, spaced = "", False
    for match in _TOKENS.finditer(sentence):
        kind, text = str(match.lastgroup), match.group()
        if kind == "space":
            spaced = True
            continue
        if kind == "sign" and text == "(" and spaced and before in ("number", "close"):
            kind = "gap"  # "= 322 (as above)", or a factor: what follows is not read
        elif (kind == "sign" and text == "(" and before == "word" and not spaced) or _is_unreadable(kind, text):
            kind = "other"  # a function, a variable
        yield _Token(kind, text, spaced)
        before, spaced = ("close" if text == ")" else kind), False


def _is_unreadable(kind: str, text: str) -> bool:
    if kind == "number":
        return len(text) > LONGEST_NUMBER
    known = re.sub(r"['\u2019-]", "", text).isalpha() and text.lower() not in _UNREADABLE
    return kind == "word" and (len(text) == 1 or not known)


def _in_segment(segment: Sequence[_Token], *, starts_clean: bool, ends_clean: bool) -> Iterator[Statement]:
    sides: list[list[_Token]] = [[]]
    relations = []
    for token in segment:
        if token.kind == "relation":
            relations.append(token.text)
            sides.append([])
        else:
            sides[-1].append(token)
    if not relations:
        return
    lefts = [_last_part(side, starts_clean=bool(at) or starts_clean, is_first=not at) for at, side in enumerate(sides)]
    rights = [_first_part(side, ends_clean=at < len(relations) or ends_clean) for at, side in enumerate(sides)]
    for relation, left, right in zip(relations, map(_read, lefts), map(_read, rights[1:]), strict=False):
        if left and right and (holds := _holds(relation, left, right)) is not None:
            yield Statement(f"{left.text} {relation} {right.text}", holds)


def _with_next(tokens: list[_Token]) -> Iterator[tuple[_Token, _Token | None]]:
    return ((token, tokens[at + 1] if at + 1 < len(tokens) else None) for at, token in enumerate(tokens))


def _begins(token: _Token | None) -> bool:
    """Whether arithmetic begins with a token."""
    return token is not None and (token.kind in ("number", "money") or token.text in ("(", "sqrt"))


def _last_part(tokens: list[_Token], *, starts_clean: bool, is_first: bool) -> list[_Token]:
    """The arithmetic at the end of a side that begins with other words; empty where it may not stand alone."""
    start = 0
    for at, (token, after) in enumerate(_with_next(tokens)):
        if token.kind == "word" and (start == at or _begins(after)):
            start = at + 1
    rest = tokens[start:]
    if start:
        last = tokens[start - 1].text.lower()
        if _singular(last) in _CONVERTED or (last in _CHANGES and (is_first or last != "and")):
            return []
        if rest and not _begins(rest[0]):
            return []  # goes on from a word: "total + 5 = 12"
    opened = _unmatched(rest, "(", ")")
    if opened is not None:
        return rest[opened + 1 :]
    return rest if start or starts_clean else []


def _first_part(tokens: list[_Token], *, ends_clean: bool) -> list[_Token]:
    """The arithmetic at the start of a side that ends with other words; of those the first three, for the unit."""
    closed = _unmatched(tokens[::-1], ")", "(")
    if closed is not None:
        return _first_part(tokens[: len(tokens) - 1 - closed], ends_clean=True)
    for at, (token, after) in enumerate(_with_next(tokens)):
        if token.kind == "word" and (after is None or _begins(after)):
            if after and _singular(token.text.lower()) in _CONVERTED:
                return []  # "3 hours 20 minutes"
            begun = at
            while begun and tokens[begun - 1].kind == "word":
                begun -= 1
            return tokens[: min(at + 1, begun + 3)] if begun else []
    return tokens if ends_clean else []


def _unmatched(tokens: Sequence[_Token], opening: str, closing: str) -> int | None:
    """Where the last parenthesis is that is opened and not closed, seen from the start of ``tokens``."""
    depth = 0
    for at in range(len(tokens) - 1, -1, -1):
        depth += (tokens[at].text == closing) - (tokens[at].text == opening)
        if depth < 0:
            return at
    return None


def _read(tokens: Sequence[_Token]) -> _Side | None:
    """What a side says; None where that is not sure."""
    source, words, units, before = "", list[str](), set[str](), ""
    for token in tokens:
        kind = {"%": "percent", ")": "close"}.get(token.text, token.kind)
        joint = _joint(before, token, bool(words), source)
        if joint is None:
            return None
        if kind == "word":
            words.append(token.text)
        else:
            units, words = units | _units(words) | ({"$"} if kind == "money" else set()), []
        if kind not in ("word", "money"):
            source += joint + (_exact(token.text) if kind == "number" else token.text)
        before = before if kind == "money" else kind
    numbers = [token.text for token in tokens if token.kind == "number"]
    values = [computed(each) for each in dict.fromkeys((source.replace("%", "/100"), source.replace("%", "")))]
    if not numbers or None in values:
        return None
    ulps = [_ulp(number) for number in numbers]
    alone = ulps[0] if re.fullmatch(r"[-+(]*(?:\d+|\(\d+/\d+\))%?\)*", source) else None
    scales = (100, 1) if len(values) > 1 else (1,)
    return _Side(
        text=_joined(tokens), units=frozenset(units | _units(words)), last_digit=_last_digit(numbers[-1]),
        readings=tuple((v, alone and alone / scale) for v, scale in zip(values, scales, strict=True) if v is not None),
        coarsest=max((ulp for ulp in ulps if ulp < 1), default=Fraction("sqrt" in source, 10**20)),
        adds=bool(re.search(r"[\d)%][-+]", source)), divides="/" in re.sub(r"\(\d+/10+\)", "", source),
    )  # fmt: skip


def _joint(before: str, token: _Token, follows_words: bool, source: str) -> str | None:  # noqa: FBT001 - private
    """What is meant between two tokens: nothing, or a product; None where the second cannot stand there."""
    ends = before in ("number", "close", "percent", "word")
    if token.kind == "word":
        return "" if ends else None
    if follows_words and (token.kind == "money" or token.text == "**"):
        return None  # "35 cm²" is no power of a number
    if not ends or token.kind == "money" or not _begins(token):
        return ""
    return "*" if token.text in ("(", "sqrt") and before in ("number", "close") and "/" not in source else None


def _joined(tokens: Sequence[_Token]) -> str:
    return "".join((" " if token.spaced else "") + token.text for token in tokens).strip()


def _exact(token: str) -> str:
    """A number as Python's source: a whole one, or a fraction of two, which loses nothing."""
    whole, _, decimals = token.replace(",", "").partition(".")
    digits = str(int((whole or "0") + decimals))
    return f"({digits}/{10 ** len(decimals)})" if decimals else digits


def _ulp(number: str) -> Fraction:
    return Fraction(1, 10 ** len(number.partition(".")[2]))


def _last_digit(number: str) -> Fraction:
    zeros = 0 if "." in number else len(number) - len(number.replace(",", "").rstrip("0"))
    return _ulp(number) * Fraction(10**zeros)


def _units(words: Sequence[str]) -> set[str]:
    """The unit among words behind a number: the first one that is no filler, or one that is converted to others."""
    named = [_singular(word.lower()) for word in words[:3] if word.lower() not in _FILLERS]
    return set([each for each in named if each in _CONVERTED][:1] or named[:1])


def _singular(word: str) -> str:
    if word in ("dollar", "dollars", "euros", "euro"):
        return "$"
    return word[:-1] if word.endswith("s") and len(word) > 3 else word


_COMPARED: Mapping[str, Callable[[Fraction, Fraction], bool]] = {
    "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge, "!=": operator.ne,
}  # fmt: skip


def _holds(relation: str, left: _Side, right: _Side) -> bool | None:
    """Whether a relation holds; None where nobody can tell."""
    if relation in _COMPARED:
        same = left.units == right.units and left.has_percent == right.has_percent
        return bool(_COMPARED[relation](left.readings[0][0], right.readings[0][0])) if same else None
    if left.is_alone and right.is_alone:
        return None  # nothing is computed: a conversion, a label, an assignment
    if any(_equal(relation, left, right, *one, *other) for one in left.readings for other in right.readings):
        return True
    return False if _is_clear(left, right) else None


def _equal(
    relation: str, left: _Side, right: _Side,
    one: Fraction, its_ulp: Fraction | None, other: Fraction, other_ulp: Fraction | None,
) -> bool:  # fmt: skip
    """Whether two values are the same as far as they are written out."""
    if relation == "≈":
        return abs(one - other) <= max(right.last_digit, abs(one) / 20)
    written, value, ulp = (other, one, other_ulp) if other_ulp is not None else (one, other, its_ulp)
    if ulp is None:
        return abs(one - other) <= max(left.coarsest, right.coarsest) / 2
    cut = math.trunc(value / ulp) * ulp == written and (ulp < 1 or left.divides or right.divides)
    return abs(value - written) <= ulp / 2 or cut  # rounded, or cut off


def _is_clear(left: _Side, right: _Side) -> bool:
    """Whether an equation that does not hold is wrong, and not a conversion of units or a shorthand."""
    mine, theirs, (one, other) = left.units, right.units, (left.readings[0][0], right.readings[0][0])
    if (left.has_percent and left.adds) or (right.has_percent and right.adds):
        return False  # "50 + 10% = 55"
    if "$" in mine | theirs and one in (other * 100, other / 100):
        return False  # cents
    if not mine:
        return len(theirs) <= 1 and not theirs & _CONVERTED
    if left.adds or right.adds:
        return len(theirs) == 1 and mine == theirs
    if len(mine) == len(theirs) == 1 and not left.divides and not (mine | theirs) & _CONVERTED:
        return True  # "3 boxes * 4 = 12 coins"
    return bool(theirs) and theirs <= mine
