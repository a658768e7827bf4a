import { drawBoard, drawLoss, drawPoints, drawable, floats, picture, plane, reachOf } from "./views.js";

const $ = (id) => document.getElementById(id);
const query = (path, values) => `${path}?${new URLSearchParams(values)}`;
const state = { about: null, panes: [], chosen: [], paint: null, stroke: [], busy: null };

// --- the server ---

async function answer(response) {
  if (response.ok) return response;
  const text = await response.text();
  let message = text;
  try { message = JSON.parse(text).error; } catch { /* It is plain text. */ }
  throw new Error(message);
}
const json = async (path, values = {}) => (await answer(await fetch(query(path, values)))).json();
const blobUrl = async (path, values) =>
  URL.createObjectURL(await (await answer(await fetch(query(path, values)))).blob());

// Posts a request and calls heard(name, data) for each event of the answer.
async function stream(path, request, heard, signal) {
  const reader = (await answer(await fetch(path, { method: "POST", body: JSON.stringify(request), signal })))
    .body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (text + value).split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const [, name, data] = part.match(/^event: (.*)\ndata: (.*)$/s);
        if (name === "error") throw new Error(JSON.parse(data).error);
        heard(name, JSON.parse(data));
      }
    }
  } finally {
    reader.cancel().catch(() => {});  // An open answer would keep its chain.
  }
}

function fail(error) {
  if (error.name !== "AbortError") $("error").textContent = error.message;
}
const safely = (action) => async (event) => {
  $("error").textContent = "";
  try { await action(event); } catch (error) { fail(error); }
};

// --- runs and settings ---

function options(select, rows) {
  const before = select.value;
  select.replaceChildren(...rows.map(([value, text]) => new Option(text ?? value, value)));
  if (rows.some(([value]) => String(value) === before)) select.value = before;
}

async function listRuns(chosen) {
  const rows = await json("runs"), select = $("run");
  if (chosen) select.add(new Option(chosen, chosen));
  if (chosen) select.value = chosen;
  options(select, rows.map((row) => [row.name, row.name
    + (row.problem ? " (can't be read)" : row.live ? ` (training: ${row.step} of ${row.steps})` : "")]));
  if (!rows.length) $("about").textContent = "There are no runs here yet. Train one, or draw a shape below.";
  return rows;
}

async function openRun() {
  const name = $("run").value;
  state.busy?.abort();
  state.about = state.score = null;
  $("draw").disabled = true;
  if (!name) return;
  const about = await json("about", { run: name });
  // It may be chosen twice in a row, as by the page and then by a person.
  if (name !== $("run").value || state.about) return;
  state.about = about;
  $("draw").disabled = !about.draws;
  $("about").textContent = `${about.points ? "points" : about.shape.join(" × ") + " pictures"}, T = ${about.T}`
    + (about.draws ? "" : "; a classifier, which draws no samples");
  for (const form of document.querySelectorAll("#forms form")) fill(form, about);
  $("point-views").hidden = !about.points;
  $("edits").hidden = about.points;
  for (const id of ["t", "vary-t"]) {
    $(id).max = about.T;
    $(id).value = id === "t" ? Math.max(1, Math.round(about.T / 10)) : Math.round(0.4 * about.T);
    $(id).dispatchEvent(new Event("input"));
  }
  choose([]);
  makePanes();
  await showTraining();
}

function fill(form, about) {
  const it = form.elements;
  for (const each of form.querySelectorAll("[data-if]")) {
    const known = about[each.dataset.if];
    each.hidden = !(Array.isArray(known) ? known.length : known);
  }
  const best = about.best === null ? [] : [["best", `best (step ${about.best})`]];
  const steps = [...about.checkpoints].reverse().map((step) => [step, `step ${step}`]);
  options(it.checkpoint, [["", "newest"], ...best, ...steps]);
  options(it.params, [["", "first average"], ...about.params.map((name) => [name])]);
  const none = about.guidable ? [["no class"]] : [];
  options(it.labels, [["", "all in turn"], ...about.classes.map((name) => [name]), ...none]);
  options(it.sampler, [["", `as trained: ${about.sampler}`], ...about.samplers.map((name) => [name])]);
  options(it.grid, [["", "that of the sampler"], ...about.grids.map((name) => [name])]);
  it.steps.placeholder = about.steps;
  it.steps.max = about.T;
  it.guidance.placeholder = about.guidance;
  [it.low.placeholder, it.high.placeholder] = about.log_snr.map((v) => v.toFixed(1));
  if (about.points && it.num.value === "16") it.num.value = 1000;
  if (!about.points && it.num.value === "1000") it.num.value = 16;
}

