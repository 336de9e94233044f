// Repairs of the theme that need the document; see book/extensions/theme_repairs.py.
// The file runs before the theme's own scripts, which would otherwise copy the faults into the page.
(() => {
  "use strict";

  // label-content-name-mismatch: the visible text "Search Ctrl+K" already names this button.
  for (const button of document.querySelectorAll(".search-button-field")) {
    button.removeAttribute("aria-label");
    button.removeAttribute("title");
  }

  // label-content-name-mismatch: an icon's title becomes text inside the labelled button.
  for (const icon of document.querySelectorAll(".theme-switch")) icon.removeAttribute("title");

  // region: the book's title stands outside every landmark.
  const sidebar = document.getElementById("pst-primary-sidebar");
  if (sidebar) {
    sidebar.setAttribute("role", "navigation");
    sidebar.setAttribute("aria-label", "Book");
  }

  // A closed section prints as nothing, so open all of them for paper and close them again.
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of opened) details.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });
})();
