"use strict";
/* Boxes as SVG: the elements, and which boxes of a picture are shown. Colours and line styles are in style.css. */

const SVG = "http://www.w3.org/2000/svg";

function svgElement(name, attributes = {}, parent = null) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}

/** An HTML element. Text goes in as text: names of classes and pictures may hold anything. */
function htmlElement(name, { text, parent, ...properties } = {}) {
  const element = Object.assign(document.createElement(name), properties);
  if (text !== undefined) element.textContent = text;
  parent?.append(element);
  return element;
}

/** A line as on the boxes, for legends and tables. */
function swatch(kind) {
  const svg = svgElement("svg", { class: "swatch", viewBox: "0 0 26 10", "aria-hidden": "true" });
  svgElement("path", { class: "casing", d: "M1 5H25" }, svg);
  svgElement("path", { class: `line ${className(kind)}`, d: "M1 5H25" }, svg);
  return svg;
}

/** Boxes of a picture that pass all filters, in drawing order: objects, then detections, the highest score last.

    Each is {box: index of its first coordinate, boxes: coordinates, kind, label, score or null, detection or -1,
    object or -1, overlap}. */
function shownBoxes(model, state, number, picture) {
  const detector = model.detectors[number];
  const objects = model.objects;
  const least = leastScore(state, number);
  const { missed, ignoredObject } = kindIndices(model);
  const rows = [];
  for (let o = objects.offsets[picture]; o < objects.offsets[picture + 1]; o++) {
    const kind = objects.ignored[o] ? ignoredObject : missed;
    if (!state.kinds[kind] || !passes(state, objects.labels[o], objects.sizes[o])) continue;
    if (kind === missed && isFound(detector, o, least)) continue;
    rows.push({ boxes: objects.boxes, box: 4 * o, kind, label: objects.labels[o], score: null, detection: -1, object: o, overlap: 0 });
  }
  const end = lastShown(detector, picture, least);
  for (let d = end - 1; d >= detector.offsets[picture]; d--) {
    if (!state.kinds[detector.kinds[d]] || !passes(state, detector.labels[d], detector.sizes[d])) continue;
    rows.push({
      boxes: detector.boxes, box: 4 * d, kind: detector.kinds[d], label: detector.labels[d], score: detector.scores[d],
      detection: d, object: detector.objects[d], overlap: detector.overlaps[d],
    });
  }
  return rows;
}

/** The detection after the last one of the picture whose score is high enough. */
function lastShown(detector, picture, least) {
  let end = detector.offsets[picture];
  while (end < detector.offsets[picture + 1] && detector.scores[end] >= least) end++;
  return end;
}

/** Paths of all boxes of each kind in the pixels of the picture: one path a kind, since a gallery has thousands. */
function pathsByKind(model, rows) {
  const paths = model.kinds.map(() => "");
  for (const { boxes, box, kind } of rows) {
    const [x1, y1, x2, y2] = [0, 1, 2, 3].map((side) => Math.round(10 * boxes[box + side]) / 10);
    paths[kind] += `M${x1} ${y1}H${x2}V${y2}H${x1}Z`;
  }
  return paths;
}

/** Rows and columns of a picture; the boxes are in pixels of this size, however large the copy is. */
function sizeOf(model, picture) {
  return [model.pictures.sizes[2 * picture] || 1, model.pictures.sizes[2 * picture + 1] || 1];
}

function fileOf(folder, picture) {
  return `${folder}/${String(picture).padStart(6, "0")}.jpg`;
}
