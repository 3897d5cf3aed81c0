"use strict";
// The page of report.py, first half: parts and charts. The other half is report.js.
// A text of a run reaches the page as a text node or attribute only, never as HTML.

const DATA = JSON.parse(document.getElementById("data").textContent);
const PANELS = ["reward", "eval_avg@", "eval_greedy", "reward_branch", "length", "calls",
  "entropy", "format_errors", "truncated", "zero_std", "omega_std", "fork_depth", "kl_old",
  "grad_norm", "clip_high", "tool_ok", "sampler_gap", "seconds"];
const AXES = { step: "steps", tokens: "tokens sampled", seconds: "time" };
// number of a token: middle of its scale, or null if it begins at 0
const PAINTS = { entropy: null, omega: 1, score: 0, advantage: 0 };
const ARROW = "\u2192", SHOWN_ROWS = 20, SHOWN_TOKENS = 600;
const state = { axis: "step", paint: "entropy", metric: DATA.opening, run: 0, tree: 0, rollout: 0,
  sort: "step", down: false, all: false, filters: new Set() };

// ---- parts

const $ = (id) => document.getElementById(id);

function build(node, attributes, parts) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...parts.flat().filter((part) => part !== null));
  return node;
}

const el = (tag, attributes, ...parts) => build(document.createElement(tag), attributes, parts);
const svg = (tag, attributes, ...parts) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, parts);

function show(x, digits = 3) {
  if (x === null || x === undefined) return "\u2013";
  if (Number.isInteger(x)) return Math.abs(x) >= 10000 ? short(x) : String(x);
  if (Math.abs(x) >= 1000) return short(x);
  if (x !== 0 && Math.abs(x) < 0.001) return x.toExponential(1);
  return x.toFixed(Math.abs(x) >= 100 ? 0 : Math.abs(x) >= 10 ? 1 : digits);
}

function short(x) {
  for (const [size, letter] of [[1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(x) >= size) return `${+(x / size).toPrecision(3)}${letter}`;
  if (x !== 0 && Math.abs(x) < 0.001) return (+x.toPrecision(2)).toExponential();
  return String(+x.toPrecision(3));
}

const UNITS = [[3600, "h"], [60, "min"], [1, "s"], [0.001, "ms"]];
const unit_of = (seconds) => UNITS.find(([size]) => seconds >= 2 * size || size === 0.001);
const time = (seconds, [size, unit] = unit_of(seconds)) =>
  `${+(seconds / size).toPrecision(3)} ${unit}`;

const plain = (x) => x === null ? "\u2013" : String(+x.toFixed(3));
const share = (x) => `${(100 * x).toFixed(x > 0 && x < 0.1 || x > 0.99 && x < 1 ? 1 : 0)}%`;
const visible = (text) => text.replace(/\n/g, "\u21b5").replace(/\t/g, "\u21e5");
const quoted = (text) => el("code", {}, visible(text) || "\u2205");
const known = (values) => (values || []).filter((x) => x !== null);

/** A row of buttons, one of which is on. */
function fill_switch(place, names, now, choose) {
  const buttons = Object.entries(names).map(([name, words]) =>
    el("button", { type: "button", "data-value": name, "aria-pressed": name === now,
      onclick: () => { press(name); choose(name); } }, words));
  const press = (name) => buttons.forEach((button) =>
    button.setAttribute("aria-pressed", button.dataset.value === name));
  place.replaceChildren(...buttons);
}

function fill_select(place, options, now) {
  place.replaceChildren(...options.map(([value, words]) => el("option", { value }, words)));
  place.value = now;
}

function table(head, rows) {
  return el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows));
}

const cells = (tag, values, left = 1) => values.map((value, place) =>
  el(tag, { class: place < left ? "left" : null }, value));

// ---- charts

function nice_ticks(low, high, count) {
  const raw = (high - low) / count || 1, size = 10 ** Math.floor(Math.log10(raw));
  const step = size * [1, 2, 2.5, 5, 10].find((n) => n * size >= raw * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++)
    ticks.push(+(k * step).toPrecision(12));
  return ticks;
}

/** From the least to the greatest of the values; from 0 where that is near. */
function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const x of values) { low = Math.min(low, x); high = Math.max(high, x); }
  if (low >= 0 && low <= 0.5 * high) low = 0;
  const margin = high > low ? 0.04 * (high - low) : Math.abs(high) * 0.1 || 0.5;
  return [low === 0 ? 0 : low - margin, high + margin];
}

/** What is drawn of a number: a line per group, with points { x, y, low, high, step }. */
function lines_of(name) {
  return DATA.groups.map((group, index) => {
    const curve = group.curves[name], axis = group.axis;
    const points = !curve ? [] : axis.step.map((step, k) => ({ step, x: axis[state.axis][k],
      y: curve.mean[k], low: curve.low && curve.low[k], high: curve.high && curve.high[k] }));
    return { index, points: points.filter((p) => p.y !== null && p.x !== null) };
  }).filter((line) => line.points.length);
}

/** The ticks of the x axis and their words; time in one unit. */
function ticks_of_x(most, count) {
  if (state.axis !== "seconds") return nice_ticks(0, most, count).map((x) => [x, short(x)]);
  const unit = unit_of(most);
  return nice_ticks(0, most / unit[0], count).map((x) => [x * unit[0], time(x * unit[0], unit)]);
}

const path = (points) => "M" + points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L");

