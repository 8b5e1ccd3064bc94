// One picture of a job: finished, under way, or still to come.

import { showPicture } from "./api.js";
import { make } from "./dom.js";

/** A picture of a job as a button that opens it. */
export class PictureTile {
  /** `open(n)` is called for a finished one. */
  constructor(job, n, open) {
    this.n = n;
    this.img = make("img", { alt: "", draggable: "false" });
    this.element = make(
      "button",
      { type: "button", class: "picture", disabled: true, onclick: () => open(n) },
      this.img,
    );
    const { width, height } = job.settings;
    this.element.style.setProperty("--w", width);
    this.element.style.setProperty("--h", height);
  }

  update(job, preview) {
    const picture = job.pictures[this.n];
    const { num_images, prompt } = job.settings;
    const which = num_images > 1 ? `Picture ${this.n + 1} of ${num_images}` : "Picture";
    if (picture) {
      if (this.img.dataset.path !== picture.url) showPicture(this.img, picture.url);
      this.#show("finished", `${which}: ${prompt}`);
    } else if (preview?.picture === this.n) {
      if (this.img.getAttribute("src") !== preview.image) this.img.src = preview.image;
      this.#show("preview", `${which}, as far as it is made: ${prompt}`);
    } else {
      this.#show(job.state === "running" ? "empty" : "none", `${which}, not made yet`);
    }
  }

  #show(state, alt) {
    this.element.dataset.state = state;
    this.element.disabled = state !== "finished";
    this.img.hidden = state === "empty" || state === "none";
    if (this.img.hidden) this.element.setAttribute("aria-label", alt);
    else this.element.removeAttribute("aria-label");
    if (this.img.alt !== alt) this.img.alt = alt;
  }
}
