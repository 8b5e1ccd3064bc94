// Errors where they belong: at the field that the server names in `param`.

import { byId, showText } from "./dom.js";

/** A value of the form that cannot be sent. */
export class FieldError extends Error {
  constructor(param, message, input = null) {
    super(message);
    this.param = param;
    // Which one, of a field with several.
    this.input = input;
  }
}

const place = (param) => {
  // "references[1]" and "loras.style" belong to the fields before the bracket and the point.
  const field = /^\w+/.exec(param ?? "")?.[0];
  return field && byId(`error-${field}`) ? field : "general";
};

/** What gets the focus for a field: its input, the chosen button of a group, or the group. */
const inputOf = (field) =>
  byId(field) ??
  document.querySelector(`[name="${field}"]:checked`) ??
  byId(`error-${field}`).parentElement.querySelector("input");

/** Shows a message at its field, and goes there, or to one of its inputs; without a known field, above the button. */
export function showError(param, message, one = null) {
  const field = place(param);
  const text = byId(`error-${field}`);
  showText(text, message);
  text.hidden = false;
  if (field === "general") return;
  for (let parent = text.closest("details"); parent; parent = parent.parentElement.closest("details"))
    parent.open = true;
  const input = one ?? inputOf(field);
  input?.setAttribute("aria-invalid", "true");
  input?.focus();
}

/** Takes messages away: of one field, or of all. */
export function clearErrors(field) {
  for (const text of field ? [byId(`error-${field}`)] : document.querySelectorAll("#controls .error")) {
    if (!text) continue;
    text.textContent = "";
    // A live region has to be there before its text is.
    text.hidden = text.getAttribute("role") !== "alert";
    inputOf(text.id.slice("error-".length))?.removeAttribute("aria-invalid");
    for (const input of text.parentElement.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  }
}

/** A whole number from an input. */
export function whole(field, what) {
  const text = byId(field).value.trim();
  if (!/^-?\d+$/.test(text)) throw new FieldError(field, `Give a whole number for ${what}.`);
  const number = Number(text);
  if (!Number.isSafeInteger(number)) throw new FieldError(field, `${text} is too large a number for ${what}.`);
  return number;
}

/** A number from an input. */
export function decimal(input, field, what) {
  const number = input.value.trim() === "" ? NaN : Number(input.value);
  if (!Number.isFinite(number)) throw new FieldError(field, `Give a number for ${what}.`, input);
  return number;
}

/** Lets a slider and a number follow each other. */
export function couple(number, range, onChange) {
  number.addEventListener("input", () => (range.value = number.value));
  range.addEventListener("input", () => {
    number.value = range.value;
    number.dispatchEvent(new Event("input", { bubbles: true }));
  });
  number.addEventListener("input", onChange);
}
