// What answers: graphs that run in this browser, by onnxruntime-web. No image leaves it.
import * as ort from "./ort.wasm.min.mjs";
import { levels, normalized } from "./pixels.js";

ort.env.wasm.numThreads = 1;  // more need headers that plain web servers do not send
const read = async file => {
  const answer = await fetch(file);
  if (!answer.ok) throw new Error(`${file} cannot be read (${answer.status}).`);
  return answer.json();
};
const about = read("classifier.json");
const TOP = 5;
const sessions = {};
const session = graph => sessions[graph] ??= ort.InferenceSession.create(graph);

// Upright RGB of an image file, on white; colors as they are in the file.
async function decoded(file) {
  let image;
  try {
    image = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error("This browser cannot read the file as an image.");
  }
  const { width, height } = image, canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data, rgb = new Uint8Array(width * height * 3);
  for (let i = 0, j = 0; i < rgba.length; i += 4) {
    rgb[j++] = rgba[i]; rgb[j++] = rgba[i + 1]; rgb[j++] = rgba[i + 2];
  }
  return { rgb, width, height };
}

globalThis.backend = {
  about: async () => {
    const { classes, threshold } = await about, { model, method, files } = await read("export.json");
    return { name: `${model.name}, ${method.label}`, classes, threshold, before: "before.onnx" in files };
  },
  predict: async (file, before) => {
    const { classes, threshold, pixels } = await about, { rgb, width, height } = await decoded(file);
    const seen = levels(rgb, width, height, pixels);
    const input = new ort.Tensor("float32", normalized(seen, pixels), [1, 3, seen.height, seen.width]);
    const found = await (await session(before ? "before.onnx" : "classifier.onnx")).run({ pixel_values: input });
    const scores = Array.from(found.probabilities.data);
    const order = scores.map((_, i) => i).sort((a, b) => scores[b] - scores[a] || a - b).slice(0, TOP);
    const cut = before ? null : threshold, best = order[0];
    return {
      label: cut !== null && scores[best] < cut ? "" : classes[best],
      threshold: cut,
      answers: order.map(i => ({ label: classes[i], score: scores[i] })),
    };
  },
};
