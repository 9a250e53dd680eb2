// -- the token pointed at: what it is, what a model believed of it, what became of it --------------------------

const DID = { o: "opened as", r: "replaced by", x: "masked again" };
let pointed = null;

function byPlace(items, place, make) {
  const found = new Map();
  for (const item of items) {
    if (!found.has(place(item))) found.set(place(item), []);
    found.get(place(item)).push(make(item));
  }
  return found;
}

function index(track) {
  track.believed ??= byPlace(track.beliefs, (b) => b[1], ([step, , bits, top]) => ({ step, bits, top }));
  track.happened ??= byPlace(track.events, (e) => e[1], ([step, , state, token, logP]) => ({ step, state, token, logP }));
  if (track.order) return;
  track.order = new Map(); // when each token took its last form, as a rank
  [...track.happened].map(([i, events]) => [i, events.at(-1).step]).sort((a, b) => a[1] - b[1])
    .forEach(([i], rank) => track.order.set(i, rank + 1));
}

function point(i) {
  if (pointed !== null) spans[pointed]?.classList.remove("pointed");
  pointed = i;
  tellToken();
}

function tellToken() {
  const i = pointed;
  $("told").hidden = i === null && !track.events.length;
  if (i === null) {
    $("token").textContent = "Point at, tap, or go by Shift and arrows to a token, to read about it.";
    $("belief").replaceChildren();
    $("history").textContent = "";
    $("told").hidden = false;
    return;
  }
  spans[i].classList.add("pointed");
  const state = stateAt(i), end = track.rows[frame].nfe === undefined ? "clean" : "in the end";
  const now = HIDDEN.includes(state) ? "" : `, now ${spelled(tokenAt(i))}`;
  const told = `${story.unit} ${many(track.start + i + 1)}: ${end} ${spelled(track.clean[i])}${now} (${MEANING[state]})`;
  tellHistory(i);
  const spoken = [tellBelief(i), $("history").textContent].filter(Boolean).join("; ");
  $("token").replaceChildren(told, element("span", { class: "spoken" }, spoken && `. ${spoken}`));
}

// Shows what was believed of a token, and returns it as a sentence.
function tellBelief(i) {
  const step = track.rows[frame].step, all = track.believed.get(i) ?? [];
  const belief = all.findLast((b) => b.step <= step) ?? all[0];
  if (!belief) {
    $("belief").replaceChildren();
    return "";
  }
  const when = belief.step === step ? "in this step" : `at step ${belief.step}`;
  const heading = `Believed ${when}: entropy ${belief.bits.toFixed(2)} bits`;
  const head = element("li", { class: "head" }, heading);
  const bars = belief.top.map(([id, p]) => {
    const bar = element("i");
    bar.style.setProperty("width", `${100 * p}%`);
    const became = id === tokenAt(i) ? "became" : "";
    return element("li", { class: became }, element("b", {}, story.pieces[id].replaceAll(" ", "␣")), element("span", {}, bar),
      element("em", {}, `${(100 * p).toFixed(1)} %`));
  });
  $("belief").replaceChildren(head, ...bars);
  return `${heading}; ${belief.top.slice(0, 3).map(([id, p]) => `${spelled(id)} ${(100 * p).toFixed(1)} %`).join(", ")}`;
}

function tellHistory(i) {
  const events = track.happened.get(i) ?? [];
  const told = events.map(({ step, state, token, logP }) => {
    const what = state === "x" ? "" : ` ${spelled(token)}`;
    const cost = logP === null ? "" : ` (${(-logP / Math.LN2).toFixed(2)} bits)`;
    return `step ${step}: ${DID[state]}${what}${cost}`;
  });
  const rank = track.order.has(i) ? [`settled ${track.order.get(i)} of ${track.order.size}`] : [];
  $("history").textContent = [...told, ...rank].join(" · ");
}
