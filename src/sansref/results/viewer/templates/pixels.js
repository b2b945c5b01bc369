
// Images: unpacking, and turning numbers into grey and colour.

const KEPT = 64;
const MARK_DIGITS = 3;
const unpacked = new Map();

/** An image of a slice in percent of its peak, or null if there is none; kept for a while. */
function image(slice, name) {
  const key = `${slice}/${name}`;
  const found = unpacked.get(key) ?? unpack(packed(slice, name), study.slices[slice]);
  unpacked.delete(key);
  unpacked.set(key, found);
  if (unpacked.size > KEPT) unpacked.delete(unpacked.keys().next().value);
  return found;
}

const parsed = { slice: null, images: null };

/** What a page holds of a slice: its reference, its mask, and its images by method. */
function pixelsOf(slice) {
  if (parsed.slice !== slice) Object.assign(parsed, { slice, images: JSON.parse(byId(`pixels-${slice}`).textContent) });
  return parsed.images;
}

/** The packed image: of the reference for null, of a method for its name. */
function packed(slice, name) {
  return name === null ? pixelsOf(slice).reference : pixelsOf(slice).images[name];
}

/** Undo what Python's ``encode`` does: differences from the row above, low bytes first, then high bytes. */
async function unpack(text, { width, height }) {
  if (!text) return null;
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const count = width * height;
  const levels = new Uint16Array(count);
  for (let item = 0; item < count; item++) {
    const above = item < width ? 0 : levels[item - width];
    levels[item] = above + planes[item] + 256 * planes[count + item];
  }
  return Float32Array.from(levels, (level) => 100 * (level / study.steps - 1));
}

/** A map of a method's image in the unit of its scale, or null if there is none. */
async function mapOf(slice, method, name) {
  const values = await unpack(pixelsOf(slice).maps[method]?.[name], study.slices[slice]);
  return values?.map((value) => value * study.overlays[name].unit) ?? null;
}

/** |image - reference|, or null where one of them is missing. */
function errorMap(values, reference) {
  return values && reference && values.map((value, item) => Math.abs(value - reference[item]));
}

const errorTable = study.colours.match(/.{6}/g).map((digits) => Number.parseInt(digits, 16));

/** The colour of an error at a share of the scale, as one number 0xRRGGBB; the last one lies beyond it. */
function errorColour(share) {
  return share > 1 ? errorTable[256] : errorTable[clamp(Math.floor(256 * share), 0, 255)];
}

/** The grey at a share of the window, as one number 0xRRGGBB. */
function greyColour(share) {
  return 0x010101 * clamp(Math.round(255 * share), 0, 255);
}

/** Paint values into a canvas of their size; ``from`` and ``to`` are the ends of the scale. */
function paintValues(canvas, values, width, height, from, to, colour) {
  Object.assign(canvas, { width, height });
  const picture = new ImageData(width, height);
  values.forEach((value, item) => {
    const rgb = colour((value - from) / (to - from));
    picture.data.set([rgb >> 16, (rgb >> 8) & 255, rgb & 255, 255], 4 * item);
  });
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

/** Paint a map as colour that is the more opaque the stronger it is. */
function paintOverlay(canvas, values, width, height, { positive, negative, start, end }) {
  Object.assign(canvas, { width, height });
  const picture = new ImageData(width, height);
  values.forEach((value, item) => {
    const strength = clamp((Math.abs(value) - start) / (end - start), 0, 1);
    picture.data.set([...(value < 0 ? negative : positive), Math.round(255 * strength)], 4 * item);
  });
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

/** Paint the 256 shades of a scale. */
function paintBar(canvas, colour) {
  paintValues(canvas, Float32Array.from({ length: 256 }, (_, shade) => shade), 256, 1, 0, 255, colour);
}

/** A number below the bar of a scale. */
function scaleMark(value) {
  return make("span", {}, `${plain(value, MARK_DIGITS)} %`);
}
