// CQL's evaluation of a policy on the book's grid world, solved exactly: true value and bound.
//
// Q = r + discount * P^policy Q is linear, so a value is the solution of one linear system.

// Gaussian elimination with row exchange; the matrix has 12 rows.
function solve(matrix, right) {
  const rows = matrix.map((row, i) => [...row, right[i]]);
  const n = rows.length;
  for (let k = 0; k < n; k++) {
    let largest = k;
    for (let i = k + 1; i < n; i++) if (Math.abs(rows[i][k]) > Math.abs(rows[largest][k])) largest = i;
    [rows[k], rows[largest]] = [rows[largest], rows[k]];
    for (let i = k + 1; i < n; i++) {
      const factor = rows[i][k] / rows[k][k];
      for (let j = k; j <= n; j++) rows[i][j] -= factor * rows[k][j];
    }
  }
  const solution = new Array(n);
  for (let k = n - 1; k >= 0; k--) {
    solution[k] = (rows[k][n] - rows[k].slice(k + 1, n).reduce((sum, value, j) => sum + value * solution[k + 1 + j], 0)) / rows[k][k];
  }
  return solution;
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
const mean = (weights, values) => sum(weights.map((weight, a) => weight * values[a]));
const valuesOf = (q, policy) => q.map((row, s) => mean(policy[s], row));

function policyQ(reward, transition, policy, discount) {
  const move = transition.map((actions, s) =>
    actions[0].map((_, next) => mean(policy[s], actions.map((row) => row[next]))));
  const system = move.map((row, s) => row.map((p, next) => (s === next ? 1 : 0) - discount * p));
  const value = solve(system, valuesOf(reward, policy));
  return transition.map((actions, s) => actions.map((row, a) => reward[s][a] + discount * mean(row, value)));
}

// Each action's probability is the behaviour's times exp(lean * the behaviour's Q).
function leaningPolicy({ lean, discount }, { reward, transition, behaviour }) {
  const q = policyQ(reward, transition, behaviour, discount);
  return behaviour.map((row, s) => {
    const scores = row.map((p, a) => Math.log(p) + lean * q[s][a]);
    const total = logSumExp(scores);
    return scores.map((score) => Math.exp(score - total));
  });
}

const DOWN = "M0 6L-6 -5H6Z";
const RING = "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0 -5 0Z";

export default liveFigure({
  name: "tabular-bound",
  label: "true value and CQL's bound on the grid world",
  sliders: [
    { name: "weight", text: "Penalty weight of the paper", min: 0, max: 2, step: 0.05 },
    { name: "push_up", text: "Push the data up (0: equation 1, 1: equation 2)", values: [0, 1], digits: 0 },
    { name: "lean", text: "How much the policy leans to good actions", min: 0, max: 5, step: 0.25 },
    { name: "discount", text: "Discount γ", min: 0, max: 0.95, step: 0.05 },
  ],
  curves: [["true", "true value", RING], ["bound", "CQL's value", DOWN], ["gap", "gap"]],
  numbers: [
    ["below", "Tiles where CQL's value is not above the truth, of 12", 0],
    ["above", "Entries of Q that are above the truth, of 48", 0],
    ["smallest", "Smallest gap, true value − CQL's value", 4],
    ["largest", "Largest gap", 4],
    ["start", "True value of the start, tile 8", 4],
    ["startBound", "CQL's value of the start", 4],
  ],
  style: `
.tabular-bound .true { fill: var(--curve); stroke: var(--ink); }
.tabular-bound .bound { fill: var(--mark); stroke: var(--ink); }
.tabular-bound .gap { stroke: var(--faint); stroke-width: 2; fill: none; }
`,

  measure(setting, model) {
    const [reward, transition, behaviour] = ["reward", "transition", "behaviour"].map((name) => model.get(name));
    const { weight, push_up, discount } = setting;
    const policy = leaningPolicy(setting, { reward, transition, behaviour });
    const penalised = reward.map((row, s) =>
      row.map((r, a) => r - weight * (policy[s][a] / behaviour[s][a] - push_up)));
    const trueQ = policyQ(reward, transition, policy, discount);
    const cqlQ = policyQ(penalised, transition, policy, discount);
    const value = valuesOf(trueQ, policy);
    const bound = valuesOf(cqlQ, policy);
    const gaps = value.map((v, s) => v - bound[s]);
    const entries = cqlQ.flatMap((row, s) => row.map((q, a) => q - trueQ[s][a]));
    const rounding = 1e-9;
    const numbers = {
      below: gaps.filter((gap) => gap >= -rounding).length,
      above: entries.filter((difference) => difference > rounding).length,
      smallest: Math.min(...gaps), largest: Math.max(...gaps),
      start: value[8], startBound: bound[8],
    };
    return {
      value, bound, numbers,
      data: { value, bound },
      description:
        `With weight ${weight}, CQL's value is not above the truth on ${numbers.below} of 12 tiles; ` +
        `${numbers.above} of 48 entries of Q are above it. The gaps reach from ${numbers.smallest.toFixed(3)} to ${numbers.largest.toFixed(3)}.`,
    };
  },

  axes: (setting, { value, bound }) => {
    const all = [...value, ...bound, 0];
    const margin = 0.08 * (Math.max(...all) - Math.min(...all));
    return {
      x: { from: -0.5, to: 11.5, label: "tile, row by row from the top left; 8 is the start", ticks: value.map((_, s) => s) },
      y: { from: Math.min(...all) - margin, to: Math.max(...all) + margin, label: "value (discounted reward)" },
    };
  },

  draw(plot, setting, { value, bound }) {
    plot.line("third", -0.5, 0, 11.5, 0);
    value.forEach((v, s) => {
      plot.line("gap", s, v, s, bound[s]);
      plot.mark("true", s, v, RING);
      plot.mark("bound", s, bound[s], DOWN);
    });
  },
});
