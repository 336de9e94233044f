// The tanh-normal density on an action box, drawn as inline SVG under five sliders.
//
// a = mid + half * tanh(u), u ~ Normal(mean, std); all densities are per unit of action.

const SLIDERS = [
  { name: "mean", text: "Mean before the tanh", min: -2, max: 2, step: 0.05 },
  { name: "std", text: "Standard deviation before the tanh", min: 0.1, max: 2, step: 0.05 },
  { name: "low", text: "Lower bound of the box", min: -4, max: 3.8, step: 0.1 },
  { name: "high", text: "Upper bound of the box", min: -3.8, max: 4, step: 0.1 },
  { name: "probe", text: "Probe action", min: -4, max: 4, step: 0.01 },
];
const SMALLEST_BOX = 0.2;
const PROBE_MARGIN = 0.01;
const AXIS = { from: -4, to: 4 };
const HEIGHT = 290;
const MARGIN = { left: 58, right: 14, top: 14, bottom: 46 };

const STYLE = `
.tanh-normal { --ink: var(--pst-color-text-base, var(--jp-ui-font-color1, #222));
  --faint: var(--pst-color-text-muted, var(--jp-ui-font-color2, #555));
  --curve: var(--pst-color-primary, var(--jp-brand-color1, #0072b2));
  --mark: var(--pst-color-accent, var(--jp-warn-color0, #b04a00));
  --ground: var(--pst-color-surface, var(--jp-layout-color2, #f4f4f4));
  color: var(--ink); max-width: 46rem; }
.tanh-normal svg { display: block; width: 100%; height: ${HEIGHT}px; touch-action: pan-y; cursor: crosshair; }
.tanh-normal svg text { fill: var(--ink); font-size: 13px; font-family: inherit; }
.tanh-normal .box { fill: var(--ground); }
.tanh-normal .axis, .tanh-normal .tick { stroke: var(--faint); stroke-width: 1; fill: none; }
.tanh-normal .bound { stroke: var(--faint); stroke-width: 1.5; }
.tanh-normal .uniform { stroke: var(--faint); stroke-width: 1.5; stroke-dasharray: 6 4; }
.tanh-normal .curve { stroke: var(--curve); stroke-width: 2.5; fill: none; stroke-linejoin: round; }
.tanh-normal .area { fill: var(--curve); opacity: 0.15; }
.tanh-normal .probe-line { stroke: var(--mark); stroke-width: 1.5; stroke-dasharray: 2 3; }
.tanh-normal .probe-point { fill: var(--mark); }
.tanh-normal .controls { display: grid; grid-template-columns: 1fr; gap: 0.35rem; margin: 0.5rem 0; }
.tanh-normal .control { display: grid; grid-template-columns: minmax(0, 15rem) minmax(6rem, 1fr) 3.6rem;
  align-items: center; gap: 0.6rem; }
.tanh-normal input[type="range"] { width: 100%; min-height: 24px; accent-color: var(--curve); margin: 0; }
.tanh-normal input[type="range"]:focus-visible { outline: 3px solid var(--mark); outline-offset: 3px; border-radius: 4px; }
.tanh-normal output, .tanh-normal dd { font-variant-numeric: tabular-nums; }
.tanh-normal output { text-align: right; }
.tanh-normal dl { display: grid; grid-template-columns: minmax(0, auto) minmax(6rem, 1fr); gap: 0.15rem 1rem; margin: 0.5rem 0; }
.tanh-normal dt { font-weight: normal; margin: 0; } .tanh-normal dd { margin: 0; font-weight: 600; }
.tanh-normal .note { min-height: 1.5em; margin: 0.2rem 0; color: var(--faint); font-size: 0.9em; }
.tanh-normal .spoken { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media (max-width: 34rem) {
  .tanh-normal .control { grid-template-columns: 1fr 3.6rem; }
  .tanh-normal .control label { grid-column: 1 / -1; margin-bottom: -0.4rem; }
}
`;

const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

// Log-density at an action strictly inside the box. The distances to both bounds give
// u = atanh(y) = (log(1 + y) - log(1 - y)) / 2 without losing digits near a bound.
export function logDensity(action, { mean, std, low, high }) {
  const half = (high - low) / 2;
  const u = 0.5 * (Math.log((action - low) / half) - Math.log((high - action) / half));
  const z = (u - mean) / std;
  const logNormal = -0.5 * z * z - Math.log(std) - 0.5 * Math.log(2 * Math.PI);
  return logNormal - Math.log(half) - 2 * (Math.LN2 - u - softplus(-2 * u));
}

export const density = (action, setting) => Math.exp(logDensity(action, setting));

// Five-point Gauss-Legendre rule on [-1, 1].
const NODES = [-0.906179845938664, -0.5384693101056831, 0, 0.5384693101056831, 0.906179845938664];
const WEIGHTS = [
  0.23692688505618908, 0.47862867049936647, 0.5688888888888889, 0.47862867049936647, 0.23692688505618908,
];

