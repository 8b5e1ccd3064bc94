// Light or dark: as the system says, until the switch is used. Runs before the page is drawn, so that nothing flashes.
"use strict";

(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");

  const stored = () => {
    try {
      return localStorage.getItem("uno.theme");
    } catch {
      return null; // Storage can be switched off.
    }
  };
  const chosen = stored();
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
    const show = () => button.setAttribute("aria-pressed", String(isDark()));
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      try {
        localStorage.setItem("uno.theme", root.dataset.theme);
      } catch {
        // It holds until the page is left.
      }
      show();
    });
    system.addEventListener("change", show);
    show();
  });
})();
