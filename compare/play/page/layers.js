// The activations of every layer, and of a unit that one clicks its weights and its receptive field.

import { $, ask, element, network, page, shape } from "./page.js";
import { image, mosaic, neighbour, outline, unitAt, unitBox, valueAt } from "./pixels.js";

let shown = []; // the layers of the last answer
let seen = null; // what the network sees
let unit = null; // {layer, map, row, column}
let known = null; // what the server says of it

const figure = (layer) => {
  const values = element("canvas", { tabIndex: 0, role: "img" });
  const made = element(
    "figure",
    {},
    element("figcaption", {}, element("strong", {}), element("span", {})),
    element("div", { className: "stack" }, values, element("div", { className: "mark", hidden: true })),
    element("div", { className: "stack" }, element("canvas", { role: "img" })),
    element("div", { className: "unit", role: "status", hidden: true }),
  );
  values.addEventListener("click", (event) => {
    const box = values.getBoundingClientRect();
    const at = unitAt(shown[layer].maps, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    if (at) select(layer, at);
  });
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  values.addEventListener("keydown", (event) => {
    if (!arrows[event.key] && event.key !== "Enter") return;
    event.preventDefault();
    const at = unit?.layer === layer ? neighbour(shown[layer].maps, unit, ...(arrows[event.key] ?? [0, 0])) : { map: 0, row: 0, column: 0 };
    if (at) select(layer, at);
  });
  return made;
};

export const forget = () => {
  unit = known = null;
};

export const show = (layers, picture) => {
  [shown, seen] = [layers, picture];
  $("none").hidden = layers.length > 0;
  const figures = $("layers").children;
  if (figures.length !== layers.length) $("layers").replaceChildren(...layers.map((_, k) => figure(k)));
  layers.forEach(({ label, maps, of, largest, gradient, steepest }, k) => {
    const [m, h, w] = maps.shape;
    const what = h * w === 1 ? `${m} of ${of} units` : m === 1 ? `${h} steps of ${w} numbers` : `${m} of ${of} maps, ${h} × ${w}`;
    figures[k].querySelector("strong").textContent = label;
    figures[k].querySelector("span").textContent = ` ${what.replace(`${of} of ${of}`, of)}, up to ${largest.toPrecision(2)}${gradient ? `; gradient up to ${steepest.toPrecision(2)}` : ""}`;
    const [values, slopes] = figures[k].querySelectorAll("canvas");
    values.ariaLabel = `Activations of ${label}. Arrow keys choose a unit.`;
    slopes.ariaLabel = `Gradient with respect to ${label}`;
    slopes.parentElement.hidden = !gradient;
    mosaic(values, maps);
    if (gradient) mosaic(slopes, gradient);
  });
  draw();
};

const select = async (layer, at) => {
  const asked = (unit = { layer, ...at });
  known = null;
  let problem = null;
  const answer = await ask(`unit?${new URLSearchParams({ network: network(), ...unit })}`).catch((error) => (problem = error, null));
  if (asked !== unit) return; // another one was clicked meanwhile
  known = answer;
  draw(problem);
};

const draw = (problem) => {
  [...$("layers").children].forEach((each, k) => {
    const [mark, panel] = [each.querySelector(".mark"), each.querySelector(".unit")];
    mark.hidden = panel.hidden = unit?.layer !== k || !(known || problem);
    if (panel.hidden) return;
    outline(mark, ...unitBox(shown[k].maps, unit));
    if (problem) panel.replaceChildren(problem.message);
    else describe(panel, shown[k]);
  });
};

const span = ([first, last]) => (first === last ? `${first + 1}` : `${first + 1} to ${last + 1}`);

const describe = (panel, { label, maps, largest }) => {
  const { rows, columns, weights, of, bias, index } = known;
  const field = element("canvas", { role: "img", ariaLabel: "The picture with the receptive field" });
  const mark = element("div", { className: "mark" });
  const [h, w] = seen.shape;
  const [tall, wide] = [rows[1] - rows[0] + 1, columns[1] - columns[0] + 1];
  const where = maps.shape[1] * maps.shape[2] === 1 ? `Unit ${index[0] + 1}` : index.length === 3 ? `Map ${index[2] + 1}, row ${index[0] + 1}, column ${index[1] + 1}` : `Step ${index[0] + 1}, number ${index[1] + 1}`;
  const sight = tall === h && wide === w ? "the whole picture" : `${tall} × ${wide} pixels, rows ${span(rows)}, columns ${span(columns)}`;
  const value = (largest * valueAt(maps, unit)).toPrecision(2);
  panel.replaceChildren(
    element("figure", {}, element("figcaption", {}, element("b", {}, `${where}: ${value}`), `Receptive field: ${sight}.`), element("div", { className: "stack field" }, field, mark)),
  );
  image(field, seen);
  outline(mark, [columns[0], rows[0], wide, tall], [w, h]);
  if (!weights) return;
  const kernel = element("canvas", { role: "img", ariaLabel: `Weights of this unit of ${label}` });
  const [m, kh, kw] = weights.shape;
  const kind = kh * kw === 1 ? `Its ${of} weights` : `Its kernel, ${shape([kh, kw])} for ${m === of ? of : `${m} of ${of}`} ${of === 1 ? "map" : "maps"}`;
  panel.append(
    element("figure", {}, element("figcaption", {}, `${kind}, up to ${known.largest.toPrecision(2)}${bias === null ? "" : `; bias ${bias.toPrecision(2)}`}`), element("div", { className: `kernel${m === 1 ? " single" : ""}` }, element("div", { className: "stack" }, kernel))),
  );
  mosaic(kernel, weights, Math.min(m, kh * kw === 1 ? 32 : 8));
};
