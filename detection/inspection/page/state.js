"use strict";
/* What the reader has chosen, and the address that keeps it: after the "#" stands what differs from the start. Classes
   and pictures stand there by name and id, so that a link fits another report of the same data set too. */

const SORTS = [
  ["errors", "most errors"],
  ["score", "most confident error"],
  ["name", "name"],
  ["set", "order of the set"],
];
const SORTS_VERSUS = [
  ["disagreement", "disagreement"],
  ["errors", "most errors of A"],
  ["errors2", "most errors of B"],
  ...SORTS.slice(1),
];

function sortsOf(model) {
  return model.detectors.length > 1 ? SORTS_VERSUS : SORTS;
}

function initialState(model) {
  return {
    scores: model.detectors.map(({ start }) => start), // sliders
    label: 0, // 1..K, 0: all classes
    size: -1, // 0, 1, 2: small, medium, large; -1: all
    kinds: model.kinds.map(() => true),
    sort: sortsOf(model)[0][0],
    find: "", // part of the name or id of a picture
    picture: -1, // the open one
  };
}

/** The state as text: "score=0.5&class=dog&kinds=...&picture=000017". */
function writeState(model, state) {
  const start = initialState(model);
  const fields = new URLSearchParams();
  state.scores.forEach((value, i) => {
    if (value !== start.scores[i]) fields.set(i ? "score2" : "score", String(value));
  });
  if (state.label) fields.set("class", model.classes[state.label - 1]);
  if (state.size >= 0) fields.set("size", model.sizeNames[state.size]);
  if (state.kinds.some((on) => !on)) fields.set("kinds", model.kinds.filter((_, i) => state.kinds[i]).join(","));
  if (state.sort !== start.sort) fields.set("sort", state.sort);
  if (state.find) fields.set("find", state.find);
  if (state.picture >= 0) fields.set("picture", model.pictures.ids[state.picture]);
  return fields.toString();
}

/** The state that an address asks for. What it does not say, or says wrongly, stays as at the start. */
function readState(model, text) {
  const fields = new URLSearchParams(text);
  const state = initialState(model);
  state.scores = model.detectors.map(({ start, range: [min, max] }, i) =>
    Math.min(max, Math.max(min, numberOr(fields.get(i ? "score2" : "score"), start))));
  state.label = model.classes.indexOf(fields.get("class")) + 1;
  state.size = model.sizeNames.indexOf(fields.get("size"));
  if (fields.has("kinds")) state.kinds = model.kinds.map((name) => fields.get("kinds").split(",").includes(name));
  if (sortsOf(model).some(([name]) => name === fields.get("sort"))) state.sort = fields.get("sort");
  state.find = fields.get("find") ?? "";
  state.picture = model.pictures.ids.indexOf(fields.get("picture"));
  return state;
}

function numberOr(text, otherwise) {
  const value = text === null || text === "" ? NaN : Number(text);
  return Number.isFinite(value) ? value : otherwise;
}