function asked(form) {
  const it = form.elements;
  const number = (field) => {
    if (field.value === "") return null;
    if (Number.isNaN(Number(field.value))) throw new Error(`${field.name} is ${field.value}; it must be a number`);
    return Number(field.value);
  };
  const shown = (field) => field.value !== "" && !field.closest("[hidden]");
  const settings = {}, request = { run: $("run").value, every: $("every").checked, settings };
  for (const name of ["num", "seed", "first"]) request[name] = number(it[name]) ?? 0;
  if (shown(it.checkpoint)) request.checkpoint = it.checkpoint.value === "best" ? "best" : number(it.checkpoint);
  if (shown(it.params)) request.params = it.params.value;
  if (shown(it.ema_length)) request.ema_length = number(it.ema_length);
  if (shown(it.labels)) request.labels = [it.labels.value];
  if (it.options.value && !it.sampler.value) it.sampler.value = state.about.sampler;
  if (it.sampler.value) settings.sampler = `${it.sampler.value} ${it.options.value}`.trim();
  if (it.grid.value) settings.grid = it.grid.value;
  if (it.steps.value) settings.steps = number(it.steps);
  if (shown(it.guidance)) settings.guidance = number(it.guidance);
  if (shown(it.low) || shown(it.high)) {
    settings.guidance_interval = [number(it.low) ?? state.about.log_snr[0], number(it.high) ?? state.about.log_snr[1]];
  }
  return request;
}

const forms = () => [...document.querySelectorAll("#forms form")];

function makeForms() {
  const wanted = $("compare").checked ? 2 : 1;
  while (forms().length > wanted) forms().at(-1).remove();
  while (forms().length < wanted) {
    const form = $("form").content.cloneNode(true).firstElementChild;
    $("forms").append(form);
    form.addEventListener("submit", (event) => { event.preventDefault(); $("draw").click(); });
    if (!state.about) continue;
    fill(form, state.about);
    for (const field of forms()[0].elements) if (field.name) form.elements[field.name].value = field.value;
  }
  forms().forEach((form, i) => { form.querySelector("legend").textContent = wanted > 1 ? "AB"[i] : ""; });
  // The noise is the same for both: the seed and the samples' numbers are A's.
  const [a, b] = forms();
  for (const name of ["seed", "first", "num"]) {
    a.elements[name].oninput = () => { if (b?.isConnected) b.elements[name].value = a.elements[name].value; };
    if (b) b.elements[name].readOnly = true;
  }
}

// --- the stage ---

function makePanes() {
  const wanted = forms().length;
  $("panes").replaceChildren();
  state.panes = forms().map((_, i) => {
    const element = $("pane").content.cloneNode(true).firstElementChild;
    element.querySelector("h3").textContent = wanted > 1 ? "AB"[i] : "";
    element.setAttribute("aria-label", wanted > 1 ? `settings ${"AB"[i]}` : "samples");
    const [x, x0] = element.querySelectorAll("canvas");
    $("panes").append(element);
    return { element, x, x0, frames: [], layout: null, result: null, labels: null, reach: 1.5 };
  });
  for (const button of document.querySelectorAll("[data-save]")) button.disabled = true;
  $("copy").disabled = true;
  $("scrub").disabled = true;
}

async function drawAll(requests, path = "draw") {
  state.busy?.abort();
  const busy = state.busy = new AbortController();
  $("stop").disabled = false;
  makePanes();
  choose([]);
  const panes = state.panes;  // A chain never writes into those of another draw.
  try {
    await Promise.all(requests.map((request, i) => {
      panes[i].request = request;
      return stream(path, request, (name, data) => heard(panes[i], name, data), busy.signal);
    }));
  } finally {
    busy.abort();  // If one failed, the other one ends too.
    if (state.busy === busy) { $("stop").disabled = true; state.busy = null; }
  }
}

