"use strict";
/* The data of the report as typed arrays.

   data.js assigns one object, REPORT; its arrays are base64 of little-endian numbers, because half a million
   detections written as JSON would be five times as large and take seconds to read. A script is used for the data,
   since a page opened from the disk may not fetch files.

   Letters: I pictures, M objects, D detections of one detector, K classes. */

const ARRAYS = { f4: Float32Array, i4: Int32Array, u2: Uint16Array, u1: Uint8Array };

/** Numbers from ["f4", "base64..."]. */
function decodeArray([type, text]) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return new ARRAYS[type](bytes.buffer); // typed arrays have the machine's byte order: little-endian on all of today's
}

function decodeAll(arrays) {
  return Object.fromEntries(Object.entries(arrays).map(([name, array]) => [name, decodeArray(array)]));
}

/** The report: names, scores and tables as they are in data.js, pictures, objects and detections as arrays. */
function buildModel(report) {
  const pictures = { ...report.pictures, ...decodeAll(report.pictures.arrays) };
  return {
    ...report,
    pictures, // ids, files [I], inSet: how many there are, missing {index: reason}, sizes (I * 2) rows and columns
    count: pictures.ids.length,
    // offsets (I + 1), boxes (M * 4), labels, ignored, sizes (0, 1, 2: small, medium, large)
    objects: decodeAll(report.objects),
    detectors: report.detectors.map((detector) => ({
      ...detector,
      // offsets (I + 1), boxes (D * 4), scores falling within a picture, labels, kinds, objects or -1, overlaps, sizes;
      // foundBy (M): the detection that found an object, or -1
      ...decodeAll(detector.arrays),
    })),
  };
}

/** Indices of the kinds, in the order of REPORT.kinds: those of the detections, then those of the objects. */
function kindIndices(model) {
  const at = (name) => model.kinds.indexOf(name);
  return { found: at("true"), missed: at("missed"), ignoredObject: at("ignored object"), all: model.kinds.length };
}

/** A kind of detection that counts as false. */
function isFalse(name) {
  return ["localization", "classification", "both", "duplicate", "background"].includes(name);
}

/** Whether an object is found by a detection that the slider lets through. */
function isFound(detector, object, least) {
  const by = detector.foundBy[object];
  return by >= 0 && detector.scores[by] >= least;
}
