
// The viewer: its state, and how its controls show it.

class Viewer {
  constructor() {
    this.stage = new Stage(byId("stage"));
    this.order = [...study.slices.keys()];
    this.place = 0;
    this.window = null;
    this.limits = new Map();
    this.turn = 0;
    this.images = null;
    this.fillSelects();
    this.stage.shape(this.facts.width, this.facts.height);
    this.choose(byId("acceleration").value);
    whenResized(this.stage.element, () => this.stage.paint());
  }

  get slice() { return this.order[this.place]; }
  get facts() { return study.slices[this.slice]; }

  /** Ends of the grey scale: what the reader has set, or what suits the slice. */
  get ends() { return this.window ?? { from: 0, to: this.facts.white }; }

  get limit() { return this.limits.get(this.facts.acceleration) ?? study.errorLimits[this.facts.acceleration] ?? 1; }

  fillSelects() {
    const methods = study.methods.filter((name) => study.slices.some((slice) => slice.methods.includes(name)));
    const images = () => methods.map((name) => new Option(name, `image ${name}`));
    const errors = () => methods.map((name) => new Option(`error of ${name}`, `error ${name}`));
    const referenced = study.slices.some((slice) => slice.reference);
    for (const side of ["left", "right"]) {
      const reference = referenced ? [new Option("reference", "reference")] : [];
      byId(side).append(make("optgroup", { label: "Images" }, ...reference, ...images()));
      if (referenced) byId(side).append(make("optgroup", { label: "Error maps" }, ...errors()));
    }
    for (const part of document.querySelectorAll(".error-scale")) part.hidden = !referenced;
    const maps = Object.entries(study.overlays);
    byId("overlay").append(new Option("none", ""), ...maps.map(([name, { label }]) => new Option(label, name)));
    byId("overlay-row").hidden = !maps.length;
    byId("right").selectedIndex = Math.min(1, byId("right").options.length - 1);
    const accelerations = unique(study.slices.map((slice) => slice.acceleration));
    byId("acceleration").append(...accelerations.map((name) => new Option(name, name)));
    byId("acceleration-row").hidden = byId("acceleration").length < 2;
  }

  /** Show the slices of an acceleration, from the same slice, or else from the first of the same subject. */
  choose(acceleration) {
    const { name, subject } = this.facts;
    this.order = [...study.slices.keys()].filter((slice) => study.slices[slice].acceleration === acceleration);
    const found = this.order.map((slice) => study.slices[slice]);
    const same = found.findIndex((facts) => facts.name === name);
    this.place = same < 0 ? Math.max(0, found.findIndex((facts) => facts.subject === subject)) : same;
    byId("slice").max = this.order.length - 1;
    byId("slice").disabled = this.order.length < 2;
    this.show();
  }

  /** Go to a slice by its place in the order; false if it is shown already, or there is none beyond the end. */
  go(place) {
    const held = clamp(place, 0, this.order.length - 1);
    if (held === this.place) return false;
    this.place = held;
    this.show();
    return true;
  }

  /** Unpack what is chosen and show it; the latest choice wins. */
  async show() {
    const turn = ++this.turn, slice = this.slice, chosen = { left: byId("left").value, right: byId("right").value };
    this.stage.element.ariaBusy = "true";
    const names = ["left", "right"].map((side) => nameOf(chosen[side]));
    const [reference, left, right] = await Promise.all([null, ...names].map((name) => image(slice, name)));
    const overlay = byId("overlay").value;
    const imaged = (side) => overlay && chosen[side].startsWith("image ");
    const mapped = (side) => (imaged(side) ? mapOf(slice, nameOf(chosen[side]), overlay) : null);
    const [leftMap, rightMap] = await Promise.all([mapped("left"), mapped("right")]);
    if (turn !== this.turn) return;
    const values = (side, found) => chosen[side].startsWith("error ") ? errorMap(found, reference) : found;
    this.images = { reference, left: values("left", left), right: values("right", right), chosen };
    this.maps = { left: leftMap, right: rightMap };
    this.stage.shape(this.facts.width, this.facts.height);
    this.colour();
    this.label();
    this.readProbe();
    await this.describe(turn);
    this.stage.element.ariaBusy = "false";
  }

  /** Colour the images anew: after a change of window or scale nothing need be unpacked. */
  colour() {
    if (!this.images) return;
    const grey = { ...this.ends, colour: greyColour }, error = { from: 0, to: this.limit, colour: errorColour };
    const side = (name) => this.images[name] && {
      values: this.images[name], ...(this.images.chosen[name].startsWith("error ") ? error : grey),
    };
    this.stage.colour({ left: side("left"), right: side("right") });
    this.stage.cover(this.maps, study.overlays[byId("overlay").value]);
    this.paint();
  }

  paint() {
    this.stage.paint();
    const { from, to } = this.ends;
    byId("level").value = rounded((from + to) / 2);
    byId("width").value = rounded(to - from);
    byId("limit").value = rounded(this.limit);
    byId("grey-ends").replaceChildren(...[from, (from + to) / 2, to].map(scaleMark));
    byId("error-ends").replaceChildren(...[0, this.limit / 2, this.limit].map(scaleMark));
    byId("zoom").textContent = `${Math.round(100 * this.stage.zoom)} %`;
    const share = Math.round(100 * this.stage.divider);
    byId("divider").ariaValueNow = String(share);
    byId("divider").ariaValueText = `${share} % from the left`;
  }

