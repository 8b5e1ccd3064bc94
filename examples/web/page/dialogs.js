// Short questions: the token, whether to delete; and messages that go away.

import { announce, byId } from "./dom.js";

/** Closes a dialog by a click beside it. */
export function closeOutside(dialog) {
  dialog.addEventListener("pointerdown", (event) => {
    if (event.target !== dialog) return;
    const box = dialog.getBoundingClientRect();
    const isInside =
      event.clientX >= box.left &&
      event.clientX <= box.right &&
      event.clientY >= box.top &&
      event.clientY <= box.bottom;
    if (!isInside) dialog.close();
  });
}

/** Asks for the token; null where none is given. `wrong` says that one was refused. */
export function askToken(wrong) {
  const [dialog, input, error] = [byId("token"), byId("token-input"), byId("token-error")];
  input.value = "";
  error.textContent = wrong ? "The server refused this token." : "";
  return new Promise((resolve) => {
    let given = null;
    byId("token-form").onsubmit = (event) => {
      event.preventDefault();
      if (input.value === "") return (error.textContent = "Give the token.");
      // What a header cannot carry cannot be the token.
      if (!/^[\x21-\x7e]+$/.test(input.value))
        return (error.textContent = "A token has no spaces and only ASCII characters.");
      given = input.value;
      dialog.close();
    };
    byId("token-no").onclick = () => dialog.close();
    dialog.onclose = () => resolve(given);
    dialog.showModal();
  });
}

/** Asks whether to do something that cannot be undone. */
export function confirm(title, text, yes) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  return new Promise((resolve) => {
    let answer = false;
    byId("confirm-yes").onclick = () => {
      answer = true;
      dialog.close();
    };
    byId("confirm-no").onclick = () => dialog.close();
    dialog.onclose = () => resolve(answer);
    dialog.showModal();
  });
}

let hiding;

/** Says what happened, for a while, and how to undo it. */
export function toast(text, undo) {
  const [box, button] = [byId("toast"), byId("toast-undo")];
  byId("toast-text").textContent = text;
  announce(undo ? `${text} Undo is at the end of the page.` : text);
  button.hidden = !undo;
  box.hidden = false;
  const hide = () => (box.hidden = true);
  const later = () => {
    clearTimeout(hiding);
    hiding = setTimeout(hide, 10_000);
  };
  later();
  box.onpointerenter = box.onfocusin = () => clearTimeout(hiding);
  box.onpointerleave = box.onfocusout = later;
  button.onclick = () => {
    hide();
    byId("prompt").focus();
    undo();
    announce("Undone.");
  };
}
