// Lines, bands and their axes as SVG: faults shaded behind, one crosshair over all charts of a page.

import { clock, show } from "./units.js";

const SPACE = { left: 52, right: 10, top: 6, bottom: 18 };
const OTHERS = ["#7EB26D", "#EAB839", "#6ED0E0", "#EF843C", "#1F78C1", "#BA43A9", "#705DA0", "#508642", "#CCA300", "#447EBC", "#C15C17", "#890F02", "#64B0C8", "#967302"];
const drawn = new Set(); // charts on the page, for the crosshair

export function forget() { drawn.clear(); }

export function otherColour(number) { return OTHERS[number % OTHERS.length]; }

function node(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function frame(body, range, faults) {
  const width = Math.max(120, body.clientWidth), height = Math.max(60, body.clientHeight);
  const svg = node("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img" });
  const x = (s) => SPACE.left + ((s - range.from) / (range.to - range.from)) * (width - SPACE.left - SPACE.right);
  for (const fault of faults) {
    const begin = Math.max(SPACE.left, x(fault.from));
    const end = Math.min(width - SPACE.right, x(fault.to ?? range.to));
    if (fault.fault === "arm" || end < SPACE.left) continue;
    svg.append(node("rect", { class: "fault", x: begin, y: SPACE.top, width: Math.max(2, end - begin), height: height - SPACE.top - SPACE.bottom }));
    svg.append(node("line", { class: "fault-edge", x1: begin, x2: begin, y1: SPACE.top, y2: height - SPACE.bottom }));
  }
  const labels = Math.max(2, Math.floor((width - SPACE.left) / 90));
  for (const at of ticksOfTime(range, labels)) {
    svg.append(node("text", { x: x(at), y: height - 4, "text-anchor": "middle" }, clock(at, range.to - range.from < 600)));
  }
  return { svg, width, height, x };
}

function ticksOfTime(range, most) {
  const steps = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400];
  const step = steps.find((s) => (range.to - range.from) / s <= most) ?? 86400;
  const ticks = [];
  for (let at = Math.ceil(range.from / step) * step; at <= range.to; at += step) ticks.push(at);
  return ticks;
}

function ticksOfValue(top, unit) {
  const base = unit === "bytes" ? 1024 ** Math.max(0, Math.floor(Math.log2(top / 4) / 10)) : 1;
  const raw = top / 4 / base, power = 10 ** Math.floor(Math.log10(raw || 1));
  const step = base * ([1, 2, 2.5, 5, 10].find((m) => m * power >= raw) ?? 10) * power;
  const whole = unit === "short" && step < 1 ? 1 : step;
  const ticks = [];
  for (let value = 0; value <= top + whole * 0.001; value += whole) ticks.push(value);
  return ticks;
}

function stacked(lines) {
  const below = new Map();
  return lines.map((line) => ({
    ...line,
    points: line.points.map(([at, value]) => {
      const floor = below.get(at) ?? 0;
      below.set(at, floor + (value ?? 0));
      return [at, value === null ? null : floor + value, floor, value];
    }),
  }));
}

