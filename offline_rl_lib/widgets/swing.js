// The pendulum under a stored policy, beside Q over torque at the state of the moment. Dynamics,
// policies and critics run here, in 64 bits; the weights come from one stored file. Angle 0 is
// upright, positive angles turn anticlockwise, to the left.

const STEPS = 200;
const TIME_STEP = 0.05;
const [MAX_TORQUE, MAX_SPEED] = [2, 8];
const NEIGHBOURS = 20;
const torquesOf = (count) => Array.from({ length: count }, (_, k) => -2 + (4 * k) / (count - 1));
const TORQUES = torquesOf(41);

const wrap = (angle) => angle + Math.PI - 2 * Math.PI * Math.floor((angle + Math.PI) / (2 * Math.PI)) - Math.PI;

function pendulumStep({ angle, velocity }, wanted) {
  const torque = clamp(wanted, -MAX_TORQUE, MAX_TORQUE);
  const reward = -(wrap(angle) ** 2 + 0.1 * velocity ** 2 + 0.001 * torque ** 2);
  const faster = velocity + TIME_STEP * (15 * Math.sin(angle) + 3 * torque);
  const next = clamp(faster, -MAX_SPEED, MAX_SPEED);
  return { angle: angle + TIME_STEP * next, velocity: next, reward };
}

// ---- What the file holds ------------------------------------------------------------------------

