// Parts of the form that depend on the model: choices side by side, and a row for each LoRA.

import { byId, make } from "./dom.js";
import { RATIOS } from "./sizes.js";

/** Of more pictures than this, the number is typed. */
const MOST_SEGMENTS = 6;

/** What is chosen or typed for a name. */
export const chosen = (name) => {
  const input = document.querySelector(`[name="${name}"]:checked`) ?? byId(name);
  return input?.value ?? "";
};

/** Chooses or types a value; the first choice where there is none of this value. */
export const choose = (name, value) => {
  const radios = [...document.querySelectorAll(`[name="${name}"][type=radio]`)];
  if (radios.length === 0) byId(name).value = value;
  else (radios.find((radio) => radio.value === value) ?? radios[0]).checked = true;
};

/** One of several choices side by side. */
const segment = (name, value, label, ...before) =>
  make(
    "label",
    { class: "segment" },
    make("input", { type: "radio", name, value, class: "visually-hidden" }),
    ...before,
    make("span", {}, label),
  );

/** The outline of a ratio. */
function shape(ratio) {
  const [across, down] = ratio === "custom" ? [1, 1] : ratio.split(":").map(Number);
  const element = make("span", { class: `shape${ratio === "custom" ? " dashed" : ""}`, "aria-hidden": "true" });
  const scale = 18 / Math.sqrt(across * down) / 1.15;
  element.style.setProperty("width", `${Math.round(across * scale)}px`);
  element.style.setProperty("height", `${Math.round(down * scale)}px`);
  return element;
}

/** Choices of a ratio. */
export const ratioChoices = () => [
  ...RATIOS.map((ratio) => segment("ratio", ratio, ratio, shape(ratio))),
  segment("ratio", "custom", "Custom", shape("custom")),
];

/** Choices of a number of pictures, or an input for it. */
export function countChoices(most) {
  if (most > MOST_SEGMENTS) {
    const input = make("input", {
      type: "number",
      id: "num_images",
      name: "num_images",
      min: 1,
      max: most,
      inputmode: "numeric",
      "aria-label": "Pictures",
      "aria-describedby": "error-num_images",
    });
    return [input];
  }
  return Array.from({ length: most }, (_, i) => segment("num_images", String(i + 1), String(i + 1)));
}

/** Name, slider and number of an added LoRA. */
export function loraRow({ name }, i) {
  const id = `lora-${i}`;
  return make(
    "div",
    { class: "field slider" },
    make("label", { for: id }, name),
    make("input", {
      type: "range",
      id: `${id}-range`,
      min: 0,
      max: 2,
      step: 0.05,
      "aria-label": `${name}, slider`,
      tabindex: -1,
    }),
    make("input", {
      type: "number",
      id,
      name: "loras",
      step: "any",
      inputmode: "decimal",
      "data-lora": name,
      "aria-describedby": "error-loras",
    }),
  );
}
