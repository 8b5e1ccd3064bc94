// The stage: the job that runs, else the newest that has ended; large.

import { buttonsOf, referencesOf, remarksOf, settingsOf, timeOf } from "./about.js";
import { byId, keepFocus, make } from "./dom.js";
import { duration } from "./format.js";
import { hasEnded } from "./jobs.js";
import { PictureTile } from "./pictures.js";

/** The job for the stage: null where there is none. */
export function stageJob(all) {
  const running = all.find((job) => job.state === "running");
  if (running) return running;
  const shown = all.filter((job) => hasEnded(job) && (job.pictures.length > 0 || job.state === "failed"));
  return shown.reduce((newest, job) => ((job.finished ?? 0) > (newest?.finished ?? -1) ? job : newest), null);
}

export class Stage {
  #actions;
  #element = byId("stage");
  #id = null;
  #state = "";
  #tiles = [];

  constructor(actions) {
    this.#actions = actions;
  }

  show(job, preview) {
    const sameButton = (focused) => this.#element.querySelector(`[data-action="${focused.dataset.action ?? ""}"]`);
    keepFocus(this.#element, () => this.#change(job, preview), sameButton);
  }

  #change(job, preview) {
    this.#element.hidden = job === null;
    if (job === null) {
      this.#id = null;
      this.#element.classList.remove("running");
      this.#element.replaceChildren();
      return;
    }
    if (job.id !== this.#id) this.#build(job);
    const state = `${job.state} ${job.notices.length}`;
    if (state !== this.#state) this.#about(job);
    this.#state = state;
    if (job.state === "running") this.#progress(job.progress);
    this.#tiles.forEach((tile) => tile.update(job, preview));
  }

  #build(job) {
    this.#id = job.id;
    this.#state = "";
    const open = (n) => this.#actions.open(job.id, n);
    this.#tiles = Array.from({ length: job.settings.num_images }, (_, n) => new PictureTile(job, n, open));
    const pictures = make(
      "div",
      { class: "stage-pictures" },
      this.#tiles.map((tile) => tile.element),
    );
    const { width, height } = job.settings;
    this.#element.dataset.count =
      this.#tiles.length === 2 && width > 1.2 * height ? "2 wide" : Math.min(5, this.#tiles.length);
    this.#element.style.setProperty("--w", width);
    this.#element.style.setProperty("--h", height);
    this.#element.replaceChildren(pictures, make("div", { class: "stage-about" }));
  }

  #about(job) {
    const about = this.#element.querySelector(".stage-about");
    const isRunning = job.state === "running";
    this.#element.setAttribute("aria-label", isRunning ? "Running" : "Newest picture");
    this.#element.classList.toggle("running", isRunning);
    // What failed or was cancelled leaves no empty frames.
    const kept = isRunning ? this.#tiles : this.#tiles.slice(0, job.pictures.length);
    this.#element.querySelector(".stage-pictures").replaceChildren(...kept.map((tile) => tile.element));
    this.#element.querySelector(".stage-pictures").hidden = kept.length === 0;
    about.replaceChildren(
      ...(isRunning ? this.#running(job) : [make("p", { class: "state" }, timeOf(job.finished ?? job.created))]),
      make("p", { class: "prompt" }, job.settings.prompt || "(no prompt)"),
      ...[referencesOf(job)].filter(Boolean),
      ...remarksOf(job),
      settingsOf(job),
      make(
        "div",
        { class: "buttons" },
        buttonsOf(job, job.pictures.length === 1 ? job.pictures[0] : null, this.#actions),
      ),
    );
  }

  #running(job) {
    return [
      make("div", { class: "running-head" }, make("p", { class: "state" }), make("p", { class: "left" })),
      make(
        "div",
        { class: "bar", role: "progressbar", "aria-label": "Progress", "aria-valuemin": 0, "aria-valuemax": 100 },
        make("div"),
      ),
      make(
        "div",
        { class: "buttons" },
        make(
          "button",
          { type: "button", class: "quiet", "data-action": "cancel", onclick: () => this.#actions.cancel(job) },
          "Cancel",
        ),
      ),
    ];
  }

  #progress(progress) {
    const about = this.#element.querySelector(".stage-about");
    const bar = about.querySelector(".bar");
    const fraction = progress?.fraction ?? 0;
    const state = stateOf(progress, this.#tiles.length);
    about.querySelector(".state").textContent = state;
    about.querySelector(".left").textContent = leftOf(progress);
    bar.style.setProperty("--fraction", fraction);
    bar.setAttribute("aria-valuenow", Math.floor(fraction * 100));
    bar.setAttribute("aria-valuetext", `${Math.floor(fraction * 100)} %, ${state}`);
  }
}

function stateOf(progress, pictures) {
  if (!progress) return "Starting";
  const { picture, stage, step, steps } = progress;
  const what = stage === "denoising" ? `Step ${step} of ${steps}` : stage.charAt(0).toUpperCase() + stage.slice(1);
  return pictures > 1 ? `Picture ${picture + 1} of ${pictures} · ${what}` : what;
}

const leftOf = (progress) =>
  typeof progress?.seconds_left === "number" ? `about ${duration(progress.seconds_left)} left` : "";
