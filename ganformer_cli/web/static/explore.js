"use strict";
const $ = id => document.getElementById(id);
const S = {
  session: sessionStorage.getItem("session"), model: null, reply: null, drawing: null, regions: null,
  images: new Map(),  // of steps: data addresses
  selected: 0, hovered: null, layer: null, showRegions: false, groups: new Set(), comparing: false,
  gesture: 0, seconds: [], firstNeighbour: 1 + Math.floor(Math.random() * 1e6), neighboursKey: "",
};
const ALL = null;  // instead of a component: every latent

// ----- Requests -----

async function post(place, body) {
  const answer = await fetch(`api/${place}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const reply = await answer.json().catch(() => ({ error: `status ${answer.status}` }));
  if (!answer.ok) throw new Error(reply.error);
  return reply;
}
const ask = (place, body) => post(place, { session: S.session, ...body });

const waiting = [];
let busy = false;
// One change at a time, in order; of a slider only the latest position waits.
async function change(body) {
  if (!body.gesture) resetSliders();  // which begin anew, from the image as it is then
  const same = body.gesture ? waiting.findIndex(each => each.gesture === body.gesture) : -1;
  const queued = { ...body, started: performance.now() };
  if (same >= 0) waiting[same] = queued; else waiting.push(queued);
  if (busy) return;
  busy = true;
  while (waiting.length) {
    const { started, ...next } = waiting.shift();
    const slow = setTimeout(() => say("Drawing…"), 400);
    try { await show(await ask("change", next), started); }
    catch (error) { sayError(error); syncControls(); }
    clearTimeout(slow);
  }
  busy = false;
}
function say(text) { $("status").className = ""; $("status").textContent = text; }
function sayError(error) {
  $("status").className = "error";
  $("status").textContent = error instanceof TypeError ? "The program does not answer: is ganformer explore still running?" : error.message;
}

// ----- Images -----

function decode(base64) {
  const image = new Image();
  image.src = `data:image/png;base64,${base64}`;
  return image.decode().then(() => image);
}
async function inflate(base64) {
  const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint16Array(await new Response(stream).arrayBuffer());
}
async function show(reply, started) {
  if (reply.superseded) return;
  S.reply = reply;
  syncControls();
  showSteps();
  if (reply.drawing) await showDrawing(reply.step, reply.drawing, started);
  else {
    const image = await decode(reply.preview);
    paintImage(image);
    clearOverlay();
    if (started !== undefined) performance.measure("preview", { start: started, end: performance.now() });
    say("A small image first; the whole one is being drawn…");
    finish(reply.step, started);
  }
}
async function finish(step, started) {
  try {
    const reply = await ask("drawing", { step });
    if (!reply.superseded && S.reply.step === step) await showDrawing(step, reply.drawing, started);
  } catch (error) { sayError(error); }
}
async function showDrawing(step, drawing, started) {
  const [image, regions] = await Promise.all([decode(drawing.image), inflate(drawing.regions)]);
  S.drawing = drawing; S.regions = regions; S.image = image;
  S.images.set(step, image.src);
  S.seconds = [drawing.seconds, ...S.seconds].slice(0, 5);
  if (S.layer === null && drawing.layers.length) S.layer = bestLayer(drawing);
  paintImage(image);
  paintOverlay();
  showComponents();
  showCaption();
  if (started !== undefined) requestAnimationFrame(() => {
    performance.measure("change", { start: started, end: performance.now() });
    say(`${title(S.reply.step)} in ${Math.round(performance.now() - started)} ms (${Math.round(drawing.seconds * 1000)} ms to draw)`);
  });
  showMaps();
  markStep();
  if (S.comparing) showComparison();
  laterNeighbours();
}
const title = number => (S.reply.steps.find(step => step.number === number) || {}).title || "";
// The finest layer whose places say as much of their component as half of what the best one's do.
function bestLayer(drawing) {
  const most = Math.max(...drawing.information);
  let best = 0;
  drawing.information.forEach((value, layer) => { if (value >= most / 2) best = layer; });
  return best;
}
const scaleOf = image => Math.max(1, Math.ceil(576 / Math.max(image.naturalWidth, image.naturalHeight)));
function draw(canvas, image, scale = 1) {
  canvas.width = image.naturalWidth * scale;
  canvas.height = image.naturalHeight * scale;
  canvas.classList.toggle("pixelated", image.naturalWidth <= 256);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
}
function paintImage(image) {
  draw($("image"), image, scaleOf(image));
  $("single").style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
}

// ----- Regions -----

const rgb = colour => [1, 3, 5].map(start => parseInt(colour.slice(start, start + 2), 16));
const colourOf = component => S.model.palette[component % S.model.palette.length];
const isComponent = which => which !== ALL && which < S.model.components;
function regionAt(layer) {
  const [height, width] = S.drawing.region_size;
  return S.regions.subarray(layer * height * width, (layer + 1) * height * width);
}
function clearOverlay() { const canvas = $("overlay"); canvas.width = canvas.width; }
function paintOverlay() {
  const canvas = $("overlay"), base = $("image");
  canvas.width = base.width; canvas.height = base.height;
  if (S.layer === null || !S.drawing || !S.drawing.layers.length) return;
  const shown = S.hovered !== null ? S.hovered : S.touched && isComponent(S.selected) ? S.selected : null;
  // What owns no place has no region: the image stays as it is.
  if ((shown === null || !share(shown)) && !S.showRegions) return;
  const [height, width] = S.drawing.region_size, regions = regionAt(S.layer);
  const context = canvas.getContext("2d"), pixels = context.createImageData(canvas.width, canvas.height), data = pixels.data;
  const columns = new Int32Array(canvas.width);
  for (let x = 0; x < canvas.width; x++) columns[x] = Math.floor(x * width / canvas.width);
  const colours = S.model.palette.map(rgb), rim = Math.max(2, Math.round(canvas.width / 220));
  const at = (x, y) => regions[Math.floor(y * height / canvas.height) * width + columns[x]];
  for (let y = 0; y < canvas.height; y++) {
    const row = Math.floor(y * height / canvas.height) * width;
    for (let x = 0; x < canvas.width; x++) {
      const owner = regions[row + columns[x]], place = 4 * (y * canvas.width + x);
      const colour = colours[owner % colours.length];
      let alpha = 0, own = colour;
      if (S.showRegions) alpha = shown === null || owner === shown ? 150 : 60;
      if (S.hovered !== null && owner !== shown && !S.showRegions) { own = [0, 0, 0]; alpha = 130; }
      if (shown !== null && owner === shown) {
        const edge = x < rim || y < rim || x >= canvas.width - rim || y >= canvas.height - rim
          || at(x - rim, y) !== shown || at(x + rim, y) !== shown || at(x, y - rim) !== shown || at(x, y + rim) !== shown;
        if (edge) alpha = 255;
      }
      data[place] = own[0]; data[place + 1] = own[1]; data[place + 2] = own[2]; data[place + 3] = alpha;
    }
  }
  context.putImageData(pixels, 0, 0);
}
function share(component) {
  if (S.layer === null || !S.drawing || !S.drawing.shares[S.layer]) return null;
  return S.drawing.shares[S.layer][component];
}
const percent = value => `${(100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0)}%`;
function nameOf(which) {
  if (which === ALL) return "the whole image";
  return isComponent(which) ? `component ${which}` : "the global latent";
}
function showCaption() {
  const which = S.hovered !== null ? S.hovered : S.selected, own = isComponent(which) ? share(which) : null;
  $("swatch").hidden = !isComponent(which);
  if (isComponent(which)) $("swatch").style.background = colourOf(which);
  const removed = S.reply && S.reply.state.removed.includes(which) ? ", removed" : "";
  const where = own === null ? "" : `: ${percent(own)} of the image in ${S.drawing.layers[S.layer]}`;
  const name = nameOf(which);
  $("captionText").textContent = name[0].toUpperCase() + name.slice(1) + where + removed;
  $("image").setAttribute("aria-label", `The image. ${$("captionText").textContent}`);
}
function componentAt(event) {
  if (S.layer === null || !S.drawing || !S.drawing.layers.length) return null;
  const box = $("image").getBoundingClientRect(), [height, width] = S.drawing.region_size;
  const x = Math.floor((event.clientX - box.left) / box.width * width), y = Math.floor((event.clientY - box.top) / box.height * height);
  if (x < 0 || y < 0 || x >= width || y >= height) return null;
  return regionAt(S.layer)[y * width + x];
}
function hover(component) {
  if (component === S.hovered) return;
  S.hovered = component;
  paintOverlay();
  showCaption();
}
$("image").addEventListener("pointermove", event => { if (event.pointerType === "mouse") hover(componentAt(event)); });
$("image").addEventListener("pointerleave", () => hover(null));
$("image").addEventListener("click", event => {
  const component = componentAt(event);
  if (component !== null) select(component);
});

// ----- Lists -----

// Buttons are made again at each change: the keyboard's focus returns to the one with the same key.
function refill(box, children) {
  const key = box.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  box.replaceChildren(...children);
  if (key !== undefined) for (const child of children) if (child.dataset.key === key) child.focus({ preventScroll: true });
}
function make(tag, text, more) {
  const node = Object.assign(document.createElement(tag), more);
  if (text !== undefined) node.textContent = text;
  return node;
}
function card(key, label, onclick) {
  const button = make("button", undefined, { type: "button", className: "card", onclick });
  button.dataset.key = key;
  button.append(make("canvas"), make("span", label));
  return button;
}
function latents() {
  const found = [ALL];
  for (let k = 0; k < S.model.components; k++) found.push(k);
  if (S.model.global !== null) found.push(S.model.global);
  return found;
}
function showComponents() {
  const state = S.reply.state;
  refill($("components"), latents().map(which => {
    const button = make("button", undefined, { type: "button", className: "chip", onclick: () => select(which) });
    button.dataset.key = String(which);
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", which === S.selected);
    button.tabIndex = which === S.selected ? 0 : -1;
    if (isComponent(which)) { const swatch = make("span", "", { className: "swatch" }); swatch.style.background = colourOf(which); button.append(swatch); }
    button.append(make("b", which === ALL ? "All" : isComponent(which) ? String(which) : "Global"));
    const own = isComponent(which) ? share(which) : null;
    if (own !== null) button.append(make("small", percent(own)));
    if (which !== ALL && state.changed.includes(which)) button.classList.add("changed");
    if (state.removed.includes(which)) button.classList.add("removed");
    const notes = [which === ALL ? "All latents" : nameOf(which), own === null ? "" : percent(own), state.removed.includes(which) ? "removed" : "", which !== ALL && state.changed.includes(which) ? "changed" : ""];
    button.setAttribute("aria-label", notes.filter(Boolean).join(", "));
    if (isComponent(which)) { button.onpointerenter = () => hover(which); button.onpointerleave = () => hover(null); }
    return button;
  }));
}
function select(which) {
  S.selected = which;
  S.touched = true;
  resetSliders();
  showComponents();
  syncControls();
  paintOverlay();
  showCaption();
  laterNeighbours();
}
function step(list, current, by) { return list[(list.indexOf(current) + by + list.length) % list.length]; }
$("components").addEventListener("keydown", event => {
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!by) return;
  event.preventDefault(); event.stopPropagation();
  select(step(latents(), S.selected, by));
  $("components").querySelector('[aria-checked="true"]').focus();
});
function showMaps() {
  $("mapsPart").hidden = !S.drawing.layers.length;
  const [height, width] = S.drawing.region_size;
  // Whole pixels at once, in the order of their bytes: red, green, blue, opaque.
  const colours = new Uint32Array(new Uint8Array(S.model.palette.flatMap(colour => [...rgb(colour), 255])).buffer);
  refill($("maps"), S.drawing.layers.map((name, layer) => {
    const button = card(name, name, () => setLayer(layer)), canvas = button.firstChild;
    canvas.width = width; canvas.height = height; canvas.className = "pixelated";
    const context = canvas.getContext("2d"), pixels = context.createImageData(width, height), regions = regionAt(layer);
    const whole = new Uint32Array(pixels.data.buffer);
    for (let i = 0; i < regions.length; i++) whole[i] = colours[regions[i] % colours.length];
    context.putImageData(pixels, 0, 0);
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", layer === S.layer);
    button.tabIndex = layer === S.layer ? 0 : -1;
    button.setAttribute("aria-label", `Layer ${name}`);
    return button;
  }));
}
function setLayer(layer) {
  S.layer = layer;
  for (const [index, button] of [...$("maps").children].entries()) { button.setAttribute("aria-checked", index === layer); button.tabIndex = index === layer ? 0 : -1; }
  showComponents(); paintOverlay(); showCaption();
}
$("maps").addEventListener("keydown", event => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by || S.layer === null) return;
  event.preventDefault(); event.stopPropagation();
  setLayer((S.layer + by + S.drawing.layers.length) % S.drawing.layers.length);
  $("maps").children[S.layer].focus();
});

// ----- History -----

function showSteps() {
  const steps = S.reply.steps, at = steps.findIndex(each => each.number === S.reply.step);
  const old = new Map([...$("steps").children].map(child => [child.dataset.key, child]));
  const children = steps.map((each, index) => {
    const key = String(each.number);
    const button = old.get(key) || card(key, each.title, () => change({ what: "step", step: each.number }));
    button.setAttribute("aria-current", index === at);
    button.classList.toggle("undone", index > at);
    button.title = each.title;
    return button;
  });
  if (S.reply.dropped) children.unshift(make("span", `${S.reply.dropped} older steps dropped`, { className: "soft" }));
  refill($("steps"), children);
  $("undo").disabled = at <= 0;
  $("redo").disabled = at >= steps.length - 1;
  for (const number of S.images.keys()) if (!steps.some(each => each.number === number)) S.images.delete(number);
  markStep();
}
async function markStep() {
  const box = $("steps"), now = box.querySelector('[aria-current="true"]');
  if (now) box.scrollTo({ left: now.offsetLeft - box.clientWidth / 2 });
  for (const button of box.querySelectorAll("button")) {
    const number = Number(button.dataset.key);
    if (button.dataset.drawn === (S.images.has(number) ? "whole" : "asked")) continue;
    button.dataset.drawn = S.images.has(number) ? "whole" : "asked";
    if (S.images.has(number)) thumbnail(button.firstChild, await load(S.images.get(number)));
    else if (number !== S.reply.step) ask("thumbnail", { step: number, small: true }).then(async reply => thumbnail(button.firstChild, await decode(reply.image))).catch(() => {});
  }
}
async function load(address) { const image = new Image(); image.src = address; await image.decode(); return image; }
function thumbnail(canvas, image) {
  const longer = Math.max(image.naturalWidth, image.naturalHeight), scale = longer > 148 ? 148 / longer : 1;
  canvas.width = Math.round(image.naturalWidth * scale); canvas.height = Math.round(image.naturalHeight * scale);
  canvas.classList.toggle("pixelated", longer <= 74);
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
}

// ----- Comparison -----

async function showComparison() {
  const steps = S.reply.steps, at = steps.findIndex(each => each.number === S.reply.step);
  const number = $("against").value === "previous" ? steps[Math.max(0, at - 1)].number : S.reply.beginning;
  try {
    if (!S.images.has(number)) S.images.set(number, (await decode((await ask("thumbnail", { step: number, small: false })).image)).src);
  } catch (error) { sayError(error); return; }
  const before = await load(S.images.get(number)), after = S.image;
  draw($("before"), before); draw($("after"), after);
  $("beforeName").textContent = `Before: ${title(number)}`;
  const pixels = [$("before"), $("after")].map(canvas => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data);
  const canvas = $("difference");
  canvas.width = after.naturalWidth;
  canvas.height = after.naturalHeight;
  canvas.className = $("after").className;
  const count = canvas.width * canvas.height, distance = new Float32Array(count);
  let most = 0;
  for (let i = 0; i < count; i++) {
    let sum = 0;
    for (let k = 0; k < 3; k++) sum += (pixels[0][4 * i + k] - pixels[1][4 * i + k]) ** 2;
    distance[i] = Math.sqrt(sum / 3);
    most = Math.max(most, distance[i]);
  }
  const context = canvas.getContext("2d"), out = context.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < count; i++) out.data.set([...heat(most ? distance[i] / most : 0), 255], 4 * i);
  context.putImageData(out, 0, 0);
  $("differenceName").textContent = most ? `Difference: 0 to ${Math.round(most)} of 255` : "No difference";
}
const HEAT = [[0, 0, 0], [60, 15, 110], [165, 35, 95], [235, 105, 40], [255, 190, 60], [255, 255, 225]];
function heat(value) {
  const place = value * (HEAT.length - 1), low = Math.min(HEAT.length - 2, Math.floor(place)), part = place - low;
  return HEAT[low].map((from, k) => from + part * (HEAT[low + 1][k] - from));
}
function compare(on) {
  S.comparing = on;
  $("compareButton").setAttribute("aria-pressed", on);
  $("single").hidden = on;
  $("compare").hidden = !on;
  if (on) showComparison();
}
$("against").onchange = () => compare(true);

// ----- Neighbours -----

// One of the last drawings may have waited for other programs; not all of them.
const isSlow = () => Math.min(...S.seconds) > 0.5;
let neighbourTimer = 0;
function laterNeighbours() { clearTimeout(neighbourTimer); neighbourTimer = setTimeout(showNeighbours, 350); }
function layersChosen() { return S.groups.size === S.model.groups.length ? undefined : S.model.groups.filter(name => S.groups.has(name)); }
const withLayers = body => layersChosen() ? { ...body, layers: layersChosen() } : body;
const removedNow = which => S.reply.state.removed.includes(which);
async function showNeighbours() {
  if (busy || !S.drawing) { laterNeighbours(); return; }
  if (isSlow() && !S.wantNeighbours) {
    $("neighboursOf").textContent = "Drawing takes long with this model: press Others to draw neighbours.";
    $("neighbours").replaceChildren();
    S.neighboursKey = "";
    return;
  }
  S.wantNeighbours = false;
  const amount = Number($("distance").value);
  const which = removedNow(S.selected) ? ALL : S.selected;
  const body = withLayers({ amount, first: S.firstNeighbour, ...(which === ALL ? {} : { component: which }) });
  const key = JSON.stringify([S.reply.step, body]);
  $("neighboursOf").textContent = `Walk: ${nameOf(which)} moves toward another seed. Keys 1 to 6.`;
  if (key === S.neighboursKey) return;
  S.neighboursKey = key;
  try {
    const reply = await ask("neighbours", body);
    if (reply.superseded || S.neighboursKey !== key) return;
    const images = await Promise.all(reply.images.map(decode));
    refill($("neighbours"), images.map((image, k) => {
      const walk = () => { S.firstNeighbour += 6; change({ what: "blend", seed: reply.seeds[k], ...Object.fromEntries(Object.entries(body).filter(([name]) => name !== "first")) }); };
      const button = card(`n${k}`, `${k + 1}`, walk);
      thumbnail(button.firstChild, image);
      button.setAttribute("aria-label", `Neighbour ${k + 1}`);
      return button;
    }));
  } catch (error) { S.neighboursKey = ""; sayError(error); }
}
$("distance").oninput = () => { $("distanceText").textContent = percent(Number($("distance").value)); laterNeighbours(); };

// ----- Controls -----

function edit(body) { change({ what: "edit", component: S.selected, ...body }); }
const randomSeed = () => Math.floor(Math.random() * 2 ** 31);
const otherSeed = () => Number($("other").value);
function reroll() {
  if (S.selected === ALL) change(withLayers({ what: "blend", seed: randomSeed(), amount: 1 }));
  else edit(withLayers({ action: "reroll" }));
}
function copy() {
  if (S.selected === ALL) change(withLayers({ what: "blend", seed: otherSeed(), amount: 1 }));
  else edit(withLayers({ action: "copy", seed: otherSeed(), ...($("copyFrom").value === "" ? {} : { other: Number($("copyFrom").value) }) }));
}
function gestureOf(slider) {
  if (!slider.dataset.gesture) slider.dataset.gesture = `${slider.id}-${++S.gesture}-${Date.now()}`;
  return slider.dataset.gesture;
}
function resetSliders() {
  for (const name of ["mean", "toward"]) { $(name).value = 0; $(`${name}Text`).textContent = "0%"; delete $(name).dataset.gesture; }
}
const wholePercent = value => `${Math.round(100 * value)}%`;
$("mean").oninput = () => {
  const amount = Number($("mean").value);
  $("meanText").textContent = wholePercent(amount);
  edit(withLayers({ action: "toward-mean", amount, gesture: gestureOf($("mean")) }));
};
$("toward").oninput = () => {
  const amount = Number($("toward").value), gesture = gestureOf($("toward"));
  $("towardText").textContent = wholePercent(amount);
  if (S.selected === ALL) change(withLayers({ what: "blend", seed: otherSeed(), amount, gesture }));
  else edit(withLayers({ action: "toward-seed", seed: otherSeed(), amount, gesture }));
};
$("psi").oninput = () => { $("psiText").textContent = Number($("psi").value).toFixed(2); change({ what: "psi", psi: Number($("psi").value), gesture: gestureOf($("psi")) }); };
$("psi").onchange = () => { delete $("psi").dataset.gesture; };
for (const name of ["mean", "toward"]) $(name).onblur = resetSliders;
function goTo(source) {
  const last = S.model.rows === null ? 2 ** 53 - 1 : S.model.rows - 1;
  if (!Number.isInteger(source) || source < 0 || source > last) { sayError(new Error(`${$("sourceName").textContent} ${source}: give a whole number from 0 to ${last}`)); syncControls(); return; }
  change({ what: "image", source });
}
$("source").onchange = () => goTo($("source").valueAsNumber);
let otherTimer = 0;
function showOther() {
  clearTimeout(otherTimer);
  otherTimer = setTimeout(async () => {
    try { const reply = await ask("seed", { seed: otherSeed() }); thumbnail($("otherImage"), await decode(reply.image)); }
    catch (error) { sayError(error); }
  }, 250);
}
$("other").oninput = () => { resetSliders(); showOther(); };
$("class").onchange = () => change({ what: "label", ...($("class").value === "" ? {} : { class: Number($("class").value) }) });
$("vector").onchange = () => {
  const text = $("vector").value.trim();
  change({ what: "label", ...(text ? { vector: text.split(/[\s,]+/).map(Number) } : {}) });
};
function setNoise() { change({ what: "noise", noise: $("noise").value, ...($("noise").value === "random" ? { noise_seed: $("noiseSeed").valueAsNumber || 0 } : {}) }); }
$("noise").onchange = setNoise;
$("noiseSeed").onchange = setNoise;
async function save(kind) {
  $("saved").textContent = ["image", "latents"].includes(kind) ? "Saving…" : "Making the film…";
  try {
    const reply = await ask("save", { kind });
    $("saved").textContent = `Saved ${reply.file}${reply.note ? ` (${reply.note})` : ""}`;
  } catch (error) { $("saved").textContent = ""; sayError(error); }
}
function syncControls() {
  if (!S.reply) return;
  const state = S.reply.state, which = S.selected, removed = removedNow(which), component = isComponent(which);
  if (document.activeElement !== $("source") || document.activeElement.valueAsNumber !== state.source) $("source").value = state.source;
  if (!$("psi").dataset.gesture) { $("psi").value = state.psi; $("psiText").textContent = state.psi.toFixed(2); }
  $("noise").value = state.noise;
  $("noiseSeed").value = state.noise_seed;
  $("noiseSeedLabel").hidden = state.noise !== "random";
  if (S.model.labels.size) {
    $("class").value = state.own_label ? "" : String(state.label.indexOf(1));
    $("vector").value = state.own_label ? "" : state.label.join(", ");
  }
  $("remove").disabled = !component || removed || !S.model.can_remove;
  $("restore").disabled = which === ALL || !(state.changed.includes(which) || removed);
  $("mean").disabled = which === ALL || removed;
  $("toward").disabled = removed;
  $("swap").disabled = which === ALL || latents().length < 3;
  $("swapWith").disabled = $("swap").disabled;
  $("copyFrom").disabled = which === ALL;
  $("warning").hidden = !S.reply.warning;
  $("warning").textContent = S.reply.warning || "";
}

// ----- Keys -----

const KEYS = [
  ["r", "Re-roll the component", () => press("reroll")], ["x", "Remove it", () => press("remove")], ["o", "Restore it", () => press("restore")],
  ["c", "Copy it from the other image", () => press("copy")], ["s", "Swap it with another component", () => press("swap")],
  ["m", "To the slider toward its mean", () => $("mean").focus()], ["t", "To the slider toward the other seed", () => $("toward").focus()],
  ["ArrowRight", "Next component", () => select(step(latents(), S.selected, 1))], ["ArrowLeft", "Previous component", () => select(step(latents(), S.selected, -1))],
  ["a", "All latents", () => select(ALL)],
  ["z", "Undo", () => press("undo")], ["y", "Redo", () => press("redo")],
  ["n", "Next seed", () => press("nextSource")], ["p", "Previous seed", () => press("previousSource")], ["f", "Any seed", () => press("randomSource")],
  ["[", "Less variety (truncation)", () => nudge(-0.05)], ["]", "More variety", () => nudge(0.05)],
  ["g", "Show all regions", () => press("regions")], ["l", "Next layer's map", () => nextLayer(1)], ["L", "Previous layer's map", () => nextLayer(-1)],
  ["v", "Compare before and after", () => press("compareButton")],
  ...[1, 2, 3, 4, 5, 6].map(k => [String(k), `Walk to neighbour ${k}`, () => { const card = $("neighbours").children[k - 1]; if (card) card.click(); }]),
  ["0", "Other neighbours", () => press("moreNeighbours")],
  ["7", "Coarse layers on or off", () => group(0)], ["8", "Middle layers on or off", () => group(1)], ["9", "Fine layers on or off", () => group(2)],
  ["i", "Save the image", () => press("saveImage")], ["j", "Save its latents", () => press("saveLatents")], ["k", "Save a film of the steps", () => press("saveFilm")],
  ["?", "This list", () => press("help")],
];
function press(id) { if (!$(id).disabled) $(id).click(); }
function nudge(by) { $("psi").value = Number($("psi").value) + by; $("psi").oninput(); $("psi").onchange(); }
function nextLayer(by) { if (S.layer !== null) setLayer((S.layer + by + S.drawing.layers.length) % S.drawing.layers.length); }
function group(index) { const box = $("groups").querySelectorAll("input")[index]; if (box) box.click(); }
const CLICKS = {
  reroll, copy, undo: () => change({ what: "undo" }), redo: () => change({ what: "redo" }),
  remove: () => edit({ action: "remove" }), restore: () => edit({ action: "restore" }),
  swap: () => edit(withLayers({ action: "swap", other: Number($("swapWith").value) })),
  regions: () => { S.showRegions = !S.showRegions; $("regions").setAttribute("aria-pressed", S.showRegions); paintOverlay(); },
  compareButton: () => compare(!S.comparing),
  nextSource: () => goTo(S.reply.state.source + 1), previousSource: () => goTo(S.reply.state.source - 1),
  randomSource: () => goTo(S.model.rows === null ? randomSeed() : Math.floor(Math.random() * S.model.rows)),
  moreNeighbours: () => { S.firstNeighbour += 6; S.wantNeighbours = true; laterNeighbours(); },
  saveImage: () => save("image"), saveLatents: () => save("latents"), saveFilm: () => save($("filmKind").value),
  help: () => $("keys").showModal(),
};
for (const [id, action] of Object.entries(CLICKS)) $(id).onclick = action;
document.addEventListener("keydown", event => {
  const node = event.target, type = node.type;
  if (!S.model || $("keys").open || ["number", "text"].includes(type) || node.tagName === "SELECT") return;
  if (event.ctrlKey || event.metaKey) {
    if (event.key.toLowerCase() === "z") { event.preventDefault(); press(event.shiftKey ? "redo" : "undo"); }
    else if (event.key === "y") { event.preventDefault(); press("redo"); }
    return;
  }
  if (event.altKey || (type === "range" && event.key.startsWith("Arrow"))) return;
  if (event.key === "Escape" && type === "range") { $("image").focus(); return; }
  const found = KEYS.find(([key]) => key === event.key);
  if (found) { event.preventDefault(); found[2](); }
});

// ----- Start -----

function option(value, text) { return make("option", text, { value }); }
async function start() {
  say("Drawing the first image…");
  let reply;
  try { reply = await post("open", S.session ? { session: S.session } : {}); }
  catch (error) { sayError(error); return; }
  S.session = reply.session;
  sessionStorage.setItem("session", S.session);
  const model = S.model = reply.model;
  $("model").textContent = `${model.run ? `${model.run}, ` : ""}${model.name}, ${model.size[1]}×${model.size[0]}${model.components ? `, ${model.components} components` : ", no components"}`;
  $("saveImage").title = `Into ${model.output}`;
  S.selected = model.components ? 0 : ALL;
  S.groups = new Set(model.groups);
  $("groups").append(...model.groups.map(name => {
    const label = make("label"), box = make("input", undefined, { type: "checkbox", checked: true });
    box.onchange = () => {
      if (!box.checked && S.groups.size === 1) { box.checked = true; sayError(new Error("At least one group of layers is needed.")); return; }
      S.groups[box.checked ? "add" : "delete"](name);
      resetSliders();
      laterNeighbours();
    };
    label.append(box, ` ${name}`);
    return label;
  }));
  const single = latents().filter(which => which !== ALL), label = which => isComponent(which) ? `component ${which}` : "global latent";
  $("copyFrom").append(option("", "same component"), ...single.map(which => option(which, label(which))));
  $("swapWith").append(...single.map(which => option(which, label(which))));
  $("swapWith").value = single.length > 1 ? single[1] : "";
  $("swapRow").hidden = single.length < 2;
  $("regions").hidden = !model.has_maps;
  $("noiseRow").hidden = !model.has_noise;
  if (model.rows !== null) { $("sourceName").textContent = "Row"; $("source").max = model.rows - 1; }
  const { size, kind, names } = model.labels;
  $("labelRow").hidden = !size || kind !== "classes";
  $("vectorRow").hidden = !size || kind === "classes";
  if (size && kind === "classes") $("class").append(option("", "that of the seed"), ...Array.from({ length: size }, (_, k) => option(k, names ? names[k] : String(k))));
  $("keyTable").append(...KEYS.map(([key, does]) => { const row = make("tr"), cell = make("td"); cell.append(make("kbd", { ArrowRight: "→", ArrowLeft: "←", L: "Shift L" }[key] || key)); row.append(cell, make("td", does)); return row; }));
  await show(reply);
  performance.measure("first", { start: 0, end: performance.now() });
  say(`First image in ${Math.round(performance.now())} ms`);
  document.body.dataset.ready = "true";
  if (!S.drawing || !isSlow()) showOther();
}
start();