export function chart(body, lines, { range, faults, unit, steps, fill, stack, limit, isOff }) {
  const { svg, width, height, x } = frame(body, range, faults);
  const seen = (stack ? stacked : (all) => all)(lines.filter((line) => !isOff(line.name)));
  const highest = Math.max(...seen.flatMap((line) => line.points.map((p) => p[1] ?? 0)), 0);
  const least = { short: 4, cps: 1, s: 0.01, percentunit: 0.01, bytes: 1024 }[unit] ?? 1;
  const top = Math.max(highest * 1.08, least, limit !== undefined && highest > limit / 4 ? limit * 1.1 : 0);
  const y = (value) => height - SPACE.bottom - (value / top) * (height - SPACE.top - SPACE.bottom);
  for (const value of ticksOfValue(top, unit)) {
    svg.prepend(node("line", { class: "grid", x1: SPACE.left, x2: width - SPACE.right, y1: y(value), y2: y(value) }));
    svg.append(node("text", { x: SPACE.left - 6, y: y(value) + 4, "text-anchor": "end" }, show(value, unit)));
  }
  if (limit !== undefined && limit <= top) {
    svg.append(node("line", { x1: SPACE.left, x2: width - SPACE.right, y1: y(limit), y2: y(limit), stroke: "#E02F44", "stroke-dasharray": "6 4", "stroke-width": 1 }));
  }
  for (const line of seen) {
    for (const [path, area] of paths(line.points, x, y, steps)) {
      if (area && fill) svg.append(node("path", { d: area, fill: line.colour, "fill-opacity": fill / 100, stroke: "none" }));
      svg.append(node("path", { d: path, fill: "none", stroke: line.colour, "stroke-width": 2, "stroke-linejoin": "round", "stroke-linecap": line.dash.length ? "butt" : "round", "stroke-dasharray": line.dash.join(" ") || "none" }));
    }
  }
  const nearest = (at) => seen.map((line) => ({ ...line, point: closest(line.points, at, range) })).filter((line) => line.point)
    .map((line) => ({ name: line.name, colour: line.colour, value: line.point[3] ?? line.point[1] })).sort((a, b) => b.value - a.value);
  finish(body, svg, { range, width, height, x, faults, rows: (at) => nearest(at).slice(0, 14).map((r) => ({ ...r, text: show(r.value, unit) })) });
}

// The pieces of a line between gaps: [path, closed area].
function paths(points, x, y, steps) {
  const pieces = [];
  let piece = [];
  for (const point of [...points, [0, null]]) {
    if (point[1] !== null) { piece.push(point); continue; }
    if (piece.length) pieces.push(piece);
    piece = [];
  }
  return pieces.map((points) => {
    const way = points.map((p, n) => {
      const place = `${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`;
      return n === 0 ? `M${place}` : steps ? `H${x(p[0]).toFixed(1)}V${y(p[1]).toFixed(1)}` : `L${place}`;
    }).join("");
    const floor = [...points].reverse().map((p) => `L${x(p[0]).toFixed(1)} ${y(p[2] ?? 0).toFixed(1)}`).join("");
    return [points.length === 1 ? `${way}h1` : way, points.length > 1 ? `${way}${floor}Z` : ""];
  });
}

function closest(points, at, range) {
  let best = null;
  for (const point of points) {
    if (point[1] !== null && (best === null || Math.abs(point[0] - at) < Math.abs(best[0] - at))) best = point;
  }
  return best && Math.abs(best[0] - at) < (range.to - range.from) / 40 ? best : null;
}

export function bands(body, lines, { range, faults, words }) {
  const { svg, width, height, x } = frame(body, range, faults);
  const name = Math.min(230, Math.max(90, ...lines.map((line) => 7 * line.name.length)));
  const inner = { from: range.from, to: range.to };
  const left = Math.max(SPACE.left, name);
  const across = (s) => left + ((s - inner.from) / (inner.to - inner.from)) * (width - left - SPACE.right);
  svg.replaceChildren();
  for (const fault of faults) {
    if (fault.fault === "arm") continue;
    const begin = Math.max(left, across(fault.from)), end = Math.min(width - SPACE.right, across(fault.to ?? inner.to));
    if (end >= left) svg.append(node("rect", { class: "fault", x: begin, y: SPACE.top, width: Math.max(2, end - begin), height: height - SPACE.top - SPACE.bottom }));
  }
  for (const at of ticksOfTime(inner, Math.max(2, Math.floor((width - left) / 90)))) {
    svg.append(node("text", { x: across(at), y: height - 4, "text-anchor": "middle" }, clock(at, inner.to - inner.from < 600)));
  }
  const row = (height - SPACE.top - SPACE.bottom) / Math.max(1, lines.length), thick = Math.max(3, Math.min(20, row * 0.8));
  lines.forEach((line, number) => {
    const middle = SPACE.top + row * (number + 0.5);
    svg.append(node("text", { x: left - 8, y: middle + 4, "text-anchor": "end" }, line.name));
    for (const [begin, end, value] of merged(line.points)) {
      const word = words[String(value)] ?? { text: String(value), color: "#8E98A5" };
      svg.append(node("rect", { x: across(begin), y: middle - thick / 2, width: Math.max(2, across(end) - across(begin)), height: thick, rx: 2, fill: word.color, "fill-opacity": 0.75 }));
    }
  });
  const rows = (at) => lines.map((line) => ({ name: line.name, point: closest(line.points, at, range) })).filter((line) => line.point)
    .map((line) => ({ name: line.name, colour: words[String(line.point[1])]?.color, text: words[String(line.point[1])]?.text ?? String(line.point[1]) }));
  finish(body, svg, { range, width, height, x: across, left, faults, rows: (at) => rows(at).slice(0, 16) });
}

