// Requests that may take long, one after the other: a browser opens six connections to a server for all its tabs.

import { address } from "./api.js";

const last = new Map();

/**
 * Does `act` when the requests of this kind that were asked for before have ended, those of other tabs too where the browser has
 * locks. Gives what `act` gives.
 */
export async function inTurn(kind, act, signal) {
  let isBegun = false;
  const begin = () => {
    isBegun = true;
    return act();
  };
  try {
    return await navigator.locks.request(`uno-web ${kind} ${address("/")}`, { signal }, begin);
  } catch (error) {
    if (isBegun || signal?.aborted) throw error;
  }
  // No locks, or none for this page.
  const now = (last.get(kind) ?? Promise.resolve()).then(() => {
    signal?.throwIfAborted();
    return act();
  });
  const isOver = () => {};
  last.set(kind, now.then(isOver, isOver));
  return now;
}
