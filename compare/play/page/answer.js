// The predictions of the tracks, and the gradient of a chosen logit with respect to the pixels.

import { $, changed, element, page, pair, percent } from "./page.js";
import { image, mosaic } from "./pixels.js";

const MOST = 12; // classes in the table

const sentence = ({ classes, tracks: answers, truth }) => {
  const { tracks } = page;
  const best = tracks.map(({ id }) => answers[id].probabilities.indexOf(Math.max(...answers[id].probabilities)));
  const label = truth === null ? "" : truth === classes[best[0]] ? " The label says so, too." : ` The label says ${truth}.`;
  if (best.some((k) => k !== best[0])) return `${tracks.map(({ name }, t) => `${name} says ${classes[best[t]]}`).join(", ")}.${label}`;
  const who = tracks.length === 1 ? `${tracks[0].name} says` : tracks.length === 2 ? "Both say" : "All three say";
  return `${who} ${classes[best[0]]}, with a probability of ${percent(answers[tracks[0].id].probabilities[best[0]])}.${label}`;
};

export const show = (answer) => {
  const words = sentence(answer);
  if ($("answer").textContent !== words) $("answer").textContent = words; // so that a screen reader reads changes only
  $("notes").textContent = answer.notes.map((note) => `Note: ${note}.`).join(" ");
  const { gap, energy } = answer;
  $("energy").textContent = energy.threshold === null ? "" : `Energy score (log Σ exp of the logits): ${energy.score.toFixed(1)}. Of the validation images, 99 % are above ${energy.threshold.toFixed(1)}.`;
  $("gap").textContent = gap ? `Largest difference of a logit: ${gap.largest.toExponential(1)} (${pair(gap)}); the largest logit is ${gap.of.toFixed(1)}.` : "";
  table(answer);
  image($("seen"), answer.seen);
  saliency(answer);
};

const table = ({ classes, tracks: answers, truth }) => {
  const { tracks, chosen } = page;
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
      const head = element("th", { scope: "row" }, button);
      if (classes[k] === truth) head.append(element("small", {}, "label"));
      const row = element("tr", {}, head, element("td", { className: "bars" }, ...bars), ...cells);
      row.classList.toggle("top", order.indexOf(k) < 3 && first[k] >= 5e-5);
      return row;
    }),
  );
  if (focused) $("table").querySelector(`[data-k="${focused}"]`)?.focus();
};

// Choose a class, or no longer.
const choose = (k) => {
  page.chosen = k === page.chosen ? null : k;
  changed();
};

const HOW = { numpy: "NumPy's backward pass by hand", jax: "jax.vjp", torch: "torch.autograd" };
const saliency = ({ classes, saliency: shown }) => {
  $("saliency").parentElement.hidden = $("legend").hidden = !shown;
  $("slope").textContent = "Click a class to see which pixels its logit depends on.";
  if (!shown) return;
  mosaic($("saliency"), shown.map);
  const { class: k, largest, gap } = shown;
  $("chosen").textContent = classes[k];
  const apart = gap && gap.largest / (gap.of || 1);
  const agreement = !gap ? "" : apart < 1e-5 ? " agree" : " differ: a max pool or ReLU has two inputs that are equal but for rounding";
  const difference = gap ? `; largest relative difference: ${apart.toExponential(1)} (${pair(gap)})` : "";
  $("slope").textContent = `Gradient of the logit of ${classes[k]}, at most ${largest.toPrecision(2)} for a pixel from 0 to 1: ${page.tracks.map(({ id }) => HOW[id]).join(", ")}${agreement}${difference}.`;
};
