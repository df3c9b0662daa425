"use strict";
// Filters, search and keys for the items of a page. The script only hides, shows and scrolls to what is in the page.
{
  const find = (id) => document.getElementById(id);
  const items = [...document.querySelectorAll("[data-item]")];
  const tools = find("tools"), search = find("search"), status = find("status");
  const below = find("below"), keys = find("keys");
  const boxes = [...document.querySelectorAll("[data-filter]")];
  const pieces = (item) => (item.matches("[data-search]") ? [item] : [...item.querySelectorAll("[data-search]")]);
  const texts = new Map();  // by item, because reading textContent of a thousand steps at each key press is slow

  const textOf = (item) => {
    if (!texts.has(item)) texts.set(item, pieces(item).map((piece) => piece.textContent).join("\n"));
    return texts.get(item);
  };
  const holds = (item, filter) => {
    if (filter !== "low") return item.dataset.tags.split(" ").includes(filter);
    return Boolean(item.dataset.score) && Number(item.dataset.score) < Number(below.value);
  };
  const patternOf = (wanted) => wanted && new RegExp(wanted.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"), "giu");

  const highlight = (shown, pattern) => {
    if (!CSS.highlights) return;  // older browsers search without highlighting
    CSS.highlights.delete("found");
    if (!pattern) return;
    const found = new Highlight();
    for (const piece of shown.flatMap(pieces)) {
      const walker = document.createTreeWalker(piece, NodeFilter.SHOW_TEXT);
      for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        for (const match of node.data.matchAll(pattern)) {
          const range = new Range();
          range.setStart(node, match.index);
          range.setEnd(node, match.index + match[0].length);
          found.add(range);
        }
      }
    }
    CSS.highlights.set("found", found);
  };

  const apply = () => {
    const wanted = boxes.filter((box) => box.checked).map((box) => box.dataset.filter);
    const pattern = patternOf(search.value.trim());
    const fits = (item) =>
      (!wanted.length || wanted.some((filter) => holds(item, filter))) &&
      (!pattern || textOf(item).search(pattern) >= 0);
    const shown = items.filter(fits), chosen = new Set(shown);
    for (const item of items) item.hidden = !chosen.has(item);
    highlight(shown, pattern);
    status.textContent = `${shown.length} of ${items.length} ${status.dataset.unit} shown`;
    tools.toggleAttribute("data-filtered", shown.length < items.length);
  };
  const clear = () => {
    search.value = "";
    for (const box of boxes) box.checked = false;
    apply();
  };

  const current = () => document.querySelector("[aria-current]");
  const moveTo = (target) => {
    current()?.removeAttribute("aria-current");
    if (target.matches("[data-item]")) target.setAttribute("aria-current", "true");
    target.focus({ preventScroll: true });
    target.scrollIntoView({ block: "start" });
  };
  const follow = () => {
    const target = find(location.hash.slice(1));
    if (!target) return;
    if (target.hidden) clear();  // a link may lead to a step that the filters hide
    moveTo(target);
  };
  const step = (by) => {
    const shown = items.filter((item) => !item.hidden);
    const here = document.activeElement.closest("[data-item]") ?? current();
    const at = shown.indexOf(here);
    const next = shown[at < 0 ? 0 : at + by];
    if (!next) return;
    history.replaceState(null, "", `#${next.id}`);
    moveTo(next);
  };
  const typing = (event) => event.target.matches("input:not([type=checkbox])") || event.ctrlKey || event.metaKey || event.altKey;
  const pressed = (event) => {
    if (event.key === "Escape" && event.target === search) {
      clear();
      search.blur();
    }
    if (!keys.checked || typing(event) || !["j", "k", "/"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "/") search.focus();
    else step(event.key === "j" ? 1 : -1);
  };

  if (tools && items.length) {
    tools.hidden = false;
    tools.addEventListener("input", apply);
    tools.addEventListener("submit", (event) => event.preventDefault());
    document.addEventListener("keydown", pressed);
    find("timeline")?.addEventListener("click", (event) => {
      const goal = event.target.dataset.goto;
      if (goal) location.hash = goal;
    });
    addEventListener("hashchange", follow);
    apply();
    follow();
  }
}