// Panels shrink by half towards each bound, where a wide normal piles its density up.
function panelEdges({ low, high }) {
  const half = (high - low) / 2;
  const towards = [];
  for (let k = 0; k <= 44; k += 0.125) towards.push(half * 2 ** -k);
  return [
    ...towards.map((distance) => low + distance).reverse(),
    ...towards.slice(1).map((distance) => high - distance),
  ];
}

// The integral of the density over the box, computed from values of the density alone.
export function integral(setting) {
  const edges = panelEdges(setting);
  let sum = 0;
  for (let i = 1; i < edges.length; i++) {
    const middle = (edges[i] + edges[i - 1]) / 2;
    const radius = (edges[i] - edges[i - 1]) / 2;
    NODES.forEach((node, k) => {
      sum += WEIGHTS[k] * radius * density(middle + node * radius, setting);
    });
  }
  return sum;
}

// Actions to draw: evenly spaced, plus points that crowd towards the bounds.
function drawnActions({ low, high }) {
  const width = high - low;
  const actions = [];
  for (let i = 1; i < 400; i++) actions.push(low + (width * i) / 400);
  for (let k = 8; k <= 40; k += 0.25) {
    actions.push(low + width * 2 ** -k, high - width * 2 ** -k);
  }
  return actions.sort((a, b) => a - b);
}

function niceTicks(top, count) {
  const rough = top / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const ticks = [];
  for (let i = 0; i * step <= top * 1.0001; i++) ticks.push(i * step);
  return ticks;
}

const short = (value) => {
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : value.toPrecision(4);
};

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

