// The page: requests to the server (one at a time, always the newest), the network, and the sliders.

import * as answers from "./answer.js";
import { body, isDrawing, source } from "./board.js";
import * as layers from "./layers.js";
import { $, ask, changed, element, network, page, wrong } from "./page.js";
import * as steps from "./steps.js";
import { follow, start } from "./train.js";

const SLIDERS = { noise: (v) => v.toFixed(2), turn: (v) => `${v}°`, right: (v) => `${v} px`, down: (v) => `${v} px` };
const SLOW = 400; // ms, after which the page says that it waits

// --- the answer -------------------------------------------------------------------------------------------------------

const question = () => {
  const query = new URLSearchParams({ network: network(), adversarial: Number($("adversarial").checked) });
  for (const name of Object.keys(SLIDERS)) query.set(name, $(name).value);
  if (page.chosen !== null) query.set("class", page.chosen);
  if (source.digit !== null) query.set("digit", source.digit);
  if (!isDrawing()) query.set("step", page.step);
  return query;
};

// Hide the previous prediction, and say why.
const unanswered = (words) => {
  $("seen").width = 28; // empties it
  $("answer").textContent = words;
  $("notes").textContent = "";
  document.body.classList.add("blank");
};

const show = (answer) => {
  document.body.classList.remove("blank");
  $("inside").hidden = false;
  answers.show(answer);
  layers.show(answer.layers, answer.seen);
  if (answer.step || !answer.layers.length) steps.show(answer);
};

const ready = () => document.documentElement.dataset.ready === "yes"; // tracks are timed after they have compiled

let asking = false;
let again = false;
const refresh = async () => {
  if (source.blank) unanswered("Draw a digit, upload a picture, or take a test image.");
  again = true;
  if (asking || source.blank || !ready()) return;
  asking = true;
  const waiting = setTimeout(() => document.body.classList.add("waiting"), SLOW);
  while (again && !source.blank && ready()) {
    again = false;
    const asked = { ...source };
    let [answer, error] = [null, null];
    try {
      const picture = await body();
      const headers = { "Content-Type": picture.type || "application/octet-stream" };
      answer = await ask(`answer?${question()}`, { method: "POST", body: picture, headers });
    } catch (problem) {
      error = problem;
    }
    if (Object.keys(asked).some((name) => asked[name] !== source[name])) continue; // an answer to another picture
    if (answer) show(answer);
    else unanswered("No prediction for this picture.");
    wrong(error);
  }
  clearTimeout(waiting);
  document.body.classList.remove("waiting");
  asking = false;
};
document.addEventListener("changed", refresh);

// --- the network ------------------------------------------------------------------------------------------------------

const warm = async () => {
  const name = network();
  const done = [];
  delete document.documentElement.dataset.ready;
  page.chosen = null;
  page.step = 1;
  layers.forget();
  wrong(null);
  $("back").hidden = !(name in page.here);
  $("back").textContent = `Back to ${page.here[name]}`;
  try {
    let known;
    for (const { id, name: track } of page.tracks) {
      $("state").textContent = `${done.map((words) => `${words}, `).join("")}${track} is compiling …`;
      known = await ask(`warm?${new URLSearchParams({ network: name, track: id })}`, { method: "POST" });
      if (name !== network()) return; // another was chosen meanwhile
      done.push(known.seconds < 0.1 ? `${track} ready` : `${track} ready after ${known.seconds.toFixed(1)} s`);
    }
    $("ink").hidden = known.input[2] !== 3;
    $("state").textContent = `${known.model} with ${known.parameters.toLocaleString("en")} parameters, trained on ${known.dataset}, sees ${known.input.join("×")}. ${done.join(", ")}.`;
    document.documentElement.dataset.ready = "yes";
    changed();
  } catch (error) {
    wrong(error);
  }
};

const list = async () => {
  const known = await ask("networks");
  const before = network() || known.chosen;
  Object.assign(page, { tracks: known.tracks, limit: known.limit, here: known.here });
  $("network").replaceChildren(...known.networks.map((name) => element("option", { value: name, selected: name === before }, name)));
};

const use = async ({ name }) => {
  await list();
  $("network").value = name;
  await warm();
};

$("network").addEventListener("change", warm);
$("back").addEventListener("click", async () => {
  $("network").value = page.here[network()];
  $("network").focus();
  await warm();
});
$("train").addEventListener("click", () => start(use));

// --- the sliders ------------------------------------------------------------------------------------------------------

const slide = () => {
  for (const [name, words] of Object.entries(SLIDERS)) $("sliders").querySelector(`output[for=${name}]`).textContent = words(Number($(name).value));
  changed();
};

$("sliders").addEventListener("input", slide);
$("sliders").addEventListener("reset", () => setTimeout(slide)); // the values are reset after the event
$("sliders").addEventListener("submit", (event) => event.preventDefault());

slide();
try {
  await list();
  $("track").replaceChildren(...page.tracks.map(({ id, name }) => element("option", { value: id }, name)));
  await warm();
  const training = await ask("training"); // one that runs already, when the page is loaded again
  if (training?.running) await follow(use);
} catch (error) {
  wrong(error);
}
