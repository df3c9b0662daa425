"""Secrets: which names and parts of addresses hold them, and texts from outside without them.

A server may repeat what it was sent, the API key included. So each text that comes from outside passes `Redactor.text`
before it enters a message, a record or a log.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, Self
from urllib.parse import quote, quote_plus, unquote, urlsplit

HIDDEN = "***"
"""Stands in the place of a secret."""
LONGEST = 300
"""Most characters of a text from outside that are shown."""
NAME = re.compile(
    r"secret|passw(or)?d|passphrase|credential|authorization|bearer|(^|[-_]|[a-z])token$|"
    r"(api|access|account|auth|encryption|master|private|secret|session|shared|signing)[-_]?key",
    re.IGNORECASE,
)
"""Names of options and fields whose values are secrets."""
USERINFO = re.compile(r"(?<=://)[^/\s@]*@")
PASSWORD = re.compile(r"://\S*:\S*@")
GENERAL = (
    (re.compile(r"-----BEGIN[^-]*-----.*?(-----END[^-]*-----|$)", re.DOTALL), HIDDEN),
    (USERINFO, ""),
    (re.compile(
        r"((?:authorization|(?:api|access|secret)[-_]?key|passw(?:or)?d|secret|token)[\"']{0,2}\s*[:=]\s*[\"']?)"
        r"(?:(?:bearer|basic|token)\s+)?[^\s\"',;&}]+", re.IGNORECASE,
    ), rf"\1{HIDDEN}"),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
)  # fmt: skip
"""What looks like a secret, whoever's it is: a gateway may repeat keys of its own."""
LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy", "httpcore.socks")
"""They log addresses, and answers with their headers."""


def public_url(url: str) -> str:
    """An address without user name, password, query and fragment, valid or not."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is none
        if parts.netloc and "@" not in parts.path:
            return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    except ValueError:
        pass
    # in an address that is not valid a password may hold any character: all up to the last @ goes
    scheme = found[0] if (found := re.match(r"\w+://", url)) else ""
    return scheme + re.split(r"[?#]", url[len(scheme) :].rpartition("@")[2], maxsplit=1)[0]


def holds_secret(name: str, value: Any) -> bool:
    """Whether an option or a part of it is a secret, by its name or as the password in an address."""
    if NAME.search(name):
        return True
    if isinstance(value, Mapping):
        return any(holds_secret(str(key), part) for key, part in value.items())
    if isinstance(value, list | tuple):
        return any(holds_secret("", part) for part in value)
    return isinstance(value, str) and bool(PASSWORD.search(value))


class Redactor:
    """Takes what is secret out of texts: the secrets it is given, in all the forms in which they are sent or echoed."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = [secret for secret in secrets if secret]
        forms = sorted({form for secret in known for form in _forms(secret)}, key=len, reverse=True)
        self._forms = re.compile("|".join(map(re.escape, forms)), re.IGNORECASE) if forms else None
        # in a short secret's letters too many texts would be found
        self._bare = [bare for bare in map(_bare, known) if len(bare) >= 8]

    def text(self, given: object, limit: int = LONGEST) -> str:
        """A text or a value as it may be shown: one line, without secrets and control characters, cut short."""
        try:
            text = given if isinstance(given, str) else repr(given)
        except (ValueError, RecursionError):  # a number of more than 4,300 digits, a list in lists
            text = f"a {type(given).__name__}"
        text = self.redacted("".join(c if c.isprintable() else " " for c in text[: 100 * limit]).strip())
        return text if len(text) <= limit else f"{text[:limit]}..."

    def redacted(self, text: str) -> str:
        """The text without what is secret, else as it is."""
        text = self._forms.sub(HIDDEN, text) if self._forms else text
        for pattern, instead in GENERAL:
            text = pattern.sub(instead, text)
        # in some form of its own, as with spaces in it or encoded twice
        bare = _bare(text)
        return f"({HIDDEN})" if any(secret in bare for secret in self._bare) else text


def shown(given: object, limit: int = LONGEST) -> str:
    """A text or a value from outside as it may be shown, where no secret is known that might be in it."""
    return Redactor().text(given, limit)


class LogFilter(logging.Filter):
    """Redacts what the HTTP library logs while an engine is open."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record pass, redacted."""
        message = record.getMessage()
        if (shown := self._redactor.redacted(message)) != message:
            record.msg, record.args = shown, None
        return True

    def __enter__(self) -> Self:
        for name in LOGGERS:
            logging.getLogger(name).addFilter(self)
        return self

    def __exit__(self, *exc: object) -> None:
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(self)


def _forms(secret: str) -> set[str]:
    """The secret as it is, and as it stands in addresses, pages, JSON, hexadecimal and Base64."""
    raw = secret.encode(errors="surrogatepass")
    forms = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), html.escape(secret), raw.hex()}
    forms |= {json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    for before in range(3):  # where it stands in a longer text decides which letters of Base64 it becomes
        encoded = base64.b64encode(bytes(before) + raw).decode().rstrip("=")
        # the first letters hold bits of what stands before, and the last one of what stands behind
        inner = encoded[(0, 2, 3)[before] : (before + len(raw)) * 4 // 3]
        forms |= {inner, inner.translate(str.maketrans("+/", "-_"))} if len(inner) > 3 else set()
    return forms


def _bare(text: str) -> str:
    return re.sub(r"[\W_]", "", unquote(unquote(html.unescape(text)))).casefold()