/** Draw a number into a panel: its name and what the pointer is at, then the chart. */
function chart(panel, name, height, lines = lines_of(name)) {
  const reading = el("span", {}), several = DATA.groups.length > 1;
  panel.replaceChildren(el("div", { class: "bar" }, el("b", {}, name), reading));
  if (!lines.length) return panel.append(el("p", { class: "note" }, "not logged"));
  const width = Math.max(panel.clientWidth, 200), left = 44, top = 8;
  const named = several && width > 700, right = named ? 120 : several ? 24 : 46;
  const inner = width - left - right, below = height - 24;
  const points = lines.flatMap((line) => line.points);
  const x1 = Math.max(...points.map((p) => p.x)) || 1;
  const [y0, y1] = extent(points.flatMap((p) => known([p.y, p.low ?? null, p.high ?? null])));
  const at = (x, y) =>
    [left + inner * x / x1, top + (below - top) * (y1 - y) / (y1 - y0)];
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img",
    "aria-label": `${name} over ${AXES[state.axis]}` });
  for (const y of nice_ticks(y0, y1, height > 200 ? 5 : 4)) {
    const up = at(0, y)[1];
    drawing.append(svg("path", { class: "grid", d: `M${left},${up}H${left + inner}` }),
      svg("text", { x: left - 6, y: up + 4, "text-anchor": "end" }, short(y)));
  }
  for (const [x, words] of ticks_of_x(x1, inner > 500 ? 8 : 3))
    drawing.append(svg("text", { x: at(x, 0)[0], y: height - 8, "text-anchor": "middle" }, words));
  for (const line of lines) draw_line(drawing, line, at);
  label_ends(drawing, lines, at, several && !named);
  follow_pointer(drawing, lines, at, reading, [top, below]);
  panel.append(drawing);
}

function draw_line(drawing, { index, points }, at) {
  const color = `var(--s${index % 6})`, banded = points.filter((p) => p.high !== undefined);
  if (banded.length > 1) {
    const edge = [...banded.map((p) => at(p.x, p.high)),
      ...banded.toReversed().map((p) => at(p.x, p.low))];
    drawing.append(svg("path", { d: path(edge) + "Z", fill: color, opacity: 0.18 }));
  }
  const places = points.map((p) => at(p.x, p.y));
  drawing.append(svg("path", { class: "curve", d: path(places), stroke: color,
    "stroke-dasharray": index > 5 ? "6 4" : null }));
  if (points.length < 12) for (const [cx, cy] of places)
    drawing.append(svg("circle", { cx, cy, r: 2.75, fill: color }));
}

/** Behind the end of each line its last value, and of several the runs; none over another. */
function label_ends(drawing, lines, at, silent) {
  const ends = lines.map(({ index, points }) => ({ index, value: points.at(-1).y,
    place: at(points.at(-1).x, points.at(-1).y) })).sort((a, b) => a.place[1] - b.place[1]);
  let free = -Infinity;
  for (const { index, value, place: [x, y] } of silent ? [] : ends) {
    free = Math.max(y + 4, free + 13);
    const { runs } = DATA.groups[index], several = DATA.groups.length > 1;
    const words = several ? ` ${runs[0]}${runs.length > 1 ? " \u2026" : ""}`.slice(0, 16) : "";
    drawing.append(svg("text", { x: x + 6, y: free, class: "strong halo",
      style: several ? `fill: var(--s${index % 6})` : null }, show(value) + words));
  }
}

/** The nearest point of every line beside the panel's name. */
function follow_pointer(drawing, lines, at, reading, [top, below]) {
  const mark = svg("path", { class: "grid", visibility: "hidden" });
  const rest = () => { mark.setAttribute("visibility", "hidden"); reading.textContent = ""; };
  drawing.append(mark);
  drawing.addEventListener("pointerleave", rest);
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect(), x = event.clientX - box.left;
    const near = lines.map((line) => line.points.reduce((best, p) =>
      Math.abs(at(p.x, 0)[0] - x) < Math.abs(at(best.x, 0)[0] - x) ? p : best));
    mark.setAttribute("d", `M${at(near[0].x, 0)[0]},${top}V${below}`);
    mark.setAttribute("visibility", "visible");
    reading.textContent = `step ${near[0].step}: ` + near.map((p) => show(p.y) +
      (p.high === undefined ? "" : ` (${show(p.low)} to ${show(p.high)})`)).join(" | ");
  });
}

function render_curves() {
  chart($("hero"), state.metric, innerWidth > 700 ? 320 : 240);
  const names = Object.keys(Object.assign({}, ...DATA.groups.map((group) => group.curves)));
  const wanted = PANELS.flatMap((panel) => names.filter((name) => panel.endsWith("@")
    ? name.startsWith(panel) && !name.endsWith("_se") : name === panel));
  const panels = wanted.filter((name) => name !== state.metric).map(() =>
    el("div", { class: "panel" }));
  $("panels").replaceChildren(...panels);
  wanted.filter((name) => name !== state.metric).forEach((name, k) => chart(panels[k], name, 150));
  const { step, loss } = run().cold;
  if (!step.length || state.axis !== "step") return;
  const points = step.map((at, k) => ({ step: at, x: at, y: loss[k] }));
  const panel = $("panels").appendChild(el("div", { class: "panel" }));
  chart(panel, "loss of the cold start", 150, [{ index: state.run, points }]);
}
