// Elements. Data only ever becomes text nodes and properties, never markup.

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/**
 * A new element: `make("button", { class: "quiet", onclick: act, "aria-label": "Close" }, icon("close"))`.
 *
 * Functions become listeners, true and false put an attribute or leave it out, null and undefined leave it out.
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.replace(/^on/, ""), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** One of the icons at the top of index.html. */
export function icon(name) {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(namespace, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A button with an icon and a name. */
export const iconButton = (name, label, onclick) =>
  make("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick }, icon(name));

/** Puts children in the wanted order, and moves only those that are elsewhere. */
export function arrange(parent, children) {
  const wanted = new Set(children);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, i) => {
    if (parent.children[i] !== child) parent.insertBefore(child, parent.children[i] ?? null);
  });
}

/** Runs a change of a part of the page; where the focused element goes away, its heir or the part gets the focus. */
export function keepFocus(part, change, heirOf = () => null) {
  const focused = document.activeElement;
  const inside = part.contains(focused);
  change();
  if (!inside) return;
  if (focused.isConnected && !focused.closest("[hidden]") && !focused.disabled) {
    if (document.activeElement !== focused) focused.focus({ preventScroll: true });
  } else {
    const heir = part.hidden ? byId("results") : (heirOf(focused) ?? part);
    heir.focus({ preventScroll: true });
  }
}

/** Shows text in an element, or hides the element where there is none. */
export function showText(element, text) {
  if (element.textContent !== (text ?? "")) element.textContent = text ?? "";
  element.hidden = !text;
}

/** Text with its addresses as links. */
export function withLinks(text) {
  return text
    .split(/(https:\/\/[^\s)]+)/)
    .map((part, i) => (i % 2 ? make("a", { href: part, rel: "noopener" }, part) : part));
}

/** Says something to a screen reader. For what matters only: each message interrupts. */
export function announce(text) {
  const announcer = byId("announcer");
  // The same text again is a change only with something that is not heard.
  announcer.textContent = announcer.textContent === text ? `${text}\u00a0` : text;
}

/** Calls once at the end of the current turn, however often it is asked; also in hidden tabs, which draw no frames. */
export function once(act) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    queueMicrotask(() => {
      waiting = false;
      act();
    });
  };
}

/** What a tab keeps over a reload; null where there is nothing, or where storage is switched off. */
export const kept = {
  get(name) {
    try {
      return JSON.parse(sessionStorage.getItem(`uno.${name}`));
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      sessionStorage.setItem(`uno.${name}`, JSON.stringify(value));
    } catch {
      // Full or switched off: it holds until the page is left.
    }
  },
};
