// How a number is written. The units are those of Grafana that the boards use.

const PREFIXES = ["", "K", "M", "G"];

export function show(value, unit, decimals) {
  if (value === null || value === undefined) return "–";
  switch (unit) {
    case "s": return seconds(value);
    case "bytes": return scaled(value, 1024, ["B", "KiB", "MiB", "GiB"]);
    case "percentunit": return `${digits(100 * value, 1)} %`;
    case "cps": return `${decimals === 0 && value >= 10 ? Math.round(value) : digits(value, 2)}/s`;
    case "dateTimeFromNow": return ago(value);
    default: return scaled(value, 1000, PREFIXES, decimals);
  }
}

function scaled(value, base, names, decimals) {
  let n = 0;
  while (Math.abs(value) >= base * 10 && n < names.length - 1) { value /= base; n += 1; }
  const text = n === 0 && decimals === 0 ? String(Math.round(value)) : digits(value, 2);
  return names[n] ? `${text} ${names[n]}` : text;
}

function digits(value, most) {
  const places = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? Math.min(1, most) : most;
  return String(Number(value.toFixed(places)));
}

function seconds(value) {
  const size = Math.abs(value);
  if (size === 0) return "0 s";
  if (size < 0.001) return `${digits(value * 1e6, 0)} µs`;
  if (size < 1) return `${digits(value * 1e3, 1)} ms`;
  if (size < 120) return `${digits(value, 1)} s`;
  return size < 7200 ? `${digits(value / 60, 1)} min` : `${digits(value / 3600, 1)} h`;
}

function ago(ms) {
  const s = (Date.now() - ms) / 1000;
  if (s < 2) return "just now";
  return `${seconds(Math.round(s))} ago`;
}

export function clock(s, withSeconds = true) {
  const options = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(withSeconds ? { second: "2-digit" } : {}) };
  return new Date(1000 * s).toLocaleTimeString("en-GB", options);
}