function heard(pane, name, data) {
  if (name === "start") {
    pane.layout = data;
    pane.element.querySelector(".pane-said").textContent = [data.about, ...data.said].join("; ");
    $("command").textContent = state.panes.map((each) => each.layout?.command).filter(Boolean).join("\n");
    $("copy").disabled = false;
    for (const board of pane.element.querySelectorAll(".board")) board.classList.toggle("points", data.shape.length === 1);
  } else if (name === "frame") {
    const frame = { ...data };
    if (pane.layout.shape.length === 1) {
      frame.points = floats(data.x);
      frame.points0 = data.x_0 && floats(data.x_0);
      if (data.done === 0 || data.done === data.of) pane.reach = Math.max(pane.reach, reachOf(frame.points));
    } else {
      frame.images = Promise.all([picture(data.x), data.x_0 && picture(data.x_0)]);
    }
    if (data.done === 0) pane.frames = [];  // An edit follows several chains: the last one stays.
    pane.frames.push(frame);
    $("scrub").max = Math.max(...state.panes.map((each) => each.frames.length)) - 1;
    $("scrub").value = $("scrub").max;
    $("scrub").disabled = false;
    show();
  } else if (name === "done") {
    pane.result = data.result;
    pane.labels = data.labels;
    const values = Object.entries(data.values).map(([what, value]) => `${what}: ${value.toPrecision(2)}`);
    pane.element.querySelector(".pane-said").textContent =
      [pane.layout.about, `${data.seconds} seconds`, ...values, ...pane.layout.said].join("; ");
    for (const button of document.querySelectorAll("[data-save]")) button.disabled = false;
    if (pane.layout.shape.length > 1) finish(pane);
  }
}

async function board(result) {
  const url = await blobUrl("board", { result });
  try { return await picture(url); } finally { URL.revokeObjectURL(url); }
}

async function finish(pane) {
  // The frames of large boards lose a little; the result itself does not.
  const exact = board(pane.result);
  const last = pane.frames.at(-1);
  if (last) last.images = Promise.all([exact, last.images.then((images) => images[1])]);
  makeTiles(pane);
  show();
}

let drawing = 0;
async function show() {
  const turn = ++drawing, part = Number($("scrub").value) / Math.max(1, Number($("scrub").max)), wheres = [];
  for (const pane of state.panes) {
    // Chains of other lengths are shown at the same part of their way.
    const at = Math.round(part * (pane.frames.length - 1)), frame = pane.frames[at];
    if (!frame) continue;
    const where = `step ${frame.done} of ${frame.of}, t = ${Number(frame.t.toFixed(2))}`;
    wheres.push(where);
    $("where").textContent = wheres.join("; ");
    $("scrub").setAttribute("aria-valuetext", wheres.join("; "));
    pane.x.setAttribute("aria-label", `${pane.layout.num} noisy samples at ${where}`);
    pane.x0.setAttribute("aria-label", `what the network predicts at ${where}`);
    if (frame.points) { showPoints(pane, frame, at); continue; }
    const [x, x0] = await frame.images;
    if (turn !== drawing) return;
    drawBoard(pane.x, x, pane.layout);
    if (x0) drawBoard(pane.x0, x0, pane.layout);
    else pane.x0.getContext("2d").clearRect(0, 0, pane.x0.width, pane.x0.height);
  }
}

function showPoints(pane, frame, at) {
  const extras = { density: $("density").checked, score: $("arrows").checked && state.score };
  if ($("lines").checked) extras.lines = pane.frames.slice(0, at + 1).map((each) => each.points);
  drawPoints(pane.x, frame.points, pane.reach, extras);
  if (frame.points0) drawPoints(pane.x0, frame.points0, pane.reach, { density: extras.density });
  else plane(pane.x0, pane.reach);
}

async function fetchScore() {
  if (!$("arrows").checked) return show();
  const { run, checkpoint, params, ema_length, labels } = asked(forms()[0]);
  const values = { run, checkpoint, params, ema_length, label: labels?.[0], t: Number($("t").value) };
  values.reach = state.panes[0]?.reach ?? 1.5;
  const found = await json("score", { asked: JSON.stringify(values) });
  if (found && run === $("run").value && values.t === Number($("t").value)) state.score = { points: floats(found.points), score: floats(found.score) };
  if (!state.panes[0].frames.length) {
    drawPoints(state.panes[0].x, new Float32Array(), values.reach, { score: state.score });
  }
  return show();
}

