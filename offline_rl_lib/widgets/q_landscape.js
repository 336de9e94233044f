// Q over torque in one state, before and after the penalty: what the critics promise, what the
// agent's own policy is really worth, and the optimum. Everything was stored by a long run.

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
    ["promised", "Promised for the agent's torque", 2],
    ["truth", "True value of that torque and then the agent's policy", 2],
    ["distance", "Distance from its torque to the nearest in the data, N m", 2],
  ],
  style: `
.q-landscape .chosen { stroke: var(--ink); stroke-width: 2.5; fill: none; }
.q-landscape .data { stroke: var(--ink); stroke-width: 1.2; opacity: 0.7; }
`,

  measure({ penalty, angle, velocity }, model) {
    const stored = model.get("landscapes");
    const agents = AGENTS.map((name) => stored[name]);
    const at = (values) => values[angle][velocity];
    const agent = agents[penalty];
    const line = (values) => stored.torque.map((torque, k) => [torque, values[k]]);
    const [promised, truth, optimum] = [agent.predicted, agent.true, stored.optimum].map((q) => line(at(q)));
    const chosen = at(agent.torque);
    // Between the stored torques Q is drawn, and read, as straight lines.
    const read = (points) => {
      const k = clamp(points.findIndex(([torque]) => torque >= chosen), 1, points.length - 1);
      const [[t0, q0], [t1, q1]] = [points[k - 1], points[k]];
      return q0 + ((chosen - t0) / (t1 - t0)) * (q1 - q0);
    };
    const nearby = at(stored.data);
    const numbers = {
      radians: stored.angle[angle], speed: stored.velocity[velocity],
      promised: read(promised), truth: read(truth),
      distance: Math.min(...nearby.map((torque) => Math.abs(torque - chosen))),
    };
    const shown = [...agents.flatMap((one) => [...at(one.predicted), ...at(one.true)]), ...at(stored.optimum)];
    return {
      promised, truth, optimum, chosen, nearby, numbers,
      range: [Math.min(...shown), Math.max(...shown)],
      data: { promised },
      description:
        `At ${numbers.radians.toFixed(2)} radians and ${numbers.speed} radians per second, ${AGENTS[penalty]}: the agent's ` +
        `torque is ${chosen.toFixed(2)}; its critics promise ${numbers.promised.toFixed(1)}, true is ${numbers.truth.toFixed(1)}.`,
    };
  },

  axes: (setting, { range: [lowest, highest] }) => {
    const margin = 0.12 * (highest - lowest);
    return {
      x: { from: -2, to: 2, label: "torque a (N m)" },
      y: { from: lowest - margin, to: highest + margin, label: "Q (scaled return)" },
    };
  },

  draw(plot, setting, { promised, truth, optimum, chosen, nearby, numbers, range: [lowest, highest] }) {
    const foot = lowest - 0.07 * (highest - lowest);
    for (const torque of nearby) plot.mark("data", clamp(torque, -1.99, 1.99), foot, "M0 -6V6");
    plot.path("third", optimum);
    plot.path("second", truth);
    plot.path("curve", promised);
    plot.mark("chosen", clamp(chosen, -1.97, 1.97), numbers.promised, CROSS);
  },
});
