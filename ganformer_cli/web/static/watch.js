"use strict";
const $ = id => document.getElementById(id);
const COLORS = ["#3b82c4", "#d9822b", "#3d9a50", "#b5495b", "#8a63c4", "#7a7a7a"];
const state = { runs: [], shown: null, overlaid: new Set(), data: new Map(), charts: new Map(), zoom: null, at: null };

async function get(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}
function make(tag, text, more) {
  const node = Object.assign(document.createElement(tag), more);
  if (text !== undefined) node.textContent = text;
  return node;
}
const number = value => value == null ? "" : Number(value.toPrecision(4)).toString();
function duration(seconds) {
  if (seconds == null) return "";
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
const sample = (run, file) => `sample/${encodeURIComponent(run)}/${encodeURIComponent(file)}`;

function showTable() {
  const focused = document.activeElement && document.activeElement.dataset.key;
  const head = make("tr");
  const columns = ["Run", "Overlay", "State", "kimg", "of", "images/s", "Left", "Scores: last (best)", "Samples", ""];
  const numeric = new Set(["kimg", "of", "images/s", "Left", "Samples"]);
  for (const name of columns) head.append(make("th", name, { scope: "col", className: numeric.has(name) ? "number" : "" }));
  const rows = state.runs.map(run => {
    const row = make("tr"), cell = make("td"), check = make("td");
    const button = make("button", run.name, { type: "button", onclick: () => open(run.name) });
    button.dataset.key = `open ${run.name}`;
    cell.append(button);
    const box = make("input", undefined, { type: "checkbox", checked: state.overlaid.has(run.name), ariaLabel: `Overlay ${run.name}` });
    box.dataset.key = `overlay ${run.name}`;
    box.onchange = () => { state.overlaid[box.checked ? "add" : "delete"](run.name); refreshRun(); };
    check.append(box);
    const scores = Object.entries(run.scores).map(([name, value]) => `${name} ${number(value.last)} (${number(value.best)})`).join(", ");
    row.append(cell, check, make("td", run.state));
    for (const text of [number(run.kimg), number(run.total_kimg), number(run.images_per_second), duration(run.seconds_left)])
      row.append(make("td", text, { className: "number" }));
    row.append(make("td", scores), make("td", String(run.samples), { className: "number" }));
    const image = make("td");
    if (run.sample) image.append(make("img", undefined, { src: sample(run.name, run.sample), alt: `Newest samples of ${run.name}` }));
    row.append(image);
    return row;
  });
  $("runs").replaceChildren(head, ...rows);
  if (focused) for (const node of $("runs").querySelectorAll("[data-key]")) if (node.dataset.key === focused) node.focus();
}
function open(name) { state.shown = name; state.at = null; state.zoom = null; refreshRun(); }

function smooth(values, weight) {
  let mean = null;
  return values.map(value => value == null ? null : mean = mean == null ? value : weight * mean + (1 - weight) * value);
}
function showCurves() {
  const names = [state.shown, ...[...state.overlaid].filter(name => name !== state.shown)].filter(name => state.data.has(name));
  const runs = names.map(name => state.data.get(name)), weight = Number($("smooth").value);
  const isCurve = ([key, value]) => typeof value === "number" && !["tick", "kimg", "seconds"].includes(key);
  const curves = new Set(), points = runs.map(run => [...run.log, ...run.metrics].filter(record => typeof record.kimg === "number"));
  for (const list of points) for (const record of list) for (const pair of Object.entries(record)) if (isCurve(pair)) curves.add(pair[0]);
  const ink = getComputedStyle(document.body).color, line = getComputedStyle(document.documentElement).getPropertyValue("--grid") || "#8884";
  for (const chart of state.charts.values()) chart.destroy();
  state.charts.clear();
  $("curves").replaceChildren();
  for (const curve of curves) {
    const tables = points.map(list => {
      const known = list.filter(record => typeof record[curve] === "number").sort((a, b) => a.kimg - b.kimg);
      return [known.map(record => record.kimg), smooth(known.map(record => record[curve]), weight)];
    });
    const box = make("div");
    $("curves").append(box);
    const axis = { stroke: ink, grid: { stroke: line }, ticks: { stroke: line } };
    const chart = new uPlot({
      title: curve, width: Math.max(260, box.clientWidth), height: 220, scales: { x: { time: false } },
      axes: [{ ...axis, values: (u, marks) => marks.map(mark => `${mark}`) }, { ...axis, size: 64 }],
      series: [{ label: "kimg" }, ...names.map((name, i) => ({ label: name, stroke: COLORS[i % COLORS.length], width: 1.5, spanGaps: true, points: { show: tables[i][0].length < 30 } }))],
      cursor: { drag: { x: true, y: false }, sync: { key: "kimg" } },
      hooks: { setSelect: [u => { if (u.select.width > 0) { state.zoom = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")]; zoom(); } }] },
    }, uPlot.join(tables), box);
    state.charts.set(curve, chart);
  }
  zoom();
}
function zoom() {
  if (state.zoom) for (const chart of state.charts.values()) chart.setScale("x", { min: state.zoom[0], max: state.zoom[1] });
}
function showSamples() {
  const run = state.data.get(state.shown), fakes = run.files.fakes, slider = $("slider");
  slider.max = Math.max(0, fakes.length - 1);
  slider.value = state.at ?? slider.max;
  const at = fakes[slider.value];
  $("at").textContent = at ? `${number(at[0])} kimg` : "none yet";
  const attention = at && run.files.attention.find(file => file[0] === at[0]);
  const images = [["Fakes", at], ["Reals", run.files.reals[0]], ["Attention of the components", attention]].filter(image => image[1]);
  $("samples").replaceChildren(...images.map(([title, file]) => {
    const figure = make("figure");
    figure.append(make("figcaption", title), make("img", undefined, { src: sample(run.name, file[1]), alt: `${title} of ${run.name}` }));
    return figure;
  }));
}
async function refreshRun() {
  if (!state.shown) return;
  try {
    for (const name of new Set([state.shown, ...state.overlaid]))
      state.data.set(name, await get(`api/run/${encodeURIComponent(name)}`));
  } catch (error) { $("status").textContent = error.message; return; }
  const run = state.data.get(state.shown);
  $("run").hidden = false;
  $("name").textContent = `${run.name}: ${run.state}`;
  showCurves();
  showSamples();
  $("config").textContent = JSON.stringify(run.config, null, 2);
  $("log").textContent = [...run.events, ...run.log.slice(-200)].map(record => JSON.stringify(record)).join("\n");
}
async function refresh() {
  try {
    state.runs = await get("api/runs");
    $("status").textContent = state.runs.length ? `Refreshed at ${new Date().toLocaleTimeString()}` : "No runs yet";
    showTable();
    if (!state.shown && state.runs.length) open((state.runs.find(run => run.state === "running") || state.runs[0]).name);
    else if (state.runs.some(run => run.state === "running" && (run.name === state.shown || state.overlaid.has(run.name)))) await refreshRun();
  } catch (error) { $("status").textContent = `Not refreshed: ${error.message}`; }
  setTimeout(refresh, 5000);
}
$("smooth").oninput = () => showCurves();
$("unzoom").onclick = () => { state.zoom = null; showCurves(); };
$("slider").oninput = () => { state.at = Number($("slider").value); if (state.at === Number($("slider").max)) state.at = null; showSamples(); };
matchMedia("(prefers-color-scheme: dark)").onchange = () => { if (state.shown) showCurves(); };
refresh();
