// What the live figures share: sliders, a picture with axes, numbers, a spoken summary.
//
// A figure is one object, given to `liveFigure`, which returns the module that anywidget mounts:
//   name, label      CSS class of the figure, and what a screen reader calls it
//   sliders          [{ name, text, min, max, step }] or [{ name, text, values }]; `digits` shown
//   curves           [[class, text]] legend of the lines and marks drawn, optional
//   numbers          [[key, text]] shown below the picture, keys of `measure(...).numbers`
//   adjust           (setting, changed name) -> setting: values that must fit together, optional
//   ranges           setting -> { name: [min, max] }: ranges that depend on the setting, optional
//   axes             (setting, view) -> { x, y }, each { from, to, label, ticks or count }
//   measure          (setting, model) -> { numbers, description, note, data, ... }: the mathematics
//   draw             (plot, setting, view): the marks; `plot` has x, y, line, path, dot, rect, text
//   pick             (setting, x, y) -> changed settings, when the picture is pressed, optional
// `numbers`, `data` and the setting also stand in the dataset of the root, for tests.

const HEIGHT = 290;
const MARGIN = { left: 58, right: 22, top: 14, bottom: 46 };
const UNITED = (name) => `
.${name} { --ink: var(--pst-color-text-base, var(--jp-ui-font-color1, #222));
  --faint: var(--pst-color-text-muted, var(--jp-ui-font-color2, #555));
  --curve: var(--pst-color-primary, var(--jp-brand-color1, #0072b2));
  --mark: var(--pst-color-accent, var(--jp-warn-color0, #b04a00));
  --ground: var(--pst-color-surface, var(--jp-layout-color2, #f4f4f4));
  color: var(--ink); max-width: 46rem; position: relative; }
.${name} svg.picture { display: block; width: 100%; height: ${HEIGHT}px; }
.${name} svg.pressed { touch-action: pan-y; cursor: crosshair; }
.${name} svg text { fill: var(--ink); font-size: 13px; font-family: inherit; }
.${name} .axis, .${name} .tick { stroke: var(--faint); stroke-width: 1; fill: none; }
.${name} .curve { stroke: var(--curve); stroke-width: 2.5; fill: none; stroke-linejoin: round; }
.${name} .second { stroke: var(--mark); stroke-width: 2; stroke-dasharray: 7 4; fill: none; }
.${name} .third { stroke: var(--faint); stroke-width: 1.5; stroke-dasharray: 2 4; fill: none; }
.${name} .legend { display: flex; flex-wrap: wrap; gap: 0.1rem 1.2rem; margin: 0 0 0.2rem 0; padding: 0;
  list-style: none; font-size: 0.9em; }
.${name} .legend li { display: flex; align-items: center; gap: 0.4rem; margin: 0; }
.${name} .legend svg { width: 34px; height: 14px; flex: none; }
.${name} .controls { display: grid; grid-template-columns: 1fr; gap: 0.35rem; margin: 0.5rem 0; }
.${name} .control { display: grid; grid-template-columns: minmax(0, 15rem) minmax(6rem, 1fr) 3.6rem;
  align-items: center; gap: 0.6rem; }
.${name} input[type="range"] { width: 100%; min-height: 24px; accent-color: var(--curve); margin: 0; }
.${name} input[type="range"]:focus-visible { outline: 3px solid var(--mark); outline-offset: 3px; border-radius: 4px; }
.${name} output, .${name} dd { font-variant-numeric: tabular-nums; }
.${name} output { text-align: right; }
.${name} dl { display: grid; grid-template-columns: minmax(0, auto) minmax(6rem, 1fr); gap: 0.15rem 1rem; margin: 0.5rem 0; }
.${name} dt { font-weight: normal; margin: 0; } .${name} dd { margin: 0; font-weight: 600; }
.${name} .note { min-height: 1.5em; margin: 0.2rem 0; color: var(--faint); font-size: 0.9em; }
.${name} .spoken { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media (max-width: 34rem) {
  .${name} .control { grid-template-columns: 1fr 3.6rem; }
  .${name} .control label { grid-column: 1 / -1; margin-bottom: -0.4rem; }
}
`;

const rounded = (value) => Math.round(value * 1e4) / 1e4;
const clamp = (value, from, to) => Math.min(Math.max(value, from), to);
const minus = (text) => text.replace("-", "−");
const short = (value) => {
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : value.toPrecision(4);
};

function niceTicks(from, to, count) {
  const rough = (to - from) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const ticks = [];
  for (let i = Math.ceil(from / step - 1e-9); i * step <= to + 1e-9 * step; i++) ticks.push(i * step);
  return ticks;
}

