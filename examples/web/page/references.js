// The references: picked, dropped or pasted, uploaded, put in order, and shown as the model will see them.

import { request, upload } from "./api.js";
import { announce, arrange, byId, icon, iconButton, keepFocus, make } from "./dom.js";
import { toast } from "./dialogs.js";
import { listenForFiles } from "./drop.js";
import { clearErrors } from "./fields.js";
import { bytes, size } from "./format.js";
import { cropNote } from "./sizes.js";
import { letDrag } from "./reorder.js";
import { inTurn } from "./turns.js";

export class References {
  #model;
  #onChange;
  #items = [];
  #refSize = null;
  #tray = byId("tray");

  constructor(model, onChange) {
    this.#model = model;
    this.#onChange = onChange;
    const file = byId("file");
    file.addEventListener("change", () => {
      this.add([...file.files]);
      file.value = ""; // So that the same file can be chosen again.
    });
    letDrag(this.#tray, (from, to) => this.#move(this.#items[from], to));
    listenForFiles((files) => this.add(files));
    this.#render();
  }

  get count() {
    return this.#items.length;
  }

  /** Those that are uploaded: `{id, width, height, name}`. */
  list() {
    return this.#items.filter((item) => item.id).map(({ id, width, height, name }) => ({ id, width, height, name }));
  }

  /** Waits for uploads under way; whether all of them went well. */
  async settled() {
    const uploads = await Promise.all(this.#items.map((item) => item.upload));
    return !uploads.includes(false);
  }

  /** Puts known ones in place of those that are there. */
  set(list) {
    this.#items.forEach((item) => this.#release(item));
    this.#items = list.slice(0, this.#model.limits.references).map((reference) => this.#item(reference));
    clearErrors("references");
    this.#changed();
  }

  /** The longer side that is asked for; null is the model's own for the number of references. */
  setRefSize(refSize) {
    if (refSize === this.#refSize) return;
    this.#refSize = refSize;
    this.#render();
  }

  /** Uploads files, as far as there is room. */
  add(files) {
    clearErrors("references");
    const room = this.#model.limits.references - this.#items.length;
    if (files.length > room) {
      const names = files.slice(Math.max(0, room)).map((file) => file.name);
      this.#say(`At most ${this.#model.limits.references} references: ${names.join(", ")} not added.`);
    }
    const items = files.slice(0, Math.max(0, room)).map((file) => this.#uploading(file));
    if (items.length === 0) return;
    this.#items.push(...items);
    this.#changed();
    Promise.all(items.map((item) => item.upload)).then(() => {
      const added = items.filter((item) => item.id).length;
      if (added) announce(`${added === 1 ? "Reference" : `${added} references`} added, ${this.#items.length} in all.`);
    });
  }

  #item(reference) {
    const item = { ...reference, key: null, note: "", url: null, upload: null };
    item.picture = make("img", { class: "reference-image", alt: "", draggable: "false" });
    item.badge = make("span", { class: "badge", "aria-hidden": "true" });
    item.caption = make("p", { class: "reference-note" });
    item.left = iconButton("left", "", () => this.#step(item, -1));
    item.right = iconButton("right", "", () => this.#step(item, 1));
    item.drop = iconButton("close", "", () => this.#remove(item));
    item.element = make(
      "li",
      { class: "reference" },
      make("div", { class: "reference-picture", "data-handle": true }, item.picture, item.badge),
      item.caption,
      make("div", { class: "reference-buttons" }, item.left, item.right, item.drop),
    );
    return item;
  }

  #uploading(file) {
    const item = this.#item({ id: null, width: 0, height: 0, name: file.name });
    item.controller = new AbortController();
    item.url = URL.createObjectURL(file);
    item.picture.src = item.url;
    item.upload = (async () => {
      try {
        const most = this.#model.limits.upload_bytes;
        if (file.size > most) throw new Error(`has ${bytes(file.size)}, wanted at most ${bytes(most)}`);
        const { signal } = item.controller;
        Object.assign(item, await inTurn("upload", () => upload(file, signal), signal));
      } catch (error) {
        if (item.controller.signal.aborted) return true;
        this.#items = this.#items.filter((other) => other !== item);
        this.#release(item);
        this.#say(`${file.name}: ${error.message}`);
      }
      this.#changed();
      return item.id !== null;
    })();
    return item;
  }

  #say(message) {
    const text = byId("error-references");
    text.textContent = text.textContent ? `${text.textContent}\n${message}` : message;
  }

  #release(item) {
    item.controller?.abort();
    if (item.url) URL.revokeObjectURL(item.url);
    item.url = null;
  }

  #step(item, by) {
    this.#move(item, this.#items.indexOf(item) + by);
    // At an end one of the two buttons has no use any more; the focus goes to the other one.
    const button = by < 0 ? item.left : item.right;
    (button.disabled ? (by < 0 ? item.right : item.left) : button).focus();
  }

  #move(item, to) {
    const place = Math.max(0, Math.min(this.#items.length - 1, to));
    this.#items.splice(this.#items.indexOf(item), 1);
    this.#items.splice(place, 0, item);
    this.#changed();
    announce(`${nameOf(item)} is now reference ${place + 1} of ${this.#items.length}.`);
  }

  #remove(item) {
    const before = this.list();
    const place = this.#items.indexOf(item);
    this.#items.splice(place, 1);
    this.#release(item);
    clearErrors("references");
    this.#changed();
    const next = this.#items[Math.min(place, this.#items.length - 1)];
    (next?.drop ?? byId("file")).focus();
    if (item.id) toast(`${nameOf(item)} removed.`, () => this.set(before));
  }

  #changed() {
    this.#render();
    this.#onChange();
  }

  #render() {
    const { limits } = this.#model;
    const total = this.#items.length;
    keepFocus(byId("references"), () =>
      arrange(
        this.#tray,
        this.#items.map((item) => item.element),
      ),
    );
    byId("add").classList.toggle("full", total >= limits.references);
    byId("file").disabled = total >= limits.references;
    byId("references-count").textContent = total ? `${total} of ${limits.references}` : "";
    byId("add-title").textContent = total ? "Add another" : "Add pictures";
    byId("references-hint").textContent =
      total >= limits.references
        ? "No room for more."
        : total
          ? "Drop, paste or choose."
          : `Drop, paste or choose up to ${limits.references}.`;
    this.#items.forEach((item, i) => {
      item.badge.textContent = i + 1;
      const name = nameOf(item);
      for (const [button, label] of [
        [item.left, `Move ${name} left`],
        [item.right, `Move ${name} right`],
        [item.drop, `Remove ${name}`],
      ]) {
        button.setAttribute("aria-label", label);
        button.title = label;
      }
      item.left.disabled = i === 0;
      item.right.disabled = i === total - 1;
      item.left.hidden = item.right.hidden = total < 2;
      item.picture.alt = `Reference ${i + 1}${item.name ? `, ${item.name}` : ""}, as the model sees it`;
      item.element.classList.toggle("uploading", !item.id);
      if (item.id) this.#see(item);
      else item.caption.textContent = "Uploading…";
    });
  }

  /** Shows how the model sees a reference among so many. */
  async #see(item) {
    const key = `count=${this.#items.length}${this.#refSize === null ? "" : `&ref_size=${this.#refSize}`}`;
    if (item.key === key) return;
    item.key = key;
    try {
      const path = `/api/references/${encodeURIComponent(item.id)}/preview?${key}`;
      const look = async () => (item.key === key ? (await request(path)).blob() : null);
      const seen = await inTurn("preview", look);
      if (seen === null) return;
      const url = URL.createObjectURL(seen);
      if (item.key !== key || !this.#items.includes(item)) return URL.revokeObjectURL(url);
      if (item.url) URL.revokeObjectURL(item.url);
      item.url = url;
      item.picture.src = url;
      await item.picture.decode();
      const { naturalWidth, naturalHeight } = item.picture;
      const { ref_sizes } = this.#model.defaults;
      const longSide = this.#refSize ?? ref_sizes[this.#items.length > 1 ? 1 : 0];
      item.element.classList.toggle("small", Math.max(naturalWidth, naturalHeight) < 160);
      item.caption.replaceChildren(
        make("span", {}, size(naturalWidth, naturalHeight)),
        make("span", {}, cropNote(item, longSide, { width: naturalWidth, height: naturalHeight })),
      );
    } catch (error) {
      if (item.key !== key || !this.#items.includes(item)) return;
      if (error.status === 404) {
        this.#items = this.#items.filter((other) => other !== item);
        this.#say(`${nameOf(item)} is no longer on the server; add it again.`);
        this.#changed();
      } else {
        item.key = null;
        item.caption.replaceChildren(icon("warning"), make("span", {}, error.message));
      }
    }
  }
}

const nameOf = (item) => item.name || "The reference";
