// The page: a drawing board, requests to the server (one at a time, always the newest), and the predictions.

const $ = (id) => document.getElementById(id);
const board = $("board");
const pen = board.getContext("2d", { willReadFrequently: true });
const SLIDERS = { noise: (v) => v.toFixed(2), turn: (v) => `${v}°`, right: (v) => `${v} px`, down: (v) => `${v} px` };
const MOST = 12; // classes in the table
let tracks = []; // {id, name, color}
let limit = Infinity; // bytes of a picture
let picture = null; // the uploaded file, or null for the drawing
let blank = true;
let chosen = null; // the class whose logit is traced back to the pixels
let round = 0; // counts drawings: predictions for an earlier one are not shown

// --- the server -----------------------------------------------------------------------------------------------------

const ask = async (path, options) => {
  const response = await fetch(path, options).catch(() => null);
  if (!response) throw new Error("The server does not answer: is python -m compare.play still running?");
  const answer = await response.json().catch(() => ({ error: `the server answered with status ${response.status}` }));
  if (!response.ok) throw new Error(answer.error);
  return answer;
};

const wrong = (error) => {
  const words = error?.message ?? "";
  $("wrong").textContent = words && words[0].toUpperCase() + words.slice(1);
};

const question = () => {
  const numbers = Object.keys(SLIDERS).map((name) => [name, $(name).value]);
  const gradients = [["adversarial", Number($("adversarial").checked)], ...(chosen === null ? [] : [["class", chosen]])];
  return new URLSearchParams([["network", $("network").value], ...numbers, ...gradients]);
};

// Tracks are timed only after they have compiled the network.
const ready = () => document.documentElement.dataset.ready === "yes";

let asking = false;
let again = false;
const refresh = async () => {
  again = true;
  if (asking || blank || !ready()) return;
  asking = true;
  while (again && !blank && ready()) {
    again = false;
    const asked = round;
    let [answer, error] = [null, null];
    try {
      const body = picture ?? (await new Promise((done) => board.toBlob(done)));
      if (body.size > limit) throw new Error(`This picture has more than ${limit / 1e6} MB: choose a smaller one.`);
      const headers = { "Content-Type": body.type || "application/octet-stream" };
      answer = await ask(`answer?${question()}`, { method: "POST", body, headers });
    } catch (problem) {
      error = problem;
    }
    if (asked !== round) continue;
    if (answer) show(answer);
    else unanswered("No prediction for this picture.");
    wrong(error);
  }
  asking = false;
};

// --- the board ------------------------------------------------------------------------------------------------------

// Hide the previous prediction, and say why.
const unanswered = (words) => {
  $("seen").width = 28; // empties it
  $("answer").textContent = words;
  $("notes").textContent = "";
  document.body.classList.add("blank");
};

const clear = () => {
  pen.fillStyle = "#000000";
  pen.fillRect(0, 0, board.width, board.height);
  picture = null;
  blank = true;
  round += 1;
  unanswered("Draw a digit, or upload a picture.");
  wrong(null);
};

const place = (event) => {
  const box = board.getBoundingClientRect();
  const scale = board.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
};

const stroke = (event) => {
  for (const each of event.getCoalescedEvents?.() ?? [event]) pen.lineTo(...place(each));
  pen.stroke();
  refresh();
};

board.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  event.preventDefault();
  board.setPointerCapture(event.pointerId);
  picture = null;
  blank = false;
  Object.assign(pen, { lineWidth: 20, lineCap: "round", lineJoin: "round", strokeStyle: $("color").value });
  pen.beginPath();
  pen.moveTo(...place(event));
  pen.lineTo(...place(event).map((at) => at + 0.1)); // so that a click draws a dot
  pen.stroke();
  refresh();
});
board.addEventListener("pointermove", (event) => board.hasPointerCapture(event.pointerId) && stroke(event));

const upload = async (chosen) => {
  clear();
  picture = chosen;
  blank = false;
  const image = await createImageBitmap(chosen).catch(() => null); // the server may read formats that the browser cannot
  if (image) {
    const scale = board.width / Math.max(image.width, image.height);
    const [w, h] = [image.width * scale, image.height * scale];
    pen.drawImage(image, (board.width - w) / 2, (board.height - h) / 2, w, h);
  }
  refresh();
};

$("clear").addEventListener("click", clear);
$("file").addEventListener("change", ({ target }) => {
  if (target.files.length) upload(target.files[0]);
  target.value = ""; // so that the same file may be chosen again
});

// --- the answer -----------------------------------------------------------------------------------------------------

