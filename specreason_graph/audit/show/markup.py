"""Markdown, code and LaTeX of models as HTML that nothing in can run, load or lead away.

It is made here and not in the browser: a page then needs no library, can be read without script, and its policy allows
no code but the page's own. Raw HTML, links and images stay text, and what comes out is sanitised once more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markupsafe import Markup
from mdit_py_plugins.amsmath import amsmath_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

LONGEST = 20_000
"""Most characters of a text that is rendered; a longer one is shown as it was written."""
LONGEST_FORMULA = 2_000
"""Most characters of a formula, likewise."""
LONGEST_CODE = 10_000
"""Most characters of code that is coloured."""
LANGUAGES = (
    "bash", "c", "cpp", "css", "diff", "go", "haskell", "html", "ini", "java", "javascript", "js", "json", "julia",
    "kotlin", "latex", "lean", "lua", "matlab", "php", "py", "python", "r", "ruby", "rust", "scala", "sh", "sql",
    "swift", "tex", "toml", "ts", "typescript", "xml", "yaml",
)  # fmt: skip
"""Languages whose code is coloured."""
OFF = ("html_block", "html_inline", "link", "image", "autolink", "reference", "entity", "lheading", "code")
"""Rules that are left out: nothing leads out of the page, and indented or underlined arithmetic stays what it is."""
PLAIN = ("paragraph_open", "paragraph_close", "inline", "text", "softbreak")
"""Kinds of tokens in a text that has no markup."""
PROSE = {
    "p", "br", "hr", "em", "strong", "s", "code", "pre", "span", "blockquote", "ul", "ol", "li", "h4", "h5", "h6",
    "table", "thead", "tbody", "tr", "th", "td", "div",
}  # fmt: skip
MATHS = {
    "math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msub", "msup", "msubsup", "munder",
    "mover", "munderover", "mmultiscripts", "mprescripts", "mtable", "mtr", "mtd", "mstyle", "menclose", "mpadded",
    "mphantom", "none",
}  # fmt: skip
ATTRIBUTES = {
    "ol": {"start"}, "span": {"class"}, "div": {"class"}, "math": {"display"},
    "mo": {"stretchy", "fence", "separator", "lspace", "rspace", "minsize", "maxsize", "largeop", "movablelimits"},
    "mi": {"mathvariant"}, "mtd": {"columnalign"}, "mtable": {"columnalign", "rowspacing", "columnspacing"},
    "mspace": {"width"}, "mfrac": {"linethickness"}, "mstyle": {"displaystyle", "scriptlevel"},
    "menclose": {"notation"}, "mover": {"accent"}, "munder": {"accentunder"},
}  # fmt: skip
BRACKETS = {"\\(": "\\)", "\\[": "\\]"}
"""What encloses formulas besides dollar signs."""
BOXED = re.compile(r"\\boxed\s*(?=\{)")
NUMBERED = re.compile(r"\\(begin|end)\{(align|equation|gather|alignat|multline)\}")
"""Environments that would get numbers that nobody wrote."""


def rendered(text: str) -> Markup | None:
    """Render a text of a model; None where it has no markup, or is too long, and is shown as it was written."""
    if len(text) > LONGEST:
        return None
    parser = _parser()
    try:
        tokens = parser.parse(text)
        if all(each.type in PLAIN for each in _all(tokens)) or _is_arithmetic(tokens):
            return None
        html = parser.renderer.render(tokens, parser.options, {})
    except (RecursionError, ValueError, IndexError, KeyError):  # a library that a hostile text has led astray
        return None
    # The first pass escapes all that a model wrote; the second one allows nothing but these elements, whatever a
    # library may have let through.
    return Markup(nh3.clean(html, tags=PROSE | MATHS, attributes=ATTRIBUTES, url_schemes=set()))  # noqa: S704


def _all(tokens: Sequence[Token]) -> Iterator[Token]:
    for each in tokens:
        yield each
        yield from each.children or ()


def _is_arithmetic(tokens: Sequence[Token]) -> bool:
    """Whether what looks like a list is a line of a sum, as in ``+ 30``, ``- 5`` or ``450.``: a sign would be lost."""
    for at, token in enumerate(tokens):
        if token.type not in ("bullet_list_open", "ordered_list_open"):
            continue
        until = next(i for i in range(at, len(tokens)) if tokens[i].level == token.level and tokens[i].nesting < 0)
        items = [each for each in tokens[at:until] if each.type == "list_item_open" and each.level == token.level + 1]
        written = next((each.content for each in tokens[at:until] if each.type == "inline"), "")
        if token.markup == "+" or not written or (token.markup == "-" and len(items) == 1 and written[0].isdigit()):
            return True
    return False


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True})
    parser.enable(["table", "strikethrough"]).disable(list(OFF))
    parser.use(dollarmath_plugin, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True)
    parser.use(amsmath_plugin)
    parser.inline.ruler.before("emphasis", "times", _times)
    parser.inline.ruler.before("escape", "brackets", _brackets)
    parser.inline.ruler.before("escape", "boxed", _boxed)
    parser.add_render_rule("math_inline", _inline_formula)
    for name in ("math_inline_double", "math_block"):
        parser.add_render_rule(name, _block_formula)
    parser.add_render_rule("amsmath", _block_formula)
    for name in ("fence", "code_block"):
        parser.add_render_rule(name, _code)
    for name in ("heading_open", "heading_close"):
        parser.add_render_rule(name, _heading)
    return parser


def _times(state: StateInline, silent: bool) -> bool:  # noqa: FBT001 - as the parser calls it
    """Take stars between numbers or names as text: in 2*3*4 they multiply, and stress nothing."""
    end = state.pos
    while end < state.posMax and state.src[end] == "*":
        end += 1
    before, after = state.src[state.pos - 1 : state.pos], state.src[end : end + 1]
    if end == state.pos or not (_is_operand(before, ")]}") and _is_operand(after, "([{\\")):
        return False
    if not silent:
        state.pending += state.src[state.pos : end]
    state.pos = end
    return True


def _is_operand(char: str, brackets: str) -> bool:
    return bool(char) and (char.isalnum() or char in brackets)


def _brackets(state: StateInline, silent: bool) -> bool:  # noqa: FBT001 - as the parser calls it
    r"""Take ``\(...\)`` and ``\[...\]`` as formulas."""
    closing = BRACKETS.get(state.src[state.pos : state.pos + 2])
    start = state.pos + 2
    end = state.src.find(closing, start, min(state.posMax, start + LONGEST_FORMULA)) if closing else -1
    if end < 0 or not state.src[start:end].strip():
        return False
    if not silent:
        token = state.push("math_inline_double" if closing == "\\]" else "math_inline", "math", 0)
        token.content = state.src[start:end]
    state.pos = end + 2
    return True


def _boxed(state: StateInline, silent: bool) -> bool:  # noqa: FBT001 - as the parser calls it
    r"""Take ``\boxed{...}`` as a formula, also where no dollar signs are around it: so answers are often marked."""
    found = BOXED.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    depth = 0
    for at in range(found.end(), min(state.posMax, found.end() + LONGEST_FORMULA)):
        depth += {"{": 1, "}": -1}.get(state.src[at], 0)
        if depth == 0:
            break
    else:
        return False
    if not silent:
        token = state.push("math_inline", "math", 0)
        token.content = state.src[state.pos : at + 1]
    state.pos = at + 1
    return True


def _inline_formula(_: Any, tokens: Sequence[Token], at: int, *__: Any) -> str:
    return _formula(tokens[at].content, "inline")


def _block_formula(_: Any, tokens: Sequence[Token], at: int, *__: Any) -> str:
    return f'<span class="formula">{_formula(tokens[at].content, "block")}</span>'


def _formula(latex: str, display: str) -> str:
    """Return MathML, or the formula as it was written where it cannot be read."""
    from latex2mathml.converter import convert  # takes a tenth of a second, which most commands have no use for

    try:
        if len(latex) > LONGEST_FORMULA or ("<" in latex and re.search(r"\\(text|mbox)", latex)):  # not escaped there
            return f"<code>{escape(latex)}</code>"
        return str(convert(NUMBERED.sub(r"\\\1{\2*}", latex.strip()), display=display))
    except Exception:  # whatever a model wrote: the library raises what its own tables raise
        return f"<code>{escape(latex)}</code>"


def _code(_: Any, tokens: Sequence[Token], at: int, *__: Any) -> str:
    code, language = tokens[at].content, tokens[at].info.strip().split(" ")[0].lower()
    if language not in LANGUAGES or len(code) > LONGEST_CODE:
        return f"<pre><code>{escape(code)}</code></pre>"
    return f"<pre><code>{highlight(code, get_lexer_by_name(language), HtmlFormatter(nowrap=True))}</code></pre>"


def _heading(_: Any, tokens: Sequence[Token], at: int, *__: Any) -> str:
    """Headings of a text stand below those of the page."""
    token = tokens[at]
    level = min(6, int(token.tag[1:]) + 3)
    return f"<{'/' if token.nesting < 0 else ''}h{level}>"
