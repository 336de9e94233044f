// The tanh-normal density on an action box.
//
// a = mid + half * tanh(u), u ~ Normal(mean, std); all densities are per unit of action.

const SMALLEST_BOX = 0.2;
const PROBE_MARGIN = 0.01;

const density = (action, setting) => Math.exp(tanhNormalLogDensity(action, setting));

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
function integral(setting) {
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

export default liveFigure({
  name: "tanh-normal",
  label: "the tanh-normal density",
  sliders: [
    { name: "mean", text: "Mean before the tanh", min: -2, max: 2, step: 0.05 },
    { name: "std", text: "Standard deviation before the tanh", min: 0.1, max: 2, step: 0.05 },
    { name: "low", text: "Lower bound of the box", min: -4, max: 3.8, step: 0.1 },
    { name: "high", text: "Upper bound of the box", min: -3.8, max: 4, step: 0.1 },
    { name: "probe", text: "Probe action", min: -4, max: 4, step: 0.01 },
  ],
  numbers: [
    ["integral", "Area under the curve, by quadrature", 6],
    ["density", "Density at the probe, per unit of action"],
    ["logDensity", "Log-density at the probe"],
    ["uniform", "Uniform density 1/(high − low), the dashed line"],
  ],
  style: `
.tanh-normal .box { fill: var(--ground); }
.tanh-normal .bound { stroke: var(--faint); stroke-width: 1.5; }
.tanh-normal .uniform { stroke: var(--faint); stroke-width: 1.5; stroke-dasharray: 6 4; }
.tanh-normal .area { fill: var(--curve); opacity: 0.15; }
.tanh-normal .probe-line { stroke: var(--mark); stroke-width: 1.5; stroke-dasharray: 2 3; }
.tanh-normal .probe-point { fill: var(--mark); }
`,

  // A bound pushes the other one before it, and the probe stays inside the box.
  adjust(setting, changed) {
    const next = { ...setting };
    if (changed === "low") next.high = rounded(Math.max(next.high, next.low + SMALLEST_BOX));
    if (changed === "high") next.low = rounded(Math.min(next.low, next.high - SMALLEST_BOX));
    next.probe = rounded(clamp(next.probe, next.low + PROBE_MARGIN, next.high - PROBE_MARGIN));
    return next;
  },
  ranges: ({ low, high }) => ({ probe: [rounded(low + PROBE_MARGIN), rounded(high - PROBE_MARGIN)] }),
  pick: (setting, action) => ({ probe: action }),

  measure(setting) {
    const { low, high, probe } = setting;
    const curve = drawnActions(setting).map((action) => [action, density(action, setting)]);
    const margin = 0.01 * (high - low);
    const central = curve.filter(([action]) => action > low + margin && action < high - margin);
    const top = 1.12 * Math.max(1 / (high - low), ...central.map(([, value]) => value));
    const peak = Math.max(...curve.map(([, value]) => value));
    const numbers = {
      integral: integral(setting),
      density: density(probe, setting),
      logDensity: tanhNormalLogDensity(probe, setting),
      uniform: 1 / (high - low),
    };
    return {
      curve, top, numbers,
      data: { curve: curve.filter((_, i) => i % 12 === 0) },
      note: peak > top
        ? `The curve leaves the picture beside a bound. It stays finite: its largest value drawn is ${short(peak)}.`
        : "",
      description:
        `On the box from ${low} to ${high}, the density at the probe action ${probe} is ` +
        `${short(numbers.density)} per unit of action. The area under the curve is ${numbers.integral.toFixed(6)}.`,
    };
  },

  axes: (setting, { top }) => ({
    x: { from: -4, to: 4, label: "action (environment units)" },
    y: { from: 0, to: top, label: "density (per unit of action)" },
  }),

  draw(plot, { low, high, probe }, { curve, top, numbers }) {
    plot.rect("box", low, high);
    for (const bound of [low, high]) plot.line("bound", bound, 0, bound, top);
    plot.line("uniform", low, numbers.uniform, high, numbers.uniform);
    const capped = curve.map(([action, value]) => [action, Math.min(value, 1.5 * top)]);
    const outline = [[low, 0], ...capped, [high, 0]];
    plot.path("area", outline);
    plot.path("curve", outline);
    const height = Math.min(numbers.density, 1.5 * top);
    plot.line("probe-line", probe, height, probe, 0);
    plot.dot("probe-point", probe, height);
  },
});
