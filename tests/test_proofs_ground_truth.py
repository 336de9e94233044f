"""Proofs of the chapter on dynamic programming, and tests of its exercise checkers.

The independent side has its own dynamics (numpy), scipy's interpolation, brute force over torque
sequences, dense linear algebra, and simulation without any grid.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor

from offline_rl_lib import dynamic_programming as dp
from offline_rl_lib import pendulum
from offline_rl_lib.evaluation import ConstantPolicy
from offline_rl_lib.experiments import RESULTS
from offline_rl_lib.teaching import check

Deviation = Callable[..., None]
Array = npt.NDArray[np.float64]

GAMMA = 0.99
SMALL = dp.Grid(angles=16, velocities=17, torques=5)
CHAPTER = dp.Grid(angles=48, velocities=49, torques=9)


def numpy_step(angle: Array, velocity: Array, torque: Array) -> tuple[Array, Array, Array]:
    """The pendulum, written down once more."""
    upright = np.arctan2(np.sin(angle), np.cos(angle))
    reward = -(upright**2) - 0.1 * velocity**2 - 0.001 * torque**2
    faster = np.clip(velocity + 0.05 * (15 * np.sin(angle) + 3 * torque), -8, 8)
    return angle + 0.05 * faster, faster, reward


def read(grid: dp.Grid, value: Array, angle: Array, velocity: Array) -> Array:
    """Values between grid points by scipy; the circle is closed by one more angle."""
    angles, speeds = axes(grid)
    closed = np.concatenate([value, value[:1]])
    inside = np.mod(angle + math.pi, 2 * math.pi) - math.pi
    interpolator = RegularGridInterpolator((np.append(angles, math.pi), speeds), closed)
    return interpolator(np.stack(np.broadcast_arrays(inside, velocity), axis=-1))


def axes(grid: dp.Grid) -> tuple[Array, Array]:
    angles = np.linspace(-math.pi, math.pi, grid.angles, endpoint=False)
    return angles, np.linspace(-8, 8, grid.velocities)


def numpy_sweep(grid: dp.Grid, value: Array, discount: float = GAMMA) -> Array:
    angles, speeds = axes(grid)
    torques = np.linspace(-2, 2, grid.torques)
    after = numpy_step(angles[:, None, None], speeds[:, None], torques)
    q = after[2] + discount * read(grid, value, after[0], after[1])
    return q.max(axis=-1)


@cache
def stored_optimum() -> dp.ActionValues:
    return dp.load_optimal_q(RESULTS / "optimal_value.npz")


@cache
def stored_rows() -> list[dict[str, Any]]:
    text = (RESULTS / "ground_truth.json").read_text(encoding="utf-8")
    return json.loads(text)["convergence"]


# ---- Sweeps --------------------------------------------------------------------------------------


@pytest.mark.proves("eq-truth-interpolation", method="scipy's interpolator on random states")
def test_interpolation(deviation: Deviation) -> None:
    generator = np.random.default_rng(0)
    value = generator.normal(size=(SMALL.angles, SMALL.velocities))
    angle, velocity = generator.uniform([-9, -8], [9, 8], (500, 2)).T
    library = dp.ActionValues(SMALL, GAMMA, torch.from_numpy(value))
    ours = library.value(torch.from_numpy(angle), torch.from_numpy(velocity)).numpy()
    deviation(np.abs(ours - read(SMALL, value, angle, velocity)).max(), 1e-10)
    index, weight = SMALL.corners(torch.from_numpy(angle), torch.from_numpy(velocity))
    deviation(float((weight.sum(dim=-1) - 1).abs().max()), 1e-12)
    nearest = value.flatten()[index.gather(1, weight.argmax(1, keepdim=True))[:, 0]]
    assert np.abs(nearest - read(SMALL, value, angle, velocity)).max() > 0.1


@pytest.mark.proves("eq-truth-sweep", method="own dynamics and scipy's interpolator, 900 sweeps")
def test_the_optimum_is_where_sweeps_end(deviation: Deviation) -> None:
    value = np.zeros((SMALL.angles, SMALL.velocities))
    for _ in range(900):
        value = numpy_sweep(SMALL, value, 0.98)
    library = dp.optimal_q(SMALL, 0.98, tolerance=1e-8).state_value.numpy()
    deviation(np.abs(library - value).max(), 1e-4)
    assert np.abs(library - numpy_sweep(SMALL, 0 * value)).max() > 1


@pytest.mark.proves("eq-truth-sweep", method="all 729 sequences of three torques")
def test_three_sweeps_are_the_best_of_all_sequences(deviation: Deviation) -> None:
    angle, velocity = np.random.default_rng(1).uniform([-3, -5], [3, 5], (40, 2)).T
    best = np.full(40, -np.inf)
    for torques in itertools.product(np.linspace(-2, 2, 9), repeat=3):
        state, total = (angle, velocity), np.zeros(40)
        for time, torque in enumerate(torques):
            *state, reward = numpy_step(*state, np.array(torque))
            total += GAMMA**time * reward
        best = np.maximum(best, total)
    grid, value = dp.Grid(150, 151, 9), np.zeros((150, 151))
    for _ in range(3):
        value = numpy_sweep(grid, value)
    library = dp.ActionValues(grid, GAMMA, torch.from_numpy(value))
    found = library.value(torch.from_numpy(angle), torch.from_numpy(velocity)).numpy()
    # The interpolation of a curve is off by an eighth of its curvature times the spacing squared.
    deviation(np.abs(found - best).max(), 0.02)
    assert np.abs(2 * found / 3 - best).max() > 0.5


@pytest.mark.proves("claim-truth-contraction", method="300 random pairs of value grids")
def test_a_sweep_is_a_contraction(deviation: Deviation) -> None:
    generator, shape = np.random.default_rng(2), (SMALL.angles, SMALL.velocities)
    ratios = []
    for _ in range(300):
        first = generator.normal(0, 10 ** generator.uniform(-1, 3), shape)
        second = first + generator.normal(0, 10 ** generator.uniform(-1, 3), shape)
        swept = np.abs(numpy_sweep(SMALL, first) - numpy_sweep(SMALL, second)).max()
        ratios.append(swept / np.abs(first - second).max())
    deviation(max(ratios) / GAMMA, 1 + 1e-12)
    # It is the discount that shrinks: without it a constant stays as it is.
    shifted = numpy_sweep(SMALL, first + 5, 1.0) - numpy_sweep(SMALL, first, 1.0)
    assert np.abs(shifted - 5).max() < 1e-9


@pytest.mark.proves("eq-truth-stop", method="distance to the end, in every sweep, three discounts")
@pytest.mark.parametrize("discount", [0.9, 0.97, 0.99])
def test_the_bound_holds_in_every_sweep(discount: float, deviation: Deviation) -> None:
    end = dp.optimal_q(SMALL, discount, tolerance=1e-9).state_value.numpy()
    value, ratios, hasty = np.zeros_like(end), [], []
    for _ in range(150):
        swept = numpy_sweep(SMALL, value, discount)
        change, value = np.abs(swept - value).max(), swept
        distance = np.abs(value - end).max()
        if distance < 1e-6:
            break
        ratios.append(distance / (change * discount / (1 - discount)))
        hasty.append(distance / change)
    deviation(max(ratios), 1.0)
    # The change itself is no bound.
    assert max(hasty) > 1.5


# ---- The value of a torque -----------------------------------------------------------------------


@pytest.mark.proves("eq-truth-q", method="simulation: one torque, then the greedy policy")
def test_a_torque_is_worth_what_a_simulation_collects(deviation: Deviation) -> None:
    best = dp.optimal_q(dp.Grid(150, 151, 21))
    generator = np.random.default_rng(3)
    angle, velocity, torque = generator.uniform([-3.1, -6, -2], [3.1, 6, 2], (150, 3)).T
    next_angle, next_velocity, reward = numpy_step(angle, velocity, torque)
    after = (torch.from_numpy(x) for x in (next_angle, next_velocity))
    rest = pendulum.simulate(best, *after, 400, GAMMA).numpy()
    q = best.q(*(torch.from_numpy(x) for x in (angle, velocity, torque))).numpy()
    median = float(np.median(np.abs(q - (reward + GAMMA * rest))))
    deviation(median, 0.5)
    assert np.median(np.abs(q - (reward + rest))) > 2 * median
    on_grid = best.q(*(s[..., None] for s in best.grid.states()), best.grid.torque_values())
    deviation(float((on_grid.amax(dim=-1) - best.state_value).abs().max()), 1e-4)


@pytest.mark.proves("claim-truth-flat", method="another grid and 2,000 random starts")
def test_q_is_nearly_flat_in_the_torque(deviation: Deviation) -> None:
    best = dp.optimal_q(dp.Grid(120, 121, 21))
    starts = np.random.default_rng(4).uniform([-math.pi, -1], [math.pi, 1], (2000, 2))
    angle, velocity = torch.from_numpy(starts).unbind(1)
    q = best.q(angle[:, None], velocity[:, None], best.grid.torque_values())
    within = float((q.amax(dim=1) - q.amin(dim=1)).median())
    deviation(within / float(q.amax(dim=1).std()), 0.05)
    assert within > 0.5


# ---- Policies ------------------------------------------------------------------------------------


def landing_matrix(grid: dp.Grid, torque: Array) -> tuple[Array, Array]:
    """Reward and dense transition matrix of one torque per grid point, column by column."""
    angles, speeds = axes(grid)
    angle, speed, reward = numpy_step(angles[:, None], speeds, torque)
    units = np.eye(torque.size).reshape(-1, *torque.shape)
    columns = [read(grid, unit, angle, speed).flatten() for unit in units]
    return reward.flatten(), np.stack(columns, axis=1)


@pytest.mark.proves("eq-truth-policy", method="dense linear system, from scipy's interpolator")
@pytest.mark.parametrize("name", ["controller", "random"])
def test_policy_values_solve_the_equations(name: str, deviation: Deviation) -> None:
    grid = dp.Grid(angles=16, velocities=17, torques=2)
    angle, velocity = torch.broadcast_tensors(*grid.states())
    policy = Scattered() if name == "random" else pendulum.SwingUpController()
    observation = pendulum.observation_of(angle, velocity).reshape(-1, 3).float().numpy()
    torque = policy.act(observation).astype(float).reshape(grid.angles, grid.velocities)
    reward, transition = landing_matrix(grid, torque)
    system = np.eye(len(reward)) - GAMMA * transition
    exact = np.linalg.solve(system, reward).reshape(torque.shape)
    library = dp.policy_q(policy, grid, GAMMA, tolerance=1e-8).state_value.numpy()
    deviation(np.abs(library - exact).max(), 1e-5)
    # Looking at the state before the step instead of the one after it is something else.
    assert np.abs(reward.reshape(torque.shape) / (1 - GAMMA) - exact).max() > 1


class Scattered:
    """A torque that depends on the observation in no sensible way."""

    def act(
        self, observation: npt.NDArray[np.floating], deterministic: bool = True
    ) -> npt.NDArray[np.floating]:
        mixed = np.sin(37 * observation.sum(axis=-1, keepdims=True))
        return (2 * mixed).astype(np.float32)


def lottery(grid: dp.Grid, seed: int, bonus: float = 0.0) -> dp.TorqueLottery:
    """Random probabilities on the grid's torques."""
    generator = torch.Generator().manual_seed(seed)
    shape = (grid.angles, grid.velocities, grid.torques)
    weight = torch.rand(shape, generator=generator, dtype=torch.float64) ** 4
    paid = torch.rand(shape[:2], generator=generator, dtype=torch.float64) * bonus
    torque = grid.torque_values().expand(shape)
    return dp.TorqueLottery(torque, weight / weight.sum(dim=-1, keepdim=True), paid)


