// -- charts: over t for noise, over steps for a text that a model wrote ----------------------------------------

const CURVES = [
  { title: "Expected noise (line), signal α (dots)", lines: ["noise", "alpha"], top: () => 1 },
  { title: "Loss weight w = −α′ / (1 − α)", lines: ["weight"], log: true },
  { title: "Bits: I(x₀; xₜ) (line), H(xₜ) (dots)", lines: ["information", "entropy"], top: Math.max },
  { title: "Distance from pure noise (total variation)", lines: ["distance"], top: () => 1 },
];
const COUNTS = [
  ["masks", "masks left (thick line)", "process-0"],
  ["nfe", "calls (dots)", "process-1 dotted"],
  ["revised", "revisions (thin line)", "process-3"],
];
const BOX = { left: 30, top: 8, width: 256, height: 120 };
const SVG_DOTS = 4000; // of one chart: more cannot be told apart

const round = (value) => `${+value.toPrecision(value < 100 ? 2 : 3)}`;

// series: { xs, ys, kind }, with kind a class; dots: [x, y, kind]. Values above `high` are cut off. log: low and high
// are powers of ten.
function chart({ title, unit, left = 0, right, low = 0, high, log = false, falls = false, series = [], dots = [] }) {
  const scaled = (value) => log ? Math.log10(Math.max(value, 1e-300)) : value;
  const x = (value) => BOX.left + Math.max(0, value - left) / (right - left) * BOX.width;
  const share = (value) => Math.max(0, Math.min(scaled(value), high) - low) / (high - low);
  const at = (part) => log ? 10 ** (low + part * (high - low)) : low + part * (high - low);
  const y = (value) => BOX.top + (falls ? share(value) : 1 - share(value)) * BOX.height;
  const ends = series.map(({ name, ys }) => [name, ys.filter((value) => value !== null)]).filter(([, ys]) => ys.length)
    .map(([name, ys]) => [name, `from ${round(ys[0])} to ${round(ys.at(-1))}`].filter(Boolean).join(" "));
  const svg = element("svg", { viewBox: "0 0 300 150", role: "img", "aria-label": [title, ...ends].join("; ") });
  for (const part of [0, 0.5, 1]) {
    svg.append(
      element("line", { class: "axis", x1: x(left), x2: x(right), y1: y(at(part)), y2: y(at(part)) }),
      element("text", { x: x(left) - 5, y: y(at(part)) + 4, "text-anchor": "end" }, round(at(part))),
      element("text", { x: BOX.left + part * BOX.width, y: 145, "text-anchor": "middle" },
        `${part ? "" : unit} ${round(left + part * (right - left))}`));
  }
  for (const { xs, ys, kind } of series) {
    const points = xs.map((at, k) => [at, ys[k]]).filter(([, value]) => value !== null && scaled(value) <= high + 0.2 * (high - low));
    if (!points.length) continue;
    const path = points.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join("L");
    svg.append(element("path", { d: `M${path}`, class: kind }));
  }
  for (const [at, value, kind] of dots.slice(0, SVG_DOTS)) {
    svg.append(element("circle", { cx: x(at).toFixed(1), cy: y(value).toFixed(1), r: 1.7, class: kind }));
  }
  svg.append(falls
    ? element("line", { class: "now level", x1: BOX.left, x2: BOX.left + BOX.width })
    : element("line", { class: "now", y1: BOX.top, y2: BOX.top + BOX.height }));
  svg.place = falls ? y : x;
  return element("figure", {}, element("figcaption", {}, title), svg);
}

function noiseCharts() {
  return CURVES.flatMap(({ title, lines, top, log }) => {
    const chapters = story.chapters.map((chapter, process) => ({ curves: chapter.curves, process }));
    const all = chapters.flatMap(({ curves }) => lines.flatMap((line) => curves[line])).filter((v) => v !== null);
    if (!all.length) return [];
    const series = chapters.flatMap(({ curves, process }) => lines.map((line, k) => (
      { xs: curves.t, ys: curves[line], name: `${line} of ${story.chapters[process].name}`, kind: `process-${process % COLOURS} ${k ? "dotted" : ""}` })));
    const powers = all.filter((v) => v > 0).map(Math.log10);
    const ends = log ? { log, low: Math.floor(Math.min(...powers, 0)), high: Math.ceil(Math.max(...powers, 1)) } : { high: top(...all, 1e-9) };
    return [chart({ title, unit: "t =", right: 1, series, ...ends })];
  });
}

