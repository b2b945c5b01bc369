
// The canvas on which two images lie over each other, parted by the divider.

const MAX_ZOOM = 32;

class Stage {
  constructor(element) {
    this.element = element;
    this.canvas = element.querySelector("canvas");
    this.sides = { left: null, right: null };
    this.layers = { left: document.createElement("canvas"), right: document.createElement("canvas") };
    this.maps = { left: null, right: null };
    this.covers = { left: document.createElement("canvas"), right: document.createElement("canvas") };
    this.opacity = 0.7;
    this.size = { width: 1, height: 1 };
    this.divider = 0.5;
    this.probe = null;
    this.fit();
  }

  /** Show the whole image. */
  fit() {
    this.zoom = 1;
    this.centre = { x: 0.5, y: 0.5 };
  }

  /** Give the stage the shape of the image. */
  shape(width, height) {
    if (this.size.width !== width || this.size.height !== height) this.probe = null;
    this.size = { width, height };
    this.element.style.setProperty("--ratio", width / height);
  }

  /** Place of the image's corner and size of its pixels, in pixels of a view of the given width and height. */
  geometry(width, height) {
    const shown = { width: width * this.zoom, height: height * this.zoom };
    return {
      x: width / 2 - this.centre.x * shown.width,
      y: height / 2 - this.centre.y * shown.height,
      ...shown,
    };
  }

  /** A place on the screen as a share of the stage. */
  shareAt(clientX, clientY) {
    const frame = this.element.getBoundingClientRect();
    return { x: (clientX - frame.left) / frame.width, y: (clientY - frame.top) / frame.height };
  }

  /** The pixel at a place on the screen, or null outside the image. */
  pixelAt(clientX, clientY) {
    const share = this.shareAt(clientX, clientY), { x, y, width, height } = this.geometry(1, 1);
    const column = Math.floor((share.x - x) / width * this.size.width);
    const row = Math.floor((share.y - y) / height * this.size.height);
    return row >= 0 && row < this.size.height && column >= 0 && column < this.size.width ? { row, column } : null;
  }

  /** Zoom by a factor about a place of the stage, which stays where it is. */
  zoomBy(factor, about = { x: 0.5, y: 0.5 }) {
    const zoom = clamp(this.zoom * factor, 1, MAX_ZOOM);
    for (const axis of ["x", "y"]) this.centre[axis] += (about[axis] - 0.5) * (1 / this.zoom - 1 / zoom);
    this.zoom = zoom;
    this.hold();
  }

  /** Move the image by shares of the stage. */
  pan(x, y) {
    this.centre.x -= x / this.zoom;
    this.centre.y -= y / this.zoom;
    this.hold();
  }

  /** Keep the stage filled. */
  hold() {
    const margin = 0.5 / this.zoom;
    for (const axis of ["x", "y"]) this.centre[axis] = clamp(this.centre[axis], margin, 1 - margin);
  }

  /** Move the image so that the probe is seen. */
  follow() {
    const seen = 0.5 / this.zoom;
    const place = { x: (this.probe.column + 0.5) / this.size.width, y: (this.probe.row + 0.5) / this.size.height };
    for (const axis of ["x", "y"]) this.centre[axis] = clamp(this.centre[axis], place[axis] - seen, place[axis] + seen);
    this.hold();
  }

  /** Colour the two sides: values with the ends of their scale and its colours, or null for a side without an image. */
  colour(sides) {
    this.sides = sides;
    for (const [name, side] of Object.entries(sides)) {
      const { width, height } = this.size;
      if (side) paintValues(this.layers[name], side.values, width, height, side.from, side.to, side.colour);
    }
  }

  /** Lay maps over the two sides: values, or null for a side without one, with their scale. */
  cover(maps, overlay) {
    this.maps = maps;
    for (const [name, values] of Object.entries(maps)) {
      if (values) paintOverlay(this.covers[name], values, this.size.width, this.size.height, overlay);
    }
  }

  paint() {
    const density = window.devicePixelRatio;
    const width = Math.round(this.element.clientWidth * density);
    const height = Math.round(this.element.clientHeight * density);
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const context = this.canvas.getContext("2d");
    const parting = Math.round(this.divider * width);
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    this.paintSide(context, "left", 0, parting);
    this.paintSide(context, "right", parting, width);
    if (this.probe?.marked) this.paintProbe(context);
    this.element.style.setProperty("--place", `${100 * this.divider}%`);
  }

  paintSide(context, name, from, to) {
    if (!this.sides[name]) return;
    const { width, height } = this.canvas;
    const place = this.geometry(width, height);
    context.save();
    context.beginPath();
    context.rect(from, 0, to - from, height);
    context.clip();
    // Pixels are shown as squares where they are large enough to be squares.
    context.imageSmoothingEnabled = place.width < 2 * this.size.width;
    context.drawImage(this.layers[name], place.x, place.y, place.width, place.height);
    context.globalAlpha = this.opacity;
    if (this.maps[name]) context.drawImage(this.covers[name], place.x, place.y, place.width, place.height);
    context.restore();
  }

  paintProbe(context) {
    const place = this.geometry(this.canvas.width, this.canvas.height);
    const pixel = { width: place.width / this.size.width, height: place.height / this.size.height };
    const x = place.x + this.probe.column * pixel.width, y = place.y + this.probe.row * pixel.height;
    for (const [colour, thickness] of [["#000", 4], ["#fff", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = thickness;
      context.strokeRect(x - 4, y - 4, pixel.width + 8, pixel.height + 8);
    }
  }
}
