"use strict";
// One page for ganformer watch, which asks its server, and for report.html, which holds one run.
const $ = id => document.getElementById(id);
const text = $("data").textContent, report = text ? JSON.parse(text) : null;
const COLOURS = ["#2f7fd6", "#e07b00", "#1f9d61", "#c9417a", "#8a5bd6", "#00a0b0", "#b08900", "#8c6a55"];
const HIDDEN = new Set(["tick", "kimg", "seconds", "sec_per_kimg"]);
// In this order; others come last, under their own names.
const TITLES = {
  loss_g: "Generator loss", loss_d: "Discriminator loss", r1: "R1 penalty", r2: "R2 penalty", path_length: "Path length",
  loss_codes: "Loss of the codes", commitment: "Commitment", score_real: "Discriminator on reals", score_fake: "Discriminator on fakes",
  sign_real: "Sign of D on reals", augment_p: "Augmentation p", diversity: "Diversity of samples", grad_norm_g: "Gradient norm of G",
  grad_norm_d: "Gradient norm of D", images_per_second: "Images per second", memory_mib: "Memory, MiB", gpu_memory_mib: "GPU memory, MiB",
};
const BETTER = { lower: "lower is better", higher: "higher is better", one: "nearer to 1 is better" };
const state = {
  runs: report ? [report] : [], data: new Map(report ? [[report.name, report]] : []), shown: report ? report.name : null,
  overlaid: [], chosen: new Set(), zoom: null, at: null, charts: new Map(), wide: new Set(), single: Boolean(report), playing: 0,
};

// ----- Small things -----

function make(tag, content, more, ...children) {
  const node = Object.assign(document.createElement(tag), more);
  if (content != null) node.textContent = content;
  node.append(...children);
  return node;
}
function put(node, content) { if (node.textContent !== content) node.textContent = content; }
function number(value) {
  if (value == null) return "";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e7) return String(value);
  return size >= 1e5 || size < 1e-3 ? value.toPrecision(3) : String(Number(value.toPrecision(4)));
}
function duration(seconds) {
  if (seconds == null) return "";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  return days ? `${days} d ${hours % 24} h` : hours ? `${hours} h ${minutes % 60} min` : `${minutes} min`;
}
function ago(run) {
  if (run.updated == null) return "";
  const seconds = Math.max(0, Date.now() / 1000 - run.updated);
  return report ? "" : `updated ${duration(seconds)} ago`;
}
const progress = run => run.kimg == null ? "" : `${number(run.kimg)}${run.total_kimg == null ? "" : ` of ${number(run.total_kimg)}`} kimg`;
const share = run => run.kimg != null && run.total_kimg ? Math.min(100, 100 * run.kimg / run.total_kimg) : 0;
const address = (kind, run, file) => report ? report.images[file] ?? "" : `${kind}/${encodeURIComponent(run)}/${encodeURIComponent(file)}`;
async function get(path) {
  const reply = await fetch(path);
  if (!reply.ok) throw Object.assign(new Error((await reply.json()).error), { status: reply.status });
  return reply.json();
}
function say(message) { $("message").hidden = !message; put($("message"), message ?? ""); }
function badge(node, run) {
  node.className = `badge ${run.state}`;
  put(node, report && run.state === "running" ? "was running" : run.state);
}

// ----- Where the page is: #run=NAME&with=NAME -----

function readPlace() {
  if (report) return;
  const place = new URLSearchParams(location.hash.slice(1)), before = state.shown;
  state.shown = place.get("run") ?? (state.single && state.runs.length ? state.runs[0].name : null);
  state.overlaid = [...new Set(place.getAll("with"))].filter(name => name !== state.shown);
  if (state.shown !== before) { state.zoom = state.at = null; stopPlaying(); }
}
function link(run, overlaid = []) {
  const place = new URLSearchParams({ run });
  for (const name of overlaid) place.append("with", name);
  return `#${place}`;
}

// ----- The table -----

