"""How a model thinks: found by rendering small conversations with its chat template, and never guessed silently.

``tags`` stand around the thinking, ``channels`` (gpt-oss, https://github.com/openai/harmony) hold thinking and answer,
and with ``none`` the reply itself is the trace. A template tells by what it renders: it opens the thinking, has an
argument that closes it, names the tags in its own system prompt, or leaves thinking out of earlier replies. A template
that only takes the reasoning of a message tells nothing: models that do not think share it with those that do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from specreason_graph.config import SpecReasonConfig
from specreason_graph.engines.base import THINK_TAGS, Message, Vocabulary
from specreason_graph.errors import ConfigError
from specreason_graph.record.manifest import ThinkingFormat
from specreason_graph.record.records import Engine as Role

SWITCHES: Mapping[str, tuple[Any, Any]] = {
    "enable_thinking": (True, False), "thinking": (True, False), "thinking_budget": (-1, 0),
}  # fmt: skip
"""Arguments by which chat templates open and close the thinking, each with the values that do."""
HEADER = "<|start|>assistant"
"""Begins any message of a model that answers in channels."""
HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")
"""Control tokens of models whose replies are messages in channels."""
ANALYSIS, FINAL = "<|channel|>analysis<|message|>", "<|channel|>final<|message|>"
ASKED, THOUGHT, SAID = "\u2063asked\u2063", "\u2063thought\u2063", "\u2063said\u2063"
"""Stand for a question, a thinking and an answer in the conversations that are rendered to find the format."""
BLOCKS = "thinking_blocks"
FIELDS = ("reasoning_content", "reasoning", "thinking", BLOCKS)
"""Where templates take the thinking of an assistant's message: fields with a text, or blocks of its content."""
CALL: Message = {"id": "abcdefghi", "type": "function", "function": {"name": "probe", "arguments": {"a": "b"}}}
RESULT: Message = {"role": "tool", "content": "y", "tool_call_id": "abcdefghi", "name": "probe"}
Tags = tuple[str, str]


def find_format(vocabulary: Vocabulary, config: SpecReasonConfig, role: Role, *, follows: str = "") -> ThinkingFormat:
    """How the model that plays ``role`` thinks.

    ``follows``: the kind of the base's format, for the draft, which thinks if and only if the base does. `ConfigError`
    when the thinking is asked for and the template has closed it.
    """
    template = _Template(vocabulary, config.template.get(role, {}))
    if config.thinking == "none":
        return _without_thinking(template, "the settings")
    if config.thinking == "auto" and follows == "none":
        return _without_thinking(template, "the base does not think")
    given = (config.think_open, config.think_close) if config.think_open and config.think_close else None
    if given is None and _has_channels(template):
        return ThinkingFormat(
            kind="channels", source="control tokens of the vocabulary", arguments=template.arguments, opening=ANALYSIS,
            tags=(ANALYSIS, "<|end|>"), answer_start=HEADER + FINAL, reasoning_field="thinking",
        )  # fmt: skip
    known = [given] if given else template.known_tags
    found = _thinking(template, known)
    if found is None and (config.thinking == "tags" or follows):
        found = _opened_by_argument(template, known)
    if found and given:
        return found.model_copy(update={"source": "the settings"})
    if found or (config.thinking == "auto" and not given and not follows):
        return found or ThinkingFormat(kind="none", source=_why_none(template), arguments=template.arguments)
    _refuse_closed(template, role)
    tags = given or template.shown_tags or next(filter(template.has_token, THINK_TAGS), THINK_TAGS[0])
    source = "the settings" if given or config.thinking == "tags" else "the base thinks, and the draft must"
    return _between(template, tags, source)


def opens(start: str, tags: Tags) -> bool:
    """Whether the start of a reply, as a template renders it, has opened the thinking."""
    return start.rstrip().endswith(tags[0].rstrip())


@dataclass(frozen=True)
class _Template:
    """What a chat template renders under some arguments."""

    vocabulary: Vocabulary
    arguments: Mapping[str, Any]

    def under(self, **more: Any) -> _Template:
        return _Template(self.vocabulary, {**self.arguments, **more})

    def render(self, *messages: Message) -> str:
        """The conversation as text; empty where the template cannot render it."""
        try:
            return self.vocabulary.render(list(messages), **self.arguments)
        except Exception:  # a template is code of its author, which some messages or arguments are not made for
            return ""

    @cached_property
    def _asked(self) -> tuple[str, str]:
        before, _, start = self.vocabulary.render([_user()], **self.arguments).rpartition(ASKED)
        return before, start

    @property
    def preamble(self) -> str:
        """What is rendered before a first question."""
        return self._asked[0]

    @property
    def start(self) -> str:
        """What is rendered behind a question, up to where the reply starts."""
        return self._asked[1]

    @cached_property
    def shown(self) -> tuple[str, str, str] | None:
        """What is rendered between question and thinking, between thinking and answer, and the field for it."""
        for field, message in _thoughtful():
            text = self.render(_user(), message) or self.render(_user(), message, RESULT)
            before, found, rest = text.rpartition(ASKED)[2].partition(THOUGHT)
            if found:
                between, said, _ = rest.partition(SAID)
                return before, between if said and "probe" not in between else "", field
        return None

    @cached_property
    def shown_tags(self) -> Tags | None:
        """The tags around a thinking that is rendered, whatever they are called."""
        if self.shown is None:
            return None
        before, between, _ = self.shown
        known = next((tags for tags in THINK_TAGS if tags[0] in before), None)
        # where the start of a reply has opened it, the opening is the last word of the start
        opening = before.removeprefix(self.start).strip() or (self.start.split() or [""])[-1]
        return known or ((opening, between.strip()) if opening and between.strip() else None)

    @property
    def known_tags(self) -> list[Tags]:
        return list(dict.fromkeys([*([self.shown_tags] if self.shown_tags else []), *THINK_TAGS]))

    def cuts(self, tags: Tags) -> bool:
        """Whether a thinking in the text of an earlier reply is left out."""
        said = {"role": "assistant", "content": f"{tags[0]}{THOUGHT}{tags[1]}{SAID}"}
        text = self.render(_user(), said, _user())
        return SAID in text and THOUGHT not in text

    def has_token(self, tags: Tags) -> bool:
        return len(self.vocabulary.encode_template(tags[1])) == 1

    def glue(self, tags: Tags) -> tuple[str, str]:
        """White space before the closing text, and between it and the answer, as the family has them."""
        before, found, after = (self.shown[1] if self.shown else "").partition(tags[1])
        if found and not before.strip():  # behind it may stand what opens the answer, as <|START_RESPONSE|>
            return before, after
        earlier = self.render(_user(), {"role": "assistant", "content": SAID}, _user()).partition(SAID)[0]
        for text in (earlier, *(self.under(**{name: off}).start for name, (_, off) in SWITCHES.items())):
            before, found, after = text.rpartition(tags[1])
            if found and not after.strip():
                return "", after
        return "", "\n\n"