@pytest.mark.proves("claim-truth-dominates", method="100 random policies on the same grid")
def test_no_policy_beats_the_optimum(deviation: Deviation) -> None:
    best = dp.optimal_q(SMALL, tolerance=1e-8).state_value
    advantage = [
        float((dp.policy_q(lottery(SMALL, seed), SMALL).state_value - best).max())
        for seed in range(100)
    ]
    deviation(max(0.0, *advantage), 1e-4)
    greedy = dp.policy_q(dp.optimal_q(SMALL), SMALL).state_value
    deviation(float((greedy - best).abs().max()), 1e-3)
    with_bonus = dp.policy_q(lottery(SMALL, 0, bonus=9.0), SMALL).state_value
    assert float((with_bonus - best).max()) > 1
    # Torques between the grid's own can be ahead of the maximum over the grid's, by a little.
    finer = dp.optimal_q(dp.Grid(CHAPTER.angles, CHAPTER.velocities, 101))
    reached = dp.policy_q(finer, CHAPTER).state_value
    assert 1e-3 < float((reached - dp.optimal_q(CHAPTER).state_value).max()) < 0.1


@pytest.mark.proves("claim-truth-dominates", method="simulated returns against the stored optimum")
def test_no_simulated_policy_beats_the_stored_optimum(deviation: Deviation) -> None:
    starts = pendulum.start_states(12)
    for policy in (pendulum.SwingUpController(), ConstantPolicy([1.0]), Scattered()):
        returns = pendulum.simulate(policy, *starts, 600, GAMMA)
        # Where the returns are higher, it is the grid's error, and small on average.
        excess = (returns - stored_optimum().value(*starts)).clamp(min=0)
        deviation(float(excess.mean()), 0.5)