// Runs of equal values: [begin, end, value].
function merged(points) {
  const found = [];
  points.forEach(([at, value], n) => {
    const last = found.at(-1), next = points[n + 1]?.[0] ?? at + (n ? at - points[n - 1][0] : 1);
    if (value === null) return;
    if (last && last[2] === value && at - last[1] <= 0.001) last[1] = next;
    else found.push([at, next, value]);
  });
  return found;
}

function finish(body, svg, chart) {
  const left = chart.left ?? SPACE.left;
  chart.cross = node("line", { class: "cross", y1: SPACE.top, y2: chart.height - SPACE.bottom, visibility: "hidden" });
  svg.append(chart.cross);
  body.replaceChildren(svg);
  drawn.add(chart);
  const tip = document.getElementById("tip");
  svg.addEventListener("mousemove", (event) => {
    const box = svg.getBoundingClientRect();
    const px = ((event.clientX - box.left) / box.width) * chart.width;
    const at = chart.range.from + ((px - left) / (chart.width - left - SPACE.right)) * (chart.range.to - chart.range.from);
    if (at < chart.range.from || at > chart.range.to) return;
    for (const other of drawn) {
      const place = other.x(at);
      other.cross.setAttribute("x1", place); other.cross.setAttribute("x2", place); other.cross.setAttribute("visibility", "visible");
    }
    tip.replaceChildren(...tipRows(chart, at));
    tip.hidden = false;
    const beside = event.clientX + 16 + tip.offsetWidth > innerWidth ? event.clientX - 16 - tip.offsetWidth : event.clientX + 16;
    tip.style.left = `${Math.max(4, beside)}px`;
    tip.style.top = `${Math.min(event.clientY + 12, innerHeight - tip.offsetHeight - 6)}px`;
  });
  svg.addEventListener("mouseleave", () => {
    tip.hidden = true;
    for (const other of drawn) other.cross.setAttribute("visibility", "hidden");
  });
}

function tipRows(chart, at) {
  const made = [element("div", "quiet", clock(at))];
  for (const row of chart.rows(at)) {
    const name = element("span", "", row.name), mark = document.createElement("i");
    mark.style.background = row.colour ?? "transparent";
    name.prepend(mark);
    const line = element("div", "");
    line.append(name, element("b", "", row.text));
    made.push(line);
  }
  const slack = (chart.range.to - chart.range.from) / 150;
  for (const fault of chart.faults.filter((f) => f.fault !== "arm" && f.from - slack <= at && (f.to ?? Infinity) + slack >= at).slice(0, 6)) {
    const lasted = fault.to === null ? "still" : `${(fault.to - fault.from).toFixed(1)} s`;
    made.push(element("div", "fault", `${fault.fault} ${fault.target}${fault.failpoint ? ` at ${fault.failpoint}` : ""}, ${lasted}`));
  }
  return made;
}

export function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}
