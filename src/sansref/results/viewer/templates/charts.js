
// Scales, axes and markers of the plots.

const MARKERS = [
  "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", "M-3.6 -3.6h7.2v7.2h-7.2z",
  "M0 -4.6l4.4 8h-8.8z", "M0 -5l4.4 5l-4.4 5l-4.4 -5z",
  "M0 4.6l-4.4 -8h8.8z", "M-1.6 -4.8h3.2v3.2h3.2v3.2h-3.2v3.2h-3.2v-3.2h-3.2v-3.2h3.2z",
  "M-4.6 -2.6l2 -2l2.6 2.6l2.6 -2.6l2 2l-2.6 2.6l2.6 2.6l-2 2l-2.6 -2.6l-2.6 2.6l-2 -2l2.6 -2.6z",
  "M0 -5.4l1.5 3.6l3.8 .2l-2.9 2.5l.9 3.8l-3.3 -2.1l-3.3 2.1l.9 -3.8l-2.9 -2.5l3.8 -.2z",
];
const DASHES = ["none", "7 3", "2 3", "9 3 2 3"];
const COLOURS = 7;
const TICK_DIGITS = 10;

/** Methods with curves. */
const trained = study.methods.filter((method) => study.curves.some((curve) => curve.method === method));

/** How a method is drawn: of 32, no two share both marker and dashes, so that none needs its colour. */
function look(method) {
  const place = trained.indexOf(method);
  return {
    colour: `series-${place % COLOURS}`,
    marker: MARKERS[place % MARKERS.length],
    dashes: DASHES[(place + Math.floor(place / MARKERS.length)) % DASHES.length],
  };
}

/** From values to pixels; logarithmic where positive values span more than a factor of 20. */
function makeScale(values, from, to) {
  const low = Math.min(...values), high = Math.max(...values);
  const log = low > 0 && high > 20 * low;
  const along = log ? Math.log10 : (value) => value;
  const room = 0.04 * (along(high) - along(low)) || 0.04 * Math.abs(along(low)) || 1;
  const start = along(low) - room, stop = along(high) + room;
  const place = (value) => from + (to - from) * (along(value) - start) / (stop - start);
  const inside = (value) => along(value) >= start && along(value) <= stop;
  const count = clamp(Math.abs(to - from) / 70, 2, 7);
  return { place, ticks: (log ? logTicks(low, high, count) : linearTicks(start, stop, count)).filter(inside) };
}

function linearTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const ticks = [];
  for (let item = Math.floor(low / step); item <= Math.ceil(high / step); item++) ticks.push(item * step);
  return ticks;
}

function logTicks(low, high, count) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const factors = last - first > count ? [1] : last - first > count / 2 ? [1, 3] : [1, 2, 5];
  const every = Math.max(1, Math.ceil((last - first) / count));
  const ticks = [];
  for (let power = first; power <= last; power += every) ticks.push(...factors.map((factor) => factor * 10 ** power));
  return ticks;
}

/** Ticks are round numbers: all but the noise of arithmetic can be kept. */
function tickText(value) {
  return plain(value, TICK_DIGITS);
}

/** A plot that is drawn for a width, and shrinks on paper. */
function plot(width, height, words, ...children) {
  return draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": words }, ...children);
}

/** Vertical grid lines with their numbers below, and a label below these. */
function bottomAxis(scale, top, bottom, label, middle) {
  const lines = scale.ticks.map((value) => draw("g", {},
    draw("line", { class: "grid", x1: scale.place(value), x2: scale.place(value), y1: top, y2: bottom }),
    draw("text", { class: "tick", x: scale.place(value), y: bottom + 16, "text-anchor": "middle" }, tickText(value)),
  ));
  return draw("g", {}, ...lines, draw("text", { x: middle, y: bottom + 36, "text-anchor": "middle" }, label));
}

/** Horizontal grid lines with their numbers on the left, and a label above. */
function leftAxis(scale, left, right, label, top) {
  const lines = scale.ticks.map((value) => draw("g", {},
    draw("line", { class: "grid", x1: left, x2: right, y1: scale.place(value), y2: scale.place(value) }),
    draw("text", { class: "tick", x: left - 8, y: scale.place(value) + 4, "text-anchor": "end" }, tickText(value)),
  ));
  return draw("g", {}, ...lines, draw("text", { x: 0, y: top - 12 }, label));
}

const ruler = document.createElement("canvas").getContext("2d");

/** Width in pixels of text in a plot. */
function textWidth(text) {
  ruler.font = `13px ${getComputedStyle(document.body).fontFamily}`;
  return ruler.measureText(text).width;
}

/** The text, cut off to a width in pixels. */
function shortened(text, width) {
  let kept = text;
  while (kept && textWidth(kept === text ? text : `${kept}\u2026`) > width) kept = kept.slice(0, -1);
  return kept === text ? text : `${kept}\u2026`;
}
