// The jobs that wait, and those that have ended.

import { buttonsOf, referencesOf, remarksOf, timeOf } from "./about.js";
import { arrange, byId, iconButton, keepFocus, make } from "./dom.js";
import { count, size } from "./format.js";
import { hasEnded } from "./jobs.js";
import { PictureTile } from "./pictures.js";

/** Jobs as elements, each made once and brought up to date. */
class List {
  #entries = new Map();

  constructor(section, list, make) {
    Object.assign(this, { section, list, make });
  }

  show(jobs) {
    keepFocus(this.section, () => {
      this.section.hidden = jobs.length === 0;
      const ids = new Set(jobs.map((job) => job.id));
      for (const id of this.#entries.keys()) if (!ids.has(id)) this.#entries.delete(id);
      const elements = jobs.map((job) => {
        if (!this.#entries.has(job.id)) this.#entries.set(job.id, this.make(job));
        const entry = this.#entries.get(job.id);
        entry.update(job);
        return entry.element;
      });
      arrange(this.list, elements);
    });
  }
}

export class History {
  #queue;
  #ended;

  constructor(actions) {
    this.#queue = new List(byId("queue"), byId("queue-list"), (job) => queued(job, actions));
    this.#ended = new List(byId("history"), byId("history-list"), (job) => card(job, actions));
    byId("history-more").addEventListener("click", () => this.#more(actions));
  }

  /** `onStage` is the job that is shown large already. */
  show(jobs, onStage) {
    const all = jobs.all().filter((job) => job.id !== onStage?.id);
    const waiting = all.filter((job) => !hasEnded(job)).reverse();
    this.#queue.show(waiting);
    this.#ended.show(all.filter(hasEnded));
    byId("queue-title").textContent = waiting.length > 1 ? `Waiting (${waiting.length})` : "Waiting";
    byId("history-more").hidden = !jobs.more;
    if (jobs.more) byId("history").hidden = false;
  }

  async #more(actions) {
    const button = byId("history-more");
    button.setAttribute("aria-busy", "true");
    byId("history-error").textContent = "";
    const before = byId("history-list").lastElementChild;
    try {
      await actions.loadMore();
      before?.nextElementSibling?.querySelector("button")?.focus();
    } catch (error) {
      byId("history-error").textContent = error.message;
    } finally {
      button.removeAttribute("aria-busy");
    }
  }
}

function queued(job, actions) {
  const place = make("p", { class: "place" });
  const cancel = iconButton("close", `Cancel: ${job.settings.prompt}`, () => actions.cancel(job));
  const { num_images, width, height } = job.settings;
  const about = `${size(width, height)}${num_images > 1 ? ` · ${count(num_images, "picture")}` : ""}`;
  const element = make(
    "li",
    { class: "waiting" },
    referencesOf(job),
    make(
      "div",
      { class: "waiting-text" },
      make("p", { class: "prompt" }, job.settings.prompt || "(no prompt)"),
      make("p", { class: "place" }, about),
    ),
    place,
    cancel,
  );
  const words = ({ state, position }) => {
    if (state === "running") return "running";
    return position === 0 || position === null ? "next" : `${position} before it`;
  };
  return { element, update: (now) => (place.textContent = words(now)) };
}

function card(job, actions) {
  const tiles = job.pictures.map((_, n) => new PictureTile(job, n, () => actions.open(job.id, n)));
  tiles.forEach((tile) => {
    tile.img.loading = "lazy";
    tile.update(job);
  });
  const { width, height, prompt } = job.settings;
  const pictures = tiles.length
    ? make(
        "div",
        { class: "card-pictures", "data-count": Math.min(5, tiles.length) },
        tiles.map((tile) => tile.element),
      )
    : make("div", { class: "card-none" }, remarksOf(job));
  const element = make(
    "li",
    { class: "card" },
    pictures,
    make(
      "div",
      { class: "card-about" },
      make(
        "div",
        { class: "card-text" },
        make("p", { class: "prompt", title: prompt }, prompt || "(no prompt)"),
        make("p", { class: "when" }, timeOf(job.finished ?? job.created)),
      ),
      make("div", { class: "card-buttons" }, buttonsOf(job, null, actions, true)),
    ),
  );
  // Two lie side by side, three and four in a square.
  const across = tiles.length === 2 ? 2 : 1;
  element.style.setProperty("--ratio", tiles.length ? Math.max(0.56, (across * width) / height).toFixed(3) : 1);
  element.style.setProperty("--enlarge", tiles.length && Math.max(width, height) < 200 ? 1 : 0);
  return { element, update: () => {} };
}
