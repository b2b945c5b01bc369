
// What mouse, fingers, keys and form controls do with the viewer.

const DIVIDER_KEYS = {
  ArrowLeft: (share) => share - 0.01, ArrowDown: (share) => share - 0.01, ArrowRight: (share) => share + 0.01,
  ArrowUp: (share) => share + 0.01, Home: () => 0, End: () => 1,
};
const WHEEL_STEP = 40;
const PROBE_KEYS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/** What a key does while the images have the focus. */
function stageKeys(viewer) {
  return {
    ArrowUp: () => viewer.go(viewer.place - 1), ArrowDown: () => viewer.go(viewer.place + 1),
    Home: () => viewer.go(0), End: () => viewer.go(Infinity),
    ArrowLeft: () => viewer.setDivider(viewer.stage.divider - 0.01),
    ArrowRight: () => viewer.setDivider(viewer.stage.divider + 0.01),
  };
}

/** What a key does while the images or their divider have the focus. */
function commonKeys(viewer) {
  return {
    PageUp: () => viewer.go(viewer.place - 1), PageDown: () => viewer.go(viewer.place + 1),
    "+": () => viewer.zoomBy(1.25), "=": () => viewer.zoomBy(1.25), "-": () => viewer.zoomBy(0.8),
    0: () => viewer.fit(), r: () => viewer.reset(), x: () => viewer.swap(),
  };
}

function listenToKeys(viewer) {
  const own = stageKeys(viewer), common = commonKeys(viewer);
  viewer.stage.element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const onDivider = event.target === byId("divider");
    let action = common[key] ?? (onDivider ? null : own[key]);
    if (onDivider && key in DIVIDER_KEYS) action = () => viewer.setDivider(DIVIDER_KEYS[key](viewer.stage.divider));
    if (!onDivider && event.shiftKey && key in PROBE_KEYS) action = () => viewer.step(...PROBE_KEYS[key]);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

/** What a drag moves: the divider's handle always itself, the right button the window, any other what is chosen. */
function dragMode(event) {
  if (event.button === 2) return "window";
  return event.target === byId("divider") ? "divider" : document.querySelector("input[name=mode]:checked").value;
}

function drag(viewer, mode, event, last) {
  const share = viewer.stage.shareAt(event.clientX, event.clientY);
  const moved = { x: share.x - last.x, y: share.y - last.y };
  if (mode === "divider") viewer.setDivider(share.x);
  if (mode === "pan") {
    viewer.stage.pan(moved.x, moved.y);
    viewer.paint();
  }
  if (mode === "window") {
    const { from, to } = viewer.ends;
    viewer.setWindow((from + to) / 2 - 100 * moved.y, Math.max(to - from + 100 * moved.x, 0.1));
  }
  return share;
}

function listenToPointers(viewer) {
  const stage = viewer.stage.element;
  let mode = null, last = null;
  const stop = () => { mode = null; };
  stage.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button === 1) return;
    mode = dragMode(event);
    last = viewer.stage.shareAt(event.clientX, event.clientY);
    stage.setPointerCapture(event.pointerId);
    if (event.target !== byId("divider")) stage.focus({ preventScroll: true });
    if (mode === "divider" && event.target !== byId("divider")) viewer.setDivider(last.x);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!event.isPrimary) return;
    viewer.probe(viewer.stage.pixelAt(event.clientX, event.clientY) ?? viewer.stage.probe, false);
    if (mode) last = drag(viewer, mode, event, last);
    else viewer.paint();
  });
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) stage.addEventListener(name, stop);
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
}

/** Slices by the wheel; beyond the last one the page scrolls on. With Ctrl, which also means two fingers, zoom. */
function listenToWheel(viewer) {
  let turned = 0;
  viewer.stage.element.addEventListener("wheel", (event) => {
    if (event.ctrlKey) {
      event.preventDefault();
      viewer.zoomBy(Math.exp(-clamp(event.deltaY, -50, 50) / 200), viewer.stage.shareAt(event.clientX, event.clientY));
      return;
    }
    const way = Math.sign(event.deltaY);
    if (!way || viewer.place + way < 0 || viewer.place + way >= viewer.order.length) return;
    event.preventDefault();
    turned = (Math.sign(turned) === way ? turned : 0) + event.deltaY * [1, 16, 400][event.deltaMode];
    if (Math.abs(turned) < WHEEL_STEP) return;
    turned = 0;
    viewer.go(viewer.place + way);
  }, { passive: false });
}

function listenToControls(viewer) {
  const on = (id, name, action) => byId(id).addEventListener(name, action);
  const setWindow = () => viewer.setWindow(byId("level").valueAsNumber, byId("width").valueAsNumber);
  for (const side of ["left", "right"]) on(side, "change", () => viewer.show());
  for (const name of ["level", "width"]) on(name, "change", setWindow);
  on("overlay", "change", () => viewer.show());
  on("opacity", "input", (event) => viewer.setOpacity(event.target.valueAsNumber / 100));
  on("swap", "click", () => viewer.swap());
  on("acceleration", "change", (event) => viewer.choose(event.target.value));
  on("slice", "input", (event) => viewer.go(event.target.valueAsNumber));
  on("limit", "change", (event) => viewer.setLimit(event.target.valueAsNumber));
  on("reset-window", "click", () => { viewer.window = null; viewer.colour(); });
  on("reset-limit", "click", () => { viewer.limits.clear(); viewer.colour(); });
  on("zoom-in", "click", () => viewer.zoomBy(1.25));
  on("zoom-out", "click", () => viewer.zoomBy(0.8));
  on("fit", "click", () => viewer.fit());
  on("modes", "change", (event) => { viewer.stage.element.dataset.mode = event.target.value; });
}

function startViewer() {
  if (typeof DecompressionStream === "undefined") {
    byId("left-name").textContent = "This browser is too old to unpack the images: use one from 2023 or later.";
    return;
  }
  paintBar(byId("grey-bar"), greyColour);
  paintBar(byId("error-bar"), errorColour);
  const viewer = new Viewer();
  listenToKeys(viewer);
  listenToPointers(viewer);
  listenToWheel(viewer);
  listenToControls(viewer);
}

if (study.slices.length) startViewer();