function writingCharts() {
  const { rows, events, beliefs } = track, xs = rows.map((row) => row.step);
  const left = rows.length > 1 ? xs[1] - 1 : 0, right = Math.max(left + 1, xs.at(-1));
  const column = (name, kind) => ({ name, xs, ys: rows.map((row) => row[name]), kind });
  const mean = new Map();
  for (const [step, , bits] of beliefs) {
    const [sum, count] = mean.get(step) ?? [0, 0];
    mean.set(step, [sum + bits, count + 1]);
  }
  const steps = [...mean.keys()], bits = steps.map((step) => mean.get(step)[0] / mean.get(step)[1]);
  const counted = COUNTS.filter(([name]) => rows.some((row) => row[name])); // what never happens is not drawn
  const counts = counted.flatMap(([name]) => rows.map((row) => row[name]));
  const order = chart({
    title: "Order: at which step (down) each position changed", unit: "", right: Math.max(1, track.clean.length),
    low: left, high: right, falls: true, dots: events.map(([step, at, state]) => [at, step, `event-${state}`]),
  });
  const cost = chart({
    title: `So far: ${counted.map(([, told]) => told).join(", ")}`, unit: "step", left, right,
    high: Math.max(1, ...counts), series: counted.map(([name, , kind]) => column(name, kind)),
  });
  const entropy = chart({
    title: "Entropy of a belief, mean, bits", unit: "step", left, right,
    high: Math.max(1, ...bits), series: [{ xs: steps, ys: bits, kind: "process-2" }],
  });
  return steps.length ? [order, cost, entropy] : [order, cost];
}

// Charts of noise are those of all processes; charts of writing are the track's own.
function drawCharts() {
  const writes = track.events.length > 0;
  $("measured").hidden = !writes && !track.chapter.curves.t.length;
  if ($("curves").track === (writes ? track : story)) return;
  $("curves").track = writes ? track : story;
  $("left").textContent = writes ? "How it was written" : "What is left at time t";
  $("processes").hidden = writes;
  $("curves").replaceChildren(...(writes ? writingCharts() : noiseCharts()));
  $("curves").lines = [...$("curves").querySelectorAll(".now")];
}

function drawNow(row) {
  for (const line of $("curves").lines) {
    const place = line.parentNode.place(row.step ?? row.t), ends = line.classList.contains("level") ? ["y1", "y2"] : ["x1", "x2"];
    for (const end of ends) line.setAttribute(end, place);
  }
}

// -- the Gaussian twin: tokens above their values, drawn anew at each time ---------------------------------------

const CELL = 22, REACH = 3; // narrowest column; standard deviations from the middle to an edge

let plate; // what the values are drawn on

// Reads what stays the same from one time to the next: sizes and colours.
function makeValues() {
  const canvas = $("values"), values = track.values;
  $("twin").hidden = !values;
  if (!values) return;
  const room = canvas.parentNode.clientWidth, count = Math.min(values.clean.length, Math.max(8, Math.floor(room / CELL)));
  const width = Math.min(room, count * 36), height = 150, dense = Math.min(3, devicePixelRatio || 1);
  [canvas.width, canvas.height] = [Math.round(width * dense), Math.round(height * dense)];
  canvas.style.setProperty("width", `${width}px`);
  const look = getComputedStyle(document.documentElement), pen = canvas.getContext("2d"), column = width / count;
  const colour = Object.fromEntries(["masked", "replaced", "replaced-ink", "raised", "ink", "faint", "process-0", "process-1"]
    .map((name) => [name, look.getPropertyValue(`--${name}`)]));
  pen.setTransform(dense, 0, 0, dense, 0, 0);
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.font = `${Math.min(16, column * 0.7)}px ui-monospace, monospace`;
  plate = { pen, colour, count, column, width, height };
}

function drawValues() {
  const values = track.values;
  if (!values) return;
  const { pen, colour, count, column, width, height } = plate, middle = 92, unit = 54 / REACH;
  const faces = { m: colour.masked, r: colour.replaced, k: colour.raised };
  pen.clearRect(0, 0, width, height);
  for (let i = 0; i < count; i++) {
    const left = i * column, state = stateAt(i), z = Math.max(-REACH, Math.min(REACH, values.rows[frame][i]));
    pen.fillStyle = faces[state];
    pen.fillRect(left + 1, 2, column - 2, 26);
    pen.fillStyle = state === "r" ? colour["replaced-ink"] : colour.ink;
    const piece = [...story.pieces[tokenAt(i)].replaceAll(" ", "␣")].slice(0, 4).join("");
    if (!HIDDEN.includes(state)) pen.fillText(piece, left + column / 2, 16, column - 2);
    pen.fillStyle = z > 0 ? colour["process-1"] : colour["process-0"];
    pen.fillRect(left + column * 0.2, middle, column * 0.6, -z * unit);
    pen.fillStyle = colour.ink;
    pen.fillRect(left + column * 0.08, middle - values.clean[i] * unit - 0.5, column * 0.84, 1.2);
  }
  pen.fillStyle = colour.faint;
  pen.fillRect(0, middle - 0.5, width, 1);
}
