"use strict";
/* The open picture: a stage for each detector, and beside them the table of the boxes. */

const PAN = 0.15; // share of the window by which an arrow key moves a zoomed picture

class Viewer {
  /** `app` is told what the reader does: change(part of the state), slide(detector, score), step(-1 or 1), close(). */
  constructor(model, app) {
    this.model = model;
    this.app = app;
    this.dialog = document.getElementById("viewer");
    this.view = {
      zoom: 1, x: 0.5, y: 0.5,
      changed: () => this.later(),
      point: (stage, row) => this.highlight(stage, row),
      isResting: (event) => this.isResting(event),
    };
    const stages = document.getElementById("stages");
    this.stages = model.detectors.map((_, number) => new Stage(model, number, stages, this.view));
    this.panel = document.getElementById("panel");
    this.panels = model.detectors.map((_, number) => this.makePanel(number));
    this.showPanel(0);
    this.options = { labels: false, objects: false };
    if (window.innerWidth > 760) this.toggle("labels"); // on a telephone the names would hide the picture
    this.picture = -1;
    this.opening = true;
    this.listen();
  }

  /** The slider of a detector, and the table of its boxes behind a tab that tells their numbers. */
  makePanel(number) {
    const slider = makeSlider(this.model, number, (value) => this.app.slide(number, value));
    document.getElementById("viewer-sliders").append(slider.element);
    const pair = this.model.detectors.length > 1;
    this.tabs ??= htmlElement("div", { className: "tabs", parent: this.panel });
    const facts = htmlElement(pair ? "button" : "p", { className: "note facts-of-picture", parent: this.tabs });
    if (pair) facts.addEventListener("click", () => this.showPanel(number));
    const table = htmlElement("table", { className: "boxes", parent: this.panel });
    const head = htmlElement("tr", { parent: htmlElement("thead", { parent: table }) });
    const columns = [
      ["Kind", ""], ["Class", ""], ["Score", ""], ["IoU", "with the object it was compared with"],
      ["Object", "its number and class, as on the picture when Objects is on"],
    ];
    for (const [text, title] of columns) htmlElement("th", { text, title, scope: "col", parent: head });
    return { slider, facts, table, body: htmlElement("tbody", { parent: table }) };
  }

  /** Of two detectors one table is shown. */
  showPanel(number) {
    this.panels.forEach(({ facts, table }, i) => {
      table.hidden = i !== number;
      if (this.panels.length > 1) facts.setAttribute("aria-pressed", String(i === number));
    });
  }

  /** Shows the picture of the state, or closes. */
  update(state, counts, order) {
    if (state.picture < 0) {
      if (this.dialog.open) this.dialog.close();
      this.picture = -1;
      this.opening = true;
      return;
    }
    if (state.picture !== this.picture) this.openPicture(state.picture);
    if (!this.dialog.open) this.dialog.showModal();
    this.fill(state, counts);
    // A row that had the focus is gone; and keys are to reach the open picture.
    if (this.opening || !this.dialog.contains(document.activeElement)) document.getElementById("stages").focus();
    this.opening = false;
    const place = order.indexOf(state.picture);
    const text = place < 0 ? "outside the filters" : `${place + 1} of ${order.length.toLocaleString("en")}`;
    document.getElementById("viewer-place").textContent = text;
    // Not `disabled`, which would take the focus from under a finger.
    document.getElementById("previous").setAttribute("aria-disabled", String(place === 0));
    document.getElementById("next").setAttribute("aria-disabled", String(place === order.length - 1));
    this.preload(order[place + 1]);
    this.draw();
  }

  openPicture(picture) {
    this.picture = picture;
    Object.assign(this.view, { zoom: 1, x: 0.5, y: 0.5 });
    showPictureName(this.model, picture, document.getElementById("viewer-title"));
    for (const stage of this.stages) stage.open(picture);
  }

  preload(picture) {
    if (picture !== undefined && !(picture in this.model.pictures.missing)) new Image().src = fileOf("pictures", picture);
  }

  fill(state, counts) {
    this.stages.forEach((stage, number) => {
      const { slider, facts, body } = this.panels[number];
      stage.rows = shownBoxes(this.model, state, number, this.picture);
      stage.highlighted = null;
      slider.set(state.scores[number]);
      const mark = this.panels.length > 1 ? `${"AB"[number]}: ` : "";
      facts.textContent = mark + factsText(counts[number], this.picture);
      const rows = [...stage.rows].sort((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity) || a.box - b.box);
      body.replaceChildren(...rows.map((row) => this.tableRow(stage, row)));
      if (!rows.length) htmlElement("td", { text: "no boxes", colSpan: 5, parent: htmlElement("tr", { parent: body }) });
    });
  }

  tableRow(stage, row) {
    const tr = (row.element = htmlElement("tr", { tabIndex: 0 }));
    const kind = this.model.kinds[row.kind];
    const first = htmlElement("td", { parent: tr, title: KIND_TEXTS[kind][1] });
    first.append(swatch(kind), ` ${KIND_TEXTS[kind][0]}`);
    addName(tr, "", this.model.classes[row.label - 1]);
    htmlElement("td", { className: "number", text: row.score === null ? "" : row.score.toFixed(3), parent: tr });
    const overlap = htmlElement("td", { className: "number", text: row.overlap > 0 ? row.overlap.toFixed(2) : "", parent: tr });
    if (kind === "ignored" && row.overlap > 0) {
      overlap.title = "how much of the detection's own area lies inside the ignored object";
      htmlElement("span", { className: "note", text: "share inside", parent: overlap });
    }
    addName(tr, ...this.partner(stage.number, row));
    tr.addEventListener("focus", () => this.highlight(stage, row));
    tr.addEventListener("pointermove", (event) => {
      if (!this.isResting(event)) this.highlight(stage, row);
    });
    for (const name of ["pointerleave", "blur"]) tr.addEventListener(name, () => this.highlight(stage, null));
    return tr;
  }

