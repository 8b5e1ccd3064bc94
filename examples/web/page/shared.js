// One stream of events for all tabs of a browser, which opens six connections to a server and no more.
//
// The tab that holds a lock (Web Locks) is the leader: it has the stream, and passes on what it hears (BroadcastChannel). The
// browser gives the lock to the next tab when the leader is closed or crashes. Where the leader is in the background or silent, a
// tab that is seen takes the lock from it. Leaders have ascending numbers, so that nobody listens to one that has yet to learn that
// it leads no more. Each stream has a name; with a new one every tab reads anew what it may have missed.

import { address } from "./api.js";
import { EventStream } from "./events.js";

/** How often the leader says that it is there. */
const ALIVE = 5_000;
/** Silence after which a leader counts as gone: usually, and after a question. */
const SILENCE = 20_000;
const NO_ANSWER = 3_000;

const isSeen = () => document.visibilityState === "visible";

/**
 * Follows a stream of events together with the other tabs, for as long as the page is open.
 *
 * `onEvent` and `onState` are as of `EventStream`; "open" comes once for each stream, and may come without a "lost" before it.
 * `isWanted()` is whether events matter while no tab is seen. Browsers without locks (pages without TLS from another machine) have
 * a stream for each tab that is seen.
 */
export class SharedStream {
  #name;
  #handlers;
  #stream;
  #channel = null;
  #isLeader = false;
  /** The number of the leader that was heard last; a later leader has a greater one. */
  #term = 0;
  /** What the leader said last: `{state, until, stream, isSeen}`. */
  #said = { state: "closed", until: 0, stream: null, isSeen: true };
  #pending = new AbortController();
  #takesOver = false;
  #giveUp = () => {};
  #unlock = () => {};
  #silence;

  constructor(path, handlers) {
    this.#name = `uno-web ${address(path)}`;
    this.#handlers = handlers;
    this.#stream = new EventStream(path, {
      onEvent: (event) => this.#tell({ kind: "event", event, stream: this.#said.stream }),
      onState: (state, wait) => this.#setState(state, wait),
    });
  }

  run() {
    document.addEventListener("visibilitychange", () => this.#seen());
    // A page from the browser's memory has lost its place among the tabs.
    addEventListener("pageshow", (event) => event.persisted && location.reload());
    if (!navigator.locks || !globalThis.BroadcastChannel) return this.#lead();
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.addEventListener("message", ({ data }) => this.#hear(data));
    setInterval(() => this.#isLeader && this.#tell({ kind: "alive" }), ALIVE);
    this.#ask();
    this.#contend();
  }

  /** Tries again now, if the connection is lost. */
  retry() {
    this.#unlock();
    if (this.#isLeader) this.#stream.retry();
    else this.#channel?.postMessage({ kind: "retry" });
  }

  /** Opens the stream or closes it, as it is wanted now. */
  adjust() {
    if (!this.#isLeader) return;
    const isWanted = isSeen() || (this.#channel !== null && this.#handlers.isWanted());
    if (isWanted && !this.#stream.isRunning) this.#stream.run();
    if (!isWanted && this.#stream.isRunning) {
      this.#stream.stop();
      this.#setState("closed", 0);
    }
  }

  // Who leads.

  /** Waits for the lock, leads while it is held, and begins anew. */
  async #contend() {
    for (;;) {
      this.#pending = new AbortController();
      const options = this.#takesOver ? { steal: true } : { signal: this.#pending.signal };
      this.#takesOver = false;
      try {
        await navigator.locks.request(this.#name, options, () => this.#lead());
      } catch (error) {
        // The lock was taken over by another tab, or is going to be by this one.
        if (error.name !== "AbortError") return this.#goAlone();
      }
      this.#follow();
      if (this.#said.state === "locked") await new Promise((resolve) => (this.#unlock = resolve));
    }
  }

  /** Leads until it gives up. */
  #lead() {
    this.#isLeader = true;
    this.#term = Math.max(Date.now(), this.#term + 1) + Math.random();
    this.#takesOver = false;
    clearTimeout(this.#silence);
    this.#say({ state: "closed", until: 0, stream: null, isSeen: isSeen() });
    this.adjust();
    return new Promise((resolve) => (this.#giveUp = resolve));
  }

  #follow() {
    this.#isLeader = false;
    this.#stream.stop();
    this.#ask();
  }

  /** Locks are denied to this page. */
  #goAlone() {
    this.#channel.close();
    this.#channel = null;
    this.#lead();
  }

  /** Takes the lead from a tab that does not do for it. */
  #takeOver() {
    if (this.#isLeader || this.#said.state === "locked" || !isSeen()) return;
    this.#takesOver = true;
    this.#pending.abort();
    this.#unlock();
  }

  /** Asks the leader how things are. */
  #ask() {
    if (this.#isLeader) return;
    this.#channel?.postMessage({ kind: "ask" });
    this.#expect(NO_ANSWER);
  }

  /** Takes over if nothing is heard of the leader for so long. */
  #expect(time) {
    clearTimeout(this.#silence);
    if (!this.#isLeader) this.#silence = setTimeout(() => this.#takeOver(), time);
  }

  #seen() {
    if (this.#isLeader) {
      this.#say({ ...this.#said, isSeen: isSeen() });
      this.adjust();
    } else if (isSeen()) {
      this.#ask();
    }
  }

  // What is told.

  #setState(state, wait) {
    const stream = state === "open" ? `${this.#term} ${Math.random()}` : this.#said.stream;
    this.#say({ state, until: Date.now() + wait, stream, isSeen: isSeen() });
    // A tab without a token must not keep those from leading that have one.
    if (state === "locked" && this.#channel) this.#giveUp();
  }

  /** The leader says how things are. */
  #say(said) {
    this.#tell({ kind: "state", said });
  }

  /** The leader tells all tabs, its own too. */
  #tell(message) {
    this.#channel?.postMessage({ ...message, term: this.#term });
    this.#take(message);
  }

  /** What another tab tells. */
  #hear(message) {
    if (message.kind === "ask") return this.#isLeader && this.#say({ ...this.#said, isSeen: isSeen() });
    if (message.kind === "retry") return this.#isLeader && this.#stream.retry();
    if (message.term < this.#term) return;
    this.#term = message.term;
    if (this.#isLeader) {
      // The browser is about to say the same: another tab has the lock.
      this.#isLeader = false;
      this.#stream.stop();
      this.#giveUp();
    }
    this.#expect(SILENCE);
    this.#take(message);
    if (message.kind === "state" && !message.said.isSeen) this.#takeOver();
  }

  /** What the leader tells, whichever tab that is. */
  #take({ kind, said, event, stream }) {
    if (kind === "event" && stream === this.#said.stream) {
      this.#handlers.onEvent(event);
      this.adjust();
    }
    if (kind !== "state") return;
    // That a token is wanted is true of the tab that says so.
    if (said.state === "locked" && !this.#isLeader) return;
    const before = this.#said;
    this.#said = said;
    const isNew =
      said.state === "open"
        ? said.stream !== before.stream
        : said.state !== before.state || said.until !== before.until;
    if (isNew && said.state !== "closed") this.#handlers.onState(said.state, Math.max(0, said.until - Date.now()));
  }
}
