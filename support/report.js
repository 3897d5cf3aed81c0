// The page of report.py, second half: tree, tokens, tables, switches.

// ---- tree

const run = () => DATA.runs[state.run];
const tree = () => run().trees[state.tree];
const row_of = (index) => tree().rows.find((row) => row.index === index);
const branches_of = (index) => tree().rows.filter((row) => row.parent === index)
  .sort((a, b) => a.fork_at - b.fork_at || a.index - b.index);
const text_of = (row, k) => run().texts[row.tokens[k]] ?? "";
/** The place of a row's first token: the page holds a branch from its fork on. */
const begin_of = (row) => row.parent === null ? 0 : row.fork_at;
const length_of = (row) => begin_of(row) + row.tokens.length;

/** The colour of a reward among those of the run's trees. */
function reward_color(reward) {
  const [low, high] = run().range;
  if (reward === null || high === low) return "var(--high)";
  const part = Math.round(100 * (reward - low) / (high - low));
  return `color-mix(in oklab, var(--high) ${part}%, var(--low))`;
}

/** Stretches of tokens that are all the policy's or all a tool's: [first, end, "1" or "0"]. */
function stretches(row) {
  const first = begin_of(row);
  return [...row.mask.matchAll(/1+|0+/g)].map((found) =>
    [first + found.index, first + found.index + found[0].length, found[0][0]]);
}

function render_tree() {
  const family = (row) => [row, ...branches_of(row.index).toReversed().flatMap(family)];
  const order = tree().rows.filter((row) => row.parent === null).flatMap(family);
  const width = Math.max($("tree").clientWidth, 280), left = 26, right = 44, gap = 21;
  const count = Math.max(...tree().rows.map(length_of), 1), height = order.length * gap + 44;
  const x = (t) => left + (width - left - right) * t / count;
  const y = (row) => 26 + order.indexOf(row) * gap;
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, height });
  for (const t of nice_ticks(0, count, width > 700 ? 8 : 4))
    drawing.append(svg("path", { class: "grid", d: `M${x(t)},14V${height - 26}` }),
      svg("text", { x: x(t), y: height - 10, "text-anchor": "middle" }, short(t)));
  drawing.append(svg("text", { x: left, y: 8 }, "tokens"),
    svg("text", { x: width, y: 8, "text-anchor": "end" }, "reward"));
  for (const row of order) if (row.parent !== null)
    drawing.append(svg("path", { class: "curve", stroke: "var(--mark)", "stroke-opacity": 0.55,
      d: `M${x(row.fork_at)},${y(row_of(row.parent))}V${y(row)}` }));
  for (const row of order) drawing.append(tree_row(row, x, y(row), width));
  $("tree").replaceChildren(drawing);
}

function tree_row(row, x, y, width) {
  const branch = row.parent !== null, color = reward_color(row.reward);
  const lines = stretches(row).map(([first, end, own]) => svg("path", {
    class: own === "1" ? "policy" : "tool", d: `M${x(first)},${y}H${x(end)}`,
    stroke: own === "1" ? color : "var(--grey)", "stroke-width": own === "1" ? 4 : 2 }));
  const points = [...new Set(branches_of(row.index).map((b) => b.fork_at))].map((t) =>
    svg("circle", { cx: x(t), cy: y, r: 3.5, fill: "var(--mark)", stroke: "var(--paper)" }));
  if (branch) points.push(svg("text", { x: x(row.fork_at) + 5, y: y - 4, class: "halo" },
    visible(text_of(row, 0)).trim().slice(0, 18)));
  const words = `${branch ? "branch" : "rollout"} ${row.index}, reward ${plain(row.reward)}`;
  const choose = () => {
    choose_rollout(row);
    document.querySelector("#tokens .chosen").scrollIntoView({ behavior: "smooth" });
  };
  return svg("g", { class: "row" + (row.index === state.rollout ? " chosen" : ""), tabindex: 0,
    role: "button", "aria-label": words, "data-index": row.index, onclick: choose,
    onkeydown: (event) => { if (event.key === "Enter") choose(); } },
    svg("title", {}, `${words}, ended by ${row.finish}`),
    svg("rect", { x: branch ? x(row.fork_at) : 0, y: y - 10, height: 20, fill: "transparent",
      width: width - (branch ? x(row.fork_at) : 0) }),
    lines, points,
    branch ? null : svg("text", { x: 0, y: y + 4, class: "strong" }, String(row.index)),
    svg("text", { x: width, y: y + 4, "text-anchor": "end", class: "strong", style:
      `fill: ${color}` }, plain(row.reward)));
}