const bytes = (packed, type) => new type(Uint8Array.from(atob(packed.base64), (letter) => letter.charCodeAt(0)).buffer);
const percent = (p) => (p < 5e-5 ? "< 0.01 %" : p >= 0.99995 ? "> 99.99 %" : `${(100 * p).toFixed(2)} %`);
const element = (name, properties, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

const sentence = ({ classes, tracks: answers }) => {
  const best = tracks.map(({ id }) => answers[id].probabilities.indexOf(Math.max(...answers[id].probabilities)));
  if (best.some((k) => k !== best[0])) return `${tracks.map(({ name }, t) => `${name} says ${classes[best[t]]}`).join(", ")}.`;
  const who = tracks.length === 1 ? `${tracks[0].name} says` : tracks.length === 2 ? "Both say" : "All three say";
  return `${who} ${classes[best[0]]}, with a probability of ${percent(answers[tracks[0].id].probabilities[best[0]])}.`;
};

const pair = ({ a, b }) => [a, b].map((id) => tracks.find((track) => track.id === id).name).join(", ");

const show = (answer) => {
  document.body.classList.remove("blank");
  const words = sentence(answer);
  if ($("answer").textContent !== words) $("answer").textContent = words; // so that a screen reader reads changes only
  $("notes").textContent = answer.notes.map((note) => `Note: ${note}.`).join(" ");
  const { gap } = answer;
  if (gap) $("gap").textContent = `Largest difference of a logit: ${gap.largest.toExponential(1)} (${pair(gap)}); the largest logit is ${gap.of.toFixed(1)}.`;
  table(answer);
  image($("seen"), answer.seen);
  saliency(answer);
  layers(answer.layers);
};

const table = ({ classes, tracks: answers }) => {
  const focused = document.activeElement.dataset.k;
  const first = answers[tracks[0].id].probabilities;
  const order = [...first.keys()].sort((a, b) => first[b] - first[a]);
  const rows = classes.length > MOST ? order.slice(0, MOST) : [...first.keys()];
  const heads = tracks.map(({ id, name, color }) => {
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = color;
    return element("th", { scope: "col" }, swatch, name, element("small", {}, `${answers[id].ms.toFixed(1)} ms`));
  });
  $("table").tHead.replaceChildren(element("tr", {}, element("th", { scope: "col" }, element("span", { className: "unseen" }, "class")), element("td", {}), ...heads));
  $("table").tBodies[0].replaceChildren(
    ...rows.map((k) => {
      const bars = tracks.map(({ id, color }) => {
        const bar = element("span", { className: "bar" });
        Object.assign(bar.style, { width: `${100 * answers[id].probabilities[k]}%`, background: color });
        return bar;
      });
      const cells = tracks.map(({ id }) => element("td", {}, percent(answers[id].probabilities[k])));
      const button = element("button", { type: "button", ariaPressed: k === chosen, onclick: () => choose(k) }, classes[k]);
      button.dataset.k = k;
      const row = element("tr", {}, element("th", { scope: "row" }, button), element("td", { className: "bars" }, ...bars), ...cells);
      row.classList.toggle("top", order.indexOf(k) < 3 && first[k] >= 5e-5);
      return row;
    }),
  );
  if (focused) $("table").querySelector(`[data-k="${focused}"]`)?.focus();
};

// Choose a class, or no longer.
const choose = (k) => {
  chosen = k === chosen ? null : k;
  refresh();
};

const HOW = { numpy: "NumPy's backward pass by hand", jax: "jax.vjp", torch: "torch.autograd" };
const saliency = ({ classes, saliency: shown }) => {
  $("saliency").hidden = $("legend").hidden = !shown;
  $("slope").textContent = "Click a class to see which pixels its logit depends on.";
  if (!shown) return;
  mosaic($("saliency"), shown.map);
  const { class: k, largest, gap } = shown;
  $("chosen").textContent = classes[k];
  const apart = gap && gap.largest / (gap.of || 1);
  const agreement = !gap ? "" : apart < 1e-5 ? " agree" : " differ: a max pool or ReLU has two inputs that are equal but for rounding";
  const difference = gap ? `; largest relative difference: ${apart.toExponential(1)} (${pair(gap)})` : "";
  $("slope").textContent = `Gradient of the logit of ${classes[k]}, at most ${largest.toPrecision(2)} for a pixel from 0 to 1: ${tracks.map(({ id }) => HOW[id]).join(", ")}${agreement}${difference}.`;
};

// An image uint8 (h, w, c) on a canvas of that size.
const image = (canvas, packed) => {
  const [h, w, c] = packed.shape;
  const values = bytes(packed, Uint8Array);
  Object.assign(canvas, { width: w, height: h });
  const pixels = new ImageData(w, h);
  for (let k = 0; k < h * w; k++) {
    const at = (channel) => values[c * k + Math.min(channel, c - 1)];
    pixels.data.set([at(0), at(1), at(2), 255], 4 * k);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
};

// Maps int8 (m, h, w) side by side: above zero warm, below cold, zero clear, grey lines between them.
const [WARM, COLD, LINE] = [[229, 138, 0], [0, 114, 178], [128, 128, 128, 60]];
const mosaic = (canvas, packed) => {
  const [m, h, w] = packed.shape;
  const values = bytes(packed, Int8Array);
  const line = h * w > 1 ? 1 : 0;
  const room = m === 1 ? 1 : line ? (innerWidth < 700 ? 8 : 16) : 64; // maps side by side that fill the page
  const columns = Math.min(m, room);
  const [width, height] = [columns * (w + line) - line, Math.ceil(m / columns) * (h + line) - line];
  Object.assign(canvas, { width, height });
  canvas.style.width = `${(100 * columns) / room}%`;
  const pixels = new ImageData(width, height);
  for (let k = 0; k < width * height; k++) pixels.data.set(LINE, 4 * k);
  values.forEach((value, k) => {
    const [map, rest] = [Math.floor(k / (h * w)), k % (h * w)];
    const x = (map % columns) * (w + line) + (rest % w);
    const y = Math.floor(map / columns) * (h + line) + Math.floor(rest / w);
    pixels.data.set([...(value < 0 ? COLD : WARM), 2 * Math.abs(value)], 4 * (y * width + x));
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
};

const layers = (shown) => {
  const figures = $("layers").children;
  if (figures.length !== shown.length) {
    const empty = () => element("figure", {}, element("figcaption", {}, element("strong", {}), element("span", {})), element("canvas", {}), element("canvas", {}), element("details", {}, element("summary", {}, "Equations and code"), element("dl", {})));
    $("layers").replaceChildren(...shown.map(empty));
  }
  shown.forEach(({ label, maps, of, largest, gradient, steepest, code }, k) => {
    const [m, h, w] = maps.shape;
    const what = h * w === 1 ? `${m} of ${of} units` : m === 1 ? `${h} steps of ${w} numbers` : `${m} of ${of} maps, ${h} × ${w}`;
    figures[k].querySelector("strong").textContent = label;
    figures[k].querySelector("span").textContent = ` ${what.replace(`${of} of ${of}`, of)}, up to ${largest.toPrecision(2)}${gradient ? `; gradient up to ${steepest.toPrecision(2)}` : ""}`;
    const [values, slopes] = figures[k].querySelectorAll("canvas");
    Object.assign(values, { role: "img", ariaLabel: `Activations of ${label}` });
    Object.assign(slopes, { role: "img", ariaLabel: `Gradient with respect to ${label}`, hidden: !gradient });
    mosaic(values, maps);
    if (gradient) mosaic(slopes, gradient);
    const lines = code.flatMap(({ where, says }) => [element("dt", {}, element("code", {}, where)), element("dd", {}, says)]);
    figures[k].querySelector("dl").replaceChildren(...lines);
  });
};

// --- the network and the sliders --------------------------------------------------------------------------------------

const warm = async () => {
  const network = $("network").value;
  const ready = [];
  delete document.documentElement.dataset.ready;
  chosen = null;
  wrong(null);
  try {
    let known;
    for (const { id, name } of tracks) {
      $("state").textContent = `${ready.map((words) => `${words}, `).join("")}${name} is compiling …`;
      known = await ask(`warm?${new URLSearchParams({ network, track: id })}`, { method: "POST" });
      if (network !== $("network").value) return; // another was chosen meanwhile
      ready.push(known.seconds < 0.1 ? `${name} ready` : `${name} ready after ${known.seconds.toFixed(1)} s`);
    }
    $("ink").hidden = known.input[2] !== 3;
    $("state").textContent = `${known.model} with ${known.parameters.toLocaleString("en")} parameters, trained on ${known.dataset}, sees ${known.input.join("×")}. ${ready.join(", ")}.`;
    document.documentElement.dataset.ready = "yes";
    refresh();
  } catch (error) {
    wrong(error);
  }
};

const slide = () => {
  for (const [name, words] of Object.entries(SLIDERS)) $("sliders").querySelector(`output[for=${name}]`).textContent = words(Number($(name).value));
  refresh();
};

$("sliders").addEventListener("input", slide);
$("sliders").addEventListener("reset", () => setTimeout(slide)); // the values are reset after the event
$("sliders").addEventListener("submit", (event) => event.preventDefault());
$("network").addEventListener("change", warm);

clear();
slide();
try {
  const known = await ask("networks");
  ({ tracks, limit } = known);
  $("network").replaceChildren(...known.networks.map((name) => element("option", { value: name, selected: name === known.chosen }, name)));
  await warm();
} catch (error) {
  wrong(error);
}