const rows = new Map();
function makeRow(name) {
  const box = make("input", null, { type: "checkbox", ariaLabel: `Compare ${name}` });
  box.onchange = () => { state.chosen[box.checked ? "add" : "delete"](name); showChosen(); };
  const image = make("img", null, { alt: "", loading: "lazy", hidden: true });
  const row = make("tr"), anchor = make("a", name, { href: link(name) });
  const cell = (className, ...children) => { const node = make("td", null, { className }, ...children); row.append(node); return node; };
  cell("", box);
  cell("", image);
  const note = make("small");
  cell("name", anchor, note);
  const mark = make("span");
  cell("", mark);
  const fill = make("span"), label = make("small", null, { className: "soft" });
  cell("progress", make("div", null, { className: "meter" }, fill), label);
  return { row, box, image, note, mark, fill, label, speed: cell("number speed"), left: cell("number left"), scores: cell("scores") };
}
function scoreLines(run) {
  return Object.entries(run.scores).map(([name, score]) => make("div", null, {}, `${name} `, make("b", number(score.last)), make("span", ` best ${number(score.best)}`)));
}
function showTable() {
  const words = $("filter").value.trim().toLowerCase().split(/\s+/), by = $("sort").value;
  const first = run => {
    const score = Object.values(run.scores)[0];
    return !score ? Infinity : score.better === "higher" ? -score.best : score.better === "one" ? Math.abs(score.best - 1) : score.best;
  };
  const order = {
    name: (a, b) => a.name.localeCompare(b.name), updated: (a, b) => (b.state === "running") - (a.state === "running") || (b.updated ?? 0) - (a.updated ?? 0),
    best: (a, b) => first(a) === first(b) ? 0 : first(a) - first(b),
  }[by] ?? ((a, b) => (b[by] ?? -1) - (a[by] ?? -1));
  const shown = state.runs.filter(run => words.every(word => `${run.name} ${run.state}`.toLowerCase().includes(word))).sort(order);
  for (const run of shown) {
    if (!rows.has(run.name)) rows.set(run.name, makeRow(run.name));
    const row = rows.get(run.name), source = run.sample && address("thumbnail", run.name, run.sample);
    row.box.checked = state.chosen.has(run.name);
    row.image.hidden = !source;
    if (source && row.image.getAttribute("src") !== source) row.image.src = source;
    put(row.note, [run.samples ? `${run.samples} ${run.samples === 1 ? "grid" : "grids"} of samples` : "", ago(run)].filter(Boolean).join(", "));
    badge(row.mark, run);
    row.mark.title = run.reason ?? "";
    row.fill.style.width = `${share(run)}%`;
    put(row.label, progress(run) || "not begun");
    put(row.speed, run.images_per_second == null ? "" : number(Number(run.images_per_second.toPrecision(3))));
    put(row.left, duration(run.seconds_left));
    const scores = JSON.stringify(run.scores);
    if (row.written !== scores) { row.written = scores; row.scores.replaceChildren(...scoreLines(run)); }
  }
  const body = $("runs").tBodies[0], wanted = shown.map(run => rows.get(run.name).row);
  if (wanted.length !== body.rows.length || wanted.some((row, i) => row !== body.rows[i])) {
    const focused = document.activeElement;
    body.replaceChildren(...wanted);
    if (focused && body.contains(focused)) focused.focus();
  }
  $("runs").hidden = !shown.length;
  put($("count"), state.runs.length ? `${shown.length === state.runs.length ? "" : `${shown.length} of `}${state.runs.length} runs` : "");
  $("none").hidden = shown.length > 0;
  put($("none"), state.runs.length ? "No run has this name or state." : "No runs yet; ganformer train begins one.");
  showChosen();
}
function showChosen() {
  for (const name of state.chosen) if (!state.runs.some(run => run.name === name)) state.chosen.delete(name);
  $("compare").disabled = state.chosen.size < 2;
}
$("compare").onclick = () => { const [first, ...others] = state.chosen; location.hash = link(first, others); };

// ----- One run -----

