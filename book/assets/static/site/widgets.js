// Live figures without a kernel.
//
// A stored notebook holds the state of its widgets; an anywidget's state includes its own source
// (`_esm`). This script gives that source a small model to work on and mounts it. A classic
// script and a Blob are used because a page opened from disk may not load module files.
(() => {
  "use strict";
  const STATE = 'script[type="application/vnd.jupyter.widget-state+json"]';
  const VIEW = 'script[type="application/vnd.jupyter.widget-view+json"]';

  class StoredModel {
    constructor(state) {
      this.state = { ...state };
      this.listeners = [];
    }
    get(name) {
      return this.state[name];
    }
    set(name, value) {
      if (Object.is(this.state[name], value)) return;
      this.state[name] = value;
      this.emit(`change:${name}`, value);
      this.emit("change");
    }
    on(event, callback) {
      this.listeners.push([event, callback]);
    }
    off(event, callback) {
      this.listeners = this.listeners.filter(
        ([name, listener]) => (event && name !== event) || (callback && listener !== callback),
      );
    }
    emit(event, value) {
      for (const [name, listener] of [...this.listeners]) {
        if (name === event) listener({ name: event }, value);
      }
    }
    save_changes() {} // there is no kernel to tell
    send() {}
  }

  async function load(source) {
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    try {
      const loaded = (await import(url)).default;
      return typeof loaded === "function" ? loaded() : loaded;
    } finally {
      URL.revokeObjectURL(url);
    }
  }

  // The still picture of a live figure is the last captioned figure before it in its section.
  function stillBefore(view) {
    const section = view.closest("section");
    const figures = [...(section?.querySelectorAll("figure") ?? [])].filter(
      (figure) =>
        figure.closest("section") === section &&
        figure.compareDocumentPosition(view) & Node.DOCUMENT_POSITION_FOLLOWING &&
        !figure.querySelector(".live-figure"),
    );
    return figures.at(-1);
  }

  function inWindow(element) {
    const { top, bottom } = element.getBoundingClientRect();
    return bottom > 0 && top < window.innerHeight;
  }

  async function mount(view, states) {
    const model = states[JSON.parse(view.textContent).model_id]?.state;
    if (!model?._esm) return;
    const element = document.createElement("div");
    element.className = "live-figure";
    const definition = await load(model._esm);
    const stored = new StoredModel(model);
    await definition.initialize?.({ model: stored });
    await definition.render({ model: stored, el: element });
    if (model._css) {
      const style = document.createElement("style");
      style.textContent = model._css;
      document.head.append(style);
    }
    const still = stillBefore(view);
    if (still) {
      // Caption, number and anchor stay with the figure; its picture remains for print.
      for (const image of still.querySelectorAll("img")) image.classList.add("still-of-live-figure");
      still.classList.add("holds-live-figure");
      still.prepend(element);
      // Who came here by a link to the figure goes with it.
      const awaited = still.matches(":target") && inWindow(still);
      view.after(still);
      if (awaited) still.scrollIntoView();
    } else {
      view.after(element);
    }
  }

  const stored = document.querySelector(STATE);
  if (!stored) return;
  const states = JSON.parse(stored.textContent).state ?? {};
  for (const view of document.querySelectorAll(VIEW)) {
    mount(view, states).catch((error) => console.error("live figure:", error));
  }
})();
