"""Proofs of the chapter on making an update fast, and tests of its exercise checkers.

Derivatives are judged by finite differences and by automatic differentiation, counts by PyTorch's
own counter, and statements on times by the stored benchmark. No time is measured here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from gymnasium.spaces import Box
from scipy import special
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contestants import Work, floor
from book.extensions.stored_values import find_source, look_up
from offline_rl_lib import CQL, FastCQL, cql_penalty, fast_cql
from offline_rl_lib.data import TransitionBatch, load_dataset
from offline_rl_lib.experiments import PENDULUM_CQL, RESULTS
from offline_rl_lib.networks import TwinCritic
from offline_rl_lib.teaching import check

Deviation = Callable[..., None]

STEM = "19_making_it_fast"
BENCHMARK = json.loads((RESULTS / "benchmark.json").read_text(encoding="utf-8"))
CONTESTANTS = BENCHMARK["update"]["measured"]["contestants"]
GROWTH = BENCHMARK["growth"]["measured"]
POLICY = BENCHMARK["policy"]["measured"]
SETTINGS = replace(PENDULUM_CQL, penalty_weight=5.0, seed=0)


# ----------------------------------------------------------------------------- counting


def multiply_adds(rows: int, inputs: int, width: int) -> int:
    return 2 * rows * (2 * inputs * width + 3 * width**2 + 3 * width)


@pytest.mark.proves("eq-speed-products", method="PyTorch's counter of operations")
@pytest.mark.parametrize("sizes", [(64, 5, 128, 3, 1), (16, 1, 32, 3, 2), (8, 10, 20, 17, 6)])
def test_the_products_are_counted(sizes: tuple[int, ...], deviation: Deviation) -> None:
    batch, proposals, width, observation, action = sizes
    work = Work(observation, action, batch, proposals, width)
    products = floor(work)
    with FlopCounterMode(display=False) as counter:
        products()
    counted = counter.get_total_flops() / 2
    inputs = observation + action
    formula = multiply_adds(work.rows, inputs, width)
    deviation(abs(formula / counted - 1), 1e-12)
    with_data = formula + 2 * work.rows * inputs * width  # the derivative of the data as well
    assert abs(with_data / counted - 1) > 1e-3


def test_the_chapter_prints_what_the_formula_gives() -> None:
    said = look_up(find_source(ROOT, STEM), "speed-multiply-adds")
    assert said == f"{multiply_adds(1024, 4, 128) / 1e6:.0f}"


class Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return operation(*args, **(kwargs or {}))


def agents_and_batches(updates: int) -> tuple[CQL, FastCQL, list[TransitionBatch]]:
    data = load_dataset("pendulum/narrow-v0")
    source = torch.Generator().manual_seed(0)
    batches = [data.sample(64, source) for _ in range(updates)]
    return CQL.from_dataset(data, SETTINGS), FastCQL.from_dataset(data, SETTINGS), batches


@pytest.mark.proves("claim-speed-calls", method="counting dispatched operations")
def test_the_fast_update_makes_less_than_half_the_calls(deviation: Deviation) -> None:
    plain, fast, batches = agents_and_batches(2)
    counts = []
    for agent in (plain, fast):
        agent.update(batches[0])
        with Calls() as calls:
            agent.update(batches[1])
        counts.append(calls.count)
    deviation(counts[1] / counts[0], 0.5)
    stored = find_source(ROOT, STEM)
    said = [int(look_up(stored, key)) for key in ("speed-calls", "speed-fast-calls")]
    assert said == counts


# ----------------------------------------------------------------------------- derivatives


def loss_of_q(
    q: np.ndarray, log_density: np.ndarray, target: np.ndarray, weight: float, temperature: float
) -> float:
    """One critic's loss, in NumPy."""
    error = np.mean((q[:, 0] - target) ** 2)
    soft = special.logsumexp(q[:, 1:] / temperature - log_density, axis=1)
    soft -= np.log(log_density.shape[1])
    return float(error + weight * np.mean(temperature * soft - q[:, 0]))