function showRun() {
  const run = state.data.get(state.shown);
  if (!run) return;
  document.title = `${run.name} – ganformer`;
  put($("name"), run.name);
  badge($("state"), run);
  $("reason").hidden = !run.reason;
  put($("reason"), run.reason ?? "");
  $("progress").firstElementChild.style.width = `${share(run)}%`;
  const facts = [
    ["Progress", progress(run), share(run) ? `${Math.floor(share(run))} %` : ""],
    ["Speed", run.images_per_second == null ? "" : `${number(Number(run.images_per_second.toPrecision(3)))} images/s`],
    ["Trained for", duration(run.seconds)], ["Time left", duration(run.seconds_left)],
    ...Object.entries(run.scores).map(([name, score]) => [name, number(score.last), `best ${number(score.best)}${score.best_kimg == null ? "" : ` at ${number(score.best_kimg)} kimg`}`]),
  ].filter(fact => fact[1]);
  const written = JSON.stringify(facts);
  if ($("facts").dataset.written !== written) {
    $("facts").dataset.written = written;
    $("facts").replaceChildren(...facts.map(([name, value, more]) => make("div", null, {}, make("dt", name), make("dd", value, {}, make("small", more ? ` ${more}` : "")))));
  }
  showSamples();
  showOthers();
  showCurves();
  showSettings();
  showLog(run);
}

// Samples through time.

function nearest(files, kimg) {
  return files.reduce((best, file) => !best || Math.abs(file[0] - kimg) < Math.abs(best[0] - kimg) ? file : best, null);
}
function showSamples() {
  const run = state.data.get(state.shown), fakes = run.files.fakes, slider = $("slider");
  slider.max = String(Math.max(0, fakes.length - 1));
  if (state.at == null || state.at > slider.max) slider.value = slider.max; else slider.value = String(state.at);
  slider.disabled = $("play").disabled = fakes.length < 2;
  const at = fakes[Number(slider.value)];
  const label = at ? `${number(at[0])} kimg${Number(slider.value) === fakes.length - 1 ? ", newest" : ""}` : "none yet";
  put($("at"), label);
  slider.setAttribute("aria-valuetext", label);
  put($("samplesNote"), report && report.left_out ? `This file holds ${fakes.length} of ${fakes.length + report.left_out} snapshots; ganformer watch shows all of them.` : "");
  const attention = at && run.files.attention.find(file => file[0] === at[0]), reals = run.files.reals[0];
  const images = [];
  if (at) images.push([run.name, "Fakes", at[1]]);
  if (reals) images.push([run.name, "Reals", reals[1]]);
  if (attention) images.push([run.name, "Attention: which component each pixel attends to most", attention[1]]);
  if (at) for (const name of state.overlaid) {
    const other = state.data.get(name), file = other && nearest(other.files.fakes, at[0]);
    if (file) images.push([name, `Fakes of ${name} at ${number(file[0])} kimg`, file[1]]);
  }
  const figures = [...$("samples").children];
  while (figures.length > images.length) figures.pop().remove();
  images.forEach(([name, title, file], i) => {
    let figure = figures[i];
    if (!figure) {
      const image = make("img");
      image.onload = () => image.classList.toggle("pixelated", image.naturalWidth < image.clientWidth);
      const button = make("button", null, { type: "button" }, image);
      button.onclick = () => enlarge(image);
      figure = make("figure", null, {}, make("figcaption"), button);
      $("samples").append(figure);
    }
    const image = figure.querySelector("img"), source = address("sample", name, file);
    figure.className = title.startsWith("Attention") ? "tall" : "";
    put(figure.firstElementChild, title);
    image.alt = `${title} (${name})`;
    if (image.getAttribute("src") !== source) image.src = source;
  });
  const legend = attention ? run.components : [];
  if ($("legend").childElementCount !== legend.length) {
    $("legend").replaceChildren(...legend.map((colour, i) => {
      const swatch = make("span", null, { className: "swatch" });
      swatch.style.background = colour;
      return make("span", null, {}, swatch, `component ${i}`);
    }));
  }
}
function enlarge(image) {
  $("largeImage").src = image.src;
  $("largeImage").alt = image.alt;
  $("largeImage").className = image.className;
  $("large").showModal();
}
function move(to) {
  const last = Number($("slider").max);
  state.at = to >= last ? null : to;
  showSamples();
}
function stopPlaying() { clearInterval(state.playing); state.playing = 0; put($("play"), "Play"); }
$("slider").oninput = () => { stopPlaying(); move(Number($("slider").value)); };
$("play").onclick = () => {
  if (state.playing) return stopPlaying();
  if (state.at == null) move(0);
  put($("play"), "Stop");
  state.playing = setInterval(() => { move((state.at ?? 0) + 1); if (state.at == null) stopPlaying(); }, 400);
};