// --- samples that are chosen ---

function makeTiles(pane) {
  const tiles = pane.element.querySelector(".tiles"), { columns, num } = pane.layout;
  tiles.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
  tiles.style.gridTemplateRows = `repeat(${Math.ceil(num / columns)}, 1fr)`;
  tiles.replaceChildren(...Array.from({ length: num }, (_, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.tabIndex = i ? -1 : 0;
    const label = pane.labels?.[i];
    button.setAttribute("aria-label", `sample ${i}${label === undefined ? "" : `, class ${label}`}`);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => toggle(pane, i));
    return button;
  }));
  tiles.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const all = [...tiles.children], from = all.indexOf(document.activeElement), to = all[from + step];
    if (!step || !to) return;
    event.preventDefault();
    all[from].tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  };
}

function toggle(pane, index) {
  const same = (each) => each.pane === pane && each.index === index;
  const kept = state.chosen.filter((each) => !same(each));
  choose(kept.length < state.chosen.length ? kept : [...kept, { pane, index, result: pane.result }].slice(-2));
}

// Makes these the chosen samples; edits begin from the last one.
function choose(chosen) {
  state.chosen = chosen;
  for (const pane of state.panes) {
    [...pane.element.querySelectorAll(".tiles button")].forEach((button, i) =>
      button.setAttribute("aria-pressed", chosen.some((each) => each.pane === pane && each.index === i)));
  }
  const last = chosen.at(-1), text = chosen.map((each) => each.pane ? `sample ${each.index}` : "the dropped picture");
  $("chosen").textContent = last ? `Chosen: ${text.join(" and ")}.` : "Click a sample, or drop a picture on the page.";
  for (const id of ["invert", "vary", "inpaint", "clear-mask"]) $(id).disabled = !last;
  $("keep").disabled = !last?.pane;
  $("interpolate").disabled = chosen.length < 2;
  showPaint(last).catch(fail);
}

async function useFile(file) {
  const response = await fetch(query("picture", { run: $("run").value }), { method: "POST", body: file });
  const { result } = await (await answer(response)).json();
  choose([...state.chosen, { result, index: 0 }].slice(-2));
}

function keepNoise() {
  const { pane, index } = state.chosen.at(-1), [form] = forms(), it = form.elements;
  const { first = 0, seed = 0 } = pane.request ?? {};
  it.first.value = first + index;
  it.seed.value = seed;
  it.num.value = 1;
  const label = pane.labels?.[index];
  if (label !== undefined) it.labels.value = label;
  for (const name of ["seed", "first", "num"]) it[name].dispatchEvent(new Event("input"));
  $("chosen").textContent = "The next draw has this sample's noise alone: change other settings and draw.";
}

function edit(how, more = {}, own = {}) {
  const last = state.chosen.at(-1), request = asked(forms()[0]);
  Object.assign(request, { how, picture: [last.result, last.index], options: own, first: 0, ...more });
  request.num = more.num ?? Number($("variants").value);
  return drawAll([request]);
}

async function showPaint(last) {
  const pen = $("paint").getContext("2d");
  pen.clearRect(0, 0, 256, 256);
  state.paint = null;
  if (!last) return;
  const image = await board(last.result);
  if (state.chosen.at(-1) !== last) return;
  const [height, width] = state.about.shape, columns = last.pane?.layout.columns ?? 1;
  const place = [last.index % columns * width, Math.floor(last.index / columns) * height];
  state.paint = { image, place, height, width, mask: new Set() };
  paintAgain();
}

function paintAgain(cursor) {
  const pen = $("paint").getContext("2d"), it = state.paint;
  if (!it) return;
  const [sx, sy] = [256 / it.width, 256 / it.height];
  pen.imageSmoothingEnabled = false;
  pen.drawImage(it.image, ...it.place, it.width, it.height, 0, 0, 256, 256);
  pen.fillStyle = "#e8590c";
  pen.globalAlpha = 0.65;
  for (const pixel of it.mask) pen.fillRect(pixel % it.width * sx, Math.floor(pixel / it.width) * sy, sx, sy);
  pen.globalAlpha = 1;
  if (cursor) { pen.strokeStyle = "#e8590c"; pen.strokeRect(cursor.x * 256 - 4, cursor.y * 256 - 4, 8, 8); }
  $("paint").setAttribute("aria-label", `picture to paint a mask on; ${it.mask.size} pixels are painted`);
}

