// A target that follows its source by Polyak averaging: target += rate * (source - target).
//
// The source jumps from 0 to 1 before the first update and carries noise; the target starts at 0.

const noiseLeft = (rate) => Math.sqrt(rate / (2 - rate));

export default liveFigure({
  name: "target-filter",
  label: "a target that follows its source",
  sliders: [
    { name: "rate", text: "Target update rate τ", values: [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1], digits: 3 },
    { name: "noise", text: "Noise of the source (standard deviation)", min: 0, max: 1, step: 0.05 },
    { name: "updates", text: "Updates shown", values: [50, 100, 200, 500, 1000, 2000, 5000], digits: 0 },
    { name: "probe", text: "Read the target after this share of them", min: 0, max: 1, step: 0.01 },
  ],
  curves: [["source", "source"], ["curve", "target"], ["third", "target without noise"]],
  numbers: [
    ["halfLife", "Half-life, updates", 1],
    ["probed", "Update that is read", 0],
    ["target", "Target there", 4],
    ["clean", "Without noise: 1 − (1 − τ)ᵏ", 4],
    ["noiseLeft", "Noise that passes, as a share of the source's", 4],
  ],
  style: `
.target-filter .source { stroke: var(--faint); stroke-width: 1; fill: none; }
.target-filter .third { stroke: var(--mark); stroke-width: 2; }
.target-filter .probe-line { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 2 3; }
.target-filter .probe-point { fill: var(--mark); }
`,

  measure({ rate, noise, updates, probe }) {
    const uniform = uniformNumbers(7);
    const source = [];
    const target = [0];
    for (let k = 0; k < updates; k++) {
      source.push(1 + noise * normalNumber(uniform));
      target.push(target[k] + rate * (source[k] - target[k]));
    }
    const probed = Math.round(probe * updates);
    const numbers = {
      halfLife: rate === 1 ? 0 : Math.log(0.5) / Math.log1p(-rate),
      probed,
      target: target[probed],
      clean: 1 - (1 - rate) ** probed,
      noiseLeft: noiseLeft(rate),
    };
    return {
      source, target, numbers,
      data: { source: source.slice(0, 50), targets: target.slice(0, 51) },
      description:
        `With a rate of ${rate} half of a change is taken over in ${numbers.halfLife.toFixed(0)} updates. ` +
        `After ${probed} updates the target is ${target[probed].toFixed(3)}.`,
    };
  },

  axes: ({ updates }) => ({
    x: { from: 0, to: updates, label: "update" },
    y: { from: -0.5, to: 2, label: "value" },
  }),

  draw(plot, { rate, updates }, { source, target, numbers }) {
    const thin = (values) => values.filter(([k]) => k % Math.ceil(updates / 500) === 0);
    plot.path("source", thin(source.map((value, k) => [k + 1, value])));
    plot.path("third", thin(target.map((_, k) => [k, 1 - (1 - rate) ** k])));
    plot.path("curve", thin(target.map((value, k) => [k, value])));
    plot.line("probe-line", numbers.probed, -0.5, numbers.probed, numbers.target);
    plot.dot("probe-point", numbers.probed, numbers.target);
  },
  pick: ({ updates }, update) => ({ probe: clamp(update / updates, 0, 1) }),
});
