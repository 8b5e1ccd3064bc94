// The form: what it shows for this model, what is kept over a reload, and the request that it makes.

import { choose, chosen, countChoices, loraRow, ratioChoices } from "./choices.js";
import { byId, kept, make, once } from "./dom.js";
import { clearErrors, couple, decimal, FieldError, whole } from "./fields.js";
import { size } from "./format.js";
import { ratioOf, sizeOf } from "./sizes.js";

/** Inputs whose text is kept as it is. */
const INPUTS = ["prompt", "width", "height", "num_steps", "guidance", "seed", "lora_scale", "ref_size", "pe", "memory"];
const MEMORY = { auto: "automatic: what is free", least: "as little as possible" };

export class Settings {
  #model;
  #references;
  #listeners = [];
  #changed = once(() => {
    this.#show();
    kept.set("draft", this.read());
    this.#listeners.forEach((listener) => listener(this));
  });

  constructor(model) {
    this.#model = model;
    this.#build();
    const form = byId("controls");
    form.addEventListener("input", (event) => {
      clearErrors(event.target.name === "ratio" ? "width" : event.target.name);
      this.#changed();
    });
    byId("reset").addEventListener("click", () => this.write({ ...this.defaults(), ...this.#beside() }));
    byId("seed-draw").addEventListener("click", () => this.#type("seed", drawSeed()));
    byId("seed-keep").addEventListener("click", () => this.#type("seed", byId("seed-keep").dataset.seed));
  }

  /** Joins the references, and fills in what was there before a reload. */
  begin(references) {
    this.#references = references;
    this.write({ ...this.defaults(), ...kept.get("draft") });
  }

  onChange(listener) {
    this.#listeners.push(listener);
  }

  changed() {
    this.#changed();
  }

  /** An empty form. */
  defaults() {
    const { defaults, loras } = this.#model;
    return {
      prompt: "",
      references: [],
      ratio: "1:1",
      width: defaults.width,
      height: defaults.height,
      num_images: 1,
      num_steps: defaults.num_steps,
      guidance: String(defaults.guidance),
      seed: "",
      lora_scale: String(defaults.lora_scale),
      loras: Object.fromEntries(loras.map((lora) => [lora.name, lora.scale])),
      ref_size: "",
      pe: defaults.pe,
      memory: defaults.memory,
    };
  }

  /** The form as it is now, half-typed or not. */
  read() {
    return {
      ...Object.fromEntries(INPUTS.map((name) => [name, byId(name).value])),
      references: this.#references?.list() ?? [],
      ratio: chosen("ratio"),
      num_images: chosen("num_images"),
      loras: Object.fromEntries(this.#loras().map((input) => [input.dataset.lora, input.value])),
      more: byId("more").open,
    };
  }

  /** Fills the form. */
  write(draft) {
    for (const name of INPUTS) {
      byId(name).value = draft[name];
      // A choice that this server does not have.
      if (byId(name).selectedIndex === -1) byId(name).value = this.#model.defaults[name];
      const range = byId(`${name}-range`);
      if (range) range.value = draft[name];
    }
    choose("ratio", draft.ratio);
    choose("num_images", String(draft.num_images));
    for (const input of this.#loras()) {
      input.value = draft.loras?.[input.dataset.lora] ?? 0;
      byId(`${input.id}-range`).value = input.value;
    }
    if (draft.more !== undefined) byId("more").open = draft.more;
    clearErrors();
    if (draft.references) this.#references?.set(draft.references);
    this.#changed();
  }

  /** Fills the form with the settings of a job, or of one of its pictures; what of them is not possible here. */
  use(job, picture) {
    const { settings } = job;
    const { loras, memory, limits } = this.#model;
    const known = new Set(loras.map((lora) => lora.name));
    const missing = settings.loras.filter((lora) => !known.has(lora.name)).map((lora) => `the LoRA ${lora.name}`);
    if (!memory.includes(settings.memory)) missing.push(`memory ${settings.memory}`);
    const { length } = settings.references;
    if (length > limits.references) missing.push(`${length - limits.references} of ${length} references`);
    if (settings.num_images > limits.images) missing.push(`${settings.num_images} pictures`);
    const ratio = ratioOf(settings.width, settings.height, this.#model);
    this.write({
      ...settings,
      ratio,
      num_images: picture ? 1 : Math.min(settings.num_images, limits.images),
      guidance: String(settings.guidance),
      lora_scale: String(settings.lora_scale),
      seed: String(picture?.seed ?? settings.seed),
      loras: Object.fromEntries(settings.loras.map((lora) => [lora.name, lora.scale])),
      ref_size: settings.ref_size === this.#refSizeOf(length) ? "" : (settings.ref_size ?? ""),
      memory: memory.includes(settings.memory) ? settings.memory : this.#model.defaults.memory,
    });
    return missing;
  }

  /** Offers to keep the seed that was drawn for the newest job. */
  offerSeed(seed) {
    const button = byId("seed-keep");
    button.dataset.seed = seed ?? "";
    button.textContent = `Keep ${seed}`;
    button.hidden = byId("seed").value.trim() !== "" || seed === null;
  }

  /** Width and height. Throws `FieldError`. */
  size() {
    const ratio = chosen("ratio");
    if (ratio !== "custom") return sizeOf(ratio, this.#model);
    return { width: whole("width", "the width"), height: whole("height", "the height") };
  }

  get memory() {
    return byId("memory").value;
  }

  /** The job that the form describes. Throws `FieldError`. */
  request() {
    const prompt = byId("prompt").value.trim();
    if (prompt === "") throw new FieldError("prompt", "Say what the picture should show.");
    const request = {
      prompt,
      references: this.#references.list().map((reference) => reference.id),
      ...this.size(),
      num_steps: whole("num_steps", "the steps"),
      guidance: decimal(byId("guidance"), "guidance", "the guidance"),
      num_images: Number(chosen("num_images")) || whole("num_images", "the number of pictures"),
      pe: byId("pe").value,
      lora_scale: decimal(byId("lora_scale"), "lora_scale", "UNO's strength"),
      loras: this.#loras().map((input) => ({
        name: input.dataset.lora,
        scale: decimal(input, "loras", `the scale of ${input.dataset.lora}`),
      })),
      memory: byId("memory").value,
    };
    const seed = byId("seed").value.trim();
    if (seed !== "" && !/^\d+$/.test(seed))
      throw new FieldError("seed", "Give a whole number from 0, or nothing for a random one.");
    if (seed !== "") request.seed = Number.isSafeInteger(Number(seed)) ? Number(seed) : BigInt(seed);
    if (byId("ref_size").value.trim() !== "") request.ref_size = whole("ref_size", "the size of references");
    return request;
  }

  #refSizeOf(count) {
    return this.#model.defaults.ref_sizes[count > 1 ? 1 : 0];
  }

  #loras() {
    return [...document.querySelectorAll("[data-lora]")];
  }

  #type(name, text) {
    byId(name).value = text;
    clearErrors(name);
    this.#changed();
  }

  /** What is not among the settings that are reset. */
  #beside() {
    const { prompt, ratio, width, height, num_images } = this.read();
    return { prompt, ratio, width, height, num_images, references: null };
  }

  #build() {
    const { defaults, limits, loras, memory } = this.#model;
    byId("ratios").append(...ratioChoices());
    for (const name of ["width", "height"]) Object.assign(byId(name), { min: limits.multiple, max: limits.side });
    byId("custom-hint").textContent = `Multiples of ${limits.multiple}, up to ${limits.side}.`;
    byId("counts").append(...countChoices(limits.images));
    byId("num_steps").max = limits.steps;
    byId("num_steps-range").max = limits.steps;
    byId("memory").append(...memory.map((value) => make("option", { value }, MEMORY[value] ?? value)));
    byId("loras-field").hidden = loras.length === 0;
    byId("loras").append(...loras.map(loraRow));
    for (const number of document.querySelectorAll(".slider input[type=number]"))
      couple(number, byId(`${number.id}-range`), this.#changed);
    byId("more").addEventListener("toggle", this.#changed);
    byId("pe").value = defaults.pe;
  }

  /** What follows from what is chosen. */
  #show() {
    const isCustom = chosen("ratio") === "custom";
    byId("custom").hidden = !isCustom;
    let made = null;
    try {
      made = this.size();
    } catch {
      // Half-typed.
    }
    byId("size-value").textContent = made ? size(made.width, made.height) : "";
    if (!isCustom && made) [byId("width").value, byId("height").value] = [made.width, made.height];
    const { limits } = this.#model;
    const length = [...byId("prompt").value].length;
    byId("prompt-count").textContent = length > limits.prompt * 0.8 ? `${length} of ${limits.prompt} characters` : "";
    const seed = byId("seed").value.trim();
    byId("more-value").textContent =
      `${byId("num_steps").value} steps · ${seed ? `seed ${seed}` : `guidance ${byId("guidance").value}`}`;
    byId("seed-keep").hidden = seed !== "" || !byId("seed-keep").dataset.seed;
    byId("ref_size").placeholder = `${this.#refSizeOf(this.#references?.count ?? 0)}`;
    const refSize = Number(byId("ref_size").value);
    this.#references?.setRefSize(Number.isInteger(refSize) && refSize > 0 ? refSize : null);
  }
}

/** A seed that is easy to read and to remember. */
const drawSeed = () => String(crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000);
