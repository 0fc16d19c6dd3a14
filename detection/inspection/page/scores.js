"use strict";
/* What stands above the pictures: means with their intervals, error shares, plots, and the scores of each class. */

function percent(value, signed = false) {
  if (value === null || value === undefined) return "-";
  return (signed && value > 0 ? "+" : "") + (100 * value).toFixed(1).replace("-", "−");
}

function interval({ low, high }, signed = false) {
  return low === null ? "" : `${percent(low, signed)} to ${percent(high, signed)}`;
}

function showScores(model, app) {
  document.title = `${model.title}: detection report`;
  showTitle(model);
  document.getElementById("subtitle").textContent = model.subtitle;
  document.getElementById("protocol").textContent = model.protocol;
  document.getElementById("headline").append(...model.headline.map((score) => scoreCard(model, score)));
  showCosts(model);
  showPlots(model);
  document.getElementById("classes").append(classTable(model, app));
  document.getElementById("all").append(summaryTable(model));
  for (const button of document.querySelectorAll("#panels button")) listenToPanel(button);
}

/** Names of the detectors. */
function showTitle({ detectors }) {
  const title = document.getElementById("title");
  detectors.forEach(({ name }, number) => {
    if (number) title.append(" versus ");
    if (detectors.length > 1) title.append(htmlElement("b", { className: "mark", text: "AB"[number] }), " ");
    title.append(htmlElement("bdi", { text: name }));
  });
}

/** A button that opens and closes what it names: the pictures are to begin on the first screen. */
function listenToPanel(button) {
  const panel = document.getElementById(button.getAttribute("aria-controls"));
  button.addEventListener("click", () => {
    panel.hidden = !panel.hidden;
    button.setAttribute("aria-expanded", String(!panel.hidden));
  });
}

/** A mean of each detector on a scale from 0 to 100, with its interval, and the difference of two. */
function scoreCard(model, { name, values, difference }) {
  const card = htmlElement("article", { className: "card" });
  htmlElement("h2", { text: name, title: `${name}\n${model.protocol}`, parent: card });
  values.forEach((score, number) => {
    const line = htmlElement("p", { className: "value", parent: card });
    if (values.length > 1) htmlElement("b", { className: "mark", text: "AB"[number], title: model.detectors[number].name, parent: line });
    htmlElement("strong", { text: percent(score.value), parent: line });
    htmlElement("span", { className: "note", text: interval(score), title: "95 % interval", parent: line });
    card.append(scoreScale(score));
  });
  if (difference) {
    const known = difference.low !== null;
    const clear = known && (difference.low > 0 || difference.high < 0);
    const line = htmlElement("p", { className: "difference", parent: card });
    htmlElement("span", { text: `A − B: ${percent(difference.value, true)} `, parent: line });
    if (known) htmlElement("span", { className: "note", text: interval(difference, true), title: "95 % interval", parent: line });
    if (known) htmlElement("span", { className: clear ? "verdict clear" : "verdict", text: clear ? "clear" : "could be chance", parent: line });
  }
  return card;
}

