// Files from outside: pasted, or dropped on the page.

import { byId } from "./dom.js";

/** Calls `take(files)` with files that are pasted or dropped anywhere on the page, while no dialog is open. */
export function listenForFiles(take) {
  const overlay = byId("drop");
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const isOpen = () => document.querySelector("dialog[open]") !== null;
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    // Word processors copy text together with its picture; into a field belongs the text.
    const isText = event.target.matches?.("input, textarea") && event.clipboardData.types.includes("text/plain");
    if (files.length === 0 || isOpen() || isText) return;
    event.preventDefault();
    take(files);
  });
  let depth = 0;
  addEventListener("dragenter", (event) => {
    if (!hasFiles(event) || isOpen()) return;
    depth++;
    overlay.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (hasFiles(event) && --depth <= 0) end();
  });
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault(); // Else the browser would leave the page for the file.
    end();
    if (!isOpen()) take([...event.dataTransfer.files]);
  });
  const end = () => {
    depth = 0;
    overlay.hidden = true;
  };
}