function choose_rollout(row) {
  state.rollout = row.index;
  document.querySelectorAll("#tree .row").forEach((node) =>
    node.classList.toggle("chosen", +node.dataset.index === row.index));
  render_tokens();
}

/** How many branches of a tree earn another reward than their parent. */
const changes = ({ rows }) => rows.filter((row) => row.parent !== null &&
  row.reward !== rows.find((other) => other.index === row.parent).reward).length;

function choose_tree(place, rollout = null) {
  state.tree = place;
  const all = run().trees, step = tree().step;
  const steps = [...new Set(all.map((other) => other.step))];
  state.rollout = rollout ?? tree().rows[0].index;
  $("step").max = steps.length - 1;
  $("step").value = steps.indexOf(step);
  $("step-name").textContent = step;
  fill_select($("prompt"), all.map((other, k) => [k, other]).filter(([, o]) => o.step === step)
    .map(([k, other]) => [k, String(other.group)]), place);
  const { logged } = run().counts;
  $("tree-note").textContent = `Lines are rollouts; dots on them are decision points, where ` +
    `branches leave. A branch begins with the token that was drawn there anew. Grey: results of ` +
    `tools. Choose a line to read it below. The page opens with the tree where most branches ` +
    `changed the reward, the newest of those. ` + (all.length < logged ?
    `To keep this page small it holds ${all.length} of ${logged} logged trees.` : "");
  $("prompt-text").textContent = tree().prompt;
  render_tree();
  render_tokens();
}

// ---- tokens

/** Colour and strength, in percent, of a token's number. */
function tint(value, name, most) {
  const middle = PAINTS[name], far = value - (middle ?? 0);
  const color = far < 0 ? "var(--low)" : middle === null ? "var(--mark)" : "var(--high)";
  return [color, Math.min(60, Math.round(60 * Math.abs(far) / most))];
}

/** The farthest from the middle of the scale, over the tree. */
function reach() {
  const name = state.paint, middle = PAINTS[name] ?? 0;
  const far = tree().rows.flatMap((row) => known(row[name]).map((x) => Math.abs(x - middle)));
  return far.reduce((most, x) => Math.max(most, x), 0) || 1;
}

/** Tokens first to end of a rollout, by their place in the whole. forks: t -> branches' numbers. */
function token_box(row, first, forks = {}, limit = SHOWN_TOKENS) {
  const begin = begin_of(row), most = reach();
  const box = el("div", { class: "tokens" }), end = begin + row.tokens.length;
  for (let t = first; t < Math.min(end, first + limit); t++)
    box.append(...token(row, t, t - begin, forks[t], most));
  if (first >= end) box.append("(ends here)");
  if (end > first + limit) box.append(el("button", { type: "button",
    onclick: () => box.replaceWith(token_box(row, first, forks, Infinity)) },
    `${end - first - limit} more tokens`));
  return box;
}

function token(row, t, k, forks, most) {
  const own = row.mask[k] === "1", value = own && row[state.paint] ? row[state.paint][k] : null;
  const [color, strength] = value === null ? [null, 0] : tint(value, state.paint, most);
  const text = text_of(row, k), parts = text.split("\n");
  const node = el("span", { class: [own ? "" : "tool", forks ? "fork" : ""].join(" ").trim(),
    "data-row": row.index, "data-k": k, "data-t": t, tabindex: forks ? 0 : null,
    style: strength ? `--tint: ${color}; --share: ${strength}%` : null },
    parts.flatMap((part, n) => n ? [el("i", { class: "space" }, "\u21b5"), "\n", part] : [part]));
  return forks ? [node, el("sup", {}, forks.join(","))] : [node];
}

function read_token(event) {
  const { row: index, k, t } = event.target.closest?.("span[data-k]")?.dataset ?? {};
  if (k === undefined) return;
  const row = row_of(+index);
  const numbers = row.mask[k] === "0" ? ["result of a tool"] : Object.keys(PAINTS).filter((name) =>
    row[name]).map((name) => `${name} ${show(row[name][k])}`);
  const text = JSON.stringify(text_of(row, +k));
  $("reading").textContent = `token ${t} ${text}: ${numbers.join(", ")}`;
}

