
// What the other parts share. All parts stand in one module: no name of theirs is seen outside it.

const study = JSON.parse(document.getElementById("study").textContent);

function byId(id) {
  return document.getElementById(id);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

function unique(values) {
  return [...new Set(values)];
}

/** A number without digits that say nothing, as a field for numbers takes it. */
function rounded(value, digits = 4) {
  return String(Number(value.toPrecision(digits)));
}

/** The same for readers, with a true minus sign. */
function plain(value, digits = 4) {
  return rounded(value, digits).replace("-", "\u2212");
}

function percent(value) {
  return `${value.toFixed(2).replace("-", "\u2212")} %`;
}

/** An acceleration as part of a sentence; nothing where there is none. */
function at(acceleration) {
  return acceleration && ` at ${acceleration}`;
}

/** A figure under the name of its acceleration, if it has one. */
function figureOf(acceleration) {
  return make("figure", {}, ...(acceleration ? [make("h3", {}, acceleration)] : []));
}

/** Draw an element again whenever its width changes, and once at first; not while it has none, as after its removal. */
function whenResized(element, redraw) {
  let width = 0;
  new ResizeObserver(() => {
    if (element.clientWidth === width) return;
    width = element.clientWidth;
    // Drawing changes sizes, which an observer's own turn must not.
    requestAnimationFrame(() => { if (element.clientWidth) redraw(); });
  }).observe(element);
}
