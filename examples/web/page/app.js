// The page: joins its parts, and what the buttons do.

import * as api from "./api.js";
import { askToken, confirm, toast } from "./dialogs.js";
import { announce, byId, showText } from "./dom.js";
import { filesOf, listExamples } from "./examples.js";
import { clearErrors, FieldError, showError } from "./fields.js";
import { count, duration } from "./format.js";
import { History } from "./history.js";
import { Jobs } from "./jobs.js";
import { showPlan } from "./plan.js";
import { showProgress } from "./progress.js";
import { References } from "./references.js";
import { Settings } from "./settings.js";
import { Stage, stageJob } from "./stage.js";
import { Viewer } from "./viewer.js";

api.onTokenWanted(askToken);

const jobs = new Jobs({ onState: showConnection, onListError: (error) => showText(byId("history-error"), error.message) });
byId("connection-retry").addEventListener("click", () => jobs.retry());
showProgress(jobs);
begin();

/** Reads the model, then fills the page. Until then nothing can be asked for. */
async function begin() {
  byId("generate").disabled = true;
  const model = await readModel();
  byId("generate").disabled = false;
  byId("model").textContent = [model.name, model.device, model.dtype].join(" · ");
  showText(byId("notice-text"), model.notice);
  byId("notice").hidden = !model.notice;
  byId("welcome-count").textContent = model.limits.references;

  const settings = new Settings(model);
  const references = new References(model, () => settings.changed());
  settings.begin(references);
  showPlan(settings, references);
  const actions = makeActions(settings, references);
  showJobs(settings, actions);
  actions.viewer = new Viewer(jobs, actions);
  listenForGenerate(settings, references);
  followJump();
  jobs.start();
  api.get("/api/examples").then(
    ({ examples }) => listExamples(examples, (example) => useExample(example, settings, references)),
    () => {}, // The page does without.
  );
}

/** The model; tries until the server answers. */
async function readModel() {
  for (let failures = 0; ; failures++) {
    try {
      const model = await api.get("/api/model");
      showConnection("open");
      return model;
    } catch (error) {
      const wait = Math.min(30_000, 1000 * 2 ** failures);
      showConnection(error.status === 401 ? "locked" : "lost", wait, error.message);
      await new Promise((resolve) => {
        byId("connection-retry").addEventListener("click", resolve, { once: true });
        if (error.status !== 401) setTimeout(resolve, wait);
      });
    }
  }
}

let countdown;

/** Says that there is no connection, and when it is tried again. */
function showConnection(state, wait = 0) {
  clearInterval(countdown);
  const place = byId("connection");
  place.hidden = state === "open";
  document.body.classList.toggle("lost", state === "lost");
  byId("connection-retry").textContent = state === "locked" ? "Enter the token" : "Try now";
  if (state === "locked") byId("connection-text").textContent = "This server wants a token.";
  if (state !== "lost") return;
  const until = Date.now() + wait;
  const show = () => {
    const seconds = Math.ceil((until - Date.now()) / 1000);
    byId("connection-text").textContent = seconds > 0 ? `Connection lost. Next try in ${duration(seconds)}.` : "Connection lost. Connecting …";
  };
  show();
  countdown = setInterval(show, 1000);
}

/** Draws the jobs after each change, and says aloud what became of those that were watched. */
function showJobs(settings, actions) {
  const stage = new Stage(actions);
  const history = new History(actions);
  const states = new Map();
  jobs.onChange(() => {
    const all = jobs.all();
    const onStage = stageJob(all);
    stage.show(onStage, onStage ? jobs.preview(onStage.id) : undefined);
    history.show(jobs, onStage);
    byId("welcome").hidden = !jobs.isLoaded || all.length > 0;
    settings.offerSeed(all.find((job) => job.pictures.length > 0)?.settings.seed ?? null);
    for (const job of all) {
      const message = news(states.get(job.id), job);
      states.set(job.id, { state: job.state, pictures: job.pictures.length });
      if (message) announce(message);
    }
  });
}

/** What is worth saying of a change: the start, and the end. */
function news(before, job) {
  if (!before || before.state === job.state) return null;
  const { prompt } = job.settings;
  if (job.state === "running") return `Started: ${prompt}`;
  if (job.state === "done") return `Finished, ${count(job.pictures.length, "picture")}: ${prompt}`;
  if (job.state === "failed") return `Failed: ${job.error}`;
  return `Cancelled: ${prompt}`;
}

