// Examples to begin with.

import { request, showPicture } from "./api.js";
import { closeOutside } from "./dialogs.js";
import { byId, make } from "./dom.js";

/** Lists the examples where there is room for them; `use(example)` is called for the one that is chosen. */
export function listExamples(examples, use) {
  if (examples.length === 0) return;
  const dialog = byId("examples");
  const choose = (example) => {
    dialog.close();
    use(example);
  };
  byId("examples-list").append(...examples.map((example) => entry(example, choose)));
  byId("examples-dialog-list").append(...examples.map((example) => entry(example, choose)));
  byId("welcome-examples").hidden = false;
  byId("examples-open").hidden = false;
  byId("examples-open").addEventListener("click", () => dialog.showModal());
  byId("examples-close").addEventListener("click", () => dialog.close());
  closeOutside(dialog);
}

function entry(example, choose) {
  const pictures = example.references.map(({ url }) => {
    const img = make("img", { alt: "", loading: "lazy" });
    showPicture(img, url);
    return img;
  });
  const button = make(
    "button",
    { type: "button", class: "example", onclick: () => choose(example) },
    make("span", { class: "thumbs" }, pictures),
    make("span", {}, example.prompt),
  );
  return make("li", {}, button);
}

/** The pictures of an example as files. */
export const filesOf = (example) =>
  Promise.all(
    example.references.map(async ({ name, url }) => {
      const blob = await (await request(url)).blob();
      return new File([blob], name, { type: blob.type });
    }),
  );