function scoreScale({ value, low, high }) {
  const svg = svgElement("svg", { class: "scale", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" });
  svgElement("rect", { class: "ground", width: 100, height: 6 }, svg);
  if (value !== null) svgElement("rect", { class: "bar", width: 100 * value, height: 6 }, svg);
  if (low !== null) svgElement("rect", { class: "range", x: 100 * low, width: Math.max(0.4, 100 * (high - low)), y: 2, height: 2 }, svg);
  return svg;
}

/** What each kind of error costs: the AP50 that would be gained if all of them were mended. */
function showCosts(model) {
  const section = document.getElementById("costs");
  const largest = Math.max(0.001, ...model.detectors.flatMap(({ costs }) => costs.map(({ gain }) => gain ?? 0)));
  htmlElement("p", { className: "note", text: model.costNote, parent: section });
  const columns = htmlElement("div", { className: "cost-columns", parent: section });
  model.detectors.forEach((detector, number) => {
    const table = htmlElement("table", { className: "costs", parent: columns });
    if (model.detectors.length > 1) {
      const caption = htmlElement("caption", { text: `${"AB"[number]} `, parent: table });
      caption.append(htmlElement("bdi", { text: detector.name }));
    }
    for (const cost of detector.costs) costRow(cost, largest, table);
  });
}

function costRow({ kind, gain, count }, largest, table) {
  const [name, meaning] = COST_TEXTS[kind];
  const row = htmlElement("tr", { parent: table });
  const head = htmlElement("th", { text: name, scope: "row", parent: row });
  htmlElement("span", { className: "note", text: meaning, parent: head });
  const cell = htmlElement("td", { className: "bar-cell", parent: row });
  const bar = htmlElement("span", { className: `cost-bar ${className(kind)}`, parent: cell });
  bar.style.width = `${(100 * Math.max(0, gain ?? 0)) / largest}%`;
  htmlElement("td", { className: "number", text: percent(gain, true), parent: row });
  htmlElement("td", { className: "number note", text: whole(count), parent: row });
}

function showPlots(model) {
  const section = document.getElementById("plots");
  section.classList.toggle("pairs", model.detectors.length > 1);
  if (!model.plots.length) document.getElementById("show-plots").hidden = true;
  for (const { file, name, detector } of model.plots) {
    const figure = htmlElement("figure", { parent: section });
    const link = htmlElement("a", { href: file, parent: figure });
    htmlElement("img", { src: file, alt: name, loading: "lazy", parent: link });
    const caption = htmlElement("figcaption", { text: `${name}: `, parent: figure });
    caption.append(htmlElement("bdi", { text: detector }));
  }
}

/** Scores of each class; a click on a heading sorts, a click on a class filters the pictures by it. */
function classTable(model, app) {
  const columns = [{ name: "objects", values: model.classObjects, counted: true }, ...classColumns(model)];
  const table = htmlElement("table", { className: "sortable" });
  const head = htmlElement("tr", { parent: htmlElement("thead", { parent: table }) });
  const body = htmlElement("tbody", { parent: table });
  const rows = model.classes.map((name, k) => {
    const row = htmlElement("tr");
    const link = htmlElement("button", { type: "button", className: "link", title: `${name}\nShow the pictures of this class` });
    htmlElement("bdi", { text: name, parent: link });
    link.addEventListener("click", () => app.showClass(k + 1));
    htmlElement("th", { scope: "row", parent: row }).append(link);
    for (const { values, signed, counted } of columns) {
      const text = counted ? whole(values[k]) : percent(values[k], signed);
      htmlElement("td", { className: "number", text, parent: row });
    }
    return row;
  });
  const order = { column: -1, falling: false };
  const fill = () => {
    const values = order.column < 0 ? model.classes : columns[order.column].values;
    const indices = sortedIndices(values, order.falling);
    body.replaceChildren(...indices.map((k) => rows[k]));
    [...head.children].forEach((cell, i) =>
      cell.setAttribute("aria-sort", i - 1 !== order.column ? "none" : order.falling ? "descending" : "ascending"));
  };
  ["class", ...columns.map(({ name }) => name)].forEach((name, i) => {
    const cell = htmlElement("th", { scope: "col", parent: head });
    const button = htmlElement("button", { type: "button", className: "link", text: name, parent: cell });
    button.addEventListener("click", () => {
      order.falling = order.column === i - 1 ? !order.falling : i > 0; // numbers: the largest first, then the smallest
      order.column = i - 1;
      fill();
    });
  });
  fill();
  return table;
}

function classColumns(model) {
  return model.classScores.flatMap(({ name, values }) => {
    if (values.length === 1) return [{ name, values: values[0] }];
    const [first, second] = values;
    const gains = first.map((value, k) => (value === null || second[k] === null ? null : value - second[k]));
    return [{ name: `A ${name}`, values: first }, { name: `B ${name}`, values: second }, { name: "A − B", values: gains, signed: true }];
  });
}

/** Indices by rising or falling values; what has no value comes last either way. */
function sortedIndices(values, falling) {
  const sign = falling ? -1 : 1;
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en") : a - b);
  return values.map((_, k) => k).sort((a, b) => {
    if (values[a] === null || values[b] === null) return (values[a] === null) - (values[b] === null) || a - b;
    return sign * compare(values[a], values[b]) || a - b;
  });
}

function summaryTable(model) {
  const table = htmlElement("table");
  const head = htmlElement("tr", { parent: htmlElement("thead", { parent: table }) });
  for (const text of ["score", ...model.detectors.map(({ name }) => name)]) htmlElement("th", { text, scope: "col", parent: head });
  const body = htmlElement("tbody", { parent: table });
  for (const { name, values } of model.summary) {
    const row = htmlElement("tr", { parent: body });
    htmlElement("th", { text: name, scope: "row", parent: row });
    for (const value of values) htmlElement("td", { className: "number", text: percent(value), parent: row });
  }
  return table;
}
