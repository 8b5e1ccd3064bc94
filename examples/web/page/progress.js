// Progress where it is seen from other tabs: the title and the icon.

import { byId } from "./dom.js";
import { hasEnded } from "./jobs.js";

const SIDE = 64;

/** Keeps title and icon in step with the jobs. */
export function showProgress(jobs) {
  const link = byId("favicon");
  const still = link.getAttribute("href");
  let shown = null;
  let wasBusy = false;
  let isUnseen = false;

  const show = () => {
    const active = jobs.all().filter((job) => !hasEnded(job));
    const running = active.find((job) => job.state === "running");
    const percent = running?.progress ? Math.floor(running.progress.fraction * 100) : null;
    if (wasBusy && active.length === 0 && document.hidden) isUnseen = true;
    wasBusy = active.length > 0;
    if (!document.hidden || active.length > 0) isUnseen = false;
    document.title =
      percent !== null ? `${percent} % · UNO` : active.length ? "Waiting · UNO" : isUnseen ? "Done · UNO" : "UNO";
    const state = percent !== null ? percent : isUnseen ? "done" : null;
    if (state === shown) return;
    shown = state;
    link.href = state === null ? still : draw(state === "done" ? 1 : state / 100);
    link.type = state === null ? "image/svg+xml" : "image/png";
  };
  jobs.onChange(show);
  document.addEventListener("visibilitychange", show);
}

/** A ring that is filled so far. */
function draw(fraction) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  const context = canvas.getContext("2d");
  const [middle, radius] = [SIDE / 2, SIDE / 2 - 8];
  context.lineWidth = 14;
  for (const [color, part] of [
    ["#9aa5d8", 1],
    ["#3a55d9", fraction],
  ]) {
    context.strokeStyle = color;
    context.beginPath();
    context.arc(middle, middle, radius, -Math.PI / 2, -Math.PI / 2 + 2 * Math.PI * part);
    context.stroke();
  }
  return canvas.toDataURL("image/png");
}