function calls_table(calls) {
  const rows = calls.map(([name, argument, status, seconds]) => el("tr", {},
    cells("td", [name, quoted(argument), status, seconds === null ? "" : time(seconds)], 3)));
  return el("div", { class: "scroll" },
    table(cells("th", ["tool", "argument", "status", "seconds"], 3), rows));
}

function render_tokens() {
  const chosen = row_of(state.rollout);
  const parent = chosen.parent === null ? chosen : row_of(chosen.parent);
  const branches = branches_of(parent.index), forks = {};
  for (const branch of branches) (forks[branch.fork_at] ||= []).push(branch.index);
  fill_select($("rollout"), tree().rows.map((row) => [row.index, row.parent === null ?
    `${row.index}, reward ${plain(row.reward)}` :
    `${row.index}, branch of ${row.parent} at ${row.fork_at}`]), state.rollout);
  render_scale();
  $("reading").textContent = "Point at a token to read its numbers.";
  $("tokens").replaceChildren(
    el("h3", { class: parent === chosen ? "chosen" : null },
      `Rollout ${parent.index}: reward ${plain(parent.reward)}, ` +
      `${length_of(parent)} tokens, ended by ${parent.finish}`),
    token_box(parent, begin_of(parent), forks),
    parent.calls.length ? calls_table(parent.calls) : "",
    ...branches.map((branch) => pair(parent, branch)));
}

/** A branch beside its parent, both from the fork on. */
function pair(parent, branch) {
  const t = branch.fork_at, numbers = Object.keys(PAINTS).slice(0, 3).filter((name) =>
    parent[name]).map((name) => `${name} ${show(parent[name][t - begin_of(parent)])}`);
  const here = { [t]: [branch.index] };
  const before = text_of(parent, t - begin_of(parent));
  const title = el("h3", {}, `Branch ${branch.index} at token ${t}: `, quoted(before),
    ` ${ARROW} `, quoted(text_of(branch, 0)),
    `, reward ${plain(parent.reward)} ${ARROW} ${plain(branch.reward)}; ${numbers.join(", ")}`);
  return el("div", { class: "pair" + (branch.index === state.rollout ? " chosen" : "") }, title,
    el("div", {}, el("span", { class: "note" }, `rollout ${parent.index}`),
      token_box(parent, t, here)),
    el("div", {}, el("span", { class: "note" }, `branch ${branch.index}` +
      (state.paint === "entropy" ? "" : `: branches have no ${state.paint}`)),
      token_box(branch, t, here)));
}

function render_scale() {
  const middle = PAINTS[state.paint], most = reach(), mix = (color) =>
    `color-mix(in srgb, var(--${color}) 60%, transparent)`;
  const stops = middle === null ? `transparent, ${mix("mark")}` :
    `${mix("low")}, transparent, ${mix("high")}`;
  $("paint-scale").replaceChildren(show(middle === null ? 0 : middle - most, 2), " ",
    el("span", { class: "scale", style: `background: linear-gradient(90deg, ${stops})` }), " ",
    show((middle ?? 0) + most, 2));
}

// ---- tables

// name of a column, its key, its class (wide: left out on a small screen), how a cell is shown
const COLUMNS = [
  ["step", "step", "left", (p) => p.step],
  ["prompt", "group", "wide", (p) => p.group],
  ["token", "fork_at", "wide", (p) => p.fork_at],
  ["before", "before", "left", (p) => quoted(p.before)],
  ["after", "after", "left", (p) => quoted(p.after)],
  ["reward", "gain", null, (p) => el("span", { class: p.gain > 0 ? "up" : p.gain < 0 ? "down" :
    null }, `${plain(p.reward)} ${ARROW} ${plain(p.earned)}`)],
  ["entropy", "entropy", null, (p) => show(p.entropy)],
  ["Omega", "omega", null, (p) => show(p.omega)],
  ["score", "score", null, (p) => show(p.score, 2)],
];
const FILTERS = { "the reward changed": (p) => p.gain, "another token was drawn": (p) => !p.same,
  "no fillers": (p) => !p.filler };

