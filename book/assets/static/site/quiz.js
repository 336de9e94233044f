// Quizzes: shows the explanation of the chosen answer, and keeps the answer in this browser.
//
// The page already holds all explanations, folded below each question. Until the right answer is
// found they stay out of sight; what is shown is a copy of the one that belongs to the choice.
(() => {
  "use strict";

  // A browser may refuse to store anything; the quiz works without.
  const stored = (action) => {
    try {
      return action(window.localStorage);
    } catch {
      return null;
    }
  };

  function start(form) {
    const feedback = form.querySelector(".quiz-feedback");
    const explanations = form.querySelector(".quiz-explanations");

    function show(letter) {
      const explanation = explanations.querySelector(`[data-option="${letter}"]`);
      feedback.dataset.verdict = explanation.dataset.verdict;
      feedback.replaceChildren(...explanation.cloneNode(true).childNodes);
      if (explanation.dataset.verdict === "right") explanations.hidden = false;
    }

    function clear() {
      delete feedback.dataset.verdict;
      feedback.replaceChildren();
      explanations.hidden = true;
      explanations.open = false;
    }

    // MathJax makes each formula a stop of the keyboard. Inside a label it would stand between the
    // radio buttons and the check, and some browsers keep a click on it from the radio button.
    for (const formula of form.querySelectorAll("label mjx-container")) {
      formula.removeAttribute("tabindex");
    }

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const chosen = form.querySelector("input:checked");
      if (chosen) {
        show(chosen.value);
        stored((store) => store.setItem(form.id, chosen.value));
      } else {
        delete feedback.dataset.verdict;
        feedback.textContent = "Choose an answer first.";
      }
    });
    form.addEventListener("reset", () => {
      clear();
      stored((store) => store.removeItem(form.id));
    });

    clear();
    const before = stored((store) => store.getItem(form.id));
    const input = [...form.querySelectorAll("input")].find(({ value }) => value === before);
    if (input) {
      input.checked = true;
      show(before);
    }
    form.querySelector(".quiz-actions").hidden = false;
  }

  // An explanation is copied, so its mathematics has to be typeset first.
  document.addEventListener("DOMContentLoaded", async () => {
    await window.MathJax?.startup?.promise;
    for (const form of document.querySelectorAll(".quiz form")) start(form);
  });
})();
