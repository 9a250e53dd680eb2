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

// Each token has as many characters as its clean piece, and each word a box of its own, as wide as it was at first: so
// nothing else moves when a token changes, and a frame costs the words that change in it, no layout of the whole text.
// A token whose piece breaks the line within, as indented code does, is in no box, but flows.
const LINE = 24; // characters of a word that is not broken: they fit a phone

let spans = [], drawn;

const flows = (piece) => /↵./u.test(piece);

function glyphs(clean, token, state) {
  const there = story.pieces[clean], now = story.pieces[token], broken = flows(there);
  const mask = state === "x" ? "▒" : "░";
  if (HIDDEN.includes(state)) return there.replace(/[^]/gu, (sign) => (broken && sign === "↵" ? `${mask}\n` : mask));
  if (!broken) return fitted(now, [...there].length);
  // lines and their indents stay where the clean text has them
  return clean === token ? now.replaceAll("↵", "↵\n") : now + there.replace(/[^↵ ]/gu, "").replaceAll("↵", "\n");
}

function fitted(piece, room) {
  const signs = [...piece];
  return signs.length > room ? `${signs.slice(0, room - 1).join("")}…` : piece + " ".repeat(room - signs.length);
}

function makeText() {
  const text = $("text"), parts = [], words = [];
  let length = Infinity; // of the word at hand
  spans = track.clean.map((id, place) => {
    const piece = story.pieces[id], span = element("span", {}, glyphs(id, id, "k"));
    span.place = place;
    if (!flows(piece) && (length + piece.length > LINE || /^ ./u.test(piece))) {
      words.push(element("span", { class: "word" }));
      parts.push(words.at(-1));
      length = 0;
    }
    if (flows(piece)) parts.push(span);
    else words.at(-1).append(span);
    length = flows(piece) || /[ ↵]$/u.test(piece) ? Infinity : length + piece.length;
    if (piece.endsWith("↵")) parts.push(element("br"));
    return span;
  });
  text.className = spans.length <= 300 ? "short" : "";
  text.replaceChildren(...parts);
  const size = parseFloat(getComputedStyle(text).fontSize);
  const widths = words.map((word) => word.getBoundingClientRect().width / size);
  words.forEach((word, i) => word.style.setProperty("width", `${widths[i]}em`));
  text.classList.add("set");
  drawn = { tokens: new Int32Array(spans.length).fill(-1), states: new Uint8Array(spans.length) };
}

function drawText() {
  const now = track.unfolded[frame];
  for (let i = 0; i < spans.length; i++) {
    if (drawn.tokens[i] === now.tokens[i] && drawn.states[i] === now.states[i]) continue;
    const state = String.fromCharCode(now.states[i]), written = glyphs(track.clean[i], now.tokens[i], state);
    if (spans[i].firstChild.data !== written) spans[i].firstChild.data = written;
    spans[i].className = state;
  }
  drawn = now;
}
