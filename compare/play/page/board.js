// The drawing board: mouse, pen, finger and keyboard; undo; uploaded pictures and test images.

import { $, ask, changed, network, page, wrong } from "./page.js";
import { image } from "./pixels.js";

const board = $("board");
const pen = board.getContext("2d", { willReadFrequently: true });
const MOST = 50; // drawings that undo brings back
const STEP = board.width / 28; // of the keyboard's cursor: a pixel of MNIST

export const source = { picture: null, digit: null, blank: true }; // a file, or the index of a test image, or the drawing
const before = []; // {pixels, source}
let drawing = false; // a pen is down

export const isDrawing = () => drawing;

// The body of a request: the file or the drawing; the server knows test images by their index.
export const body = async () => {
  if (source.digit !== null) return new Blob([], { type: "image/png" });
  const found = source.picture ?? (await new Promise((done) => board.toBlob(done)));
  if (found.size > page.limit) throw new Error(`This picture has more than ${page.limit / 1e6} MB: choose a smaller one.`);
  return found;
};

const remember = () => {
  before.push({ pixels: pen.getImageData(0, 0, board.width, board.height), source: { ...source } });
  if (before.length > MOST) before.shift();
  $("undo").disabled = false;
};

const turnTo = (found) => {
  Object.assign(source, { picture: null, digit: null, blank: false }, found);
  wrong(null);
  changed();
};

const blacken = () => {
  pen.fillStyle = "#000000";
  pen.fillRect(0, 0, board.width, board.height);
};

const clear = () => {
  if (source.blank) return;
  remember();
  blacken();
  turnTo({ blank: true });
};

const undo = () => {
  const last = before.pop();
  $("undo").disabled = !before.length;
  if (!last) return;
  pen.putImageData(last.pixels, 0, 0);
  turnTo(last.source);
};

// --- strokes ----------------------------------------------------------------------------------------------------------

const begin = (x, y) => {
  remember();
  drawing = true;
  Object.assign(pen, { lineWidth: $("brush").value, lineCap: "round", lineJoin: "round", strokeStyle: $("color").value });
  pen.beginPath();
  pen.moveTo(x, y);
  pen.lineTo(x + 0.1, y + 0.1); // so that a click draws a dot
  pen.stroke();
  turnTo({});
};

const go = (points) => {
  for (const [x, y] of points) pen.lineTo(x, y);
  pen.stroke();
  changed();
};

const end = () => {
  if (drawing) setTimeout(changed); // for what is not asked while one draws
  drawing = false;
};

const place = (event) => {
  const box = board.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top].map((at) => (at * board.width) / box.width);
};

board.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  lift();
  cursor.hidden = true;
  board.setPointerCapture(event.pointerId);
  begin(...place(event));
});
board.addEventListener("pointermove", (event) => {
  if (drawing && board.hasPointerCapture(event.pointerId)) go((event.getCoalescedEvents?.() ?? [event]).map(place));
});
board.addEventListener("lostpointercapture", end);

// --- the keyboard -----------------------------------------------------------------------------------------------------

const cursor = $("cursor");
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
let at = [14 * STEP, 7 * STEP];
let down = false; // the keyboard's pen

const show = () => {
  cursor.hidden = false;
  cursor.classList.toggle("down", down);
  [cursor.style.left, cursor.style.top] = at.map((pixels) => `${(100 * pixels) / board.width}%`);
  const [column, row] = at.map((pixels) => Math.round(pixels / STEP));
  $("pen").textContent = `Pen ${down ? "down" : "up"}, column ${column}, row ${row}`;
};

const lift = () => {
  if (down) end();
  down = false;
};

board.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const arrow = ARROWS[event.key];
  if (arrow) {
    const far = event.shiftKey ? 3 * STEP : STEP;
    at = at.map((pixels, k) => Math.min(Math.max(pixels + far * arrow[k], 0), board.width));
    if (down) go([at]);
  } else if (event.key === " ") {
    if (event.repeat) return event.preventDefault();
    if (down) lift();
    else {
      down = true;
      begin(...at);
    }
  } else if (event.key === "Escape") lift();
  else return;
  event.preventDefault();
  show();
});
board.addEventListener("blur", () => {
  lift();
  cursor.hidden = true;
});
document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z") {
    lift();
    undo();
    event.preventDefault();
  }
});

// --- uploads and test images ------------------------------------------------------------------------------------------

const upload = async (file) => {
  remember();
  blacken();
  const found = await createImageBitmap(file).catch(() => null); // the server may read formats that the browser cannot
  if (found) {
    const scale = board.width / Math.max(found.width, found.height);
    const [w, h] = [found.width * scale, found.height * scale];
    pen.drawImage(found, (board.width - w) / 2, (board.height - h) / 2, w, h);
  }
  turnTo({ picture: file });
};

const testImage = async (mistake) => {
  const buttons = [$("digit"), $("mistake")];
  for (const button of buttons) button.disabled = true; // the first search for a mistake may take seconds
  try {
    const query = { network: network(), mistake: Number(mistake), ...(source.digit === null ? {} : { after: source.digit }) };
    const { index, seen } = await ask(`digit?${new URLSearchParams(query)}`);
    remember();
    const small = document.createElement("canvas");
    image(small, seen);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, 0, 0, board.width, board.height);
    pen.imageSmoothingEnabled = true;
    turnTo({ digit: index });
  } catch (error) {
    wrong(error);
  }
  const focus = document.activeElement === document.body;
  for (const button of buttons) button.disabled = false;
  if (focus) $(mistake ? "mistake" : "digit").focus(); // which the browser took away from a disabled button
};

blacken();
$("clear").addEventListener("click", clear);
$("undo").addEventListener("click", undo);
$("digit").addEventListener("click", () => testImage(false));
$("mistake").addEventListener("click", () => testImage(true));
$("file").addEventListener("change", ({ target }) => {
  if (target.files.length) upload(target.files[0]);
  target.value = ""; // so that the same file may be chosen again
});