  /** What a detection was matched to or compared with; for a missed object, what found it below the slider. The number
      of the object, its class, and what is to be added. */
  partner(number, { detection, object }) {
    const { classes, objects } = this.model;
    const detector = this.model.detectors[number];
    const place = `${object - objects.offsets[this.picture] + 1}`;
    if (detection >= 0) return object < 0 ? ["none"] : [place, classes[objects.labels[object] - 1]];
    const by = detector.foundBy[object];
    return by < 0 ? [place] : [`${place}, found at ${detector.scores[by].toFixed(3)}`];
  }

  /** Marks a box and its row of the table, and with two detectors the same object on the other side. */
  highlight(stage, row) {
    if (stage.highlighted === row) return;
    for (const each of this.stages) {
      each.highlighted?.element.classList.remove("marked");
      each.highlighted = each === stage ? row : counterpart(each, row);
      each.highlighted?.element.classList.add("marked");
    }
    if (row) this.showPanel(stage.number);
    if (row && !row.element.matches(":hover")) row.element.scrollIntoView({ block: "nearest" });
    this.later();
  }

  /** Browsers report a move also when a picture opens under a pointer that rests: that points at nothing. */
  isResting({ clientX, clientY }) {
    const rested = this.pointer?.[0] === clientX && this.pointer[1] === clientY;
    this.pointer = [clientX, clientY];
    return rested;
  }

  later() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      if (this.dialog.open) this.draw();
    });
  }

  draw() {
    // The middle of the window never leaves the picture, so that it cannot be lost.
    for (const axis of ["x", "y"]) this.view[axis] = this.view.zoom <= 1 ? 0.5 : Math.min(1, Math.max(0, this.view[axis]));
    for (const stage of this.stages) stage.draw(this.options);
  }

  zoomBy(factor) {
    this.view.zoom = Math.min(MOST_ZOOM, Math.max(1, this.view.zoom * factor));
    this.later();
  }

  /** Moves the window over a zoomed picture by a share of its size. */
  pan(columns, rows) {
    const at = this.stages[0].geometry();
    const { clientWidth, clientHeight } = this.stages[0].element;
    this.view.x += (PAN * columns * clientWidth) / at.width;
    this.view.y += (PAN * rows * clientHeight) / at.height;
    this.later();
  }

  toggle(name) {
    this.options[name] = !this.options[name];
    document.getElementById(name).setAttribute("aria-pressed", String(this.options[name]));
    this.later();
  }

  toggleHelp() {
    const help = document.getElementById("help");
    help.hidden = !help.hidden;
    document.getElementById("keys").setAttribute("aria-pressed", String(!help.hidden));
  }

  listen() {
    document.addEventListener("pointerdown", (event) => this.isResting(event), true); // it may open a picture
    const actions = {
      labels: () => this.toggle("labels"),
      objects: () => this.toggle("objects"),
      "zoom-in": () => this.zoomBy(1.5),
      "zoom-out": () => this.zoomBy(1 / 1.5),
      "zoom-fit": () => this.zoomBy(0),
      previous: () => this.app.step(-1),
      next: () => this.app.step(1),
      keys: () => this.toggleHelp(),
      close: () => this.app.close(),
    };
    const keys = {
      ArrowLeft: "previous", k: "previous", ArrowRight: "next", j: "next",
      "+": "zoom-in", "=": "zoom-in", "-": "zoom-out", 0: "zoom-fit", l: "labels", o: "objects", "?": "keys", Escape: "close",
    };
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    for (const [id, action] of Object.entries(actions)) document.getElementById(id).addEventListener("click", action);
    // Of the whole document: whatever loses the focus, keys go on working.
    document.addEventListener("keydown", (event) => {
      if (!this.dialog.open || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.target.matches("input") && event.key.startsWith("Arrow")) return; // they move the slider
      const way = event.shiftKey && ways[event.key];
      const name = keys[event.key] ?? keys[event.key.toLowerCase()];
      if (!way && !name) return;
      event.preventDefault();
      if (way) this.pan(...way);
      else actions[name]();
    });
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault(); // a telephone's way to go back: closing goes through the state, which keeps the address right
      this.app.close();
    });
    this.dialog.addEventListener("close", () => {
      if (this.app.state.picture >= 0) this.app.close(); // a browser may close it without asking
    });
  }
}

/** A cell with text and a name; what does not fit into two lines is in its title. */
function addName(row, text, name) {
  const cell = htmlElement("td", { title: [text, name].filter(Boolean).join(" "), parent: row });
  const lines = htmlElement("span", { className: "two-lines", text, parent: cell });
  if (text && name) lines.append(" ");
  if (name) lines.append(htmlElement("bdi", { text: name }));
}

/** What the other detector made of the same object: its best-scored box that has to do with it. */
function counterpart(stage, row) {
  if (!row || row.object < 0) return null;
  return stage.rows.findLast(({ object }) => object === row.object) ?? null;
}
