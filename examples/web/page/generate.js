// The button that puts a job into the queue, and on narrow windows the link beside it.

import { ApiError, post } from "./api.js";
import { announce, byId } from "./dom.js";
import { clearErrors, FieldError, showError } from "./fields.js";
import { duration } from "./format.js";

/** Listens to the button, and to Ctrl+Enter (Cmd+Enter) anywhere. */
export function listenForGenerate(jobs, settings, references) {
  const [form, button] = [byId("controls"), byId("generate")];
  const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
  byId("shortcut").textContent = isMac ? "⌘ ↵" : "Ctrl ↵";
  button.setAttribute("aria-keyshortcuts", isMac ? "Meta+Enter" : "Control+Enter");
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    if (!button.disabled) form.requestSubmit();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    // Not `disabled`, which would take the focus away.
    if (button.getAttribute("aria-disabled") === "true") return;
    button.setAttribute("aria-disabled", "true");
    clearErrors();
    try {
      // What a reference lacks is said beside it.
      if (!(await references.settled())) return;
      const job = await post("/api/jobs", settings.request());
      jobs.put(job);
      announce(job.position ? `In the queue, ${job.position} before it.` : "In the queue.");
      if (isNarrow()) byId("results").scrollIntoView();
    } catch (error) {
      showError(error.param ?? null, withRetry(error), error.input);
      if (!(error instanceof FieldError || error instanceof ApiError)) throw error;
    } finally {
      button.removeAttribute("aria-disabled");
    }
  });
}

/** The message of an error, and when to try again where the server says so. */
function withRetry({ message, retryAfter }) {
  if (!Number.isFinite(retryAfter)) return message;
  const at = new Date(Date.now() + retryAfter * 1000).toLocaleTimeString("en-GB", { timeStyle: "short" });
  return `${message.replace(/\.?$/, ".")} Try again in ${duration(retryAfter)}, at ${at}.`;
}

const isNarrow = () => matchMedia("(max-width: 899px)").matches;

/** On narrow windows a link beside the button leads to the pictures, and back to the prompt. */
export function followJump(jobs) {
  const link = byId("jump");
  let isAtResults = false;
  const show = () => {
    link.hash = isAtResults ? "#controls" : "#results";
    link.textContent = isAtResults ? "Prompt" : "Pictures";
    link.hidden = jobs.all().length === 0;
  };
  jobs.onChange(show);
  const follow = ([entry]) => {
    isAtResults = entry.isIntersecting;
    show();
  };
  new IntersectionObserver(follow, { rootMargin: "0px 0px -60% 0px" }).observe(byId("results"));
}