/** What the buttons of jobs and pictures do. */
function makeActions(settings, references) {
  const tried = async (act) => {
    try {
      await act();
    } catch (error) {
      toast(error.message);
    }
  };
  const actions = {
    viewer: null,
    open: (id, n) => actions.viewer.open(id, n),
    loadMore: () => jobs.loadMore(),
    cancel: (job) => tried(async () => jobs.put(await api.post(`/api/jobs/${encodeURIComponent(job.id)}/cancel`))),
    download: (pictures) =>
      tried(async () => {
        for (const picture of pictures) await api.download(picture.url);
      }),
    remove: async (job) => {
      const what = job.pictures.length > 1 ? `${job.pictures.length} pictures` : job.pictures.length ? "this picture" : "this entry";
      if (!(await confirm(`Delete ${what}?`, "This cannot be undone.", "Delete"))) return;
      await tried(async () => {
        await api.remove(`/api/jobs/${encodeURIComponent(job.id)}`);
        jobs.drop(job.id);
        announce("Deleted.");
      });
    },
    use: (job, picture) => {
      const before = settings.read();
      const missing = settings.use(job, picture);
      actions.viewer.close();
      byId("prompt").focus();
      const said = missing.length ? `Settings taken over, without what is not here: ${missing.join(", ")}.` : "Settings taken over.";
      toast(said, () => settings.write(before));
    },
    addReference: (picture) =>
      tried(async () => {
        const blob = await (await api.request(picture.url)).blob();
        actions.viewer.close();
        references.add([new File([blob], `picture-${picture.seed}.png`, { type: "image/png" })]);
        byId("references").focus();
      }),
  };
  return actions;
}

async function useExample(example, settings, references) {
  const before = settings.read();
  const files = await filesOf(example).catch((error) => {
    toast(error.message);
    return null;
  });
  if (files === null) return;
  settings.write({ ...before, prompt: example.prompt, references: [] });
  references.add(files);
  byId("prompt").focus();
  if (before.prompt.trim() !== "" || before.references.length) toast("Example taken over.", () => settings.write(before));
}

/** The button and its shortcut put a job into the queue. */
function listenForGenerate(settings, references) {
  const [form, button] = [byId("controls"), byId("generate")];
  const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
  byId("shortcut").textContent = isMac ? "⌘ ↵" : "Ctrl ↵";
  button.setAttribute("aria-keyshortcuts", isMac ? "Meta+Enter" : "Control+Enter");
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.getAttribute("aria-disabled") === "true") return;
    clearErrors();
    button.setAttribute("aria-disabled", "true");
    try {
      await references.settled();
      const job = await api.post("/api/jobs", settings.request());
      jobs.put(job);
      announce(job.position ? `In the queue, ${job.position} before it.` : "In the queue.");
      if (isNarrow()) byId("results").scrollIntoView();
    } catch (error) {
      const isLater = Number.isFinite(error.retryAfter);
      showError(error.param ?? null, isLater ? `${error.message.replace(/\.?$/, ".")} ${tryAgain(error.retryAfter)}` : error.message);
      if (!(error instanceof FieldError || error instanceof api.ApiError)) throw error;
    } finally {
      button.removeAttribute("aria-disabled");
    }
  });
}

function tryAgain(seconds) {
  const at = new Date(Date.now() + seconds * 1000).toLocaleTimeString("en-GB", { timeStyle: "short" });
  return `Try again in ${duration(seconds)}, at ${at}.`;
}

const isNarrow = () => matchMedia("(max-width: 899px)").matches;

/** On a phone, a link beside the button leads to the results and back. */
function followJump() {
  const link = byId("jump");
  const show = (isAtResults) => {
    link.hash = isAtResults ? "#controls" : "#results";
    link.textContent = isAtResults ? "Prompt" : "Pictures";
    link.hidden = jobs.all().length === 0;
  };
  let isAtResults = false;
  jobs.onChange(() => show(isAtResults));
  new IntersectionObserver(([entry]) => show((isAtResults = entry.isIntersecting)), { rootMargin: "0px 0px -60% 0px" }).observe(byId("results"));
}
