// The panel kinds, by the options that the generated boards use; services/console/boards.py refuses all others.

import { bands, chart, element, otherColour } from "./chart.js";
import { clock, show } from "./units.js";

const off = new Map(); // panel id -> names that the reader switched off

const pattern = (text) => new RegExp(text.slice(1, text.lastIndexOf("/")));
const matches = (matcher, name) => (matcher.id === "byName" ? matcher.options === name : pattern(matcher.options).test(name));

// A property of a field: the last override that matches, else the default.
function property(panel, name, id, fallback) {
  let found = fallback;
  for (const override of panel.fieldConfig.overrides) {
    if (!matches(override.matcher, name)) continue;
    for (const one of override.properties) if (one.id === id) found = one.value;
  }
  return found;
}

function level(thresholds, value) {
  let colour = "";
  for (const step of thresholds?.steps ?? []) if (step.value === null || value >= step.value) colour = step.color;
  return colour === "text" ? "" : colour;
}

// What a mapping makes of a value, if any does: its words, and perhaps a colour. One of type `special` is for null.
function mapped(panel, value) {
  for (const { type, options } of panel.fieldConfig.defaults.mappings ?? []) {
    const said = type === "special" ? value === null && options.result : options[String(value)];
    if (said) return said;
  }
  return null;
}

const armColour = (panel, name) => property(panel, name, "color", null)?.fixedColor;

export function draw(panel, body, answer, context) {
  if (panel.type === "text") return prose(body, context.html);
  if (!answer) return undefined;
  if (answer.error) return message(body, answer.error, "bad");
  return KINDS[panel.type](panel, body, answer, context);
}

function message(body, text, kind = "") { body.replaceChildren(element("p", `message ${kind}`, text)); }

function prose(body, html) {
  if (body.firstChild?.className === "prose") return;
  const made = element("div", "prose");
  made.innerHTML = html; // rendered by the server, from the committed board, without HTML of its own
  body.classList.add("scroll");
  body.replaceChildren(made);
}

function stat(panel, body, { series }, { colours }) {
  const { unit, decimals, thresholds, noValue } = panel.fieldConfig.defaults;
  const shown = series.length ? series : [{ name: "", value: null }];
  const box = element("div", "stats"), one = shown.length === 1;
  const height = Math.max(60, body.clientHeight), width = Math.max(120, body.clientWidth);
  const columns = one ? 1 : bestColumns(shown.length, width, height);
  box.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  const each = height / Math.ceil(shown.length / columns);
  const said = shown.map(({ value }) => mapped(panel, value));
  const words = shown.map(({ value }, n) => said[n]?.text ?? (series.length ? show(value, unit, decimals) : noValue));
  const fits = (width / columns - 14) / (0.62 * Math.max(4, ...words.map((text) => text.length)));  // a digit's width, in em
  const size = one ? Math.min(46, height * 0.55, fits) : Math.max(12, Math.min(36, each - 26, fits));
  for (const [number, { name, value }] of shown.entries()) {
    const tile = element("div", "stat"), figure = element("b", "", words[number]);
    figure.style.fontSize = `${size}px`;
    figure.style.color = said[number]?.color ?? level(property(panel, name, "thresholds", thresholds), value);
    tile.append(figure);
    if (!one || colours[name.split(" ")[0]]) tile.append(named(name, colours[name.split(" ")[0]]));
    box.append(tile);
  }
  body.replaceChildren(box);
}

function bestColumns(count, width, height) {
  for (let columns = Math.max(1, Math.floor(width / 230)); columns <= count; columns += 1) {
    if (Math.ceil(count / columns) * 46 <= height) return columns;
  }
  return count;
}

function named(name, colour) {
  const made = element("span", "", name);
  if (colour) {
    const mark = document.createElement("i");
    mark.style.background = colour;
    made.prepend(mark);
  }
  made.title = name;
  return made;
}

function bargauge(panel, body, { series }) {
  if (!series.length) return message(body, panel.fieldConfig.defaults.noValue);
  const { unit, decimals } = panel.fieldConfig.defaults;
  const most = Math.max(...series.map((one) => one.value ?? 0), 1), box = element("div", "bars");
  for (const { name, value } of [...series].sort((a, b) => b.value - a.value)) {
    const track = element("div", "track"), bar = document.createElement("div");
    bar.style.width = `${(100 * (value ?? 0)) / most}%`;
    bar.style.background = armColour(panel, name) ?? "#8E98A5";
    track.append(bar);
    box.append(element("div", "name", name), track, element("div", "value", show(value, unit, decimals ?? 0)));
  }
  body.classList.add("scroll");
  return body.replaceChildren(box);
}