function render_points() {
  const { points, counts } = run(), column = COLUMNS.find(([, key]) => key === state.sort);
  const fit = points.filter((p) => [...state.filters].every((name) => FILTERS[name](p)));
  const order = (a, b) => a === b ? 0 : a === null ? 1 : b === null ? -1 :
    (a < b) === state.down ? 1 : -1;
  fit.sort((a, b) => order(a[column[1]], b[column[1]]));
  const shown = state.all ? fit : fit.slice(0, SHOWN_ROWS);
  const head = COLUMNS.map(([words, key, kind]) => el("th", { class: kind },
    el("button", { type: "button", "aria-pressed": key === state.sort, onclick: () => {
      state.down = key === state.sort ? !state.down : key !== "step";
      state.sort = key;
      render_points();
    } }, words)));
  const rows = shown.map((p) => el("tr", {}, COLUMNS.map(([, key, kind, cell]) =>
    el("td", { class: kind }, key === "step" ? link_to(p) : cell(p)))));
  $("points").replaceChildren(table(head, rows), shown.length < fit.length ? el("p", {},
    el("button", { type: "button", onclick: () => { state.all = true; render_points(); } },
      `show all ${fit.length}`)) : "");
  $("points-note").textContent = `${fit.length} branch points. Before: the token of the parent ` +
    `and its reward; after: those of the branch. Choose a step to see the tree.` +
    (points.length < counts.points ? ` Evenly chosen from ${counts.points}.` : "");
}

/** The step of a branch point; a button where the page holds its tree. */
function link_to(point) {
  const place = run().trees.findIndex((t) => t.step === point.step && t.group === point.group);
  if (place < 0) return String(point.step);
  return el("button", { type: "button", onclick: () => {
    choose_tree(place, point.index);
    $("trees").scrollIntoView();
  } }, String(point.step));
}

function render_branches() {
  const { classes: { filler, content }, words } = run();
  const all = Object.fromEntries(Object.keys(filler).map((k) => [k, filler[k] + content[k]]));
  $("same").textContent = `Of ${all.branches} branches, ${share(all.same / all.branches)} drew ` +
    `the same token again as their parent. ${share(filler.branches / all.branches)} start at a ` +
    `filler, ${share(content.branches / all.branches)} at content.`;
  const rows = Object.entries({ fillers: filler, content, all }).map(([name, n]) =>
    el("tr", {}, cells("td", [name, n.branches, ...[n.same, n.changed].map((part) =>
      n.branches ? `${part} (${share(part / n.branches)})` : "0")])));
  $("classes").replaceChildren(table(cells("th", ["token before", "branches",
    "same token again", "reward changed"]), rows));
  const most = Math.sqrt(words[0]?.[1] ?? 1);
  $("cloud").replaceChildren(...words.map(([word, n, is_filler]) =>
    el("span", { class: is_filler ? "filler" : null,
      style: `font-size: ${(12 + 34 * Math.sqrt(n) / most).toFixed(1)}px` },
    visible(word), el("small", {}, String(n)))));
  for (const point of run().points) point.gain = point.earned - point.reward;
  render_points();
}

function render_tools() {
  const { tools, counts } = run();
  const status = [...new Set(tools.flatMap((tool) => Object.keys(tool.status)))];
  $("calls-note").textContent = `Calls of the logged trees (${counts.read} read), those that a ` +
    `branch has from its parent counted once. p50: the median; p95: 95 of 100 take no longer.`;
  $("tools").replaceChildren(table(
    cells("th", ["tool", "calls", ...status, "p50", "p95"]),
    tools.map((tool) => el("tr", {}, cells("td", [tool.tool, tool.calls,
      ...status.map((word) => share(tool.status[word] ?? 0)),
      ...[tool.p50, tool.p95].map((x) => x === null ? "" : time(x))])))));
}

// ---- the page

function render_head() {
  document.title = `Run ${DATA.groups.map((group) => group.runs.join(", ")).join("; ")}`;
  $("made").textContent = `${document.title}. Made ${DATA.made}.`;
  $("headline").textContent = DATA.headline;
  $("legend").replaceChildren(...(DATA.runs.length < 2 ? [] : DATA.groups.map((group, k) =>
    el("li", {}, el("span", { class: "key", style: `color: var(--s${k % 6})` }),
      ...legend_of(group)))));
  const when = {};
  for (const { first, last, text } of run().alarms)
    (when[text] ||= []).push(first === last ? first : `${first} to ${last}`);
  const alarms = Object.entries(when).map(([text, steps]) =>
    el("li", {}, `Alarm at step ${steps.join(", ")}: ${text}`));
  $("alarms").replaceChildren(alarms.length ? el("ul", { class: "alarms" }, alarms) :
    el("p", { class: "note" }, "No alarms."));
  $("config").textContent = JSON.stringify(run().config, null, 2);
  $("fillers").textContent = "Punctuation or white space alone, or one of these words, whatever " +
    `its case: ${DATA.fillers.join(", ")}. All other tokens are content.`;
}

