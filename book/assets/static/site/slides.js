// Starts the slides once the formulas have their size.
(async () => {
  "use strict";
  await window.MathJax?.startup?.promise;

  // A link opens beside the slides; the place in the talk is kept.
  for (const link of document.querySelectorAll(".slides a[href]")) {
    link.target = "_blank";
    link.rel = "noopener";
  }

  // A formula that comes too near to its number gets smaller; a hidden one has no width yet.
  const GAP = 16;
  function fit() {
    for (const formula of document.querySelectorAll(".equation mjx-container[display]")) {
      const inside = formula.querySelector("mjx-math");
      const number = formula.parentElement.querySelector(".eqno")?.offsetWidth ?? 0;
      const room = formula.clientWidth - 2 * (number + GAP);
      const excess = inside.offsetWidth / room;
      if (excess > 1) formula.style.fontSize = `${parseFloat(getComputedStyle(formula).fontSize) / excess}px`;
    }
  }
  for (const event of ["ready", "slidechanged", "pdf-ready"]) Reveal.on(event, fit);

  await Reveal.initialize({
    plugins: [RevealNotes],
    width: 1280,
    height: 720,
    margin: 0,
    minScale: 0.1,
    maxScale: 4,
    display: "flex",
    center: false,
    controls: false,
    hash: true,
    transition: "none",
    backgroundTransition: "none",
    pdfSeparateFragments: false,
    // Arrows and space belong to the live figure that has the focus.
    keyboardCondition: () => !document.activeElement?.closest(".live-figure"),
  });
})();
