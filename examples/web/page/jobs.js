// The jobs of the server, as this page knows them: the list, brought up to date by events.

import { forgetPicture, get, parse } from "./api.js";
import { once } from "./dom.js";
import { SharedStream } from "./shared.js";

const PAGE = 24;
const RANK = { queued: 0, running: 1, done: 2, failed: 2, cancelled: 2 };

/** Whether a job has ended. */
export const hasEnded = (job) => RANK[job.state] === 2;

export class Jobs {
  #jobs = new Map();
  #previews = new Map();
  #removed = new Set();
  #listeners = [];
  #changed = once(() => this.#listeners.forEach((listener) => listener(this)));
  #stream;

  /** Whether the server has older ones than are known here. */
  more = false;
  /** Whether the list has been read. */
  isLoaded = false;

  /** `onState` as of `SharedStream`. `onListError` gets what kept the list from being read. */
  constructor({ onState, onListError }) {
    this.#stream = new SharedStream("/api/events", {
      onEvent: (event) => this.#take(event),
      onState: (state, wait) => {
        onState(state, wait);
        // What happened while there was no stream, or between two, is in the list.
        if (state === "open") this.#reload().catch(onListError);
      },
      // The title of a tab in the background shows how far a job is.
      isWanted: () => [...this.#jobs.values()].some((job) => !hasEnded(job)),
    });
    this.onChange(() => this.#stream.adjust());
  }

  start() {
    this.#stream.run();
  }

  retry() {
    this.#stream.retry();
  }

  /** Calls after changes, once for several of one turn. */
  onChange(listener) {
    this.#listeners.push(listener);
  }

  /** All jobs, newest first. */
  all() {
    return [...this.#jobs.values()].sort((a, b) => b.created - a.created || (a.id < b.id ? 1 : -1));
  }

  get(id) {
    return this.#jobs.get(id);
  }

  /** What a running picture looks like so far: `{picture, step, steps, image}`, or undefined. */
  preview(id) {
    return this.#previews.get(id);
  }

  /** Takes a job as a request has given it. */
  put(job) {
    const known = this.#jobs.get(job.id);
    const isOlder = known && (RANK[known.state] > RANK[job.state] || known.pictures.length > job.pictures.length);
    if (isOlder || this.#removed.has(job.id)) return;
    this.#jobs.set(job.id, job);
    if (hasEnded(job) || this.#previews.get(job.id)?.picture < job.pictures.length) this.#previews.delete(job.id);
    this.#changed();
  }

  /** Forgets a job that was removed, also where an older answer still has it. */
  drop(id) {
    this.#removed.add(id);
    this.#forget(id);
  }

  #forget(id) {
    this.#jobs.get(id)?.pictures.forEach((picture) => forgetPicture(picture.url));
    this.#jobs.delete(id);
    this.#previews.delete(id);
    this.#changed();
  }

  /** Reads older ones. */
  async loadMore() {
    const oldest = this.all().at(-1);
    const { jobs, more } = await get(
      `/api/jobs?limit=${PAGE}${oldest ? `&before=${encodeURIComponent(oldest.id)}` : ""}`,
    );
    this.more = more;
    jobs.forEach((job) => this.put(job));
    this.#changed();
  }

  /** Reads the list as far as it was known, and forgets what is no longer in it. */
  async #reload() {
    const before = this.all();
    const oldest = before.at(-1)?.created ?? Infinity;
    const seen = new Set();
    let last = null;
    let more = true;
    while (more && (last === null || last.created > oldest)) {
      const page = await get(`/api/jobs?limit=${PAGE}${last ? `&before=${encodeURIComponent(last.id)}` : ""}`);
      more = page.more && page.jobs.length > 0;
      for (const job of page.jobs) {
        seen.add(job.id);
        last = job;
        this.put(job);
      }
    }
    for (const { id } of before) if (!seen.has(id)) this.#forget(id);
    this.more = more;
    this.isLoaded = true;
    this.#changed();
  }

  #take({ type, data }) {
    if (type === "job") this.put(parse(data));
    if (type === "removed") this.drop(parse(data).id);
    if (type === "preview") {
      const { id, ...preview } = parse(data);
      const job = this.#jobs.get(id);
      if (job?.state !== "running" || preview.picture < job.pictures.length) return;
      this.#previews.set(id, preview);
      this.#changed();
    }
  }
}
