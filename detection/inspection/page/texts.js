"use strict";
/* Words: what each kind of box and each kind of error is called, and how names of the data set are shown.

   A name may hold anything, also letters that run from right to left: it stands in an element or between characters
   of its own, so that it does not turn the numbers beside it around. */

const LONGEST_NAME = 24; // letters beside a box

const KIND_TEXTS = {
  "true": ["true", "right class, IoU at least 0.5, the first to find its object"],
  "localization": ["localization", "right class, but the box fits badly (IoU between 0.1 and 0.5)"],
  "classification": ["classification", "the box fits an object of another class"],
  "both": ["class and box", "wrong class, and the box fits badly"],
  "duplicate": ["duplicate", "the object was already found by a higher score"],
  "background": ["background", "nothing annotated there (IoU below 0.1)"],
  "ignored": ["not counted", "detection of an ignored object, or beyond the first 100 of its class: neither true nor false"],
  "missed": ["not found", "object that no detection at this score finds"],
  "ignored object": ["ignored object", "annotated as difficult or as a crowd: not asked for"],
};

/** Kinds of errors are called as the boxes are, but for those that only the costs have. */
const COST_TEXTS = {
  ...KIND_TEXTS,
  "missed": ["missed", "not found at any score, and no localization or classification error points to the object either"],
  "false positives": ["all false detections", "every detection that is not true: the five kinds above together"],
  "false negatives": ["all objects not found", "at any score; also those that a localization or classification error points to"],
};

const SIZE_TEXTS = {
  small: "small, below 32² pixels",
  medium: "medium",
  large: "large, above 96² pixels",
};

function className(kind) {
  return kind.replaceAll(" ", "-");
}

/** A number with commas: 12,345. */
function whole(number) {
  return number.toLocaleString("en");
}

/** The beginning of a long name. */
function cut(name) {
  const letters = [...name];
  return letters.length > LONGEST_NAME ? `${letters.slice(0, LONGEST_NAME - 1).join("")}…` : name;
}

/** A name for SVG, between the characters that keep its direction to itself. */
function isolated(name) {
  return `\u2068${name}\u2069`;
}

/** The id of a picture where the name of its file does not say it already. */
function idBeside({ pictures: { ids, files } }, picture) {
  const [id, file] = [ids[picture], files[picture]];
  return id === file || id === file.replace(/\.[^.]*$/, "") ? "" : id;
}

/** Puts the file of a picture into an element, and its id where that is another one. */
function showPictureName(model, picture, element) {
  const file = htmlElement("bdi", { text: model.pictures.files[picture] });
  const id = idBeside(model, picture);
  element.title = id ? `${file.textContent}\n${id}` : file.textContent;
  element.replaceChildren(file);
  if (id) element.append(" ", htmlElement("bdi", { className: "id", text: id }));
}

function factsText({ right, wrong, missed }, picture) {
  return `${right[picture]} true · ${wrong[picture]} false · ${missed[picture]} not found`;
}
