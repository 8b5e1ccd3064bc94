// One picture, as large as the window allows, and the way to the others.

import { buttonsOf, referencesOf, remarksOf, settingsOf, timeOf } from "./about.js";
import { showPicture } from "./api.js";
import { announce, byId, make } from "./dom.js";
import { closeOutside } from "./dialogs.js";

export class Viewer {
  #jobs;
  #actions;
  #dialog = byId("viewer");
  #shown = null;

  constructor(jobs, actions) {
    this.#jobs = jobs;
    this.#actions = actions;
    byId("viewer-close").addEventListener("click", () => this.#dialog.close());
    byId("viewer-previous").addEventListener("click", () => this.#go(-1));
    byId("viewer-next").addEventListener("click", () => this.#go(1));
    this.#dialog.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      this.#go(by);
    });
    this.#dialog.addEventListener("close", () => (this.#shown = null));
    closeOutside(this.#dialog);
    swipe(byId("viewer-picture"), (by) => this.#go(by));
    jobs.onChange(() => this.#refresh());
  }

  open(id, n) {
    this.#show({ id, n });
    if (!this.#dialog.open) this.#dialog.showModal();
  }

  close() {
    this.#dialog.close();
  }

  /** All finished pictures, newest first. */
  #all() {
    return this.#jobs.all().flatMap((job) => job.pictures.map((picture, n) => ({ id: job.id, n, job, picture })));
  }

  #index(all) {
    return all.findIndex(({ id, n }) => id === this.#shown?.id && n === this.#shown.n);
  }

  async #go(by) {
    if (by > 0 && this.#jobs.more && this.#index(this.#all()) >= this.#all().length - 2) {
      await this.#actions.loadMore().catch(() => {}); // The history says what is wrong.
    }
    const all = this.#all();
    const to = all[this.#index(all) + by];
    if (!to || !this.#shown) return;
    this.#show(to);
    announce(
      `Picture ${all.indexOf(to) + 1} of ${all.length}${this.#jobs.more ? " so far" : ""}: ${to.job.settings.prompt}`,
    );
  }

  #show(what) {
    const all = this.#all();
    const at = all.findIndex(({ id, n }) => id === what.id && n === what.n);
    if (at < 0) return;
    const { job, picture, id, n } = all[at];
    this.#shown = { id, n, at, state: job.state };
    const img = make("img", { alt: job.settings.prompt || "A picture without a prompt" });
    img.style.setProperty("--w", picture.width);
    img.style.setProperty("--h", picture.height);
    showPicture(img, picture.url);
    byId("viewer-picture").replaceChildren(img);
    byId("viewer-about").replaceChildren(
      make("p", { class: "state" }, timeOf(job.finished ?? job.created)),
      make("p", { class: "prompt" }, job.settings.prompt || "(no prompt)"),
      ...[referencesOf(job)].filter(Boolean),
      ...remarksOf(job),
      settingsOf(job, picture),
      make("div", { class: "buttons" }, buttonsOf(job, picture, this.#actions)),
    );
    this.#ends(all, at);
    for (const next of [all[at + 1], all[at - 1]]) if (next) showPicture(new Image(), next.picture.url);
  }

  #ends(all, at) {
    const buttons = [byId("viewer-previous"), byId("viewer-next")];
    const focused = buttons.find((button) => button === document.activeElement);
    buttons[0].disabled = at <= 0;
    buttons[1].disabled = at >= all.length - 1 && !this.#jobs.more;
    if (focused?.disabled) buttons.find((button) => !button.disabled)?.focus();
  }

  /** The jobs have changed: the picture may be gone, others may have come. */
  #refresh() {
    if (!this.#shown) return;
    const all = this.#all();
    const at = this.#index(all);
    if (all.length === 0) return this.#dialog.close();
    if (at < 0) return this.#show(all[Math.min(this.#shown.at, all.length - 1)]);
    if (all[at].job.state !== this.#shown.state) this.#show(this.#shown);
    else this.#ends(all, at);
  }
}

/** Swipes to the side. */
function swipe(element, go) {
  let start = null;
  element.addEventListener("touchstart", (event) => (start = event.touches.length === 1 ? event.touches[0] : null), {
    passive: true,
  });
  element.addEventListener("touchend", (event) => {
    const end = event.changedTouches[0];
    if (!start || !end) return;
    const [x, y] = [end.clientX - start.clientX, end.clientY - start.clientY];
    if (Math.abs(x) > 60 && Math.abs(x) > 2 * Math.abs(y)) go(x < 0 ? 1 : -1);
    start = null;
  });
}
