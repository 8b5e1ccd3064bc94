// What is said of a job beside its pictures: prompt, references, settings, and what can be done with it.

import { showPicture } from "./api.js";
import { icon, make } from "./dom.js";
import { ago, clock, count, size } from "./format.js";
import { hasEnded } from "./jobs.js";

const PLACEMENT = { d: "diagonal", h: "rows only", w: "columns only", o: "no offset" };

/** A time that stays right: texts are renewed every half minute. */
export function timeOf(seconds) {
  const time = make(
    "time",
    { datetime: new Date(seconds * 1000).toISOString(), title: clock(seconds), "data-time": seconds },
    ago(seconds),
  );
  return time;
}

setInterval(() => {
  for (const time of document.querySelectorAll("time[data-time]")) time.textContent = ago(Number(time.dataset.time));
}, 30_000);

/** The references of a job, small. */
export function referencesOf(job) {
  const { references, ref_size } = job.settings;
  if (references.length === 0) return null;
  const pictures = references.map(({ id, width, height }, i) => {
    const img = make("img", {
      alt: `Reference ${i + 1}`,
      title: `Reference ${i + 1}, ${size(width, height)}`,
      loading: "lazy",
    });
    showPicture(img, `/api/references/${encodeURIComponent(id)}/preview?ref_size=${ref_size}`);
    return img;
  });
  return make("div", { class: "thumbs" }, pictures);
}

/** The settings of a job, or of one of its pictures, as a list of names and values. */
export function settingsOf(job, picture) {
  const { settings } = job;
  const rows = [
    ["Size", size(picture?.width ?? settings.width, picture?.height ?? settings.height)],
    ["Steps", settings.num_steps],
    ["Guidance", settings.guidance],
    [settings.num_images > 1 && !picture ? "First seed" : "Seed", picture?.seed ?? settings.seed],
    ["UNO strength", settings.lora_scale],
    ...settings.loras.map((lora) => [lora.name, lora.scale]),
  ];
  if (settings.references.length)
    rows.push(["References", `${settings.ref_size} px, ${PLACEMENT[settings.pe] ?? settings.pe}`]);
  rows.push(["Memory", settings.memory]);
  return make(
    "dl",
    { class: "settings" },
    rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))),
  );
}

/** What became of a job, where that is not its pictures: its error, notices, that it was cancelled. */
export function remarksOf(job) {
  const remarks = job.notices.map((text) => make("p", { class: "remark" }, icon("info"), make("span", {}, text)));
  if (job.state === "failed") {
    remarks.unshift(
      make(
        "p",
        { class: "remark failed" },
        icon("warning"),
        make("span", {}, `Failed: ${job.error ?? "no reason was given"}`),
      ),
    );
  }
  if (job.state === "cancelled") {
    const made = job.pictures.length;
    const what = made ? `Cancelled after ${count(made, "picture")} of ${job.settings.num_images}.` : "Cancelled.";
    remarks.unshift(make("p", { class: "remark" }, what));
  }
  return remarks;
}

/** The buttons for a job that has ended, or for one of its pictures. Icons alone where `compact`. */
export function buttonsOf(job, picture, actions, compact) {
  if (!hasEnded(job)) return [];
  const button = (name, label, act) => {
    const full = compact ? `${label}: ${job.settings.prompt}` : label;
    const inside = compact ? icon(name) : [icon(name), make("span", {}, label)];
    return make(
      "button",
      {
        type: "button",
        class: compact ? "icon-button" : "quiet",
        title: compact ? label : null,
        "aria-label": compact ? full : null,
        "data-action": name,
        onclick: act,
      },
      inside,
    );
  };
  const pictures = picture ? [picture] : job.pictures;
  const buttons = [button("reuse", "Use these settings", () => actions.use(job, picture))];
  if (picture) buttons.push(button("image", "Use as a reference", () => actions.addReference(picture)));
  if (pictures.length) {
    const label = pictures.length > 1 ? `Download ${pictures.length} pictures` : "Download";
    buttons.push(button("download", label, () => actions.download(pictures)));
  }
  const all = picture && job.pictures.length > 1 ? `Delete all ${job.pictures.length}` : "Delete";
  buttons.push(button("delete", all, () => actions.remove(job)));
  return buttons;
}
