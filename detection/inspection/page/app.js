"use strict";
/* The page as a whole: one state, and everything drawn from it.

   The slider moves counts and boxes at once; the pictures change places when it rests, since tiles that jump about
   under a moving slider cannot be looked at. The address follows when things have settled, because browsers allow
   only so many changes of it in a second. */

const SETTLE = 200; // milliseconds

class App {
  constructor(model) {
    this.model = model;
    this.address = addressText(); // as it was last read or written
    this.settling = 0; // the timer, 0 when nothing is to be done
    this.state = readState(model, this.address);
    this.controls = new Controls(model, this);
    this.gallery = new Gallery(model, document.getElementById("gallery"), this);
    this.viewer = new Viewer(model, this);
    showScores(model, this);
    for (const name of ["popstate", "hashchange"]) window.addEventListener(name, () => this.readAddress());
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

  /** All filters and sliders as at the start. */
  reset() {
    this.change({ ...initialState(this.model), picture: this.state.picture });
  }

  /** Opens a picture and makes a step to go back to. Returns whether the browser let it. */
  open(picture) {
    const text = writeState(this.model, { ...this.state, picture });
    this.writeAddress(); // of the step to go back to
    try {
      history.pushState({ opened: true }, "", `#${text}`);
    } catch {
      return false; // then the link is followed
    }
    this.address = text;
    this.change({ picture });
    return true;
  }

  /** Opens the picture before or after the open one. */
  step(by) {
    const place = this.order.indexOf(this.state.picture);
    const picture = place < 0 ? this.order[0] : this.order[place + by];
    if (picture !== undefined) this.change({ picture });
  }

  /** Closes the open picture. The step that opening it made is taken back, so that none is left that does nothing. */
  close() {
    const { picture } = this.state;
    if (history.state?.opened) {
      this.returning = true;
      history.back();
    }
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
    this.settling = 0;
    document.body.classList.remove("sliding");
    this.render(true);
    this.writeAddress();
  }

  render(reorder) {
    const { model, state } = this;
    const start = performance.now();
    const found = foundPictures(model, state.find);
    this.counts = model.detectors.map((_, number) => countDetector(model, state, number, found));
    if (reorder) this.order = orderPictures(model, state, this.counts, found);
    this.controls.update(state, this.counts, this.order.length, found);
    this.gallery.update(state, this.counts, this.order);
    this.viewer.update(state, this.counts, this.order);
    document.getElementById("nothing").hidden = this.order.length > 0;
    document.body.dataset.milliseconds = (performance.now() - start).toFixed(1); // read by the measurements
  }

  /** The address changes in place: only opening a picture makes a step to go back to. */
  writeAddress() {
    const text = writeState(this.model, this.state);
    if (this.returning || text === this.address) return;
    this.address = text;
    try {
      history.replaceState(history.state, "", `#${text}`);
    } catch {
      location.replace(`#${text}`); // a browser that forbids it on the disk; the event comes late and tells nothing new
    }
  }

  readAddress() {
    const text = addressText();
    if (this.returning) {
      this.returning = false;
      this.address = text;
      return this.writeAddress(); // sliders and filters stay as they were left in the open picture
    }
    if (text === this.address) return;
    this.address = text;
    clearTimeout(this.settling);
    this.settling = 0;
    document.body.classList.remove("sliding");
    const before = this.state.picture;
    this.state = readState(this.model, text);
    this.render(true);
    if (before >= 0 && this.state.picture < 0) this.gallery.show(before);
  }
}

function addressText() {
  return location.hash.slice(1);
}

const app = new App(buildModel(REPORT));