// Curves.

function smooth(values, weight) {
  // Of Adam's kind: the first values count in full, so that a curve begins where it does.
  let mean = 0, mass = 0;
  return values.map(value => {
    if (value == null) return null;
    mean = weight * mean + (1 - weight) * value;
    mass = weight * mass + 1 - weight;
    return mean / mass;
  });
}
function curvesOf(run) {
  const curves = new Map();
  for (const [table, isScore] of [[run.metrics, true], [run.log, false]]) {
    const kimg = table.columns.kimg ?? [];
    for (const [name, values] of Object.entries(table.columns)) if (!HIDDEN.has(name) || name === "sec_per_kimg") {
      const speed = name === "sec_per_kimg", key = speed ? "images_per_second" : isScore ? `score ${name}` : name, points = [[], []];
      values.forEach((value, i) => {
        if (value == null || kimg[i] == null || (speed && value <= 0)) return;
        points[0].push(kimg[i]);
        points[1].push(speed ? 1000 / value : value);
      });
      // A run that was scored twice at one place has two points there, which a curve cannot show.
      const order = points[0].map((_, i) => i).sort((a, b) => points[0][a] - points[0][b] || a - b).filter((i, n, all) => points[0][all[n + 1]] !== points[0][i]);
      if (order.length) curves.set(key, { isScore, points: points.map(list => order.map(i => list[i])) });
    }
  }
  return curves;
}
const colour = i => COLOURS[i % COLOURS.length];
function shownNames() { return [state.shown, ...state.overlaid].filter(name => state.data.has(name)); }
function showCurves() {
  const names = shownNames(), runs = names.map(name => state.data.get(name)), all = runs.map(curvesOf);
  const weight = Number($("smooth").value), logarithmic = $("logarithmic").checked;
  put($("smoothText"), weight ? weight.toFixed(2) : "off");
  $("names").replaceChildren(...(names.length < 2 ? [] : names.map((name, i) => {
    const dash = make("span", null, { className: "dash" });
    dash.style.background = colour(i);
    return make("span", null, {}, dash, name);
  })));
  const keys = [...new Set(all.flatMap(curves => [...curves.keys()]))];
  const place = key => key.startsWith("score ") ? -1 : (Object.keys(TITLES).indexOf(key) + 1 || 99);
  keys.sort((a, b) => place(a) - place(b));
  for (const [key, chart] of state.charts) if (!keys.includes(key)) { chart.plot?.destroy(); chart.box.remove(); state.charts.delete(key); }
  for (const key of keys) {
    const isScore = key.startsWith("score ");
    const tables = all.map(curves => {
      const points = curves.get(key)?.points ?? [[], []];
      const shown = isScore ? points[1] : smooth(points[1], weight);
      return [points[0], points[1], shown];
    });
    let chart = state.charts.get(key);
    if (!chart) { chart = makeChart(key, runs); state.charts.set(key, chart); $("curves").append(chart.box); }
    const positive = tables.every(table => table[1].every(value => value > 0));
    const data = uPlot.join(tables.map(table => [table[0], table[1], table[2]]));
    const kind = JSON.stringify([names, logarithmic && positive, Boolean(weight) && !isScore, state.wide.has(key)]);
    if (chart.kind !== kind) { chart.kind = kind; draw(chart, names, tables, data, { logarithmic: logarithmic && positive, raw: Boolean(weight) && !isScore }); }
    else { chart.plot.setData(data, false); }
    readOut(chart);
  }
  applyZoom();
  const run = runs[0];
  put($("curvesNote"), !keys.length ? "No curves yet: the first line of the log comes with the first tick." : run.log.step > 1 ? `The curves show one of ${run.log.step} lines of the log, which has ${run.log.length}.` : "");
}
function makeChart(key, runs) {
  const isScore = key.startsWith("score "), name = isScore ? key.slice(6) : key;
  const better = isScore ? runs.map(run => run.scores[name]?.better).find(Boolean) : null;
  const title = make("h4", isScore ? name : TITLES[key] ?? key.replaceAll("_", " "), {}, make("small", better ? ` ${BETTER[better]}` : ""));
  const readout = make("span", null, { className: "readout" }), larger = make("button", "⤢", { type: "button", ariaLabel: `Enlarge ${title.textContent}` });
  const area = make("div"), box = make("div", null, { className: "chart" }, make("div", null, {}, title, readout, larger), area);
  box.dataset.curve = name;
  larger.onclick = () => {
    state.wide[state.wide.has(key) ? "delete" : "add"](key);
    box.classList.toggle("wide", state.wide.has(key));
    showCurves();
  };
  return { key, box, area, readout, plot: null, kind: null };
}
function draw(chart, names, tables, data, { logarithmic, raw }) {
  chart.plot?.destroy();
  const style = getComputedStyle(chart.box), ink = style.getPropertyValue("color");
  const probe = make("span"); chart.box.append(probe);
  probe.style.color = "var(--grid)"; const grid = getComputedStyle(probe).color;
  probe.style.color = "var(--soft)"; const soft = getComputedStyle(probe).color;
  probe.remove();
  const axis = { stroke: soft, font: "12px system-ui, sans-serif", grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 5 } };
  const series = [{}];
  names.forEach((name, i) => {
    const points = { show: tables[i][0].length < 30, size: 5, fill: colour(i) };
    series.push({ stroke: `${colour(i)}50`, width: 1, show: raw, spanGaps: true, points: { show: false } });
    series.push({ label: name, stroke: colour(i), width: 2, spanGaps: true, points });
  });
  chart.plot = new uPlot({
    width: Math.max(240, chart.area.clientWidth), height: state.wide.has(chart.key) ? 420 : 210, padding: [8, 8, 0, 0],
    scales: { x: { time: false }, y: { distr: logarithmic ? 3 : 1 } }, legend: { show: false }, series,
    axes: [
      { ...axis, values: (u, marks) => marks.map(mark => number(mark)), size: 30, space: 60 },
      { ...axis, values: (u, marks) => marks.map(mark => mark == null ? "" : number(mark)), size: 62 },
    ],
    cursor: { drag: { x: true, y: false }, sync: { key: "kimg" }, y: false, points: { size: 7 }, bind: { dblclick: () => () => { state.zoom = null; applyZoom(); return null; } } },
    hooks: {
      setCursor: [() => readOut(chart)],
      setSelect: [u => {
        if (u.select.width < 4) return;
        state.zoom = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
        u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        applyZoom();
      }],
    },
  }, data, chart.area);
  chart.ink = ink;
}
function readOut(chart) {
  // The values at the cursor; without one, the newest.
  if (!chart.plot) return;
  const u = chart.plot, index = u.cursor.idx, parts = [];
  for (let i = 2; i < u.series.length; i += 2) {
    const values = u.data[i];
    let at = index ?? values.length - 1;
    while (at > 0 && values[at] == null) at--;
    if (values[at] != null) { const value = make("span", number(Number(values[at].toPrecision(4)))); if (u.series.length > 3) value.style.color = colour(i / 2 - 1); parts.push(value, "  "); }
  }
  if (index != null && u.data[0][index] != null) parts.push(make("span", `at ${number(Number(u.data[0][index].toPrecision(4)))} kimg`, { className: "soft" }));
  chart.readout.replaceChildren(...parts);
}
function extent() {
  let low = Infinity, high = -Infinity;
  for (const chart of state.charts.values()) { const x = chart.plot?.data[0] ?? []; if (x.length) { low = Math.min(low, x[0]); high = Math.max(high, x[x.length - 1]); } }
  return low < high ? [low, high] : [low === Infinity ? 0 : low - 0.5, low === Infinity ? 1 : high + 0.5];
}
function applyZoom() {
  const [min, max] = state.zoom ?? extent();
  for (const chart of state.charts.values()) chart.plot?.setScale("x", { min, max });
  $("whole").disabled = $("zoomOut").disabled = $("earlier").disabled = $("later").disabled = !state.zoom;
}
function zoomBy(factor, shift) {
  const [low, high] = extent(), [min, max] = state.zoom ?? [low, high], width = Math.min(high - low, (max - min) * factor);
  const start = Math.min(high - width, Math.max(low, (min + max) / 2 - width / 2 + shift * width));
  state.zoom = width >= high - low ? null : [start, start + width];
  applyZoom();
}
for (const [id, factor, shift] of [["zoomIn", 0.5, 0], ["zoomOut", 2, 0], ["earlier", 1, -0.5], ["later", 1, 0.5]]) $(id).onclick = () => zoomBy(factor, shift);
$("whole").onclick = () => { state.zoom = null; applyZoom(); };
$("smooth").oninput = $("logarithmic").onchange = showCurves;
function redraw() { for (const chart of state.charts.values()) chart.kind = null; if (state.charts.size) showCurves(); }
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
let width = innerWidth, pending = 0;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; clearTimeout(pending); pending = setTimeout(redraw, 100); } });

