// Arrays from the server on canvases.

const bytes = (packed, type) => new type(Uint8Array.from(atob(packed.base64), (letter) => letter.charCodeAt(0)).buffer);

// An image uint8 (h, w, c) on a canvas of that size.
export const image = (canvas, packed) => {
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

// How maps (m, h, w) stand side by side, with lines of one pixel between those of more than one.
const layout = ([m, h, w], room) => {
  const line = h * w > 1 ? 1 : 0;
  const most = m === 1 ? 1 : (room ?? (line ? (innerWidth < 700 ? 8 : 16) : 64)); // maps side by side that fill the place
  const columns = Math.min(m, most);
  const size = [columns * (w + line) - line, Math.ceil(m / columns) * (h + line) - line];
  return { m, h, w, line, columns, size, share: columns / most };
};

// Maps int8 (m, h, w) side by side: above zero warm, below cold, zero clear, grey lines between them.
const [WARM, COLD, LINE] = [[229, 138, 0], [0, 114, 178], [128, 128, 128, 60]];
export const mosaic = (canvas, packed, room) => {
  const { h, w, line, columns, size, share } = layout(packed.shape, room);
  const [width, height] = size;
  Object.assign(canvas, { width, height });
  canvas.parentElement.style.width = `${100 * share}%`;
  const pixels = new ImageData(width, height);
  for (let k = 0; k < width * height; k++) pixels.data.set(LINE, 4 * k);
  bytes(packed, Int8Array).forEach((value, k) => {
    const [map, rest] = [Math.floor(k / (h * w)), k % (h * w)];
    const x = (map % columns) * (w + line) + (rest % w);
    const y = Math.floor(map / columns) * (h + line) + Math.floor(rest / w);
    pixels.data.set([...(value < 0 ? COLD : WARM), 2 * Math.abs(value)], 4 * (y * width + x));
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
};

export const valueAt = (packed, { map, row, column }) => {
  const [, h, w] = packed.shape;
  return bytes(packed, Int8Array)[(map * h + row) * w + column] / 127;
};

// The unit of a mosaic under a point in 0 .. 1; null on a line.
export const unitAt = (packed, x, y) => {
  const { m, h, w, line, columns, size } = layout(packed.shape);
  const [across, down] = [Math.floor(x * size[0]), Math.floor(y * size[1])];
  const map = Math.floor(down / (h + line)) * columns + Math.floor(across / (w + line));
  const [row, column] = [down % (h + line), across % (w + line)];
  return map < m && row < h && column < w ? { map, row, column } : null;
};

// Move a unit within its mosaic by the arrow keys, over the border of a map to the next one.
export const neighbour = (packed, { map, row, column }, right, down) => {
  const { m, h, w, columns } = layout(packed.shape);
  const x = (map % columns) * w + column + right;
  const y = Math.floor(map / columns) * h + row + down;
  const next = { map: Math.floor(y / h) * columns + Math.floor(x / w), row: y % h, column: x % w };
  return x >= 0 && y >= 0 && x < columns * w && next.map < m ? next : null;
};

// Place an outline over pixels of a canvas; ``box`` is left, top, width, height in its pixels.
export const outline = (mark, box, [width, height]) => {
  const [left, top, w, h] = [box[0] / width, box[1] / height, box[2] / width, box[3] / height].map((part) => `${100 * part}%`);
  Object.assign(mark.style, { left, top, width: w, height: h });
  mark.hidden = false;
};

export const unitBox = (packed, { map, row, column }) => {
  const { h, w, line, columns, size } = layout(packed.shape);
  return [[(map % columns) * (w + line) + column, Math.floor(map / columns) * (h + line) + row, 1, 1], size];
};
