"use strict";
/* The page as a whole: one state, and everything drawn from it.

   The slider moves counts and boxes at once; the pictures change places when it rests, since tiles that jump about
   under a moving slider cannot be looked at. The address follows when things have settled, because browsers allow
   only so many changes of it in a second. */

const SETTLE = 200; // milliseconds

class App {
  constructor(model) {
    this.model = model;
    this.state = readState(model, location.hash.slice(1));
    this.controls = new Controls(model, this);
    this.gallery = new Gallery(model, document.getElementById("gallery"));
    this.viewer = new Viewer(model, this);
    showScores(model, this);
    window.addEventListener("hashchange", () => this.readAddress());
    this.render(true);
  }

  /** Takes over a part of the state. */
  change(part) {
    Object.assign(this.state, part);
    this.later(true);
  }

  slide(number, value) {
    document.body.classList.add("sliding"); // plain lines in the tiles: dashes and casings take most of a frame
    this.state.scores = this.state.scores.map((former, i) => (i === number ? value : former));
    this.later(false);
  }

  /** Opens the picture before or after the open one. */
  step(by) {
    const place = this.order.indexOf(this.state.picture);
    const picture = place < 0 ? this.order[0] : this.order[place + by];
    if (picture !== undefined) this.change({ picture });
  }

  close() {
    const { picture } = this.state;
    this.change({ picture: -1 });
    requestAnimationFrame(() => requestAnimationFrame(() => this.gallery.show(picture)));
  }

  showClass(label) {
    this.change({ label });
    document.getElementById("pictures").scrollIntoView({ behavior: "smooth" });
  }

  /** Renders in the next frame, once however many changes come before it. */
  later(reorder) {
    this.reorder ||= reorder;
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.settle(), SETTLE);
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.render(this.reorder);
      this.reorder = false;
    });
  }

  settle() {
    document.body.classList.remove("sliding");
    this.render(true);
    this.writeAddress();
  }

  render(reorder) {
    const { model, state } = this;
    const start = performance.now();
    this.counts = model.detectors.map((_, number) => countDetector(model, state, number));
    if (reorder) this.order = orderPictures(model, state, this.counts);
    this.controls.update(state, this.counts, this.order.length);
    this.gallery.update(state, this.counts, this.order);
    this.viewer.update(state, this.counts, this.order);
    document.getElementById("nothing").hidden = this.order.length > 0;
    document.body.dataset.milliseconds = (performance.now() - start).toFixed(1); // read by the measurements
  }

  /** The address changes in place: only opening a picture, which is a link, makes a step to go back to. */
  writeAddress() {
    const text = writeState(this.model, this.state);
    if (text !== location.hash.slice(1)) location.replace(`#${text}`);
  }

  readAddress() {
    const text = location.hash.slice(1);
    if (text === writeState(this.model, this.state)) return;
    clearTimeout(this.settling);
    document.body.classList.remove("sliding");
    const before = this.state.picture;
    this.state = readState(this.model, text);
    this.render(true);
    if (before >= 0 && this.state.picture < 0) this.gallery.show(before);
  }
}

const app = new App(buildModel(REPORT));