// Random numbers in (0, 1) that start at a seed, the same in every browser (mulberry32).
function uniformNumbers(seed) {
  let state = (seed * 0x9e3779b9) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
}

// Standard normal numbers from uniform ones (Box and Muller).
const normalNumber = (uniform) => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());

const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

// Log-density of the tanh-normal at an action strictly inside the box. The distances to both bounds
// give u = atanh(y) = (log(1 + y) - log(1 - y)) / 2 without losing digits near a bound.
function tanhNormalLogDensity(action, { mean, std, low, high }) {
  const half = (high - low) / 2;
  const u = 0.5 * (Math.log((action - low) / half) - Math.log((high - action) / half));
  const z = (u - mean) / std;
  const logNormal = -0.5 * z * z - Math.log(std) - 0.5 * Math.log(2 * Math.PI);
  return logNormal - Math.log(half) - 2 * (Math.LN2 - u - softplus(-2 * u));
}

function logSumExp(values) {
  const top = Math.max(...values);
  return top + Math.log(values.reduce((sum, value) => sum + Math.exp(value - top), 0));
}

function svg(parent, name, attributes = {}, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  parent.append(node);
  return node;
}

function html(parent, name, attributes = {}, text = "") {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  parent.append(node);
  return node;
}

// The frame of the picture with ticks and labels, and functions that draw in data units.
function plotOn(picture, { id, label, description, axes }) {
  const width = Math.max(280, picture.clientWidth || 600);
  picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  picture.replaceChildren();
  const [left, right, top, bottom] = [MARGIN.left, width - MARGIN.right, MARGIN.top, HEIGHT - MARGIN.bottom];
  const x = (value) => left + ((value - axes.x.from) / (axes.x.to - axes.x.from)) * (right - left);
  const y = (value) => bottom - ((value - axes.y.from) / (axes.y.to - axes.y.from)) * (bottom - top);

  svg(picture, "title", { id: `${id}-title` }, label);
  svg(picture, "desc", { id: `${id}-desc` }, description);
  const clip = svg(svg(picture, "defs"), "clipPath", { id: `${id}-clip` });
  svg(clip, "rect", { x: left, y: top, width: right - left, height: bottom - top });
  const behind = svg(picture, "g", { "clip-path": `url(#${id}-clip)` });
  const ticks = (axis, count) => axis.ticks ?? niceTicks(axis.from, axis.to, count);
  const name = (tick) => minus(String(+tick.toPrecision(3)));
  for (const tick of ticks(axes.y, 4)) {
    svg(picture, "line", { class: "tick", x1: left - 5, x2: left, y1: y(tick), y2: y(tick) });
    svg(picture, "text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, name(tick));
  }
  for (const tick of ticks(axes.x, width < 480 ? 4 : 8)) {
    svg(picture, "line", { class: "tick", x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 5 });
    svg(picture, "text", { x: x(tick), y: bottom + 19, "text-anchor": "middle" }, name(tick));
  }
  svg(picture, "path", { class: "axis", d: `M${left} ${top}V${bottom}H${right}` });
  svg(picture, "text", { x: (left + right) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, axes.x.label);
  const turned = `translate(14 ${(top + bottom) / 2}) rotate(-90)`;
  svg(picture, "text", { transform: turned, "text-anchor": "middle" }, axes.y.label);

  const inside = svg(picture, "g", { "clip-path": `url(#${id}-clip)` });
  const at = (value) => value.toFixed(2);
  return {
    x, y, left, right, top, bottom, inside,
    rect: (kind, x1, x2) => svg(behind, "rect", { class: kind, x: x(x1), y: top, width: x(x2) - x(x1), height: bottom - top }),
    line: (kind, x1, y1, x2, y2) => svg(inside, "line", { class: kind, x1: x(x1), y1: y(y1), x2: x(x2), y2: y(y2) }),
    path: (kind, points) => svg(inside, "path", { class: kind, d: `M${points.map(([u, v]) => `${at(x(u))} ${at(y(v))}`).join("L")}` }),
    dot: (kind, u, v, r = 5.5) => svg(inside, "circle", { class: kind, cx: x(u), cy: y(v), r }),
    mark: (kind, u, v, shape) => svg(inside, "path", { class: kind, d: shape, transform: `translate(${at(x(u))} ${at(y(v))})` }),
    actionAt: (px) => axes.x.from + ((px - left) / (right - left)) * (axes.x.to - axes.x.from),
  };
}

function liveFigure(figure) {
  const names = figure.sliders.map(({ name }) => name);

  function render({ model, el }) {
    const id = `${figure.name}-${Math.random().toString(36).slice(2, 10)}`;
    const root = html(el, "div", { class: figure.name, role: "group", "aria-label": `Live figure: ${figure.label}` });
    html(root, "style").textContent = UNITED(figure.name) + (figure.style ?? "");
    const legend = figure.curves && html(root, "ul", { class: "legend" });
    for (const [kind, text, shape] of figure.curves ?? []) {
      const item = html(legend, "li");
      const swatch = svg(item, "svg", { viewBox: "0 0 34 14", "aria-hidden": "true" });
      svg(swatch, "path", { class: kind, d: shape ?? "M1 7H33", ...(shape && { transform: "translate(17 7)" }) });
      html(item, "span", {}, text);
    }
    const picture = svg(root, "svg", { class: "picture", role: "img", "aria-labelledby": `${id}-title ${id}-desc` });
    const note = html(root, "p", { class: "note" });
    const controls = html(root, "div", { class: "controls" });
    const list = html(root, "dl");
    const shown = {};
    for (const [key, text] of figure.numbers) {
      html(list, "dt", {}, text);
      shown[key] = html(list, "dd");
    }
    const spoken = html(root, "p", { class: "spoken", role: "status" });

    const inputs = {};
    for (const { name, text, values, min = 0, max = values.length - 1, step = 1 } of figure.sliders) {
      const row = html(controls, "div", { class: "control" });
      html(row, "label", { for: `${id}-${name}` }, text);
      const input = html(row, "input", { type: "range", id: `${id}-${name}`, name, min, max, step });
      inputs[name] = { input, output: html(row, "output", { for: `${id}-${name}` }) };
      input.addEventListener("input", () => {
        const position = Number(input.value);
        change({ [name]: values ? values[position] : position });
      });
      input.addEventListener("change", () => { spoken.textContent = view.description; });
    }

    let view;
    let now;
    let plot;
    let changing = false;
    const setting = () => Object.fromEntries(names.map((name) => [name, model.get(name)]));

    function change(changed) {
      let next = { ...setting() };
      for (const [name, value] of Object.entries(changed)) {
        next[name] = rounded(value);
        next = figure.adjust?.(next, name) ?? next;
      }
      changing = true; // the values fit together only once all of them are set
      for (const [name, value] of Object.entries(next)) model.set(name, value);
      changing = false;
      model.save_changes();
      update();
    }

    function redraw() {
      plot = plotOn(picture, {
        id, label: figure.label, description: view.description, axes: figure.axes(now, view),
      });
      figure.draw(plot, now, view);
    }

    function update() {
      if (changing) return;
      now = figure.adjust?.(setting()) ?? setting();
      view = figure.measure(now, model);
      for (const [name, [min, max]] of Object.entries(figure.ranges?.(now) ?? {})) {
        Object.assign(inputs[name].input, { min, max });
      }
      for (const { name, values, digits = 2 } of figure.sliders) {
        const text = minus(now[name].toFixed(digits));
        inputs[name].input.value = values ? values.indexOf(now[name]) : now[name];
        if (values) inputs[name].input.setAttribute("aria-valuetext", text);
        inputs[name].output.textContent = text;
      }
      for (const [key, , digits] of figure.numbers) {
        const value = view.numbers[key];
        shown[key].textContent = minus(digits === undefined ? short(value) : value.toFixed(digits));
      }
      note.textContent = view.note ?? "";
      for (const [key, value] of Object.entries(view.data ?? {})) root.dataset[key] = JSON.stringify(value);
      Object.assign(root.dataset, now, view.numbers);
      redraw();
    }

    if (figure.pick) {
      picture.classList.add("pressed");
      const press = (event) => {
        const box = picture.getBoundingClientRect();
        change(figure.pick(now, plot.actionAt(event.clientX - box.left)));
      };
      picture.addEventListener("pointerdown", (event) => {
        picture.setPointerCapture(event.pointerId);
        press(event);
      });
      picture.addEventListener("pointermove", (event) => {
        if (picture.hasPointerCapture(event.pointerId)) press(event);
      });
    }

    for (const name of names) model.on(`change:${name}`, update);
    const resized = new ResizeObserver(redraw);
    update();
    resized.observe(picture);
    return () => {
      resized.disconnect();
      for (const name of names) model.off(`change:${name}`, update);
    };
  }

  return { render };
}
