"use strict";
/* What the slider and the filters leave, counted in one pass over all boxes, and the order of the pictures.

   A detection is shown when its score is at least the slider's. Kinds of errors were assigned from the highest score
   down, so they do not depend on lower ones and stay as they are while the slider moves. An object is found when the
   detection that found it is shown, and missed otherwise. */

/** Slider positions are compared as float32, as scores are stored: 0.7 is shown at 0.7. */
function leastScore(state, detector) {
  return Math.fround(state.scores[detector]);
}

/** Whether a box of this label and size passes the class and the size filter. */
function passes(state, label, size) {
  return (state.label === 0 || label === state.label) && (state.size < 0 || size === state.size);
}

/** (I) 1 for the pictures whose name or id holds the text, 0 for the others; null without a text. */
function foundPictures(model, text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return null;
  const { ids, files } = model.pictures;
  model.searched ??= ids.map((id, i) => `${files[i]}\n${id}`.toLowerCase());
  return Uint8Array.from(model.searched, (names) => names.includes(wanted));
}

/** Counts for one detector.

    totals (kinds): boxes in the `pictures` looked for that pass class and size, whether their kind is on or not;
    right, wrong, missed (I): true, false and not found, of any kind, that pass class and size;
    shown, errors (I): boxes and errors of the kinds that are on;
    worst (I): highest score of a false one of the kinds that are on, or -Infinity. */
function countDetector(model, state, number, pictures) {
  const detector = model.detectors[number];
  const { offsets, scores, labels, kinds, sizes } = detector;
  const objects = model.objects;
  const least = leastScore(state, number);
  const { found, missed, ignoredObject, all } = kindIndices(model);
  const errorKind = Uint8Array.from(model.kinds, isFalse);
  const [everywhere, elsewhere] = [new Int32Array(all), new Int32Array(all)];
  const [shown, errors, wrong, unfound, right] = [1, 2, 3, 4, 5].map(() => new Int32Array(model.count));
  const worst = new Float32Array(model.count).fill(-Infinity);
  for (let i = 0; i < model.count; i++) {
    const totals = pictures === null || pictures[i] ? everywhere : elsewhere;
    for (let d = offsets[i]; d < offsets[i + 1] && scores[d] >= least; d++) {
      if (!passes(state, labels[d], sizes[d])) continue;
      const kind = kinds[d];
      totals[kind]++;
      if (kind === found) right[i]++;
      if (errorKind[kind]) wrong[i]++;
      if (!state.kinds[kind]) continue;
      shown[i]++;
      if (!errorKind[kind]) continue;
      errors[i]++;
      if (scores[d] > worst[i]) worst[i] = scores[d];
    }
    for (let o = objects.offsets[i]; o < objects.offsets[i + 1]; o++) {
      if (!passes(state, objects.labels[o], objects.sizes[o])) continue;
      const kind = objects.ignored[o] ? ignoredObject : missed;
      if (kind === missed && isFound(detector, o, least)) continue;
      totals[kind]++;
      if (kind === missed) unfound[i]++;
      if (!state.kinds[kind]) continue;
      shown[i]++;
      if (kind === missed) errors[i]++;
    }
  }
  return { totals: everywhere, shown, errors, wrong, missed: unfound, right, worst };
}

/** (I) Objects that exactly one of two detectors finds, plus how many false detections one has more than the other. */
function disagreement(model, state, counts) {
  const [first, second] = model.detectors;
  const [least, leastSecond] = [leastScore(state, 0), leastScore(state, 1)];
  const objects = model.objects;
  const result = new Int32Array(model.count);
  for (let i = 0; i < model.count; i++) {
    result[i] = Math.abs(counts[0].wrong[i] - counts[1].wrong[i]);
    for (let o = objects.offsets[i]; o < objects.offsets[i + 1]; o++) {
      if (objects.ignored[o] || !passes(state, objects.labels[o], objects.sizes[o])) continue;
      if (isFound(first, o, least) !== isFound(second, o, leastSecond)) result[i]++;
    }
  }
  return result;
}

/** Ways to sort: name of the choice -> numbers by which pictures fall, of equals the earlier one first. */
function sortKeys(model, state, counts) {
  if (state.sort === "set") return new Int32Array(model.count);
  if (state.sort === "name") return model.nameRanks ?? (model.nameRanks = nameRanks(model));
  if (state.sort === "disagreement") return disagreement(model, state, counts);
  if (state.sort === "errors2") return counts[1].errors;
  if (state.sort === "score")
    return counts.length === 1 ? counts[0].worst : counts[0].worst.map((value, i) => Math.max(value, counts[1].worst[i]));
  return counts[0].errors;
}

/** (I) Negative place of each picture in the order of the names shown, numbers inside names by their value. */
function nameRanks(model) {
  const { compare } = new Intl.Collator("en", { numeric: true });
  const { files, ids } = model.pictures;
  const order = files.map((_, i) => i).sort((a, b) => compare(files[a], files[b]) || compare(ids[a], ids[b]));
  const ranks = new Int32Array(model.count);
  order.forEach((i, place) => (ranks[i] = -place));
  return ranks;
}

/** Indices of the pictures to show, in their order. Without a filter that is all, also those without any box. */
function orderPictures(model, state, counts, found) {
  const keys = sortKeys(model, state, counts);
  const filtered = state.label !== 0 || state.size >= 0 || state.kinds.some((on) => !on);
  const order = [];
  for (let i = 0; i < model.count; i++) {
    if (found && !found[i]) continue;
    if (!filtered || counts.some(({ shown }) => shown[i] > 0)) order.push(i);
  }
  return order.sort((a, b) => keys[b] - keys[a] || a - b); // also where both keys are infinite: NaN is not taken
}