function decoded({ shape, float32 }) {
  const bytes = Uint8Array.from(atob(float32), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const values = Float64Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
  return { shape, values };
}

// One linear layer of one network; of twins, the `twin`-th. A ReLU stands before all but the first.
function networkOf(layers, twin) {
  const parts = layers.map(({ weight, bias }) => {
    const [outputs, inputs] = [weight.shape.at(-1), weight.shape.at(-2)];
    return { inputs, outputs, weight: weight.values.subarray(twin * inputs * outputs, (twin + 1) * inputs * outputs),
      bias: bias.values.subarray(twin * outputs, (twin + 1) * outputs) };
  });
  return (start) => {
    let values = start;
    parts.forEach(({ inputs, outputs, weight, bias }, number) => {
      const next = bias.slice();
      for (let i = 0; i < inputs; i++) {
        const value = number ? Math.max(values[i], 0) : values[i];
        if (value !== 0) for (let j = 0; j < outputs; j++) next[j] += value * weight[i * outputs + j];
      }
      values = next;
    });
    return values;
  };
}

function trainedPolicy(record) {
  const arrays = (layers) => layers.map(({ weight, bias }) => ({ weight: decoded(weight), bias: decoded(bias) }));
  const policy = networkOf(arrays(record.policy), 0);
  const critics = record.critics.length ? [0, 1].map((twin) => networkOf(arrays(record.critics), twin)) : [];
  const [middle, half] = [(record.high + record.low) / 2, (record.high - record.low) / 2];
  const observed = ({ angle, velocity }) => [Math.cos(angle), Math.sin(angle), velocity];
  return {
    dataset: record.dataset, settings: record.settings,
    torque: (state) => middle + half * Math.tanh(policy(observed(state))[0]),
    q: critics.length && ((state, torque) => Math.min(...critics.map((critic) => critic([...observed(state), torque])[0]))),
  };
}

// As the library hands a torque to the environment: within its bounds, in 32 bits.
const asAction = (torque) => Math.fround(clamp(torque, -MAX_TORQUE, MAX_TORQUE));

// Energy is pumped until it is that of the upright rest position; near it a spring and a brake.
function controllerTorque({ angle, velocity }) {
  const near = Math.abs(wrap(angle)) < 1 && Math.abs(velocity) < 6;
  const energy = velocity ** 2 / 2 + 15 * Math.cos(angle);
  const pump = Math.abs(velocity) < 1e-3 ? MAX_TORQUE : 0.1 * (15 - energy) * velocity;
  return asAction(near ? -11 * wrap(angle) - 3 * velocity : pump);
}

// The optimum: values of a grid of states, bilinear in between; half of the circle is stored, and
// the mirror image of a state is worth the same.
function optimumOf({ grid, discount, half_state_value: stored }) {
  const { angles, velocities, torques } = grid;
  const half = decoded(stored).values;
  const at = (column, row) => column <= angles / 2
    ? half[column * velocities + row]
    : half[(angles - column) * velocities + (velocities - 1 - row)];
  const value = ({ angle, velocity }) => {
    const column = (angle + Math.PI) * (angles / (2 * Math.PI));
    const row = (velocity + MAX_SPEED) * ((velocities - 1) / (2 * MAX_SPEED));
    const [left, below] = [Math.floor(column), clamp(Math.floor(row), 0, velocities - 2)];
    const round = (n) => ((n % angles) + angles) % angles;
    const [across, up] = [column - left, row - below];
    const [here, there] = [round(left), round(left + 1)];
    return (1 - across) * (1 - up) * at(here, below) + (1 - across) * up * at(here, below + 1) +
      across * (1 - up) * at(there, below) + across * up * at(there, below + 1);
  };
  const q = (state, torque) => {
    const next = pendulumStep(state, torque);
    return next.reward + discount * value(next);
  };
  const choices = Array.from({ length: torques }, (_, k) => -MAX_TORQUE + (2 * MAX_TORQUE * k) / (torques - 1));
  const torque = (state) => {
    const values = choices.map((choice) => q(state, choice));
    return asAction(choices[values.indexOf(Math.max(...values))]);
  };
  return { q, torque };
}

const opened = new Map();

function fileOf(model) {
  const text = model.get("watched");
  if (!opened.has(text)) {
    const stored = JSON.parse(text);
    const optimum = optimumOf(stored.optimum);
    const policies = Object.fromEntries(
      Object.entries(stored.policies).map(([name, record]) => [name, trainedPolicy(record)]),
    );
    policies["hand-written controller"] = { torque: controllerTorque };
    policies.optimum = { torque: optimum.torque };
    const data = Object.fromEntries(Object.entries(stored.data).map(([name, { states, scale }]) => {
      const { values } = decoded(states);
      const rows = Array.from({ length: values.length / 3 }, (_, i) => values.subarray(3 * i, 3 * i + 3));
      return [name, { scale, rows }];
    }));
    const { settings } = policies["CQL, narrow data"];
    opened.set(text, { stored, optimum, policies, data, settings, reach: stored.reach });
  }
  return opened.get(text);
}

// ---- Playing ------------------------------------------------------------------------------------

function play(policy, start, steps) {
  const rows = [];
  let state = start;
  for (let k = 0; k < steps; k++) {
    const torque = policy.torque(state);
    const next = pendulumStep(state, torque);
    rows.push({ angle: state.angle, velocity: state.velocity, torque, reward: next.reward });
    state = next;
  }
  return rows;
}

// Discounted scaled reward of a torque and of the policy after it, weighted with the share of the
// critics that looks so far ahead.
function keptBy(policy, { settings, reach }, start, torque) {
  let [state, wanted, sum, weight] = [start, torque, 0, 1];
  for (const share of reach) {
    const next = pendulumStep(state, wanted);
    sum += weight * share * (next.reward + settings.reward_shift) * settings.reward_scale;
    weight *= settings.discount;
    state = next;
    wanted = policy.torque(state);
  }
  return sum;
}

// Torques of the data at the stored states nearest to a state, compared as observations.
function nearby({ rows, scale }, { angle, velocity }) {
  const here = [Math.cos(angle), Math.sin(angle), velocity].map((x, i) => x / scale[i]);
  const distances = rows.map(([theta, speed, torque]) => {
    const there = [Math.cos(theta), Math.sin(theta), speed];
    return [there.reduce((sum, x, i) => sum + (x / scale[i] - here[i]) ** 2, 0), torque];
  });
  return distances.sort((a, b) => a[0] - b[0]).slice(0, NEIGHBOURS).map(([, torque]) => torque);
}

const relative = (points) => {
  const top = Math.max(...points.map(([, q]) => q));
  return points.map(([torque, q]) => [torque, q - top]);
};
const lowest = (points) => Math.min(...points.map(([, q]) => q));
const CROSS = "M-7 0H7M0 -7V7";

let last = { key: "" }; // the episode that is being looked at
function episodeOf(name, policy, start) {
  const key = JSON.stringify([name, start]);
  if (last.key !== key) last = { key, rows: play(policy, start, STEPS + 1) };
  return last.rows;
}

const swing = liveFigure({
  name: "swing",
  label: "Q over torque at the state of the moment, while a stored policy swings the pendulum",
  sliders: [
    { name: "time", text: "Time step (20 a second)", min: 0, max: STEPS, step: 1, digits: 0 },
    { name: "angle", text: "Start: angle (rad)", min: -3.14, max: 3.14, step: 0.02 },
    { name: "velocity", text: "Start: velocity (rad/s)", min: -8, max: 8, step: 0.25 },
  ],
  curves: [
    ["curve", "promised by its critics"],
    ["second", "kept: what follows"],
    ["third", "optimum takes over"],
    ["chosen", "its torque", CROSS],
    ["data", "torques in nearby data", "M0 -6V6"],
  ],
  numbers: [
    ["total", "Return so far", 1],
    ["radians", "Angle from upright now, rad", 2],
    ["speed", "Velocity now, rad/s", 2],
    ["torque", "Torque of the policy now, N m", 2],
    ["cost", "Cost of this torque in return, if the optimum took over", 2],
    ["promised", "Value of this torque: promised by the critics", 2],
    ["kept", "Value of this torque: kept, as far as critics can see", 2],
  ],
  style: `
.swing .second { stroke: #d55e00; } /* the orange of the still figure */
.swing .chosen { stroke: var(--ink); stroke-width: 2.5; fill: none; }
.swing .data { stroke: var(--ink); stroke-width: 1.2; opacity: 0.7; }
.swing .scene { display: flex; flex-wrap: wrap; align-items: center; gap: 0.4rem; }
.swing .scene svg.picture { flex: 1 1 19rem; width: auto; min-width: 0; }
.swing svg.stage { flex: 1 1 13rem; max-width: 17rem; margin: 0 auto; height: ${HEIGHT}px; min-width: 0; touch-action: pan-y;
  cursor: grab; background: var(--ground); border-radius: 6px; }
.swing .stage text { font-size: 0.15px; }
.swing .rod { stroke: var(--curve); stroke-width: 0.09; stroke-linecap: round; }
.swing .bob { fill: var(--curve); } .swing .pivot { fill: var(--ink); }
.swing .trail { fill: none; stroke: var(--curve); stroke-width: 0.03; opacity: 0.55; }
.swing .upright { stroke: var(--faint); stroke-width: 0.015; stroke-dasharray: 0.05 0.05; }
.swing .turn { fill: none; stroke: var(--mark); stroke-width: 0.045; }
.swing .head { fill: var(--mark); }
.swing .buttons { display: flex; flex-wrap: wrap; gap: 0.5rem; align-items: center; margin: 0.5rem 0; }
.swing .buttons button, .swing .buttons select { font: inherit; color: var(--ink); background: var(--ground);
  border: 1px solid var(--faint); border-radius: 4px; padding: 0.2rem 0.8rem; min-height: 2rem; max-width: 100%; }
.swing .buttons button { min-width: 4.6rem; }
.swing .buttons :is(button, select):focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
.swing .buttons label { margin-right: -0.1rem; }
`,

  // Another start begins a new episode.
  adjust: (setting, name) => (name === "angle" || name === "velocity" ? { ...setting, time: 0 } : setting),

  measure({ time, angle, velocity }, model) {
    const name = model.get("policy");
    const file = fileOf(model);
    const policy = file.policies[name];
    const episode = episodeOf(name, policy, { angle, velocity });
    const state = episode[time];
    const curveOf = (q, torques = TORQUES) => torques.map((torque) => [torque, q(state, torque)]);
    const kept = curveOf((from, torque) => keptBy(policy, file, from, torque), torquesOf(21));
    const best = curveOf(file.optimum.q);
    const promised = policy.q ? curveOf(policy.q) : [];
    const total = episode.slice(0, time).reduce((sum, { reward }) => sum + reward, 0);
    const numbers = {
      total, radians: wrap(state.angle), speed: state.velocity, torque: state.torque,
      cost: file.optimum.q(state, file.optimum.torque(state)) - file.optimum.q(state, state.torque),
      promised: policy.q ? policy.q(state, state.torque) : NaN,
      kept: keptBy(policy, file, state, state.torque),
    };
    const near = policy.dataset ? nearby(file.data[policy.dataset], state) : [];
    const shape = [relative(promised), relative(kept),
      relative(best.map(([torque, q]) => [torque, q * file.settings.reward_scale]))];
    const deepest = -Math.min(...shape.filter((points) => points.length).map(lowest));
    return {
      numbers, near, state, shape, episode, name,
      deep: [0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 15, 25].find((depth) => depth >= deepest) ?? deepest,
      data: {
        episode: episode.map((row) => [row.angle, row.velocity, row.torque, row.reward]),
        promisedCurve: promised, keptCurve: kept, bestCurve: best, near,
      },
      note: policy.q
        ? "Each curve is drawn from its own highest value downwards; the numbers below hold the levels."
        : `Each curve is drawn from its own highest value downwards. No critics belong to: ${name}.`,
      description:
        `${name}, step ${time} of ${STEPS}: angle ${numbers.radians.toFixed(2)} radians, velocity ${numbers.speed.toFixed(2)}, ` +
        `torque ${numbers.torque.toFixed(2)}; return so far ${total.toFixed(0)}.`,
    };
  },

  axes: (setting, { deep }) => ({
    x: { from: -2, to: 2, label: "torque a (N m)", ticks: [-2, -1, 0, 1, 2] },
    y: { from: -1.2 * deep, to: 0.08 * deep, label: "Q minus its highest value (scaled)" },
  }),

  draw(plot, setting, view) {
    const [promised, kept, best] = view.shape;
    for (const torque of view.near) plot.mark("data", clamp(torque, -1.99, 1.99), -1.13 * view.deep, "M0 -6V6");
    plot.path("third", best);
    plot.path("second", kept);
    if (promised.length) plot.path("curve", promised);
    const carrier = promised.length ? promised : kept;
    const right = clamp(carrier.findIndex(([torque]) => torque >= view.state.torque), 1, carrier.length - 1);
    const [[t0, q0], [t1, q1]] = [carrier[right - 1], carrier[right]];
    const height = q0 + ((view.state.torque - t0) / (t1 - t0)) * (q1 - q0);
    plot.mark("chosen", clamp(view.state.torque, -1.97, 1.97), height, CROSS);
    const detail = { setting, view };
    plot.inside.closest(".swing").dispatchEvent(new CustomEvent("drawn", { detail }));
  },
});

// ---- The stage: the pendulum itself, and the buttons ----------------------------------------------

const bobAt = (angle) => [-Math.sin(angle), -Math.cos(angle)];

function paint(stage, { setting: { time }, view: { episode, state, numbers } }) {
  stage.replaceChildren();
  svg(stage, "line", { class: "upright", x1: 0, y1: 0, x2: 0, y2: -1.25 });
  const trail = episode.slice(Math.max(0, time - 12), time + 1).map(({ angle }) => bobAt(angle));
  svg(stage, "path", { class: "trail", d: `M${trail.map((point) => point.map((x) => x.toFixed(3)).join(" ")).join("L")}` });
  const [x, y] = bobAt(state.angle);
  svg(stage, "line", { class: "rod", x1: 0, y1: 0, x2: x, y2: y });
  svg(stage, "circle", { class: "bob", cx: x, cy: y, r: 0.12 });
  svg(stage, "circle", { class: "pivot", cx: 0, cy: 0, r: 0.05 });
  // An arrow round the pivot: which way the torque turns, and by its length how much.
  const turn = (numbers.torque / MAX_TORQUE) * 2.4;
  if (Math.abs(turn) > 0.02) {
    const [radius, side] = [0.42, Math.sign(turn)];
    const [from, to] = [bobAt(0), bobAt(turn)].map((point) => point.map((u) => u * radius));
    svg(stage, "path", { class: "turn", d: `M${from.join(" ")}A${radius} ${radius} 0 0 ${side > 0 ? 0 : 1} ${to.join(" ")}` });
    const corners = [[radius + 0.09, 0], [radius - 0.09, 0], [radius, 0.2]].map(([r, ahead]) => bobAt(turn + side * ahead).map((u) => u * r));
    svg(stage, "path", { class: "head", d: `M${corners.map((corner) => corner.join(" ")).join("L")}Z` });
  }
  svg(stage, "text", { x: -1.3, y: 1.33 }, `${(time * TIME_STEP).toFixed(2)} s`);
  svg(stage, "text", { x: 1.3, y: 1.33, "text-anchor": "end" }, minus(`return ${numbers.total.toFixed(0)}`));
}

function render({ model, el }) {
  const stop = swing.render({ model, el });
  const root = el.querySelector(".swing");
  const [picture, spoken] = [root.querySelector(".picture"), root.querySelector(".spoken")];
  const input = (name) => root.querySelector(`input[name=${name}]`);
  let shown;

  const buttons = html(root, "div", { class: "buttons" });
  const scene = html(root, "div", { class: "scene" });
  picture.before(buttons, scene);
  const stage = svg(scene, "svg", { class: "stage", viewBox: "-1.4 -1.4 2.8 2.8", "aria-hidden": "true" });
  scene.append(picture);

  const chooser = `${root.querySelector("label").htmlFor}-policy`;
  html(buttons, "label", { for: chooser }, "Policy");
  const select = html(buttons, "select", { id: chooser, name: "policy" });
  for (const name of Object.keys(fileOf(model).policies)) html(select, "option", { value: name }, name);
  const button = (text, action) => {
    const made = html(buttons, "button", { type: "button" }, text);
    made.addEventListener("click", action);
    return made;
  };

  const move = (name, value) => {
    input(name).value = value;
    input(name).dispatchEvent(new Event("input", { bubbles: true }));
  };
  const say = () => { spoken.textContent = shown.view.description; };
  let timer = null;
  const pause = () => {
    clearInterval(timer);
    timer = null;
    toggle.textContent = "Play";
    root.dataset.playing = "false";
  };
  const start = () => {
    if (timer !== null) return;
    if (model.get("time") >= STEPS) move("time", 0);
    timer = setInterval(() => {
      if (model.get("time") < STEPS) return move("time", model.get("time") + 1);
      pause();
      say();
    }, 1000 * TIME_STEP);
    toggle.textContent = "Pause";
    root.dataset.playing = "true";
  };
  const stepTo = (time) => {
    pause();
    move("time", clamp(time, 0, STEPS));
    say();
  };
  const toggle = button("Play", () => {
    if (timer === null) return start();
    pause();
    say();
  });
  button("Step", () => stepTo(model.get("time") + 1));
  button("Back", () => stepTo(model.get("time") - 1));
  button("Reset", () => stepTo(0));

  // A new policy is shown at once, unless the reader asked the system for less motion.
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  select.addEventListener("change", () => {
    model.set("policy", select.value);
    stepTo(0);
    if (!still.matches) start();
  });
  const renamed = () => {
    select.value = model.get("policy");
    move("time", model.get("time"));
  };
  model.on("change:policy", renamed);

  root.addEventListener("drawn", ({ detail }) => {
    shown = detail;
    paint(stage, detail);
    for (const cell of root.querySelectorAll("dd")) {
      if (cell.textContent === "NaN") cell.textContent = "no critics";
    }
  });

  // The pendulum can be taken to its start by hand.
  const drag = (event) => {
    const box = stage.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
    pause();
    move("angle", clamp(Math.atan2(-x, -y), -3.14, 3.14));
  };
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    drag(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) drag(event);
  });
  pause();
  renamed();
  return () => {
    clearInterval(timer);
    model.off("change:policy", renamed);
    stop();
  };
}

export default { render };
