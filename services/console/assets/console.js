// The console's pages: a board with its variables and range, and the pages received.

import { element, forget } from "./chart.js";
import { draw } from "./panels.js";
import { clock, show } from "./units.js";

const RANGES = [["5m", 300], ["15m", 900], ["30m", 1800], ["1h", 3600], ["6h", 21600], ["24h", 86400]];
const main = document.getElementById("main"), controls = document.getElementById("controls"), state = element("span", "state");
const asked = new URLSearchParams(location.search);

async function get(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error((await answer.text()).trim() || `HTTP ${answer.status}`);
  return answer.json();
}

function remember() { history.replaceState(null, "", `${location.pathname}?${asked}`); }

async function nav() {
  const list = document.getElementById("boards"), boards = await get("/api/boards");
  const links = [...boards.map((board) => [`/d/${board.uid}`, board.title]), ["/received", "Pages received"]];
  for (const [href, title] of links) {
    const link = element("a", "", title);
    const kept = new URLSearchParams([...asked].filter(([key]) => key !== "panel"));
    link.href = href === "/received" || !String(kept) ? href : `${href}?${kept}`;
    if (location.pathname === href) { link.setAttribute("aria-current", "page"); document.title = `${title} · Delivery Lab`; }
    list.append(link);
  }
}

function currentRange() {
  if (asked.get("from") && asked.get("to")) return { from: Number(asked.get("from")), to: Number(asked.get("to")), fixed: true };
  const seconds = (RANGES.find(([name]) => name === asked.get("range")) ?? RANGES[1])[1], now = Date.now() / 1000;
  return { from: now - seconds, to: now, fixed: false };
}

async function rangeChoice(refresh) {
  const choice = element("select"), runs = await get("/api/runs");
  choice.setAttribute("aria-label", "time range");
  const fixed = asked.get("from") && !asked.get("run");
  if (fixed) choice.append(new Option(`${clock(Number(asked.get("from")))} to ${clock(Number(asked.get("to")))}`, "kept"));
  for (const [name] of RANGES) choice.append(new Option(`last ${name}`, name));
  for (const run of runs) choice.append(new Option(`run ${run.run}`, `run:${run.run}`));
  choice.value = fixed ? "kept" : asked.get("run") ? `run:${asked.get("run")}` : asked.get("range") ?? "15m";
  choice.onchange = () => {
    for (const key of ["from", "to", "run", "range"]) asked.delete(key);
    const run = runs.find((one) => `run:${one.run}` === choice.value);
    if (run) { asked.set("from", run.from_s.toFixed(0)); asked.set("to", run.to_s.toFixed(0)); asked.set("run", run.run); }
    else if (choice.value !== "15m") asked.set("range", choice.value);
    remember();
    refresh();
  };
  return choice;
}

function variableChoice(variable, refresh) {
  const key = `var-${variable.name}`, box = element("details", "choice"), head = element("summary"), list = element("div");
  const chosen = () => asked.getAll(key);
  const title = () => { head.textContent = `${variable.label}: ${chosen().length ? chosen().join(", ") : "all"}`; };
  for (const value of variable.query.split(",")) {
    const label = element("label", "", value), tick = Object.assign(document.createElement("input"), { type: "checkbox", value, checked: chosen().includes(value) });
    tick.onchange = () => {
      const ticked = [...list.querySelectorAll("input:checked")].map((one) => one.value);
      asked.delete(key);
      for (const one of ticked) asked.append(key, one);
      title(); remember(); refresh();
    };
    label.prepend(tick);
    list.append(label);
  }
  list.append(element("div", "quiet", "none ticked: all"));
  title();
  box.append(head, list);
  document.addEventListener("click", (event) => { if (!box.contains(event.target)) box.open = false; });
  return box;
}

function frameOf(panel) {
  const made = element("section", "panel"), head = element("h2"), body = element("div", "body"), { x, y, w, h } = panel.gridPos;
  made.style.gridArea = `${y + 1} / ${x + 1} / span ${h} / span ${w}`;
  made.id = `panel-${panel.id}`;
  head.append(element("span", "", panel.title), element("span", "push"));
  for (const link of panel.links ?? []) {
    const book = element("a", "", "runbook");
    book.href = link.url.replace("${console}", "");
    book.title = link.title;
    head.append(book);
  }
  if (panel.description) {
    const how = element("button", "how", "i");
    how.setAttribute("aria-label", `How to read ${panel.title}`);
    how.onmouseenter = how.onfocus = () => tip(how, panel.description);
    how.onmouseleave = how.onblur = () => { document.getElementById("tip").hidden = true; };
    head.append(how);
  }
  made.append(head, body);
  return { panel, made, body };
}

