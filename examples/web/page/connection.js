// Whether the server is there: what is said at the top of the page, and what a return means.

import { get } from "./api.js";
import { byId } from "./dom.js";
import { duration } from "./format.js";

const LONGEST_WAIT = 30_000;
const listeners = [];
let countdown;

/** Shows a state of the connection: "open"; "lost", with milliseconds until the next try; "locked" without a token. */
export function showConnection(state, wait = 0) {
  clearInterval(countdown);
  listeners.forEach((listener) => listener(state));
  byId("connection").hidden = state === "open";
  byId("connection-retry").textContent = state === "locked" ? "Enter the token" : "Try now";
  if (state === "locked") byId("connection-text").textContent = "This server wants a token.";
  if (state !== "lost") return;
  const until = Date.now() + wait;
  const show = () => {
    const seconds = Math.ceil((until - Date.now()) / 1000);
    const next = seconds > 0 ? `Next try in ${duration(seconds)}.` : "Connecting …";
    byId("connection-text").textContent = `Connection lost. ${next}`;
  };
  show();
  countdown = setInterval(show, 1000);
}

/** The model; tries until the server answers. */
export async function readModel() {
  for (let wait = 1000; ; wait = Math.min(LONGEST_WAIT, 2 * wait)) {
    try {
      const model = await get("/api/model");
      showConnection("open");
      return model;
    } catch (error) {
      const isLocked = error.status === 401;
      showConnection(isLocked ? "locked" : "lost", wait);
      await new Promise((resolve) => {
        byId("connection-retry").addEventListener("click", resolve, { once: true });
        if (!isLocked) setTimeout(resolve, wait);
      });
    }
  }
}

/** After a lost connection the server may have another model; then the page begins anew, with the form as it is. */
export function watchModel(model) {
  let wasLost = false;
  listeners.push(async (state) => {
    const isBack = state === "open" && wasLost;
    wasLost = state !== "open";
    if (!isBack) return;
    const now = await get("/api/model").catch(() => model);
    if (JSON.stringify(now) !== JSON.stringify(model)) location.reload();
  });
}