function paintAt(x, y) {
  const it = state.paint;
  if (!it) return;
  const reach = Math.max(0, Math.round(it.width / 24) - 1);
  const [column, row] = [Math.min(it.width - 1, Math.floor(x * it.width)), Math.min(it.height - 1, Math.floor(y * it.height))];
  for (let r = Math.max(0, row - reach); r <= Math.min(it.height - 1, row + reach); r++) {
    for (let c = Math.max(0, column - reach); c <= Math.min(it.width - 1, column + reach); c++) it.mask.add(r * it.width + c);
  }
  paintAgain();
}

// --- training that goes on, and a shape drawn on the page ---

const clock = (s) => s === null ? "" : s > 5400 ? `, ${(s / 3600).toFixed(1)} hours left` : s > 90 ? `, ${Math.round(s / 60)} minutes left` : `, ${Math.round(s)} seconds left`;

async function showTraining() {
  const name = $("run").value;
  $("training").hidden = !name || name.startsWith("drawing ");
  if ($("training").hidden) return;
  const it = await json("progress", { run: name });
  if (name !== $("run").value) return;
  const last = it.losses.at(-1), first = it.losses[0];
  const fall = last ? `; loss ${first[1].toPrecision(3)} at step ${first[0]}, now ${last[1].toPrecision(3)}` : "";
  $("training-said").textContent = `${it.live ? "Training" : "Not training"}: step ${it.step.toLocaleString("en")} of `
    + `${it.steps.toLocaleString("en")}${clock(it.seconds_left)}${fall}`;
  $("loss").setAttribute("aria-label", `loss over the steps${fall}`);
  drawLoss($("loss"), it.losses);
  const slider = $("preview-step"), follows = slider.value === slider.max;
  state.previews = it.previews;
  $("preview-figure").hidden = !it.previews.length;
  slider.max = Math.max(0, it.previews.length - 1);
  if (follows) slider.value = slider.max;
  await showPreview();
}

async function showPreview() {
  const step = state.previews?.[Number($("preview-step").value)], name = $("run").value;
  if (step === undefined || $("preview").dataset.shown === `${name} ${step}`) return;
  const url = await blobUrl("preview", { run: name, step });
  if ($("preview").src) URL.revokeObjectURL($("preview").src);
  Object.assign($("preview"), { src: url, alt: `samples at step ${step} of training` });
  $("preview").dataset.shown = `${name} ${step}`;
  $("preview-shown").textContent = `step ${step}`;
}

const REACH = 1.8;

function showShape(extra, cursor) {
  const [pen, toX, toY] = plane($("shape"), REACH, 320);
  const style = getComputedStyle(document.documentElement);
  if (extra) {
    pen.fillStyle = style.getPropertyValue("--main");
    for (let i = 0; i < extra.length; i += 2) pen.fillRect(toX(extra[i]) - 1, toY(extra[i + 1]) - 1, 2.5, 2.5);
  }
  pen.strokeStyle = style.getPropertyValue("--mark");
  pen.lineWidth = 2;
  for (const line of state.stroke) {
    pen.beginPath();
    for (const [x, y] of line) pen.lineTo(toX(x), toY(y));
    pen.stroke();
  }
  if (cursor) pen.strokeRect(cursor.x * 320 - 4, cursor.y * 320 - 4, 8, 8);
}

function heart() {
  const line = Array.from({ length: 121 }, (_, i) => {
    const a = i / 60 * Math.PI;
    return [16 * Math.sin(a) ** 3 / 12, (13 * Math.cos(a) - 5 * Math.cos(2 * a) - 2 * Math.cos(3 * a) - Math.cos(4 * a)) / 12];
  });
  state.stroke = [line];
  showShape();
}

