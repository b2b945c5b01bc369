
// The plots: box plots of one metric, and training curves, one picture for each acceleration.

const ROW = 36, TOP = 8, FOOT = 44;

/** Show the box plots of a metric; all accelerations share one scale. */
function showBoxes(part) {
  const panels = Object.entries(part.panels);
  const known = panels.flatMap(([, methods]) => Object.values(methods)).filter(Boolean);
  const values = known.flatMap((box) => [...box.values, box.low, box.high]);
  byId("boxes").replaceChildren(...panels.map(([acceleration, methods]) => {
    const figure = figureOf(acceleration);
    if (values.length) whenResized(figure, () => drawBoxes(figure, part, acceleration, methods, values));
    return figure;
  }));
}

function drawBoxes(figure, part, acceleration, methods, values) {
  const names = Object.keys(methods);
  const width = figure.clientWidth, bottom = TOP + ROW * names.length;
  const left = Math.min(Math.max(...names.map(textWidth)) + 12, 0.45 * width);
  const scale = makeScale(values, left, width - 14);
  const better = part.better ? ` (${part.better} is better)` : "";
  const picture = plot(width, bottom + FOOT, boxesInWords(part, acceleration),
    bottomAxis(scale, TOP, bottom, part.metric + better, (left + width) / 2));
  names.forEach((name, row) => picture.append(boxRow(name, methods[name], TOP + ROW * row, left, scale)));
  figure.querySelector("svg")?.remove();
  figure.append(picture);
}

function boxesInWords(part, acceleration) {
  const medians = Object.entries(part.panels[acceleration])
    .map(([name, box]) => box ? `${name} ${plain(box.median)}` : `${name} unknown`);
  return `Box plots of ${part.metric}${at(acceleration)}. Medians: ${medians.join(", ")}.`;
}

function boxRow(name, box, top, left, scale) {
  const label = draw("text", { x: left - 12, y: top + 18, "text-anchor": "end" }, shortened(name, left - 12));
  if (!box) return draw("g", {}, label, draw("text", { x: left + 8, y: top + 18, class: "tick" }, "unknown"));
  const x = Object.fromEntries(Object.entries(box).filter(([key]) => key !== "values")
    .map(([key, value]) => [key, scale.place(value)]));
  const middle = top + 13;
  const whiskers = `M${x.low} ${middle - 4}v8m0 -4H${x.first}M${x.third} ${middle}H${x.high}m0 -4v8`;
  const dots = box.values.map((value, item) => dot(scale.place(value), top + 26, item)).join("");
  const words = `${name}: median ${plain(box.median)}, quartiles ${plain(box.first)} to ${plain(box.third)}, `
    + `mean ${plain(box.mean)}, ${box.values.length} values`;
  return draw("g", {}, draw("title", {}, words),
    draw("rect", { x: 0, y: top, width: scale.place(box.high), height: ROW, fill: "transparent" }), label,
    draw("path", { class: "line", d: whiskers }),
    draw("rect", { class: "box", x: x.first, y: middle - 8, width: Math.max(x.third - x.first, 1), height: 16 }),
    draw("path", { class: "median", d: `M${x.median} ${middle - 8}v16` }),
    draw("path", { class: "mean", d: `M${x.mean} ${middle - 4}l4 4l-4 4l-4 -4z` }),
    draw("path", { class: "dots", d: dots }));
}

/** A dot below a box, at one of five heights in turn so that equal values do not hide each other. */
function dot(x, y, item) {
  return `M${x.toFixed(1)} ${y + 1.5 * (item * 2 % 5)}h0`;
}

/** Show the training curves of the methods that are ticked. */
function showCurves(hidden) {
  const accelerations = unique(study.curves.map((curve) => curve.acceleration));
  byId("curves").replaceChildren(...accelerations.map((acceleration) => {
    const figure = figureOf(acceleration);
    const curves = study.curves.filter((curve) => curve.acceleration === acceleration && !hidden.has(curve.method));
    whenResized(figure, () => drawCurves(figure, acceleration, curves));
    return figure;
  }));
}

function drawCurves(figure, acceleration, curves) {
  const scores = curves.flatMap((curve) => curve.scores).filter((score) => score !== null);
  figure.querySelector("svg")?.remove();
  if (!scores.length) return;
  const width = figure.clientWidth, top = 30, bottom = 300;
  const up = makeScale(scores, bottom, top);
  const left = Math.max(...up.ticks.map((tick) => textWidth(tickText(tick)))) + 12;
  const across = makeScale(curves.flatMap((curve) => [0, ...curve.epochs]), left, width - 12);
  const names = unique(curves.map((curve) => curve.method)).join(", ");
  const words = `${study.curveLabel} by ${study.curveAxis}${at(acceleration)} for ${names}`;
  figure.append(plot(width, bottom + FOOT, words,
    bottomAxis(across, top, bottom, study.curveAxis, (left + width) / 2), leftAxis(up, left, width, study.curveLabel, top),
    ...curves.map((curve) => curveLine(curve, across, up))));
}

function curveLine(curve, across, up) {
  const { colour, marker, dashes } = look(curve.method);
  const point = (score, item) => [across.place(curve.epochs[item]), up.place(score)];
  const points = curve.scores.map((score, item) => score === null ? null : point(score, item));
  const path = points.map((place, item) => place && `${points[item - 1] ? "L" : "M"}${place.join(" ")}`);
  const every = Math.ceil(points.length / 12);
  // The last point has a marker, and others at even distances from it.
  const marked = points.filter((place, item) => place && (points.length - 1 - item) % every === 0);
  return draw("g", { class: colour }, draw("title", {}, curve.method),
    draw("path", { class: "curve", d: path.filter(Boolean).join(""), "stroke-dasharray": dashes }),
    ...marked.map(([x, y]) => draw("path", { class: "marker", d: marker, transform: `translate(${x} ${y})` })));
}

/** Boxes to tick, with a piece of each method's line. */
function makeLegend(hidden) {
  for (const method of trained) {
    const { colour, marker, dashes } = look(method);
    const box = make("input", { type: "checkbox", checked: "" });
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(method);
      else hidden.add(method);
      showCurves(hidden);
    });
    const sample = draw("svg", { viewBox: "0 -9 48 18", class: colour, "aria-hidden": "true" },
      draw("path", { class: "curve", d: "M1 0H47", "stroke-dasharray": dashes }),
      draw("path", { class: "marker", d: marker, transform: "translate(24 0)" }));
    byId("legend").append(make("label", {}, box, sample, method));
  }
}

if (study.distributions.length) {
  byId("metric").addEventListener("change", (event) => showBoxes(study.distributions[event.target.value]));
  showBoxes(study.distributions[byId("metric").value]);
}
if (study.curves.length) {
  const hidden = new Set();
  makeLegend(hidden);
  showCurves(hidden);
}
