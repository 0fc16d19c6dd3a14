"use strict";
/* The pictures in a grid, of which only those near the window exist: thousands of tiles would take seconds to lay out. */

const GAP = 16;
const CAPTION = 48; // pixels under each picture, as in style.css
const MARGIN = 600; // pixels above and below the window that are prepared

class Gallery {
  constructor(model, element) {
    this.model = model;
    this.element = element;
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
    const last = Math.ceil((window.innerHeight - top + MARGIN) / grid.row) * grid.columns;
    const wanted = new Set(this.order.slice(first, Math.max(0, last)));
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
    const mats = htmlElement("span", { className: "mats", parent: link });
    const [rows, columns] = sizeOf(this.model, picture);
    const frames = this.model.detectors.map(() => makeFrame(this.model, picture, rows, columns, mats));
    if (frames.length > 1) frames.forEach(({ frame }, i) => htmlElement("span", { className: "badge", text: "AB"[i], parent: frame }));
    htmlElement("span", { className: "name", text: this.model.pictures.ids[picture], parent: link });
    const facts = htmlElement("span", { className: "facts", parent: link });
    const tile = { link, mats, frames, facts };
    this.tiles.set(picture, tile);
    return tile;
  }

  drawTile(tile, picture) {
    tile.link.href = `#${writeState(this.model, { ...this.state, picture })}`;
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
    const bar = document.getElementById("controls").offsetHeight;
    if (top < bar || top + grid.row > window.innerHeight) window.scrollBy({ top: top - bar - GAP, behavior: "instant" });
    this.layOut(false);
    this.tiles.get(picture)?.link.focus({ preventScroll: true });
  }
}

function factsText(count, picture) {
  return `${count.right[picture]} true · ${count.wrong[picture]} false · ${count.missed[picture]} missed`;
}

/** A thumbnail with an empty drawing over it, in the proportions of the picture. */
function makeFrame(model, picture, rows, columns, parent) {
  const mat = htmlElement("span", { className: "mat", parent });
  const frame = htmlElement("span", { className: "frame", parent: mat });
  frame.style.aspectRatio = `${columns} / ${rows}`;
  frame.style[columns * 3 >= rows * 4 ? "width" : "height"] = "100%";
  if (picture in model.pictures.missing) {
    frame.classList.add("missing-picture");
    htmlElement("span", { className: "reason", text: "picture missing", parent: frame });
    frame.title = model.pictures.missing[picture];
  } else {
    htmlElement("img", { alt: "", decoding: "async", src: fileOf("thumbnails", picture), parent: frame });
  }
  const attributes = { viewBox: `0 0 ${columns} ${rows}`, preserveAspectRatio: "none", "aria-hidden": "true" };
  const svg = svgElement("svg", attributes, frame);
  const casing = svgElement("path", { class: "casing" }, svg);
  const lines = model.kinds.map((kind) => svgElement("path", { class: `line ${className(kind)}` }, svg));
  return { frame, casing, lines };
}