def _user() -> Message:
    return {"role": "user", "content": ASKED}


def _thoughtful() -> Iterator[tuple[str, Message]]:
    """A reply with its thinking, with and without a call, in each way that templates take it."""
    blocks = [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": SAID}]
    for field in FIELDS:
        named = {"content": blocks} if field == BLOCKS else {"content": SAID, field: THOUGHT}
        for calls in ({}, {"tool_calls": [CALL]}):
            yield field, {"role": "assistant", **named, **calls}


def _has_channels(template: _Template) -> bool:
    control = template.vocabulary.control_texts
    return all(text in control for text in HARMONY) and template.start.endswith(HEADER)


def _thinking(template: _Template, known: list[Tags]) -> ThinkingFormat | None:
    """The format of a template that makes the model think, or can be made to; None where nothing says so."""
    for tags in known:
        if opens(template.start, tags):
            return _between(template, tags, "the chat template opens it")
    closed = [tags for tags in known if tags[1] in template.start]
    for tags in known:
        for name, (on, off) in SWITCHES.items():
            if closed and tags in closed and name not in template.arguments:
                opened = template.under(**{name: on})
                if tags[1] not in opened.start:
                    return _between(opened, tags, f"the chat template, opened by {name}={on}")
            if not closed and tags[1] in template.under(**{name: off}).start:
                return _between(template, tags, f"the chat template, which {name}={off} would close")
        if not closed and all(tag in template.preamble for tag in tags):
            return _between(template, tags, "the system prompt of the chat template")
        if not closed and template.shown is None and template.has_token(tags) and template.cuts(tags):
            return _between(template, tags, "the chat template, which leaves it out of earlier replies")
    return None


def _opened_by_argument(template: _Template, known: list[Tags]) -> ThinkingFormat | None:
    """The format of a template that makes the model think when one of its arguments asks for it."""
    for name, (on, _) in SWITCHES.items():
        if name not in template.arguments and (found := _thinking(template.under(**{name: on}), known)):
            return found.model_copy(update={"source": f"the chat template, opened by {name}={on}"})
    return None


def _between(template: _Template, tags: Tags, source: str) -> ThinkingFormat:
    """The format of thinking between ``tags``, opened as the family opens it."""
    before_close, answer_start = template.glue(tags)
    opened = opens(template.start, tags)
    opening = template.start[template.start.rindex(tags[0]) :] if opened else f"{tags[0]}\n"
    if not opened and template.shown and template.shown[0].startswith(template.start) and tags[0] in template.shown[0]:
        opening = template.shown[0].removeprefix(template.start)
    return ThinkingFormat(
        kind="tags", source=source, arguments=dict(template.arguments), opening=opening, tags=tags,
        before_close=before_close, answer_start=answer_start,
        reasoning_field=template.shown[2] if template.shown else None,
    )  # fmt: skip


def _without_thinking(template: _Template, source: str) -> ThinkingFormat:
    """The format of a model that is to answer at once; a thinking that its template opens is closed."""
    plain = {"kind": "none", "source": source, "arguments": dict(template.arguments)}
    if _has_channels(template):
        return ThinkingFormat.load({**plain, "opening": FINAL})
    found = _thinking(template, template.known_tags)
    if found is None or found.tags is None or any(tags[1] in template.start for tags in template.known_tags):
        return ThinkingFormat.load({**plain, "source": _why_none(template)})
    for name, (_, off) in SWITCHES.items():
        if name not in template.arguments and found.tags[1] in template.under(**{name: off}).start:
            return ThinkingFormat.load({**plain, "arguments": {**template.arguments, name: off}})
    opened = opens(template.start, found.tags)
    closed = found.before_close + found.tags[1] + found.answer_start
    closed = closed if opened else found.opening + closed
    return ThinkingFormat.load({**plain, "opening": closed})


def _why_none(template: _Template) -> str:
    if any(tags[1] in template.start for tags in template.known_tags):
        return "the chat template closes the thinking"
    return "the chat template opens no thinking"


def _refuse_closed(template: _Template, role: Role) -> None:
    """`ConfigError` where the template has closed the thinking that is asked for."""
    closed = next((tags for tags in template.known_tags if tags[1] in template.start), None)
    if closed is None:
        return
    named = next((name for name in SWITCHES if name in template.arguments), None)
    fix = f"set {role}.template.{named}={SWITCHES[named][0]!r}".lower() if named else "set thinking=none"
    raise ConfigError(f"thinking is asked for, and the chat template of the {role} model closes it", hint=fix)
