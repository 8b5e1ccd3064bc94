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
  byId("plan").hidden = !fits;
  byId("plan-text").textContent = fits ? text : "";
  showText(byId("plan-warning"), error || fits ? "" : `This does not fit into memory: ${text}`);
  if (error) return showText(byId("plan-summary"), error.message);
  const budget = budget_bytes === null ? "" : ` of ${bytes(budget_bytes)}`;
  showText(byId("plan-summary"), fits ? `About ${bytes(peak_bytes)}${budget}.` : "Too little for these settings.");
}