@pytest.mark.proves(
    "eq-truth-lottery", method="the equation put together with scipy's interpolator"
)
def test_lotteries_solve_their_equation(deviation: Deviation) -> None:
    mixed = lottery(SMALL, seed=1, bonus=2.0)
    values = dp.policy_q(mixed, SMALL, tolerance=1e-8)
    angles, speeds = axes(SMALL)
    *after, reward = numpy_step(angles[:, None, None], speeds[:, None], mixed.torque.numpy())
    ahead = read(SMALL, values.state_value.numpy(), *after)
    mean = (mixed.probability.numpy() * (reward + GAMMA * ahead)).sum(axis=-1)
    residual = values.state_value.numpy() - (mean + mixed.bonus.numpy())
    deviation(np.abs(residual).max(), 1e-6)
    late_bonus = values.state_value.numpy() - (mean + GAMMA * mixed.bonus.numpy())
    assert np.abs(late_bonus).max() > 0.01
    q = values.q(
        *(torch.from_numpy(x) for x in (angles[:, None, None], speeds[:, None])), mixed.torque
    )
    deviation(np.abs(q.numpy() - (reward + GAMMA * ahead)).max(), 1e-9)


@pytest.mark.proves("eq-truth-units", method="2,500 scaled rewards summed step by step")
def test_agent_units(deviation: Deviation) -> None:
    rewards = np.random.default_rng(5).uniform(-16.3, 0, (2500, 30))
    weights = GAMMA ** np.arange(2500)[:, None]
    plain = (weights * rewards).sum(axis=0)
    for shift, scale in ((8.0, 1 / 8), (3.0, 0.2), (0.0, 1.0)):
        total = (weights * (rewards + shift) * scale).sum(axis=0)
        converted = dp.in_agent_units(torch.from_numpy(plain), shift, scale, GAMMA).numpy()
        deviation(np.abs(converted - total).max(), 1e-8)
        if shift:
            assert np.abs(scale * (plain + shift) - total).max() > 1


