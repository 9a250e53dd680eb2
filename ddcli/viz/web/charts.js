// -- charts: over t for noise, over steps for a text that a model wrote ----------------------------------------

const CURVES = [
  { title: "Expected noise (line), signal α (dots)", lines: ["noise", "alpha"], top: () => 1 },
  { title: "Loss weight w = −α′ / (1 − α)", lines: ["weight"], top: () => 10 },
  { title: "Bits: I(x₀; xₜ) (line), H(xₜ) (dots)", lines: ["information", "entropy"], top: Math.max },
  { title: "Total variation from pure noise", lines: ["distance"], top: () => 1 },
];
const BOX = { left: 30, top: 8, width: 256, height: 120 };
const SVG_DOTS = 4000; // of one chart: more cannot be told apart

const round = (value) => `${+value.toPrecision(2)}`;

// series: { xs, ys, kind }, with kind a class; dots: [x, y, kind]. Values above `high` are cut off.
function chart({ title, unit, right, high, falls = false, series = [], dots = [] }) {
  const x = (value) => BOX.left + value / right * BOX.width;
  const share = (value) => Math.min(value, high) / high;
  const y = (value) => BOX.top + (falls ? share(value) : 1 - share(value)) * BOX.height;
  const svg = element("svg", { viewBox: "0 0 300 150", role: "img", "aria-label": title });
  for (const part of [0, 0.5, 1]) {
    svg.append(
      element("line", { class: "axis", x1: x(0), x2: x(right), y1: y(part * high), y2: y(part * high) }),
      element("text", { x: x(0) - 5, y: y(part * high) + 4, "text-anchor": "end" }, round(part * high)),
      element("text", { x: x(part * right), y: 145, "text-anchor": "middle" }, part ? round(part * right) : `${unit} 0`));
  }
  for (const { xs, ys, kind } of series) {
    const points = xs.map((at, k) => [at, ys[k]]).filter(([, value]) => value !== null && value <= high * 1.2);
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
  svg.right = right;
  return element("figure", {}, element("figcaption", {}, title), svg);
}

function noiseCharts() {
  return CURVES.flatMap(({ title, lines, top }) => {
    const chapters = story.chapters.map((chapter, process) => ({ curves: chapter.curves, process }));
    const all = chapters.flatMap(({ curves }) => lines.flatMap((line) => curves[line])).filter((v) => v !== null);
    if (!all.length) return [];
    const series = chapters.flatMap(({ curves, process }) => lines.map((line, k) => (
      { xs: curves.t, ys: curves[line], kind: `process-${process % COLOURS} ${k ? "dotted" : ""}` })));
    return [chart({ title, unit: "t =", right: 1, high: top(...all, 1e-9), series })];
  });
}

function writingCharts() {
  const { rows, events, beliefs } = track, xs = rows.map((row) => row.step), right = Math.max(1, xs.at(-1));
  const column = (name, kind) => ({ xs, ys: rows.map((row) => row[name]), kind });
  const mean = new Map();
  for (const [step, , bits] of beliefs) {
    const [sum, count] = mean.get(step) ?? [0, 0];
    mean.set(step, [sum + bits, count + 1]);
  }
  const steps = [...mean.keys()], bits = steps.map((step) => mean.get(step)[0] / mean.get(step)[1]);
  const counts = rows.flatMap((row) => [row.masks, row.nfe, row.revised]);
  const order = chart({
    title: "Order: at which step (down) each position changed", unit: "", right: Math.max(1, track.clean.length),
    high: right, falls: true, dots: events.map(([step, at, state]) => [at, step, `event-${state}`]),
  });
  const cost = chart({
    title: "Masks left (line), network calls (dots)", unit: "step", right, high: Math.max(1, ...counts),
    series: [column("masks", "process-0"), column("nfe", "process-1 dotted")],
  });
  const entropy = chart({
    title: "Entropy of a belief, mean, bits", unit: "step", right,
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
}

function drawNow(row) {
  const at = row.step ?? row.t;
  for (const line of document.querySelectorAll(".now")) {
    if (line.classList.contains("level")) {
      const y = BOX.top + BOX.height * at / Math.max(1, track.rows.at(-1).step);
      line.setAttribute("y1", y);
      line.setAttribute("y2", y);
    } else {
      const x = BOX.left + BOX.width * at / line.parentNode.right;
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
    }
  }
}

// -- the Gaussian twin: tokens above their values, drawn anew at each time ---------------------------------------

const CELL = 22, REACH = 3; // narrowest column; standard deviations from the middle to an edge

function drawValues() {
  const canvas = $("values"), values = track.values;
  $("twin").hidden = !values;
  if (!values) return;
  const room = canvas.parentNode.clientWidth, count = Math.min(values.clean.length, Math.max(8, Math.floor(room / CELL)));
  const width = Math.min(room, count * 36), height = 150, dense = Math.min(3, devicePixelRatio || 1);
  const size = [Math.round(width * dense), Math.round(height * dense)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  canvas.style.setProperty("width", `${width}px`);
  const pen = canvas.getContext("2d"), look = getComputedStyle(document.documentElement);
  const colour = (name) => look.getPropertyValue(`--${name}`);
  const column = width / count, middle = 92, unit = 54 / REACH;
  pen.setTransform(dense, 0, 0, dense, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.font = `${Math.min(16, column * 0.7)}px ui-monospace, monospace`;
  const faces = { m: colour("masked"), r: colour("replaced"), k: colour("raised") };
  for (let i = 0; i < count; i++) {
    const left = i * column, state = stateAt(i), z = Math.max(-REACH, Math.min(REACH, values.rows[frame][i]));
    pen.fillStyle = faces[state];
    pen.fillRect(left + 1, 2, column - 2, 26);
    pen.fillStyle = state === "r" ? colour("replaced-ink") : colour("ink");
    const piece = [...story.pieces[tokenAt(i)].replaceAll(" ", "␣")].slice(0, 4).join("");
    if (!HIDDEN.includes(state)) pen.fillText(piece, left + column / 2, 16, column - 2);
    pen.fillStyle = z > 0 ? colour("process-1") : colour("process-0");
    pen.fillRect(left + column * 0.2, middle, column * 0.6, -z * unit);
    pen.fillStyle = colour("ink");
    pen.fillRect(left + column * 0.08, middle - values.clean[i] * unit - 0.5, column * 0.84, 1.2);
  }
  pen.fillStyle = colour("faint");
  pen.fillRect(0, middle - 0.5, width, 1);
}
