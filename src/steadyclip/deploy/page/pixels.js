// An image as the model sees it, by the arithmetic of Pillow and of steadyclip.data.pixels: a canvas resizes otherwise.

// Pillow's filters: how far each reaches, and its weight at x.
const sinc = x => x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
const FILTERS = {
  box: [0.5, x => x > -0.5 && x <= 0.5 ? 1 : 0],
  bilinear: [1, x => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, x => Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x))],
  bicubic: [2, x => {
    const a = -0.5, d = Math.abs(x);
    if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
  }],
  lanczos: [3, x => x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0],
};
const ONE = 2 ** 22;  // weights are whole numbers, this for 1

// For each of `to` pixels of a line: the first of the `from` pixels that count, and their weights.
function taps(from, to, interpolation) {
  const [reach, weight] = FILTERS[interpolation];
  const scale = from / to, wide = Math.max(scale, 1), support = reach * wide;
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(from, Math.trunc(center + support + 0.5));
    const weights = [];
    for (let x = start; x < end; x++) weights.push(weight((x - center + 0.5) * (1 / wide)));
    const sum = weights.reduce((a, b) => a + b, 0);
    return [start, weights.map(w => { const k = (w / sum) * ONE; return Math.trunc(k < 0 ? k - 0.5 : k + 0.5); })];
  });
}

// One pass, along lines whose neighbors are `step` values apart; `line(i)` is where line i begins.
function pass(source, target, lines, step, line, lineOut, found) {
  for (let l = 0; l < lines; l++)
    for (let i = 0; i < found.length; i++) {
      const [start, weights] = found[i];
      for (let c = 0; c < 3; c++) {
        let sum = ONE / 2, at = line(l) + start * step + c;
        for (let k = 0; k < weights.length; k++, at += step) sum += source[at] * weights[k];
        target[lineOut(l) + i * step + c] = Math.min(255, Math.max(0, Math.floor(sum / ONE)));
      }
    }
}

// Pillow 13 begins with the height where that loses much more than the width; older ones always begin with the width.
// The export writes here what its Pillow does.
const TALL_FIRST = true;

// RGB (height x width x 3) -> (toHeight x toWidth x 3), rounded to 8 bits between the two passes.
export function resize(rgb, width, height, toWidth, toHeight, interpolation) {
  const across = (from, rows) => {
    if (width === toWidth) return from;
    const target = new Uint8Array(rows * toWidth * 3);
    pass(from, target, rows, 3, l => l * width * 3, l => l * toWidth * 3, taps(width, toWidth, interpolation));
    return target;
  };
  const down = (from, columns) => {
    if (height === toHeight) return from;
    const target = new Uint8Array(toHeight * columns * 3);
    pass(from, target, columns, columns * 3, l => l * 3, l => l * 3, taps(height, toHeight, interpolation));
    return target;
  };
  if (TALL_FIRST && toHeight < height && height - toHeight > 2 * (width - toWidth)) return across(down(rgb, width), toHeight);
  return down(across(rgb, height), toWidth);
}

function offset(have, want, rounding) {
  const half = (have - want) / 2, down = Math.floor(half);
  return rounding === "even" && half !== down && down % 2 !== 0 ? down + 1 : down;
}

// RGB of an image -> { levels, width, height } of what the model sees; `about` is "pixels" of classifier.json.
export function levels(rgb, width, height, about) {
  let [toHeight, toWidth] = about.resize_to;
  if (about.resize === "shortest") {
    const stretched = Math.trunc(toHeight * Math.max(width, height) / Math.min(width, height));
    [toHeight, toWidth] = width <= height ? [stretched, toHeight] : [toHeight, stretched];
  }
  const whole = resize(rgb, width, height, toWidth, toHeight, about.interpolation);
  if (!about.crop) return { levels: whole, width: toWidth, height: toHeight };
  const [h, w] = about.size, cut = new Uint8Array(h * w * 3);
  const top = offset(toHeight, h, about.crop_rounding), left = offset(toWidth, w, about.crop_rounding);
  for (let y = 0; y < h; y++)
    for (let x = 0; x < w; x++) {
      const row = top + y, column = left + x;
      if (row < 0 || column < 0 || row >= toHeight || column >= toWidth) continue;
      for (let c = 0; c < 3; c++) cut[(y * w + x) * 3 + c] = whole[(row * toWidth + column) * 3 + c];
    }
  return { levels: cut, width: w, height: h };
}

// Levels -> the numbers that the graph reads, channel after channel.
export function normalized(found, about) {
  const count = found.width * found.height, pixels = new Float32Array(3 * count);
  for (let c = 0; c < 3; c++) {
    const mean = Math.fround(about.mean[c]), std = Math.fround(about.std[c]);
    for (let i = 0; i < count; i++) {
      const level = Math.fround(found.levels[3 * i + c] * (1 / 255));
      pixels[c * count + i] = Math.fround(Math.fround(level - mean) / std);
    }
  }
  return pixels;
}
