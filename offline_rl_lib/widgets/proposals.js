// The soft maximum of a known critic over the action box: its estimate from a few proposals beside
// the integral, and where the penalty pushes. T = 1; actions in N m.

const [LOW, HIGH] = [-2, 2];
const STATE = 0.5;
const DATA_ACTION = -0.5;
const REDRAWS = 200;

// A hill that the data support, and a spike at 1.4 that they do not.
const q = (action) => 3 + STATE - (action + STATE) ** 2 + 4.5 * Math.exp(-0.5 * ((action - 1.4) / 0.15) ** 2);

// Simpson's rule on 2,000 intervals: the spike is 0.15 wide, an interval 0.002.
function exactSoftMaximum() {
  const intervals = 2000;
  const spacing = (HIGH - LOW) / intervals;
  let sum = 0;
  for (let i = 0; i <= intervals; i++) {
    const weight = i === 0 || i === intervals ? 1 : i % 2 ? 4 : 2;
    sum += weight * Math.exp(q(LOW + spacing * i));
  }
  return Math.log((sum * spacing) / 3);
}

// `count` actions of each source with the log-density of the source that they came from.
function draw({ count, mean, next_mean, std }, seed) {
  const uniform = uniformNumbers(seed);
  const proposals = [];
  for (let i = 0; i < count; i++) {
    proposals.push({ source: "uniform", action: LOW + (HIGH - LOW) * uniform(), logDensity: -Math.log(HIGH - LOW) });
  }
  for (const [source, middle] of [["current", mean], ["next", next_mean]]) {
    for (let i = 0; i < count; i++) {
      // Strictly inside the box, where the density is defined.
      const squashed = clamp(Math.tanh(middle + std * normalNumber(uniform)), -1 + 1e-12, 1 - 1e-12);
      const action = ((HIGH - LOW) / 2) * squashed;
      proposals.push({ source, action, logDensity: tanhNormalLogDensity(action, { mean: middle, std, low: LOW, high: HIGH }) });
    }
  }
  return proposals;
}

const estimateOf = (proposals) =>
  logSumExp(proposals.map(({ action, logDensity }) => q(action) - logDensity)) - Math.log(proposals.length);

function spread(setting) {
  const estimates = Array.from({ length: REDRAWS }, (_, k) => estimateOf(draw(setting, 1000 + k)));
  const mean = estimates.reduce((sum, value) => sum + value, 0) / REDRAWS;
  return Math.sqrt(estimates.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (REDRAWS - 1));
}

const SHAPES = {
  uniform: "M0 -5L5 4H-5Z",
  current: "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0 -5 0Z",
  next: "M-4.5 -4.5H4.5V4.5H-4.5Z",
};

export default liveFigure({
  name: "proposals",
  label: "proposals, the soft maximum, and the push of the penalty",
  sliders: [
    { name: "count", text: "Proposals per source", values: [1, 2, 3, 5, 10, 20, 50, 100], digits: 0 },
    { name: "mean", text: "Policy here: mean before the tanh", min: -2, max: 2, step: 0.1 },
    { name: "next_mean", text: "Policy at the next state: mean", min: -2, max: 2, step: 0.1 },
    { name: "std", text: "Both: standard deviation", min: 0.1, max: 1.5, step: 0.1 },
    { name: "weight", text: "Weight w of the penalty", min: 0, max: 10, step: 0.25 },
    { name: "draw", text: "Draw number", min: 1, max: 50, step: 1, digits: 0 },
  ],
  curves: [
    ["curve", "Q(s, a)"],
    ["second", "exact soft maximum"],
    ["third", "its estimate"],
    ["mark uniform", "uniform", SHAPES.uniform],
    ["mark current", "policy here", SHAPES.current],
    ["mark next", "policy at next state", SHAPES.next],
    ["push", "push on Q"],
  ],
  numbers: [
    ["exact", "Soft maximum, by quadrature", 4],
    ["estimate", "Its estimate from these proposals", 4],
    ["spread", `Standard deviation of the estimate over ${REDRAWS} draws`, 3],
    ["penalty", "Penalty: estimate − Q at the data's action", 3],
    ["weighted", "w × penalty, the term in the loss", 3],
    ["heaviest", "Share of the push on one single proposal", 3],
  ],
  style: `
.proposals .mark { fill: var(--ground); stroke: var(--ink); stroke-width: 1.6; }
.proposals .uniform { fill: var(--faint); } .proposals .current { fill: var(--curve); }
.proposals .next { fill: var(--mark); }
.proposals .data { fill: none; stroke: var(--ink); stroke-width: 2; }
.proposals .push { stroke: var(--ink); stroke-width: 2; fill: none; }
`,

  measure(setting) {
    const proposals = draw(setting, setting.draw);
    const estimate = estimateOf(proposals);
    const total = estimate + Math.log(proposals.length);
    for (const proposal of proposals) {
      proposal.share = Math.exp(q(proposal.action) - proposal.logDensity - total);
    }
    const penalty = estimate - q(DATA_ACTION);
    const exact = exactSoftMaximum();
    const numbers = {
      exact, estimate, penalty, spread: spread(setting), weighted: setting.weight * penalty,
      heaviest: Math.max(...proposals.map(({ share }) => share)),
    };
    return {
      numbers, proposals,
      data: { proposals },
      note: "Each line down is w times a proposal's share of the push, the line up is w, at the data's action.",
      description:
        `With ${setting.count} proposals per source the estimate is ${estimate.toFixed(2)}, the integral gives ` +
        `${exact.toFixed(2)}. One proposal carries ${(100 * numbers.heaviest).toFixed(0)} percent of the push.`,
    };
  },

  axes: ({ weight }, { proposals }) => ({
    x: { from: LOW, to: HIGH, label: "torque a (N m)" },
    y: {
      from: Math.min(-3, ...proposals.map(({ action, share }) => q(action) - weight * share - 0.5)),
      to: Math.max(6, q(DATA_ACTION) + weight + 0.5),
      label: "Q (scaled return)",
    },
  }),

  draw(plot, { weight }, { numbers, proposals }) {
    plot.line("second", LOW, numbers.exact, HIGH, numbers.exact);
    plot.line("third", LOW, numbers.estimate, HIGH, numbers.estimate);
    const actions = Array.from({ length: 401 }, (_, i) => LOW + ((HIGH - LOW) * i) / 400);
    plot.path("curve", actions.map((action) => [action, q(action)]));
    for (const { action, share } of proposals) {
      plot.line("push", action, q(action), action, q(action) - weight * share);
    }
    plot.line("push", DATA_ACTION, q(DATA_ACTION), DATA_ACTION, q(DATA_ACTION) + weight);
    for (const { source, action } of proposals) plot.mark(`mark ${source}`, action, q(action), SHAPES[source]);
    plot.mark("data", DATA_ACTION, q(DATA_ACTION), "M-8 0H8M0 -8V8");
  },
});