  /** Names of what is shown. */
  label() {
    for (const side of ["left", "right"]) {
      const select = byId(side), caption = this.facts.captions[nameOf(select.value)];
      const text = this.images[side] ? caption : "not available here";
      byId(`${side}-name`).replaceChildren(select.selectedOptions[0].text, ...(text ? [make("small", {}, text)] : []));
    }
    const text = `${this.facts.name} (${this.place + 1} of ${this.order.length})`;
    byId("overlay-legend").textContent = study.overlays[byId("overlay").value]?.legend ?? "";
    byId("slice").value = this.place;
    byId("slice").ariaValueText = text;
    byId("slice-name").textContent = text;
  }

  /** Set how strongly the overlay covers the images, 0 to 1. */
  setOpacity(share) {
    this.stage.opacity = clamp(share, 0, 1);
    this.paint();
  }

  /** Numbers of the pixel under the cursor. */
  readProbe() {
    const probe = this.stage.probe;
    if (!this.images || !probe) {
      byId("probe").replaceChildren(make("dt", {}, "Point at a pixel for its numbers"), make("dd"));
      return;
    }
    const item = probe.row * this.stage.size.width + probe.column;
    const sides = ["left", "right"].map((side) => [byId(side).selectedOptions[0].text, this.images[side]]);
    const reference = this.images.reference ? [["reference", this.images.reference]] : [];
    const numbers = [...reference, ...sides]
      .map(([name, values]) => [name, values ? percent(values[item]) : "\u2013"]);
    const overlay = byId("overlay").value;
    const unit = study.overlays[overlay]?.unit === 1 ? " %" : "";
    for (const side of ["left", "right"]) {
      const map = this.maps[side], name = study.overlays[overlay]?.label;
      if (map) numbers.push([`${name}, ${side}`, `${plain(map[item], 3)}${unit}`]);
    }
    const lines = [["row, column (from 0)", `${probe.row}, ${probe.column}`], ...numbers];
    byId("probe").replaceChildren(
      ...lines.flatMap(([name, text]) => [make("dt", { title: name }, name), make("dd", {}, text)]));
  }

  /** What is known of the slice beside its images: numbers of the two methods, noise, and the acquired samples. */
  async describe(turn) {
    const { details, mask, noise, reference } = this.facts;
    byId("units").textContent = reference
      ? "All numbers in percent of the reference's maximum; errors are |image \u2212 reference|, on one scale for all "
        + "methods and slices of an acceleration."
      : "All numbers in percent of the maximum of the last image; there is no reference.";
    const shown = unique(["left", "right"].map((side) => nameOf(byId(side).value))).filter((name) => details[name]);
    const rows = unique(shown.flatMap((name) => Object.keys(details[name])));
    const cells = (row) => shown.map((name) => make("td", {}, details[name][row] ?? "\u2013"));
    byId("details").tHead.replaceChildren(
      make("tr", {}, make("td"), ...shown.map((name) => make("th", { scope: "col", title: name }, name))));
    byId("details").tBodies[0].replaceChildren(
      ...rows.map((row) => make("tr", {}, make("th", { scope: "row" }, row), ...cells(row))));
    byId("details").hidden = !rows.length;
    byId("noise").textContent = noise === null ? "" : `Noise: ${percent(noise)} (standard deviation).`;
    byId("noise").hidden = noise === null;
    byId("mask-row").hidden = mask === null;
    if (mask === null) return;
    const samples = await unpack(pixelsOf(this.slice).mask, mask);
    if (turn !== this.turn) return;
    paintValues(byId("mask"), samples, mask.width, mask.height, 0, 100, greyColour);
    const acquired = samples.reduce((count, sample) => count + (sample > 50), 0);
    const share = `${plain(100 * acquired / samples.length, 3)} % of the grid, ${plain(samples.length / acquired, 3)}x`;
    byId("mask").ariaLabel = byId("mask-name").textContent = `Acquired samples, white: ${share}`;
  }

  /** Show the numbers of a pixel; read aloud only if asked, since a mouse crosses many. */
  probe(place, aloud) {
    this.stage.probe = place;
    byId("probe").ariaLive = aloud ? "polite" : "off";
    this.readProbe();
  }

  setDivider(share) {
    this.stage.divider = clamp(share, 0, 1);
    this.paint();
  }

  /** Set the grey window by its middle and its width, in percent. */
  setWindow(level, width) {
    if (!Number.isFinite(level) || !(width > 0)) return this.paint();
    const held = Math.max(width, 0.1);
    this.window = { from: level - held / 2, to: level + held / 2 };
    return this.colour();
  }

  setLimit(limit) {
    if (limit > 0) this.limits.set(this.facts.acceleration, limit);
    this.colour();
  }

  reset() {
    this.window = null;
    this.limits.clear();
    this.colour();
  }

  swap() {
    [byId("left").value, byId("right").value] = [byId("right").value, byId("left").value];
    this.show();
  }

  zoomBy(factor, about) {
    this.stage.zoomBy(factor, about);
    this.paint();
  }

  fit() {
    this.stage.fit();
    this.paint();
  }

  /** Move the pixel whose numbers are shown. */
  step(rows, columns) {
    const { width, height } = this.stage.size;
    const from = this.stage.probe ?? { row: height >> 1, column: width >> 1 };
    const row = clamp(from.row + rows, 0, height - 1), column = clamp(from.column + columns, 0, width - 1);
    this.probe({ row, column, marked: true }, true);
    this.stage.follow();
    this.paint();
  }
}

/** The method that a choice names, or null for the reference. */
function nameOf(choice) {
  return choice === "reference" ? null : choice.slice(choice.indexOf(" ") + 1);
}
