// -- moving ----------------------------------------------------------------------------------------------------

const SECONDS = 8; // to play from end to end
let playing = false;

function figures(row) {
  const m = row.measures;
  if (!m) {
    return {
      "time t": row.t.toFixed(2), "step": row.step, "network calls (NFE)": row.nfe, "still open": percent(row.noise),
      "masks left": many(row.masks), "revised": many(row.revised),
    };
  }
  return {
    "time t": row.t.toFixed(2), "signal α": number(m.alpha, "–"), "noise": percent(row.noise),
    "expected": percent(m.noise), ...(m.masks === null ? {} : { "expected masks": percent(m.masks) }), "loss weight w": number(m.weight, m.alpha === null ? "–" : "∞"),
    "I(x₀; xₜ), bits": m.information.toFixed(2), "H(xₜ), bits": m.entropy.toFixed(2), "distance": m.distance.toFixed(2),
  };
}

function show(index) {
  frame = Math.max(0, Math.min(track.rows.length - 1, index));
  const row = track.rows[frame], told = figures(row);
  drawText();
  drawValues();
  drawNow(row);
  drawMatrices(row.t);
  if (pointed !== null) tellToken();
  const step = row.step === undefined ? "" : `step ${row.step}, `;
  $("slider").value = frame;
  $("slider").setAttribute("aria-valuetext", `${step}t = ${row.t.toFixed(2)}, ${percent(row.noise)} noise`);
  Object.values(told).forEach((value, i) => { $("figures").values[i].data = `${value}`; });
}

function makeFigures() {
  const named = Object.keys(figures(track.rows[0])).map((name) => [name, document.createTextNode("")]);
  $("figures").values = named.map(([, value]) => value);
  $("figures").replaceChildren(...named.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

function about() {
  const shown = track.clean.length, whole = shown === track.length;
  const part = track.start ? `From ${story.unit} ${many(track.start + 1)} on, ${many(shown)}` : `The first ${many(shown)}`;
  const size = whole ? `${many(shown)} ${story.unit}s.` : `${part} of ${many(track.length)} ${story.unit}s.`;
  return [story.note, size].filter(Boolean).join(" · ");
}

// The time stays, as nearly as the other track has it, and so does the token pointed at, where that has it.
function watch(chosen) {
  const before = track;
  track = chosen;
  frame = before ? nearest(track.rows, before.rows[frame]) : 0;
  if (before?.start !== track.start || before.clean.length !== track.clean.length) pointed = null;
  unfold(track);
  index(track);
  makeText();
  makeFigures();
  $("about").textContent = about();
  $("slider").max = track.rows.length - 1;
  const occurring = Object.keys(MEANING).filter((state) =>
    track.unfolded.some((row) => row.states.includes(state.charCodeAt(0))));
  $("key").replaceChildren(...occurring.map((state) => element("span", { class: state }, MEANING[state])), "↵ line break");
  tellToken();
  makeMatrices();
  makeValues();
  drawCharts();
  show(frame);
}

// Of rows of one t, as those of a text that is written block by block, the one of the nearest step.
function nearest(rows, to) {
  const away = (row) => [Math.abs(row.t - to.t), Math.abs((row.step ?? 0) - (to.step ?? 0))];
  return rows.reduce((best, row, i) => {
    const [t, step] = away(row), [bestT, bestStep] = away(rows[best]);
    return t < bestT || (t === bestT && step < bestStep) ? i : best;
  }, 0);
}

function play(on) {
  playing = on;
  $("play").textContent = on ? "Pause" : "Play";
  $("play").setAttribute("aria-label", $("play").textContent);
  $("token").setAttribute("aria-live", on ? "off" : "polite"); // nobody can listen to each frame
  if (!on) return;
  if (frame === track.rows.length - 1) show(0);
  const began = performance.now(), first = frame, pace = track.rows.length / (1000 * SECONDS);
  requestAnimationFrame(function tick(now) {
    if (!playing || frame === track.rows.length - 1) return play(false);
    const due = first + Math.floor(Math.max(0, now - began) * pace);
    if (due !== frame) show(due);
    requestAnimationFrame(tick);
  });
}

const MOVES = { ArrowLeft: () => frame - 1, ArrowRight: () => frame + 1, Home: () => 0, End: () => Infinity };
const STRIDES = { ArrowLeft: -1, ArrowRight: 1 };

function stride(by) {
  const next = pointed === null ? (by > 0 ? 0 : spans.length - 1) : pointed + by;
  point(Math.max(0, Math.min(spans.length - 1, next)));
  spans[pointed].scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.shiftKey && event.key in STRIDES) stride(STRIDES[event.key]);
  else if (event.target.type === "radio" && event.key !== " ") return; // arrows choose among them
  else if (event.key === "Escape") point(null);
  else if (event.key in MOVES) {
    play(false);
    show(MOVES[event.key]());
  } else if (event.key === " " && event.target !== $("play")) {
    play(!playing);
  } else return;
  event.preventDefault();
});

function pointAt(event) {
  if (event.target.place !== undefined) point(event.target.place);
}

$("play").addEventListener("click", () => play(!playing));
$("tracks").addEventListener("click", (event) => { // by a pointer: the keys are the slider's again
  if (event.detail) requestAnimationFrame(() => $("slider").focus({ preventScroll: true }));
});
$("slider").addEventListener("input", () => { play(false); show(Number($("slider").value)); });
$("text").addEventListener("pointerover", pointAt);
$("text").addEventListener("click", pointAt);
$("text").addEventListener("focus", () => { if (pointed === null) point(0); });
addEventListener("resize", () => {
  makeValues();
  drawValues();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  makeMatrices(); // which hold colours
  makeValues();
  show(frame);
});

document.title = $("title").textContent = story.title;
tracks.forEach((each, i) => {
  const input = element("input", { type: "radio", name: "track" });
  input.checked = i === 0;
  input.addEventListener("change", () => { play(false); watch(each); });
  $("tracks").append(element("label", {}, input, each.title));
});
$("processes").replaceChildren(...story.chapters.map(({ name }, i) =>
  element("span", { class: `process-${i % COLOURS}` }, `■ ${name}  `)));
watch(tracks[0]);
