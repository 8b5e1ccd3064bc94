// Whether the server's disk takes pictures: a banner for as long as it does not.

import { get } from "./api.js";
import { byId, showText } from "./dom.js";

const EVERY = 5000;

/** Asks now and then, while the page is seen and connected. */
export function watchStorage() {
  let isAsking = false;
  const look = async () => {
    // A lost connection, or a token that is wanted, is told in another place.
    if (isAsking || document.visibilityState !== "visible" || !byId("connection").hidden) return;
    isAsking = true;
    try {
      show(await get("/api/storage"));
    } catch {
      // What is known stays until the server says otherwise.
    } finally {
      isAsking = false;
    }
  };
  document.addEventListener("visibilitychange", look);
  setInterval(look, EVERY);
  look();
}

/** Numbers in the message change all the time; it is said aloud once. */
function show({ status, message }) {
  const banner = byId("storage");
  if (banner.dataset.status === status) return;
  banner.dataset.status = status;
  showText(banner, message && `Pictures wait, and go on by themselves when this is mended. ${message}.`);
}
