"""Pages of HTML, read as strictly as they are meant."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "input", "br", "hr"}


class Page(HTMLParser):
    """The tags, texts and attributes of a page; an end tag that fits no start is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, str] = {}
        self.words = ""
        self.still_open: list[str] = []
        self.feed(text)
        self.close()
        assert self.still_open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in {tag} {attrs}"
        if tag not in VOID:
            self.still_open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.still_open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.still_open[-1:] in (["style"], ["script"]):
            self.texts[self.still_open[-1]] = self.texts.get(self.still_open[-1], "") + data
        else:
            self.words += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        return [found for name, found in self.tags if name == tag and attributes.items() <= found.items()]

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]
