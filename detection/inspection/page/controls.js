"use strict";
/* Slider, filters and legend. They show the state, and tell `app` what the reader changes. */

/** A slider for the scores of one detector: {element, set(value)}. */
function makeSlider(model, number, onInput) {
  const detector = model.detectors[number];
  const element = htmlElement("label", { className: "slider" });
  if (model.detectors.length > 1) {
    const name = htmlElement("span", { className: "slider-name", title: detector.name, parent: element });
    htmlElement("b", { className: "mark", text: "AB"[number], parent: name });
    name.append(" ", htmlElement("bdi", { text: detector.name }));
  }
  htmlElement("span", { className: "slider-words", text: "score at least", parent: element });
  const [min, max] = detector.range;
  const input = htmlElement("input", { type: "range", min, max, step: detector.step, parent: element });
  const output = htmlElement("output", { parent: element });
  const digits = Math.max(0, Math.ceil(-Math.log10(detector.step)));
  input.addEventListener("input", () => onInput(Number(input.value)));
  return {
    element,
    set(value) {
      input.value = String(value);
      output.textContent = value.toFixed(digits);
    },
  };
}

class Controls {
  constructor(model, app) {
    this.model = model;
    this.app = app;
    this.sliders = model.detectors.map((_, number) => {
      const slider = makeSlider(model, number, (value) => app.slide(number, value));
      document.getElementById("sliders").append(slider.element);
      return slider;
    });
    this.label = fillSelect("label", [["0", "all"], ...model.classes.map((name, k) => [String(k + 1), name])]);
    this.size = fillSelect("size", [["-1", "all"], ...model.sizeNames.map((name, i) => [String(i), SIZE_TEXTS[name]])]);
    this.sort = fillSelect("sort", sortsOf(model));
    this.find = document.getElementById("find");
    this.label.addEventListener("change", () => app.change({ label: Number(this.label.value) }));
    this.size.addEventListener("change", () => app.change({ size: Number(this.size.value) }));
    this.sort.addEventListener("change", () => app.change({ sort: this.sort.value }));
    this.find.addEventListener("input", () => app.change({ find: this.find.value }));
    this.chips = model.kinds.map((kind, index) => this.makeChip(kind, index));
    const isError = (kind) => isFalse(kind) || kind === "missed";
    document.getElementById("show-all").addEventListener("click", () => this.choose(() => true));
    document.getElementById("show-errors").addEventListener("click", () => this.choose(isError));
    document.getElementById("reset").addEventListener("click", () => app.reset());
    this.summary = document.getElementById("summary");
    const bar = document.getElementById("controls"); // a tile that gets the focus is not to lie under it
    new ResizeObserver(() => document.body.style.setProperty("--bar", `${bar.offsetHeight}px`)).observe(bar);
  }

  choose(wanted) {
    this.app.change({ kinds: this.model.kinds.map(wanted) });
  }

  /** A kind of box: legend, count and switch in one. A double click leaves this kind alone. */
  makeChip(kind, index) {
    const [name, meaning] = KIND_TEXTS[kind];
    const title = `${meaning}\nClick: on or off. Double click: only these.`;
    const button = htmlElement("button", { type: "button", className: "chip", title });
    button.dataset.kind = kind;
    button.append(swatch(kind));
    htmlElement("span", { text: name, parent: button });
    const count = htmlElement("span", { className: "count", parent: button });
    button.addEventListener("click", () =>
      this.app.change({ kinds: this.app.state.kinds.map((on, i) => (i === index ? !on : on)) }));
    button.addEventListener("dblclick", () => this.choose((_, i) => i === index));
    button.hidden = !occurs(this.model, kind, index);
    document.getElementById("kinds").append(button);
    return { button, count };
  }

  update(state, counts, shownPictures, found) {
    this.sliders.forEach((slider, number) => slider.set(state.scores[number]));
    this.label.value = String(state.label);
    this.size.value = String(state.size);
    this.sort.value = state.sort;
    if (this.find.value !== state.find) this.find.value = state.find;
    this.chips.forEach(({ button, count }, index) => {
      button.setAttribute("aria-pressed", String(state.kinds[index]));
      count.textContent = counts.map(({ totals }) => whole(totals[index])).join(" / ");
    });
    this.summary.textContent = this.summaryText(counts, shownPictures, found);
  }

  /** How many pictures are shown, and precision and recall; these only of the whole set, not of its worst part. */
  summaryText(counts, shown, found) {
    const { count, pictures } = this.model;
    const shownOf = (all) => `${whole(shown)} of ${all} pictures`;
    if (count < pictures.inSet) {
      const worst = `the ${whole(count)} worst`;
      const where = found ? "the pictures looked for" : `these ${whole(count)} pictures`;
      return `${shownOf(worst)}   ·   all counts are of ${where} alone, not of the whole set of ${whole(pictures.inSet)}`;
    }
    const where = found ? ["in the pictures looked for:"] : [];
    return [shownOf(whole(count)), ...where, ...counts.map((each, i) => this.precisionText(each, i))].join("   ·   ");
  }

  /** Precision and recall at this slider position, of what passes the class and size filters. */
  precisionText({ totals }, number) {
    const at = (name) => totals[this.model.kinds.indexOf(name)];
    const wrong = this.model.kinds.filter(isFalse).reduce((sum, kind) => sum + at(kind), 0);
    const precision = share(at("true"), at("true") + wrong);
    const recall = share(at("true"), at("true") + at("missed"));
    const text = `precision ${precision}, recall ${recall} at IoU 0.5`;
    return this.model.detectors.length > 1 ? `${"AB"[number]}: ${text}` : text;
  }
}

/** Most sets have no ignored objects; then nothing is said of them. */
function occurs({ detectors, objects }, kind, index) {
  if (kind === "ignored object") return objects.ignored.includes(1);
  return kind !== "ignored" || detectors.some(({ kinds }) => kinds.includes(index));
}

function fillSelect(id, options) {
  const select = document.getElementById(id);
  for (const [value, text] of options) htmlElement("option", { value, text, dir: "auto", parent: select });
  return select;
}

function share(part, whole) {
  return whole ? `${((100 * part) / whole).toFixed(1)} %` : "-";
}
