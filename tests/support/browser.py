"""Headless Chromium, and what tests ask of a page in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is on the PATH (apt-get install chromium)")

VISIBLE = "[...document.querySelectorAll('[data-item]')].filter(item => item.checkVisibility()).map(item => item.id)"
FOCUSED = "document.activeElement.id"
IN_VIEW = "(id => { const box = document.getElementById(id).getBoundingClientRect();"
IN_VIEW += " return box.top >= 0 && box.top < innerHeight / 2 })"
CUT_OFF = "all => all.filter(each => each.scrollWidth > each.clientWidth + 1).map(each => each.textContent)"
CONTRASTS = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = channels(colour).slice(0, 3).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, alpha = 1] = channels(getComputedStyle(at).backgroundColor);
      if (alpha) return `rgb(${r}, ${g}, ${b})`;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    const words = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!words || element.closest("script, title") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(element.closest("svg") ? style.fill : style.color), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([ratio, `${element.tagName}.${element.getAttribute("class")}`]);
  }
  return found;
}"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of our own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra `test` brings playwright")
    with playwright.sync_playwright() as started:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


def listened(context: Any) -> Any:
    """A new page; what the browser complains of and asks for is kept in ``page.told``."""
    page = context.new_page()
    page.told = []
    page.on("console", lambda message: page.told.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: page.told.append(str(error)))
    page.on("dialog", lambda dialog: page.told.append(dialog.message))
    page.on("request", lambda request: page.told.append(request.url))
    return page
