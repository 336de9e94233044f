// The weight of the penalty over the stored runs of the map: on the left the score of the policy,
// on the right what its critics promise and what it earns. A mark is an interquartile mean over the
// seeds, its line a 95 % interval. All weights stand side by side; the slider says which are read.

const BEHAVIOUR = "third";
const LEFT = { score: ["score", "M-5 -5H5V5H-5Z"] };
const RIGHT = { promised: ["promised", "M0 6L-6 -5H6Z"], earned: ["earned", "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0 -5 0Z"] };
const GAP = 1; // between the halves, in places of the weight's axis
const APART = 0.16; // promise and truth stand beside each other

const storedOf = (model) => JSON.parse(model.get("sweep"));
const textOf = (value) => minus(String(+value.toPrecision(3)));

const sweep = liveFigure({
  name: "weight-sweep",
  label: "score, promise and truth under the weight of the penalty",
  sliders: [{ name: "weight", text: "Weight of the penalty", values: [0, 0.25, 1, 5, 20] }],
  curves: [
    ["score", "score", LEFT.score[1]],
    [BEHAVIOUR, "score of the behaviour"],
    ["promised", "promised by the critics", RIGHT.promised[1]],
    ["earned", "earned by the policy", RIGHT.earned[1]],
  ],
  numbers: [
    ["score", "Score at this weight (random 0, optimum 100)", 1],
    ["scoreLow", "Its 95 % interval, from", 1],
    ["scoreHigh", "to", 1],
    ["behaviour", "Score of the behaviour", 1],
    ["promised", "Promised at the starts, scaled reward", 1],
    ["promisedLow", "Its 95 % interval, from", 1],
    ["promisedHigh", "to", 1],
    ["earned", "Earned from the same starts, scaled reward", 1],
    ["earnedLow", "Its 95 % interval, from", 1],
    ["earnedHigh", "to", 1],
  ],
  style: `
.weight-sweep .score { fill: var(--curve); stroke: var(--curve); stroke-width: 2; }
.weight-sweep .promised { fill: var(--mark); stroke: var(--mark); stroke-width: 2; }
.weight-sweep .earned { fill: var(--ground); stroke: var(--ink); stroke-width: 2; }
.weight-sweep .here { fill: var(--faint); opacity: 0.18; }
.weight-sweep .choice { display: flex; flex-wrap: wrap; gap: 0.5rem; align-items: center; margin: 0.5rem 0; }
.weight-sweep select { font: inherit; color: var(--ink); background: var(--ground); border: 1px solid var(--faint);
  border-radius: 4px; padding: 0.2rem 0.8rem; min-height: 2rem; max-width: 100%; }
.weight-sweep select:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
`,

  measure({ weight }, model) {
    const { weights, datasets } = storedOf(model);
    const name = model.get("dataset");
    const rows = datasets[name];
    const place = weights.indexOf(weight);
    const numbers = { behaviour: rows.behaviour };
    for (const key of ["score", "promised", "earned"]) {
      [numbers[key], numbers[`${key}Low`], numbers[`${key}High`]] = rows[key][place];
    }
    const between = (key) => `from ${numbers[`${key}Low`].toFixed(1)} to ${numbers[`${key}High`].toFixed(1)}`;
    return {
      weights, rows, place, numbers,
      data: { rows },
      note: `Data: ${name}. Left: score. Right: value at the starts, in scaled reward, on a scale of its own.`,
      description:
        `On the ${name} data with the weight ${weight} the score is ${numbers.score.toFixed(1)}, interval ${between("score")}; ` +
        `the behaviour has ${rows.behaviour.toFixed(1)}. The critics promise ${numbers.promised.toFixed(1)}, ${between("promised")}; ` +
        `the policy earns ${numbers.earned.toFixed(1)}, ${between("earned")}.`,
    };
  },

  axes: (setting, { weights, rows }) => {
    const [from, to] = rangeOf([...rows.score.flat(), rows.behaviour, 0, 100]);
    return {
      x: { from: -0.5, to: 2 * weights.length + GAP - 0.5, label: "weight of the penalty", ticks: [] },
      y: { from, to, label: "score (left), value (right)" },
    };
  },

  draw(plot, setting, { weights, rows, place }) {
    const start = weights.length + GAP;
    const values = rangeOf([...rows.promised.flat(), ...rows.earned.flat(), 0]);
    const scores = rangeOf([...rows.score.flat(), rows.behaviour, 0, 100]);
    // The right half has an axis of its own, drawn on the scale of the left one.
    const across = (v) => scores[0] + ((v - values[0]) / (values[1] - values[0])) * (scores[1] - scores[0]);
    const picture = plot.inside.parentNode;
    const foot = { y: plot.bottom + 19, "text-anchor": "middle" };
    for (const first of [0, start]) {
      plot.rect("here", first + place - 0.5, first + place + 0.5);
      weights.forEach((weight, k) => svg(picture, "text", { x: plot.x(first + k), ...foot }, textOf(weight)));
    }
    const edge = plot.x(start - 0.5);
    svg(picture, "path", { class: "axis", d: `M${edge} ${plot.top}V${plot.bottom}` });
    for (const tick of niceTicks(...values, 4)) {
      const y = plot.y(across(tick));
      svg(picture, "line", { class: "tick", x1: edge - 5, x2: edge, y1: y, y2: y });
      svg(picture, "text", { x: edge - 8, y: y + 4, "text-anchor": "end" }, textOf(tick));
    }
    plot.line(BEHAVIOUR, -0.5, rows.behaviour, weights.length - 0.5, rows.behaviour);
    const show = (x, [middle, low, high], [kind, shape], y) => {
      plot.line(kind, x, y(low), x, y(high));
      plot.mark(kind, x, y(middle), shape);
    };
    weights.forEach((_, k) => {
      show(k, rows.score[k], LEFT.score, (v) => v);
      show(start + k - APART, rows.promised[k], RIGHT.promised, across);
      show(start + k + APART, rows.earned[k], RIGHT.earned, across);
    });
  },
});

function rangeOf(values) {
  const [from, to] = [Math.min(...values), Math.max(...values)];
  const margin = 0.06 * (to - from);
  return [from - margin, to + margin];
}

function render({ model, el }) {
  const stop = sweep.render({ model, el });
  const root = el.querySelector(".weight-sweep");
  const slider = root.querySelector("input[name=weight]");
  const choice = html(root, "div", { class: "choice" });
  root.querySelector(".picture").before(choice);
  const chooser = `${slider.id}-dataset`;
  html(choice, "label", { for: chooser }, "Dataset");
  const select = html(choice, "select", { id: chooser, name: "dataset" });
  for (const name of Object.keys(storedOf(model).datasets)) html(select, "option", { value: name }, name);
  // The frame draws when the slider speaks; the same weight again shows the other dataset.
  const speak = (event) => slider.dispatchEvent(new Event(event, { bubbles: true }));
  const show = () => {
    select.value = model.get("dataset");
    speak("input");
  };
  select.addEventListener("change", () => {
    model.set("dataset", select.value);
    show();
    speak("change"); // and says it to those who do not see the picture
  });
  model.on("change:dataset", show);
  show();
  return () => {
    model.off("change:dataset", show);
    stop();
  };
}

export default { render };