function draw(picture, setting, view) {
  const width = Math.max(280, picture.clientWidth || 600);
  picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  picture.replaceChildren();
  const right = width - MARGIN.right;
  const bottom = HEIGHT - MARGIN.bottom;
  const x = (action) => MARGIN.left + ((action - AXIS.from) / (AXIS.to - AXIS.from)) * (right - MARGIN.left);
  const y = (value) => bottom - (Math.min(value, 1.5 * view.top) / view.top) * (bottom - MARGIN.top);

  svg(picture, "title", { id: `${view.id}-title` }, "Density of the tanh-normal on the action box");
  svg(picture, "desc", { id: `${view.id}-desc` }, view.description);
  const clip = svg(svg(picture, "defs"), "clipPath", { id: `${view.id}-clip` });
  const frame = { x: MARGIN.left, y: MARGIN.top, width: right - MARGIN.left, height: bottom - MARGIN.top };
  svg(clip, "rect", frame);

  const { low, high, probe } = setting;
  svg(picture, "rect", { class: "box", x: x(low), y: MARGIN.top, width: x(high) - x(low), height: frame.height });
  for (const tick of niceTicks(view.top, 4)) {
    svg(picture, "line", { class: "tick", x1: MARGIN.left - 5, x2: MARGIN.left, y1: y(tick), y2: y(tick) });
    svg(picture, "text", { x: MARGIN.left - 8, y: y(tick) + 4, "text-anchor": "end" }, String(+tick.toPrecision(3)));
  }
  for (let tick = AXIS.from; tick <= AXIS.to; tick += width < 480 ? 2 : 1) {
    svg(picture, "line", { class: "tick", x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 5 });
    svg(picture, "text", { x: x(tick), y: bottom + 19, "text-anchor": "middle" }, String(tick).replace("-", "−"));
  }
  svg(picture, "path", { class: "axis", d: `M${MARGIN.left} ${MARGIN.top}V${bottom}H${right}` });
  svg(picture, "text", { x: (MARGIN.left + right) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, "action (environment units)");
  svg(picture, "text", {
    transform: `translate(14 ${(MARGIN.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle",
  }, "density (per unit of action)");

  const inside = svg(picture, "g", { "clip-path": `url(#${view.id}-clip)` });
  for (const bound of [low, high]) {
    svg(inside, "line", { class: "bound", x1: x(bound), x2: x(bound), y1: MARGIN.top, y2: bottom });
  }
  const uniform = 1 / (high - low);
  svg(inside, "line", { class: "uniform", x1: x(low), x2: x(high), y1: y(uniform), y2: y(uniform) });
  const points = view.curve.map(([action, value]) => `${x(action).toFixed(2)} ${y(value).toFixed(2)}`);
  const line = `M${x(low).toFixed(2)} ${bottom}L${points.join("L")}L${x(high).toFixed(2)} ${bottom}`;
  svg(inside, "path", { class: "area", d: `${line}Z` });
  svg(inside, "path", { class: "curve", d: line });
  svg(inside, "line", { class: "probe-line", x1: x(probe), x2: x(probe), y1: y(view.density), y2: bottom });
  svg(inside, "circle", { class: "probe-point", cx: x(probe), cy: y(view.density), r: 5.5 });
  return (position) => AXIS.from + ((position - MARGIN.left) / (right - MARGIN.left)) * (AXIS.to - AXIS.from);
}

function measure(setting, id) {
  const curve = drawnActions(setting).map((action) => [action, density(action, setting)]);
  const { low, high } = setting;
  const margin = 0.01 * (high - low);
  const central = curve.filter(([action]) => action > low + margin && action < high - margin);
  const top = 1.12 * Math.max(1 / (high - low), ...central.map(([, value]) => value));
  const peak = Math.max(...curve.map(([, value]) => value));
  const value = density(setting.probe, setting);
  const total = integral(setting);
  const description =
    `On the box from ${low} to ${high}, the density at the probe action ${setting.probe} is ` +
    `${short(value)} per unit of action. The area under the curve is ${total.toFixed(6)}.`;
  return { id, curve, top, peak, density: value, integral: total, description };
}

function render({ model, el }) {
  const id = `tanh-normal-${Math.random().toString(36).slice(2, 10)}`;
  const root = html(el, "div", { class: "tanh-normal", role: "group", "aria-label": "Live figure: the tanh-normal density" });
  html(root, "style").textContent = STYLE;
  const picture = svg(root, "svg", { role: "img", "aria-labelledby": `${id}-title ${id}-desc` });
  const note = html(root, "p", { class: "note" });
  const controls = html(root, "div", { class: "controls" });
  const numbers = html(root, "dl");
  const shown = {};
  for (const [key, text] of [
    ["integral", "Area under the curve, by quadrature"],
    ["density", "Density at the probe, per unit of action"],
    ["logDensity", "Log-density at the probe"],
    ["uniform", "Uniform density 1/(high − low), the dashed line"],
  ]) {
    html(numbers, "dt", {}, text);
    shown[key] = html(numbers, "dd");
  }
  const spoken = html(root, "p", { class: "spoken", role: "status" });

  const inputs = {};
  for (const { name, text, min, max, step } of SLIDERS) {
    const row = html(controls, "div", { class: "control" });
    html(row, "label", { for: `${id}-${name}` }, text);
    const input = html(row, "input", { type: "range", id: `${id}-${name}`, name, min, max, step });
    inputs[name] = { input, output: html(row, "output", { for: `${id}-${name}` }) };
    input.addEventListener("input", () => change(name, Number(input.value)));
    input.addEventListener("change", () => { spoken.textContent = view.description; });
  }

  let view;
  let now;
  let actionAt = () => 0;
  let changing = false;

  const rounded = (value) => Math.round(value * 1e4) / 1e4;
  const clamp = (value, from, to) => Math.min(Math.max(value, from), to);
  const setting = () => Object.fromEntries(SLIDERS.map(({ name }) => [name, model.get(name)]));

  // A bound pushes the other one before it, and the probe stays inside the box.
  function change(name, value) {
    const next = { ...setting(), [name]: rounded(value) };
    if (name === "low") next.high = rounded(Math.max(next.high, next.low + SMALLEST_BOX));
    if (name === "high") next.low = rounded(Math.min(next.low, next.high - SMALLEST_BOX));
    next.probe = rounded(clamp(next.probe, next.low + PROBE_MARGIN, next.high - PROBE_MARGIN));
    changing = true; // the values fit together only once all of them are set
    for (const [key, newValue] of Object.entries(next)) model.set(key, newValue);
    changing = false;
    model.save_changes();
    update();
  }

  function update() {
    if (changing) return;
    now = setting();
    now.probe = rounded(clamp(now.probe, now.low + PROBE_MARGIN, now.high - PROBE_MARGIN));
    view = measure(now, id);
    inputs.probe.input.min = rounded(now.low + PROBE_MARGIN);
    inputs.probe.input.max = rounded(now.high - PROBE_MARGIN);
    for (const { name } of SLIDERS) {
      const text = now[name].toFixed(2).replace("-", "−");
      inputs[name].input.value = now[name];
      inputs[name].output.textContent = text;
    }
    shown.integral.textContent = view.integral.toFixed(6);
    shown.density.textContent = short(view.density);
    shown.logDensity.textContent = short(logDensity(now.probe, now)).replace("-", "−");
    shown.uniform.textContent = short(1 / (now.high - now.low));
    note.textContent = view.peak > view.top
      ? `The curve leaves the picture beside a bound. It stays finite: its largest value drawn is ${short(view.peak)}.`
      : "";
    Object.assign(root.dataset, {
      ...now,
      integral: view.integral,
      density: view.density,
      logDensity: logDensity(now.probe, now),
      curve: JSON.stringify(view.curve.filter((_, i) => i % 12 === 0)),
    });
    actionAt = draw(picture, now, view);
  }

  function pointAt(event) {
    const box = picture.getBoundingClientRect();
    change("probe", actionAt(event.clientX - box.left));
  }
  picture.addEventListener("pointerdown", (event) => {
    picture.setPointerCapture(event.pointerId);
    pointAt(event);
  });
  picture.addEventListener("pointermove", (event) => {
    if (picture.hasPointerCapture(event.pointerId)) pointAt(event);
  });

  for (const { name } of SLIDERS) model.on(`change:${name}`, update);
  const resized = new ResizeObserver(() => { actionAt = draw(picture, now, view); });
  update();
  resized.observe(picture);
  return () => {
    resized.disconnect();
    for (const { name } of SLIDERS) model.off(`change:${name}`, update);
  };
}

export default { render };