# ---- The grid ------------------------------------------------------------------------------------


@pytest.mark.proves("claim-truth-grid", method="the stored grids; two of them solved again")
def test_the_promise_converges(deviation: Deviation) -> None:
    rows = stored_rows()
    for name in ("optimum", "controller"):
        distances = [row[name]["distance"] for row in rows]
        ratios = [finer / coarser for coarser, finer in itertools.pairwise(distances)]
        deviation(max(ratios), 2 / 3)
    starts = pendulum.start_states(50)
    controller = pendulum.SwingUpController()
    returns = pendulum.simulate(controller, *starts, dp.ENDLESS_STEPS, GAMMA)
    for row in rows[:2]:
        grid = dp.Grid(row["angles"], row["velocities"], row["torques"])
        promised = float(dp.optimal_q(grid).value(*starts).mean())
        assert promised == pytest.approx(row["optimum"]["promised"], abs=1e-3)
        kept = row["controller"]
        distance = float((dp.policy_q(controller, grid).value(*starts) - returns).abs().mean())
        assert distance == pytest.approx(kept["distance"], abs=1e-2)
    assert [row["angles"] for row in rows] == [38, 76, 150, 300]


@pytest.mark.proves("eq-truth-limit", method="sequences with a known limit")
def test_the_extrapolation_is_exact_for_geometric_changes(deviation: Deviation) -> None:
    for limit, share in ((-137.0, 0.5), (2.0, 0.3), (0.0, 0.9)):
        g1, g2, g3 = (limit + 4 * share**k for k in range(3))
        rho = (g3 - g2) / (g2 - g1)
        formula = g3 + (g3 - g2) * rho / (1 - rho)
        deviation(abs(formula - limit), 1e-9)
        deviation(abs(formula - extrapolated(g1, g2, g3)), 1e-9)
        assert abs(g3 + (g3 - g2) * rho - limit) > 0.1 * abs(g3 - limit), "all later changes count"
    promises = [row["episode"]["promised"] for row in stored_rows()]
    achieved = stored_rows()[-1]["episode"]["achieved"]
    # What was achieved is no more than the limit, and the limit is close.
    assert achieved < extrapolated(*promises[1:]) < achieved + 2
    # The three coarser grids already see the same limit to within one.
    assert abs(extrapolated(*promises[:3]) - extrapolated(*promises[1:])) < 1


