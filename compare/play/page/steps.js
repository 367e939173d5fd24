// The forward and the backward pass, one step at a time.

import { $, changed, element, page, pair, shape } from "./page.js";
import { mosaic } from "./pixels.js";

let count = 0;

const go = (step) => {
  page.step = Math.min(Math.max(step, 0), count - 1);
  changed();
};

export const show = (answer) => {
  const step = answer.step;
  $("walk").hidden = !step;
  if (!step) return;
  strip(step);
  const { all, at, maps, of, largest } = step;
  count = all.length;
  page.step = Math.min(page.step, count - 1); // and not ``at``, which may be what was asked before the last click
  Object.assign($("step"), { max: count - 1, value: at });
  $("first").disabled = $("previous").disabled = at === 0;
  $("next").disabled = at === count - 1;
  const { direction, name } = all[at];
  const same = all.filter((each) => each.direction === direction);
  const number = same.length - all.slice(at).filter((each) => each.direction === direction).length + 1;
  const words = `${direction === "forward" ? "Forward" : "Backward"}, ${number} of ${same.length}: ${name}`;
  $("step").ariaValueText = words;
  if ($("step-name").textContent !== words) $("step-name").textContent = words; // a screen reader reads changes
  $("says").textContent = step.says;
  $("says").hidden = !step.says;
  code(step);
  const [m, h, w] = maps.shape;
  const shown = m === of || h * w > 1 && m === 1 ? "" : `, ${m} of ${of} shown`;
  $("step-what").textContent = `${step.what[0].toUpperCase()}${step.what.slice(1)}${direction === "backward" ? `, of the logit of ${answer.classes[step.class]}` : ""}${shown}; up to ${largest.toPrecision(3)}`;
  mosaic($("step-maps"), maps, h * w === 1 ? 32 : 8);
  $("step-maps").ariaLabel = `${step.what} of ${name}`;
  histogram(step);
  agreement(step.parameters);
};

const strip = ({ all, at }) => {
  const focused = document.activeElement.dataset.step;
  for (const direction of ["forward", "backward"]) {
    const chips = all.flatMap((each, k) => {
      if (each.direction !== direction) return [];
      const chip = element("button", { type: "button", onclick: () => go(k) }, each.name);
      chip.dataset.step = k;
      if (k === at) chip.ariaCurrent = "step";
      return [element("li", {}, chip)];
    });
    $(direction).replaceChildren(...(direction === "forward" ? chips : chips.reverse())); // below its twin
    const here = $(direction).querySelector("[aria-current]");
    if (here) $(direction).scrollLeft = here.offsetLeft - $(direction).offsetLeft - $(direction).clientWidth / 3;
  }
  if (focused) document.querySelector(`[data-step="${focused}"]`)?.focus({ preventScroll: true });
};

const code = ({ line, where, taken, given }) => {
  const rows = [];
  if (line) rows.push(["Line", line.code, line.where]);
  if (where) rows.push(["Function", where]);
  if (taken && given) rows.push(["Shapes", `${shape(taken)} → ${shape(given)}`]);
  else if (taken || given) rows.push(["Shape", shape(taken ?? given)]);
  const cells = rows.flatMap(([term, text, place]) => [
    element("dt", {}, term),
    element("dd", {}, element("code", {}, text), ...(place ? [element("small", {}, place)] : [])),
  ]);
  $("code").replaceChildren(...cells);
};

const histogram = ({ histogram: { counts, low, high }, mean, std, zeros }) => {
  const most = Math.max(...counts);
  const bars = counts.map((number) => {
    const bar = element("span", {});
    bar.style.height = `${Math.max((100 * number) / most, number ? 2 : 0)}%`;
    return bar;
  });
  $("bars").replaceChildren(...bars);
  $("bars").ariaLabel = `Histogram from ${low.toPrecision(2)} to ${high.toPrecision(2)}`;
  $("low").textContent = low.toPrecision(2);
  $("high").textContent = high.toPrecision(2);
  $("moments").textContent = `mean ${mean.toPrecision(2)}, standard deviation ${std.toPrecision(2)}, ${(100 * zeros).toFixed(0)} % zeros`;
};

const agreement = (parameters) => {
  $("parameters").hidden = !parameters.length;
  const rows = parameters.map(({ path, shape: sizes, largest, gap }) => {
    const apart = gap && gap.largest / (gap.of || 1);
    const cell = element("td", {}, gap ? `${apart.toExponential(1)} (${pair(gap)})` : "one track only");
    cell.classList.toggle("bad", Boolean(gap) && apart >= 1e-5);
    return element("tr", {}, element("th", { scope: "row" }, element("code", {}, `d ${path}`)), element("td", {}, shape(sizes)), element("td", {}, largest.toPrecision(2)), cell);
  });
  $("parameters").tBodies[0].replaceChildren(...rows);
};

$("step").addEventListener("input", ({ target }) => go(Number(target.value)));
$("first").addEventListener("click", () => go(0));
$("previous").addEventListener("click", () => go(page.step - 1));
$("next").addEventListener("click", () => go(page.step + 1));