function showOthers() {
  const others = state.runs.filter(run => run.name !== state.shown).map(run => run.name), word = $("overlayFilter").value.trim().toLowerCase();
  $("overlays").hidden = !others.length;
  const key = JSON.stringify([state.shown, others, state.overlaid, word]);
  if ($("others").dataset.key === key) return;
  $("others").dataset.key = key;
  const focused = document.activeElement?.dataset.run;
  $("others").replaceChildren(...others.filter(name => name.toLowerCase().includes(word)).map(name => {
    const box = make("input", null, { type: "checkbox", checked: state.overlaid.includes(name) });
    box.dataset.run = name;
    box.onchange = () => { location.replace(link(state.shown, box.checked ? [...state.overlaid, name] : state.overlaid.filter(one => one !== name))); };
    return make("label", null, {}, box, ` ${name}`);
  }));
  if (focused) for (const box of $("others").querySelectorAll("input")) if (box.dataset.run === focused) box.focus();
  const chosen = $("against").value;
  $("against").replaceChildren(make("option", "no run", { value: "" }), ...others.map(name => make("option", name, { value: name })));
  $("against").value = others.includes(chosen) ? chosen : state.overlaid[0] ?? "";
  $("againstLabel").hidden = !others.length;
}
$("overlayFilter").oninput = showOthers;

