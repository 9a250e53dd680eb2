// -- matrices --------------------------------------------------------------------------------------------------

const SIDE = 480, MARGIN = 64, LIMIT = 26; // of a map; of its labels; of the column of pure noise
const UNREAD = "Point at an entry, or go to it by the arrows, to read it.";
let heatMaps = [], pointedMatrix = null;

function symbols(chain) {
  const names = chain.states.map((id) => story.pieces[id].replaceAll(" ", "␣"));
  return chain.lumped ? [...names, "others"] : names;
}

function makeMatrices() {
  const { chain, name } = track.chapter;
  $("noise").hidden = !chain?.times.length;
  heatMaps = [];
  pointedMatrix = null;
  $("entry").textContent = UNREAD;
  if ($("noise").hidden) return;
  $("chain").textContent = `The noise as matrices: ${name}`;
  $("lumped").textContent = chain.lumped ? `The other ${many(chain.lumped)} symbols share one row and column.` : "";
  heatMaps = [makeHeatMap(chain.steps, "One step, Qₜ"), makeHeatMap(chain.products, "All steps so far, Q₁:ₜ → π", 0)];
  $("matrices").replaceChildren(...heatMaps.map((map) => map.figure));
}

function drawMatrices(t) {
  if (!heatMaps.length) return;
  const chain = track.chapter.chain;
  const k = chain.times.reduce((best, time, i) => (Math.abs(time - t) < Math.abs(chain.times[best] - t) ? i : best), 0);
  const from = k ? chain.times[k - 1] : 0, to = chain.times[k].toFixed(2);
  for (const { figure, canvas, caption, matrices, name, begin } of heatMaps) {
    if (figure.dataset.shown === `${tracks.indexOf(track)} ${k}`) continue;
    figure.dataset.shown = `${tracks.indexOf(track)} ${k}`;
    caption.textContent = `${name}: ${(begin ?? from).toFixed(2)} → ${to}`;
    canvas.setAttribute("aria-label", caption.textContent);
    Object.assign(canvas, { matrix: matrices[k], names: symbols(chain), limit: begin === 0 ? chain.limit : null });
    drawMatrix(canvas);
    if (canvas === pointedMatrix) tellEntry(canvas, ...canvas.entry);
  }
}

// limit: a last column, of what all the others become, or null; entry: row and column of the one that is read
function drawMatrix(canvas) {
  const { matrix, names, limit, entry } = canvas;
  const pen = canvas.getContext("2d"), room = SIDE - MARGIN - LIMIT, size = room / names.length, colour = getComputedStyle(canvas).color;
  pen.clearRect(0, 0, SIDE, SIDE);
  pen.font = `${Math.min(16, size)}px ui-monospace, monospace`;
  pen.textBaseline = "middle";
  pen.fillStyle = colour;
  names.forEach((name, i) => {
    const label = [...name].slice(0, 6).join("");
    pen.textAlign = "right";
    pen.fillText(label, MARGIN - 5, MARGIN + (i + 0.5) * size);
    const upright = [...label].length === 1;
    pen.save();
    pen.translate(MARGIN + (i + 0.5) * size, MARGIN - (upright ? 12 : 5));
    if (!upright) pen.rotate(-Math.PI / 2);
    pen.textAlign = upright ? "center" : "left";
    pen.fillText(label, 0, 0);
    pen.restore();
  });
  pen.strokeStyle = colour;
  pen.globalAlpha = 0.25;
  pen.strokeRect(MARGIN, MARGIN, room, room);
  pen.fillStyle = "#3b82c4";
  matrix.forEach((row, i) => row.forEach((p, j) => {
    pen.globalAlpha = Math.sqrt(Math.max(0, p)); // small probabilities stay visible
    pen.fillRect(MARGIN + j * size, MARGIN + i * size, size, size);
  }));
  limit?.forEach((p, i) => {
    pen.globalAlpha = Math.sqrt(Math.max(0, p));
    pen.fillRect(SIDE - LIMIT + 8, MARGIN + i * size, LIMIT - 10, size);
  });
  pen.globalAlpha = 1;
  pen.fillStyle = colour;
  pen.textAlign = "center";
  pen.font = "16px ui-monospace, monospace";
  if (limit) pen.fillText("π", SIDE - LIMIT / 2 + 3, MARGIN - 12);
  if (!entry) return;
  pen.strokeStyle = getComputedStyle(canvas).getPropertyValue("--focus");
  pen.lineWidth = 2;
  pen.strokeRect(MARGIN + entry[1] * size, MARGIN + entry[0] * size, size, size);
  pen.lineWidth = 1;
}

function pointAtEntry(event) {
  const { names } = event.target, box = event.target.getBoundingClientRect();
  const index = (share) => Math.floor((share * SIDE - MARGIN) / (SIDE - MARGIN - LIMIT) * names.length);
  readEntry(event.target, index((event.clientY - box.top) / box.height), index((event.clientX - box.left) / box.width));
}

function readEntry(canvas, i, j) {
  if (canvas.matrix?.[i]?.[j] === undefined) return;
  const before = pointedMatrix;
  pointedMatrix = canvas;
  if (before && before !== canvas) {
    before.entry = null;
    drawMatrix(before);
  }
  canvas.entry = [i, j];
  drawMatrix(canvas);
  tellEntry(canvas, i, j);
}

function tellEntry({ matrix, names }, i, j) {
  $("entry").textContent =
    `from ${JSON.stringify(names[j])} to ${JSON.stringify(names[i])}: probability ${matrix[i][j].toFixed(4)}`;
}

const ENTRIES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function goToEntry(event) {
  if (!(event.key in ENTRIES) || event.shiftKey || event.altKey || event.ctrlKey || event.metaKey) return;
  const [i, j] = event.target.entry ?? [0, 0], [down, right] = event.target.entry ? ENTRIES[event.key] : [0, 0];
  readEntry(event.target, i + down, j + right);
  event.preventDefault();
  event.stopPropagation(); // else it is a step in time
}

function makeHeatMap(matrices, name, begin) {
  const canvas = element("canvas", { width: SIDE, height: SIDE, role: "application", tabindex: 0 }), caption = element("figcaption");
  const figure = element("figure", {}, caption, canvas);
  canvas.addEventListener("pointermove", pointAtEntry);
  canvas.addEventListener("click", pointAtEntry);
  canvas.addEventListener("keydown", goToEntry);
  return { figure, canvas, caption, matrices, name, begin };
}

