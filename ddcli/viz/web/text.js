// The text is hostile: it reaches the page through textContent, attributes of ours, and canvas only.
const story = JSON.parse(document.getElementById("story").textContent);
const tracks = story.chapters.flatMap((chapter, process) =>
  chapter.tracks.map((track) => ({ ...track, chapter, process })));
const $ = (id) => document.getElementById(id);
const COLOURS = 8;
const MEANING = {
  k: "kept", m: "masked", r: "replaced", o: "opened in this step", x: "masked again in this step", t: "may still change",
};
const HIDDEN = "mx"; // states of a mask

let track, frame = 0;

function element(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "circle"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const spelled = (id) => JSON.stringify(story.pieces[id]);
const percent = (share) => `${Math.round(100 * share)} %`;
const number = (value, missing) => value === null ? missing : value.toFixed(2);
const many = (count) => count.toLocaleString("en");

// -- rows: stored as what changes from one to the next, and unfolded when a track is first watched ----------

function unfold(track) {
  const size = track.clean.length;
  let tokens = new Int32Array(size), states = new Uint8Array(size);
  track.unfolded ??= track.changes.map((flat) => {
    [tokens, states] = [tokens.slice(), states.slice()];
    for (let k = 0; k < flat.length; k += 3) {
      tokens[flat[k]] = flat[k + 1];
      states[flat[k]] = flat[k + 2].charCodeAt(0);
    }
    return { tokens, states };
  });
  return track.unfolded;
}

const tokenAt = (i) => track.unfolded[frame].tokens[i];
const stateAt = (i) => String.fromCharCode(track.unfolded[frame].states[i]);

// -- the text ------------------------------------------------------------------------------------------------

let spans = [], drawn;

function glyphs(clean, token, state) {
  const there = story.pieces[clean], now = story.pieces[token];
  if (HIDDEN.includes(state)) return there.replace(/[^]/gu, (sign) => (sign === "↵" ? "░\n" : "░"));
  if (clean === token) return now.replaceAll("↵", "↵\n");
  // lines and their indents stay where the clean text has them
  return there.includes("↵") ? now + there.replace(/[^↵ ]/gu, "").replaceAll("↵", "\n") : now;
}

function makeText() {
  spans = track.clean.map((_, i) => {
    const span = element("span");
    span.place = i;
    return span;
  });
  drawn = { tokens: new Int32Array(spans.length).fill(-1), states: new Uint8Array(spans.length) };
  $("text").replaceChildren(...spans);
}

function drawText() {
  const now = track.unfolded[frame];
  for (let i = 0; i < spans.length; i++) {
    if (drawn.tokens[i] === now.tokens[i] && drawn.states[i] === now.states[i]) continue;
    const state = String.fromCharCode(now.states[i]);
    spans[i].textContent = glyphs(track.clean[i], now.tokens[i], state);
    spans[i].className = state;
  }
  drawn = now;
}