def extrapolated(g1: float, g2: float, g3: float) -> float:
    """Aitken's delta-squared, the closed form of the chapter's formula."""
    return g3 - (g3 - g2) ** 2 / ((g3 - g2) - (g2 - g1))


@pytest.mark.proves(
    "claim-truth-nearest", method="indices rounded, own dynamics, simulated policies"
)
def test_nearest_grid_points_promise_too_much(deviation: Deviation) -> None:
    starts = pendulum.start_states(16)
    results = {}
    inside = np.linspace(-0.4, 0.4, 5)
    for kind, shifts in (("nearest", [0.0]), ("spread", inside), ("interpolated", None)):
        if shifts is None:
            values = dp.optimal_q(CHAPTER)
        else:
            values = dp.ActionValues(CHAPTER, GAMMA, torch.from_numpy(binned(list(shifts))))
        promised = float(values.value(*starts).mean())
        achieved = float(pendulum.simulate(values, *starts, 300, GAMMA).mean())
        results[kind] = np.array([promised, achieved])
    truth = float(stored_optimum().value(*starts).mean())
    deviation(10 / (results["nearest"][0] - truth), 1.0)
    deviation(5 / (results["interpolated"][1] - results["nearest"][1]), 1.0)
    deviation(np.abs(results["spread"] - results["interpolated"]).max(), 2.0)


def binned(shifts: list[float]) -> Array:
    """Values when states are sorted into cells, averaged over shifts within the cell."""
    angles, speeds = axes(CHAPTER)
    torques = np.linspace(-2, 2, CHAPTER.torques)
    reward = numpy_step(angles[:, None, None], speeds[:, None], torques)[2]
    landed = []
    for dx, dy in itertools.product(shifts, shifts):
        at = angles + dx * (angles[1] - angles[0])
        speed = np.clip(speeds + dy * (speeds[1] - speeds[0]), -8, 8)
        angle, velocity, _ = numpy_step(at[:, None, None], speed[:, None], torques)
        column = np.rint((angle + math.pi) / (angles[1] - angles[0])).astype(int) % len(angles)
        row = np.rint((velocity + 8) / (speeds[1] - speeds[0])).astype(int)
        landed.append(column * len(speeds) + row)
    value = np.zeros(len(angles) * len(speeds))
    for _ in range(300):
        ahead = sum(value[index] for index in landed) / len(landed)
        value = (reward + GAMMA * ahead).max(axis=-1).flatten()
    return value.reshape(len(angles), len(speeds))


@pytest.mark.proves("claim-truth-cut", method="scaled rewards of 200 and of 2,000 steps, summed")
def test_a_cut_return_is_too_low(deviation: Deviation) -> None:
    starts = pendulum.start_states(20)
    controller = pendulum.SwingUpController()
    value = dp.policy_q(controller, dp.Grid(150, 151, 2)).value(*starts).mean()
    raw = pendulum.simulate(controller, *starts, 200, GAMMA).mean()
    cut = (raw + sum(8 * GAMMA**time for time in range(200))) / 8
    gap = float(dp.in_agent_units(value) - cut)
    deviation(12 / gap, 1.0)
    assert gap < 100 * GAMMA**200


# ---- The exercises -------------------------------------------------------------------------------


def sweeps_needed(first: float, goal: float, discount: float) -> int:
    return max(1, math.ceil(math.log(goal * (1 - discount) / first) / math.log(discount)))


def lottery_sweep(
    reward: Tensor, ahead: Tensor, probability: Tensor, bonus: Tensor, discount: float
) -> Tensor:
    return (probability * (reward + discount * ahead)).sum(dim=-1) + bonus


HANGING = -100 * math.pi**2
RIGHT = {"optimum": False, "soft": False, "above_100": True, "one_start": False}


