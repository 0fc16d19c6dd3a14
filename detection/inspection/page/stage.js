"use strict";
/* One large picture with its boxes, which can be zoomed and moved. Several stages share one view, so that two
   detectors are always seen at the same place.

   The view is the magnification over "whole picture" and the centre as a share of the picture. Boxes are drawn in
   pixels of the window and redrawn on each change: lines and names keep their width at every zoom. */

const MOST_ZOOM = 40;

/** Pixels that a name takes in the letters of style.css, measured without laying it out. */
const textLength = (() => {
  const context = document.createElement("canvas").getContext("2d");
  context.font = "600 13px system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif";
  return (text) => context.measureText(text).width;
})();

class Stage {
  constructor(model, number, parent, view) {
    this.model = model;
    this.number = number;
    this.view = view;
    this.element = htmlElement("div", { className: "stage", parent });
    if (model.detectors.length > 1) {
      const heading = htmlElement("div", { className: "stage-name", parent: this.element });
      htmlElement("b", { text: "AB"[number], parent: heading });
      heading.append(" ", htmlElement("bdi", { text: model.detectors[number].name }));
    }
    this.image = htmlElement("img", { alt: "", draggable: false, parent: this.element });
    this.absent = htmlElement("div", { className: "absent", hidden: true, parent: this.element });
    this.svg = svgElement("svg", { "aria-hidden": "true" }, this.element);
    this.reason = htmlElement("p", { className: "cannot", hidden: true, parent: this.element });
    this.rows = [];
    this.highlighted = null;
    this.pointers = new Map();
    this.listen();
    new ResizeObserver(() => this.view.changed()).observe(this.element);
  }

  /** Shows a picture. The thumbnail stands behind it until it is decoded. */
  open(picture) {
    this.picture = picture;
    const reason = this.model.pictures.missing[picture];
    this.absent.hidden = this.reason.hidden = reason === undefined;
    this.reason.textContent = `The picture cannot be shown: ${reason}`;
    this.image.hidden = reason !== undefined;
    if (reason !== undefined) return;
    this.image.style.backgroundImage = `url("${fileOf("thumbnails", picture)}")`;
    this.image.src = fileOf("pictures", picture);
  }

  /** Where the picture lies in the stage, in pixels of the window. */
  geometry() {
    const [rows, columns] = sizeOf(this.model, this.picture);
    const { clientWidth: width, clientHeight: height } = this.element;
    const scale = Math.min(width / columns, height / rows) * this.view.zoom;
    const centre = [this.view.x * columns * scale, this.view.y * rows * scale];
    return { scale, left: width / 2 - centre[0], top: height / 2 - centre[1], width: columns * scale, height: rows * scale };
  }

  draw(options) {
    const place = (this.at = this.geometry());
    for (const element of [this.image, this.absent])
      for (const side of ["left", "top", "width", "height"]) element.style[side] = `${place[side]}px`;
    this.svg.replaceChildren();
    this.taken = []; // places of names
    if (options.objects) this.drawObjects();
    for (const row of this.rows) this.drawBox(row);
    if (options.labels && !this.highlighted) this.drawNames();
    if (options.objects && !this.highlighted) this.nameObjects();
    if (this.highlighted) this.drawHighlighted();
  }

  drawObjects() {
    const { offsets } = this.model.objects;
    for (let o = offsets[this.picture]; o < offsets[this.picture + 1]; o++) this.drawObject(o);
  }

  /** Objects by number and class, or by number alone where there is no room. */
  nameObjects() {
    const { offsets, boxes } = this.model.objects;
    for (let o = offsets[this.picture]; o < offsets[this.picture + 1]; o++) {
      if (!this.meetsStage(this.rectangle(boxes, 4 * o))) continue;
      const name = this.placeObjectName(o, true);
      this.drawName(this.isFree(name) ? name : this.placeObjectName(o, false), "object-name");
    }
  }

  drawObject(object) {
    const rectangle = this.rectangle(this.model.objects.boxes, 4 * object);
    svgElement("rect", { ...rectangle, class: "object-casing" }, this.svg);
    svgElement("rect", { ...rectangle, class: "object" }, this.svg);
  }

  /** Where the number stands by which the table calls an object: in the corner where no other name stands. */
  placeObjectName(object, long) {
    const { boxes, labels, offsets } = this.model.objects;
    const { x, y, width, height } = this.rectangle(boxes, 4 * object);
    const title = this.model.classes[labels[object] - 1];
    const text = `${object - offsets[this.picture] + 1}` + (long ? ` ${isolated(cut(title))}` : "");
    return { text, title, ...this.inside(x + width - textLength(text) - 4, y + height - 5, text) };
  }

  drawBox(row) {
    const rectangle = this.rectangle(row.boxes, row.box);
    const dimmed = this.highlighted && this.highlighted !== row ? " dimmed" : "";
    svgElement("rect", { ...rectangle, class: `casing${dimmed}` }, this.svg);
    svgElement("rect", { ...rectangle, class: `line ${className(this.model.kinds[row.kind])}${dimmed}` }, this.svg);
  }

  /** Names where there is room, those of the best scores first. Zooming in makes room for more. */
  drawNames() {
    for (const row of this.rows.toReversed()) {
      if (!this.meetsStage(this.rectangle(row.boxes, row.box))) continue;
      const name = this.placeName(row);
      if (this.isFree(name)) this.drawName(name, className(this.model.kinds[row.kind]));
    }
  }

