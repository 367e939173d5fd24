// Training on the server, with the curve of its loss while it runs.

import { $, ask, element, network, page, sentenceCase, trackName } from "./page.js";

const POLL = 150; // ms
const curves = new Map(); // the last training of each track, of one network
let origin = null;

const svg = (name, attributes, ...children) => {
  const made = document.createElementNS($("curve").namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

// Loss by step; the last trainings of the other tracks stay as thin lines.
const [WIDTH, HEIGHT, LEFT, BOTTOM] = [640, 240, 48, 32];
const plot = (current) => {
  const all = page.tracks.map(({ id }) => curves.get(id)).filter(Boolean);
  const steps = Math.max(...all.map((each) => each.steps));
  const largest = Math.max(1, ...all.flatMap((each) => each.loss));
  const x = (step) => LEFT + ((WIDTH - LEFT - 8) * step) / steps;
  const y = (loss) => 8 + (HEIGHT - BOTTOM - 8) * (1 - loss / largest);
  const grid = [];
  const gap = largest > 6 ? Math.ceil(largest / 4) : largest > 2 ? 1 : 0.5;
  for (let loss = 0; loss <= largest; loss += gap) {
    grid.push(svg("line", { x1: LEFT, x2: WIDTH - 8, y1: y(loss), y2: y(loss), class: "rule" }));
    grid.push(svg("text", { x: LEFT - 8, y: y(loss) + 4, "text-anchor": "end" }, String(loss)));
  }
  for (let k = 0; k <= 4; k++) grid.push(svg("text", { x: x((k * steps) / 4), y: HEIGHT - 10, "text-anchor": k === 4 ? "end" : "middle" }, String(Math.round((k * steps) / 4))));
  const lines = [...all.filter((each) => each !== current), current].map(({ track, loss }) => {
    const { color } = page.tracks.find(({ id }) => id === track);
    const points = loss.map((value, step) => `${x(step + 1).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    return svg("polyline", { points, stroke: color, "stroke-width": track === current.track ? 2 : 1, fill: "none" });
  });
  $("curve").replaceChildren(...grid, ...lines);
  $("curve").setAttribute("aria-label", `Training loss of ${current.loss.length} steps of ${trackName(current.track)}, last ${current.loss.at(-1).toFixed(2)}`);
  const keys = all.map(({ track, loss }) => {
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = page.tracks.find(({ id }) => id === track).color;
    return element("li", {}, swatch, `${trackName(track)} ${loss.at(-1).toFixed(2)}`);
  });
  $("curve-key").replaceChildren(element("li", {}, "Loss of every batch by step:"), ...keys);
};

const words = ({ track, state, message, loss, steps, accuracy, test_accuracy, name }) => {
  const who = trackName(track);
  if (state === "compiling") return `${who} is preparing the data and compiling …`;
  const last = `loss ${loss.at(-1)?.toFixed(2)}, ${(100 * accuracy.at(-1)).toFixed(0)} % of the last batches correct`;
  if (state === "training") return `${who}, step ${loss.length} of ${steps}: ${last}.`;
  if (state === "evaluating") return `${who}, ${steps} steps: ${last}. Classifying the test images …`;
  if (state === "finished") return `${steps} steps in ${who}: ${(100 * test_accuracy).toFixed(2)} % of the test images correct. These weights are the network ${name}.`;
  if (state === "stopped") return `Stopped after step ${loss.length} of ${steps}; these weights are not kept.`;
  return sentenceCase(`${message}.`);
};

const show = (training) => {
  if (training.origin !== origin) curves.clear();
  origin = training.origin;
  if (training.loss.length) {
    curves.set(training.track, training);
    plot(training);
  }
  $("plot").hidden = !curves.size;
  $("training").textContent = words(training);
  $("stop").hidden = !training.running;
  $("train").disabled = training.running;
};

// Show the training until it ends; then let the page use its network.
export const follow = async (use) => {
  let training;
  try {
    while ((training = await ask("training"))?.running) {
      show(training);
      await new Promise((done) => setTimeout(done, POLL));
    }
  } catch (error) {
    $("training").textContent = error.message;
    $("train").disabled = false;
    $("stop").hidden = true;
    return;
  }
  if (!training) return;
  show(training);
  if (training.state === "finished") await use(training);
};

export const start = async (use) => {
  $("train").disabled = true;
  try {
    await ask(`train?${new URLSearchParams({ network: network(), track: $("track").value, steps: $("train").dataset.steps })}`, { method: "POST" });
  } catch (error) {
    $("training").textContent = sentenceCase(`${error.message}.`);
    $("train").disabled = false;
    return;
  }
  await follow(use);
};

$("stop").addEventListener("click", () => ask("stop", { method: "POST" }).catch(() => null));
