"use strict";
/* The pictures in a grid, of which only those near the window exist: thousands of tiles would take seconds to lay out. */

const GAP = 16;
const CAPTION = 48; // pixels under each picture, as in style.css
const MARGIN = 500; // pixels above and below the window that are prepared

class Gallery {
  /** `app` is told which picture to open. */
  constructor(model, element, app) {
    this.model = model;
    this.element = element;
    this.app = app;
    this.tiles = new Map(); // picture -> tile
    this.order = [];
    this.waiting = false;
    window.addEventListener("scroll", () => this.later(), { passive: true });
    new ResizeObserver(() => this.later()).observe(element);
  }

  /** Shows the pictures of `order` with the boxes that `state` leaves. */
  update(state, counts, order) {
    this.state = state;
    this.counts = counts;
    this.order = order;
    this.places = new Map(order.map((picture, place) => [picture, place]));
    this.sliding = document.body.classList.contains("sliding");
    this.address = writeState(this.model, { ...state, picture: -1 });
    this.layOut(true);
  }

  later() {
    if (this.waiting || !this.state) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.layOut(false);
    });
  }

  /** Columns and pixels of the grid at the present width. */
  measure() {
    const width = this.element.clientWidth;
    const pair = this.model.detectors.length > 1;
    const wanted = pair ? 420 : 250;
    const columns = Math.max(1, Math.floor((width + GAP) / (wanted + GAP)));
    const tile = (width - (columns - 1) * GAP) / columns;
    const picture = Math.round(((pair ? tile / 2 : tile) * 3) / 4);
    return { columns, tile, picture, row: picture + CAPTION + GAP };
  }

  layOut(redraw) {
    const grid = this.measure();
    const rows = Math.ceil(this.order.length / grid.columns);
    this.element.style.height = `${Math.max(0, rows * grid.row - GAP)}px`;
    const top = this.element.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor((-top - MARGIN) / grid.row) * grid.columns);
    const near = Math.ceil((window.innerHeight - top + MARGIN) / grid.row);
    const last = Math.max(1, near) * grid.columns; // the first row also where the gallery begins far below the window
    const wanted = new Set(this.order.slice(first, last));
    for (const [picture, tile] of this.tiles) {
      if (wanted.has(picture)) continue;
      tile.link.remove();
      this.tiles.delete(picture);
    }
    let place = first;
    let before = null;
    for (const picture of wanted) {
      const known = this.tiles.get(picture);
      const tile = known ?? this.makeTile(picture);
      this.place(tile, place++, grid);
      if (redraw || !known) this.drawTile(tile, picture);
      // The order in the document is the order of the tab key.
      const follower = before ? before.link.nextSibling : this.element.firstChild;
      if (follower !== tile.link) this.element.insertBefore(tile.link, follower);
      before = tile;
    }
  }

  place(tile, place, grid) {
    const style = tile.link.style;
    style.width = `${grid.tile}px`;
    style.height = `${grid.row - GAP}px`;
    style.left = `${(place % grid.columns) * (grid.tile + GAP)}px`;
    style.top = `${Math.floor(place / grid.columns) * grid.row}px`;
    tile.mats.style.height = `${grid.picture}px`;
  }

  makeTile(picture) {
    const link = htmlElement("a", { className: "tile" });
    link.addEventListener("click", (event) => {
      const elsewhere = event.ctrlKey || event.metaKey || event.shiftKey || event.altKey; // a new tab or window
      if (!elsewhere && this.app.open(picture)) event.preventDefault();
    });
    const mats = htmlElement("span", { className: "mats", parent: link });
    const frames = this.model.detectors.map((_, number) => makeFrame(this.model, picture, number, mats));
    showPictureName(this.model, picture, htmlElement("span", { className: "name", parent: link }));
    const facts = htmlElement("span", { className: "facts", parent: link });
    const opened = new URLSearchParams({ picture: this.model.pictures.ids[picture] });
    const tile = { link, mats, frames, facts, opened };
    this.tiles.set(picture, tile);
    return tile;
  }

  drawTile(tile, picture) {
    // Links follow when the slider rests: writing sixty of them takes a part of a frame.
    if (!this.sliding) tile.link.href = `#${this.address}${this.address && "&"}${tile.opened}`;
    tile.frames.forEach((frame, number) => {
      const paths = pathsByKind(this.model, shownBoxes(this.model, this.state, number, picture));
      frame.casing.setAttribute("d", paths.join(""));
      paths.forEach((path, kind) => frame.lines[kind].setAttribute("d", path));
    });
    const texts = this.counts.map((count) => factsText(count, picture));
    tile.facts.replaceChildren(...texts.map((text) => htmlElement("span", { text })));
  }

  /** Brings a picture into the window and gives its tile the focus. */
  show(picture) {
    const place = this.places?.get(picture);
    if (place === undefined) return;
    const grid = this.measure();
    const top = this.element.getBoundingClientRect().top + Math.floor(place / grid.columns) * grid.row;
    const controls = document.getElementById("controls");
    const bar = getComputedStyle(controls).position === "sticky" ? controls.offsetHeight : 0;
    if (top < bar || top + grid.row > window.innerHeight) window.scrollBy({ top: top - bar - GAP, behavior: "instant" });
    this.layOut(false);
    this.tiles.get(picture)?.link.focus({ preventScroll: true });
  }
}

/** A thumbnail with an empty drawing over it, in the proportions of the picture. */
function makeFrame(model, picture, number, parent) {
  const [rows, columns] = sizeOf(model, picture);
  const mat = htmlElement("span", { className: "mat", parent });
  const frame = htmlElement("span", { className: "frame", parent: mat });
  frame.style.aspectRatio = `${columns} / ${rows}`;
  frame.style[columns * 3 >= rows * 4 ? "width" : "height"] = "100%";
  const reason = model.pictures.missing[picture];
  if (reason === undefined) {
    htmlElement("img", { alt: "", decoding: "async", src: fileOf("thumbnails", picture), parent: frame });
  } else {
    frame.classList.add("missing-picture");
    htmlElement("span", { className: "reason", text: `cannot be shown: ${reason}`, parent: mat });
  }
  const attributes = { viewBox: `0 0 ${columns} ${rows}`, preserveAspectRatio: "none", "aria-hidden": "true" };
  const svg = svgElement("svg", attributes, frame);
  const casing = svgElement("path", { class: "casing" }, svg);
  const lines = model.kinds.map((kind) => svgElement("path", { class: `line ${className(kind)}` }, svg));
  if (model.detectors.length > 1) htmlElement("span", { className: "badge", text: "AB"[number], parent: mat });
  return { casing, lines };
}