def q_gradient(
    q: np.ndarray,
    log_density: np.ndarray,
    target: np.ndarray,
    weight: float,
    temperature: float,
    slip: str = "",
) -> np.ndarray:
    size, count = log_density.shape
    exponents = q[:, 1:] / temperature - (0 if slip == "density" else log_density)
    softmax = special.softmax(exponents, axis=1) * weight / size
    if slip == "divided by N":
        softmax /= count
    if slip == "1/T":
        softmax /= temperature
    data_term = 0 if slip == "data term" else weight
    at_data = (2 * (q[:, 0] - target) - data_term) / size
    return np.column_stack([at_data, softmax])


def central_differences(f: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    found = np.empty_like(at)
    for place in np.ndindex(at.shape):
        ends = []
        for sign in (1, -1):
            moved = at.copy()
            moved[place] += sign * 1e-5
            ends.append(f(moved))
        found[place] = (ends[0] - ends[1]) / 2e-5
    return found


@pytest.mark.proves("eq-speed-q-gradient", method="finite differences of the loss in NumPy")
@pytest.mark.parametrize("weight", [0.25, 5.0])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("sizes", [(1, 4), (6, 16)])
def test_the_derivative_at_q(
    sizes: tuple[int, int], temperature: float, weight: float, deviation: Deviation
) -> None:
    size, count = sizes
    random = np.random.default_rng(size)
    q, target = 2 * random.normal(size=sizes), random.normal(size=size)
    rest = (random.normal(size=(size, count - 1)), target, weight, temperature)
    judge = central_differences(lambda moved: loss_of_q(moved, *rest), q)
    deviation(np.abs(q_gradient(q, *rest) - judge).max(), 1e-8)
    for slip in ("data term", "divided by N", "density", *(["1/T"] if temperature != 1 else [])):
        assert np.abs(q_gradient(q, *rest, slip=slip) - judge).max() > 1e-4, slip
    # And it is the derivative of what the library calls its penalty.
    leaf = torch.tensor(q, requires_grad=True)
    density, goal = torch.tensor(rest[0]), torch.tensor(target)
    loss = (leaf[:, 0] - goal).square().mean()
    loss = loss + weight * cql_penalty(leaf[:, 1:], density, leaf[:, 0], temperature)
    (exact,) = torch.autograd.grad(loss, leaf)
    assert np.abs(q_gradient(q, *rest) - exact.numpy()).max() < 1e-12


def random_layer(leaving: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(leaving)
    shapes = ((2, 7, 3), (2, 3, leaving), (2, 1, leaving), (2, 7, leaving))
    inputs, weight, bias, gradient = (
        torch.randn(shape, generator=drawn, dtype=torch.float64) for shape in shapes
    )
    return inputs, weight, bias, gradient


@pytest.mark.proves("eq-speed-layer", method="finite differences through the layer in NumPy")
@pytest.mark.parametrize("leaving", [1, 4])
def test_the_way_back_through_a_layer(leaving: int, deviation: Deviation) -> None:
    inputs, weight, bias, gradient = random_layer(leaving)
    for parameter in (weight, bias):
        parameter.grad = torch.zeros_like(parameter)
    x, w, c, g = (tensor.numpy().copy() for tensor in (inputs, weight, bias, gradient))

    def loss(x: np.ndarray, w: np.ndarray, c: np.ndarray) -> float:
        return float((g * (np.maximum(x, 0) @ w + c)).sum())

    judges = [
        central_differences(lambda moved: loss(moved, w, c), x),
        central_differences(lambda moved: loss(x, moved, c), w),
        central_differences(lambda moved: loss(x, w, moved), c),
    ]
    rectified, above = np.maximum(x, 0), g
    by_x = (above @ w.swapaxes(1, 2)) * (x > 0)
    formula = [by_x, rectified.swapaxes(1, 2) @ above, above.sum(1, keepdims=True)]
    layer = fast_cql.CriticLayer(weight, bias, inputs)  # rectifies its inputs in place
    layer.forward()
    layer.output_gradient.copy_(gradient)
    layer.store()
    below = torch.empty_like(inputs)
    layer.back(below)
    assert weight.grad is not None
    assert bias.grad is not None
    library = [below, weight.grad, bias.grad]
    for judge, own, theirs in zip(judges, formula, library, strict=True):
        deviation(np.abs(own - judge).max(), 1e-8)
        deviation(np.abs(theirs.numpy() - judge).max(), 1e-8)
    assert np.abs(above @ w.swapaxes(1, 2) - judges[0]).max() > 0.1  # the bracket forgotten
    assert np.abs(x.swapaxes(1, 2) @ above - judges[1]).max() > 0.1  # not rectified
    assert np.abs(above.mean(1, keepdims=True) - judges[2]).max() > 0.1  # a mean, no sum


@pytest.mark.proves("eq-speed-shared", method="automatic differentiation of repeated states")
def test_a_shared_part_collects_the_derivatives_of_its_rows(deviation: Deviation) -> None:
    drawn = torch.Generator().manual_seed(3)
    options: dict[str, Any] = {"generator": drawn, "dtype": torch.float64}
    states, actions = torch.randn(5, 3, **options), torch.randn(5, 4, 2, **options)
    gradient = torch.randn(2, 5, 4, **options)
    critic = TwinCritic(3, 2, (6, 7)).double()
    # The judge sees every state once for each of its actions, and differentiates by each copy.
    repeated = states.repeat_interleave(4, dim=0)
    observation_part = critic.from_observation(repeated).detach().requires_grad_()
    features = observation_part + actions.flatten(0, 1) @ critic.from_action
    for layer in critic.layers:
        features = layer(features.relu())
    (by_row,) = torch.autograd.grad(features, observation_part, gradient.view(2, 20, 1))
    by_row = by_row.view(2, 5, 4, -1)
    for parameter in critic.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with torch.no_grad():
        own = fast_cql.CriticPass(critic, states, actions.flatten(0, 1))
        own.forward()
        own.q_gradient.copy_(gradient)
        own.parameter_gradients()
    deviation(float((own.at_states - by_row.sum(2)).abs().max()), 1e-12)
    assert float((own.at_states - by_row[:, :, 0]).abs().max()) > 1e-3


# ----------------------------------------------------------------------------- Amdahl's law


@pytest.mark.proves("eq-speed-amdahl", method="adding up the parts of made-up programs, exactly")
def test_amdahls_law(deviation: Deviation) -> None:
    random = np.random.default_rng(0)
    apart = 0.0
    for _ in range(200):
        parts = [Fraction(int(t), 1000) for t in random.integers(1, 500, size=6)]
        factor, total = Fraction(int(random.integers(2, 50))), sum(parts)
        after = sum(parts[1:]) + parts[0] / factor
        share = parts[0] / total
        law = 1 / ((1 - share) + share / factor)
        apart = max(apart, abs(float(law - total / after)))
        assert law < 1 / (1 - share)
        assert 1 + share * (factor - 1) > law  # shares of the gains do not add up like this
    deviation(apart, 0.0)


# ----------------------------------------------------------------------------- the whole


def different(one: CQL, other: CQL) -> int:
    """How many tensors of two checkpoints differ in at least a bit."""

    def tensors(agent: CQL) -> list[Tensor]:
        state = agent._state()
        found = [state["generator"]]
        for module in state["modules"].values():
            found += module.values()
        for optimiser in state["optimisers"].values():
            for moments in optimiser["state"].values():
                found += moments.values()
        return found

    pairs = list(zip(tensors(one), tensors(other), strict=True))
    assert len(pairs) > 40
    return sum(not torch.equal(*pair) for pair in pairs)


@pytest.mark.proves("claim-speed-same-bits", method="50 updates, all tensors compared bit by bit")
def test_fifty_updates_agree_to_the_last_bit(
    deviation: Deviation, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fast, batches = agents_and_batches(50)
    for batch in batches:
        assert plain.update(batch) == fast.update(batch)
    deviation(different(plain, fast), 0)
    monkeypatch.setattr(fast_cql, "relu_backward", lambda *_, grad_input: grad_input)
    plain.update(batches[0]), fast.update(batches[0])
    assert different(plain, fast) > 0


@pytest.mark.proves("claim-speed-same-bits", method="the same comparison on other sizes")
@pytest.mark.parametrize("sizes", [(16, 2, 3), (32, 3, 11), (48, 2, 6), (96, 1, 3), (128, 5, 17)])
@pytest.mark.parametrize(
    "changes",
    [
        {"critic_hidden_sizes": (17, 100), "policy_hidden_sizes": (30,)},
        {"critic_hidden_sizes": (200, 8, 64), "penalty_temperature": 3.0, "num_proposals": 2},
        {"penalty_weight": 0.0, "policy_hidden_sizes": (48, 16)},
        {"penalty_weight": 0.3, "penalty_temperature": 0.2, "num_proposals": 10, "seed": 7},
    ],
)
def test_other_sizes_agree_to_the_last_bit(
    sizes: tuple[int, int, int], changes: dict[str, Any], deviation: Deviation
) -> None:
    batch_size, actions, observations = sizes
    assert batch_size * actions % 32 == 0
    spaces = Box(-np.inf, np.inf, (observations,)), Box(-2, 2, (actions,))
    settings = replace(SETTINGS, **changes)
    plain, fast = CQL(*spaces, settings), FastCQL(*spaces, settings)
    drawn = torch.Generator().manual_seed(batch_size)
    for _ in range(6):
        batch = TransitionBatch(
            observation=torch.randn(batch_size, observations, generator=drawn),
            action=4 * torch.rand(batch_size, actions, generator=drawn) - 2,
            reward=-16 * torch.rand(batch_size, generator=drawn),
            next_observation=torch.randn(batch_size, observations, generator=drawn),
            terminated=torch.rand(batch_size, generator=drawn) < 0.2,
        )
        assert plain.update(batch) == fast.update(batch)
    deviation(different(plain, fast), 0)


# ----------------------------------------------------------------------------- stored times


@pytest.mark.proves("claim-speed-benchmark", method="every round of the stored benchmark")
@pytest.mark.parametrize(("name", "times"), [("CQL", 1.5), ("post's layout", 2.0), ("d3rlpy", 2.0)])
def test_fast_cql_is_ahead_in_every_round(name: str, times: float, deviation: Deviation) -> None:
    found = CONTESTANTS[name]["times"]
    deviation(1 / found["low"], 1)
    deviation(times / found["median"], 1)


@pytest.mark.proves("claim-speed-left", method="the stored benchmark's medians")
def test_the_products_are_a_large_part_of_what_is_left(deviation: Deviation) -> None:
    share = CONTESTANTS["matrix products"]["times"]["median"]
    deviation(abs(share - 0.5), 0.25)
    said = look_up(find_source(ROOT, STEM), "speed-bound")
    assert said == f"{1 / share:.1f}", "store the chapter again: the benchmark is newer"


def median(size: str, value: int, name: str) -> float:
    found: float = GROWTH[size][str(value)][name]["median"]
    return found


@pytest.mark.proves("claim-speed-seeds", method="the stored growth with the number of seeds")
def test_seeds_in_one_batch_are_cheaper_and_not_as_cheap_as_fast_cql(deviation: Deviation) -> None:
    ten = median("seeds", 10, "CQL")
    deviation(ten / median("seeds", 1, "CQL"), 1)
    deviation(median("width", 128, "FastCQL") / ten, 1)


@pytest.mark.proves("claim-speed-growth", method="the stored growth with every size")
def test_larger_networks_leave_less_to_save(deviation: Deviation) -> None:
    assert multiply_adds(1024, 4, 256) / multiply_adds(1024, 4, 32) > 50
    for name in ("CQL", "FastCQL"):
        deviation(median("width", 256, name) / median("width", 32, name), 10)
    for size, values in GROWTH.items():
        if size != "seeds":
            for value in values:
                deviation(median(size, value, "FastCQL") / median(size, value, "CQL"), 1)
    lead = [median("width", w, "CQL") / median("width", w, "FastCQL") for w in (32, 256)]
    deviation(lead[1] / lead[0], 1)
    for values in GROWTH.values():  # the chapter's figure joins them by size
        assert all(int(small) < int(large) for small, large in pairwise(sorted(values, key=int)))


# ----------------------------------------------------------------------------- the policy


@pytest.mark.proves("claim-speed-policy", method="the stored looks of ten seeds, one by one")
def test_half_a_minute_is_enough_for_most_of_the_way(deviation: Deviation) -> None:
    assert sorted(run["seed"] for run in POLICY) == list(range(10))
    late = 0
    for run in POLICY:
        looks = zip(run["mean_return"], run["wall_s"], strict=True)
        late += not any(value >= -175 and time <= 30 for value, time in looks)
        deviation(150 / -max(run["mean_return"]), 1)  # none comes to -150
    deviation(late, 1)


@pytest.mark.proves("claim-speed-few-starts", method="the stored last episodes, sorted by loss")
def test_a_few_starts_cost_the_most(deviation: Deviation) -> None:
    stored = json.loads((RESULTS / "reference_returns.json").read_text(encoding="utf-8"))
    optimum = stored["policies"]["optimum"]["returns"]
    pairs = [zip(optimum, run["last_returns"], strict=True) for run in POLICY]
    lost = sorted((best - own for pair in pairs for best, own in pair), reverse=True)
    assert len(lost) == 1000
    deviation(0.5 * sum(lost) / sum(lost[:199]), 1)


# ----------------------------------------------------------------------------- the exercises


def verdict(capsys: pytest.CaptureFixture[str], exercise: str, answer: Any) -> str:
    check(exercise, answer)
    return capsys.readouterr().out


def penalty(q: Tensor, density: Tensor, temperature: float, slip: str = "") -> Tensor:
    exponents = q / temperature - density
    if slip == "no density":
        exponents = q / temperature
    if slip == "plus density":
        exponents = q / temperature + density
    if slip == "no temperature":
        exponents = q - density
    if slip == "all by T":
        exponents = (q - density) / temperature
    weights = torch.softmax(exponents, dim=0 if slip == "states" else 1)
    if slip == "not normalised":
        weights = exponents.exp()
    if slip == "proposals only":
        weights = torch.softmax(exponents[:, 1:], dim=1)
        weights = torch.cat([torch.zeros_like(q[:, :1]), weights], dim=1)
    weights = weights * {"times T": temperature, "over T": 1 / temperature}.get(slip, 1.0)
    if slip != "no data":
        weights[:, 0] -= 1.0
    if slip == "turned":
        weights = -weights
    if slip == "plus data":
        weights[:, 0] += 2.0
    if slip == "share replaced":
        weights[:, 0] = -1.0
    if slip == "data's mean forgotten":
        weights[:, 0] += 1.0 - len(q)
    by = {"no mean": 1, "over everything": q.numel()}.get(slip, len(q))
    return weights / by


def with_slip(slip: str) -> Callable[..., Tensor]:
    return lambda *arguments: penalty(*arguments, slip=slip)


def by_autograd(q: Tensor, density: Tensor, temperature: float) -> Tensor:
    leaf = q.clone().requires_grad_()
    loss = temperature * torch.logsumexp(leaf / temperature - density, dim=1) - leaf[:, 0]
    loss.mean().backward()
    assert leaf.grad is not None
    return leaf.grad


def into_its_argument(q: Tensor, density: Tensor, temperature: float) -> Tensor:
    found = penalty(q, density, temperature)
    return q.copy_(found)


def back(
    inputs: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor, slip: str = ""
) -> tuple[Tensor, ...]:
    outputs = inputs @ weight + (0 if slip == "no bias" else bias)
    mask = {"no mask": torch.ones_like(outputs), "scaled": outputs.relu()}
    below = gradient * mask.get(slip, outputs > 0)
    by_bias = below.sum(1, keepdim=True)
    if slip == "early mask":
        by_inputs = (gradient @ weight.mT) * (inputs > 0)
        return by_inputs, inputs.relu().mT @ gradient, gradient.sum(1, keepdim=True)
    if slip == "mean":
        by_bias = below.mean(1, keepdim=True)
    if slip == "flat bias":
        by_bias = below.sum(1)
    if slip == "wrong number":
        by_bias = by_bias + 1
    if slip == "other order":
        return inputs.mT @ below, below @ weight.mT, by_bias
    return below @ weight.mT, inputs.mT @ below, by_bias


def back_with(slip: str) -> Callable[..., tuple[Tensor, ...]]:
    return lambda *arguments: back(*arguments, slip=slip)


RIGHT = {"a": "overflow", "b": "safe", "c": "argument", "d": "memory"}


@pytest.mark.parametrize(
    ("exercise", "answer"),
    [("ex-speed-penalty", penalty), ("ex-speed-layer", back), ("ex-speed-which", RIGHT)],
)
def test_right_answers_pass(exercise: str, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{exercise}: passed." in verdict(capsys, exercise, answer)


@pytest.mark.parametrize(
    ("exercise", "stub"),
    [
        ("ex-speed-penalty", lambda q, density, temperature: ...),
        ("ex-speed-layer", lambda *arguments: (..., ..., ...)),
        ("ex-speed-layer", lambda *arguments: (back(*arguments)[0], ..., ...)),
        ("ex-speed-which", dict.fromkeys("abcd", ...)),
        ("ex-speed-which", {**RIGHT, "d": ...}),
    ],
)
def test_stubs_are_told_gently(
    exercise: str, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not done yet" in verdict(capsys, exercise, stub)


@pytest.mark.parametrize(
    ("exercise", "answer", "help_"),
    [
        ("ex-speed-penalty", with_slip("no data"), "data's Q is missing"),
        ("ex-speed-penalty", with_slip("no mean"), "factor 1/B is missing"),
        ("ex-speed-penalty", with_slip("over everything"), "divide by B only"),
        ("ex-speed-penalty", with_slip("not normalised"), "add up to one"),
        ("ex-speed-penalty", with_slip("proposals only"), "over all K actions"),
        ("ex-speed-penalty", with_slip("no density"), "belong into the exponents"),
        ("ex-speed-penalty", with_slip("plus density"), "are subtracted"),
        ("ex-speed-penalty", with_slip("no temperature"), "q is divided by T"),
        ("ex-speed-penalty", with_slip("over T"), "cancels the inner derivative"),
        ("ex-speed-penalty", with_slip("times T"), "cancels the factor T"),
        ("ex-speed-penalty", with_slip("states"), "dim=1"),
        ("ex-speed-penalty", with_slip("turned"), "sign is turned"),
        ("ex-speed-penalty", with_slip("plus data"), "adds minus one"),
        ("ex-speed-penalty", with_slip("share replaced"), "share of the soft maximum is added"),
        ("ex-speed-penalty", with_slip("data's mean forgotten"), "divided by B as well"),
        ("ex-speed-penalty", with_slip("all by T"), "Only q is divided by T"),
        ("ex-speed-penalty", by_autograd, "autograd is switched off"),
        ("ex-speed-penalty", into_its_argument, "changes its arguments"),
        ("ex-speed-penalty", lambda q, *rest: q[:, 0], "shape of q"),
        ("ex-speed-penalty", lambda q, *rest: 7 * q, "largest deviation"),
        ("ex-speed-layer", back_with("no mask"), "rectifier is forgotten"),
        ("ex-speed-layer", back_with("no bias"), "leaves out the bias"),
        ("ex-speed-layer", back_with("early mask"), "belongs to X W + c"),
        ("ex-speed-layer", back_with("mean"), "is a sum, no mean"),
        ("ex-speed-layer", back_with("scaled"), "mask is one or zero"),
        ("ex-speed-layer", back_with("other order"), "yours come turned"),
        ("ex-speed-layer", back_with("flat bias"), "is expected; got"),
        ("ex-speed-layer", back_with("wrong number"), "largest deviation"),
        ("ex-speed-layer", lambda x, *rest: x, "Return three tensors"),
        (
            "ex-speed-layer",
            lambda x, w, c, g: back(x.relu_(), w, c, g),
            "changes its arguments",
        ),
        ("ex-speed-which", {**RIGHT, "a": "safe"}, "around 1,000"),
        ("ex-speed-which", {**RIGHT, "b": "memory"}, "three experiments"),
        ("ex-speed-which", {**RIGHT, "c": "safe"}, "before and after"),
        ("ex-speed-which", {**RIGHT, "d": "safe"}, "call again"),
        ("ex-speed-which", {**RIGHT, "d": "unsafe"}, "none of the words"),
        ("ex-speed-which", "safe", "A dictionary"),
    ],
)
def test_typical_mistakes_get_help(
    exercise: str, answer: Any, help_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = verdict(capsys, exercise, answer)
    assert "not right yet" in out
    assert help_ in out
