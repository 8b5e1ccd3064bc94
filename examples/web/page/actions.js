// What the buttons of jobs, pictures and examples do.

import { download, post, remove, request } from "./api.js";
import { confirm, toast } from "./dialogs.js";
import { announce, byId } from "./dom.js";
import { filesOf } from "./examples.js";

/** The actions; `viewer` is joined later. */
export function makeActions(jobs, settings, references) {
  const path = (job) => `/api/jobs/${encodeURIComponent(job.id)}`;
  const actions = {
    viewer: null,
    open: (id, n) => actions.viewer.open(id, n),
    loadMore: () => jobs.loadMore(),
    cancel: (job) => tried(async () => jobs.put(await post(`${path(job)}/cancel`))),
    download: (pictures) =>
      tried(async () => {
        for (const picture of pictures) await download(picture.url);
      }),

    async remove(job) {
      const { length } = job.pictures;
      const what = length > 1 ? `these ${length} pictures` : length === 1 ? "this picture" : "this entry";
      if (!(await confirm(`Delete ${what}?`, "This cannot be undone.", "Delete"))) return;
      await tried(async () => {
        await remove(path(job));
        jobs.drop(job.id);
        announce("Deleted.");
      });
    },

    /** Fills the form with the settings of a job, or of one of its pictures. */
    use(job, picture) {
      const before = settings.read();
      const missing = settings.use(job, picture);
      actions.viewer.close();
      byId("prompt").focus();
      const without = missing.length ? `, without what is not here: ${missing.join(", ")}` : "";
      toast(`Settings taken over${without}.`, () => settings.write(before));
    },

    addReference: (picture) =>
      tried(async () => {
        const blob = await (await request(picture.url)).blob();
        actions.viewer.close();
        references.add([new File([blob], `picture-${picture.seed}.png`, { type: "image/png" })]);
        byId("references").focus();
      }),

    useExample: (example) =>
      tried(async () => {
        const files = await filesOf(example);
        const before = settings.read();
        settings.write({ ...before, prompt: example.prompt, references: [] });
        references.add(files);
        byId("prompt").focus();
        const isReplaced = before.prompt.trim() !== "" || before.references.length > 0;
        if (isReplaced) toast("Example taken over.", () => settings.write(before));
      }),
  };
  return actions;
}

/** Does something; what goes wrong is said. */
async function tried(act) {
  try {
    await act();
  } catch (error) {
    toast(error.message);
  }
}