// Configuration, environment, warnings, log.

function flatten(value, name = "", into = new Map()) {
  if (value && typeof value === "object" && !Array.isArray(value)) for (const [key, part] of Object.entries(value)) flatten(part, name ? `${name}.${key}` : key, into);
  else if (name) into.set(name, typeof value === "string" ? value : JSON.stringify(value));
  return into;
}
function fillTable(table, mine, other, names, { only = false, word = "" } = {}) {
  const key = JSON.stringify([[...mine], other && [...other], names, only, word]);
  if (table.dataset.key === key) return;
  table.dataset.key = key;
  const keys = [...new Set([...mine.keys(), ...(other ? other.keys() : [])])].filter(name => name.toLowerCase().includes(word));
  const differs = name => other && mine.get(name) !== other.get(name), kept = keys.filter(name => !only || differs(name));
  const head = other ? [make("tr", null, {}, make("th", ""), ...names.map(name => make("th", name)))] : [];
  table.replaceChildren(...head, ...kept.map(name => make("tr", null, { className: differs(name) ? "differs" : "" }, make("td", name), make("td", mine.get(name) ?? "–"), ...(other ? [make("td", other.get(name) ?? "–")] : []))));
  if (!kept.length) table.append(make("tr", null, {}, make("td", only ? "Nothing differs." : "Nothing is recorded.")));
}
function showSettings() {
  const run = state.data.get(state.shown), other = state.data.get($("against").value), names = [run.name, $("against").value];
  $("onlyLabel").hidden = !other;
  fillTable($("config"), flatten(run.config), other && flatten(other.config), names, { only: Boolean(other) && $("only").checked, word: $("settingsFilter").value.trim().toLowerCase() });
  fillTable($("environment"), flatten(run.environment), other && flatten(other.environment), names);
}
$("settingsFilter").oninput = $("only").onchange = showSettings;
$("against").onchange = refreshRun;
function showLog(run) {
  $("warnings").hidden = !run.events.length;
  $("warnings").firstElementChild.replaceChildren("Warnings", make("small", ` ${run.events.length}`));
  const key = JSON.stringify([run.name, run.events.length, run.recent.length, run.recent.at(-1)]);
  if ($("log").dataset.key === key) return;
  $("log").dataset.key = key;
  $("events").replaceChildren(...run.events.map(event => make("li", `${event.kimg == null ? "" : `${number(event.kimg)} kimg: `}${event.text ?? JSON.stringify(event)}`)));
  const columns = [...new Set(run.recent.flatMap(Object.keys))];
  const cell = value => typeof value === "number" ? number(value) : value == null ? "" : typeof value === "string" ? value : JSON.stringify(value);
  $("log").replaceChildren(make("tr", null, {}, ...columns.map(name => make("th", name, { scope: "col" }))), ...[...run.recent].reverse().map(record => make("tr", null, {}, ...columns.map(name => make("td", cell(record[name]))))));
  $("logPart").firstElementChild.replaceChildren("Log", make("small", run.recent.length < run.log.length ? ` the last ${run.recent.length} of ${run.log.length} lines, newest first` : " newest first"));
}