function table(panel, body, { table: { columns, rows } }, { colours }) {
  if (!rows.length) return message(body, panel.fieldConfig.defaults.noValue);
  const made = element("table"), head = made.createTHead().insertRow(), content = made.createTBody();
  const of = (n, id) => property(panel, columns[n], id, panel.fieldConfig.defaults[id]);
  const isNumber = (row, n) => typeof row[n] === "number";
  const numeric = columns.map((_, n) => rows.some((row) => isNumber(row, n)) && rows.every((row) => row[n] === null || isNumber(row, n)));
  columns.forEach((name, n) => head.append(element("th", numeric[n] ? "n" : "", name)));
  for (const row of rows) {
    const line = content.insertRow();
    row.forEach((cell, n) => {
      const text = isTime(cell) ? `${clock(Date.parse(cell) / 1000)}` : typeof cell === "number" ? show(cell, of(n, "unit"), 0) : cell ?? of(n, "noValue");
      const made = element("td", numeric[n] ? "n" : String(text).length > 40 ? "long" : "", String(text));
      const [link] = text ? property(panel, columns[n], "links", []) : [];
      if (link) made.replaceChildren(linked(link, String(text)));
      if (columns[n] === "arm" && colours[cell]) made.prepend(mark(colours[cell]));
      if (numeric[n] && property(panel, columns[n], "custom.cellOptions", null)) made.style.color = level(property(panel, columns[n], "thresholds", null), cell ?? 0);
      line.append(made);
    });
  }
  body.classList.add("scroll");
  return body.replaceChildren(made);
}

function linked({ title, url }, text) {
  const made = element("a", "", text.length > 12 ? `${text.slice(0, 12)}…` : text);
  made.href = url.replace("${console}", "").replace("${__value.text}", encodeURIComponent(text));
  made.title = title;
  return made;
}

const isTime = (cell) => typeof cell === "string" && /^\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)$/.test(cell);

function mark(colour) {
  const made = document.createElement("i");
  Object.assign(made.style, { display: "inline-block", width: "9px", height: "9px", borderRadius: "2px", marginRight: "6px", background: colour });
  return made;
}

function timeseries(panel, body, { series }, { range, faults, redraw }) {
  const { unit, custom, thresholds, noValue } = panel.fieldConfig.defaults;
  let next = 0;
  const lines = series.map((line) => ({
    ...line, colour: armColour(panel, line.name) ?? otherColour(next++), dash: property(panel, line.name, "custom.lineStyle", null)?.dash ?? [],
  }));
  shadeRepeats(lines);
  const silent = off.get(panel.id) ?? new Set();
  let space = body.querySelector(".space"), legend = body.querySelector(".legend");
  if (!space) {
    space = element("div", "body space");
    legend = element("div", "legend");
    body.replaceChildren(space, legend);
  }
  legend.replaceChildren(...lines.map((line) => {
    const key = element("button", silent.has(line.name) ? "off" : "", line.name);
    key.prepend(Object.assign(document.createElement("i")));
    key.firstChild.style.background = line.dash.length ? `repeating-linear-gradient(90deg, ${line.colour} 0 ${line.dash[0] / 2}px, transparent 0 ${(line.dash[0] + line.dash[1]) / 2}px)` : line.colour;
    key.title = "click: hide or show";
    key.onclick = () => {
      if (!silent.delete(line.name)) silent.add(line.name);
      off.set(panel.id, silent);
      redraw();
    };
    return key;
  }));
  if (!lines.length) message(space, noValue === "0" ? "nothing in this range" : noValue);
  else chart(space, lines, {
    range, faults, unit, steps: custom.lineInterpolation === "stepAfter", fill: custom.fillOpacity, stack: Boolean(custom.stacking),
    limit: custom.thresholdsStyle ? thresholds.steps.find((step) => step.value !== null)?.value : undefined, isOff: (name) => silent.has(name),
  });
}

// Several series of one arm have a line style each; where they have none, they keep its hue and differ in lightness.
function shadeRepeats(lines) {
  const seen = new Map();
  for (const line of lines) {
    const key = `${line.colour} ${line.dash}`, n = seen.get(key) ?? 0;
    seen.set(key, n + 1);
    if (n) line.colour = `color-mix(in oklab, ${line.colour} ${Math.max(40, 100 - 25 * n)}%, ${n % 2 ? "white" : "black"})`;
  }
}

function stateTimeline(panel, body, { series }, { range, faults }) {
  if (!series.length) return message(body, "none in this range");
  const words = Object.assign({}, ...panel.fieldConfig.defaults.mappings.map((mapping) => mapping.options));
  return bands(body, series, { range, faults, words });
}

const KINDS = { stat, bargauge, table, timeseries, "state-timeline": stateTimeline };