  isFree(name) {
    return !this.taken.some((other) => name.left < other.right && other.left < name.right && Math.abs(name.y - other.y) < 14);
  }

  /** The pointed-at box once more on top, with its name, and the object that it was compared with. */
  drawHighlighted() {
    const row = this.highlighted;
    if (row.object >= 0) this.drawObject(row.object);
    const rectangle = this.rectangle(row.boxes, row.box);
    svgElement("rect", { ...rectangle, class: "casing strong" }, this.svg);
    svgElement("rect", { ...rectangle, class: `line strong ${className(this.model.kinds[row.kind])}` }, this.svg);
    if (row.object >= 0) this.drawName(this.placeObjectName(row.object, true), "object-name");
    if (row.detection >= 0) this.drawName(this.placeName(row), className(this.model.kinds[row.kind]));
  }

  /** Where a name stands: for detections at the upper edge, for objects at the lower one, where they meet less. */
  placeName(row) {
    const { x, y, width, height } = this.rectangle(row.boxes, row.box);
    const lines = this.element.clientHeight;
    const title = this.model.classes[row.label - 1];
    const text = isolated(cut(title)) + (row.score === null ? "" : ` ${row.score.toFixed(2)}`);
    const upper = y > 18 ? y - 4 : y + 14;
    const lower = y + height < lines - 18 ? y + height + 14 : y + height - 4;
    const left = x > 0.8 * this.element.clientWidth ? x + width - textLength(text) - 3 : x + 3;
    return { text, title, ...this.inside(left, row.detection >= 0 ? upper : lower, text) };
  }

  /** The place of a text, moved into the part of the stage that is seen. */
  inside(left, y, text) {
    const length = textLength(text);
    const { clientWidth: width, clientHeight: height } = this.element;
    const at = Math.max(3, Math.min(left, width - length - 3));
    return { left: at, right: at + length, y: Math.max(14, Math.min(y, height - 5)) };
  }

  meetsStage({ x, y, width, height }) {
    return x <= this.element.clientWidth && y <= this.element.clientHeight && x + width >= 0 && y + height >= 0;
  }

  drawName(name, kind) {
    const { text, title, left, y } = name;
    this.taken.push(name);
    const element = svgElement("text", { x: left, y, class: kind }, this.svg);
    element.textContent = text;
    svgElement("title", {}, element).textContent = title;
  }

  rectangle(boxes, box) {
    const { scale, left, top } = this.at;
    const [x1, y1, x2, y2] = [0, 1, 2, 3].map((side) => boxes[box + side] * scale);
    return { x: left + x1, y: top + y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) };
  }

  listen() {
    const element = this.element;
    element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    element.addEventListener("pointerdown", (event) => {
      element.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    element.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"])
      element.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    element.addEventListener("pointerleave", () => this.view.point(this, null));
    element.addEventListener("dblclick", (event) => this.zoomAt(this.view.zoom > 1.01 ? 1 / this.view.zoom : 3, event));
  }

  wheel(event) {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 20 : 1); // some mice count lines
    this.zoomAt(Math.exp(-pixels / 300), event);
  }

  /** Zooms by a factor so that what is under the pointer stays there. */
  zoomAt(factor, { clientX, clientY }) {
    const zoom = Math.min(MOST_ZOOM, Math.max(1, this.view.zoom * factor));
    const applied = zoom / this.view.zoom;
    const bounds = this.element.getBoundingClientRect();
    const at = this.geometry();
    const under = [(clientX - bounds.left - at.left) / at.width, (clientY - bounds.top - at.top) / at.height];
    this.view.zoom = zoom;
    this.view.x = under[0] + (this.view.x - under[0]) / applied;
    this.view.y = under[1] + (this.view.y - under[1]) / applied;
    this.view.changed();
  }

  /** One pointer moves the picture, two zoom it; none that is pressed points at a box. */
  move(event) {
    const former = this.pointers.get(event.pointerId);
    if (!former) {
      if (!this.view.isResting(event)) this.view.point(this, this.smallestAt(event));
      return;
    }
    const now = [event.clientX, event.clientY];
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    this.pointers.set(event.pointerId, now);
    const at = this.geometry();
    const shares = this.pointers.size;
    this.view.x -= (now[0] - former[0]) / at.width / shares;
    this.view.y -= (now[1] - former[1]) / at.height / shares;
    if (others.length === 1) {
      const [other] = others;
      const [before, after] = [former, now].map((place) => Math.hypot(place[0] - other[0], place[1] - other[1]));
      const middle = { clientX: (now[0] + other[0]) / 2, clientY: (now[1] + other[1]) / 2 };
      if (before > 0) return this.zoomAt(after / before, middle);
    }
    this.view.changed();
  }

  /** The smallest shown box under the pointer: the larger ones around it can be reached beside it. */
  smallestAt(event) {
    if (!this.at) return null;
    const bounds = this.element.getBoundingClientRect();
    const [x, y] = [event.clientX - bounds.left, event.clientY - bounds.top];
    const areas = this.rows.map((row) => {
      const box = this.rectangle(row.boxes, row.box);
      const inside = x >= box.x - 3 && y >= box.y - 3 && x <= box.x + box.width + 3 && y <= box.y + box.height + 3;
      return inside ? box.width * box.height : Infinity;
    });
    const least = Math.min(...areas, Infinity);
    return Number.isFinite(least) ? this.rows[areas.indexOf(least)] : null;
  }
}
