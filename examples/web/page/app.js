// The page: reads the model, and joins the parts.

import { makeActions } from "./actions.js";
import { get, onTokenWanted } from "./api.js";
import { readModel, showConnection, watchModel } from "./connection.js";
import { askToken } from "./dialogs.js";
import { announce, byId, showText, withLinks } from "./dom.js";
import { listExamples } from "./examples.js";
import { count } from "./format.js";
import { followJump, listenForGenerate } from "./generate.js";
import { History } from "./history.js";
import { Jobs } from "./jobs.js";
import { showPlan } from "./plan.js";
import { showProgress } from "./progress.js";
import { References } from "./references.js";
import { Settings } from "./settings.js";
import { Stage, stageJob } from "./stage.js";
import { watchStorage } from "./storage.js";
import { Viewer } from "./viewer.js";

onTokenWanted(askToken);
// Until the model is known nothing can be asked for.
byId("generate").disabled = true;
begin(await readModel());

function begin(model) {
  byId("generate").disabled = false;
  byId("model").textContent = [model.name, model.device, model.dtype].join(" · ");
  byId("notice-text").replaceChildren(...withLinks(model.notice ?? ""));
  byId("notice").hidden = !model.notice;
  byId("welcome-count").textContent = model.limits.references;

  const jobs = new Jobs({
    onState: showConnection,
    onListError: (error) => showText(byId("history-error"), error.message),
  });
  const settings = new Settings(model);
  const references = new References(model, () => settings.changed());
  settings.begin(references);
  const actions = makeActions(jobs, settings, references);
  actions.viewer = new Viewer(jobs, actions);
  showPlan(settings, references);
  showJobs(jobs, settings, actions);
  showProgress(jobs);
  listenForGenerate(jobs, settings, references);
  followJump(jobs);
  watchModel(model);
  watchStorage();
  byId("connection-retry").addEventListener("click", () => jobs.retry());
  jobs.start();
  get("/api/examples").then(
    ({ examples }) => listExamples(examples, actions.useExample),
    () => {}, // The page does without.
  );
}

/** Draws the jobs after each change, and says aloud what became of those that were watched. */
function showJobs(jobs, settings, actions) {
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
      states.set(job.id, job.state);
      if (message) announce(message);
    }
  });
}

/** What is worth saying of a change: the start, and the end. */
function news(before, job) {
  if (!before || before === job.state) return null;
  const { prompt } = job.settings;
  if (job.state === "running") return `Started: ${prompt}`;
  if (job.state === "done") return `Finished, ${count(job.pictures.length, "picture")}: ${prompt}`;
  if (job.state === "failed") return `Failed: ${job.error}`;
  return `Cancelled: ${prompt}`;
}