function tip(by, text) {
  const box = document.getElementById("tip"), place = by.getBoundingClientRect();
  box.replaceChildren(...text.split("\n\n").map((part) => element("p", "", part.replaceAll("*", ""))));
  box.hidden = false;
  box.style.left = `${Math.max(6, place.right - box.offsetWidth)}px`;
  box.style.top = `${place.bottom + 4}px`;
}

async function boardPage(uid) {
  const { board, html } = await get(`/api/boards/${uid}`);
  const grid = element("div", "board"), frames = board.panels.map(frameOf), colours = coloursOf(board);
  const single = frames.find(({ panel }) => String(panel.id) === asked.get("panel"));
  if (single) single.made.style.gridArea = "1 / 1 / span 20 / span 24";
  grid.append(...(single ? [single] : frames).map(({ made }) => made));
  main.replaceChildren(grid);
  let last = null, busy = false, again = false;
  const paint = () => {
    if (!last) return;
    forget();
    const range = { from: last.from, to: last.to };
    for (const { panel, body } of frames) {
      draw(panel, body, last.panels[panel.id], { range, faults: last.faults, html: html[panel.id], colours, redraw: paint });
    }
  };
  const refresh = async () => {
    if (busy) { again = true; return; }
    busy = true;
    const range = currentRange(), query = new URLSearchParams([...asked].filter(([key]) => key.startsWith("var-")));
    query.set("from", range.from.toFixed(3));
    query.set("to", range.to.toFixed(3));
    try {
      last = await get(`/api/boards/${uid}/data?${query}`);
      paint();
      state.textContent = range.fixed ? "fixed range" : clock(range.to);
      state.classList.remove("bad");
      main.dataset.drawn = String(Date.now());
    } catch (error) {
      state.textContent = error.message.slice(0, 80);
      state.classList.add("bad");
    }
    busy = false;
    if (again) { again = false; refresh(); }
  };
  const choices = board.templating.list.filter((variable) => variable.type === "custom").map((variable) => variableChoice(variable, refresh));
  controls.append(...choices, await rangeChoice(refresh), state);
  addEventListener("resize", paint);
  await refresh();
  setInterval(() => { if (!document.hidden && !currentRange().fixed && document.getElementById("tip").hidden) refresh(); }, 2000);
}

// Arm -> colour, as the boards give it to their lines.
function coloursOf(board) {
  const found = {};
  for (const panel of board.panels) {
    for (const { matcher, properties } of panel.fieldConfig?.overrides ?? []) {
      for (const one of properties) if (one.id === "color") found[matcher.options.match(/\^(\w+)/)[1]] = one.value.fixedColor;
    }
  }
  return found;
}

async function receivedPage() {
  const note = element("p", "quiet", "What Alertmanager sent, newest first. Delay: from the begin of the alert to its receipt; after the fault: from the begin of what most likely caused it.");
  const table = element("table"), frame = element("section", "panel");
  frame.append(table);
  main.replaceChildren(note, frame);
  controls.append(state);
  const refresh = async () => {
    try {
      const pages = await get("/api/received");
      table.replaceChildren(element("thead"), element("tbody"));
      table.tHead.append(row("th", ["received", "", "alert", "what", "delay", "after the fault", "runbook"]));
      table.tBodies[0].append(...pages.slice(0, 300).map(pageRow));
      if (!pages.length) table.tBodies[0].append(row("td", ["nothing has been received yet: Watchdog comes within seconds when alerting works"]));
      state.textContent = clock(Date.now() / 1000);
    } catch (error) { state.textContent = error.message; state.classList.add("bad"); }
    main.dataset.drawn = String(Date.now());
  };
  await refresh();
  setInterval(() => { if (!document.hidden) refresh(); }, 2000);
}

function row(kind, cells) {
  const made = document.createElement("tr");
  for (const cell of cells) {
    const one = element(kind, "");
    one.append(cell);
    made.append(one);
  }
  return made;
}

function pageRow(page) {
  const firing = page.status === "firing", badge = element("span", `badge ${firing ? page.severity : "resolved"}`, firing ? page.severity : "resolved");
  const book = element("a", "", "runbook");
  book.href = page.runbook.replace(/^https?:\/\/[^/]+/, "");
  const after = page.cause ? `${page.cause.after_s} s after ${page.cause.fault} ${page.cause.target}` : "";
  const delay = firing ? show(page.delay_s, "s") : ""; // of one that is resolved it would be how long it fired
  const made = row("td", [`${new Date(1000 * page.received).toLocaleDateString("en-CA")} ${clock(page.received)}`, badge, page.name, page.summary, delay, after, page.runbook ? book : ""]);
  made.children[3].className = "long";
  return made;
}

async function start() {
  await nav();
  const board = location.pathname.match(/^\/d\/([\w-]+)$/);
  await (board ? boardPage(board[1]) : receivedPage());
}

start().catch((error) => main.replaceChildren(element("p", "message bad", error.message)));
