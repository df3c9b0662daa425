"use strict";
// What a page does: filters, search, keys, copying, prompts; and a page that is served follows its runs. The script
// only moves what is in the page, or what the server that made the page sends: it asks nobody else for anything.
{
  const find = (id) => document.getElementById(id);
  const tools = find("tools"), search = find("search"), status = find("status");
  const below = find("below"), keys = find("keys");
  const boxes = [...document.querySelectorAll("[data-filter]")];
  const items = () => [...document.querySelectorAll("[data-item]")];
  const pieces = (item) => (item.matches("[data-search]") ? [item] : [...item.querySelectorAll("[data-search]")]);
  const texts = new WeakMap();  // by item, because reading textContent of a thousand steps at each key press is slow
  document.documentElement.classList.add("scripted");

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
    const all = items();
    const wanted = boxes.filter((box) => box.checked).map((box) => box.dataset.filter);
    const pattern = patternOf(search.value.trim());
    const fits = (item) =>
      (!wanted.length || wanted.some((filter) => holds(item, filter))) &&
      (!pattern || textOf(item).search(pattern) >= 0);
    const shown = all.filter(fits), chosen = new Set(shown);
    for (const item of all) {
      const hide = !chosen.has(item);
      if (item.hidden === hide) continue;
      item.hidden = hide;
      const entry = find(item.id.replace("step-", "outline-"));
      if (entry && entry !== item) entry.hidden = hide;
    }
    for (const block of document.querySelectorAll("#steps > .block")) {
      block.hidden = !block.querySelector(":scope > :not([hidden])");
    }
    for (const box of boxes.filter((each) => each.closest("[data-rare]"))) {  // filters for what hardly ever is there
      box.closest("label").hidden = !box.checked && !all.some((item) => holds(item, box.dataset.filter));
    }
    highlight(shown, pattern);
    status.textContent = `${shown.length} of ${all.length} ${status.dataset.unit} shown`;
    tools.toggleAttribute("data-filtered", shown.length < all.length);
  };
  const clear = () => {
    search.value = "";
    for (const box of boxes) box.checked = false;
    apply();
  };

  const current = () => document.querySelector("[aria-current=true]");
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
    const shown = items().filter((item) => !item.hidden);
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
    if (find("prompt")?.open) return;
    if (!keys.checked || typing(event) || !["j", "k", "/"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "/") search.focus();
    else step(event.key === "j" ? 1 : -1);
  };

  // Copying: what a button names, as it was written.
  const copied = async (button) => {
    const source = document.querySelector(button.dataset.copy);
    if (!source) return;
    const asWritten = source.matches("[data-source]") || !source.checkVisibility();
    try {
      await navigator.clipboard.writeText(asWritten ? source.textContent : source.innerText);
      button.textContent = "Copied";
    } catch {  // the browser does not allow it: the text is selected, and keys copy it
      const around = source.closest("details");
      if (around) around.open = true;
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };

  // The prompt of a call: the parts of the page that it was put together from.
  const partOf = (name, text, tokens) => {
    const heading = document.createElement("h3"), body = document.createElement("div");
    heading.textContent = tokens ? `${name}, ${tokens} tokens` : name;
    body.className = "text";
    body.textContent = text;
    return [heading, body];
  };
  const textIn = (selector) => document.querySelector(selector)?.textContent ?? "";
  const conversation = () => {
    const turns = [...document.querySelectorAll("[data-turn]")];
    if (!turns.length) return textIn("#question > .whole [data-source]");
    return turns.map((turn) => `${turn.dataset.turn}:\n${turn.textContent}`).join("\n\n");
  };
  const standing = (article, purpose) => {
    const all = [...document.querySelectorAll("#steps article.step")];
    const before = [];
    for (const each of all.slice(0, all.indexOf(article) + 1)) {
      const gone = new Set((each.dataset.gone ?? "").split(" ").filter(Boolean).map((at) => all[Number(at)]));
      if (each !== article || purpose === "regenerate") {
        for (let at = before.length - 1; at >= 0; at -= 1) if (gone.has(before[at])) before.splice(at, 1);
      }
      if (each !== article) before.push(each);
    }
    return before;
  };
  const showPrompt = (button) => {
    const article = button.closest("article"), { prompt: purpose, engine, asks } = button.dataset;
    const head = document.querySelector(`[data-head="${engine}"]`);  // its text, where the tokenizer is at hand
    const parts = partOf(`Conversation, in the chat template of the ${engine} model`, head?.textContent || conversation(), head?.dataset.tokens);
    const written = (each, kind) => each.querySelector(`.version.${kind}`);
    for (const each of standing(article, purpose)) {
      const kept = written(each, "kept");
      parts.push(...partOf(each.querySelector("h3").textContent, kept?.querySelector("[data-source]")?.textContent ?? "", kept?.dataset.tokens));
    }
    if (purpose === "score") {
      const judged = written(article, "discarded") ?? written(article, "kept");
      parts.push(...partOf("The proposal", judged?.querySelector("[data-source]")?.textContent ?? "", judged?.dataset.tokens));
    }
    if (asks) parts.push(...partOf("The judge's question", textIn("#judge-words"), find("judge-words")?.dataset.tokens));
    find("prompt-name").textContent = `Prompt for ${button.closest("div").querySelector("dt").textContent.replace("Prompt for ", "")}, ${article.querySelector("h3").textContent}`;
    find("prompt-parts").replaceChildren(...parts);
    find("prompt").showModal();
  };

  const compare = find("compare");
  const chosen = () => [...document.querySelectorAll("[data-choice]:checked")].map((box) => box.dataset.choice);

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.matches(".copy")) copied(button);
    if (button?.matches(".show")) showPrompt(button);
    if (button?.id === "prompt-close") find("prompt").close();
    if (button && button === compare) {
      const [one, other] = chosen();
      location.href = `${compare.dataset.url}?one=${encodeURIComponent(one)}&other=${encodeURIComponent(other)}`;
    }
    const goal = event.target.closest("#timeline") && event.target.dataset.goto;
    if (goal) location.hash = goal;
  });
  document.addEventListener("change", () => {
    if (compare) compare.disabled = chosen().length !== 2;
  });

  // The entry of the outline that belongs to what is in view.
  const outline = find("outline");
  const inView = new Set();
  let pointing;
  const point = () => {
    pointing = undefined;
    const first = Math.min(...[...inView].map((id) => Number(id.replace("step-", ""))));
    const entry = find(`outline-${first}`), before = outline.querySelector(".here");
    if (!entry || entry === before) return;
    before?.classList.remove("here");
    entry.classList.add("here");
    const box = outline.getBoundingClientRect(), mine = entry.getBoundingClientRect();
    if (mine.top < box.top || mine.bottom > box.bottom) outline.scrollTop += mine.top - box.top - box.height / 2;
  };
  const watcher = outline && new IntersectionObserver((changes) => {
    for (const { target, isIntersecting } of changes) inView[isIntersecting ? "add" : "delete"](target.id);
    pointing ??= setTimeout(point, 250);  // not at each frame of a scroll: it asks the browser for a layout
  }, { rootMargin: "-20% 0px -40% 0px" });
  const watch = (article) => watcher?.observe(article);
  // In a long list steps stand in blocks, of which those far from the view are not laid out. To ask that of each step by
  // itself takes longer at every frame of a scroll than there is time.
  const BLOCK = 25;
  const gather = () => {
    let loose = [...document.querySelectorAll("#steps.long > article")];
    for (; loose.length >= 2 * BLOCK; loose = loose.slice(BLOCK)) {
      const block = document.createElement("div");
      block.className = "block";
      loose[0].before(block);
      block.append(...loose.slice(0, BLOCK));
    }
  };
  gather();
  for (const each of document.querySelectorAll("#steps article.step")) watch(each);
  if (outline && matchMedia("(max-width: 899px)").matches) outline.closest("details").open = false;

  // Following: the server sends each part of the page that has changed.
  const fragment = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;  // made by the page's own templates, which escape; the policy lets no script in it run
    return template.content;
  };
  const put = (list, id, html, behind) => {
    const fresh = fragment(html).firstElementChild, old = find(id);
    if (old) {
      const open = [...old.querySelectorAll("details")].map((each) => each.open);
      [...fresh.querySelectorAll("details")].forEach((each, at) => { each.open = open[at] ?? each.open; });
      fresh.hidden = old.hidden;
      old.replaceWith(fresh);
    } else if (behind) list.append(fresh);
    else list.prepend(fresh);
    return fresh;
  };
  const replacePart = (id, html) => {
    const part = find(id);
    if (!part) return;
    const open = [...part.querySelectorAll("details")].map((each) => each.open);
    part.replaceChildren(fragment(html));
    [...part.querySelectorAll("details")].forEach((each, at) => { each.open = open[at] ?? each.open; });
  };
  const takeRun = (change) => {
    const steps = find("steps"), atEnd = steps.getBoundingClientRect().bottom - 40 < innerHeight;
    const all = steps.getElementsByClassName("step"), length = all.length;
    for (const [id, html] of Object.entries(change.parts)) replacePart(id, html);
    for (const each of change.steps) {
      watch(put(steps, `step-${each.number}`, each.article, true));
      put(outline, `outline-${each.number}`, each.outline, true);
    }
    for (let number = change.length + 1; find(`step-${number}`); number += 1) {
      inView.delete(`step-${number}`);
      find(`step-${number}`).remove();
      find(`outline-${number}`)?.remove();
    }
    find("no-steps").hidden = change.length > 0;
    steps.classList.toggle("long", change.length > Number(steps.dataset.long));
    gather();
    apply();
    const last = all[all.length - 1];
    if (atEnd && length && change.length > length && last && !last.hidden) last.scrollIntoView({ block: "nearest" });
  };
  let due;
  const takeRow = (change) => {
    const rows = find("rows"), old = find(change.id);
    const kept = old?.querySelector("[data-choice]")?.checked;
    if (!change.row) {
      old?.remove();
    } else {
      const row = put(rows, change.id, change.row, false);
      const box = row.querySelector("[data-choice]");
      if (box && kept) box.checked = true;
      const next = [...rows.children].find((each) => each !== row && each.dataset.at < row.dataset.at);
      rows.insertBefore(row, next ?? null);  // the latest first
    }
    find("total").textContent = String(rows.childElementCount);
    if (compare) compare.disabled = chosen().length !== 2;
    due ??= requestAnimationFrame(() => {  // many rows come at once
      due = undefined;
      apply();
    });
  };
  const listen = (address) => {
    const said = find("connection");
    let from = address, events;
    const say = (text, state) => {
      said.textContent = text;
      said.dataset.state = state;
    };
    const open = () => {
      events = new EventSource(from);
      events.onopen = () => say("following", "on");
      events.onerror = () => say("the server does not answer: is specreason view still running?", "off");
      events.addEventListener("run", (event) => {
        from = address.replace(/from=[^&]*/, `from=${event.lastEventId}`);
        takeRun(JSON.parse(event.data));
      });
      events.addEventListener("row", (event) => takeRow(JSON.parse(event.data)));
      events.addEventListener("problem", (event) => say(JSON.parse(event.data), "off"));
      events.addEventListener("well", () => say("following", "on"));
      events.addEventListener("reload", () => location.reload());
    };
    // A browser has few connections to one server: a page that nobody sees gives its own back.
    document.addEventListener("visibilitychange", () => {
      events.close();
      if (!document.hidden) open();
    });
    addEventListener("pagehide", () => events.close());
    addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
    open();
  };

  const address = document.body.dataset.events;
  if (tools && (items().length || address)) {
    tools.hidden = false;
    tools.addEventListener("input", apply);
    tools.addEventListener("submit", (event) => event.preventDefault());
    document.addEventListener("keydown", pressed);
    addEventListener("hashchange", follow);
    apply();
    follow();
  }
  if (address) listen(address);
}
