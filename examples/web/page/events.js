// Server-sent events over fetch, since EventSource cannot send a token: the parser, and a stream that comes back.

import { ApiError, request } from "./api.js";

/** Reads decoded text as the HTML standard describes event streams (9.2.6), in pieces of any size. */
export class EventStreamParser {
  #line = "";
  #afterReturn = false;
  #type = "";
  #data = null;

  /** The events that are complete with this piece, `{type, data}` each. */
  push(piece) {
    const events = [];
    // The line feed of a line break that began in the piece before.
    let start = this.#afterReturn && piece.startsWith("\n") ? 1 : 0;
    if (piece !== "") this.#afterReturn = piece.endsWith("\r");
    const breaks = /\r\n|\r|\n/g;
    breaks.lastIndex = start;
    for (let found; (found = breaks.exec(piece)) !== null; start = breaks.lastIndex) {
      const event = this.#read(this.#line + piece.slice(start, found.index));
      this.#line = "";
      if (event) events.push(event);
    }
    this.#line += piece.slice(start);
    return events;
  }

  /** Takes one line; the event that it completes, if it does. */
  #read(line) {
    if (line === "") {
      const event = this.#data === null ? null : { type: this.#type || "message", data: this.#data };
      this.#type = "";
      this.#data = null;
      return event;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#type = value;
    if (field === "data") this.#data = this.#data === null ? value : `${this.#data}\n${value}`;
    return null; // Comments have no field; `id` and `retry` mean nothing here.
  }
}

/** Without any sign of life for so long, comments included, a connection counts as lost. */
const SILENCE = 60_000;
/** Longest wait before another try. */
const LONGEST_WAIT = 30_000;

/**
 * Follows a stream of events, and connects again whenever it ends.
 *
 * `onEvent({type, data})` gets each event, `onState(state, wait)` every change: "open"; "lost" with the milliseconds until
 * the next try; "locked" where a token is wanted and was not given.
 */
export class EventStream {
  #path;
  #handlers;
  #failures = 0;
  #isLocked = false;
  #wake = () => {};
  /** Ends the run under way; null where there is none. */
  #end = null;

  constructor(path, handlers) {
    this.#path = path;
    this.#handlers = handlers;
    const hurry = () => document.visibilityState === "visible" && !this.#isLocked && this.#wake();
    addEventListener("online", hurry);
    document.addEventListener("visibilitychange", hurry);
  }

  get isRunning() {
    return this.#end !== null;
  }

  /** Connects, and again whenever the connection ends, until `stop`. */
  async run() {
    this.stop();
    const end = new AbortController();
    this.#end = end;
    this.#failures = 0;
    for (;;) {
      const error = await this.#once(end.signal);
      if (end.signal.aborted) return;
      this.#isLocked = error instanceof ApiError && error.status === 401;
      // Half of the wait is random, so that many browsers do not come back at once.
      const wait = Math.min(LONGEST_WAIT, 1000 * 2 ** this.#failures++) * (0.5 + Math.random() / 2);
      this.#handlers.onState(this.#isLocked ? "locked" : "lost", wait);
      if (end.signal.aborted) return;
      await new Promise((resolve) => {
        this.#wake = resolve;
        if (!this.#isLocked) setTimeout(resolve, wait);
      });
      if (end.signal.aborted) return;
    }
  }

  /** Closes the connection, and opens none until the next `run`. */
  stop() {
    this.#end?.abort();
    this.#end = null;
    this.#wake();
  }

  /** Tries again now, if it waits. */
  retry() {
    this.#wake();
  }

  /** One connection, from its beginning to its end; what ended it. */
  async #once(end) {
    const controller = new AbortController();
    const signal = AbortSignal.any([controller.signal, end]);
    let silence;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => controller.abort(), SILENCE);
    };
    try {
      const answer = await request(this.#path, { headers: { Accept: "text/event-stream" }, signal });
      if (end.aborted) return null;
      this.#failures = 0;
      this.#handlers.onState("open", 0);
      const parser = new EventStreamParser();
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        heard();
        const { done, value } = await reader.read();
        if (done || end.aborted) return null;
        for (const event of parser.push(value)) this.#handlers.onEvent(event);
      }
    } catch (error) {
      return error;
    } finally {
      clearTimeout(silence);
    }
  }
}
