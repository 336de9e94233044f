// Q over torque in one state, before and after the penalty: what the critics promise, what the
// agent's own policy is really worth, and the optimum. Everything was stored by a long run.
// Levels differ by tens and torques by tenths, so each curve is drawn relative to its own value at
// the mean torque of the nearby data.

const AGENTS = ["penalty off", "CQL"];
const CROSS = "M-7 0H7M0 -7V7";

export default liveFigure({
  name: "q-landscape",
  label: "Q over torque, before and after the penalty",
  sliders: [
    { name: "penalty", text: "Penalty (0: off, 1: on)", values: [0, 1], digits: 0 },
    { name: "angle", text: "Angle from upright (rad), place on the grid", min: 0, max: 24, step: 1, digits: 0 },
    { name: "velocity", text: "Velocity (rad/s), place on the grid", min: 0, max: 4, step: 1, digits: 0 },
  ],
  curves: [
    ["curve", "promised by the critics"],
    ["second", "true, for this agent's policy"],
    ["third", "true, for the optimum"],
    ["chosen", "the agent's torque", CROSS],
    ["data", "torques in nearby data", "M0 -6V6"],
  ],
  numbers: [
    ["radians", "Angle from upright, rad", 2],
    ["speed", "Velocity, rad/s", 1],
    ["promised", "Promised gain of the agent's torque over the data's", 2],
    ["truth", "True gain, if the agent goes on", 2],
    ["level", "Promised value of the agent's torque, with its level", 1],
    ["trueLevel", "True value, with its level", 1],
    ["distance", "Distance from its torque to the nearest in the data, N m", 2],
  ],
  style: `
.q-landscape .chosen { stroke: var(--ink); stroke-width: 2.5; fill: none; }
.q-landscape .zero { stroke: var(--faint); stroke-width: 0.7; }
.q-landscape .data { stroke: var(--ink); stroke-width: 1.2; opacity: 0.7; }
`,

  measure({ penalty, angle, velocity }, model) {
    const stored = JSON.parse(model.get("landscapes"));
    const agent = stored[AGENTS[penalty]];
    const at = (values) => values[angle][velocity];
    // Between the stored torques Q is drawn, and read, as straight lines.
    const read = (values, torque) => {
      const k = clamp(stored.torque.findIndex((t) => t >= torque), 1, stored.torque.length - 1);
      const [t0, t1] = [stored.torque[k - 1], stored.torque[k]];
      return values[k - 1] + ((torque - t0) / (t1 - t0)) * (values[k] - values[k - 1]);
    };
    const nearby = at(stored.data);
    const known = nearby.reduce((sum, torque) => sum + torque, 0) / nearby.length;
    const gains = (q) => at(q).map((value) => value - read(at(q), known));
    const line = (q) => stored.torque.map((torque, k) => [torque, gains(q)[k]]);
    const [promised, truth, optimum] = [agent.predicted, agent.true, stored.optimum].map(line);
    const chosen = at(agent.torque);
    const level = read(at(agent.predicted), chosen);
    const trueLevel = read(at(agent.true), chosen);
    const numbers = {
      radians: stored.angle[angle], speed: stored.velocity[velocity],
      promised: level - read(at(agent.predicted), known),
      truth: trueLevel - read(at(agent.true), known),
      level, trueLevel,
      distance: Math.min(...nearby.map((torque) => Math.abs(torque - chosen))),
    };
    const shown = [agent.predicted, agent.true, stored.optimum].flatMap(gains);
    return {
      promised, truth, optimum, chosen, nearby, numbers,
      range: [Math.min(...shown), Math.max(...shown)],
      data: { promisedCurve: promised },
      description:
        `At ${numbers.radians.toFixed(2)} radians and ${numbers.speed} radians per second, ${AGENTS[penalty]}: the agent's ` +
        `torque is ${chosen.toFixed(2)}; over the data's its critics promise a gain of ${numbers.promised.toFixed(2)}, true is ${numbers.truth.toFixed(2)}.`,
    };
  },

  axes: (setting, { range: [lowest, highest] }) => {
    const margin = 0.12 * (highest - lowest);
    return {
      x: { from: -2, to: 2, label: "torque a (N m)" },
      y: { from: lowest - margin, to: highest + margin, label: "Q minus Q of the data's torque" },
    };
  },

  draw(plot, setting, { promised, truth, optimum, chosen, nearby, numbers, range: [lowest, highest] }) {
    const foot = lowest - 0.07 * (highest - lowest);
    for (const torque of nearby) plot.mark("data", clamp(torque, -1.99, 1.99), foot, "M0 -6V6");
    plot.line("zero", -2, 0, 2, 0);
    plot.path("third", optimum);
    plot.path("second", truth);
    plot.path("curve", promised);
    plot.mark("chosen", clamp(chosen, -1.97, 1.97), numbers.promised, CROSS);
  },
});