def verdict(capsys: pytest.CaptureFixture[str], exercise: str, answer: Any) -> str:
    check(exercise, answer)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("exercise", "answer"),
    [
        ("ex-truth-hanging", (HANGING, HANGING / 8 + 100)),
        ("ex-truth-hanging", (-987.0, -23.4)),
        ("ex-truth-sweeps", sweeps_needed),
        ("ex-truth-lottery", lottery_sweep),
        ("ex-truth-which", RIGHT),
    ],
)
def test_right_answers_pass(exercise: str, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict(capsys, exercise, answer).startswith(f"{exercise}: passed.")


@pytest.mark.parametrize(
    ("exercise", "stub"),
    [
        ("ex-truth-hanging", (..., ...)),
        ("ex-truth-hanging", (-987.0, ...)),
        ("ex-truth-sweeps", lambda *_: ...),
        ("ex-truth-lottery", lambda *_: ...),
        ("ex-truth-which", dict.fromkeys(RIGHT, ...)),
    ],
)
def test_stubs_are_told_gently(
    exercise: str, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not done yet" in verdict(capsys, exercise, stub)


@pytest.mark.parametrize(
    ("exercise", "answer", "help_"),
    [
        ("ex-truth-hanging", (-HANGING, 0.0), "sign is turned"),
        ("ex-truth-hanging", (-(math.pi**2), 0.0), "This is one step"),
        ("ex-truth-hanging", (-200 * math.pi**2, 0.0), "without discount"),
        ("ex-truth-hanging", (HANGING * (1 - 0.99**200), 0.0), "sum for ever"),
        ("ex-truth-hanging", (0.99 * HANGING, 0.0), "first step is not discounted"),
        ("ex-truth-hanging", (5.0, 0.0), "The value is 5.0"),
        ("ex-truth-hanging", (HANGING, HANGING / 8), "Only the scale is applied"),
        ("ex-truth-hanging", (HANGING, HANGING / 8 + 1), "in every step, not once"),
        ("ex-truth-hanging", (HANGING, 1.0), "use Q / 8 + 100"),
        ("ex-truth-hanging", ("much", 1.0), "Two numbers"),
        (
            "ex-truth-sweeps",
            lambda first, goal, discount: sweeps_needed(first, goal / (1 - discount), discount),
            "All changes still to come add up",
        ),
        ("ex-truth-sweeps", lambda *a: sweeps_needed(*a) + 1, "Off by one"),
        ("ex-truth-sweeps", lambda *_: 3, "the answer is"),
        ("ex-truth-sweeps", lambda *_: 3.5, "whole number"),
        ("ex-truth-lottery", lambda r, v, p, b, g: (p * (r + g * v)).sum(-1), "bonus is missing"),
        ("ex-truth-lottery", lambda r, v, p, b, g: (p * (r + g * v)).sum(-1) + g * b, "paid now"),
        ("ex-truth-lottery", lambda r, v, p, b, g: (p * (r + g * v)).sum(-1) - b, "wrong sign"),
        ("ex-truth-lottery", lambda r, v, p, b, g: (r + g * v).mean(-1) + b, "count alike"),
        ("ex-truth-lottery", lambda r, v, p, b, g: (r + g * v).amax(-1) + b, "The maximum"),
        ("ex-truth-lottery", lambda r, v, p, b, g: (p * (r + v)).sum(-1) + b, "not discounted"),
        (
            "ex-truth-lottery",
            lambda r, v, p, b, g: (p * r).sum(-1) + g * v.mean(-1) + b,
            "weigh the next value too",
        ),
        ("ex-truth-lottery", lambda r, v, p, b, g: r + v, "shape (1,)"),
        (
            "ex-truth-lottery",
            lambda r, v, p, b, g: p * (r + g * v) + b,
            "Did you sum over the torques",
        ),
        (
            "ex-truth-lottery",
            lambda r, v, p, b, g: (p * (r + g * v) + b[:, None]).sum(-1),
            "once for each torque",
        ),
        (
            "ex-truth-lottery",
            lambda r, v, p, b, g: r.mean(-1) + (p * g * v).sum(-1) + b,
            "weigh the rewards too",
        ),
        ("ex-truth-lottery", lambda r, v, p, b, g: 0 * b, "Wrong values"),
        ("ex-truth-which", RIGHT | {"optimum": True}, "its own policy's value"),
        ("ex-truth-which", RIGHT | {"soft": True}, "entropy bonus"),
        ("ex-truth-which", RIGHT | {"above_100": False}, "No reward is above 0"),
        ("ex-truth-which", RIGHT | {"one_start": True}, "On the cliff"),
        ("ex-truth-which", RIGHT | {"soft": "no"}, "True or False"),
        ("ex-truth-which", {"soft": True}, "dictionary with the keys"),
    ],
)
def test_wrong_answers_get_help(
    exercise: str, answer: Any, help_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = verdict(capsys, exercise, answer)
    assert "not right yet" in out
    assert help_ in out