// the end of a path says more than its beginning
function short(value) {
  const text = JSON.stringify(value ?? null);
  return text.length < 32 ? text : `...${text.slice(-28)}`;
}

function legend_of({ runs, seeds, differs, headline }) {
  const all = Object.entries(differs), settings = all.slice(0, 4);
  const band = runs.length > 1 ? `, seeds ${seeds.join(", ")}: mean, band from lowest to ` +
    "highest, over the steps that all have" : "";
  const other = settings.map(([key, value]) => `${key} ${short(value)}`).join(", ") +
    (all.length > settings.length ? `, and ${all.length - settings.length} more settings` : "");
  return [el("b", {}, runs.join(", ")), DATA.groups.length > 1 ? `${band}. ${headline}` : band,
    el("span", { class: "note" }, other ? ` ${other}` : "")];
}

function render_run() {
  Object.assign(state, { all: false });
  const { trees, counts } = run();
  const rewards = known(trees.flatMap((t) => t.rows.map((row) => row.reward)));
  run().range = [Math.min(...rewards), Math.max(...rewards)];
  $("trees").hidden = !trees.length;
  $("branches").hidden = $("words").hidden = !counts.points;
  $("calls").hidden = !run().tools.length;
  render_head();
  render_curves();
  if (run().tools.length) render_tools();
  if (counts.points) render_branches();
  if (!trees.length) return;
  const [low, high] = run().range;
  $("reward-scale").replaceChildren(`reward ${plain(low)} `, el("span", { class: "scale", style:
    "background: linear-gradient(90deg in oklab, var(--low), var(--high))" }), ` ${plain(high)}`);
  choose_tree(trees.indexOf(trees.toReversed().reduce((best, t) =>
    changes(t) > changes(best) ? t : best)));
}

function dress(theme) {
  const wished = matchMedia("(prefers-color-scheme: dark)").matches;
  const dark = theme === "dark" || theme === "auto" && wished;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  document.documentElement.style.colorScheme = dark ? "dark" : "light";
}

function begin() {
  const names = Object.keys(Object.assign({}, ...DATA.groups.map((group) => group.curves)));
  fill_switch($("theme"), { auto: "auto", light: "light", dark: "dark" }, "auto", (theme) => {
    state.theme = theme;
    dress(theme);
  });
  dress(state.theme = "auto");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dress(state.theme));
  fill_switch($("axis"), AXES, "step", (axis) => { state.axis = axis; render_curves(); });
  fill_switch($("paint"), Object.fromEntries(Object.keys(PAINTS).map((name) => [name, name])),
    "entropy", (name) => { state.paint = name; render_tokens(); });
  fill_select($("metric"), names.sort().map((name) => [name, name]), state.metric);
  $("metric").onchange = () => { state.metric = $("metric").value; render_curves(); };
  fill_select($("run"), DATA.runs.map((one, k) => [k, one.name]), 0);
  $("pick-run").hidden = DATA.runs.length < 2;
  $("run").onchange = () => { state.run = +$("run").value; render_run(); };
  $("step").oninput = () => {
    const steps = [...new Set(run().trees.map((t) => t.step))];
    choose_tree(run().trees.findIndex((t) => t.step === steps[$("step").value]));
  };
  $("prompt").onchange = () => choose_tree(+$("prompt").value);
  $("rollout").onchange = () => choose_rollout(row_of(+$("rollout").value));
  for (const kind of ["pointerover", "focusin", "click"])
    $("tokens").addEventListener(kind, read_token);
  $("filters").replaceChildren("only where", ...Object.keys(FILTERS).map((name) =>
    el("label", {}, el("input", { type: "checkbox", onchange: (event) => {
      state.filters[event.target.checked ? "add" : "delete"](name);
      render_points();
    } }), name)));
  render_run();
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    render_curves();
    if (run().trees.length) render_tree();
  });
}

begin();
