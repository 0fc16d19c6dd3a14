"use strict";
/* Slider, filters and legend. They show the state, and tell `app` what the reader changes. */

/** A slider for the scores of one detector: {element, set(value)}. */
function makeSlider(model, number, onInput) {
  const detector = model.detectors[number];
  const element = htmlElement("label", { className: "slider" });
  const name = model.detectors.length > 1 ? `${"AB"[number]} ${detector.name}, score at least` : "Score at least";
  htmlElement("span", { className: "slider-name", text: name, title: name, parent: element });
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
    this.label.addEventListener("change", () => app.change({ label: Number(this.label.value) }));
    this.size.addEventListener("change", () => app.change({ size: Number(this.size.value) }));
    this.sort.addEventListener("change", () => app.change({ sort: this.sort.value }));
    this.chips = model.kinds.map((kind, index) => this.makeChip(kind, index));
    document.getElementById("show-all").addEventListener("click", () => this.choose(() => true));
    const isError = (kind) => isFalse(kind) || kind === "missed";
    document.getElementById("show-errors").addEventListener("click", () => this.choose(isError));
    this.summary = document.getElementById("summary");
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
    document.getElementById("kinds").append(button);
    return { button, count };
  }

  update(state, counts, shownPictures) {
    this.sliders.forEach((slider, number) => slider.set(state.scores[number]));
    this.label.value = String(state.label);
    this.size.value = String(state.size);
    this.sort.value = state.sort;
    this.chips.forEach(({ button, count }, index) => {
      button.setAttribute("aria-pressed", String(state.kinds[index]));
      count.textContent = counts.map(({ totals }) => totals[index].toLocaleString("en")).join(" / ");
    });
    const pictures = `${shownPictures.toLocaleString("en")} of ${this.model.count.toLocaleString("en")} pictures`;
    this.summary.textContent = [pictures, ...counts.map((count, i) => this.precisionText(count, i))].join("   ·   ");
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

const SIZE_TEXTS = {
  small: "small, below 32² pixels",
  medium: "medium",
  large: "large, above 96² pixels",
};

function fillSelect(id, options) {
  const select = document.getElementById(id);
  for (const [value, text] of options) htmlElement("option", { value, text, parent: select });
  return select;
}

function share(part, whole) {
  return whole ? `${((100 * part) / whole).toFixed(1)} %` : "-";
}
