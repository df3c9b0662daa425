"""What models write in Markdown, code and LaTeX is rendered; nothing of it runs, loads or leads away."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specreason_graph.audit.show.markup import ATTRIBUTES, LONGEST, MATHS, PROSE, rendered

HOSTILE = (
    "<script>window.ran=1</script>", "<img src=x onerror=window.ran=1>", "[click](javascript:alert(1))",
    "![pixel](https://example.com/x.png)", "<https://example.com>", "[a]: https://example.com\n[a]", "&lt;b&gt;",
    r"$\href{javascript:alert(1)}{x}$", r"$\style{background:url(https://example.com)}{x}$", r"$\class{x}{y}$",
    r"$\text{<img src=x onerror=window.ran=1>}$", r"$$\text{</math><script>window.ran=1</script>}$$",
    r"\(\mbox{<style>*{display:none}</style>}\)", "```\"><script>window.ran=1</script>\ncode\n```",
    "```html\n<script>window.ran=1</script>\n```", "**<iframe src=//example.com>**",
    "| <b onclick=x> | b |\n|---|---|\n", r"\begin{align}<svg onload=x>\end{align}",
    "`<math><mtext><style><img src=x>`", "<math><mi//xlink:href='data:x'>",
)  # fmt: skip


class Elements(HTMLParser):
    """The elements, attributes and words of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, set[str]]] = []
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, {name for name, _ in attrs}))

    def handle_data(self, data: str) -> None:
        self.words += data


def check_harmless(html: str) -> None:
    for tag, attributes in Elements(html).found:
        assert tag in PROSE | MATHS
        assert attributes <= ATTRIBUTES.get(tag, set())


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("around", ["{}", "**bold** {}", "- {}\n- b", "> {}", "`a`\n\n{}"])
def test_hostile_text_stays_text(text: str, around: str) -> None:
    html = rendered(around.format(text))
    if html is not None:  # else the page shows it as it was written
        check_harmless(html)
        assert "window.ran=1" not in html or "window.ran=1" in Elements(html).words


@given(st.text(alphabet="ab1 \n$\\{}()[]<>&;\"'`*_|-+#=~!/^:.", max_size=60))
def test_whatever_is_written_is_harmless(text: str) -> None:
    check_harmless(rendered(text) or "")


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("**bold** and *leaning* `code`", ["p", "strong", "em", "code"]),
        (r"so $x = \frac{1}{2}$", ["p", "math", "mrow", "mi", "mo", "mfrac", "mrow", "mn", "mrow", "mn"]),
        (r"\(a\) and \[b\]", ["p", "math", "mrow", "mi", "span", "math", "mrow", "mi"]),
        (r"The answer is \boxed{385}.", ["p", "math", "mrow", "menclose", "mrow", "mn"]),
        ("- a\n- b", ["ul", "li", "li"]),
        ("```python\nx = 1\n```", ["pre", "code", "span", "span", "span"]),
        ("```unknown\nx = 1\n```", ["pre", "code"]),
        ("# A\n\nb", ["h4", "p"]),
    ],
)  # fmt: skip
def test_markup_is_rendered(text: str, elements: list[str]) -> None:
    html = rendered(text)
    assert html is not None
    assert [tag for tag, _ in Elements(html).found] == elements


@pytest.mark.parametrize(
    "text",
    [
        "Plain text.\nIn two lines.", "2*3*4 = 24", "5 * 6 = 30 and 7 * 8 = 56", "2**3 = 8", "a_1 + b_2 = c_3",
        "12\n+ 30\n= 42", "12\n- 5\n= 7", "450.", "It costs $5, not $6.", "    indented", "x\n===\n", "<b>",
        "[a](https://example.com)", "a" * (LONGEST + 1), "**b** " * LONGEST, "(x+1)*(y+2)*z", r"\(", "$", "```",
    ],
)  # fmt: skip
def test_arithmetic_and_plain_text_are_shown_as_written(text: str) -> None:
    html = rendered(text)
    assert html is None or Elements(html).found == [("pre", set()), ("code", set())], html


def test_a_formula_that_cannot_be_read_is_shown_as_written() -> None:
    html = rendered(r"$\frac{$")
    assert html is None or r"\frac{" in Elements(html).words
    assert r"\left(" in Elements(rendered("$" + r"\left(" * 250 + "$") or "").words