async function learn() {
  state.busy?.abort();
  const busy = state.busy = new AbortController();
  $("stop").disabled = false;
  $("learned").textContent = "Compiling the network …";
  try {
    await stream("learn", { lines: state.stroke }, (name, data) => {
      if (name === "learned") {
        showShape(floats(data.x));
        $("learned").textContent = `Step ${data.step.toLocaleString("en")}: loss ${data.losses.at(-1)[1].toPrecision(3)}`;
      } else if (name === "done") {
        $("learned").textContent = `Learned in ${data.seconds} seconds. Its samples are ${data.distance.toPrecision(2)} from `
          + `your shape (sliced W1); two draws of the shape are ${data.between_draws.toPrecision(2)} apart. It is the run “${data.run}” above.`;
        listRuns(data.run).then(openRun).catch(fail);
      }
    }, busy.signal);
  } finally {
    if (state.busy === busy) { $("stop").disabled = true; state.busy = null; }
  }
}

// --- what people do ---

$("run").addEventListener("change", safely(openRun));
$("compare").addEventListener("change", () => { state.busy?.abort(); makeForms(); makePanes(); });
$("draw").addEventListener("click", safely(() => drawAll(forms().map(asked))));
$("stop").addEventListener("click", () => state.busy?.abort());
$("scrub").addEventListener("input", show);
for (const id of ["lines", "density"]) $(id).addEventListener("change", show);
for (const id of ["t", "arrows"]) $(id).addEventListener("change", safely(fetchScore));
$("forms").addEventListener("change", safely(async ({ target }) => {
  if (["checkpoint", "params", "ema_length", "labels"].includes(target.name)) await fetchScore();
}));
for (const [id, output] of [["t", "t-shown"], ["vary-t", "vary-shown"]]) {
  $(id).addEventListener("input", () => { $(output).textContent = $(id).value; });
}
$("copy").addEventListener("click", safely(async () => {
  await navigator.clipboard.writeText($("command").textContent);
  $("copy").textContent = "Copied";
  setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
}));
for (const button of document.querySelectorAll("[data-save]")) {
  button.addEventListener("click", safely(async () => {
    for (const pane of state.panes.filter((each) => each.result)) {
      const link = document.createElement("a");
      link.href = await blobUrl("save", { result: pane.result, kind: button.dataset.save });
      link.download = `samples.${button.dataset.save}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    }
  }));
}
$("keep").addEventListener("click", safely(keepNoise));
$("invert").addEventListener("click", safely(() => edit("invert", { num: 1 })));
$("vary").addEventListener("click", safely(() => edit("vary", {}, { t: Number($("vary-t").value) })));
$("interpolate").addEventListener("click", safely(() => {
  const [first, second] = state.chosen;
  const num = Math.max(2, Number($("variants").value));
  return edit("interpolate", { num, picture: [first.result, first.index], second: [second.result, second.index] });
}));
$("inpaint").addEventListener("click", safely(() =>
  edit("inpaint", { mask: [...state.paint.mask].sort((a, b) => a - b) }, { method: $("method").value })));
$("clear-mask").addEventListener("click", () => { state.paint?.mask.clear(); paintAgain(); });
drawable($("paint"), paintAt, { step: 1 / 32, moved: paintAgain });
$("file").addEventListener("change", safely(async () => { if ($("file").files[0]) await useFile($("file").files[0]); }));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", safely(async (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) await useFile(event.dataTransfer.files[0]);
}));
$("preview-step").addEventListener("input", safely(showPreview));
drawable($("shape"), (x, y, begins) => {
  const point = [(2 * x - 1) * REACH, (1 - 2 * y) * REACH];
  if (begins) state.stroke.push([point]);
  else state.stroke.at(-1)?.push(point);
  showShape();
}, { moved: (pen) => showShape(null, pen) });
$("heart").addEventListener("click", heart);
$("clear-shape").addEventListener("click", () => { state.stroke = []; showShape(); });
$("learn").addEventListener("click", safely(learn));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { show(); showShape(); showTraining(); });

makeForms();
makePanes();
showShape();
listRuns().then(openRun).catch(fail);
// Runs that train write on: look again while the page is seen.
const seen = (action) => () => { if (!document.hidden) action().catch(() => {}); };
setInterval(seen(showTraining), 2_000);
setInterval(seen(async () => state.busy || listRuns()), 10_000);
