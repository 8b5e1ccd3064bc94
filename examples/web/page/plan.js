// How the model is fitted into memory for the settings that are chosen.

import { get } from "./api.js";
import { byId, showText } from "./dom.js";
import { bytes } from "./format.js";

/** Time without a change before the server is asked. */
const PAUSE = 250;

/** Keeps the plan in step with the settings. */
export function showPlan(settings, references) {
  let shown = "";
  let timer;
  settings.onChange(() => {
    let query;
    try {
      const { width, height } = settings.size();
      query = new URLSearchParams({ width, height, references: references.count, memory: settings.memory }).toString();
    } catch {
      return; // Half-typed.
    }
    if (query === shown) return;
    shown = query;
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const plan = await get(`/api/plan?${query}`).catch((error) => ({ error }));
      if (shown === query) show(plan);
      if (plan.error) shown = ""; // Asked again at the next change.
    }, PAUSE);
  });
}

function show({ error, fits, peak_bytes, budget_bytes, text }) {
  byId("plan").hidden = !text;
  byId("plan-text").textContent = text ?? "";
  if (error) {
    showText(byId("plan-summary"), error.message);
    showText(byId("plan-warning"), "");
    return;
  }
  // A budget without limit is the largest number of 64 bits.
  const isLimited = budget_bytes !== null && budget_bytes <= Number.MAX_SAFE_INTEGER;
  const peak = peak_bytes === null ? "" : `About ${bytes(peak_bytes)}`;
  showText(byId("plan-summary"), `${peak}${isLimited ? ` of ${bytes(budget_bytes)}` : ""}${fits ? "." : ": too much."}`);
  showText(byId("plan-warning"), fits ? "" : "This does not fit into memory. A smaller size or fewer references would.");
}