// ----- Refreshing -----

let turn = 0;
async function refreshRun() {
  const mine = ++turn, wanted = new Set([state.shown, ...state.overlaid, $("against").value].filter(Boolean));
  if (!report) {
    for (const name of wanted) {
      const known = state.data.get(name), row = state.runs.find(run => run.name === name);
      // What does not change any more is not read again.
      if (known && row && known.state !== "running" && row.state === known.state && row.updated === known.updated && row.samples === known.samples) continue;
      try { const run = await get(`api/run/${encodeURIComponent(name)}`); if (mine !== turn) return; state.data.set(name, run); }
      catch (error) {
        if (error.status !== 404) throw error;
        say(`${name} is gone: ${error.message}.${known ? " This is what was last read of it." : ""}`);
      }
    }
    for (const name of state.data.keys()) if (!wanted.has(name)) state.data.delete(name);
  }
  $("list").hidden = true;
  $("run").hidden = !state.data.has(state.shown);
  $("back").parentElement.hidden = state.single;
  showRun();
}
async function show() {
  readPlace();
  if (state.shown != null) return refreshRun();
  document.title = "ganformer runs";
  $("run").hidden = true;
  $("list").hidden = false;
  showTable();
}
let timer = 0;
async function refresh() {
  clearTimeout(timer);
  try {
    const found = await get("api/runs");
    Object.assign(state, { runs: found.runs, single: found.single });
    put($("folder"), found.folder);
    say(found.exists ? "" : `The folder ${found.folder} is gone.`);
    await show();
    $("light").className = state.runs.some(run => run.state === "running") ? "live" : "";
    put($("updatedText"), `Read at ${new Date().toLocaleTimeString()}`);
  } catch (error) {
    $("light").className = "lost";
    put($("updatedText"), "Not live");
    say(error instanceof TypeError ? "ganformer watch has ended, or does not answer. This is what was last read; the page goes on by itself when it answers." : error.message);
  }
  timer = setTimeout(refresh, document.hidden ? 60000 : state.runs.some(run => run.state === "running") ? 3000 : 10000);
}
if (report) {
  put($("folder"), "report");
  put($("updatedText"), `Written ${new Date(report.written * 1000).toLocaleString()}${report.state === "running" ? ", while the run went on" : ""}`);
  refreshRun();
} else {
  $("filter").oninput = $("sort").onchange = showTable;
  addEventListener("hashchange", () => {
    const before = state.shown;
    say("");
    show().then(() => {
      if (state.shown === before) return;
      scrollTo(0, 0);
      if (state.shown) $("name").focus({ preventScroll: true });
    }, error => say(error.message));
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  refresh();
}
